"""Comparisons of evaluated pairs against slow and obvious twins; which pairs are evaluated; paths in reports."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from stv_train.errors import TrainError
from stv_train.figures import Chain, compare, precision_at, precision_at_equal_coverage
from stv_train.report import plain_paths
from stv_train.server import server_version


def chains(problems: int, right: float, seed: int, sharp: bool) -> dict[str, list[Chain]]:
    rng = Random(seed)
    found: dict[str, list[Chain]] = {}
    for at in range(problems):
        row = []
        for _ in range(4):
            is_right = rng.random() < right
            score = rng.random() * 0.5 + (0.5 if is_right and sharp else 0.25)
            row.append(Chain(False, is_right, rng.random() < 0.5 or (is_right and sharp), round(score, 1)))
        found[f"p{at}"] = row
    return found


def slow_precision(rows: list[tuple[float, float]], wanted: float) -> float:
    """rows (score, right) of accepted chains; equal scores share a place evenly."""
    taken, hits = 0.0, 0.0
    for score in sorted({s for s, _ in rows}, reverse=True):
        group = [r for s, r in rows if s == score]
        use = min(len(group), wanted - taken)
        if use <= 0:
            break
        taken += use
        hits += use * sum(group) / len(group)
    return hits / taken


@pytest.mark.parametrize("coverage", [0.02, 0.1, 0.3])
def test_precision_at_coverage(coverage: float) -> None:
    flat = [c for row in chains(60, 0.3, 3, True).values() for c in row]
    columns = [np.array(x, dtype=float) for x in zip(*((c.right, c.score, c.accepted) for c in flat), strict=True)]
    found = precision_at(*columns, np.ones(len(flat)), float(len(flat)), coverage)
    assert found == pytest.approx(slow_precision([(c.score, c.right) for c in flat if c.accepted], coverage * len(flat)))


def test_a_better_verifier_has_a_higher_precision_at_equal_coverage() -> None:
    sharp, blunt = chains(200, 0.2, 1, True), chains(200, 0.2, 2, False)
    at = precision_at_equal_coverage(sharp, blunt)
    assert at["ratio"]["value"] and at["ratio"]["low"] and at["ratio"]["low"] > 1
    assert at["one"]["value"] == pytest.approx(at["other"]["value"] * at["ratio"]["value"])
    same = precision_at_equal_coverage(sharp, sharp)
    assert same["ratio"] == {"value": 1, "low": 1, "high": 1}


def test_comparison_is_paired_by_problem() -> None:
    one, other = chains(300, 0.4, 1, False), chains(300, 0.2, 2, False)
    found = compare(one, other)
    mean = [np.mean([c.right for row in group.values() for c in row]) for group in (one, other)]
    assert found["ratio"]["value"] == pytest.approx(mean[0] / mean[1])
    assert found["difference"]["value"] == pytest.approx(mean[0] - mean[1])
    assert found["ratio"]["low"] < found["ratio"]["value"] < found["ratio"]["high"]
    # Only problems that both have count, and nothing is claimed of a base of zero.
    assert compare(one, {"p1": [Chain(False, False, False, 0)]})["ratio"]["value"] is None
    assert compare(one, {"other": other["p1"]})["difference"]["value"] is None


def test_reports_keep_no_folders_of_a_disk() -> None:
    text = "stv-train base --out /home/someone/runs/mini --set evaluate.server='node /srv/dist/main.js' http://127.0.0.1:8000/a/b 3/4"
    assert plain_paths(text) == "stv-train base --out mini --set evaluate.server='node main.js' http://127.0.0.1:8000/a/b 3/4"


def test_a_server_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no-such-server"):
        server_version([str(tmp_path / "no-such-server")])
