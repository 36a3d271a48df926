"""Documents drawn ahead: the same as drawn at once, by a process that never outlives its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from stv_train.documents import FEW, Mix
from stv_train.drawing import Order, draw_buffer, drawer
from stv_train.tasks.mistakes import student_attempt
from stv_train.tasks.problems import make_problem

MIX = Mix({"drill": 0.2, "solve": 0.3, "refine": 0.5}, {"equations:1-2": 1.0})


def order(first: int, own: Path | None = None) -> Order:
    return Order(MIX, 7, first, 12, 512, own, 1.0)


def test_a_buffer_is_the_same_whether_prepared_asked_for_or_drawn_at_once() -> None:
    with drawer() as drawn:
        drawn.prepare(order(0))
        assert drawn.take(order(0)) == draw_buffer(order(0))
        drawn.prepare(order(12))
        assert drawn.take(order(24)) == draw_buffer(order(24)) != draw_buffer(order(12))


def test_own_attempts_are_read_in_the_other_process(tmp_path: Path) -> None:
    rng, path = Random(1), tmp_path / "own.jsonl"
    with path.open("w") as out:
        for _ in range(FEW):
            problem = make_problem("equations", 1, rng)
            attempt, _ = student_attempt(problem, rng, False)
            row = {"problem": problem.text, "task": problem.task, "level": problem.level, "attempt": attempt}
            out.write(json.dumps(row) + "\n")
    with drawer() as drawn:
        with_own = drawn.take(order(0, path))
    assert with_own == draw_buffer(order(0, path)) != draw_buffer(order(0))


def test_the_process_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import time\n"
        "from stv_train.drawing import Order, drawer\n"
        "from stv_train.documents import Mix\n"
        "if __name__ == '__main__':\n"
        "    with drawer() as drawn:\n"
        "        drawn.take(Order(Mix({'drill': 1.0}, {'order': 1.0}), 1, 0, 2, 512))\n"
        "        print(*drawn._pool._processes, flush=True)\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
