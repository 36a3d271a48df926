"""Problems as people type them: wording and spacing, reading them back, the split.

`read_problem` is the only way from text to a `Problem`; generated problems go through it too, so that what is trained
and what a user's text means cannot differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from random import Random

from ..errors import OutsideDomain, TrainError
from .arithmetic import Expression, PercentQuestion, read_calculation_line, read_expression, read_share_line
from .arithmetic_levels import NUM_LEVELS as ARITHMETIC_LEVELS
from .arithmetic_levels import make_fractions, make_order, make_percent
from .equation_levels import NAMES, NUM_LEVELS, make_equation
from .equations import Equation, canonical_equation, read_equation
from .expression import Expr, canonical, read_number
from .steps import Line, Problem

TASKS: dict[str, int] = {"equations": NUM_LEVELS, **ARITHMETIC_LEVELS}
"""Task -> number of levels."""


def kinds_of(spec: str) -> list[tuple[str, int]]:
    """(task, level) pairs that a key of `data.tasks` names: `order` is all its levels, `order:1-4` or `order:2` some of them.
    Raises TrainError for an unknown task or level."""
    task, colon, levels = spec.partition(":")
    first, dash, last = levels.partition("-")
    try:
        chosen = range(int(first), int(last if dash else first) + 1) if colon else range(1, TASKS[task] + 1)
        if task in TASKS and chosen and chosen[0] >= 1 and chosen[-1] <= TASKS[task]:
            return [(task, level) for level in chosen]
    except (KeyError, ValueError):
        pass
    raise TrainError(f"data.tasks names {spec!r}; known are TASK or TASK:FIRST-LAST, with tasks and their levels {TASKS}.")


def all_kinds(tasks: dict[str, float]) -> list[tuple[str, int]]:
    """The kinds of all keys with a weight above 0."""
    return [kind for spec, weight in tasks.items() if weight > 0 for kind in kinds_of(spec)]


SPLITS = ("train", "validation", "test")
REARRANGED = 0.25  # share of equations whose terms stand in another order: 7 - 2x = 3x - 8

_EQUATION_WORDING = (
    ("{}", 8),
    ("Solve {}", 3),
    ("Solve: {}", 2),
    ("Solve for {x}: {}", 3),
    ("solve {}", 1),
    ("Solve the equation {}", 2),
    ("Find {x}: {}", 1),
    ("Find {x} if {}", 1),
    ("What is {x} if {}?", 1),
    ("{} find {x}", 0.3),
    ("{}, {x} = ?", 0.3),
    ("Please solve {}.", 0.5),
    ("solve for {x} {}", 0.5),
)
_CALCULATION_WORDING = (
    ("{}", 6),
    ("{} =", 1),
    ("{} = ?", 1),
    ("Calculate {}", 2),
    ("Calculate: {}", 1),
    ("Compute {}", 1),
    ("Work out {}", 1),
    ("Evaluate {}", 1),
    ("What is {}?", 2),
    ("Simplify {}", 1),
    ("what is {}", 0.5),
)
_PERCENT_WORDING = {
    "of": (("{a}% of {b}", 2), ("What is {a}% of {b}?", 3), ("Find {a}% of {b}.", 1), ("Calculate {a}% of {b}", 1)),
    "increase": (("{b} increased by {a}%", 2), ("Increase {b} by {a}%", 2), ("What is {b} increased by {a}%?", 1)),
    "decrease": (("{b} decreased by {a}%", 2), ("Decrease {b} by {a}%", 2), ("What is {b} decreased by {a}%?", 1)),
    "share": (("{a} is what percent of {b}?", 2), ("What percent of {b} is {a}?", 2)),
}
_AMOUNT = r"(\d+(?:/\d+|\.\d+)?)"
_PERCENT_PATTERNS = (
    ("of", re.compile(rf"{_AMOUNT} ?(?:%|percent) of {_AMOUNT}"), False),
    ("increase", re.compile(rf"{_AMOUNT} increased by {_AMOUNT} ?(?:%|percent)"), True),
    ("increase", re.compile(rf"increase {_AMOUNT} by {_AMOUNT} ?(?:%|percent)"), True),
    ("decrease", re.compile(rf"{_AMOUNT} decreased by {_AMOUNT} ?(?:%|percent)"), True),
    ("decrease", re.compile(rf"decrease {_AMOUNT} by {_AMOUNT} ?(?:%|percent)"), True),
    ("share", re.compile(rf"{_AMOUNT} is what (?:%|percent) of {_AMOUNT}"), False),
    ("share", re.compile(rf"what (?:%|percent) of {_AMOUNT} is {_AMOUNT}"), True),
)
# `Find x: 3x = 9` names the unknown; `Find x + 2x` is about a sum.
_LEAD = re.compile(
    r"^(?:please |can you |could you )?(?:solve(?: the equation)?(?: for [a-z])?|"
    r"(?:find|determine)(?: [a-z](?= ?[:,]| if\b|$))?(?:,? if)?|"
    r"what is(?: [a-z] if)?|calculate|compute|work out|evaluate|simplify)\b[ :,]*",
    re.IGNORECASE,
)
# `2x = 6 x = ?` asks for the unknown; `3 + 4 y = ?` is about 4y.
_ASKED = re.compile(r"(?:(=.*?),?|,) [a-z] = ?\?$", re.IGNORECASE)
# `5!` is a factorial, not 5 with a mark behind it.
_TAIL = re.compile(r"(?:,? find [a-z]|= ?\??)$|[?.]+$|(?<![\w)])!+$", re.IGNORECASE)


def read_problem(text: str, task: str = "", level: int = 0) -> Problem:
    """The problem that `text` states. Raises OutsideDomain with the reason when the pack cannot judge it."""
    stripped = " ".join(text.split())
    body = _LEAD.sub("", stripped)
    lowered = body.lower().rstrip("?. ")
    whole = stripped.lower().rstrip("?. ")
    for kind, pattern, swapped in _PERCENT_PATTERNS:
        match = pattern.fullmatch(lowered) or pattern.fullmatch(whole)
        if match:
            a, b = (read_number(found).value for found in match.groups())
            question = PercentQuestion(kind, *((b, a) if swapped else (a, b)))
            if kind == "share" and not question.second:
                raise OutsideDomain("division by zero")
            read = partial(read_share_line, question=question) if kind == "share" else read_calculation_line
            return _problem(task or "percent", level, text, question, read, f"percent {question.text()}")
    for _ in range(3):
        body = _TAIL.sub("", _ASKED.sub(r"\1", body)).strip()
    if "=" in body:
        equation = read_equation(body)
        return _problem(
            task or "equations",
            level,
            text,
            equation,
            lambda line: read_equation(line, equation.name),
            canonical_equation(equation),
        )
    expression = read_expression(body)
    return _problem(task or "order", level, text, expression, read_calculation_line, canonical_calculation(expression.tree))


def canonical_calculation(tree: Expr) -> str:
    return f"calculation {canonical(tree)}"


def _problem(task: str, level: int, text: str, line: Line, read: Callable[[str], Line], canonical: str) -> Problem:
    current: Line = line
    for _ in range(60):
        if (step := current.next()) is None:
            break
        current = step[0]
    answer = current.answer()
    if answer is None:
        raise OutsideDomain("the solution has too many steps")
    return Problem(task, level, text, line, read, canonical, answer)


def split_of(canonical: str) -> str:
    """The split that owns a problem, whoever generates it: 8 % test, 4 % validation, the rest train. Canonical problems are the same
    for every order of terms, factors and sides, so that no problem has a twin in another split."""
    bucket = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 8 else "validation" if bucket < 12 else "train"


def _weighted(rng: Random, choices: tuple[tuple[str, float], ...]) -> str:
    return rng.choices([text for text, _ in choices], [weight for _, weight in choices])[0]


def vary_spacing(text: str, rng: Random) -> str:
    """Spacing and signs as people type them; the meaning stays."""
    pick = rng.random()
    if pick < 0.6:
        return text
    if pick < 0.78:
        out = re.sub(r" ?([+\-*=]) ?", r"\1", text)
        if "÷" not in text and " / " not in text:
            return out
        return text
    if pick < 0.84 and " / " not in text:
        return re.sub(r"(?<=\S) ?= ?(?=\S)", rng.choice(("=", " = ", "= ")), text)
    if pick < 0.9:
        return re.sub(r"(?<=[\d)a-z])\(", rng.choice(("*(", " * (", "·(")), text)
    if pick < 0.95:
        return text.replace(" * ", rng.choice((" × ", "*", " · ")))
    return text.replace(" - ", " − ").replace(" + ", rng.choice(("+ ", " +")))


def make_problem(task: str, level: int, rng: Random, split: str = "train") -> Problem:
    """A random problem of `split`, worded and spaced as people type them."""
    if task not in TASKS or not 1 <= level <= TASKS[task]:
        raise TrainError(f"Task {task!r} has no level {level}; tasks and their number of levels are {TASKS}.")
    rearranged = task == "equations" and level > 1 and rng.random() < REARRANGED
    while True:
        text = _draw_text(task, level, rng, split, rearranged)
        try:
            problem = read_problem(text, task, level)
        except OutsideDomain:
            continue
        if split_of(problem.canonical) == split:
            return problem


def _arranged(equation: Equation, split: str, rearranged: bool, rng: Random) -> Equation | None:
    """The equation as it stands or its terms in another order; None where it is of another split, or has no other order."""
    if split_of(canonical_equation(equation)) != split:
        return None
    made = equation.rearranged(rng) if rearranged else equation
    return None if rearranged and made == equation else made


def _draw_text(task: str, level: int, rng: Random, split: str, rearranged: bool) -> str:
    if task == "equations":
        equation = make_equation(level, rng, lambda drawn: _arranged(drawn, split, rearranged, rng))
        name = rng.choice(NAMES)
        body = vary_spacing(Equation(equation.left, equation.right, name).text(), rng)
        return _weighted(rng, _EQUATION_WORDING).replace("{x}", name).replace("{}", body)
    if task == "percent":
        question = make_percent(level, rng)
        wording = _weighted(rng, _PERCENT_WORDING[question.kind])
        return wording.replace("{a}", str(question.first)).replace("{b}", str(question.second))
    make: Callable[[int, Random], Expression] = make_order if task == "order" else make_fractions
    return _weighted(rng, _CALCULATION_WORDING).replace("{}", vary_spacing(make(level, rng).text(), rng))
