"""What can go wrong outside the trainer: full disks, servers that do not start, feedback that is empty, interrupts of RL."""

import errno
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from stv_train import cli, files, gates
from stv_train.errors import TrainError
from stv_train.export import write_checkpoint
from stv_train.files import append_json, read_jsonl, write_atomically
from stv_train.gates import known_gates, pair_gates
from stv_train.larger import load_other
from stv_train.model import Llama
from stv_train.probes import Judged
from stv_train.run import Interrupted, Run
from stv_train.server import served
from stv_train.stages import chunks
from stv_train.stages import loops as loops_stage
from stv_train.stages import vil as vil_stage
from stv_train.stages.adopt import adopt
from stv_train.stages.base import require_compiler
from stv_train.stages.bins import BINS, Binned, bin_of, binned_problems
from stv_train.stages.loops import Loop, Protocol, load_loops, run_loop, run_loops
from stv_train.stages.vil import train_rlvr, train_vil
from stv_train.tasks.checking import check
from stv_train.tasks.problems import make_problem, read_problem, split_of
from stv_train.tasks.steps import solution_text, solve
from test_stages import CONFIGS, copy_of, interrupt_after, same, smoke, trained, weights  # noqa: F401


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as inner:
        inner.setattr(Path, "open", full)
        with pytest.raises(TrainError, match="the disk is full"):
            append_json(tmp_path / "metrics.jsonl", {})
    monkeypatch.setattr(cli, "_execute", full)
    assert cli.main(["base", "--config", str(CONFIGS / "smoke.toml")]) == 2
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = tmp_path / "weights"
    path.write_text("before")
    monkeypatch.setattr(files, "disk_usage", lambda _: SimpleNamespace(free=0))

    def write(part: Path) -> None:
        part.write_text("half")
        raise error

    with pytest.raises(TrainError, match="the disk is full"):
        write_atomically(path, write)
    assert path.read_text() == "before" and [one.name for one in tmp_path.iterdir()] == ["weights"]


def test_a_line_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(TrainError, match="Cannot write"):
            append_json(path, {"step": 2, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    append_json(path, {"step": 3})
    assert [row["step"] for row in read_jsonl(path)] == [1, 3]


def test_rlvr_keeps_its_last_steps_where_they_are_the_best(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    fields = {"vil__missed_share": "0", "vil__rlvr_steps": "2", "vil__prompts": "2", "vil__group": "2", "vil__max_new_tokens": "6"}
    run = copy_of(trained, tmp_path, **fields, vil__probe_every="9")
    scores = iter([0.0, 1.0])
    monkeypatch.setattr(vil_stage, "attempt_all", lambda *_: [SimpleNamespace(problem=None, attempt=next(scores))])
    monkeypatch.setattr(vil_stage, "answer_reward", lambda _, attempt: attempt)

    def step(run: Run, model: Llama, *_: object) -> dict[str, float]:
        with torch.no_grad():
            model.norm.weight.add_(1)
        return {}

    monkeypatch.setattr(vil_stage, "grpo_step", step)
    before = run.load_model(run.generator).norm.weight.detach().clone()
    assert torch.allclose(train_rlvr(run).norm.weight, before + 2)
    assert run.facts("rlvr")["best"] == 1.0


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("weights.safetensors", None, r"base/weights\.safetensors cannot be read: "),
        ("facts.json", b'{"model": ', r"base/facts\.json cannot be read: Expecting value"),
        ("facts.json", b"[]", r"base/facts\.json must hold an object with a `model`"),
    ],
)
def test_a_broken_model_is_named(trained: Run, tmp_path: Path, name: str, broken: bytes | None, words: str) -> None:  # noqa: F811
    run = copy_of(trained, tmp_path)
    path = run.folder / "base" / name
    path.write_bytes(path.read_bytes()[:-100] if broken is None else broken)
    with pytest.raises(TrainError, match=words):
        run.load_model("base")
    with pytest.raises(TrainError, match=words):
        load_other(run, run.folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--config", "FOLDER"], "The configuration FOLDER cannot be read: Is a directory."),
        (["data", "from-traces", "--traces", "FOLDER"], "FOLDER cannot be read: Is a directory."),
        (["data", "--out", "FILE"], "The run's folder FILE (--out or run.out) cannot be made: File exists."),
        (["data", "--out", "FILE/run"], "The run's folder FILE/run (--out or run.out) cannot be made: Not a directory."),
    ],
)
def test_what_is_no_file_or_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    places = {"FOLDER": str(tmp_path / "folder"), "FILE": str(tmp_path / "file")}
    Path(places["FOLDER"]).mkdir()
    Path(places["FILE"]).touch()

    def placed(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    defaults = {"--config": str(CONFIGS / "smoke.toml"), "--out": str(tmp_path / "run")}
    for name, value in defaults.items():
        arguments = arguments if name in arguments else [*arguments, name, value]
    assert cli.main([placed(text) for text in arguments]) == 2
    assert capsys.readouterr().err == f"stv-train: {placed(words)}\n"


def test_any_file_that_is_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "plots/base.png")

    monkeypatch.setattr(cli, "_execute", denied)
    assert cli.main(["base", "--config", str(CONFIGS / "smoke.toml")]) == 2
    assert capsys.readouterr().err == "stv-train: plots/base.png: Permission denied.\n"


def test_gates_of_a_base_that_was_taken_in_are_measured_once(
    trained: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_checkpoint(tmp_path / "checkpoint", trained.load_model("base"))
    run = Run(smoke(tmp_path / "run"))
    adopt(run, "base", tmp_path / "checkpoint")
    found = pair_gates(run)
    assert found["wrong_attempts"] > 0 and known_gates(run) == {"base": found}
    monkeypatch.setattr(gates, "measure_gates", lambda *_: pytest.fail("they were measured again"))
    assert pair_gates(run) == found


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("import sys; print('pack.json is broken', file=sys.stderr); sys.exit(3)")
    with (
        pytest.raises(TrainError, match=r"ended with status 3: pack\.json is broken"),
        served([sys.executable, str(script)], tmp_path, tmp_path),
    ):
        pass


def test_interrupted_rl_goes_on_to_the_same_weights(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    fields = {
        "vil__missed_share": "0",
        "vil__rlvr_steps": "2",
        "vil__prompts": "2",
        "vil__group": "2",
        "vil__max_new_tokens": "6",
        "vil__patience": "0",
    }
    whole = copy_of(trained, tmp_path / "whole", **fields)
    train_rlvr(whole)
    parts = copy_of(trained, tmp_path / "parts", **fields)
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, vil_stage, "grpo_step")
        with pytest.raises(vil_stage.Interrupted):
            train_rlvr(parts)
    assert not parts.has_model("rlvr")
    train_rlvr(Run(parts.config))
    assert same(weights(whole, "rlvr"), weights(parts, "rlvr"))


@pytest.mark.parametrize("changed", ["seed", "tasks", "generator", "verifier"])
def test_rl_goes_on_from_a_checkpoint_of_the_same_run_alone(
    trained: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    fields = {"vil__missed_share": "0", "vil__rlvr_steps": "2", "vil__steps": "2", "vil__prompts": "2", "vil__group": "2"}
    fields |= {"vil__max_new_tokens": "6", "vil__patience": "0", "vil__probe_every": "9"}
    run = copy_of(trained, tmp_path, **fields)
    monkeypatch.setattr(vil_stage, "rejected_attempts", lambda *_: [])
    train = train_rlvr
    if changed == "verifier":
        run.save_model("stv", run.new_model(4), {})
        train_rlvr(run)
        train = train_vil
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, vil_stage, "grpo_step")
        with pytest.raises(vil_stage.Interrupted):
            train(run)
    if changed in ("generator", "verifier"):
        run.save_model("base" if changed == "generator" else "stv", run.new_model(5), {})
    else:
        fields |= {"run__seed": "2"} if changed == "seed" else {"data__tasks": "{equations = 1}"}
    with pytest.raises(TrainError, match="another configuration of this stage"):
        train(Run(smoke(run.folder, **fields)))


def test_a_missing_compiler_is_named_at_once(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = copy_of(trained, tmp_path, run__compile="true", run__device='"cpu"')
    with pytest.raises(TrainError, match=r"run\.compile needs a C\+\+ compiler, and there is no no-such-compiler here"):
        require_compiler(run)


class Scripted:
    """Answers in the place of a model's sampling: what it says to each prompt, by the kind of prompt."""

    def __init__(self, review: str, refined: str) -> None:
        self.review, self.refined = review, refined
        self.asked: list[str] = []

    def __call__(self, model: object, tokenizer: object, written: list[str], sampling: object, seed: int) -> list[str]:
        self.asked += written
        return [self.review if text.endswith("Check<|end|><|assistant|>") else self.refined for text in written]


def test_a_review_without_feedback_or_verdict_accepts_nothing(
    trained: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = make_problem("equations", 2, Random(1))
    wrong, right = "Step 1: x = 999", solution_text(solve(problem))
    first = [Judged(problem, wrong, check(problem, wrong))]
    model: Any = object()
    for review, accepted, generic in (("", 0.0, True), ("Step 1: no", 0.0, False), ("Step 1: ok\nVerdict: accept", 1.0, False)):
        script = Scripted(review, right)
        monkeypatch.setattr(loops_stage, "complete", script)
        loop = run_loop(trained, model, Protocol("own", model), first, 1)
        assert loop.accept_rate[0] == accepted
        assert loop.pass_at_1 == ([0.0, 1.0] if not accepted else [0.0, 0.0]), "what is accepted stays"
        refinements = [text for text in script.asked if not text.endswith("Check<|end|><|assistant|>")]
        assert all((loops_stage.GENERIC_FEEDBACK in text) is generic for text in refinements)
    # With the truth as verdict nothing wrong is ever accepted, and a right answer at once.
    script = Scripted("", right)
    monkeypatch.setattr(loops_stage, "complete", script)
    told = run_loop(trained, model, Protocol("truth", None, "truth", "true"), first, 2)
    assert told.accept_rate == told.pass_at_1 == [0.0, 1.0, 1.0] and len(script.asked) == 1


def test_bins_are_those_of_32_samples(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A generator that is right with a known chance for each problem: easy ones are dropped early, and no bin changes by it."""
    from stv_train.stages import bins as bins_stage

    drawn: dict[str, list[bool]] = {}

    def attempts(model: object, tokenizer: object, problems: list[Any], sampling: object, seed: int) -> list[Judged]:
        found = []
        for problem in problems:
            chance = Random(problem.canonical).choice((0.0, 0.0, 0.05, 0.1, 0.3, 0.9))
            past = drawn.setdefault(problem.canonical, [])
            past.append(Random(f"{problem.canonical}:{len(past)}").random() < chance)
            text = solution_text(solve(problem)) if past[-1] else "x = 9999"
            found.append(Judged(problem, text, check(problem, text)))
        return found

    monkeypatch.setattr(bins_stage, "attempt_all", attempts)
    model = trained.load_model("base")
    found = binned_problems(copy_of(trained, tmp_path / "whole"), model, "test", 30)
    assert {name: sum(one.bin == name for one in found) for name in BINS} == {"hardest": 30, "hard": 30, "easy": 8}
    for one in found:
        canonical = one.problem.canonical
        assert split_of(canonical) == "test" and len(drawn[canonical]) in (8, 32)
        past = [Random(f"{canonical}:{at}").random() for at in range(32)]
        chance = Random(canonical).choice((0.0, 0.0, 0.05, 0.1, 0.3, 0.9))
        assert one.bin == bin_of(sum(value < chance for value in past))
    assert any(len(past) == 8 for past in drawn.values()), "an easy problem costs eight samples"

    # What was measured before an interrupt is not measured again, and is the same.
    sampled = sum(len(past) for past in drawn.values())
    drawn.clear()
    parts = copy_of(trained, tmp_path / "parts")
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, chunks, "write_jsonl")
        with pytest.raises(Interrupted):
            binned_problems(parts, model, "test", 30)
    assert 0 < sum(len(past) for past in drawn.values()) < sampled
    again = binned_problems(Run(parts.config), model, "test", 30)
    assert [(one.problem.text, one.bin, one.num_right) for one in again] == [(one.problem.text, one.bin, one.num_right) for one in found]
    assert sum(len(past) for past in drawn.values()) == sampled


def test_loops_go_on_behind_the_one_that_was_interrupted(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = copy_of(trained, tmp_path)
    problems = [Binned(read_problem("3x + 4 = 19", "equations", 3), name, 0) for name in ("hard", "hardest")]
    ways = [Protocol("resampling", None, "none", "none"), Protocol("truth", None, "truth", "true")]
    monkeypatch.setattr(loops_stage, "protocols", lambda run: ways)
    played: list[str] = []

    def play(run: Run, generator: object, protocol: Protocol, first: list[Judged], rounds: int) -> Loop:
        played.append(protocol.name)
        assert len(first) == 2
        return Loop(protocol.name, [0.0], [0.5], [1.0], [9.0], [0.0])

    monkeypatch.setattr(loops_stage, "run_loop", play)
    with monkeypatch.context() as inner:
        interrupt_after(3, inner, chunks, "write_jsonl")
        with pytest.raises(Interrupted, match="hardest problems stopped behind resampling"):
            run_loops(run, problems, 2, "loops")
    assert not load_loops(run.folder / "evaluation" / "loops.json")
    run_loops(Run(run.config), problems, 2, "loops")
    assert played == ["resampling", "truth", "resampling", "truth"]
    found = load_loops(run.folder / "evaluation" / "loops.json")
    assert [(name, [loop["name"] for loop in loops]) for name, loops in found.items()] == [
        ("hard", ["resampling", "truth"]),
        ("hardest", ["resampling", "truth"]),
    ]


def test_a_killed_evaluation_leaves_no_server_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "pid"
    # Says where it listens, as the server does, answers every question, and stays.
    stand_in = f"""
import http.server, os, pathlib
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
pathlib.Path({str(marker)!r}).write_text(str(os.getpid()))
print(f"listens on http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""

    def evaluate(*_: object) -> None:
        with served([sys.executable, "-c", stand_in], tmp_path, tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    monkeypatch.setattr(cli, "_execute", evaluate)
    assert cli.main(["evaluate", "--config", str(CONFIGS / "smoke.toml")]) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_commands_are_recorded_with_how_they_ended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(["export", "--config", str(CONFIGS / "smoke.toml"), "--out", str(out)]) == 2
    (row,) = read_jsonl(out / "commands.jsonl")
    assert row["ended"] == "failed" and row["command"].startswith("stv-train export") and row["seconds"] >= 0
    assert json.loads((out / "commands.jsonl").read_text())["started"] > 0


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    texts = ["a\u2028b", "a\u0085b", "a\x1cb", "a\fb"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    assert [row["text"] for row in read_jsonl(path)] == texts
