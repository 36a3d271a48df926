"""What takes minutes to draw, in files of some hundreds of rows: an interrupt costs one of them at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..files import read_jsonl, write_jsonl
from ..run import Interrupted, Run

Row = dict[str, Any]


def kept(path: Path, draw: Callable[[], Iterable[Row]]) -> list[Row]:
    """The rows of `path`; where there is no such file, those of `draw`, which are written to it first."""
    if not path.exists():
        write_jsonl(path, draw())
    return read_jsonl(path)


def kept_or_stopped(run: Run, path: Path, draw: Callable[[], Iterable[Row]], stopped: str) -> list[Row]:
    """As `kept`. Raises Interrupted with `stopped` behind it where `run` was told to stop."""
    with run.interruptible():
        rows = kept(path, draw)
        if run.stopping:
            raise Interrupted(stopped)
    return rows


def in_chunks(run: Run, name: str, folder: Path, total: int, size: int, draw: Callable[[int, int], Iterable[Row]]) -> Iterator[list[Row]]:
    """The rows of `draw(first, count)` for attempts 0 to `total`, `size` at a time; a chunk already in `folder` is not drawn again.
    Raises Interrupted behind the chunk in which `run` was told to stop."""
    with run.interruptible():
        for first in range(0, total, size):
            count = min(size, total - first)
            yield kept(folder / f"{first:08}.jsonl", partial(draw, first, count))
            if run.stopping:
                raise Interrupted(f"{name} stopped after {first + count:,} attempts")
