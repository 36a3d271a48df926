"""Is an attempt right, and if not, where and why: exact, and worded as a review is, each result before its judgement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

from ..errors import OutsideDomain
from .steps import MAX_SKIPPED, MAX_STEPS, Claim, Leaf, Line, Origin, Problem, Step, attempt_lines

NOT_FOLLOWING = "this does not follow from the line before."
UNREADABLE = "this line cannot be read."
UNFINISHED = "this is not the answer yet."
OK = "ok"
DONE_BEFORE = Origin("before")
REPEATED = ("copy", "over")  # kinds of numbers that a line has from the one before without working anything out


@dataclass(frozen=True, slots=True)
class Check:
    correct: bool
    num_steps: int
    first_error: int | None = None  # counts from 1
    finding: str = ""  # "4 times -3 is -12, not -3."
    expected: str = ""  # the right line for that step, from the attempt's own line before it
    kind: str = ""
    worked: tuple[tuple[str, ...], ...] = ()  # for each step as far as the first wrong one, what was worked out: "21 - 5 is 16"

    @property
    def feedback(self) -> str:
        """Names the first wrong step and what is wrong with it, never the answer; empty when all is right."""
        return "" if self.correct else f"Step {self.first_error}: {self.finding}"


def claims_of(expected: Line, origins: list[Origin], line: Line) -> list[Claim]:
    """The numbers of `line`, of the shape of `expected`, that come from operations."""
    states_answer = expected.answer() is not None
    alone = len(expected.leaves()) == 1  # whether 6/20 can still be reduced is not to be known before it is checked
    return [
        Claim(origin.operation, want, found, origin.undo if states_answer and not want.suffix else None, origin.working, alone)
        for want, found, origin in zip(expected.leaves(), line.leaves(), origins, strict=True)
        if origin.operation
    ]


@dataclass(frozen=True, slots=True)
class LineReview:
    """What is to be said about one line: what was worked out, then the finding where it is wrong."""

    worked: tuple[str, ...] = ()
    finding: str = ""
    kind: str = ""
    expected: str = ""  # the right line that it was compared with, in its own way and order
    skipped: tuple[str, ...] = ()  # worked out before, of lines that the attempt left out: the student may not know these numbers


def review_claims(claims: list[Claim], answer: Fraction) -> tuple[tuple[str, ...], str]:
    """(worked, finding): the claims up to the first wrong one, and what is wrong with that; it never states the answer.

    Each number is worked out, then repeated as the line has it, then judged: a small model that has to compare its result with
    a number further up compares wrongly as often as not."""
    worked: list[str] = []
    for claim in claims:
        if claim.holds:
            worked.append(claim.compared())
        elif claim.undo is None and claim.working is None and claim.want.value == answer and not claim.want.suffix:
            return tuple(worked), f"{claim.operation} is not {claim.got.text()}."
        else:
            return tuple(worked), f"{claim.compared()}, wrong."
    return tuple(worked), ""


def review_line(problem: Problem, previous: Line, line: Line, follows: bool) -> LineReview:
    """A line that can be read, below `previous`. What it follows from is worked out before it is judged: a verifier that has to
    say `ok` or not before it has written the result would have to do the sum in its head."""
    if chain := line.chain(previous):
        return _review_chain(problem, previous, chain, follows)
    if stated := line.claims(previous):
        worked, finding = review_claims(stated, problem.answer)
        if follows or finding:
            return LineReview(worked, finding, "statement" if finding else "")
        return LineReview(worked, NOT_FOLLOWING, "other")
    step = previous.next()
    if step is not None and not follows and (finding := _missing(step[0], line)):
        return LineReview(_all_worked(*step), finding, "missing")
    if (found := _derivation(previous, line)) is None:
        return LineReview() if follows else LineReview((), NOT_FOLLOWING, "other")
    return _review_like(problem, found, line, follows)


def _review_chain(problem: Problem, previous: Line, chain: Sequence[Line], follows: bool) -> LineReview:
    """Lines joined by equals signs, as if they stood below each other."""
    done: tuple[str, ...] = ()
    for line in chain:
        if line.text() == previous.text():
            continue
        right = line.after(previous) is not None
        found = review_line(problem, previous, line, right)
        if not right:
            return replace(found, skipped=done + found.skipped, finding=found.finding or NOT_FOLLOWING)
        done, previous = done + found.skipped + found.worked, line
    return LineReview(done) if follows else LineReview(done, NOT_FOLLOWING, "other")


@dataclass(frozen=True, slots=True)
class _Derivation:
    """A line of the shape of somebody's, where its numbers come from, and the steps on the way to it that were left out."""

    line: Line
    origins: list[Origin]
    left_out: tuple[Step, ...] = ()

    @property
    def skipped(self) -> list[Claim]:
        return [claim for made, origins in self.left_out for claim in claims_of(made, origins, made)]

    def is_meant_by(self, pairs: list[tuple[Leaf, Leaf]]) -> bool:
        """Whether a line with the second of these numbers in the places of the first may be this one: `2x = 4` states no answer, and
        there is no division where nothing is divided."""
        states_answer = self.line.answer() is not None
        return not any(
            want != got and (not _is_divided(want, got) if origin.kind == "over" else states_answer and bool(want.suffix))
            for (want, got), origin in zip(pairs, self.origins, strict=True)
        )


def _is_divided(want: Leaf, got: Leaf) -> bool:
    """Both are divided, and either what is divided or the divisor is the same."""
    same = want.numerator == got.numerator or want.denominator == got.denominator
    return same and want.denominator > 1 and got.denominator > 1


def _derivation(previous: Line, line: Line) -> _Derivation | None:
    """How `line` was probably meant to come from `previous`: of all ways with at most MAX_SKIPPED lines left out the one that agrees
    with it in most numbers, among equals the shortest and most canonical."""
    states_answer, wanted = line.answer() is not None, line.leaves()
    best, fewest = None, len(wanted) + 1
    front, seen = [_Derivation(previous, [])], {previous.text()}
    for _ in range(MAX_SKIPPED + 1):
        # Drawn one by one: nearly always the first is the one.
        steps = chain(
            ((before, step, True) for before in front for step in before.line.ways()),
            ((before, step, False) for before in front for step in before.line.detours()),
        )
        reached = []
        for before, (made, origins), goes_on in steps:
            if made.text() in seen:
                continue
            seen.add(made.text())
            too_early = states_answer and made.answer() is None  # `x = 4` has the shape of `3x = 12`
            if not too_early and (alike := made.arranged(origins, line)) is not None:
                found = _Derivation(*alike, before.left_out)
                pairs = list(zip(found.line.leaves(), wanted, strict=True))
                wrong = sum(want != got for want, got in pairs)
                if not wrong:
                    return found
                if wrong < fewest and found.is_meant_by(pairs):
                    best, fewest = found, wrong
            if goes_on:
                reached.append(_Derivation(made, origins, (*before.left_out, (made, origins))))
        front = reached
    return best


def _all_worked(expected: Line, origins: list[Origin]) -> tuple[str, ...]:
    return tuple(claim.worked() for claim in claims_of(expected, origins, expected))


def _review_like(problem: Problem, meant: _Derivation, line: Line, follows: bool) -> LineReview:
    """`line` has the shape of the line that was probably meant."""
    expected = meant.line
    pairs = list(zip(expected.leaves(), line.leaves(), strict=True))
    joined, origins, rest = _claims_of_skipped(pairs, meant.origins, meant.skipped)
    skipped = tuple(claim.worked() for claim in rest)
    worked, finding = review_claims(joined + claims_of(expected, origins, line), problem.answer)
    if follows:
        same = all(want.value == got.value for want, got in pairs)
        return LineReview(worked + _copied(expected, origins), skipped=skipped) if same else LineReview()
    kind = next((o.kind for (want, got), o in zip(pairs, origins, strict=True) if o.operation and want != got), "other")
    if not finding:
        at = next((at for at, (want, got) in enumerate(pairs) if want != got), len(pairs))
        worked += tuple(_repeated(want, o) for (want, _), o in zip(pairs[:at], origins[:at], strict=True) if o.kind in REPEATED)
        kind, finding = ("copy", _miscopied(*pairs[at], origins[at])) if at < len(pairs) else ("other", NOT_FOLLOWING)
    return LineReview(worked, finding, kind, expected.text(), skipped)


def _claims_of_skipped(
    pairs: list[tuple[Leaf, Leaf]], origins: list[Origin], skipped: list[Claim]
) -> tuple[list[Claim], list[Origin], list[Claim]]:
    """A number that a line left out worked out, and this one shows, is claimed by this one: `5x - 2x is 3x, here 7x`, and not copied.
    Gives those claims, the origins without them as copies, and what else was left out."""
    claims, kept, rest = [], list(origins), list(skipped)
    for at, (want, got) in enumerate(pairs):
        done = next((claim for claim in rest if claim.want == want), None) if origins[at].kind == "copy" else None
        if done is not None:
            rest.remove(done)
            claims.append(replace(done, got=got, undo=None, final=False))
            kept[at] = DONE_BEFORE
    return claims, kept, rest


def _copied(expected: Line, origins: list[Origin]) -> tuple[str, ...]:
    """The numbers that a right line only repeats, so that none is taken for right unseen; an answer has none worth it."""
    if expected.answer() is not None:
        return ()
    copies = [_repeated(leaf, origin) for leaf, origin in zip(expected.leaves(), origins, strict=True) if origin.kind in REPEATED]
    return (", ".join(copies) + " copied",) if copies else ()


def _repeated(leaf: Leaf, origin: Origin) -> str:
    """`9x over 9` where a line divides without working it out."""
    return leaf.text() if origin.kind == "copy" else f"{replace(leaf, denominator=1).text()} over {leaf.denominator}"


def _miscopied(want: Leaf, got: Leaf, origin: Origin) -> str:
    if origin.kind == "over" and want.numerator == got.numerator:
        return f"{want.denominator} was copied as {got.denominator}."
    if origin.kind == "over":
        want, got = replace(want, denominator=1), replace(got, denominator=1)
    return f"{want.text()} was copied as {got.text()}."


def _missing(expected: Line, line: Line) -> str:
    want, got = expected.leaves(), line.leaves()
    if len(got) == len(want) - 1:
        for index, leaf in enumerate(want):
            if want[:index] + want[index + 1 :] == got:
                return f"the term {leaf.text()} is missing."
    return ""


def check(problem: Problem, attempt: str) -> Check:
    """Exact: an attempt is right when every line follows from the one before and the last states the answer. No text raises."""
    result = _check(problem, attempt)
    if result.correct:
        return result
    # A right attempt states its answer itself. The review of a wrong one is read by whoever does it again.
    seen, last = _seen(problem, attempt), len(result.worked) - 1
    kept = (
        tuple(text for text in worked if not _leaks(text if at == last else f"{text}, {OK}", problem.answer, seen))
        for at, worked in enumerate(result.worked)
    )
    return replace(result, worked=tuple(kept))


def _check(problem: Problem, attempt: str) -> Check:
    texts = attempt_lines(attempt)
    if not texts:
        return Check(False, 0, 1, "there is no solution.", "", "empty", ((),))
    previous = problem.line
    done: list[tuple[str, ...]] = []
    for number, text in enumerate(texts, 1):
        if number > MAX_STEPS:
            return Check(False, number, number, "there are too many steps.", _next_text(previous), "long", (*done, ()))
        try:
            line = problem.read(text)
            standing = line.after(previous)
        except OutsideDomain:
            return Check(False, len(texts), number, UNREADABLE, _next_text(previous), "unreadable", (*done, ()))
        found = _reviewed(problem, previous, line, standing is not None)
        told = [*found.skipped, found.finding]
        if any(told) and leaks(", ".join(told), problem, attempt):
            found = LineReview((), found.finding and NOT_FOLLOWING, found.kind, found.expected)
        done.append(found.skipped + found.worked)
        if standing is None:
            expected = found.expected or _next_text(previous)
            return Check(False, len(texts), number, found.finding, expected, found.kind, tuple(done))
        previous = standing
    if previous.answer() is None:
        return Check(False, len(texts), len(texts), UNFINISHED, _next_text(previous), "unfinished", tuple(done))
    return Check(True, len(texts), worked=tuple(done))


def _reviewed(problem: Problem, previous: Line, line: Line, follows: bool) -> LineReview:
    """Nothing is worked out where a line that was written leads to numbers that this pack does not reach."""
    try:
        return review_line(problem, previous, line, follows)
    except OutsideDomain:
        return LineReview() if follows else LineReview((), NOT_FOLLOWING, "other")


def _next_text(line: Line) -> str:
    """The canonical line below `line`; `line` itself where nothing is left to do, or nothing that this pack can."""
    try:
        step = line.next()
    except OutsideDomain:
        step = None
    return step[0].text() if step else line.text()


def states_answer(problem: Problem, attempt: str) -> bool:
    """Whether the last line states the right answer, however it got there: all that a grader of final answers sees."""
    lines = attempt_lines(attempt)
    if not lines:
        return False
    try:
        return problem.read(lines[-1]).stated() == problem.answer
    except OutsideDomain:
        return False


def objections(feedback: str) -> list[str]:
    """The lines of a feedback that do not end in `ok`."""
    return [line for line in feedback.splitlines() if not line.endswith(OK)]


_CONFIRMED = re.compile(r"[^,:\n]* is (-?[\w/]+), here \1(?![\w/])")
_NUMBER = re.compile(r"(?<![\d/.])-?\d+(?:/\d+|\.\d+)?(?![\d/]|\.\d)")
_QUOTIENT = re.compile(r"(= *)?(-?\d+) +/ +(\d+)$", re.MULTILINE)


def leaks(feedback: str, problem: Problem, attempt: str) -> bool:
    """True when the feedback gives the answer away: states it as such, or holds a number equal to it that neither the
    problem nor the attempt shows. The step number of `Step k:` is not such a number, and a step that is called `ok`, or a number
    that is found where the attempt has it (`2 + 3 is 5, here 5`), only repeats what the attempt says."""
    return _leaks(feedback, problem.answer, _seen(problem, attempt))


_Seen = tuple[set[Fraction | None], set[Fraction | None]]
"""The numbers that the attempt shows, and those that the problem or the attempt shows."""


def _seen(problem: Problem, attempt: str) -> _Seen:
    written = _shown("\n".join(attempt_lines(attempt)))
    return written, written | _shown(problem.text)


def _leaks(feedback: str, answer: Fraction, seen: _Seen) -> bool:
    written, shown = seen

    def repeated(found: re.Match[str]) -> str:
        return "" if _numbers(found[1]) <= written else found[0]

    body = _CONFIRMED.sub(repeated, re.sub(r"\bStep \d+\b", "", feedback))
    stated = re.findall(r"(?: is | = )(-?\d+(?:/\d+|\.\d+)?)(?![\d/a-z]|\.\d)", "\n".join(objections(body)))
    if answer in {_fraction(found) for found in stated}:
        return True
    return answer in _numbers(body) - shown


def _numbers(text: str) -> set[Fraction | None]:
    return {_fraction(found) for found in _NUMBER.findall(text)}


def _shown(text: str) -> set[Fraction | None]:
    """The numbers in what somebody wrote, of either sign: 8x - 3 shows -3. `x = 10 / 2` shows 5 as `x = 10/2` does; `84 / 12` alone is
    still to be worked out."""
    found = _numbers(text)
    for equals, top, bottom in _QUOTIENT.findall(text):
        value = _fraction(f"{top}/{bottom}")
        if value is not None and (equals or value.denominator == int(bottom)):
            found.add(value)
    return found | {-value for value in found if value is not None}


def _fraction(text: str) -> Fraction | None:
    """None where it is none, or longer than Python reads."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
