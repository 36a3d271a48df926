"""Comparisons of evaluated pairs against slow and obvious twins; which figures are current; paths in reports."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from stv_train import figures
from stv_train.config import load_config
from stv_train.errors import TrainError
from stv_train.figures import (
    Chain,
    chains_of,
    compare,
    goals,
    load_served,
    precision_at,
    precision_at_equal_coverage,
    problems_path,
    served_identity,
)
from stv_train.files import file_digest, write_json, write_jsonl
from stv_train.report import plain_paths
from stv_train.report_served import served_sections, times
from stv_train.run import Interrupted, Run
from stv_train.server import server_version
from stv_train.stages import evaluate, loops
from stv_train.stages.bins import Binned
from stv_train.tasks.problems import read_problem

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.toml"


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


def test_a_control_without_a_base_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"vil+stv": ended(6, 40), "rlvr+stv": ended(0, 40), "rlvr-longer+stv": ended(3, 40)}
    monkeypatch.setattr(figures, "chains_of", lambda run, served, pair, bins, job="loop": found.get(pair, {}))
    (goal,) = goals(Run(load_config(SMOKE, {"run.out": str(tmp_path)})), {})
    assert goal.is_met is None and goal.note.endswith("; RLVR continued instead -")


@pytest.fixture()
def evaluated(tmp_path: Path) -> Run:
    """A run with one evaluated pair and a control, as `stv-train evaluate` leaves it."""
    run = Run(load_config(SMOKE, {"run.out": str(tmp_path), "evaluate.chains": "5", "evaluate.rounds": "2"}))
    run.save_model("base", run.new_model(1), {})
    folder = run.folder / "evaluation"
    write_jsonl(problems_path(run, "loop"), [{"id": "p", "problem": "x = 4", "answer": "4", "bin": "hard"}])
    ends = {"answer": "4", "accepted": True, "score": 0.5}
    write_jsonl(folder / "loop.results.jsonl", [{"id": "p", "chains": [{"rounds": [ends]}]}])
    report = {"settings": {"chains": 7, "max_rounds": 3}, "bins": {}, "overall": {"answer_leaks": None}}
    write_json(folder / "loop.report.json", report)
    one = {"set": "loop", "seed": 1, "report": "evaluation/loop.report.json", "results": "evaluation/loop.results.jsonl"}
    pair = {"generator": "base", "verifier": "base", "identity": served_identity(run, "base", "base"), "sets": {"loop": one}}
    made = {"server": "1", "pack": "base+base", "pairs": {"base+base": pair}, "seconds": 1.0, "larger": {"parameters": 9, "bins": {}}}
    write_json(folder / "served.json", made | {"problems": {"loop": file_digest(problems_path(run, "loop"))}})
    write_json(folder / "loops.json", {"hard": []})
    return run


def test_figures_of_other_problems_are_none_of_this_run(evaluated: Run) -> None:
    served = load_served(evaluated)
    assert served["larger"] and chains_of(evaluated, served, "base+base", ("hard",)) == {"p": [Chain(True, True, True, 0.5)]}
    path = problems_path(evaluated, "loop")
    for text in (path.read_text().replace('"p"', '"q"'), None):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        served = load_served(evaluated)
        assert not served["pairs"] and not served["larger"]


def test_a_report_says_how_its_figures_were_asked_for(evaluated: Run) -> None:
    """Whatever the configuration says by now."""
    text = "".join(served_sections(evaluated))
    assert "7 chains, up to 3 refinements, generator" in text and "5 chains" not in text


def interrupted(*_: object) -> None:
    raise Interrupted("stopped")


def test_an_interrupted_evaluation_leaves_no_earlier_controls(evaluated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = evaluated.folder / "evaluation" / "loops.json"
    monkeypatch.setattr(evaluate, "server_command", lambda server: [])
    monkeypatch.setattr(evaluate, "server_version", lambda command: "1")
    monkeypatch.setattr(evaluate, "load_export", lambda run, folder: {"generator": "base", "verifier": "base"})
    monkeypatch.setattr(evaluate, "_problem_sets", interrupted)
    monkeypatch.setattr(loops, "protocols", interrupted)
    monkeypatch.setattr(loops, "weights_digest", lambda model: "")
    problem = Binned(read_problem("3x + 4 = 19"), "hard", 0)
    stages = (
        lambda: evaluate.evaluate_served(evaluated, evaluated.folder),
        lambda: loops.run_loops(evaluated, [problem], 2, "loops"),
    )
    for stage in stages:
        write_json(file, {"hard": []})
        with pytest.raises(Interrupted):
            stage()
        assert not file.exists()


def test_reports_keep_no_folders_of_a_disk() -> None:
    text = "stv-train base --out /home/someone/runs/mini --set evaluate.server='node /srv/dist/main.js' http://127.0.0.1:8000/a/b 3/4"
    assert plain_paths(text) == "stv-train base --out mini --set evaluate.server='node main.js' http://127.0.0.1:8000/a/b 3/4"


def test_a_server_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no-such-server"):
        server_version([str(tmp_path / "no-such-server")])
