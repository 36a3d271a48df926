"""What a worked solution is, whatever the task: lines, the canonical next line, where its numbers come from.

A task gives `Line`s: readable, comparable by meaning (`follows`), with a canonical next line that says for every
number on it where it comes from. Checking, explaining and making mistakes are then the same code for all tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Protocol

from ..errors import OutsideDomain
from .expression import number_text

MAX_STEPS = 40
MAX_SKIPPED = 2  # canonical lines that an attempt may leave out and still have its next one worked out
STEP = re.compile(r"^\s*(?:step\s*(\d+)\s*[:.)]|(\d+)[.)]\s)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A number on a line. `suffix` is what it counts (the unknown) and is shown with it."""

    numerator: int
    denominator: int = 1
    suffix: str = ""

    @property
    def value(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)

    def text(self) -> str:
        tail = "" if self.denominator == 1 else f"/{self.denominator}"
        if self.suffix and self.numerator in (1, -1):
            return f"{'-' if self.numerator < 0 else ''}{self.suffix}{tail}"
        return f"{self.numerator}{self.suffix}{tail}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number of a canonical line comes from. `operation` is empty when nothing was worked out.

    `kind` names the operation for the mistakes, or where else it is from: copy, before (worked out in a line that was left out), over,
    times, sum, move, cross, divide, common, cancel, reduce, flip, write.
    `operands` are its numbers."""

    kind: str
    operation: str = ""
    operands: tuple[Fraction, ...] = ()
    undo: Undo | None = None
    working: Working | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What is worked out of a result (`10 + 3 is 13`), and the number that has to agree with it (`here 13`), where one has to."""

    worked: str
    compared: str = ""
    holds: bool = True

    def text(self) -> str:
        return f"{self.worked}, {self.compared}" if self.compared else self.worked


class Working(Protocol):
    """How the number of an operation is worked out in more than one part."""

    def told(self) -> str:
        """The operation worked out, where no number is there to be compared."""
        ...

    def parts(self, got: Leaf, final: bool) -> list[Part]:
        """What shows whether `got` is right: all parts hold exactly where it is worth as much. `final`: what may be the answer is
        checked by the way back, which does not tell it."""
        ...


@dataclass(frozen=True, slots=True)
class Undo:
    """The way back from a claimed result: a final answer is checked by it, because working it out would give it away."""

    way: Callable[[Leaf], tuple[str, Fraction]]
    """The operation that leads back from the claimed number, as it is written, and what it gives."""

    start: Fraction
    """What it must give."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A number of a line that comes from an operation: what the operation gives (`want`) and what the line says (`got`)."""

    operation: str
    want: Leaf
    got: Leaf
    undo: Undo | None = None
    working: Working | None = None
    final: bool = False
    """The line holds this number alone: it may be the answer."""

    @property
    def holds(self) -> bool:
        if self.working is not None:
            return all(part.holds for part in self.working.parts(self.got, self.final))
        if self.undo is not None:
            return self.undo.way(self.got)[1] == self.undo.start
        return self.want.value == self.got.value and self.want.suffix == self.got.suffix

    def worked(self) -> str:
        return self.working.told() if self.working else f"{self.operation} is {self.want.text()}"

    def compared(self) -> str:
        """What is worked out to check the claim, and the number that has to agree with it: `7 + 6 is 13, here 12`. Ends at the first
        part that does not hold."""
        if self.working is not None:
            parts = self.working.parts(self.got, self.final)
            wrong = next((at for at, part in enumerate(parts) if not part.holds), len(parts))
            return ", ".join(part.text() for part in parts[: wrong + 1])
        if self.undo is None:
            return f"{self.worked()}, here {self.got.text()}"
        operation, value = self.undo.way(self.got)
        return f"{operation} is {number_text(value)}, before {number_text(self.undo.start)}"


@dataclass(frozen=True, slots=True)
class Habits:
    """How somebody solves equations who does not go by the book: the same in every line, as people do."""

    moving: str
    """`joined`: a term that changes sides is joined with the one there at once, as in the book; `numbers`: so are the numbers, before
    the unknown; `moved`: all terms change sides and are worked out after; `both`: the same is added on both sides first."""

    unknown_right: bool
    """The unknown stays on the right where there is more of it."""

    moves_first: bool
    """Terms change sides before like terms are collected."""

    collects: bool
    """All like terms of a side in one line."""

    divides_out: bool
    """3x/3 = 15/3 before x = 5."""

    untidy: bool
    """Terms in any order, sides the other way round."""


class Line(Protocol):
    def text(self) -> str: ...
    def shape(self) -> str:
        """The line with its numbers blanked: two lines of equal shape can be compared number by number."""
        ...

    def leaves(self) -> list[Leaf]: ...
    def with_leaves(self, leaves: list[Leaf]) -> Line:
        """The same shape with other numbers."""
        ...

    def after(self, previous: Line) -> Line | None:
        """What stands once this line has been written below `previous`; None when it does not follow from it.

        Mostly the line itself: same solution, or same value. A statement about a part (`30 * 2 = 60`) leaves the whole."""
        ...

    def claims(self, previous: Line) -> list[Claim]:
        """What the line says in itself about numbers (`30 * 2 = 60`), whatever it makes of the line before."""
        ...

    def chain(self, previous: Line) -> Sequence[Line]:
        """The lines that this one joins by equals signs, all of them about the whole (`10/15 + 3/15 = 13/15`); empty where it is one."""
        ...

    def next(self) -> Step | None:
        """The canonical next line and the origin of each of its leaves; None when nothing is left to do."""
        ...

    def ways(self) -> Iterator[Step]:
        """`next` and what people write in its place, the canonical one first; empty when nothing is left to do."""
        ...

    def detours(self) -> Sequence[Step]:
        """What people write before `next` to make it plain: 3x + 5 - 5 = 20 - 5, 3x/3 = 15/3."""
        ...

    def arranged(self, origins: list[Origin], like: Line) -> Step | None:
        """The same line, its terms and sides in the order of `like`; None where the two differ in more than that."""
        ...

    def in_own_way(self, habits: Habits, rng: Random) -> Step | None:
        """The next line as somebody with these habits writes it; None when nothing is left to do."""
        ...

    def answer(self) -> Fraction | None:
        """The answer if this line states it in full."""
        ...

    def stated(self) -> Fraction | None:
        """What a reader of final answers takes from the line: the answer, also where a calculation stands before it."""
        ...


class ByTheBook:
    """For lines that go on in one way and have one order."""

    __slots__ = ()

    def chain(self, previous: Line) -> Sequence[Line]:
        return []

    def ways(self: Line) -> Iterator[Step]:
        if (step := self.next()) is not None:
            yield step

    def detours(self: Line) -> Sequence[Step]:
        return []

    def arranged(self: Line, origins: list[Origin], like: Line) -> Step | None:
        return (self, origins) if self.shape() == like.shape() else None

    def in_own_way(self: Line, habits: Habits, rng: Random) -> Step | None:
        return self.next()

    def stated(self: Line) -> Fraction | None:
        return self.answer()


Step = tuple[Line, list[Origin]]
"""A line and the origin of each of its leaves."""


@dataclass(frozen=True, slots=True)
class Problem:
    task: str
    level: int
    text: str
    line: Line
    read: Callable[[str], Line]
    """Reads one line of an attempt at this problem; raises OutsideDomain."""

    canonical: str
    """The same for every wording, spacing and name of the unknown; its hash decides the split."""

    answer: Fraction


def canonical_lines(line: Line) -> list[Line]:
    """The worked solution from `line` on, without `line` itself."""
    lines: list[Line] = []
    while (step := line.next()) is not None:
        line = step[0]
        lines.append(line)
        if len(lines) > MAX_STEPS:
            raise OutsideDomain("the solution has too many steps")
    return lines


def solution_text(lines: list[str]) -> str:
    return "\n".join(f"Step {number}: {line}" for number, line in enumerate(lines, 1))


def solve(problem: Problem) -> list[str]:
    """The canonical worked solution: one line per step, the last one states the answer."""
    lines = canonical_lines(problem.line) or [problem.line]
    return [line.text() for line in lines]


def attempt_lines(attempt: str) -> list[str]:
    """Lines of an attempt without their labels. Blank lines count for nothing."""
    return [STEP.sub("", line).strip() for line in attempt.splitlines() if line.strip()]


def standing_after(problem: Problem, lines: list[str]) -> Line:
    """What stands after right lines. Raises OutsideDomain where one does not follow."""
    current = problem.line
    for text in lines:
        standing = problem.read(text).after(current)
        if standing is None:
            raise OutsideDomain(f"{text!r} does not follow")
        current = standing
    return current
