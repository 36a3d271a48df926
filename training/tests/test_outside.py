"""Texts that no checker reads: each split has its own, and what measures a model takes none that it was trained on."""

import json
from pathlib import Path
from random import Random

import pytest

from stv_train.config import load_config
from stv_train.documents import outside_attempt
from stv_train.errors import OutsideDomain
from stv_train.run import Run
from stv_train.stages import evaluate
from stv_train.tasks.outside import TEMPLATES, filled, make_outside
from stv_train.tasks.problems import SPLITS, read_problem
from stv_train.tokenizer import vocabulary

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("split", SPLITS)
def test_no_text_is_a_problem_of_the_pack(split: str) -> None:
    rng = Random(5)
    held_out = [template for template in TEMPLATES[split] if split != "train"]
    for text in [make_outside(rng, split) for _ in range(300)] + [filled((one,), rng) for one in held_out for _ in range(30)]:
        with pytest.raises(OutsideDomain):
            read_problem(text)


def test_the_splits_share_no_text() -> None:
    every = [template for split in SPLITS for template in TEMPLATES[split]]
    assert len(set(every)) == len(every) and min(map(len, (TEMPLATES["validation"], TEMPLATES["test"]))) >= 40
    drawn = {split: {make_outside(Random(number), split) for number in range(2000)} for split in SPLITS}
    assert not drawn["train"] & drawn["validation"] and not drawn["test"] & (drawn["train"] | drawn["validation"])


def test_held_out_words_are_none_of_the_vocabulary() -> None:
    """Models that were trained before would have another one."""
    assert vocabulary() == list(
        json.loads((ROOT.parent / "packs" / "stv-mini" / "generator" / "tokenizer.json").read_text())["model"]["vocab"]
    )


def test_the_outside_set_of_an_evaluation_was_in_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_config(ROOT / "configs" / "smoke.toml", {"run.out": str(tmp_path), "evaluate.attempts": "60"}))
    weights = tmp_path / run.config.evaluate.generator / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    monkeypatch.setattr(run, "load_model", lambda name: None)
    for name in ("binned_problems", "attempts_to_verify"):
        monkeypatch.setattr(evaluate, name, lambda *_: [])
    rows = [json.loads(line) for line in evaluate._problem_sets(run)["outside"].read_text().splitlines()]
    rng = Random(f"{run.config.run.seed}:outside")
    assert [(row["problem"], row["attempt"]) for row in rows] == [
        (make_outside(rng, "test"), outside_attempt(rng, "test")) for _ in range(60)
    ]
    trained_on = {make_outside(Random(number)) for number in range(2000)}
    assert not trained_on & {row[key] for row in rows for key in ("problem", "attempt")}
