"""Rows for TRL and verl, their reward file, and what bad rows get."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from stv_train.cli import main
from stv_train.documents import review_feedback
from stv_train.errors import TrainError
from stv_train.exchange import export_rows
from stv_train.files import read_jsonl, write_jsonl
from stv_train.tasks.checking import check
from stv_train.tasks.problems import read_problem

ROOT = Path(__file__).parents[2]
PACK = ROOT / "packs" / "smollm2"
SMOKE = ROOT / "training" / "configs" / "smoke.toml"


def reward_file() -> Any:
    spec = importlib.util.spec_from_file_location("reward", ROOT / "training" / "launch" / "reward.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attempts(path: Path) -> Path:
    rows = []
    for at in range(1, 41):
        text = f"x + {at} = {at + 5}"
        rows.append({"problem": text, "attempt": "x = 5", "correct": True})
        rows.append({"problem": text, "attempt": "x = 6", "correct": False, "feedback": "Step 1: 6 is not right."})
    rows.append({"problem": "How many legs have 3 horses?", "attempt": "12", "correct": True})
    rows.append({"problem": "How many legs have 2 horses?", "attempt": "4 legs", "correct": False, "answer": "8"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_for_trl_and_their_rewards(tmp_path: Path) -> None:
    command = ["data", "export", "--config", str(SMOKE), "--out", str(tmp_path / "run"), "--pack", str(PACK)]
    assert main([*command, "--attempts", str(attempts(tmp_path / "a.jsonl")), "--to", str(tmp_path / "out")]) == 0
    reviews = read_jsonl(tmp_path / "out" / "verdict.train.jsonl")
    held = read_jsonl(tmp_path / "out" / "verdict.val.jsonl")
    assert not {row["extra_info"]["problem"] for row in reviews} & {row["extra_info"]["problem"] for row in held}
    words = [row["ground_truth"] for row in [*reviews, *held]]
    assert words.count("correct") == words.count("wrong") == 40, "a problem without a known answer is left out, classes are even"
    for row in reviews:
        assert "reference" not in row["prompt"][-1]["content"] and "The verdict is known" in row["ref_prompt"][-1]["content"]
    turns = read_jsonl(tmp_path / "out" / "vil.train.jsonl")
    assert [one["role"] for one in turns[0]["prompt"]] == ["user", "assistant", "user"]
    assert "6 is not right" in turns[0]["prompt"][-1]["content"]

    reward = reward_file()
    said = "<feedback>\nStep 1 is wrong.\n</feedback>\n<verdict>wrong</verdict>"
    columns = {"data_source": ["stv/verdict"] * 3, "ground_truth": ["wrong", "correct", "wrong"]}
    written = [[{"role": "assistant", "content": text}] for text in (said, said, "<verdict>wrong</verdict>")]
    assert reward.trl_reward(written, prompts=[None] * 3, **columns) == [1.0, 0.0, 0.0], "a verdict without feedback earns nothing"
    assert reward.compute_score("stv/answer", "so \\boxed{10/4}", "5/2") == 1
    assert reward.compute_score("stv/answer", "so it is 3", "5/2") == reward.compute_score("stv/answer", "", "5") == 0


def said_in(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])


def test_wrong_attempts_of_the_run_carry_a_feedback(tmp_path: Path) -> None:
    """Those of a rollout the true review, those of a trace what the trace said."""
    rollouts = tmp_path / "run" / "rollouts"
    texts = [f"{at}x + 4 = {5 * at + 4}" for at in range(2, 30)]
    right = [{"problem": text, "attempt": "x = 5", "correct": True} for text in texts]
    wrong = [{"problem": text, "attempt": "x = 6", "correct": False} for text in texts]
    write_jsonl(rollouts / "train.jsonl", [*right, *wrong])
    write_jsonl(rollouts / "traces.jsonl", [wrong[0] | {"feedback": "Step 1: somebody objects."}])
    command = ["data", "export", "--config", str(SMOKE), "--out", str(tmp_path / "run"), "--pack", str(PACK), "--to", str(tmp_path / "out")]
    assert main(command) == 0
    rows = [row for path in sorted((tmp_path / "out").glob("vil.*.jsonl")) for row in read_jsonl(path)]
    assert len(rows) == len(texts), "each attempt once"
    for row in rows:
        problem = row["extra_info"]["problem"]
        expected = review_feedback(check(read_problem(problem), "x = 6")) if problem != texts[0] else "Step 1: somebody objects."
        assert expected in said_in(row)


def test_it_is_said_where_nothing_can_be_refined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    legs = {"problem": "How many legs have 2 horses?", "answer": "8"}
    write_jsonl(tmp_path / "a.jsonl", [legs | {"attempt": "8", "correct": True}, legs | {"attempt": "4", "correct": False}])
    command = ["data", "export", "--config", str(SMOKE), "--out", str(tmp_path / "run"), "--pack", str(PACK)]
    assert main([*command, "--attempts", str(tmp_path / "a.jsonl"), "--to", str(tmp_path / "out")]) == 0
    assert "no `vil` rows" in capsys.readouterr().out


def test_rows_for_verl(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    written = export_rows([attempts(tmp_path / "a.jsonl")], PACK, tmp_path / "out", "verl", "stv", 1)
    rows = parquet.read_table(tmp_path / "out" / "verdict.train.parquet").to_pylist()
    assert len(rows) == written["verdict.train"]
    assert set(rows[0]) == {"data_source", "prompt", "ref_prompt", "ability", "reward_model", "extra_info"}
    assert rows[0]["reward_model"]["style"] == "rule" and rows[0]["prompt"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "2x = 4", "attempt": ""}, "row 1: `attempt`"),
        ({"problem": "2x = 4", "attempt": "x = 2"}, "row 1: `correct`"),
        ({"problem": "2 + 2", "attempt": "4", "correct": True, "answer": 4}, r"a\.jsonl, row 1: `answer` must be a text, not 4"),
        ({"problem": "2 + 2", "attempt": "4", "correct": True, "answer": 0}, "row 1: `answer`"),
        ({"problem": "2 + 2", "attempt": "4", "correct": True, "reference": ["4"]}, "row 1: `reference`"),
        ({"problem": "2 + 2", "attempt": "5", "correct": False, "feedback": {"step": 1}}, "row 1: `feedback`"),
        ({"problem": "2x = 4", "attempt": "x = 2", "correct": True}, "one class only"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TrainError, match=message):
        export_rows([path], PACK, tmp_path / "out", "trl", "stv", 1)
    path.write_text("")
    with pytest.raises(TrainError, match="holds no attempt"):
        export_rows([path], PACK, tmp_path / "out", "trl", "stv", 1)
