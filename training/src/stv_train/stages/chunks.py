"""Attempts that take minutes to draw, in files of some hundreds: an interrupt costs one of them at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..files import read_jsonl, write_jsonl
from ..run import Interrupted, Run

Row = dict[str, Any]


def in_chunks(run: Run, name: str, folder: Path, total: int, size: int, draw: Callable[[int, int], Iterable[Row]]) -> Iterator[list[Row]]:
    """The rows of `draw(first, count)` for attempts 0 to `total`, `size` at a time; a chunk already in `folder` is not drawn again.
    Raises Interrupted behind the chunk in which `run` was told to stop."""
    with run.interruptible():
        for first in range(0, total, size):
            count = min(size, total - first)
            path = folder / f"{first:08}.jsonl"
            if not path.exists():
                write_jsonl(path, draw(first, count))
            yield read_jsonl(path)
            if run.stopping:
                raise Interrupted(f"{name} stopped after {first + count:,} attempts")
