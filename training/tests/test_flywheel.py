"""One tiny turn of the flywheel against the real server: serve, collect traces, train, export, exchange, serve on."""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stv_train.cli import main
from stv_train.config import load_config
from stv_train.errors import TrainError
from stv_train.files import read_jsonl
from stv_train.run import Run
from stv_train.server import post_json, served, served_as, server_command
from stv_train.stages.base import train_base
from stv_train.stages.data import fetch_traces
from stv_train.stages.rollout import TRACES, rollout_path
from stv_train.tasks.problems import read_problem, split_of
from stv_train.tasks.steps import solution_text, solve

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.toml"
FIELDS = {
    **{"base.tokens": "6000", "base.probe_tokens": "1000000", "base.own_attempts": "0", "gates.problems": "4", "gates.samples": "2"},
    **{
        "gates.bin_problems": "2",
        "generator.tokens": "0",
        "verifier.samples": "32",
        "rollout.attempts": "6",
        "rollout.max_new_tokens": "24",
    },
}

pytestmark = pytest.mark.server


def built_server() -> list[str]:
    try:
        command = server_command(os.environ.get("STV_SERVER", ""))
    except TrainError as error:
        pytest.skip(str(error))
    return command


def models(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/admin/models", timeout=30) as response:
        data: dict[str, Any] = json.load(response)
        return data


def test_one_turn_of_the_flywheel(tmp_path: Path) -> None:
    command = built_server()
    out = tmp_path / "run"
    arguments = ["--config", str(SMOKE), "--out", str(out)] + [
        item for name, value in FIELDS.items() for item in ("--set", f"{name}={value}")
    ]
    train_base(Run(load_config(SMOKE, FIELDS | {"run.out": str(out)})))
    folders = tmp_path / "packs"
    assert main(["export", *arguments, "--generator", "base", "--verifier", "base", "--to", str(folders / "turn-0")]) == 0
    with served(command, folders / "turn-0", tmp_path / "data", "--model-folders", str(folders), "--num-slots", "16") as url:
        before = models(url)
        # People hand in work, some of it right; the server keeps every round with the caller's answer.
        texts = (f"{a}x + {b} = {c}" for a in (2, 3, 4) for b in (1, 5, 7) for c in (9, 12, 31))
        problems = [text for text in texts if split_of(read_problem(text).canonical) == "train"][:8]
        for number, text in enumerate(problems):
            problem = read_problem(text)
            attempt = solution_text(solve(problem)) if number % 2 else f"Step 1: x = {problem.answer + 1}"
            body = {"problem": text, "initial_attempt": attempt, "max_rounds": 1, "store": True, "label": {"answer": str(problem.answer)}}
            post_json(f"{url}/solve", {**body, "generator": {"max_tokens": 16}, "verifier": {"max_tokens": 16}})
        reference = {"answer": "12", "reference": "3 horses have 3 times 4 legs."}
        body = {
            "problem": "How many legs have 3 horses?",
            "initial_attempt": "legs: 12",
            "max_rounds": 0,
            "store": True,
            "label": reference,
        }
        post_json(f"{url}/solve", {**body, "verifier": {"max_tokens": 16}})

        traces = fetch_traces(url)
        assert len(traces) >= 9 and traces == fetch_traces(url, page_size=2), "page by page the same traces in the same order"
        assert main(["data", "from-traces", *arguments, "--traces", url]) == 0
        attempts = read_jsonl(rollout_path(Run(load_config(SMOKE, FIELDS | {"run.out": str(out)})), TRACES))
        assert sum(row["correct"] for row in attempts) >= len(problems) // 2 and not all(row["correct"] for row in attempts)
        (graded,) = read_jsonl(out / "rollouts" / "graded.jsonl")
        assert graded["correct"] and graded["reference"] == reference["reference"]

        assert main(["stv", *arguments]) == 0
        assert main(["export", *arguments, "--to", str(folders / "turn-1"), "--generator", "base", "--swap", url]) == 0
        after = models(url)
        assert after["load"]["status"] == "ready" and after["load"]["name"] == "turn-1"
        assert {one["digest"] for one in after["models"]} - {one["digest"] for one in before["models"]}, "another verifier serves now"
        checked = post_json(f"{url}/verify", {"problem": problems[0], "solution": "x = 1", "max_tokens": 16})
        verifier = next(one for one in after["models"] if "verifier" in one["aliases"])
        assert checked["model"] == verifier["name"]

        # The same server as the sampler of the next turn.
        assert main(["rollout", *arguments, "--server", url, "--name", "served"]) == 0
        counted = [row for row in read_jsonl(out / "metrics.jsonl") if row["stage"] == "rollout"]
        served_now = served_as(url, "generator")
        assert served_now != served_as(url, "verifier") and served_now in {one["name"] for one in after["models"]}
        assert counted[-1]["server"] == url and counted[-1]["tokens"] > 0
    assert "server" in (out / "REPORT.md").read_text()
