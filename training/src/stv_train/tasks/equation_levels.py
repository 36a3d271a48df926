"""Random equations by level, from `x + 5 = 9` to brackets in brackets."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from random import Random

from ..errors import OutsideDomain
from .equations import Equation
from .steps import canonical_lines
from .terms import Term

NUM_LEVELS = 10
NAMES = "x" * 12 + "yzntabmkpqrsuvw"


def _nonzero(rng: Random, low: int, high: int) -> int:
    while True:
        if value := rng.randint(low, high):
            return value


def _coefficient(rng: Random, high: int = 9) -> int:
    return _nonzero(rng, 2, high) * (-1 if rng.random() < 0.2 else 1)


def _bracket(rng: Random, high: int = 9) -> Term:
    inner_var = Term(rng.choice((1, 1, 1, 2, 3)) if rng.random() < 0.8 else -1, var=True)
    inner = (inner_var, Term(_nonzero(rng, -high, high)))
    return Term(_coefficient(rng), group=inner if rng.random() < 0.85 else (inner[1], inner[0]))


def _nested(rng: Random) -> Term:
    inside: tuple[Term, ...] = (_bracket(rng, 6), Term(_nonzero(rng, -9, 9)))
    if rng.random() < 0.4:
        inside = (*inside[:1], Term(_coefficient(rng, 5), var=True), *inside[1:])
    return Term(_coefficient(rng, 5), group=inside)


def _small(rng: Random, high: int) -> list[Term]:
    """A term in the unknown, or a number, or both."""
    out = []
    if rng.random() < 0.7:
        out.append(Term(_coefficient(rng), var=True))
    if not out or rng.random() < 0.7:
        out.append(Term(_nonzero(rng, -high, high)))
    return out


def _close(rng: Random, left: list[Term], right: list[Term], root: Fraction) -> Equation | None:
    """Adds a number to the right so that `root` solves the equation; None where that number is no whole one."""
    equation = Equation(tuple(left), tuple(right), "x")
    a, b = equation.difference()
    missing = a * root + b
    if missing.denominator != 1 or not a:
        return None
    if missing:
        right = [*right, Term(missing.numerator)]
    if not right:
        right = [Term(0)]
    return Equation(tuple(left), tuple(right), "x")


def make_equation(level: int, rng: Random, arrange: Callable[[Equation], Equation | None] = lambda drawn: drawn) -> Equation:
    """A random equation of `level` 1..10 with unknown x. Levels grow in lines and in numbers per line. `arrange` makes of one that
    was drawn what is wanted, or None; it is asked before the equation is solved, which takes longer than all else."""
    while True:
        drawn = _draw(level, rng)
        if drawn is None:
            continue
        equation = arrange(drawn.flipped() if rng.random() < 0.12 else drawn)
        if equation is None:
            continue
        try:
            answer, largest = equation.root(), 0
            for line in canonical_lines(equation):
                largest = max([largest, *(abs(leaf.numerator) for leaf in line.leaves())])
        except OutsideDomain:
            continue
        limit = 99 if level <= 3 else 400 if level <= 8 else 999
        if answer.denominator <= 20 and abs(answer) <= 60 and largest <= limit:
            return equation


def _draw(level: int, rng: Random) -> Equation | None:
    root = Fraction(rng.randint(-12, 15))
    if level >= 4 and rng.random() < 0.2:
        root = Fraction(rng.randint(-15, 15), rng.choice((2, 3, 4, 5)))
    high = 9 if level <= 2 else 20
    x = Term(_coefficient(rng), var=True)
    if level == 1:  # x + 5 = 9, 3x = 12, x/4 = 3
        pick = rng.random()
        if pick < 0.45:
            return _close(rng, [Term(1, var=True), Term(_nonzero(rng, -20, 20))], [], root)
        if pick < 0.8:
            return _close(rng, [x], [], root)
        divisor = rng.randint(2, 9)
        return _close(rng, [Term(1, divisor, var=True)], [], Fraction(rng.randint(-9, 9) * divisor))
    if level == 2:  # 3x + 4 = 19
        left = [x, Term(_nonzero(rng, -20, 20))]
        return _close(rng, left if rng.random() < 0.85 else left[::-1], [], root)
    if level == 3:  # 5x - 3 = 2x + 9
        return _close(rng, [x, Term(_nonzero(rng, -20, 20))], [Term(_coefficient(rng), var=True)], root)
    if level == 4:  # 4(x - 3) + 5 = 2x + 9, 3x + 2 - 5x = 8
        if rng.random() < 0.25:
            left = [x, Term(_nonzero(rng, -high, high)), Term(_coefficient(rng), var=True)]
            left.append(Term(_nonzero(rng, -high, high)))
            rng.shuffle(left)
            return _close(rng, left, [], root)
        left = [_bracket(rng)] + (_small(rng, high) if rng.random() < 0.7 else [])
        return _close(rng, left, [Term(_coefficient(rng), var=True)] if rng.random() < 0.6 else [], root)
    if level == 5:  # x/2 + 3 = x/3 + 5, 3x/4 - 1/2 = 2
        bottoms = [rng.choice((2, 3, 4, 5, 6)) for _ in range(3)]
        left = [Term(rng.choice((1, 1, 2, 3, -1)), bottoms[0], var=True), Term(_nonzero(rng, -9, 9))]
        right = []
        if rng.random() < 0.6:
            right.append(Term(rng.choice((1, 1, 2, -1)), bottoms[1], var=True))
        if rng.random() < 0.4:
            left[1] = Term(_nonzero(rng, -9, 9), bottoms[2])
        return _rational(rng, left, right)
    if level == 6:  # two brackets
        left = [_bracket(rng), *(_small(rng, high) if rng.random() < 0.5 else [])]
        right = [_bracket(rng)]
        if rng.random() < 0.35:
            left, right = left + right, ([Term(_coefficient(rng), var=True)] if rng.random() < 0.5 else [])
        return _close(rng, left, right, root)
    if level == 7:  # (x + 3)/2 = (x - 1)/3 + 4
        left = [Term(1, rng.randint(2, 6), group=_bracket(rng, 9).group)]
        right = [Term(rng.choice((1, 1, 1, -1, 2)), rng.randint(2, 6), group=_bracket(rng, 9).group)]
        if rng.random() < 0.4:
            left += [Term(_nonzero(rng, -9, 9))]
        return _rational(rng, left, right)
    if level == 8:  # three brackets
        left = [_bracket(rng), _bracket(rng), *(_small(rng, high) if rng.random() < 0.6 else [])]
        right = [_bracket(rng), *(_small(rng, high) if rng.random() < 0.4 else [])]
        return _close(rng, left, right, root)
    if level == 9:  # nested brackets
        left = [_nested(rng), *(_small(rng, high) if rng.random() < 0.6 else [])]
        right = [_bracket(rng)] if rng.random() < 0.6 else [Term(_coefficient(rng), var=True)]
        return _close(rng, left, right, root)
    # four brackets, or nested ones on both sides, with numbers up to 20
    if rng.random() < 0.5:
        left = [_bracket(rng, 15), _bracket(rng, 15), *_small(rng, 40)]
        right = [_bracket(rng, 15), _bracket(rng, 15), *(_small(rng, 40) if rng.random() < 0.5 else [])]
    else:
        left = [_nested(rng), _bracket(rng), *_small(rng, 30)]
        right = [_nested(rng), *(_small(rng, 30) if rng.random() < 0.5 else [])]
    return _close(rng, left, right, root)


def _rational(rng: Random, left: list[Term], right: list[Term]) -> Equation | None:
    """Closes an equation with denominators by a whole number on the right; the root is what it is."""
    equation = Equation(tuple(left), (*right, Term(_nonzero(rng, -9, 9))), "x")
    a, _ = equation.difference()
    if not a:
        return None
    # Prefer whole roots: shift the free number until the root is whole, where some small number does that.
    for shift in rng.sample(range(-12, 13), 25):
        if not shift:
            continue
        shifted = Equation(tuple(left), (*right, Term(shift)), "x")
        if shifted.root().denominator == 1:
            return shifted
    return equation
