"""Order of operations, fractions and percentages: lines without an unknown, one operation per line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm

from ..errors import OutsideDomain
from .expression import (
    MAX_NUMBER,
    Bin,
    Expr,
    Member,
    Neg,
    Num,
    canonical,
    linear,
    member_key,
    members,
    number_text,
    parse,
    read_number,
    variables,
)
from .parts import Cancelled, Multiplied, Reduced, Summed, Widened
from .steps import MAX_SKIPPED, ByTheBook, Claim, Leaf, Line, Origin, Step, Undo, Working

COPY = Origin("copy")
_PERCENT = re.compile(r"(\d+(?:/\d+|\.\d+)?) ?%")
Path = tuple[str, ...]


def _num_text(num: Num) -> str:
    return str(num.numerator) if num.denominator == 1 else f"{num.numerator}/{num.denominator}"


def _precedence(tree: Expr) -> int:
    return 3 if not isinstance(tree, Bin) else 1 if tree.op in "+-" else 2


def _has_fraction(tree: Expr) -> bool:
    return isinstance(tree, Num) and tree.denominator != 1


def _text(tree: Expr, first: bool = True) -> str:
    if isinstance(tree, Num):
        text = _num_text(tree)
        return text if first or tree.numerator >= 0 else f"({text})"
    if not isinstance(tree, Bin):
        raise OutsideDomain("an expression here has no unknown")
    level = _precedence(tree)
    left, right = tree.left, tree.right
    open_left = _precedence(left) < level
    left_text = f"({_text(left)})" if open_left else _text(left, first)
    right_text = f"({_text(right)})" if _precedence(right) <= level else _text(right, False)
    sign = "÷" if tree.op == "/" and (_has_fraction(left) or _has_fraction(right)) else tree.op
    return f"{left_text} {sign} {right_text}"


def _shape(tree: Expr) -> str:
    if isinstance(tree, Num):
        return "1"
    if not isinstance(tree, Bin):
        raise OutsideDomain("an expression here has no unknown")
    return f"({_shape(tree.left)}{tree.op}{_shape(tree.right)})"


def _leaves(tree: Expr) -> list[Num]:
    if isinstance(tree, Num):
        return [tree]
    if not isinstance(tree, Bin):
        raise OutsideDomain("an expression here has no unknown")
    return _leaves(tree.left) + _leaves(tree.right)


def _fill(tree: Expr, leaves: list[Leaf]) -> Expr:
    if isinstance(tree, Num):
        leaf = leaves.pop(0)
        return Num(leaf.numerator, leaf.denominator)
    if not isinstance(tree, Bin):
        raise OutsideDomain("an expression here has no unknown")
    left = _fill(tree.left, leaves)
    return Bin(tree.op, left, _fill(tree.right, leaves))


def _without_signs(tree: Expr) -> Expr:
    """-(3 + 4) becomes -1 * (3 + 4), so that one operation is one Bin."""
    match tree:
        case Neg(operand):
            return Bin("*", Num(-1), _without_signs(operand))
        case Bin(op, left, right):
            return Bin(op, _without_signs(left), _without_signs(right))
        case Num():
            return tree
    raise OutsideDomain("an expression here has no unknown")


def _undo(node: Bin) -> Undo | None:
    """The way back from the result of one operation on two whole numbers to the first of them; `_working` has that of others."""
    a, b = node.left, node.right
    if not isinstance(a, Num) or not isinstance(b, Num) or max(a.denominator, b.denominator) > 1 or (node.op in "*/" and not b.numerator):
        return None
    op = {"+": "-", "-": "+", "*": "/", "/": "*"}[node.op]

    def way(leaf: Leaf) -> tuple[str, Fraction]:
        back = Bin(op, Num(leaf.numerator, leaf.denominator), b)
        return _text(back), linear(back)[1]

    return Undo(way, a.value)


def _working(node: Bin) -> Working | None:
    """How the result of one operation on two numbers is worked out by whole numbers; None where it is one of whole numbers itself."""
    a, b = node.left, node.right
    if not isinstance(a, Num) or not isinstance(b, Num) or a.denominator == b.denominator == 1:
        return None
    if node.op in "+-":
        return Summed(a, b, node.op)
    if node.op == "*":
        return Multiplied(a, b)
    return Multiplied(a, turned, f"{_turning(b)} is {_num_text(turned)}") if (turned := _turned(b)) is not None else None


def _turned(num: Num) -> Num | None:
    """1 ÷ num; None for zero."""
    sign = 1 if num.numerator > 0 else -1
    return Num(sign * num.denominator, abs(num.numerator)) if num.numerator else None


def _turning(num: Num) -> str:
    """The operation of its own that dividing by a fraction begins with, without a number that might be the answer."""
    return f"{_num_text(num)} turned over"


def _operation(node: Bin) -> tuple[Expr, list[Origin]]:
    """One operation on two numbers: what takes its place, and the origins of the numbers there."""
    a, b = node.left, node.right
    if not isinstance(a, Num) or not isinstance(b, Num):
        raise OutsideDomain("an operation needs two numbers")
    text = _text(node)
    operands = (a.value, b.value)
    if node.op in "+-":
        sign = 1 if node.op == "+" else -1
        if a.denominator == b.denominator:
            return Num(a.numerator + sign * b.numerator, a.denominator), [Origin("sum", text, operands, _undo(node), _working(node))]
        common = lcm(a.denominator, b.denominator)

        def widened(num: Num) -> tuple[Num, Origin]:
            if num.denominator == common:
                return num, COPY
            wide = Num(num.numerator * (common // num.denominator), common)
            return wide, Origin("common", _num_text(num), (num.value, Fraction(common)), working=Widened(num, common))

        (left, from_left), (right, from_right) = widened(a), widened(b)
        return Bin(node.op, left, right), [from_left, from_right]
    if node.op == "*":
        made = Num(a.numerator * b.numerator, a.denominator * b.denominator)
        return made, [Origin("times", text, operands, _undo(node), _working(node))]
    turned = _turned(b)
    if turned is None:
        raise OutsideDomain("division by zero")
    if a.denominator == b.denominator == 1:
        value = Fraction(a.numerator, b.numerator)
        result = Num(value.numerator) if value.denominator == 1 else Num(a.numerator * turned.numerator, turned.denominator)
        return result, [Origin("divide", text, operands, _undo(node))]
    return Bin("*", a, turned), [COPY, Origin("flip", _turning(b), (b.value,))]


def _cancelled(node: Bin) -> tuple[Expr, list[Origin]] | None:
    """A fraction times a whole number with what both can be divided by taken out first, as people do in the head: 4/5 * 420 is
    4 * 84. None where there is nothing to take out."""
    for fraction, whole in ((node.left, node.right), (node.right, node.left)):
        if node.op != "*" or not isinstance(fraction, Num) or not isinstance(whole, Num) or whole.denominator != 1:
            continue
        by = gcd(fraction.denominator, whole.numerator)
        if by < 2 or not whole.numerator:
            continue
        less, rest = fraction.denominator // by, Num(whole.numerator // by)
        left = COPY if less == 1 else Origin("cancel", _num_text(fraction), (fraction.value,), working=Cancelled(fraction, by))
        right = Origin("cancel", f"{_num_text(whole)} / {by}", (whole.value, Fraction(by)))
        made = Num(fraction.numerator, less)
        return (Bin("*", made, rest), [left, right]) if fraction is node.left else (Bin("*", rest, made), [right, left])
    return None


def _find(tree: Expr, bracketed: bool, path: Path) -> list[tuple[tuple[int, int], Path]]:
    """Places where something can be done, with their priority: whole fractions and hundredths that can be reduced, brackets, * and /,
    + and -."""
    if isinstance(tree, Num):
        whole = tree.denominator > 1 and tree.numerator % tree.denominator == 0
        # 75/100 * 72 is 3/4 * 72 first: 75 times 72 is more than a head holds.
        hundredths = bool(path) and tree.denominator == 100 and gcd(tree.numerator, 100) > 1
        return [((0, len(path)), path)] if whole or hundredths else []
    if not isinstance(tree, Bin):
        raise OutsideDomain("an expression here has no unknown")
    level = _precedence(tree)
    a, b = tree.left, tree.right
    if isinstance(a, Num) and isinstance(b, Num) and level == 1 and a.denominator == b.denominator:
        # 6/3 + 1/3 is added as it stands: writing 2 for 6/3 would only be undone again.
        return [((1 if bracketed else 2, 1), path)]
    found = _find(tree.left, bracketed or _precedence(tree.left) < level, (*path, "left"))
    found += _find(tree.right, bracketed or _precedence(tree.right) <= level, (*path, "right"))
    if isinstance(tree.left, Num) and isinstance(tree.right, Num):
        found.append(((1 if bracketed else 2, 0 if level == 2 else 1), path))
    return found


def _at(tree: Expr, path: Path) -> Expr:
    for side in path:
        if not isinstance(tree, Bin):
            raise OutsideDomain("no such place")
        tree = tree.left if side == "left" else tree.right
    return tree


def _replace(tree: Expr, path: Path, made: Expr, origins: list[Origin]) -> tuple[Expr, list[Origin]]:
    if not path:
        return made, origins
    if not isinstance(tree, Bin):
        raise OutsideDomain("no such place")
    left, right = tree.left, tree.right
    if path[0] == "left":
        left, inner = _replace(left, path[1:], made, origins)
        return Bin(tree.op, left, right), inner + [COPY] * len(_leaves(right))
    right, inner = _replace(right, path[1:], made, origins)
    return Bin(tree.op, left, right), [COPY] * len(_leaves(left)) + inner


@dataclass(frozen=True, slots=True)
class Expression(ByTheBook):
    """A line of a calculation."""

    tree: Expr

    def text(self) -> str:
        return _text(self.tree)

    def shape(self) -> str:
        return _shape(self.tree)

    def leaves(self) -> list[Leaf]:
        return [Leaf(num.numerator, num.denominator) for num in _leaves(self.tree)]

    def with_leaves(self, leaves: list[Leaf]) -> Expression:
        return Expression(_fill(self.tree, list(leaves)))

    def value(self) -> Fraction:
        return linear(self.tree)[1]

    def after(self, previous: Line) -> Line | None:
        same = isinstance(previous, Expression | PercentQuestion) and self.value() == previous.value()
        return self if same else None

    def claims(self, previous: Line) -> list[Claim]:
        return []

    def answer(self) -> Fraction | None:
        tree = self.tree
        if isinstance(tree, Num) and gcd(tree.numerator, tree.denominator) == 1:
            return tree.value
        return None

    def next(self) -> Step | None:
        return next(self.ways(), None)

    def ways(self) -> Iterator[Step]:
        """A whole number that a fraction is multiplied by is made smaller first; it may be multiplied as it is too."""
        if self.answer() is not None:
            return
        places = _find(self.tree, False, ())
        if not places:
            if not isinstance(self.tree, Num):
                raise OutsideDomain("nothing can be done here")
            places = [((0, 0), ())]
        path = min(places, key=lambda place: place[0])[1]
        node = _at(self.tree, path)
        if isinstance(node, Num):
            value = node.value
            reduced = Num(value.numerator, value.denominator)
            yield self._with(path, reduced, [Origin("reduce", _num_text(node), (value,), working=Reduced(node))])
        elif isinstance(node, Bin):
            if (cancelled := _cancelled(node)) is not None:
                yield self._with(path, *cancelled)
            yield self._with(path, *_operation(node))

    def _with(self, path: Path, made: Expr, origins: list[Origin]) -> Step:
        tree, origins = _replace(self.tree, path, made, origins)
        if max(max(abs(num.numerator), num.denominator) for num in _leaves(tree)) > MAX_NUMBER:
            raise OutsideDomain("the numbers grow too large")
        return Expression(tree), origins

    def across(self) -> Expression | None:
        """The line with its fractions added across, `3/8` for `2/3 + 1/5`, as is often done; None where it is no such sum."""
        tree = self.tree
        if not isinstance(tree, Bin) or tree.op not in "+-" or not isinstance(tree.left, Num) or not isinstance(tree.right, Num):
            return None
        a, b, sign = tree.left, tree.right, 1 if tree.op == "+" else -1
        bottom = a.denominator + sign * b.denominator
        return Expression(Num(a.numerator + sign * b.numerator, bottom)) if bottom > 0 and min(a.denominator, b.denominator) > 1 else None


@dataclass(frozen=True, slots=True)
class PercentQuestion(ByTheBook):
    """A percentage question in words; its first step is the calculation to do."""

    kind: str  # of, increase, decrease, share
    first: Fraction
    second: Fraction

    def text(self) -> str:
        a, b = number_text(self.first), number_text(self.second)
        return {
            "of": f"{a}% of {b}",
            "increase": f"{b} increased by {a}%",
            "decrease": f"{b} decreased by {a}%",
            "share": f"{a} is what percent of {b}",
        }[self.kind]

    def calculation(self) -> Expression:
        percent = _over_hundred(self.first)
        amount = Num(self.second.numerator, self.second.denominator)
        part = Bin("*", percent, amount)
        if self.kind == "of":
            return Expression(part)
        if self.kind == "increase":
            return Expression(Bin("+", amount, part))
        if self.kind == "decrease":
            return Expression(Bin("-", amount, part))
        ratio = self.first / self.second
        whole = self.first.denominator == self.second.denominator == 1
        if whole:
            return Expression(Bin("*", Num(self.first.numerator, self.second.numerator), Num(100)))
        return Expression(Bin("*", Num(ratio.numerator, ratio.denominator), Num(100)))

    def shape(self) -> str:
        return self.kind

    def leaves(self) -> list[Leaf]:
        return []

    def with_leaves(self, leaves: list[Leaf]) -> PercentQuestion:
        return self

    def value(self) -> Fraction:
        return self.calculation().value()

    def after(self, previous: Line) -> Line | None:
        return None

    def claims(self, previous: Line) -> list[Claim]:
        return []

    def answer(self) -> Fraction | None:
        return None

    def next(self) -> tuple[Line, list[Origin]] | None:
        made = self.calculation()
        return made, [COPY] * len(made.leaves())


def _calculation(line: Line) -> Line:
    """The calculation that a question asks for; any other line as it is."""
    return line.calculation() if isinstance(line, PercentQuestion) else line


def _over_hundred(percent: Fraction) -> Num:
    return Num(percent.numerator, 100 * percent.denominator)


@dataclass(frozen=True, slots=True)
class Statement(ByTheBook):
    """`30 * 2 = 60`: a line about the whole calculation, or about a part of it that the last value takes the place of."""

    parts: tuple[Expr, ...]
    in_percent: bool = False
    """The last value was written with the sign, `20/80 = 25%`: it answers what percent the first one is."""

    def text(self) -> str:
        return " = ".join(_text(part) for part in self.parts)

    def shape(self) -> str:
        return "=".join(_shape(part) for part in self.parts)

    def leaves(self) -> list[Leaf]:
        return [Leaf(num.numerator, num.denominator) for part in self.parts for num in _leaves(part)]

    def with_leaves(self, leaves: list[Leaf]) -> Statement:
        rest = list(leaves)
        return replace(self, parts=tuple(_fill(part, rest) for part in self.parts))

    def after(self, previous: Line) -> Line | None:
        if any(linear(left)[1] != linear(right)[1] for left, right in pairwise(self.parts)):
            return None
        if self.in_percent and isinstance(previous, Expression | PercentQuestion) and self._percent() == previous.value():
            return Expression(Num(self._percent().numerator, self._percent().denominator))
        if (made := self._within(previous)) is not None:
            return Expression(made)
        same = isinstance(previous, Expression | PercentQuestion) and linear(self.parts[0])[1] == previous.value()
        return Expression(self.parts[-1]) if same else None

    def claims(self, previous: Line) -> list[Claim]:
        return [_claim(left, right) for left, right in pairwise(self.parts)]

    def chain(self, previous: Line) -> Sequence[Line]:
        return [Expression(part) for part in self.parts] if self._is_about_all(previous) and not self.in_percent else []

    def _within(self, previous: Line) -> Expr | None:
        """What stands once the last value has taken the place of a part of `previous`, or of what it becomes in a few steps that were left
        out; None where the statement is about no part."""
        previous = _calculation(previous)
        first, last = self.parts[0], self.parts[-1]
        if not isinstance(previous, Expression) or canonical(previous.tree, reduced=True) == canonical(first, reduced=True):
            return None
        line: Line = previous
        for _ in range(MAX_SKIPPED + 1):
            if not isinstance(line, Expression):
                return None
            if (made := _substitute(line.tree, first, last)) is not None:
                return made
            if (step := line.next()) is None:
                return None
            line = step[0]
        return None

    def _is_about_all(self, previous: Line) -> bool:
        """It is about no part of `previous`, or about one that is all of it once some steps are done. What takes numbers of `previous` as
        they stand, and leaves some, is meant to be about a part: `12 + 30 = 42` of 12 + 30 * 2."""
        within = self._within(previous)
        if within is not None:
            return within == self.parts[-1]
        return not Counter(Expression(self.parts[0]).leaves()) < Counter(_calculation(previous).leaves())

    def _percent(self) -> Fraction:
        return 100 * linear(self.parts[-1])[1]

    def answer(self) -> Fraction | None:
        return None

    def stated(self) -> Fraction | None:
        return self._percent() if self.in_percent else Expression(self.parts[-1]).answer()

    def next(self) -> tuple[Line, list[Origin]] | None:
        return None


def _claim(left: Expr, right: Expr) -> Claim:
    """`left = right`, with the numbers as they are written; the result of one operation as the book has it, unreduced."""
    value, said = linear(left)[1], linear(right)[1]
    got = Leaf(right.numerator, right.denominator) if isinstance(right, Num) else Leaf(said.numerator, said.denominator)
    single = isinstance(left, Bin) and isinstance(left.left, Num) and isinstance(left.right, Num)
    made = _operation(left)[0] if single and isinstance(left, Bin) else None
    want = Leaf(made.numerator, made.denominator) if isinstance(made, Num) else Leaf(value.numerator, value.denominator)
    return Claim(_text(left), got if value == said else want, got, working=_working_towards(left, right))


def _working_towards(left: Expr, right: Expr) -> Working | None:
    """How `right`, as one number, is checked against an operation, or against a fraction that it is another form of."""
    if not isinstance(right, Num):
        return None
    if isinstance(left, Num):
        small, large = sorted((left.denominator, right.denominator))
        return Reduced(left) if small < large and large % small == 0 else None
    return _working(left) if isinstance(left, Bin) else None


def _joined(items: list[Member]) -> Expr:
    tree = items[0][1]
    for op, member in items[1:]:
        tree = Bin(op, tree, member)
    return tree


def _without(items: list[Member], part: list[Member]) -> tuple[int, list[Member]] | None:
    """Where the first member of `part` stood, and the items without its members; None where one is missing."""
    rest, places = list(enumerate(items)), list[int]()
    for wanted in part:
        found = next((item for item in rest if member_key(item[1], reduced=True) == member_key(wanted, reduced=True)), None)
        if found is None:
            return None
        rest.remove(found)
        places.append(found[0])
    return min(places), [item for _, item in rest]


def _substitute(tree: Expr, part: Expr, value: Expr) -> Expr | None:
    """`tree` with `value` in the place of `part`: a node, or members of a sum or a product in any order; None where it does not occur."""
    if canonical(tree, reduced=True) == canonical(part, reduced=True):
        return value
    if not isinstance(tree, Bin):
        return None
    if (left := _substitute(tree.left, part, value)) is not None:
        return Bin(tree.op, left, tree.right)
    if (right := _substitute(tree.right, part, value)) is not None:
        return Bin(tree.op, tree.left, right)
    for ops in ("+-", "*/"):
        whole, wanted = members(tree, ops), members(part, ops)
        if 1 < len(wanted) < len(whole) and (found := _without(whole, wanted)) is not None:
            at, rest = found
            return _joined([*rest[:at], (ops[0], value), *rest[at:]])
    return None


def read_expression(text: str) -> Expression:
    """Reads a calculation; a leading or a trailing equals sign is style. Raises OutsideDomain otherwise."""
    tree = parse(text.strip().removeprefix("=").removesuffix("=").strip())
    if variables(tree):
        raise OutsideDomain("a calculation has no unknown")
    linear(tree)
    return Expression(_without_signs(tree))


def read_share_line(text: str, question: PercentQuestion) -> Expression | Statement:
    """Reads a line about what percent one number is of another; raises OutsideDomain otherwise. `25%` alone states 25, and so it does
    behind what is worth 25 without the sign, `20/80 * 100 = 25%`. Joined with anything else it is hundredths: `20/80 = 25%`."""
    bare = read_calculation_line(text.replace("%", ""))
    if "%" not in text or isinstance(bare, Expression):
        return bare
    parts = [part.strip() for part in text.split("=") if part.strip()]
    if "%" not in parts[0] and linear(bare.parts[0])[1] == question.value():
        return bare
    hundredths = (read_expression(_PERCENT.sub(_in_hundredths, part)).tree for part in parts)
    return Statement(tuple(hundredths), in_percent=_PERCENT.fullmatch(parts[-1]) is not None)


def _in_hundredths(percent: re.Match[str]) -> str:
    return _num_text(_over_hundred(read_number(percent[1]).value))


def read_calculation_line(text: str) -> Expression | Statement:
    """Reads a line of a worked calculation: what is left to do, or a statement with equals signs."""
    parts = [part for part in text.strip().split("=") if part.strip()]
    if len(parts) < 2:
        return read_expression(text)
    return Statement(tuple(read_expression(part).tree for part in parts))
