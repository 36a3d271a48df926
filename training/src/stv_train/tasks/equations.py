"""Linear equations in one unknown: lines, the canonical solver, the ways of people, reading.

The solver writes one kind of change per line: clear denominators, expand the innermost brackets, combine each side,
bring the unknown to the left, then the numbers to the right, divide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from math import gcd, lcm
from random import Random

from ..errors import OutsideDomain
from .expression import linear, number_text, parse, variables
from .steps import Claim, Habits, Leaf, Line, Origin, Step, Undo
from .terms import (
    Side,
    Term,
    cancels,
    chained,
    count_leaves,
    fill_side,
    folded,
    side_leaves,
    side_shape,
    side_text,
    side_value,
    signed,
    single,
    terms_of,
)

COPY = Origin("copy")
OVER = Origin("over")  # a number that a line divides without working it out
TURNED = 0.15  # share of lines that somebody untidy writes with their sides changed
SHUFFLED = 0.3  # of sides with their terms in another order

_Block = tuple[Term, list[Origin]]
"""A term and the origins of its leaves."""


def _blocks(line: Equation, origins: list[Origin]) -> tuple[list[_Block], list[_Block]]:
    rest = list(origins)

    def side(terms: Side) -> list[_Block]:
        made = []
        for term in terms:
            count = count_leaves((term,))
            made.append((term, rest[:count]))
            del rest[:count]
        return made

    return side(line.left), side(line.right)


def _in_order(blocks: list[_Block], like: Side) -> list[_Block] | None:
    """The blocks in the order of terms of the same shapes, those that are equal before the others."""
    if len(blocks) != len(like):
        return None
    rest: list[_Block] = list(blocks)
    found: dict[int, _Block] = {}
    for is_alike in (Term.__eq__, lambda one, other: side_shape((one,)) == side_shape((other,))):
        for at, term in enumerate(like):
            if at not in found and (block := next((b for b in rest if is_alike(b[0], term)), None)) is not None:
                rest.remove(block)
                found[at] = block
    return [found[at] for at in range(len(like))] if len(found) == len(like) else None


def _joined(left: list[_Block], right: list[_Block], name: str) -> tuple[Equation, list[Origin]]:
    line = Equation(tuple(term for term, _ in left), tuple(term for term, _ in right), name)
    return line, [origin for _, origins in left + right for origin in origins]


def _back_by(added: list[Term], start: Term) -> Undo:
    """From a sum of numbers back to its first one."""
    back = [replace(term, numerator=-term.numerator) for term in added]
    total = sum((term.coefficient for term in back), Fraction(0))
    return Undo(lambda leaf: (chained([Term(leaf.numerator, leaf.denominator), *back], ""), leaf.value + total), start.coefficient)


def _back_from_product(factor: int, term: Term) -> Undo:
    """From a product with `factor` back to the term, for a product that is the answer: `-24 / 6 is -4`."""
    return Undo(lambda leaf: (f"{leaf.text()} / {factor}", leaf.value / factor), term.coefficient)


@dataclass(frozen=True, slots=True)
class Equation:
    """left = right; a line of a solution of a linear equation."""

    left: Side
    right: Side
    name: str = "x"

    def text(self) -> str:
        return f"{side_text(self.left, self.name)} = {side_text(self.right, self.name)}"

    def shape(self) -> str:
        return f"{side_shape(self.left)}={side_shape(self.right)}"

    def leaves(self) -> list[Leaf]:
        return side_leaves(self.left, self.name) + side_leaves(self.right, self.name)

    def with_leaves(self, leaves: list[Leaf]) -> Equation:
        rest = list(leaves)
        return Equation(fill_side(self.left, rest), fill_side(self.right, rest), self.name)

    def difference(self) -> tuple[Fraction, Fraction]:
        """(a, b) with a * unknown + b = 0."""
        (a, b), (c, d) = side_value(self.left), side_value(self.right)
        return Fraction(a - c), Fraction(b - d)

    def root(self) -> Fraction:
        a, b = self.difference()
        if not a:
            raise OutsideDomain("the equation has no single solution")
        return -b / a

    def follows(self, previous: Line) -> bool:
        if not isinstance(previous, Equation) or self.name != previous.name:
            return False
        a, b = self.difference()
        c, d = previous.difference()
        return bool(a) and bool(c) and a * d == b * c

    def after(self, previous: Line) -> Line | None:
        return self if self.follows(previous) else None

    def claims(self, previous: Line) -> list[Claim]:
        return []

    def chain(self, previous: Line) -> list[Line]:
        return []

    def stated(self) -> Fraction | None:
        return self.answer()

    def answer(self) -> Fraction | None:
        if len(self.left) == len(self.right) == 1:
            for one, other in ((self.left[0], self.right[0]), (self.right[0], self.left[0])):
                plain = one == Term(1, 1, var=True) and not other.var and other.group is None
                if plain and (gcd(other.numerator, other.denominator) == 1 or other.numerator == 0):
                    return other.coefficient
        return None

    def next(self) -> Step | None:
        return _next(self)

    def ways(self) -> Iterator[Step]:
        step = self.next()
        if step is None:
            return
        yield step
        if not self._is_plain():
            if (made := self._numbers_first()) is not None:
                yield made
            return
        if (collected := self._collected()) is not None:
            yield collected
        if not cancels(self.left) and not cancels(self.right):
            for way in (self._mirrored, self._numbers_first, self._moved, self._moved_right):
                if (made := way()) is not None:
                    yield made

    def detours(self) -> list[tuple[Equation, list[Origin]]]:
        there = self.flipped()
        return self._detours() + [made._turned(origins) for made, origins in there._detours()]

    def _detours(self) -> list[tuple[Equation, list[Origin]]]:
        """Those that leave the unknown on the left."""
        if not self._is_plain() or self.answer() is not None or not any(t.var for t in self.left):
            return []
        if len(self.left) == len(self.right) == 1 and not self.right[0].var:
            by = abs(self.left[0].numerator)
            left, right = (tuple(replace(t, denominator=by) for t in side) for side in (self.left, self.right))
            return [(Equation(left, right, self.name), [OVER, OVER])] if by > 1 and self.right[0].numerator else []
        numbers = [t for t in self.left if not t.var]
        unknowns = [t for t in self.right if t.var]
        return [self._on_both_sides(terms[0]) for terms in (numbers, unknowns) if len(terms) == 1 and terms[0].numerator]

    def arranged(self, origins: list[Origin], like: Line) -> Step | None:
        if not isinstance(like, Equation) or like.name != self.name:
            return None
        for line, theirs in ((self, origins), self._turned(origins)):
            left, right = _blocks(line, theirs)
            if (first := _in_order(left, like.left)) is not None and (second := _in_order(right, like.right)) is not None:
                return _joined(first, second, self.name)
        return None

    def in_own_way(self, habits: Habits, rng: Random) -> Step | None:
        if self.answer() is not None:
            return None
        made = next((step for way in self._own_ways(habits) if (step := way()) is not None), None) or self.next()
        if made is None or not habits.untidy or not isinstance(made[0], Equation) or made[0].answer() is not None:
            return made
        return made[0]._shuffled(made[1], rng)

    def _own_ways(self, habits: Habits) -> Iterator[Callable[[], Step | None]]:
        if not self._is_plain():
            if habits.moving != "joined":
                yield self._numbers_first
            return
        if habits.collects and not habits.moves_first:
            yield self._collected
        if cancels(self.left) or cancels(self.right):
            return
        right = habits.unknown_right and self.difference()[0] < 0
        if habits.moves_first or self._combine() is None:
            if habits.moving == "numbers":
                yield self._numbers_first
            if habits.moving == "moved":
                yield self._moved_right if right else self._moved
            if habits.moving == "both":
                yield partial(self._detour, right)
        short = len(self.left) == len(self.right) == 1
        if habits.divides_out and short and all(t.numerator > 0 for t in self.left + self.right if t.var):
            yield partial(self._detour, right)
        if right and self._combine() is None:
            yield self._mirrored

    def _detour(self, right: bool) -> Step | None:
        """The first of the detours; with the unknown on the right where it is to stay there."""
        made = next(iter((self.flipped() if right else self)._detours()), None)
        return made[0]._turned(made[1]) if made is not None and right else made

    def _shuffled(self, origins: list[Origin], rng: Random) -> Step:
        line, theirs = self._turned(origins) if rng.random() < TURNED else (self, origins)
        left, right = _blocks(line, theirs)
        for side in (left, right):
            if rng.random() < SHUFFLED:
                rng.shuffle(side)
        return _joined(left, right, self.name)

    def _is_plain(self) -> bool:
        """Without brackets and fractions."""
        return all(t.group is None and t.denominator == 1 for t in self.left + self.right)

    def flipped(self) -> Equation:
        return Equation(self.right, self.left, self.name)

    def _turned(self, origins: list[Origin]) -> tuple[Equation, list[Origin]]:
        at = count_leaves(self.left)
        return self.flipped(), origins[at:] + origins[:at]

    def rearranged(self, rng: Random) -> Equation:
        """The same equation, the terms of each side in any order: 7 - 2x = 3x - 8."""
        left, right = list(self.left), list(self.right)
        rng.shuffle(left)
        rng.shuffle(right)
        return Equation(tuple(left), tuple(right), self.name)

    # Ways beside the canonical one, of lines without brackets and fractions; None where they do not apply.

    def _mirrored(self) -> Step | None:
        """The unknown goes to the right, the numbers to the left: 7 - 2x = 3x - 8, 7 = 5x - 8, 15 = 5x."""
        if not any(t.var for t in self.right):
            return None
        step = self.flipped().next()
        if step is None or not isinstance(step[0], Equation):
            return None
        return step[0]._turned(step[1])

    def _numbers_first(self) -> Step | None:
        """7 - 2x = 3x - 8, -2x = 3x - 15, and x/2 + 3 = 5, x/2 = 2"""
        terms = self.left + self.right
        (left, moved), (right, numbers) = (([t for t in s if t.var], [t for t in s if not t.var]) for s in (self.left, self.right))
        whole = all(t.group is None and (t.var or t.denominator == 1) for t in terms)
        if not whole or len(left) != 1 or len(moved) != 1 or len(right) > 1 or len(numbers) != 1 or not moved[0].numerator:
            return None
        if not right and self._is_plain():
            return None  # that is the book's way
        total, origin = self._across(moved[0], numbers[0])
        if right and not total.numerator:
            return None
        return Equation((left[0],), (*right, total), self.name), [COPY] * (1 + len(right)) + [origin]

    def _moved(self) -> tuple[Equation, list[Origin]] | None:
        """Terms change sides and nothing is worked out yet: 7 - 2x = 3x - 8, -2x - 3x = -8 - 7."""
        if len(self.left) + len(self.right) < 3 or any(not t.numerator for t in self.left + self.right):
            return None

        def side(stays: Side, comes: Side, var: bool) -> list[_Block]:
            over = [replace(t, numerator=-t.numerator) for t in comes if t.var == var]
            origins = [Origin("cross", f"{single(t, self.name)} moved", (t.coefficient,)) for t in comes if t.var == var]
            return [(t, [COPY]) for t in stays if t.var == var] + [(t, [origin]) for t, origin in zip(over, origins, strict=True)]

        left, right = side(self.left, self.right, var=True), side(self.right, self.left, var=False)
        if not left or not right or all(origins == [COPY] for _, origins in left + right):
            return None
        return _joined(left, right, self.name)

    def _moved_right(self) -> Step | None:
        """The same where the unknown is the greater on the right, and stays there: 7 - 2x = 3x - 8, 7 + 8 = 3x + 2x."""
        if self.difference()[0] > 0 or (made := self.flipped()._moved()) is None:
            return None
        line, origins = made
        return line._turned(origins)

    def _on_both_sides(self, term: Term) -> tuple[Equation, list[Origin]]:
        """3x + 5 = 20, 3x + 5 - 5 = 20 - 5"""
        added = replace(term, numerator=-term.numerator), [Origin("cross", f"{single(term, self.name)} moved", (term.coefficient,))]
        left, right = _blocks(self, [COPY] * len(self.leaves()))
        return _joined([*left, added], [*right, added], self.name)

    def by_rule(self) -> Step | None:
        """`next`, worked out."""
        if self.answer() is not None:
            return None
        for rule in (self._work_out, self._clear, self._expand, self._combine, self._gather, self._isolate, self._divide):
            if (made := rule()) is not None:
                return made
        raise OutsideDomain("the equation has no single solution")

    # Each rule gives the next line and the origins of its leaves, or None where it does not apply.

    def _work_out(self) -> tuple[Line, list[Origin]] | None:
        """3x/3 = 15/3, x = 5"""
        if len(self.left) != 1 or len(self.right) != 1:
            return None
        if self.right[0].var and not self.left[0].var:
            return self.flipped()._work_out()
        left, right = self.left[0], self.right[0]
        by = left.denominator
        if by == 1 or abs(left.numerator) != by or right.denominator != by or not left.var or right.var or right.group is not None:
            return None
        return Equation((replace(left, denominator=1),), (replace(right, denominator=1),), self.name)._divide()

    def _clear(self) -> tuple[Line, list[Origin]] | None:
        both = self.left + self.right
        if all(t.denominator == 1 for t in both):
            return None
        if len(self.left) == len(self.right) == 1:
            left, right = self.left[0], self.right[0]
            if left.var and left.denominator == 1 and right.group is None and not right.var:
                return None  # 3x = 5/2 is for `_divide`
        factor = lcm(*(t.denominator for t in both))
        origins: list[Origin] = []

        def side(terms: Side) -> Side:
            out: list[Term] = []
            for term in terms:
                made = term.times(Fraction(factor))
                if made.group is not None and made.coefficient == 1:
                    out.extend(made.group)  # 2 times (x + 1)/2 is written without a bracket
                    origins.extend([COPY] * count_leaves(made.group))
                    continue
                out.append(made)
                operands = (Fraction(factor), term.coefficient)
                shown = single(replace(term, group=None), self.name)  # a bracket goes by the number before it
                origins.append(Origin("times", f"{factor} times {shown}", operands, _back_from_product(factor, term)))
                if term.group is not None:
                    origins.extend([COPY] * count_leaves(term.group))
            return tuple(out)

        return Equation(side(self.left), side(self.right), self.name), origins

    def _expand(self) -> tuple[Line, list[Origin]] | None:
        if all(t.group is None for t in self.left + self.right):
            return None
        origins: list[Origin] = []

        def side(terms: Side) -> Side:
            out: list[Term] = []
            for term in terms:
                if term.group is None:
                    out.append(term)
                    origins.append(COPY)
                elif any(inner.group is not None for inner in term.group):
                    at = len(origins)
                    out.append(replace(term, group=side(term.group)))
                    origins.insert(at, COPY)
                else:
                    factor = number_text(term.coefficient)
                    for inner in term.group:
                        out.append(inner.times(term.coefficient))
                        operands = (term.coefficient, inner.coefficient)
                        origins.append(Origin("times", f"{factor} times {single(inner, self.name)}", operands))
            return tuple(out)

        return Equation(side(self.left), side(self.right), self.name), origins

    def _combine(self) -> Step | None:
        """Two like terms of a kind on each side: a small model adds two numbers better than three."""
        return self._with_joined(2)

    def _collected(self) -> Step | None:
        """All like terms at once, where that is more than the book does in a line."""
        most = max(sum(t.var == var for t in side) for side in (self.left, self.right) for var in (True, False))
        return self._with_joined(most) if most > 2 else None

    def _with_joined(self, most: int) -> Step | None:
        """`most` like terms of a kind at most on each side are joined."""

        def messy(terms: Side) -> bool:
            num_vars = sum(t.var for t in terms)
            zero = len(terms) > 1 and any(t.numerator == 0 for t in terms)
            return num_vars > 1 or len(terms) - num_vars > 1 or zero or any(t.denominator != 1 for t in terms)

        if not messy(self.left) and not messy(self.right):
            return None
        origins: list[Origin] = []

        def side(terms: Side) -> Side:
            out: list[Term] = []
            for var in (True, False):
                parts = [t for t in terms if t.var == var]
                joined, rest = parts[:most], parts[most:]
                total = sum((t.coefficient for t in joined), Fraction(0))
                others = bool(rest or out) or len(terms) > len(parts)
                if joined and (total or not others or (not var and not out and not rest)):
                    out.append(Term(total.numerator, total.denominator, var=var and bool(total)))
                    if len(joined) == 1:
                        origins.append(COPY)
                    else:
                        operands = tuple(t.coefficient for t in joined)
                        origins.append(Origin("sum", chained(joined, self.name), operands, _back_by(joined[1:], joined[0])))
                out.extend(rest)
                origins.extend([COPY] * len(rest))
            if not out:
                out.append(Term(0))
                origins.append(COPY)
            return tuple(out)

        left, right = side(self.left), side(self.right)
        made = Equation(left, right, self.name)
        return None if made == self else (made, origins)

    def _gather(self) -> tuple[Line, list[Origin]] | None:
        left_var = next((t for t in self.left if t.var), None)
        right_var = next((t for t in self.right if t.var), None)
        if right_var is None:
            return None
        if left_var is None:
            return self._turned([COPY] * (len(self.left) + len(self.right)))
        total = left_var.numerator - right_var.numerator
        if not total:
            raise OutsideDomain("the equation has no single solution")
        rest_left = tuple(t for t in self.left if not t.var)
        rest_right = tuple(t for t in self.right if not t.var) or (Term(0),)
        moved = replace(right_var, numerator=-right_var.numerator)
        operation = signed([single(left_var, self.name), single(moved, self.name)])
        origin = Origin("move", operation, (left_var.coefficient, right_var.coefficient))
        made = Equation((Term(total, var=True), *rest_left), rest_right, self.name)
        return made, [origin] + [COPY] * (len(rest_left) + len(rest_right))

    def _isolate(self) -> tuple[Line, list[Origin]] | None:
        constant = next((t for t in self.left if not t.var), None)
        if constant is None:
            return None
        var = next((t for t in self.left if t.var), None)
        if var is None:
            raise OutsideDomain("the equation has no single solution")
        total, origin = self._across(constant, self.right[0])
        return Equation((var,), (total,), self.name), [COPY, origin]

    def _across(self, number: Term, to: Term) -> tuple[Term, Origin]:
        """A whole number changes sides and is joined with the one there: what they make, and where that comes from."""
        moved = replace(number, numerator=-number.numerator)
        operation = signed([single(to, self.name), single(moved, self.name)])
        origin = Origin("move", operation, (to.coefficient, number.coefficient), _back_by([moved], to))
        return Term(to.numerator - number.numerator), origin

    def _divide(self) -> tuple[Line, list[Origin]] | None:
        if len(self.left) != 1 or len(self.right) != 1 or not self.left[0].var:
            return None
        coefficient, right = self.left[0].coefficient, self.right[0].coefficient
        if not coefficient:
            raise OutsideDomain("the equation has no single solution")
        value = right / coefficient
        operation = f"{single(self.right[0], self.name)} / {number_text(coefficient)}"
        made = Equation((Term(1, var=True),), (Term(value.numerator, value.denominator),), self.name)
        by = number_text(coefficient)
        undo = Undo(lambda leaf: (f"{by} times {leaf.text()}", coefficient * leaf.value), right)
        return made, [COPY, Origin("divide", operation, (right, coefficient), undo)]


@lru_cache(maxsize=4096)
def _next(line: Equation) -> Step | None:
    """A solution is walked again and again while mistakes are put into it and attempts at it are checked."""
    return line.by_rule()


@lru_cache(maxsize=4096)
def read_equation(text: str, name: str | None = None) -> Equation:
    """Reads `left = right` in one unknown (`name` where it is known). Raises OutsideDomain otherwise."""
    parts = text.split("=")
    if len(parts) != 2:
        raise OutsideDomain("an equation needs exactly one equals sign")
    trees = [parse(part) for part in parts]
    names = variables(trees[0]) | variables(trees[1])
    if len(names) > 1 or (name is not None and names - {name}):
        raise OutsideDomain("the equation has more than one unknown")
    for tree in trees:
        linear(tree)
    unknown = name or next(iter(names), None)
    if unknown is None:
        raise OutsideDomain("the equation has no unknown")
    return Equation(tuple(terms_of(trees[0])), tuple(terms_of(trees[1])), unknown)


def canonical_equation(equation: Equation) -> str:
    """One text for all names, spacings and orders, of terms and of sides, of an equation."""
    sides = sorted(side_text(_sorted_side(side), "x") for side in (equation.left, equation.right))
    return f"equation {' = '.join(sides)}"


def _sorted_side(side: Side) -> Side:
    """Terms in the order of their texts, also those in brackets; products of numbers as what they are."""
    ordered = (replace(t, group=_sorted_side(t.group)) if t.group is not None else t for t in map(folded, side))
    return tuple(sorted(ordered, key=lambda t: side_text((t,), "x")))
