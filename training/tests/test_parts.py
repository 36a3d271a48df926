"""Reviews of fractions by whole numbers: what they say is true, and holds exactly where the number is right."""

import re
from fractions import Fraction
from random import Random

import pytest

from stv_train.documents import review_feedback
from stv_train.tasks.arithmetic import Expression
from stv_train.tasks.arithmetic_levels import make_percent
from stv_train.tasks.checking import check, leaks
from stv_train.tasks.expression import Num
from stv_train.tasks.mistakes import student_attempt
from stv_train.tasks.parts import Multiplied, Reduced, Summed, Widened
from stv_train.tasks.problems import make_problem, read_problem
from stv_train.tasks.steps import Leaf, Working, attempt_lines, solve

SAID = re.compile(r"(-?\d+) ([-+*/]) \(?(-?\d+)\)? is (-?\d+(?:/\d+)?)")


def number(rng: Random, bottoms: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12)) -> Num:
    return Num(rng.randint(-15, 15), rng.choice(bottoms))


def operation(rng: Random) -> tuple[Working, Fraction]:
    a, b = number(rng), number(rng)
    match rng.randrange(5):
        case 0:
            return Summed(a, b, "+"), a.value + b.value
        case 1:
            return Summed(a, b, "-"), a.value - b.value
        case 2:
            return Multiplied(a, b), a.value * b.value
        case 3:
            return Reduced(a), a.value
        case _:
            return Widened(a, a.denominator * rng.randint(2, 5)), a.value


def claimed(rng: Random, value: Fraction) -> Leaf:
    """A number that somebody may write: right, reduced or not, near it, or anything."""
    times = rng.choice((1, 1, 1, 2, 3))
    match rng.randrange(4):
        case 0 | 1:
            return Leaf(value.numerator * times, value.denominator * times)
        case 2:
            return Leaf(value.numerator + rng.randint(-2, 2), max(1, value.denominator + rng.randint(-1, 1)))
        case _:
            return Leaf(rng.randint(-30, 30), rng.randint(1, 30))


@pytest.mark.parametrize("final", [False, True])
def test_the_parts_hold_exactly_where_the_number_is_right(final: bool) -> None:
    rng = Random(f"parts:{final}")
    right = 0
    for _ in range(6000):
        working, value = operation(rng)
        got = claimed(rng, value)
        parts = working.parts(got, final)
        text = ", ".join(part.text() for part in parts)
        assert all(part.holds for part in parts) == (got.value == value), (working, got, text)
        right += got.value == value
        for a, sign, b, result in SAID.findall(f"{text}, {working.told()}"):
            x, y = Fraction(a), Fraction(b)
            assert {"+": x + y, "-": x - y, "*": x * y, "/": x / (y or 1)}[sign] == Fraction(result), text
    assert 1000 < right < 5000


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        (
            "2/3 + 1/5",
            "10/15 + 3/15\n13/30",
            "Step 1: 15 / 3 is 5, 2 * 5 is 10, here 10, 15 / 5 is 3, 1 * 3 is 3, here 3, ok\nStep 2: over 15, here over 30, wrong.",
        ),
        ("2/3 + 1/5", "3/8", "Step 1: 15 / 3 is 5, 2 * 5 is 10, 15 / 5 is 3, 1 * 3 is 3, over 15, here over 8, wrong."),
        ("7/9 - 2/9", "4/9", "Step 1: over 9, here over 9, 4 + 2 is 6, before 7, wrong."),
        ("3/4 ÷ 2/5", "15/8", "Step 1: 2/5 turned over is 5/2, 8 / 2 is 4, before 4, 15 / 5 is 3, before 3, ok"),
        ("28/24", "7/6", "Step 1: 24 / 6 is 4, 7 * 4 is 28, before 28, ok"),
        ("28/24", "6/7", "Step 1: 24 / 7 is 24/7, wrong."),
        ("3/4 * 8", "3 * 4", "Step 1: 8 / 4 is 2, here 4, wrong."),
        ("5/12 * 8", "5/3 * 2", "Step 1: 5, here 5, 12 / 4 is 3, here 3, 8 / 4 is 2, here 2, this is not the answer yet."),
        (
            "5/12 * 8",
            "40/12\n10/3",
            "Step 1: over 12, here over 12, 40 / 8 is 5, before 5, ok\nStep 2: 12 / 3 is 4, 10 * 4 is 40, before 40, ok",
        ),
    ],
)
def test_reviews_of_fractions(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)) == review


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        (
            "2/3 + 1/5",
            "2/3 + 1/5 = 10/15 + 3/15 = 12/15 = 4/5",
            "Step 1: 15 / 3 is 5, 2 * 5 is 10, here 10, 15 / 5 is 3, 1 * 3 is 3, here 3, "
            "over 15, here over 15, 12 - 3 is 9, before 10, wrong.",
        ),
        ("6/7 + 6/7", "21/7 = 3", "Step 1: over 7, here over 7, 21 - 6 is 15, before 6, wrong."),
        ("15 + (9 + 29)", "15 + 38 = 53", "Step 1: 9 + 29 is 38, here 38, 15 copied, 53 - 38 is 15, before 15, ok"),
        ("12 + 30 * 2", "12 + 30 = 42", "Step 1: 12 + 30 is 42, here 42, this does not follow from the line before."),
    ],
)
def test_lines_joined_by_equals_signs_are_reviewed_one_by_one(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)) == review


@pytest.mark.parametrize("level", range(1, 6))
def test_no_review_of_a_wrong_fraction_tells_its_answer(level: int) -> None:
    rng = Random(f"told:{level}")
    told = 0
    for _ in range(60):
        problem = make_problem("fractions", level, rng)
        attempt, result = student_attempt(problem, rng, False)
        assert not leaks(review_feedback(result), problem, attempt), (problem.text, attempt)
        told += result.finding != "this does not follow from the line before."
    assert told > 50, "most say what is wrong"


def test_fractions_are_added_across_and_lines_are_joined_as_students_do() -> None:
    rng = Random("students")
    attempts = [(problem, student_attempt(problem, rng, False)[0]) for problem in (make_problem("fractions", 3, rng) for _ in range(300))]
    across = 0
    for problem, attempt in attempts:
        line = problem.line
        made = line.across() if isinstance(line, Expression) else None
        across += made is not None and attempt_lines(attempt)[0].endswith(made.text())
    assert across > 10
    assert sum(" = " in attempt for _, attempt in attempts) > 15
    assert Expression(read_problem("2/3 + 4").line.tree).across() is None  # type: ignore[attr-defined]


def test_percentages_ask_for_no_product_that_is_not_drilled() -> None:
    rng = Random("percentages")
    for _ in range(300):
        lines = solve(read_problem(make_percent(2, rng).text()))
        for a, b in re.findall(r"^(\d+)(?:/\d+)? \* (\d+)$", lines[-2] if len(lines) > 1 else "", re.MULTILINE):
            assert min(int(a), int(b)) <= 15 and int(a) * int(b) <= 900, lines
