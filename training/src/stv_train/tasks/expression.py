"""Arithmetic with at most one unknown: reading typed text into a tree, and the tree's exact value.

Knows nothing of solving. A fraction keeps numerator and denominator as written (8/12 is not 2/3), because a worked
solution passes through unreduced ones; a decimal is the fraction that it is. `a/b` written without spaces between two whole
numbers binds tightest, as on paper: `6 ÷ 3/4` is 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..errors import OutsideDomain

MAX_TEXT = 400
MAX_NUMBER = 10**7
MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Num:
    """numerator / denominator as written; the denominator is positive."""

    numerator: int
    denominator: int = 1

    @property
    def value(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)


@dataclass(frozen=True, slots=True)
class Var:
    name: str


@dataclass(frozen=True, slots=True)
class Neg:
    operand: Expr


@dataclass(frozen=True, slots=True)
class Bin:
    op: str  # one of + - * /
    left: Expr
    right: Expr


Expr = Num | Var | Neg | Bin

_TOKEN = re.compile(r"\s*(?:(?P<num>\d+\.\d+%?|\d+/\d+(?![\d.])|\d+%?)|(?P<var>[A-Za-z])(?![A-Za-z])|(?P<op>\*\*|[-+*/()^−–×·⋅÷:]))")
_SAME_OP = {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", ":": "/"}


def read_number(text: str) -> Num:
    """Reads 3, 3/4, 0.75 or 75%. Raises OutsideDomain for what is too large, and where it divides by zero."""
    if len(text) > MAX_TEXT:
        raise OutsideDomain("a number is too large")
    percent = text.endswith("%")
    text = text.rstrip("%")
    if "/" in text:
        top, bottom = (int(part) for part in text.split("/"))
    elif "." in text:
        top, bottom = Fraction(text).as_integer_ratio()  # nobody expects 3.5 to be reduced
    else:
        top, bottom = int(text), 1
    if percent:
        bottom *= 100
    if bottom == 0:
        raise OutsideDomain("division by zero")
    if max(top, bottom) > MAX_NUMBER:
        raise OutsideDomain("a number is too large")
    return Num(top, bottom)


def _tokens(text: str) -> list[str | Num | Var]:
    if len(text) > MAX_TEXT:
        raise OutsideDomain(f"an expression of {len(text)} characters is too long")
    out: list[str | Num | Var] = []
    text = text.rstrip()
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise OutsideDomain(f"cannot read {text[at : at + 12]!r}")
        if match["num"]:
            out.append(read_number(match["num"]))
        elif match["var"]:
            out.append(Var(match["var"]))
        else:
            op = _SAME_OP.get(match["op"], match["op"])
            if op in ("^", "**"):
                raise OutsideDomain("powers are not part of this pack")
            out.append(op)
        at = match.end()
    return out


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0

    def peek(self) -> str | Num | Var | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def sum(self, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise OutsideDomain("brackets are nested too deep")
        left = self.product(depth)
        while (op := self.peek()) in ("+", "-"):
            self.at += 1
            left = Bin(str(op), left, self.product(depth))
        return left

    def product(self, depth: int) -> Expr:
        left = self.signed(depth)
        while True:
            token = self.peek()
            if token in ("*", "/"):
                self.at += 1
                left = Bin(str(token), left, self.signed(depth))
            elif token == "(" or isinstance(token, Var):  # 3(x + 1), 3x, x(2)
                left = Bin("*", left, self.atom(depth))
            else:
                return left

    def signed(self, depth: int) -> Expr:
        if self.peek() == "-":
            self.at += 1
            operand = self.signed(depth + 1)
            return Num(-operand.numerator, operand.denominator) if isinstance(operand, Num) else Neg(operand)
        if self.peek() == "+":
            self.at += 1
            return self.signed(depth + 1)
        return self.atom(depth)

    def atom(self, depth: int) -> Expr:
        token = self.peek()
        if token == "(":
            self.at += 1
            inside = self.sum(depth + 1)
            if self.peek() != ")":
                raise OutsideDomain("a bracket is not closed")
            self.at += 1
            return inside
        if isinstance(token, Num | Var):
            self.at += 1
            return token
        raise OutsideDomain("a number is missing")


def parse(text: str) -> Expr:
    """Reads one expression. Raises OutsideDomain for anything else, so that no caller guesses."""
    parser = _Parser(text)
    tree = parser.sum(0)
    if parser.peek() is not None:
        raise OutsideDomain(f"cannot read {text!r} to its end")
    return tree


def variables(tree: Expr) -> set[str]:
    match tree:
        case Num():
            return set()
        case Var(name):
            return {name}
        case Neg(operand):
            return variables(operand)
        case Bin(_, left, right):
            return variables(left) | variables(right)


def linear(tree: Expr) -> tuple[Fraction, Fraction]:
    """(a, b) of a * unknown + b, exact. Raises OutsideDomain where the tree is not linear or divides by zero."""
    match tree:
        case Num():
            return Fraction(0), tree.value
        case Var():
            return Fraction(1), Fraction(0)
        case Neg(operand):
            a, b = linear(operand)
            return -a, -b
        case Bin(op, left, right):
            (a, b), (c, d) = linear(left), linear(right)
            if op == "+":
                return a + c, b + d
            if op == "-":
                return a - c, b - d
            if op == "*":
                if a and c:
                    raise OutsideDomain("a square of the unknown is not part of this pack")
                return a * d + b * c, b * d
            if c or not d:
                raise OutsideDomain("division by zero or by the unknown")
            return a / d, b / d


Member = tuple[str, Expr]
"""A member of a sum or a product with the sign before it."""


def members(tree: Expr, ops: str, inverse: bool = False) -> list[Member]:
    """A sum (ops `+-`) or a product (`*/`) as its members, also of its own kind in brackets: 20 - (3 + 4) is 20, -3, -4."""
    if isinstance(tree, Bin) and tree.op in ops:
        return [*members(tree.left, ops, inverse), *members(tree.right, ops, inverse != (tree.op == ops[1]))]
    return [(ops[inverse], tree)]


def member_key(member: Member, reduced: bool = False) -> str:
    """Equal for members that are the same: 3 taken away is -3 added."""
    op, tree = member
    if op == "-" and isinstance(tree, Num):
        op, tree = "+", Num(-tree.numerator, tree.denominator)
    return op + canonical(tree, reduced)


def canonical(tree: Expr, reduced: bool = False) -> str:
    """The same for every order of the members of a sum or a product, what is taken away or divided by included, and with or without
    brackets around a part of them; with `reduced` also however numbers are written."""
    match tree:
        case Num(numerator, denominator):
            return number_text(tree.value) if reduced else f"{numerator}" if denominator == 1 else f"{numerator}/{denominator}"
        case Var(name):
            return name
        case Neg(operand):
            return f"-({canonical(operand, reduced)})"
        case Bin(op):
            ops = "+-" if op in "+-" else "*/"
            return f"({''.join(sorted(member_key(member, reduced) for member in members(tree, ops)))})"


def number_text(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
