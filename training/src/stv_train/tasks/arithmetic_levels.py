"""Random calculations, fractions and percentages by level."""

from __future__ import annotations

from fractions import Fraction
from math import gcd
from random import Random

from ..errors import OutsideDomain
from .arithmetic import Expression, PercentQuestion
from .expression import Bin, Expr, Num
from .steps import canonical_lines

NUM_LEVELS = {"order": 6, "fractions": 5, "percent": 4}


def _int(rng: Random, high: int, negative: float = 0.1) -> Num:
    value = rng.randint(1, high)
    return Num(-value if rng.random() < negative else value)


def make_order(level: int, rng: Random) -> Expression:
    """1: one operation on small numbers; 2: larger ones; 3..6: three to six numbers with brackets."""
    while True:
        if level == 1:
            op = rng.choice("+-*")
            high = 12 if op == "*" else 50
            tree: Expr = Bin(op, _int(rng, high), _int(rng, high))
        elif level == 2:
            op = rng.choice("+-**/")
            if op == "/":
                b, answer = rng.randint(2, 20), rng.randint(-20, 40)
                tree = Bin("/", Num(b * answer), Num(b))
            elif op == "*":
                tree = Bin("*", _int(rng, 60), _int(rng, 15))
            else:
                tree = Bin(op, _int(rng, 500), _int(rng, 500))
        else:
            tree = _random_tree(rng, level)
        try:
            lines = canonical_lines(Expression(tree))
        except OutsideDomain:
            continue
        leaves = [leaf for line in lines for leaf in line.leaves()]
        if all(leaf.denominator == 1 and abs(leaf.numerator) <= 999 for leaf in leaves):
            return Expression(tree)


def _random_tree(rng: Random, size: int) -> Expr:
    if size == 1:
        return _int(rng, 12 if rng.random() < 0.7 else 40, 0.08)
    cut = rng.randint(1, size - 1)
    return Bin(rng.choice("++--**/"), _random_tree(rng, cut), _random_tree(rng, size - cut))


def _fraction(rng: Random, high: int = 12) -> Num:
    bottom = rng.randint(2, high)
    return Num(rng.randint(1, bottom + 3), bottom)


def make_fractions(level: int, rng: Random) -> Expression:
    """1: simplify; 2: equal denominators; 3: sums; 4: products and quotients; 5: three numbers."""
    if level == 1:
        factor, base = rng.randint(2, 12), _fraction(rng)
        return Expression(Num(base.numerator * factor, base.denominator * factor))
    a, b = _fraction(rng), _fraction(rng)
    if level == 2:
        return Expression(Bin(rng.choice("+-"), a, Num(rng.randint(1, a.denominator), a.denominator)))
    if level == 3:
        return Expression(Bin(rng.choice("+-"), a, b if rng.random() < 0.8 else Num(rng.randint(1, 9))))
    if level == 4:
        return Expression(Bin(rng.choice("*/"), a, b if rng.random() < 0.8 else Num(rng.randint(2, 9))))
    a, b, c = _fraction(rng, 8), _fraction(rng, 8), _fraction(rng, 6)
    inner, outer = rng.choice("+-*"), rng.choice("+-*")
    tree = Bin(outer, Bin(inner, a, b), c) if rng.random() < 0.6 else Bin(outer, c, Bin(inner, a, b))
    return Expression(tree)


def make_percent(level: int, rng: Random) -> PercentQuestion:
    """1: of; 2: of, any percentage, as far as products go that are drilled; 3: increase and decrease; 4: what percent."""
    if level == 1:
        return PercentQuestion("of", Fraction(rng.choice((5, 10, 20, 25, 50, 75))), Fraction(4 * rng.randint(1, 60)))
    if level == 2:
        while True:
            percent, amount = rng.randint(1, 120), rng.randint(2, 200)
            part = Fraction(percent, 100)
            factors = part.numerator, amount // gcd(part.denominator, amount)
            if min(factors) <= 15 and factors[0] * factors[1] <= 900:
                return PercentQuestion("of", Fraction(percent), Fraction(amount))
    if level == 3:
        kind = rng.choice(("increase", "decrease"))
        return PercentQuestion(kind, Fraction(5 * rng.randint(1, 18)), Fraction(20 * rng.randint(1, 30)))
    whole = rng.choice((10, 20, 25, 40, 50, 80, 100, 200, 250, 400, rng.randint(2, 90)))
    return PercentQuestion("share", Fraction(rng.randint(1, whole)), Fraction(whole))
