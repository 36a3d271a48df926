"""How a result with fractions is checked: by whole numbers, one small operation at a time, as sums and products are drilled.

A verifier that is asked for `13/30 - 3/15` at once has nothing to work it out with, and writes what confirms the attempt. Denominators come
first, right or wrong: a verifier that had to know beforehand whether they are wrong would write down those of the attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from .expression import Num, number_text
from .steps import Leaf, Part


def _worked(a: int, sign: str, b: int, result: int | Fraction) -> str:
    return f"{a} {sign} {b if b >= 0 else f'({b})'} is {number_text(Fraction(result))}"


def _before(text: str, value: int | Fraction, start: int) -> Part:
    return Part(text, f"before {start}", value == start)


def _over(want: int, got: int) -> Part:
    return Part(f"over {want}", f"here over {got}", want == got)


def _brought_over(got: Leaf, bottom: int) -> tuple[list[Part], int] | None:
    """The numerator of `got` over `bottom` and how it is found; None where `bottom` is no multiple of what it is over."""
    if got.denominator == bottom:
        return [], got.numerator
    factor = Fraction(bottom, got.denominator)
    if factor.denominator != 1:
        return None
    by = factor.numerator
    top = got.numerator * by
    parts = [Part(_worked(bottom, "/", got.denominator, by))] if got.denominator > 1 else []
    return [*parts, Part(_worked(got.numerator, "*", by, top))], top


def _unlike(want: Fraction, bottom: int, got: Leaf) -> Part:
    """Where the denominators have nothing to do with each other."""
    text = f"{bottom} / {got.denominator} is {number_text(Fraction(bottom, got.denominator))}"
    return Part(text, holds=want == got.value)


def _back_to(top: int, brought: tuple[list[Part], int]) -> list[Part]:
    """The numerator that was found has to be the one from before."""
    parts, there = brought
    return [*parts[:-1], _before(parts[-1].worked, there, top)]


def _compared(top: int, found: str, bottom: int, got: Leaf) -> list[Part] | None:
    """`found` says that the numerator is `top` over `bottom`; whether `got` is as much. None where the denominators are unlike."""
    if got.denominator == bottom:
        return [Part(found, f"here {got.numerator}", got.numerator == top)]
    if (brought := _brought_over(got, bottom)) is None:
        return None
    return [Part(found), *_back_to(top, brought)]


@dataclass(frozen=True, slots=True)
class Widened:
    """`2/3` over 15."""

    num: Num
    common: int

    def told(self) -> str:
        return ", ".join(part.worked for part in self.parts(self._want(), False))

    def _want(self) -> Leaf:
        return Leaf(self.num.numerator * (self.common // self.num.denominator), self.common)

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        num = self.num
        if got.denominator % num.denominator or got.denominator == num.denominator:
            return Reduced(num).parts(got, final)
        factor = got.denominator // num.denominator
        top = num.numerator * factor
        found = Part(_worked(num.numerator, "*", factor, top), f"here {got.numerator}", top == got.numerator)
        return [found] if num.denominator == 1 else [Part(_worked(got.denominator, "/", num.denominator, factor)), found]


@dataclass(frozen=True, slots=True)
class Reduced:
    """`12/36` in smaller numbers: `36 / 3 is 12, 1 * 12 is 12, before 12`."""

    num: Num

    def told(self) -> str:
        return f"{Leaf(self.num.numerator, self.num.denominator).text()} is {number_text(self.num.value)}"

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        num = self.num
        if got.denominator == num.denominator:
            return [Part(f"before {num.numerator}", f"here {got.numerator}", num.numerator == got.numerator)]
        if (brought := _brought_over(got, num.denominator)) is not None:
            return _back_to(num.numerator, brought)
        if got.denominator % num.denominator == 0:
            return Widened(num, got.denominator).parts(got, final)
        return [_unlike(num.value, num.denominator, got)]


@dataclass(frozen=True, slots=True)
class Summed:
    """`2/3 + 1/5`, over their common denominator."""

    left: Num
    right: Num
    sign: str

    @property
    def common(self) -> int:
        return lcm(self.left.denominator, self.right.denominator)

    def _widened(self) -> Iterator[tuple[int, list[str]]]:
        """Both numerators over the common denominator, and how they are found."""
        for num in (self.left, self.right):
            wide = num.numerator * (self.common // num.denominator)
            yield wide, [] if num.denominator == self.common else [Widened(num, self.common).told()]

    def _whole(self) -> tuple[int, int, int, list[Part]]:
        (a, for_a), (b, for_b) = self._widened()
        return a, b, a + b if self.sign == "+" else a - b, [Part(text) for text in for_a + for_b]

    def told(self) -> str:
        a, b, top, parts = self._whole()
        return ", ".join([*(part.worked for part in parts), f"over {self.common}", _worked(a, self.sign, b, top)])

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        a, b, top, parts = self._whole()
        want, over = Fraction(top, self.common), [_over(self.common, got.denominator)] if got.denominator == self.common else []
        if not final:
            compared = _compared(top, _worked(a, self.sign, b, top), self.common, got)
            return [*parts, *over, *(compared or [_unequal(want, self.common, got)])]
        if (brought := _brought_over(got, self.common)) is None:
            return [*parts, _unequal(want, self.common, got)]
        found, there = brought
        back = there - b if self.sign == "+" else there + b
        return [*parts, *over, *found, _before(_worked(there, "-" if self.sign == "+" else "+", b, back), back, a)]


def _unequal(want: Fraction, bottom: int, got: Leaf) -> Part:
    """`over 15, here over 8`; where the two are equal nevertheless, 2/4 for 3/6, that is said as it is."""
    return _over(bottom, got.denominator) if want != got.value else _unlike(want, bottom, got)


@dataclass(frozen=True, slots=True)
class Multiplied:
    """`3/4 * 5/2`: numerators and denominators apart. `before`: what was done first, `2/5 turned over is 5/2`."""

    left: Num
    right: Num
    before: str = ""

    @property
    def _bottom(self) -> int:
        return self.left.denominator * self.right.denominator

    def _below(self) -> str:
        """Both denominators, where it takes a product to bring them together."""
        a, b = self.left.denominator, self.right.denominator
        return _worked(a, "*", b, a * b) if min(a, b) > 1 else ""

    def _above(self) -> tuple[int, str]:
        a, b = self.left.numerator, self.right.numerator
        return a * b, _worked(a, "*", b, a * b)

    def told(self) -> str:
        below = self._below() or (f"over {self._bottom}" if self._bottom > 1 else "")
        return ", ".join(text for text in (self.before, below, self._above()[1]) if text)

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        return [Part(self.before), *self._parts(got, final)] if self.before else self._parts(got, final)

    def _parts(self, got: Leaf, final: bool) -> list[Part]:
        bottom, below, (top, above) = self._bottom, self._below(), self._above()
        if got.denominator == bottom:
            return [*self._compared_below(got, final), self._compared_above(got.numerator, final)]
        known = [Part(below)] if below else []
        if (brought := _brought_over(got, bottom)) is None:
            apart = Fraction(top, bottom) != got.value
            return self._compared_below(got, final) if apart else [_unlike(got.value, bottom, got)]
        if final:
            found, there = brought
            return [*known, *found, self._compared_above(there, True)]
        return [Part(above), *known, *_back_to(top, brought)]

    def _compared_above(self, top: int, final: bool) -> Part:
        a, b = self.left.numerator, self.right.numerator
        if final and b and 1 not in (a, b):
            return _way_back(top, b, a)
        want, text = self._above()
        return Part(text, f"here {top}", want == top)

    def _compared_below(self, got: Leaf, final: bool) -> list[Part]:
        below, at = self._below(), got.denominator
        if not below:
            return [_over(self._bottom, at)] if max(self._bottom, at) > 1 else []
        return [_way_back(at, self.right.denominator, self.left.denominator) if final else Part(below, f"here {at}", at == self._bottom)]


def _way_back(product: int, factor: int, start: int) -> Part:
    value = Fraction(product, factor)
    return _before(_worked(product, "/", factor, value), value, start)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The denominator of `9/20 * 62` where 2 is taken out of 20 and 62: `20 / 2 is 10`."""

    num: Num
    by: int

    def told(self) -> str:
        return _worked(self.num.denominator, "/", self.by, self.num.denominator // self.by)

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        want = self.num.denominator // self.by
        if got.value == Fraction(self.num.numerator, want) and got.denominator != want:
            return [Part(f"{self.num.numerator}/{want}", f"here {got.text()}")]
        above = Part(f"{self.num.numerator}", f"here {got.numerator}", got.numerator == self.num.numerator)
        return [above, Part(self.told(), f"here {got.denominator}", got.denominator == want)]
