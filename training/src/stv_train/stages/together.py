"""The trainings on documents: what the two models have in common first, then base and generator. They go one after the other where the
generator begins with the base, else side by side, each in a process with half of the threads. Two threads of one small product wait
for each other; two trainings do not."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context

import torch

from ..config import TRUNK, Config
from ..drawing import attend_parent
from ..errors import TrainError
from ..run import Run, exit_code
from .base import Course, train_base, train_generator, train_trunk


def train_pair(run: Run) -> None:
    """Trains base and generator as far as they are not. An interrupt, or a failure of either, leaves the checkpoints of both."""
    threads = torch.get_num_threads()
    origins = [Course(run, name).origin for name in ("base", "generator")]
    independent = run.config.generator.tokens and origins[1] != "base"
    missing = not run.has_model("base") and not run.has_model("generator")
    if not independent or not missing or threads < 2 or run.device.type != "cpu":
        # A base that learns from the generator's attempts comes after it.
        first, then = (train_base, train_generator) if not run.config.base.own_attempts_of else (train_generator, train_base)
        first(run)
        then(run)
        return
    if TRUNK in origins:
        train_trunk(run)
    torch.set_num_threads(threads - threads // 2)
    try:
        with _generator_beside(run, threads // 2):
            train_base(run, beside=True)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _generator_beside(run: Run, threads: int) -> Iterator[None]:
    """Trains the generator while the block runs, and waits for it at the end."""
    config = replace(run.config, run=replace(run.config.run, threads=threads))
    process = get_context("spawn").Process(target=_train_generator, args=(config,))
    process.start()

    failed = False

    def watch() -> None:
        nonlocal failed
        process.join()
        if process.exitcode:
            failed = True
            run.stop()

    # It alone waits for the process: of two waiters one may find it gone and not know how it ended.
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        watcher.join()
    except BaseException:
        by_itself = failed
        process.terminate()
        try:
            watcher.join()  # it writes its checkpoint
        except BaseException:
            process.kill()
            raise
        if not by_itself:
            raise
    if failed:
        raise TrainError("the generator's training ended before its time; what it said stands above. What is trained is kept.")


def _train_generator(config: Config) -> None:
    os.setsid()  # the terminal's interrupt reaches the parent alone, which passes it on once: a second one would end this at once
    attend_parent()
    sys.exit(exit_code(lambda: train_generator(Run(config))))
