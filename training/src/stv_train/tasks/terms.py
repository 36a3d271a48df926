"""The terms of a linear expression in one unknown: read, written, counted, added up.

`10/2` is one term, a number as it is written. `3 * 4` is none yet: it is kept as a bracket with a factor, `3(4)`, so that a line
with it states no answer and working it out is a step that can be checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from ..errors import OutsideDomain
from .expression import Bin, Expr, Neg, Num, Var, linear, variables
from .steps import Leaf


@dataclass(frozen=True, slots=True)
class Term:
    """numerator / denominator times 1, times the unknown (`var`), or times a bracket (`group`)."""

    numerator: int
    denominator: int = 1
    var: bool = False
    group: tuple[Term, ...] | None = None

    @property
    def coefficient(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)

    def times(self, factor: Fraction) -> Term:
        value = self.coefficient * factor
        return replace(self, numerator=value.numerator, denominator=value.denominator)


Side = tuple[Term, ...]


def terms_of(tree: Expr) -> list[Term]:
    match tree:
        case Num(numerator, denominator):
            return [Term(numerator, denominator)]
        case Var():
            return [Term(1, 1, var=True)]
        case Neg(operand):
            return _scaled(Fraction(-1), terms_of(operand), -1, 1)
        case Bin("+", left, right):
            return terms_of(left) + terms_of(right)
        case Bin("-", left, right):
            return terms_of(left) + _scaled(Fraction(-1), terms_of(right), -1, 1)
        case Bin("*", left, right):
            if variables(left) and variables(right):
                raise OutsideDomain("a square of the unknown is not part of this pack")
            turned = variables(left) or (isinstance(right, Num) and not isinstance(left, Num))
            factor, rest = (right, left) if turned else (left, right)
            value = linear(factor)[1]
            if not variables(rest):
                return [Term(value.numerator, value.denominator, group=tuple(terms_of(rest)))]
            if isinstance(factor, Num):
                return _scaled(value, terms_of(rest), factor.numerator, factor.denominator)
            return _scaled(value, terms_of(rest), value.numerator, value.denominator)
        case Bin("/", left, right):
            if variables(right) or not linear(right)[1]:
                raise OutsideDomain("division by zero or by the unknown")
            value = 1 / linear(right)[1]
            if isinstance(left, Num) and not (left.denominator == 1 and isinstance(right, Num) and right.denominator == 1):
                return [Term(value.numerator, value.denominator, group=(Term(left.numerator, left.denominator),))]
            return _scaled(value, terms_of(left), value.numerator, value.denominator)
    raise OutsideDomain("this is no linear expression")


def _scaled(value: Fraction, terms: list[Term], numerator: int, denominator: int) -> list[Term]:
    if len(terms) == 1:
        only = terms[0]
        top, bottom = only.numerator * numerator, only.denominator * denominator
        if bottom < 0:
            top, bottom = -top, -bottom
        return [replace(only, numerator=top, denominator=bottom)]
    return [Term(value.numerator, value.denominator, group=tuple(terms))]


def folded(term: Term) -> Term:
    """A product of numbers as the number that it is; any other term as it stands."""
    if term.group is None or len(term.group) != 1:
        return term
    return folded(term.group[0]).times(term.coefficient)


def side_value(side: Side) -> tuple[Fraction | int, Fraction | int]:
    a: Fraction | int = 0
    b: Fraction | int = 0
    for term in side:
        factor = term.numerator if term.denominator == 1 else term.coefficient  # fractions take ten times as long
        if term.group is not None:
            inner_a, inner_b = side_value(term.group)
            a, b = a + factor * inner_a, b + factor * inner_b
        elif term.var:
            a += factor
        else:
            b += factor
    return a, b


def term_text(term: Term, name: str) -> str:
    """Without its sign."""
    top, bottom = abs(term.numerator), term.denominator
    tail = "" if bottom == 1 else f"/{bottom}"
    if term.group is not None:
        return f"{'' if top == 1 else top}({side_text(term.group, name)}){tail}"
    if term.var:
        return f"{'' if top == 1 else top}{name}{tail}"
    return f"{top}{tail}"


def side_text(side: Side, name: str) -> str:
    out = ""
    for index, term in enumerate(side):
        negative = term.numerator < 0
        joint = ("-" if negative else "") if index == 0 else (" - " if negative else " + ")
        out += joint + term_text(term, name)
    return out


def side_shape(side: Side) -> str:
    return ",".join(f"({side_shape(t.group)})" if t.group is not None else ("x" if t.var else "1") for t in side)


def side_leaves(side: Side, name: str) -> list[Leaf]:
    out: list[Leaf] = []
    for term in side:
        suffix = "(" if term.group is not None else (name if term.var else "")
        if term.group is None:
            out.append(Leaf(term.numerator, term.denominator, suffix))
        else:
            out.append(Leaf(term.numerator, term.denominator))
            out.extend(side_leaves(term.group, name))
    return out


def fill_side(side: Side, leaves: list[Leaf]) -> Side:
    """Takes its leaves from the front of `leaves`."""
    out: list[Term] = []
    for term in side:
        leaf = leaves.pop(0)
        group = fill_side(term.group, leaves) if term.group is not None else None
        out.append(replace(term, numerator=leaf.numerator, denominator=leaf.denominator, group=group))
    return tuple(out)


def cancels(side: Side) -> bool:
    """Whether terms stand beside their opposites, as in 3x + 5 - 5."""
    return any(t.numerator and replace(t, numerator=-t.numerator) in side for t in side)


def count_leaves(side: Side) -> int:
    return sum(1 + (count_leaves(t.group) if t.group is not None else 0) for t in side)


def signed(values: list[str]) -> str:
    """3x, -5x, 2 -> '3x - 5x + 2'"""
    out = values[0]
    for text in values[1:]:
        out += f" - {text[1:]}" if text.startswith("-") else f" + {text}"
    return out


def single(term: Term, name: str) -> str:
    return ("-" if term.numerator < 0 else "") + term_text(term, name)


def chained(terms: list[Term], name: str) -> str:
    """Two at a time, the last operation left open: 3, 4, -9 -> '3 + 4 is 7, 7 - 9'"""
    said, total = list[str](), terms[0]
    for at, term in enumerate(terms[1:], 2):
        said.append(signed([single(total, name), single(term, name)]))
        value = total.coefficient + term.coefficient
        total = Term(value.numerator, value.denominator, var=term.var and bool(value))
        if at < len(terms):
            said[-1] += f" is {single(total, name)}"
    return ", ".join(said)
