"""Linear equations in one unknown: lines, the canonical solver, reading, and generators by level.

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
from .expression import Bin, Expr, Neg, Num, Var, linear, number_text, parse, variables
from .steps import Claim, Habits, Leaf, Line, Origin, Step, Undo, canonical_lines


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
COPY = Origin("copy")
TURNED = 0.15  # share of lines that somebody untidy writes with their sides changed
SHUFFLED = 0.3  # of sides with their terms in another order


def _terms(tree: Expr) -> list[Term]:
    match tree:
        case Num(numerator, denominator):
            return [Term(numerator, denominator)]
        case Var():
            return [Term(1, 1, var=True)]
        case Neg(operand):
            return _scaled(Fraction(-1), _terms(operand), -1, 1)
        case Bin("+", left, right):
            return _terms(left) + _terms(right)
        case Bin("-", left, right):
            return _terms(left) + _scaled(Fraction(-1), _terms(right), -1, 1)
        case Bin("*", left, right):
            if variables(left) and variables(right):
                raise OutsideDomain("a square of the unknown is not part of this pack")
            factor, rest = (left, right) if not variables(left) else (right, left)
            if isinstance(rest, Bin) and rest.op in "+-" and not variables(rest) and variables(factor):
                factor, rest = rest, factor
            value = linear(factor)[1]
            if isinstance(factor, Num):
                return _scaled(value, _terms(rest), factor.numerator, factor.denominator)
            return _scaled(value, _terms(rest), value.numerator, value.denominator)
        case Bin("/", left, right):
            if variables(right) or not linear(right)[1]:
                raise OutsideDomain("division by zero or by the unknown")
            value = 1 / linear(right)[1]
            return _scaled(value, _terms(left), value.numerator, value.denominator)
    raise OutsideDomain("this is no linear expression")


def _scaled(value: Fraction, terms: list[Term], numerator: int, denominator: int) -> list[Term]:
    if len(terms) == 1:
        only = terms[0]
        top, bottom = only.numerator * numerator, only.denominator * denominator
        if bottom < 0:
            top, bottom = -top, -bottom
        return [replace(only, numerator=top, denominator=bottom)]
    return [Term(value.numerator, value.denominator, group=tuple(terms))]


def _value(side: Side) -> tuple[Fraction | int, Fraction | int]:
    a: Fraction | int = 0
    b: Fraction | int = 0
    for term in side:
        factor = term.numerator if term.denominator == 1 else term.coefficient  # fractions take ten times as long
        if term.group is not None:
            inner_a, inner_b = _value(term.group)
            a, b = a + factor * inner_a, b + factor * inner_b
        elif term.var:
            a += factor
        else:
            b += factor
    return a, b


def _term_text(term: Term, name: str) -> str:
    """Without its sign."""
    top, bottom = abs(term.numerator), term.denominator
    tail = "" if bottom == 1 else f"/{bottom}"
    if term.group is not None:
        return f"{'' if top == 1 else top}({_side_text(term.group, name)}){tail}"
    if term.var:
        return f"{'' if top == 1 else top}{name}{tail}"
    return f"{top}{tail}"


def _side_text(side: Side, name: str) -> str:
    out = ""
    for index, term in enumerate(side):
        negative = term.numerator < 0
        joint = ("-" if negative else "") if index == 0 else (" - " if negative else " + ")
        out += joint + _term_text(term, name)
    return out


def _shape(side: Side) -> str:
    return ",".join(f"({_shape(t.group)})" if t.group is not None else ("x" if t.var else "1") for t in side)


def _leaves(side: Side, name: str) -> list[Leaf]:
    out: list[Leaf] = []
    for term in side:
        suffix = "(" if term.group is not None else (name if term.var else "")
        if term.group is None:
            out.append(Leaf(term.numerator, term.denominator, suffix))
        else:
            out.append(Leaf(term.numerator, term.denominator))
            out.extend(_leaves(term.group, name))
    return out


def _fill(side: Side, leaves: list[Leaf]) -> Side:
    """Takes its leaves from the front of `leaves`."""
    out: list[Term] = []
    for term in side:
        leaf = leaves.pop(0)
        group = _fill(term.group, leaves) if term.group is not None else None
        out.append(replace(term, numerator=leaf.numerator, denominator=leaf.denominator, group=group))
    return tuple(out)


def _cancels(side: Side) -> bool:
    """Whether terms stand beside their opposites, as in 3x + 5 - 5."""
    return any(t.numerator and replace(t, numerator=-t.numerator) in side for t in side)


def _count(side: Side) -> int:
    return sum(1 + (_count(t.group) if t.group is not None else 0) for t in side)


_Block = tuple[Term, list[Origin]]
"""A term and the origins of its leaves."""


def _blocks(line: Equation, origins: list[Origin]) -> tuple[list[_Block], list[_Block]]:
    rest = list(origins)

    def side(terms: Side) -> list[_Block]:
        made = []
        for term in terms:
            count = _count((term,))
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
    for is_alike in (Term.__eq__, lambda one, other: _shape((one,)) == _shape((other,))):
        for at, term in enumerate(like):
            if at not in found and (block := next((b for b in rest if is_alike(b[0], term)), None)) is not None:
                rest.remove(block)
                found[at] = block
    return [found[at] for at in range(len(like))] if len(found) == len(like) else None


def _joined(left: list[_Block], right: list[_Block], name: str) -> tuple[Equation, list[Origin]]:
    line = Equation(tuple(term for term, _ in left), tuple(term for term, _ in right), name)
    return line, [origin for _, origins in left + right for origin in origins]


def _signed(values: list[str]) -> str:
    """3x, -5x, 2 -> '3x - 5x + 2'"""
    out = values[0]
    for text in values[1:]:
        out += f" - {text[1:]}" if text.startswith("-") else f" + {text}"
    return out


def _single(term: Term, name: str) -> str:
    return ("-" if term.numerator < 0 else "") + _term_text(term, name)


def _back_by(added: list[Term], start: Term) -> Undo:
    """From a sum of numbers back to its first one."""
    back = [replace(term, numerator=-term.numerator) for term in added]
    texts = [_single(term, "") for term in back]
    total = sum((term.coefficient for term in back), Fraction(0))
    return Undo(lambda leaf: (_signed([leaf.text(), *texts]), leaf.value + total), start.coefficient)


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
        return f"{_side_text(self.left, self.name)} = {_side_text(self.right, self.name)}"

    def shape(self) -> str:
        return f"{_shape(self.left)}={_shape(self.right)}"

    def leaves(self) -> list[Leaf]:
        return _leaves(self.left, self.name) + _leaves(self.right, self.name)

    def with_leaves(self, leaves: list[Leaf]) -> Equation:
        rest = list(leaves)
        return Equation(_fill(self.left, rest), _fill(self.right, rest), self.name)

    def difference(self) -> tuple[Fraction, Fraction]:
        """(a, b) with a * unknown + b = 0."""
        (a, b), (c, d) = _value(self.left), _value(self.right)
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
        if self._is_plain() and not _cancels(self.left) and not _cancels(self.right):
            for way in (self._mirrored, self._numbers_first, self._moved, self._moved_right):
                if (made := way()) is not None:
                    yield made

    def detours(self) -> list[tuple[Equation, list[Origin]]]:
        if not self._is_plain() or self.answer() is not None or not any(t.var for t in self.left):
            return []
        if len(self.left) == len(self.right) == 1 and not self.right[0].var:
            by = abs(self.left[0].numerator)
            left, right = (tuple(replace(t, denominator=by) for t in side) for side in (self.left, self.right))
            return [(Equation(left, right, self.name), [COPY, COPY])] if by > 1 and self.right[0].numerator else []
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
        if not self._is_plain() or _cancels(self.left) or _cancels(self.right):
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
        """The first of `detours`; with the unknown on the right where it is to stay there."""
        made = next(iter((self.flipped() if right else self).detours()), None)
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
        at = _count(self.left)
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
        """7 - 2x = 3x - 8, -2x = 3x - 15"""
        sides = [([t for t in side if t.var], [t for t in side if not t.var]) for side in (self.left, self.right)]
        if any(len(vars) != 1 or len(numbers) != 1 for vars, numbers in sides):
            return None
        ((left,), (moved,)), ((right,), (number,)) = sides
        total, origin = self._across(moved, number)
        return (Equation((left,), (right, total), self.name), [COPY, COPY, origin]) if total.numerator else None

    def _moved(self) -> tuple[Equation, list[Origin]] | None:
        """Terms change sides and nothing is worked out yet: 7 - 2x = 3x - 8, -2x - 3x = -8 - 7."""
        if len(self.left) + len(self.right) < 3 or any(not t.numerator for t in self.left + self.right):
            return None

        def side(stays: Side, comes: Side, var: bool) -> list[_Block]:
            over = [replace(t, numerator=-t.numerator) for t in comes if t.var == var]
            origins = [Origin("cross", f"{_single(t, self.name)} moved", (t.coefficient,)) for t in comes if t.var == var]
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
        added = replace(term, numerator=-term.numerator), [Origin("cross", f"{_single(term, self.name)} moved", (term.coefficient,))]
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
                    origins.extend([COPY] * _count(made.group))
                    continue
                out.append(made)
                operands = (Fraction(factor), term.coefficient)
                shown = _single(replace(term, group=None), self.name)  # a bracket goes by the number before it
                origins.append(Origin("times", f"{factor} times {shown}", operands, _back_from_product(factor, term)))
                if term.group is not None:
                    origins.extend([COPY] * _count(term.group))
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
                        origins.append(Origin("times", f"{factor} times {_single(inner, self.name)}", operands))
            return tuple(out)

        return Equation(side(self.left), side(self.right), self.name), origins

    def _combine(self) -> tuple[Line, list[Origin]] | None:
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
                total = sum((t.coefficient for t in parts), Fraction(0))
                if not parts or (not total and len(terms) > len(parts) and (var or out)):
                    continue
                if not total and var and len(parts) < len(terms):
                    continue
                kind_var = var and bool(total)
                out.append(Term(total.numerator, total.denominator, var=kind_var))
                if len(parts) == 1:
                    origins.append(COPY)
                else:
                    operation = _signed([_single(t, self.name) for t in parts])
                    origins.append(Origin("sum", operation, tuple(t.coefficient for t in parts), _back_by(parts[1:], parts[0])))
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
        operation = _signed([_single(left_var, self.name), _single(moved, self.name)])
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
        operation = _signed([_single(to, self.name), _single(moved, self.name)])
        origin = Origin("move", operation, (to.coefficient, number.coefficient), _back_by([moved], to))
        return Term(to.numerator - number.numerator), origin

    def _divide(self) -> tuple[Line, list[Origin]] | None:
        if len(self.left) != 1 or len(self.right) != 1 or not self.left[0].var:
            return None
        coefficient, right = self.left[0].coefficient, self.right[0].coefficient
        if not coefficient:
            raise OutsideDomain("the equation has no single solution")
        value = right / coefficient
        operation = f"{_single(self.right[0], self.name)} / {number_text(coefficient)}"
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
    return Equation(tuple(_terms(trees[0])), tuple(_terms(trees[1])), unknown)


# --- Generators -------------------------------------------------------------------------------------------------------

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


def canonical_equation(equation: Equation) -> str:
    """One text for all names and spacings of an equation."""
    return "equation " + replace(equation, name="x").text()
