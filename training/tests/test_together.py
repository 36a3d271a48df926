"""Base and generator side by side: the weights are those of each alone, an interrupt stops both, a failure of one ends the other."""

import os
import signal
import time
from pathlib import Path

import pytest

from stv_train.config import Config
from stv_train.errors import TrainError
from stv_train.files import read_jsonl
from stv_train.run import Interrupted, Run
from stv_train.stages import base as base_stage
from stv_train.stages.base import Course, first_model, train_base, train_generator, train_trunk
from stv_train.stages.together import train_pair
from test_stages import same, smoke, weights


def pair(out: Path, **overrides: str) -> Config:
    fields = {"run__threads": "2", "base__tokens": "12000", "generator__tokens": "12000", "generator__own_attempts": "0"}
    return smoke(out, **fields | {"generator__start_from": "random", "run__checkpoint_seconds": "0"} | overrides)


def test_side_by_side_gives_the_weights_of_each_alone(tmp_path: Path) -> None:
    together = Run(pair(tmp_path / "together"))
    train_pair(together)
    alone = Run(pair(tmp_path / "alone", run__threads="1"))
    train_generator(alone)
    assert not alone.has_model("base"), "a generator of random weights does not wait for the base"
    train_base(alone)
    for name in ("base", "generator"):
        assert same(weights(together, name), weights(alone, name))
    assert not same(weights(together, "base"), weights(together, "generator"))
    train_pair(together)  # nothing is left to do


def test_the_base_learns_from_attempts_that_the_generator_draws_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_stage, "BUFFER", 24)
    fields = {"base__own_attempts_of": "generator", "base__own_attempts_at": "[0.1, 0.6]", "base__own_attempts": "0"}
    fields |= {"generator__own_attempts": "6", "generator__own_attempts_at": "[0.0, 0.5]"}
    together, alone = Run(pair(tmp_path / "together", **fields)), Run(pair(tmp_path / "alone", run__threads="1", **fields))
    with pytest.raises(TrainError, match="attempts of the generator, which is not trained"):
        train_base(alone)
    for run in (together, alone):
        train_pair(run)
        drawn = [row["stage"] for row in read_jsonl(run.folder / "metrics.jsonl") if row["stage"].endswith("-own")]
        assert drawn == ["generator-own"] * 2
    assert same(weights(together, "base"), weights(alone, "base"))
    other = Run(pair(tmp_path / "other", **fields | {"generator__muon_lr": "0.001"}))
    assert Course(other, "base").identity != Course(together, "base").identity


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"base__own_attempts_of": "trunk"}, "must be generator or empty"),
        ({"base__own_attempts_of": "generator", "generator__start_from": "base"}, "generator.start_from not the base"),
        ({"base__own_attempts_of": "generator", "base__own_attempts_at": "[0.1, 0.2]", "generator__own_attempts": "4"}, "names 2 shares"),
        ({"generator__own_attempts_of": "generator"}, "generator.own_attempts_of must be empty"),
    ],
)
def test_who_draws_attempts_is_checked(tmp_path: Path, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        pair(tmp_path, **fields)


def test_both_go_on_from_what_they_have_in_common(tmp_path: Path) -> None:
    common = {"trunk__tokens": "12000", "base__start_from": "trunk", "generator__start_from": "trunk", "base__own_attempts": "0"}
    run = Run(pair(tmp_path / "run", **common))
    train_pair(run)
    trunk = Run(pair(tmp_path / "trunk", **common))
    train_trunk(trunk)
    assert same(weights(run, "trunk"), weights(trunk, "trunk"))
    for name in ("base", "generator"):
        assert same(first_model(Course(trunk, name)).state_dict(), weights(trunk, "trunk"))
        assert not same(weights(run, name), weights(run, "trunk"))
    alone = Run(pair(tmp_path / "alone", **common))
    train_generator(alone)
    assert alone.has_model("generator") and same(weights(alone, "trunk"), weights(run, "trunk")), "it trains the trunk that is missing"
    other = Run(pair(tmp_path / "other", **common | {"trunk__tokens": "13000"}))
    for name in ("base", "generator"):
        assert Course(other, name).identity != Course(run, name).identity, "a checkpoint on another trunk is another one's"


def test_a_generator_that_is_told_to_begin_with_the_base_waits_for_it(tmp_path: Path) -> None:
    named, unnamed = (Run(pair(tmp_path / name, generator__start_from=start)) for name, start in (("named", "base"), ("unnamed", "")))
    for run in (named, unnamed):
        train_pair(run)
    assert same(weights(named, "generator"), weights(unnamed, "generator"))


def test_an_interrupt_stops_both_and_both_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pair(tmp_path / "parts", generator__tokens="60000")
    checkpoint = tmp_path / "parts" / "generator" / "checkpoint.pt"
    original = base_stage.collate

    def waits(*arguments: object) -> object:
        end = time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as inner:
        inner.setattr(base_stage, "collate", waits)
        with pytest.raises(Interrupted):
            train_pair(Run(config))
    run = Run(config)
    assert checkpoint.exists() and (run.folder / "base" / "checkpoint.pt").exists()
    assert not run.has_model("base") and not run.has_model("generator")
    train_pair(run)
    whole = Run(pair(tmp_path / "whole", generator__tokens="60000"))
    train_pair(whole)
    for name in ("base", "generator"):
        assert same(weights(run, name), weights(whole, name))


def test_a_generator_that_fails_ends_the_base_with_its_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(pair(tmp_path, base__tokens="5_000_000", generator__start_from=str(tmp_path / "nothing")))
    with pytest.raises(TrainError, match="the generator's training ended before its time"):
        train_pair(run)
    assert "generator.start_from" in capfd.readouterr().err
    assert (run.folder / "base" / "checkpoint.pt").exists()


def test_what_is_to_stop_before_it_begins_stops_after_a_step(tmp_path: Path) -> None:
    run = Run(pair(tmp_path))
    run.stop()
    with pytest.raises(Interrupted):
        train_base(run)
    assert (run.folder / "base" / "checkpoint.pt").exists()
    train_base(run)
    assert run.has_model("base")
