"""Comparisons of evaluated pairs against slow and obvious twins; which pairs are evaluated; paths in reports."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from stv_train.errors import TrainError
from stv_train.figures import Chain, compare, precision_at, precision_at_equal_coverage
from stv_train.report import plain_paths
from stv_train.report_served import times
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


def ended(right: int, of: int) -> dict[str, list[Chain]]:
    """One accepted chain for each problem, of which the first `right` are right."""
    return {f"p{at}": [Chain(False, at < right, True, 0.5)] for at in range(of)}


def test_a_ratio_to_next_to_nothing_has_no_upper_end() -> None:
    """The one right answer of the other is missing in a third of the draws."""
    for found in (compare(ended(6, 40), ended(1, 40)), precision_at_equal_coverage(ended(6, 40), ended(1, 40))):
        ratio = found["ratio"]
        assert ratio["value"] == pytest.approx(6) and ratio["low"] == pytest.approx(1.75, abs=0.3) and ratio["high"] is None
        assert times(ratio) == f"6.00x ({ratio['low']:.2f} to inf)"
        assert "null" in json.dumps(found, allow_nan=False)
    # Draws in which neither has a right answer say nothing about the ratio.
    nothing = compare(ended(0, 40), ended(1, 40))["ratio"]
    assert nothing == {"value": 0, "low": 0, "high": 0} and times(nothing) == "0.00x (0.00 to 0.00)"
    assert compare(ended(6, 40), ended(0, 40))["ratio"]["value"] is None


def test_reports_keep_no_folders_of_a_disk() -> None:
    text = "stv-train base --out /home/someone/runs/mini --set evaluate.server='node /srv/dist/main.js' http://127.0.0.1:8000/a/b 3/4"
    assert plain_paths(text) == "stv-train base --out mini --set evaluate.server='node main.js' http://127.0.0.1:8000/a/b 3/4"


def test_a_server_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no-such-server"):
        server_version([str(tmp_path / "no-such-server")])
