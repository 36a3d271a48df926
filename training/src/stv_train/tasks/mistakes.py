"""Attempts with typical student mistakes: slips of arithmetic, signs, brackets, moving terms, copying, leaving out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random

from ..errors import OutsideDomain
from .arithmetic import Expression
from .checking import Check, check
from .equations import Equation
from .steps import MAX_STEPS, Habits, Leaf, Line, Origin, Problem, Step, attempt_lines, solution_text, solve

LEFT_OUT = 0.2  # share of attempts with lines left out
ACROSS = 0.3  # share of wrong sums of fractions that are added across
OWN_WAYS = 0.4  # share of solutions of equations that do not go by the book


def slip(value: int, rng: Random) -> int:
    """A number that someone in a hurry writes instead of `value`."""
    picks = [value + rng.choice((-1, 1)), value + rng.choice((-2, 2, -3, 3)), value + rng.choice((-10, 10)), -value]
    digits = str(abs(value))
    if len(digits) == 2 and digits[0] != digits[1] and digits[1] != "0":
        picks.append(int(digits[::-1]) * (1 if value > 0 else -1))
    if len(digits) > 1:
        at = rng.randrange(len(digits))
        changed = digits[:at] + str(rng.randint(1, 9)) + digits[at + 1 :]
        picks.append(int(changed) * (1 if value > 0 else -1))
    return rng.choices(picks, [4, 2, 1, 2] + [1.5] * (len(picks) - 4))[0]


def _wrong(leaf: Leaf, origin: Origin, rng: Random) -> Leaf:
    """`leaf` as a typical mistake would have it; may equal it."""
    a, b = (*origin.operands, Fraction(0), Fraction(0))[:2]
    typical: list[Fraction] = []
    match origin.kind:
        case "times":
            typical = [b, -a * b, a * b + a, a * b - a, a * b + b, a + b]
        case "cross":
            typical = [a]
        case "move":
            typical = [a + b, b - a, a]
        case "sum":
            typical = [-leaf.value, sum((abs(v) for v in origin.operands), Fraction(0)), a - b, a + b]
        case "divide":
            typical = [v for v in (-leaf.value, a - b, b / a if a else None, leaf.value + 1) if v is not None]
        case "common":
            return replace(leaf, numerator=rng.choice((a.numerator, slip(leaf.numerator, rng))))
        case "reduce":
            return replace(leaf, numerator=slip(leaf.numerator, rng))
        case "flip":
            return Leaf(leaf.denominator, abs(leaf.numerator) or 1) if leaf.numerator else leaf
    if typical and rng.random() < 0.5:
        value = rng.choice(typical)
        return replace(leaf, numerator=value.numerator, denominator=value.denominator)
    if leaf.denominator != 1 and rng.random() < 0.3 and leaf.denominator > 2:
        return replace(leaf, denominator=leaf.denominator + rng.choice((-1, 1)))
    return replace(leaf, numerator=slip(leaf.numerator, rng))


def _drop_term(line: Line, rng: Random) -> Line | None:
    if not isinstance(line, Equation):
        return None
    side = rng.choice(("left", "right"))
    terms = line.left if side == "left" else line.right
    if len(terms) < 2:
        return None
    at = rng.randrange(len(terms))
    rest = terms[:at] + terms[at + 1 :]
    return replace(line, left=rest) if side == "left" else replace(line, right=rest)


def _spoil(before: Line, line: Line, origins: list[Origin], rng: Random) -> Line | None:
    """A wrong version of a canonical line below `before`, or None where the draw changed nothing."""
    if isinstance(before, Expression) and rng.random() < ACROSS and (across := before.across()) is not None:
        return across
    if rng.random() < 0.06:
        return _drop_term(line, rng)
    leaves = line.leaves()
    # Copied numbers go wrong too, but less often than computed ones.
    weights = [0.15 if not origin.operation else 1.0 for origin in origins]
    at = rng.choices(range(len(leaves)), weights)[0]
    wrong = _wrong(leaves[at], origins[at], rng)
    if wrong.suffix and not wrong.numerator:
        return None
    made = line.with_leaves([*leaves[:at], wrong, *leaves[at + 1 :]])
    return made if made.text() != line.text() else None


def _statement(line: Line, origins: list[Origin], rng: Random | None = None) -> str | None:
    """The one operation of a step as people write it (`30 * 2 = 60`), wrong when `rng` is given; None where there is more to it."""
    done = [at for at, origin in enumerate(origins) if origin.operation]
    if len(done) != 1 or origins[done[0]].kind not in ("sum", "times", "divide"):
        return None
    leaf = line.leaves()[done[0]]
    if rng is not None:
        leaf = _wrong(leaf, origins[done[0]], rng)
    return f"{origins[done[0]].operation} = {leaf.text()}"


def _in_one(line: Line) -> Step | None:
    """The next line with its operation done as it stands, not made smaller first."""
    return next(reversed(list(line.ways())), None)


def statements(problem: Problem) -> str | None:
    """A right solution of a calculation in statements; None for what is not written so."""
    lines: list[str] = []
    line = problem.line
    while (step := _in_one(line)) is not None:
        line = step[0]
        if (text := _statement(line, step[1])) is None:
            return None
        lines.append(text)
    attempt = solution_text(lines)
    return attempt if lines and check(problem, attempt).correct else None


def wrong_statements(problem: Problem, rng: Random) -> tuple[str, Check] | None:
    """The same with one wrong value, carried on; None for what is not written so."""
    num_steps, line = 0, problem.line
    while (step := _in_one(line)) is not None:
        line, num_steps = step[0], num_steps + 1
    first = rng.randrange(max(num_steps, 1))
    lines: list[str] = []
    line = problem.line
    try:
        while (step := _in_one(line)) is not None and len(lines) < MAX_STEPS:
            line, origins = step
            text = _statement(line, origins, rng if len(lines) == first else None)
            if text is None:
                return None
            if len(lines) == first:
                done = next(at for at, origin in enumerate(origins) if origin.operation)
                value = Fraction(text.rpartition(" = ")[2])
                leaves = line.leaves()
                line = line.with_leaves([*leaves[:done], Leaf(value.numerator, value.denominator), *leaves[done + 1 :]])
            lines.append(text)
    except OutsideDomain:
        pass
    attempt = solution_text(lines)
    result = check(problem, attempt)
    return None if result.correct or not lines else (attempt, result)


def own_habits(rng: Random) -> Habits:
    """Of somebody who does not go by the book in one way at least."""
    while True:
        habits = Habits(
            moving=rng.choices(("joined", "numbers", "moved", "both"), (2, 1, 4, 2))[0],
            unknown_right=rng.random() < 0.4,
            moves_first=rng.random() < 0.3,
            collects=rng.random() < 0.8,
            divides_out=rng.random() < 0.35,
            untidy=rng.random() < 0.2,
        )
        if habits.moving != "joined" or habits.unknown_right or habits.divides_out or habits.untidy:
            return habits


def _step(line: Line, habits: Habits | None, rng: Random) -> Step | None:
    """The next line, by the book or by somebody's habits."""
    return line.next() if habits is None else line.in_own_way(habits, rng)


def own_solution(problem: Problem, rng: Random) -> str | None:
    """A right solution in an own way; None where it did not come to its end."""
    line, lines, habits = problem.line, list[str](), own_habits(rng)
    while len(lines) < MAX_STEPS and (step := _step(line, habits, rng)) is not None:
        line = step[0]
        lines.append(line.text())
    attempt = solution_text(lines)
    return attempt if lines and check(problem, attempt).correct else None


def wrong_attempt(problem: Problem, rng: Random, more: float = 0.15, own_way: bool = False) -> tuple[str, Check]:
    """An attempt with a mistake at a random step (and further ones with probability `more` a line), and its check.

    The mistake is carried on: later lines follow from the wrong one, as a student's would."""
    for _ in range(200):
        habits = own_habits(rng) if own_way else None
        num_steps, line = 0, problem.line
        while (step := line.next()) is not None:
            line, num_steps = step[0], num_steps + 1
        first = rng.randrange(max(num_steps, 1))
        lines: list[str] = []
        line = problem.line
        try:
            while len(lines) < MAX_STEPS and (step := _step(line, habits, rng)) is not None:
                before, (line, origins) = line, step
                if len(lines) == first or (len(lines) > first and rng.random() < more):
                    spoiled = _spoil(before, line, origins, rng)
                    if spoiled is not None:
                        line = problem.read(spoiled.text())
                lines.append(line.text())
        except OutsideDomain:
            pass
        if num_steps == 0:
            break
        if len(lines) > 1 and rng.random() < 0.03:
            lines = lines[: rng.randrange(1, len(lines))]  # stops too early
        attempt = solution_text(lines)
        result = check(problem, attempt)
        if lines and not result.correct:  # a first line that has no value, as `1/11 ÷ 0`, leaves none
            return attempt, result
    attempt = solution_text([problem.line.text().replace("=", "= 1 +", 1)])
    return attempt, check(problem, attempt)


def beginning(problem: Problem, num_lines: int, rng: Random, right: bool) -> tuple[str, Check] | None:
    """The first lines of an attempt at an equation, the last of them wrong unless `right`, and its check; None where the draw
    came to nothing, as where the solution is shorter. Writing and checking whole attempts for them takes four times as long."""
    habits = own_habits(rng) if rng.random() < OWN_WAYS else None
    left_out = rng.random() < LEFT_OUT
    line, lines = problem.line, list[str]()
    try:
        while len(lines) < num_lines + left_out:
            if (step := _step(line, habits, rng)) is None:
                return None
            before, line = line, step[0]
            if not right and len(lines) == num_lines + left_out - 1:
                if (spoiled := _spoil(before, *step, rng)) is None:
                    return None
                line = spoiled
            lines.append(line.text())
    except OutsideDomain:
        return None
    if left_out:
        lines.pop(rng.randrange(num_lines))
    result = check(problem, begun := solution_text(lines))
    is_right = result.correct or result.kind == "unfinished"
    return (begun, result) if is_right == right and (right or result.first_error == num_lines) else None


def _joined(problem: Problem, attempt: str, rng: Random) -> str:
    """The last lines in one, joined by equals signs, with the problem before them or not: `2/3 + 1/5 = 10/15 + 3/15 = 13/15`."""
    lines = [line.removesuffix("=").strip() for line in attempt_lines(attempt)]
    if rng.random() < 0.4:
        lines = lines[rng.choice((0, -1)) :]
        return solution_text([" = ".join([problem.line.text(), *lines])])
    joined = rng.choice((2, 2, 3))
    return solution_text([*lines[:-joined], " = ".join(lines[-joined:])])


def _leave_out(attempt: str, rng: Random) -> str:
    """The attempt without one or two lines before its last: people do two things at once."""
    lines = attempt_lines(attempt)
    for _ in range(rng.choice((1, 1, 2))):
        if len(lines) > 1:
            lines.pop(rng.randrange(len(lines) - 1))
    return solution_text(lines)


def student_attempt(problem: Problem, rng: Random, right: bool, own_ways: float = OWN_WAYS) -> tuple[str, Check]:
    """What a person may hand in: by the book, in an own way, with lines left out or joined, or in statements, right or with a typical
    mistake; and its check. `own_ways`: share of equations that are not solved by the book."""
    stated = problem.task != "equations" and rng.random() < 0.25
    own_way = problem.task == "equations" and rng.random() < own_ways
    if right:
        other = statements(problem) if stated else own_solution(problem, rng) if own_way else None
        attempt = other or solution_text(solve(problem))
        result = check(problem, attempt)
    else:
        attempt, result = (wrong_statements(problem, rng) if stated else None) or wrong_attempt(problem, rng, own_way=own_way)
    if not stated and rng.random() < LEFT_OUT:
        joins = problem.task != "equations" and rng.random() < 0.5
        shorter = _joined(problem, attempt, rng) if joins else _leave_out(attempt, rng)
        checked = check(problem, shorter)
        if checked.correct == right:
            return shorter, checked
    return attempt, result
