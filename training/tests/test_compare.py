"""Packs measured on the same problems through the real server: the bundled one beside one that has learned nothing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stv_train.cli import main
from stv_train.config import load_config
from stv_train.errors import TrainError
from stv_train.files import read_jsonl
from stv_train.run import Run
from stv_train.server import server_command
from stv_train.stages import data as data_stage
from stv_train.stages.everyday import everyday_folder, everyday_jobs
from stv_train.tasks.problems import make_problem, read_problem, split_of
from stv_train.tasks.steps import Problem

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "training" / "configs" / "smoke.toml"
BUNDLED = ROOT / "packs" / "stv-mini"
FIELDS = {
    **{"base.tokens": "6000", "base.probe_tokens": "1000000", "base.own_attempts": "0", "gates.problems": "4", "gates.samples": "2"},
    **{
        "gates.bin_problems": "2",
        "generator.tokens": "0",
        "rollout.max_new_tokens": "24",
        "evaluate.per_level": "2",
        "evaluate.rounds": "1",
    },
}


@pytest.mark.server
def test_packs_are_measured_on_the_same_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        server_command(os.environ.get("STV_SERVER", ""))
    except TrainError as error:
        pytest.skip(str(error))
    out = tmp_path / "run"
    arguments = ["--config", str(SMOKE), "--out", str(out)] + [
        item for name, value in FIELDS.items() for item in ("--set", f"{name}={value}")
    ]
    new = tmp_path / "new"
    assert main(["base", *arguments]) == 0
    assert main(["export", *arguments, "--generator", "base", "--verifier", "base", "--to", str(new)]) == 0
    capsys.readouterr()
    assert main(["compare", *arguments, "--split", "test", str(BUNDLED), str(new)]) == 0
    text = capsys.readouterr().out

    folder = out / "evaluation" / "everyday"
    problems = {name: read_jsonl(folder / "test" / f"{name}.jsonl") for name in ("random", "students", "handed-in", "own-way")}
    assert {name: len(rows) for name, rows in problems.items()} == {"random": 32, "students": 16, "handed-in": 32, "own-way": 18}
    assert all(split_of(read_problem(row["problem"]).canonical) == "test" for row in problems["random"])
    assert sum(row["first_error"] is None for row in problems["handed-in"]) == 16
    assert all(row["first_error"] for row in problems["students"])

    reports = json.loads((folder / "test.json").read_text())
    right = [report["random"]["overall"]["rounds"][0]["pass_at_1"]["value"] for report in reports.values()]
    assert right[0] > 0.6 > right[1]
    assert f"{100 * right[0]:.1f} %" in text
    assert "in points, paired by problem" in text and f"{100 * (right[1] - right[0]):+.1f} %" in text

    # One that was broken off while it was asked otherwise is begun anew: `stv eval` would refuse what there is of it.
    for begun in folder.glob("test/*/begun.json"):
        begun.write_text(json.dumps(json.loads(begun.read_text()) | {"random": "other settings"}))
        (begun.parent / "done.json").write_text("{}")
        partial = begun.parent / "random.results.jsonl"
        partial.write_text(partial.read_text().replace('"seed":', '"seed": 1, "was":', 1))
    assert main(["compare", *arguments, "--split", "test", str(BUNDLED), str(new)]) == 0
    assert capsys.readouterr().out == text

    # Nothing is measured twice.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("test/*/*.jsonl")}
    assert len(before) == 8
    assert main(["compare", *arguments, "--split", "test", str(BUNDLED), str(new)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("test/*/*.jsonl")} == before
    assert capsys.readouterr().out == text


def test_a_level_with_few_problems_gives_those_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    def counted(*arguments: Any) -> Problem:
        nonlocal drawn
        drawn += 1
        assert drawn < 20_000, "problems that do not exist are looked for without end"
        return make_problem(*arguments)

    monkeypatch.setattr(data_stage, "make_problem", counted)
    run = Run(load_config(SMOKE, {"run.out": str(tmp_path), "data.tasks": "{percent = 1}", "evaluate.per_level": "40"}))
    everyday_jobs(run, "validation")
    rows = read_jsonl(everyday_folder(run) / "validation" / "random.jsonl")
    groups = [row["group"] for row in rows]
    assert 10 < groups.count("percent-1") < 20 and groups.count("percent-2") == 40
    assert len({read_problem(row["problem"]).canonical for row in rows if row["group"] == "percent-1"}) == groups.count("percent-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "train", str(BUNDLED)], "--split must be one of validation, test, not 'train'"),
        ([str(ROOT / "docs")], "is not a pack: its pack.json cannot be read"),
    ],
)
def test_what_cannot_be_compared(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--config", str(SMOKE), "--out", str(tmp_path / "run"), *arguments]) == 2
    assert words in capsys.readouterr().err
