"""The exact checker against sympy, and the promises of generators, mistakes and feedback."""

import re
from fractions import Fraction
from random import Random

import pytest
import sympy
from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, standard_transformations

from stv_train.documents import corrected, review_feedback
from stv_train.errors import OutsideDomain
from stv_train.tasks.checking import check, leaks, states_answer
from stv_train.tasks.equations import Equation
from stv_train.tasks.mistakes import own_solution, statements, student_attempt, wrong_attempt, wrong_statements
from stv_train.tasks.problems import SPLITS, TASKS, make_problem, read_problem, split_of, vary_spacing
from stv_train.tasks.steps import attempt_lines, solution_text, solve

KINDS = [(task, level) for task, levels in TASKS.items() for level in range(1, levels + 1)]
RULES = (*standard_transformations, implicit_multiplication)


def judge_value(text: str) -> sympy.Expr:
    """sympy's reading of one side; a/b without spaces binds tightest here, so it gets brackets."""
    text = re.sub(r"(?<![\w)])(\d+)/(\d+)", r"(\1/\2)", text)
    return parse_expr(text.replace("÷", "/").replace("×", "*").replace("·", "*"), transformations=RULES, evaluate=True)


def judge_roots(line: str, name: str) -> list[sympy.Expr]:
    left, right = line.split("=")
    return sympy.solve(judge_value(left) - judge_value(right), sympy.Symbol(name))


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_canonical_solution_is_right_for_checker_and_sympy(task: str, level: int) -> None:
    rng = Random(f"{task}{level}")
    for _ in range(6):
        problem = make_problem(task, level, rng)
        lines = solve(problem)
        assert check(problem, solution_text(lines)).correct, problem.text
        for line in lines:
            if task == "equations":
                name = problem.line.name  # type: ignore[attr-defined]
                assert judge_roots(line, name) == [sympy.Rational(problem.answer.numerator, problem.answer.denominator)], (
                    problem.text,
                    line,
                )
            else:
                assert judge_value(line) == sympy.Rational(problem.answer.numerator, problem.answer.denominator), (problem.text, line)


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_first_wrong_step_is_the_first_line_that_sympy_rejects(task: str, level: int) -> None:
    rng = Random(f"wrong{task}{level}")
    for _ in range(6):
        problem = make_problem(task, level, rng)
        attempt, result = wrong_attempt(problem, rng)
        assert not result.correct
        if result.kind in ("unfinished", "empty", "unreadable"):
            continue
        target = sympy.Rational(problem.answer.numerator, problem.answer.denominator)
        first = None
        for number, line in enumerate(attempt_lines(attempt), 1):
            is_equation = task == "equations"
            found = judge_roots(line, problem.line.name) if is_equation else [judge_value(line)]  # type: ignore[attr-defined]
            if found != [target]:
                first = number
                break
        assert first == result.first_error, (problem.text, attempt, result)


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_feedback_names_the_step_and_never_the_answer(task: str, level: int) -> None:
    rng = Random(f"feedback{task}{level}")
    for _ in range(20):
        problem = make_problem(task, level, rng)
        attempt, result = wrong_attempt(problem, rng)
        assert result.feedback.startswith(f"Step {result.first_error}: ")
        assert not leaks(result.feedback, problem, attempt), (problem.text, attempt, result.feedback)


def test_leak_detector_sees_a_stated_answer() -> None:
    problem = read_problem("3x + 4 = 19")
    attempt = "Step 1: 3x = 16\nStep 2: x = 16/3"
    assert leaks("Step 2: x = 5", problem, attempt)
    assert leaks("Step 2: the answer is 5.", problem, attempt)
    assert leaks("Step 2: 15 / 3 is 5, not 16/3.", problem, attempt)
    assert not leaks("Step 1: 19 - 4 is 15, not 16.", problem, attempt)
    assert not leaks("Step 5: look again.", problem, attempt), "the number of a step is no answer"


@pytest.mark.parametrize(
    ("problem", "attempt", "feedback", "told"),
    [
        # what the attempt is said to hold counts for shown only where it does
        ("3x = 15", "3x = 15\nx = 6", "Step 2: 15 / 3 is 5, here 5, wrong.", True),
        ("3x + 2 = 17", "3x = 17 - 12\n3x = 5", "Step 2: 17 - 12 is 5, here 5, ok\nStep 3: this is not the answer yet.", False),
        ("4x + 2 = 18", "4x = 18 - 4", "Step 1: 4 times x is 4x, here 4x, 2 moved is -2, here -4, wrong.", False),
        # numbers as people write them
        ("2x = 3", "x = 1.5", "Step 1: 2 times 3/2 is 3, before 3, ok", False),
        ("2x = 3", "x = 3 / 2", "Step 1: 2 times 3/2 is 3, before 3, ok", False),
        ("2x = 10", "x = 10 / 2", "Step 1: 2 times 10/2 is 10, before 10, this is not the answer yet.", False),
        ("84 / 12", "84 / 12\n8", "Step 2: better 7.", True),
        ("2x = 3", "x = 2", "Step 1: x = 1.5", True),
        ("2x = 2", "x = 1.5", "Step 1: x is not 1.5.", False),
        ("2x = 3", "x = " + "9" * 5000, "Step 1: 3 / 2 is not that.", False),
    ],
)
def test_what_gives_the_answer_away(problem: str, attempt: str, feedback: str, told: bool) -> None:
    assert leaks(feedback, read_problem(problem), attempt) is told


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        (
            "2x + 3 + 4 - 5 = 16",
            "2x + 2 = 16\nx = 8",
            "Step 1: 2x, 16 copied, ok\nStep 2: 16 - 2 is 14, 2 times 8 is 16, before",
        ),
        ("(1 + 2) * (3 - 2)", "3 * 2\n6", "Step 1: the term 3 is missing."),
        ("(1 + 2) * (4 - 3) + 0", "3 * 1 + 0\n3 + 1", "Step 1: 1 + 2 is 3, here 3, 4 - 3 is 1, here 1, 0 copied, ok\nStep 2: "),
    ],
)
def test_the_review_of_a_wrong_attempt_never_works_the_answer_out(problem: str, attempt: str, review: str) -> None:
    read = read_problem(problem)
    result = check(read, attempt)
    assert not result.correct and review_feedback(result).startswith(review)
    assert not leaks(review_feedback(result), read, attempt)


@pytest.mark.parametrize("text", ["-2 / (7 - 8) - 6", "7/9 ÷ 9/9", "(7 + 2) / (-11 / 11)"])
def test_a_wrong_attempt_is_never_empty(text: str) -> None:
    problem, rng = read_problem(text), Random(text)
    for _ in range(400):  # a divisor that is spoiled to 0 has no line to write; one in some forty of these
        attempt, result = wrong_attempt(problem, rng)
        assert attempt and not result.correct


def test_finding_says_what_is_wrong() -> None:
    problem = read_problem("4(x - 3) + 5 = 2x + 9")
    assert check(problem, "4x - 3 + 5 = 2x + 9").feedback == "Step 1: 4 times -3 is -12, here -3, wrong."
    assert check(problem, "4x - 12 + 5 = 2x + 8").finding == "9 was copied as 8."
    assert check(problem, "4x - 12 = 2x + 9").finding == "the term 5 is missing."
    assert check(problem, "4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9").finding == "this is not the answer yet."
    assert check(problem, "hello").finding == "this line cannot be read."
    assert check(problem, "").finding == "there is no solution."
    last = check(problem, "4x - 12 + 5 = 2x + 9\n4x - 7 = 2x + 9\n2x - 7 = 9\n2x = 16\nx = 9")
    assert last.feedback == "Step 5: 2 times 9 is 18, before 16, wrong.", (
        "an answer is checked by the way back, which does not give it away"
    )


def test_hundredths_are_reduced_before_they_are_multiplied() -> None:
    solved = {text: solve(read_problem(text)) for text in ("75% of 72", "360 decreased by 15%", "9% of 40")}
    assert solved == {
        "75% of 72": ["75/100 * 72", "3/4 * 72", "3 * 18", "54"],
        "360 decreased by 15%": ["360 - 15/100 * 360", "360 - 3/20 * 360", "360 - 3 * 18", "360 - 54", "306"],
        "9% of 40": ["9/100 * 40", "9/5 * 2", "18/5"],
    }


def test_a_review_works_out_each_step_before_it_judges_it() -> None:
    problem = read_problem("4(x - 3) + 5 = 2x + 9")
    wrong = check(problem, "4x - 12 + 5 = 2x + 9\n4x - 8 = 2x + 9")
    assert review_feedback(wrong) == (
        "Step 1: 4 times x is 4x, here 4x, 4 times -3 is -12, here -12, 5, 2x, 9 copied, ok\nStep 2: -12 + 5 is -7, here -8, wrong."
    )
    copied = check(problem, "4x - 12 + 5 = 2x + 8")
    assert review_feedback(copied) == "Step 1: 4 times x is 4x, here 4x, 4 times -3 is -12, here -12, 5, 2x, 9 was copied as 8."
    right = check(read_problem("x/2 = 4"), "x = 8")
    assert review_feedback(right) == "Step 1: 2 times x/2 is x, here x, 8 / 2 is 4, before 4, ok"
    sum_ = read_problem("20 - 3 + 4")
    wrong = check(sum_, "17 + 4\n20")
    assert review_feedback(wrong) == "Step 1: 20 - 3 is 17, here 17, 4 copied, ok\nStep 2: 20 - 4 is 16, before 17, wrong."
    stated = "Step 1: 20 - 3 is 17, here 17, ok\nStep 2: 21 - 4 is 17, before 17, ok"
    assert review_feedback(check(sum_, "20 - 3 = 17\n17 + 4 = 21")) == stated


def test_lines_that_were_left_out_are_worked_out_too() -> None:
    problem = read_problem("3(x + 2) + 1 = 22")
    assert review_feedback(check(problem, "3x = 15\nx = 5")).startswith(
        "Step 1: 3 times 2 is 6, 6 + 1 is 7, 3 times x is 3x, here 3x, 22 - 7 is 15, here 15, ok\n"
    )
    early = check(read_problem("3x + 7 = 22"), "x = 6")
    assert review_feedback(early) == "Step 1: 22 - 7 is 15, 3 times 6 is 18, before 15, wrong."
    assert early.expected == "x = 5"
    told = check(read_problem("3x + 1 = 16"), "x = 6")
    assert review_feedback(told) == "Step 1: 16 - 1 is 15, 3 times 6 is 18, before 15, wrong."
    same = check(read_problem("5x + 20 = 25"), "x = 2")
    assert review_feedback(same) == "Step 1: 25 - 20 is 5, 5 times 2 is 10, before 5, wrong."


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_all_that_a_review_works_out_is_true(task: str, level: int) -> None:
    rng = Random(f"worked{task}{level}")
    for at in range(20):
        problem = make_problem(task, level, rng)
        attempt, result = student_attempt(problem, rng, at % 2 == 0)
        assert len(result.worked) == (result.first_error or result.num_steps)
        claims = [claim for worked in result.worked for claim in worked]
        for text in [part for claim in claims for part in re.sub(r", (here|before) .*", "", claim).split(", ") if " is " in part]:
            operation, value = text.split(" is ")
            operation = re.sub(r"^(.*) moved$", r"-(\1)", operation)
            operation = re.sub(r"^(.*) turned over$", r"1 ÷ (\1)", operation)
            left, by, right = operation.partition(" times ")
            assert judge_value(f"({left}) * ({right})" if by else left) == judge_value(value), (problem.text, attempt, text)


def test_other_right_ways_are_accepted() -> None:
    problem = read_problem("Solve for x: 4(x - 3) = 2x + 10")
    assert check(problem, "2(x - 3) = x + 5\n2x - 6 = x + 5\nx = 11").correct
    assert check(problem, "x = 11").correct
    assert check(problem, "1) 4x - 12 = 2x + 10\n2) 2x = 22\n3) x = 11").correct
    assert check(problem, "4x - 12 = 2x + 10\n22 = 2x\n11 = x").correct
    assert not check(problem, "4x - 12 = 2x + 10\n22 = 2x").correct, "the last line must state the answer"
    assert not check(problem, "y = 11").correct


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        ("7 - 2x = 3x - 8", "7 - 5x = -8", "Step 1: -2x - 3x is -5x, here -5x, 7, -8 copied, this is not the answer yet."),
        (
            "7 - 2x = 3x - 8",
            "15 = 5x\nx = 3",
            "Step 1: 3x + 2x is 5x, here 5x, 7 + 8 is 15, here 15, ok\nStep 2: 5 times 3 is 15, before 15, ok",
        ),
        ("7 - 2x = 3x - 8", "16 = 5x", "Step 1: 3x + 2x is 5x, here 5x, 7 + 8 is 15, here 16, wrong."),
        ("7 - 2x = 3x - 8", "-2x = 3x - 15", "Step 1: -8 - 7 is -15, here -15, -2x, 3x copied, this is not the answer yet."),
        ("7 - 2x = 3x - 8", "-2x - 3x = -8 + 7", "Step 1: 3x moved is -3x, here -3x, 7 moved is -7, here 7, wrong."),
        (
            "3x + 5 = 20",
            "3x = 20 - 5\n3x = 15\nx = 5",
            "Step 1: 5 moved is -5, here -5, 3x, 20 copied, ok\nStep 2: 20 - 5 is 15, here 15, 3x copied, ok\n",
        ),
        ("20 - 3x = 5", "20 - 5 = 3x", "Step 1: 5 moved is -5, here -5, -3x moved is 3x, here 3x, 20 copied, this is not the answer yet."),
        (
            "3x + 5 = 20",
            "3x + 5 - 5 = 20 - 5",
            "Step 1: 5 moved is -5, here -5, 5 moved is -5, here -5, 3x, 5, 20 copied, this is not the answer yet.",
        ),
        ("3x + 5 = 20", "3x + 5 - 5 = 20 + 5", "Step 1: 5 moved is -5, here -5, 5 moved is -5, here 5, wrong."),
        (
            "3x + 5 = 20",
            "3x = 15\n15/3 = 3x/3\n6 = x",
            "Step 1: 20 - 5 is 15, here 15, 3x copied, ok\nStep 2: 15 over 3, 3x over 3 copied, ok\n"
            "Step 3: 3 times 6 is 18, before 15, wrong.",
        ),
        ("2r = -22", "2r/2 = -19/2", "Step 1: 2r over 2, -22 was copied as -19."),
        ("2r = -22", "2r/2 = -22/3", "Step 1: 2r over 2, 2 was copied as 3."),
        (
            "7x + 37 = 10x + 7",
            "7x + 37 - 7 = 10x + 7 - 8",
            "Step 1: 7 moved is -7, here -7, 7 moved is -7, here -8, wrong.",
        ),
        (
            "2x + 7 + 14 - 81 = 5 - x",
            "2x - 62 = 5 - x",
            "Step 1: 7 + 14 is 21, 21 - 81 is -60, here -62, wrong.",
        ),
        (
            "2x + 7 + 14 = 5 - x + 2x",
            "2x + x - 2x = 5 - 14 - 7\nx = -17",
            "Step 1: -x moved is x, here x, 2x moved is -2x, here -2x, 14 moved is -14, here -14, "
            "7 moved is -7, here -7, 2x, 5 copied, ok\n"
            "Step 2: 2x + x is 3x, 3x - 2x is x, here x, -17 + 14 is -3, -3 + 7 is 4, before 5, wrong.",
        ),
        ("4(x - 3) + 5 = 2x + 9", "5 + 4x - 3 = 2x + 9", "Step 1: 4 times x is 4x, here 4x, 4 times -3 is -12, here -3, wrong."),
    ],
)
def test_lines_of_an_own_way_are_compared_with_what_was_meant(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)).startswith(review)


def test_own_ways_are_right_and_many() -> None:
    rng = Random("own ways")
    by_the_book = made = 0
    for number in range(200):
        problem = make_problem("equations", 1 + number % 7, rng)
        if (attempt := own_solution(problem, rng)) is None:
            continue
        made += 1
        by_the_book += attempt == solution_text(solve(problem))
        for line in attempt_lines(attempt):
            roots = judge_roots(line, problem.line.name)  # type: ignore[attr-defined]
            assert roots == [sympy.Rational(problem.answer.numerator, problem.answer.denominator)], (problem.text, attempt)
    assert made > 180 and by_the_book < made / 2


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        ("6x = 24", "2x = 4", "Step 1: this does not follow from the line before."),
        ("4x = 28", "2x = 7", "Step 1: this does not follow from the line before."),
        ("x/2 + 3 = 5", "x/2 = 4", "Step 1: 5 - 3 is 2, here 4, wrong."),
        ("x/4 - 2 = 3", "x/4 = 1", "Step 1: 3 + 2 is 5, here 1, wrong."),
        ("5x - 3 = 2x + 9", "7x = 12", "Step 1: 5x - 2x is 3x, here 7x, wrong."),
        ("4(x - 1) = 12", "x - 1 = 4", "Step 1: 4 times x is 4x, here x, wrong."),
        ("2x = 5", "x = 10/6", "Step 1: 2 times 10/6 is 10/3, before 5, wrong."),
        ("2/3 * 3/4", "2/3 * 3/4 = 6/12", "Step 1: 12 / 4 is 3, before 3, 6 / 3 is 2, before 2, this is not the answer yet."),
        ("2/3 * 3/4 + 1", "2/3 * 3/4 = 5/12", "Step 1: 3 * 4 is 12, here 12, 2 * 3 is 6, here 5, wrong."),
    ],
)
def test_a_review_says_nothing_of_numbers_that_nobody_wrote(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)) == review


def test_a_number_that_the_attempt_has_at_its_place_gives_nothing_away() -> None:
    problem, attempt = read_problem("3x + 1 = 16"), "3x = 16 - 11\n3x = 5"
    assert not leaks("Step 1: 2 + 3 is 5, here 5, 4 times 2 is 8, here 9, wrong.", problem, attempt)
    assert leaks("Step 1: 15 / 3 is 5, here 6, wrong.", problem, attempt)
    assert leaks("Step 1: 15 / 3 is 5, here 50, wrong.", problem, attempt)


@pytest.mark.parametrize(
    ("problem", "attempt"),
    [
        ("3 * 4 + 5", "4 * 3 = 12\n12 + 5 = 17"),
        ("increase 50 by 20%", "50 * 0.2 = 10\n50 + 10 = 60"),
        ("increase 50 by 20%", "50 * 20/100 = 10\n60"),
        ("20 - (3 + 4)", "20 - 3 = 17\n17 - 4 = 13"),
        ("20 - 3 + 4 + 5", "20 + 5 = 25\n25 - 3 = 22\n22 + 4 = 26"),
        ("2 * 3 + 4 - 4", "2 * 3 = 6\n6 + 4 = 10\n10 - 4 = 6"),
        ("-35 * 11 - (-5 + 1 - (8 + 2))", "-5 + 1 = -4\n8 + 2 = 10\n-4 - 10 = -14\n-35 * 11 = -385\n-385 - (-14) = -371"),
        ("2x = 7", "x = 3.5"),
        ("2x = 10", "x = 5.0"),
        ("9% of 40", "0.09 * 40 = 3.6"),
        ("3 is what percent of 12", "25%"),
        ("20 is what percent of 80", "25"),
        ("20 is what percent of 80", "20/80 = 25%"),
        ("20 is what percent of 80", "5/20 = 0.25 = 25%"),
        ("20 is what percent of 80", "20/80 = 1/4\n1/4 = 25 %\n25%"),
        ("20 is what percent of 80", "20/80 = 0.25\n25%"),
        ("20 is what percent of 80", "25% = 0.25\n25%"),
        ("20 is what percent of 80", "20/80 * 100 = 25%"),
        ("20 is what percent of 80", "20/80 * 100% = 25%"),
        ("1 is what percent of 3", "1/3 = 100/3%"),
        ("x/4 = 3", "x = 3 × 4\nx = 12"),
        ("2 + 2", "4 * 9999999 / 9999999\n4"),
    ],
)
def test_what_people_write_rightly_is_right(problem: str, attempt: str) -> None:
    assert check(read_problem(problem), attempt).correct


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        ("20 is what percent of 80", "20/80 = 0.25%\n25%", "Step 1: 400 / 80 is 5, 20 * 5 is 100, here 1, wrong."),
        ("20 is what percent of 80", "20/80 = 20%", "Step 1: 20/80 is 1/4, here 20/100, wrong."),
        ("20 is what percent of 80", "0.25%", "Step 1: over 80, 20 * 100 is 2000, 80 / 4 is 20, 1 * 20 is 20, before 2000, wrong."),
        (
            "20 is what percent of 80",
            "20/80 * 100 = 26%",
            "Step 1: 20/80, 100 copied, over 80, 20 * 100 is 2000, 26 * 80 is 2080, before 2000, wrong.",
        ),
        ("20 is what percent of 80", "20/80 = 25%\n26%", "Step 1: 20/80 is 25/100, here 25/100, ok\nStep 2: this does not follow"),
        ("20 is what percent of 80", "25% = 20/80", "Step 1: 25/100 is 20/80, here 20/80, this is not the answer yet."),
    ],
)
def test_a_percentage_is_as_much_as_it_says(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)).startswith(review)


@pytest.mark.parametrize(
    ("problem", "attempt", "review"),
    [
        ("x/4 = 3", "x = 3 × 4", "Step 1: this is not the answer yet."),
        ("x/4 = 3", "x = 3 * 4\nx = 16", "Step 1: ok\nStep 2: 3 times 4 is not 16."),
        ("x/4 = 3", "x = 4(3)\nx = 12", "Step 1: ok\nStep 2: 4 times 3 is 12, here 12, ok"),
        ("x/24 = 1", "x = 2 * 3 * 4", "Step 1: this is not the answer yet."),
        ("x/14 = 1", "x = (3 + 4) * 2", "Step 1: this is not the answer yet."),
        ("3x/5 = 1/2", "x = 1/2 ÷ 3/5", "Step 1: this is not the answer yet."),
        ("3x = 4", "x = 4 ÷ 3", "Step 1: 3 times 4/3 is 4, before 4, ok"),
        ("x + 2 * 3 = 10", "x + 5 = 10\nx = 5", "Step 1: 2 times 3 is 6, here 5, wrong."),
    ],
)
def test_a_product_in_an_equation_is_still_to_be_worked_out(problem: str, attempt: str, review: str) -> None:
    assert review_feedback(check(read_problem(problem), attempt)) == review


@pytest.mark.parametrize(("problem", "attempt"), [("20 - 3 + 4", "3 + 4 = 7\n20 - 7 = 13"), ("12/3 - 2", "12 - 2 = 10\n10/3")])
def test_statements_about_no_part_do_not_follow(problem: str, attempt: str) -> None:
    assert check(read_problem(problem), attempt).first_error == 1


def test_the_book_joins_two_terms_at_a_time() -> None:
    lines = solve(read_problem("-7(x - 1) + 14 + 9(x - 9) = 3x - 55"))
    assert lines[:3] == ["-7x + 7 + 14 + 9x - 81 = 3x - 55", "2x + 21 - 81 = 3x - 55", "2x - 60 = 3x - 55"]
    assert solve(read_problem("5x + 3 - 5x + 2x - 3 = 4")) == ["2x = 4", "x = 2"]
    assert solve(read_problem("3x - 3x + 4 = 2x + 2"))[0] == "4 = 2x + 2"


def test_statements_about_parts() -> None:
    problem = read_problem("What is 12 + 30 * 2?")
    assert check(problem, "30 * 2 = 60\n12 + 60 = 72").correct
    assert check(problem, "12 + 30 * 2 = 12 + 60 = 72").correct
    wrong_order = check(problem, "12 + 30 = 42\n42 * 2 = 84")
    assert (wrong_order.first_error, wrong_order.finding) == (1, "this does not follow from the line before.")
    assert check(problem, "30 * 2 = 50\n12 + 50 = 62").feedback == "Step 1: 30 * 2 is 60, here 50, wrong."
    assert check(problem, "30 * 2 = 60\n12 + 60 = 82").feedback == "Step 2: 82 - 60 is 22, before 12, wrong."
    chain = read_problem("20 - 3 + 4 + 5")
    assert check(chain, "4 + 5 = 9\n20 - 3 = 17\n17 + 9 = 26").correct
    assert check(chain, "3 + 4 = 7\n20 - 7 = 13\n13 + 5 = 18").first_error == 1, "a minus before a sum"
    assert check(read_problem("2 * (3 + 4) - 5"), "3 + 4 = 7\n2 * 7 = 14\n14 - 5 = 9").correct


@pytest.mark.parametrize("task", ["order", "fractions", "percent"])
def test_generated_statements(task: str) -> None:
    rng = Random(f"statements{task}")
    right = wrong = 0
    for _ in range(150):
        problem = make_problem(task, rng.randint(1, TASKS[task]), rng)
        if (attempt := statements(problem)) is not None:
            right += 1
            for line in attempt_lines(attempt):
                left, value = line.split("=")
                assert judge_value(left) == judge_value(value)
        if (made := wrong_statements(problem, rng)) is not None:
            wrong += 1
            attempt, result = made
            first = next(n for n, line in enumerate(attempt_lines(attempt), 1) if len({judge_value(s) for s in line.split("=")}) > 1)
            assert first == result.first_error, (problem.text, attempt, result)
            assert not leaks(result.feedback, problem, attempt)
    assert task != "order" or (right > 50 and wrong > 50)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("What is 20% of 50?", 10),
        ("increase 50 by 20%", 60),
        ("3 is what percent of 12?", 25),
        ("2/3 + 1/4 = ?", Fraction(11, 12)),
        ("What is 3 + 4*(2-5)?", -9),
        ("6 ÷ 3/4", 8),
        ("x/2 + 3 = 5, x = ?", 4),
        ("x/2 + 3 = 5 x = ?", 4),
        ("x/2 + 3 = 5 find x", 4),
        ("Find x + 2x = 9", 3),
        ("Determine y + 2y = 9", 3),
        ("Find x: 2x = 9", Fraction(9, 2)),
        ("find x if 2x = 8", 4),
        ("Find x, if 2x = 8", 4),
        ("What is 3 + 4 !", 7),
        ("Solve 3(y+1) = 2y", -3),
        ("0.5x = 3", 6),
        ("-(3 + 4) * 2", -14),
    ],
)
def test_typed_problems_are_read(text: str, answer: Fraction | int) -> None:
    problem = read_problem(text)
    assert problem.answer == answer
    assert check(problem, solution_text(solve(problem))).correct


@pytest.mark.parametrize(
    "text",
    [
        "x^2 = 4",
        "x + y = 3",
        "2x + 3",
        "x = x",
        "0x = 5",
        "5/0",
        "3 +",
        "((((((((((((((1))))))))))))))",
        "1/x = 2",
        "x*x = 4",
        "99999999999 + 1",
        "20% of 3/0",
        "1/0 is what percent of 5",
        pytest.param("9" * 5000 + "% of 3", id="a number of 5000 digits"),
        pytest.param("increase 3 by 0." + "1" * 5000 + "%", id="a decimal of 5000 digits"),
        "5!",
        "(2 + 1)!",
        "2x = 4!",
        "3 + 4 y = ?",
        "Find x 3x = 9",
        "What is the capital of France?",
        "",
        "(x + 1",
        "x < 3",
    ],
)
def test_everything_else_is_outside(text: str) -> None:
    with pytest.raises(OutsideDomain):
        read_problem(text)


@pytest.mark.parametrize(
    "attempt",
    [
        "4 * 9999999 / 9999999\n5",
        "4 * 9999999 / 9999999 + 0",
        "4 * 9999999 * 9999999 / 9999999 / 9999999 = 4",
        "9999999 * 9999999 = 1",
        "5\n" + "9" * 5000,
        "9" * 5000 + "%",
        "4 = " + "9" * 5000 + "%",
        "4 = 1/0%",
        "0." + "1" * 300,
        "-" * 399 + "4",
        "4" + " - 0" * 99,
        "(" * 60 + "4" + ")" * 60,
        "٤",
        "x = 4",
        "= = 4 =",
        "%",
    ],
)
@pytest.mark.parametrize("text", ["2 + 2", "4 is what percent of 100", "(1 + 2) * 3 - 5", "2x + 3 + 4 - 5 = 10", "x/2 = 2"])
def test_any_attempt_is_checked(text: str, attempt: str) -> None:
    problem = read_problem(text)
    for line in (attempt, f"x = {attempt}"):
        result = check(problem, line)
        review = review_feedback(result)
        assert result.correct or not leaks(review, problem, line)
        assert corrected(problem, line, result).startswith("Step 1: ")


def test_spacing_keeps_the_meaning() -> None:
    rng = Random(9)
    for number in range(300):
        task, level = KINDS[number % len(KINDS)]
        if task == "percent":
            continue
        plain = make_problem(task, level, rng).line.text()
        varied = vary_spacing(plain, rng)
        assert read_problem(varied).canonical == read_problem(plain).canonical, (plain, varied)


def test_split_depends_on_the_canonical_problem_alone() -> None:
    worded = ["3x + 4 = 19", "Solve for y: 3y+4=19", "Find z if 3z + 4=19"]
    assert len({split_of(read_problem(text).canonical) for text in worded}) == 1
    rng = Random(2)
    for split in ("train", "validation", "test"):
        assert split_of(make_problem("equations", 4, rng, split).canonical) == split
    shares = [split_of(str(number)) for number in range(5000)]
    assert 0.06 < shares.count("test") / 5000 < 0.10


@pytest.mark.parametrize(
    "twins",
    [
        ("3x + 4 = 2x - 5", "4 + 3x = 2x - 5", "2x - 5 = 3x + 4", "-5 + 2y = 4 + 3y"),
        ("2(x + 3) - 1 = 9", "9 = -1 + 2(3 + x)"),
        ("12 + 30 * 2", "2 * 30 + 12", "30 * 2 + 12 = ?"),
        ("7 - 3 + 2", "7 + 2 - 3", "2 - 3 + 7", "2 - (3 - 7)", "7 + (-3) + 2"),
        ("12 * 5 / 4 - 1", "5 / 4 * 12 - 1"),
        ("x + 12 = 20", "3 * 4 + x = 20", "x + 2(3 * 2) = 20"),
    ],
)
def test_a_problem_is_the_same_in_every_order(twins: tuple[str, ...]) -> None:
    assert len({read_problem(text).canonical for text in twins}) == 1


def test_a_statement_may_be_about_a_part_after_steps_that_were_left_out() -> None:
    problem = read_problem("(5 + 5) * (17 + (6 - 4))")
    assert check(problem, "5 + 5 = 10\n17 + 2 = 19\n10 * 19 = 190").correct
    assert check(problem, "5 + 5 = 10\n17 + 3 = 20\n10 * 20 = 200").first_error == 2


@pytest.mark.parametrize(
    "others", [("20 - 3", "3 - 20"), ("8/12", "2/3"), ("12/3/4", "12/4/3"), ("3x = 4", "4x = 3"), ("-x = 4", "x = -4")]
)
def test_other_problems_are_not_the_same(others: tuple[str, str]) -> None:
    assert len({read_problem(text).canonical for text in others}) == 2


def test_some_equations_have_their_terms_in_another_order() -> None:
    rng = Random(3)
    others = 0
    for _ in range(300):
        line = make_problem("equations", 3, rng, rng.choice(SPLITS)).line
        assert isinstance(line, Equation)
        by_the_book = Equation(*(tuple(sorted(side, key=lambda term: not term.var)) for side in (line.left, line.right)), line.name)
        others += by_the_book != line
    assert 0.15 < others / 300 < 0.35


@pytest.mark.parametrize(
    ("problem", "attempt", "states"),
    [
        ("1/8 + 1/2", "1/8 + 4/8\n1/8 + 4/8 = 5/8", True),
        ("1/8 + 1/2", "1/8 + 1/2 = 5/8", True),
        ("1/8 + 3/8", "1/8 + 3/8 = 4/8", False),  # not reduced
        ("12 + 30 * 2", "30 * 2 = 60", False),
        ("12 + 30 * 2", "30 * 2 = 60\n12 + 60 = 72", True),
        ("Solve 3x + 4 = 19", "3x = 15\nx = 5", True),
        ("Solve 3x + 4 = 19", "3x = 15", False),
    ],
)
def test_an_answer_is_stated_behind_a_calculation_too(problem: str, attempt: str, states: bool) -> None:
    read = read_problem(problem)
    assert states_answer(read, attempt) is states
    assert check(read, attempt).correct is states
