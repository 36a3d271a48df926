"""What a worked solution is, whatever the task: lines, the canonical next line, the first wrong step, its feedback.

A task gives `Line`s: readable, comparable by meaning (`follows`), with a canonical next line that says for every
number on it where it comes from. Checking, explaining and making mistakes are then the same code for all tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from ..errors import OutsideDomain

MAX_STEPS = 40
STEP = re.compile(r"^\s*(?:step\s*(\d+)\s*[:.)]|(\d+)[.)]\s)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A number on a line. `suffix` is what it counts (the unknown) and is shown with it."""

    numerator: int
    denominator: int = 1
    suffix: str = ""

    @property
    def value(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)

    def text(self) -> str:
        if self.suffix and self.denominator == 1 and self.numerator in (1, -1):
            return ("-" if self.numerator < 0 else "") + self.suffix
        tail = "" if self.denominator == 1 else f"/{self.denominator}"
        return f"{self.numerator}{self.suffix}{tail}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number of a canonical line comes from. `operation` is empty when the number was only copied.

    `kind` names the operation for the mistakes: copy, times, sum, move, divide, common, reduce, flip, write.
    `operands` are its numbers."""

    kind: str
    operation: str = ""
    operands: tuple[Fraction, ...] = ()


class Line(Protocol):
    def text(self) -> str: ...
    def shape(self) -> str:
        """The line with its numbers blanked: two lines of equal shape can be compared number by number."""
        ...

    def leaves(self) -> list[Leaf]: ...
    def with_leaves(self, leaves: list[Leaf]) -> Line:
        """The same shape with other numbers."""
        ...

    def after(self, previous: Line) -> Line | None:
        """What stands once this line has been written below `previous`; None when it does not follow from it.

        Mostly the line itself: same solution, or same value. A statement about a part (`30 * 2 = 60`) leaves the whole."""
        ...

    def objection(self, answer: Fraction) -> str:
        """What is wrong with the line in itself, whatever stood before; empty when nothing is. Never states the answer."""
        ...

    def next(self) -> tuple[Line, list[Origin]] | None:
        """The canonical next line and the origin of each of its leaves; None when nothing is left to do."""
        ...

    def answer(self) -> Fraction | None:
        """The answer if this line states it in full."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    task: str
    level: int
    text: str
    line: Line
    read: Callable[[str], Line]
    """Reads one line of an attempt at this problem; raises OutsideDomain."""

    canonical: str
    """The same for every wording, spacing and name of the unknown; its hash decides the split."""

    answer: Fraction


@dataclass(frozen=True, slots=True)
class Check:
    correct: bool
    num_steps: int
    first_error: int | None = None  # counts from 1
    finding: str = ""  # "4 times -3 is -12, not -3."
    expected: str = ""  # the canonical line for that step, from the attempt's own line before it
    kind: str = ""

    @property
    def feedback(self) -> str:
        """Names the first wrong step and what is wrong with it, never the answer; empty when all is right."""
        return "" if self.correct else f"Step {self.first_error}: {self.finding}"


NOT_FOLLOWING = "this does not follow from the line before."
UNREADABLE = "this line cannot be read."
UNFINISHED = "this is not the answer yet."


def canonical_lines(line: Line) -> list[Line]:
    """The worked solution from `line` on, without `line` itself."""
    lines: list[Line] = []
    while (step := line.next()) is not None:
        line = step[0]
        lines.append(line)
        if len(lines) > MAX_STEPS:
            raise OutsideDomain("the solution has too many steps")
    return lines


def solution_text(lines: list[str]) -> str:
    return "\n".join(f"Step {number}: {line}" for number, line in enumerate(lines, 1))


def solve(problem: Problem) -> list[str]:
    """The canonical worked solution: one line per step, the last one states the answer."""
    lines = canonical_lines(problem.line) or [problem.line]
    return [line.text() for line in lines]


def attempt_lines(attempt: str) -> list[str]:
    """Lines of an attempt without their labels. Blank lines count for nothing."""
    return [STEP.sub("", line).strip() for line in attempt.splitlines() if line.strip()]


def explain(previous: Line, expected: Line, origins: list[Origin], line: Line, answer: Fraction) -> tuple[str, str]:
    """(finding, kind) for a wrong `line` that should have been `expected`. Never states the answer."""
    if objection := line.objection(answer):
        return objection, "statement"
    if line.shape() != expected.shape():
        return _explain_missing(expected, line) or (NOT_FOLLOWING, "other")
    before, after = expected.leaves(), line.leaves()
    for want, got, origin in zip(before, after, origins, strict=True):
        if want == got:
            continue
        if not origin.operation:
            return f"{want.text()} was copied as {got.text()}.", "copy"
        if want.value == answer:
            return f"{origin.operation} is not {got.text()}.", origin.kind
        return f"{origin.operation} is {want.text()}, not {got.text()}.", origin.kind
    return NOT_FOLLOWING, "other"


def _explain_missing(expected: Line, line: Line) -> tuple[str, str] | None:
    want, got = expected.leaves(), line.leaves()
    if len(got) != len(want) - 1:
        return None
    for index, leaf in enumerate(want):
        if want[:index] + want[index + 1 :] == got:
            return f"the term {leaf.text()} is missing.", "missing"
    return None


def check(problem: Problem, attempt: str) -> Check:
    """Exact: an attempt is right when every line follows from the one before and the last states the answer."""
    texts = attempt_lines(attempt)
    if not texts:
        return Check(False, 0, 1, "there is no solution.", "", "empty")
    previous = problem.line
    for number, text in enumerate(texts, 1):
        step = previous.next()
        expected = step[0].text() if step else previous.text()
        if number > MAX_STEPS:
            return Check(False, number, number, "there are too many steps.", expected, "long")
        try:
            line = problem.read(text)
            standing = line.after(previous)
        except OutsideDomain:
            return Check(False, len(texts), number, UNREADABLE, expected, "unreadable")
        if standing is None:
            finding, kind = explain(previous, step[0], step[1], line, problem.answer) if step else (NOT_FOLLOWING, "other")
            if leaks(finding, problem, attempt):
                finding = NOT_FOLLOWING
            return Check(False, len(texts), number, finding, expected, kind)
        previous = standing
    if previous.answer() is None:
        step = previous.next()
        return Check(False, len(texts), len(texts), UNFINISHED, step[0].text() if step else "", "unfinished")
    return Check(True, len(texts))


def states_answer(problem: Problem, attempt: str) -> bool:
    """Whether the last line states the right answer, however it got there: all that a grader of final answers sees."""
    lines = attempt_lines(attempt)
    if not lines:
        return False
    try:
        return problem.read(lines[-1]).answer() == problem.answer
    except OutsideDomain:
        return False


def standing_after(problem: Problem, lines: list[str]) -> Line:
    """What stands after right lines. Raises OutsideDomain where one does not follow."""
    current = problem.line
    for text in lines:
        standing = problem.read(text).after(current)
        if standing is None:
            raise OutsideDomain(f"{text!r} does not follow")
        current = standing
    return current


_NUMBER = re.compile(r"(?<![\d/])-?\d+(?:/\d+)?(?![\d/])")


def leaks(feedback: str, problem: Problem, attempt: str) -> bool:
    """True when the feedback gives the answer away: states it as such, or holds a number equal to it that neither the
    problem nor the attempt shows. The step number of `Step k:` is not such a number."""
    body = re.sub(r"\bStep \d+\b", "", feedback)
    shown = {_fraction(found) for found in _NUMBER.findall(problem.text + "\n" + "\n".join(attempt_lines(attempt)))}
    stated = {_fraction(found) for found in re.findall(r"(?: is | = )(-?\d+(?:/\d+)?)(?![\d/a-z])", body)}
    if problem.answer in stated:
        return True
    return problem.answer in {_fraction(found) for found in _NUMBER.findall(body)} - shown


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return None
