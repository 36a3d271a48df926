"""Documents drawn ahead by a process of their own: writing and checking solutions takes a third of the time of training on them.

A buffer of documents is a function of its `Order` alone, so it is the same wherever and whenever it is drawn.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from .documents import NO_ATTEMPTS, DocumentSource, Encoded, Mix, OwnAttempt, OwnAttempts, encode
from .files import read_jsonl
from .tokenizer import PackTokenizer


@dataclass(frozen=True, slots=True)
class Order:
    """Documents `first` to `first + count` of the stream that the other fields describe."""

    mix: Mix
    seed: int
    first: int
    count: int
    max_length: int
    own: Path | None = None  # file of the generator's own attempts
    own_share: float = 0.0


def draw_buffer(order: Order) -> list[Encoded]:
    """The documents of `order` that fit into the context."""
    source = DocumentSource(order.mix, order.seed, _pool(order.own) if order.own else NO_ATTEMPTS, order.own_share)
    drawn = (encode(source.draw(at), _tokenizer(), order.max_length) for at in range(order.first, order.first + order.count))
    return [row for row in drawn if row is not None]


class Drawer:
    """Draws the buffer that is asked for, or hands out the one that was prepared for this very order."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._ahead: tuple[Order, Future[list[Encoded]]] | None = None

    def prepare(self, order: Order) -> None:
        self._ahead = order, self._pool.submit(draw_buffer, order)

    def take(self, order: Order) -> list[Encoded]:
        if self._ahead is None or self._ahead[0] != order:
            self.prepare(order)
        assert self._ahead is not None
        rows, self._ahead = self._ahead[1].result(), None
        return rows


@contextmanager
def drawer() -> Iterator[Drawer]:
    """A process that ends with this block, or with its parent however that ends."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=attend_parent)
    try:
        yield Drawer(pool)
    finally:
        # Waits for what is being drawn: a process of multiprocessing that ends while its pool still shuts down may never tell
        # the pool's own process to end, and then waits for it without end.
        pool.shutdown(cancel_futures=True)


def attend_parent() -> None:
    """For a process that the terminal's interrupts leave alone and that ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the parent finishes its step first
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@lru_cache(maxsize=1)
def _tokenizer() -> PackTokenizer:
    return PackTokenizer()


@lru_cache(maxsize=1)
def _pool(path: Path) -> OwnAttempts:
    return OwnAttempts(OwnAttempt(row["problem"], row["task"], row["level"], row["attempt"]) for row in read_jsonl(path))
