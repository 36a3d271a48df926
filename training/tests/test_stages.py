"""Every stage on the smoke configuration, interrupts, resuming, and what bad input gets."""

import errno
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stv_train import calibrate, prompts
from stv_train.answers import same_answer
from stv_train.card import card
from stv_train.cli import main
from stv_train.config import Config, load_config
from stv_train.errors import TrainError
from stv_train.export import export_pack, exported_folder, load_export, write_checkpoint
from stv_train.figures import load_served, served_identity
from stv_train.files import read_jsonl, write_atomically, write_json, write_jsonl
from stv_train.gates import failures, known_gates
from stv_train.probes import Judged
from stv_train.run import Interrupted, Run
from stv_train.stages import base as base_stage
from stv_train.stages import chunks
from stv_train.stages import practice as practice_stage
from stv_train.stages.adopt import checkpoint_digest
from stv_train.stages.base import Course, first_model, train_base, train_generator
from stv_train.stages.data import from_traces, gym_problems, gym_row, user_problems
from stv_train.stages.practice import practice, probe_problems
from stv_train.stages.rollout import GRADED, TRACES, attempt_files, load_attempts, rollout, rollout_path, row
from stv_train.stages.verifier import Balanced, train_verifier
from stv_train.stages.vil import answer_reward, train_vil
from stv_train.tasks.checking import check
from stv_train.tasks.mistakes import student_attempt
from stv_train.tasks.problems import make_problem, read_problem, split_of
from stv_train.tasks.steps import solution_text, solve

CONFIGS = Path(__file__).parents[1] / "configs"


def smoke(out: Path, **overrides: str) -> Config:
    fields = {"run.out": str(out), "base.tokens": "6000", "base.probe_tokens": "1000000", "base.own_attempts": "0", "gates.problems": "4"}
    fields |= {"gates.samples": "2", "gates.bin_problems": "2", "run.threads": "1", "generator.tokens": "0"}
    return load_config(CONFIGS / "smoke.toml", fields | {name.replace("__", "."): value for name, value in overrides.items()})


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_file(run.folder / name / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def write_attempts(run: Run) -> None:
    """A few attempts of both classes, as a rollout would leave them."""
    rows = []
    for text in ("3x + 4 = 19", "5x - 3 = 2x + 9", "x + 7 = 3", "2 + 3 * 4", "7 * 8", "9 + 5", "x/2 = 7", "4x = 20"):
        problem = read_problem(text)
        if split_of(problem.canonical) != "train":
            continue
        final = problem.answer if "x" not in text else f"x = {problem.answer}"
        wrong = problem.answer + 1 if "x" not in text else f"x = {problem.answer + 1}"
        rows += [{"problem": text, "attempt": f"Step 1: {line}"} for line in (final, wrong)]
    path = rollout_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A base model that knows nothing yet, and attempts."""
    torch.set_num_threads(1)
    run = Run(smoke(tmp_path_factory.mktemp("run")))
    train_base(run)
    write_attempts(run)
    return run


@pytest.mark.parametrize("name", ["base", "generator"])
def test_training_begins_with_a_checkpoint_that_is_named(trained: Run, tmp_path: Path, name: str) -> None:
    model = trained.load_model("base")
    write_checkpoint(tmp_path / "checkpoint", model)
    run = Run(smoke(tmp_path / "run", **{f"{name}__start_from": str(tmp_path / "checkpoint")}))
    assert same(first_model(Course(run, name)).state_dict(), model.state_dict())
    for folder, complaint in (("nowhere", "cannot be read"), ("checkpoint", "of another shape")):
        settings = {f"{name}__start_from": str(tmp_path / folder), "model__intermediate_size": "192"}
        other = Run(smoke(tmp_path / "other", **settings))
        with pytest.raises(TrainError, match=rf"{name}\.start_from: .*{complaint}"):
            first_model(Course(other, name))


def test_a_generator_of_a_checkpoint_and_no_tokens_is_that_checkpoint(trained: Run, tmp_path: Path) -> None:
    model = trained.load_model("base")
    write_checkpoint(tmp_path / "checkpoint", model)
    run = Run(smoke(tmp_path / "run", generator__start_from=str(tmp_path / "checkpoint"), generator__tokens="0"))
    train_generator(run)
    assert run.generator == "generator" and same(weights(run, "generator"), model.state_dict())
    assert Run(smoke(tmp_path / "run", generator__start_from="random", generator__tokens="0")).generator == "base"


def test_a_checkpoint_becomes_a_model_of_the_run(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained.load_model("base")
    source = ["--config", str(CONFIGS / "smoke.toml"), "--out", str(trained.folder), "--set", "export.weights=float32"]
    assert main(["export", *source, "--model", "base"]) == 2
    assert "needs --to" in capsys.readouterr().err
    assert main(["export", *source, "--model", "base", "--to", str(tmp_path / "checkpoint")]) == 0
    command = ["adopt", "--config", str(CONFIGS / "smoke.toml"), "--out", str(tmp_path / "run"), str(tmp_path / "checkpoint")]
    assert main([*command, "--name", "other"]) == 0
    run = Run(smoke(tmp_path / "run"))
    assert same(run.load_model("other").state_dict(), model.state_dict())
    assert main([*command, "--name", "base"]) == 0
    made = card(run, "base", "base")
    assert f"taken in from `{tmp_path / 'checkpoint'}`" in made and "self-trained verification" not in made
    assert f"`stv-train adopt {tmp_path / 'checkpoint'} --name base`, then" in made and "without what had made base" in made
    for name, complaint in (("other", "exists already"), ("../up", "lower-case letters"), ("new", "cannot be read")):
        arguments = command if name != "new" else [*command[:-1], str(tmp_path / "nowhere")]
        assert main([*arguments, "--name", name]) == 2
        assert complaint in capsys.readouterr().err


def test_a_pack_of_other_weights_is_not_evaluated(trained: Run, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path)
    pack = export_pack(run, "base", "base", tmp_path / "elsewhere")
    assert exported_folder(run) == pack.resolve() and load_export(run, pack)["verifier"] == "base"
    assert json.loads((pack / "pack.json").read_text())["description"].endswith(
        "worked steps: linear equations and the order of operations."
    )
    run.save_model("base", run.new_model(9), {})
    with pytest.raises(TrainError, match="holds other weights"):
        load_export(run, pack)


def test_all_stages_make_a_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    command = ["all", "--config", str(CONFIGS / "smoke.toml"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "gates:" in said and "export:" in said
    pack = tmp_path / "run" / "pack"
    data = json.loads((pack / "pack.json").read_text())
    assert [data["sampling"][role]["temperature"] for role in ("generator", "verifier")] == [0.7, 0.4]
    run = Run(load_config(CONFIGS / "smoke.toml", {"run.out": str(tmp_path / "run")}))
    ids = torch.tensor([run.tokenizer.encode("<|user|>3x + 4 = 19<|end|><|assistant|>Step 1: 3x = 15")])
    for role, name in (("generator", "vil"), ("verifier", "stv")):
        folder = pack / data["roles"][role]["source"]
        theirs = transformers.LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
        with torch.no_grad():
            assert torch.allclose(theirs(ids).logits, run.load_model(name)(ids), atol=1e-4), f"{role}: the same logits"
        assert transformers.AutoTokenizer.from_pretrained(folder)("3x = 9", add_special_tokens=False)["input_ids"]
    assert sum(path.stat().st_size for path in pack.rglob("*") if path.is_file()) < 24 * 2**20
    with pytest.raises(TrainError, match=r"above export\.max_mib = 0\.5"):
        export_pack(Run(load_config(CONFIGS / "smoke.toml", {"run.out": str(tmp_path / "run"), "export.max_mib": "0.5"})), "vil", "stv")
    assert (pack / "pack.json").exists(), "a pack that is refused leaves the one before it"
    assert {path.name for path in (tmp_path / "run" / "plots").glob("*.png")} >= {"base-loss.png", "stv-probe.png"}
    stages = {row["stage"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")}
    assert stages >= {"base", "gates", "rollout", "stv", "vil"}
    assert not same(weights(run, "generator"), weights(run, "base")), "the generator went on from the base"
    assert list(known_gates(run)) == ["base", "generator, with the base as its teacher"]
    report = (tmp_path / "run" / "REPORT.md").read_text()
    assert report.startswith("# Every stage, seen to work\n\nThe numbers say nothing: all is as small as can be.\n\nstv-train ")
    assert "with the base as its teacher" in report
    # Everything is done: the same command only says so.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("weights.safetensors")}
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("weights.safetensors")}


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """Sends SIGINT to this process at the `count`-th call of `module.name`."""
    calls = 0
    original = getattr(module, name)

    def counted(*arguments: object, **keywords: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize(("module", "name"), [(base_stage, "collate"), (chunks, "write_jsonl")], ids=["batches", "own attempts"])
def test_interrupted_base_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    monkeypatch.setattr(base_stage, "BUFFER", 24)
    monkeypatch.setattr(base_stage, "CHUNK", 2)
    own = {"base__own_attempts": "6", "base__own_attempts_at": "[0.5]"} if module is chunks else {}
    whole = Run(smoke(tmp_path / "whole", **own))
    train_base(whole)
    config = smoke(tmp_path / "parts", **own)
    with monkeypatch.context() as inner:
        interrupt_after(2, inner, module, name)
        with pytest.raises(Interrupted):
            train_base(Run(config))
    parts = Run(config)
    assert (parts.folder / "base" / "checkpoint.pt").exists() and not parts.has_model("base")
    train_base(parts)
    assert same(weights(whole, "base"), weights(parts, "base"))
    assert not (parts.folder / "base" / "checkpoint.pt").exists()


def test_own_attempts_are_those_of_the_course_that_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_stage, "BUFFER", 24)

    def pools_drawn(**overrides: str) -> int:
        """After training anew in the same folder."""
        run = Run(smoke(tmp_path, base__own_attempts="6", base__own_attempts_at="[0.5]", **overrides))
        (run.folder / "base" / "facts.json").unlink(missing_ok=True)
        train_base(run)
        return sum(row["stage"] == "base-own" for row in read_jsonl(run.folder / "metrics.jsonl"))

    assert pools_drawn() == 1
    assert pools_drawn(base__muon_lr="0.003") == 2, "those of another configuration are not taken"
    assert pools_drawn() == 2, "its own are"


def test_a_course_is_named_by_the_weights_that_it_begins_with(trained: Run, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_checkpoint(tmp_path / "packs" / str(seed), trained.new_model(seed))
    folder = tmp_path / "checkpoint"
    identities = []
    for seed in (1, 2, 1):
        folder.unlink(missing_ok=True)
        folder.symlink_to(tmp_path / "packs" / str(seed))
        checkpoint_digest.cache_clear()
        identities.append(Course(Run(smoke(tmp_path / "run", base__start_from=str(folder))), "base").identity)
    assert identities[0] == identities[2] != identities[1]


@pytest.mark.parametrize("teacher", ["frozen", "ema", "live"])
def test_stv_runs_with_every_teacher(trained: Run, tmp_path: Path, teacher: str) -> None:
    run = copy_of(trained, tmp_path, verifier__teacher=teacher, verifier__samples="32", verifier__top_k="8" if teacher == "ema" else "0")
    model = train_verifier(run, "stv")
    assert not same(weights(trained, "base"), dict(model.state_dict()))


def copy_of(trained: Run, tmp_path: Path, **overrides: str) -> Run:
    import shutil

    shutil.copytree(trained.folder, tmp_path / "run", dirs_exist_ok=True)
    return Run(smoke(tmp_path / "run", **overrides))


@pytest.mark.parametrize("method", ["stv", "sft", "verdict-rl"])
def test_interrupted_verifier_goes_on_to_the_same_weights(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from stv_train.stages import verifier as verifier_stage

    overrides = {"verifier__samples": "64", "verifier__batch": "16", "verifier__max_new_tokens": "24"}
    whole = copy_of(trained, tmp_path / "whole", **overrides)
    train_verifier(whole, method)
    parts = copy_of(trained, tmp_path / "parts", **overrides)
    with monkeypatch.context() as inner:
        interrupt_after(2, inner, verifier_stage, "update_step")
        with pytest.raises(Interrupted):
            train_verifier(parts, method)
    path = rollout_path(parts)
    attempts = path.read_text()
    path.write_text(attempts.replace("x = 5", "x = 77", 1))
    with pytest.raises(TrainError, match="another configuration of this stage"):
        train_verifier(Run(parts.config), method)  # as many attempts, of which one is another
    path.write_text(attempts)
    train_verifier(Run(parts.config), method)
    assert same(weights(whole, method), weights(parts, method))


def test_interrupted_rollout_keeps_its_chunks(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stv_train.stages import rollout as rollout_stage

    monkeypatch.setattr(rollout_stage, "CHUNK", 4)
    overrides = {"rollout__attempts": "12", "rollout__max_new_tokens": "8"}
    whole = copy_of(trained, tmp_path / "whole", **overrides)
    rollout(whole)
    parts = copy_of(trained, tmp_path / "parts", **overrides)
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, chunks, "write_jsonl")
        with pytest.raises(Interrupted):
            rollout(parts)
    rollout(Run(parts.config))
    first = rollout_path(whole).read_text()
    assert first == rollout_path(parts).read_text()
    assert len(read_jsonl(rollout_path(whole))) <= 12
    whole.save_model("base", whole.new_model(5), {})
    rollout(whole)
    assert rollout_path(whole).read_text() != first, "other weights make other attempts"


def test_vil_learns_the_answer_reward(trained: Run, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path, vil__rlvr_steps="1", vil__steps="1", vil__prompts="2", vil__group="2", vil__max_new_tokens="8")
    problem = read_problem("3x + 4 = 19", "equations", 3)
    wrong = Judged(problem, "Step 1: 3x = 16", check(problem, "Step 1: 3x = 16"))
    write_jsonl(rollout_path(run), [row(wrong)])
    (run.folder / "stv").mkdir()
    for name in ("weights.safetensors", "facts.json"):
        (run.folder / "stv" / name).write_bytes((run.folder / "base" / name).read_bytes())
    for control in ("vil", "prefix", "rlvr-longer", "vil-untrained"):
        train_vil(run, control)
        assert run.has_model(control)
    assert answer_reward(problem, "Step 1: 3x = 16\nStep 2: x = 5") == 1, "the answer alone counts, not the way"
    assert answer_reward(problem, "Step 1: 3x = 15") == 0
    assert answer_reward(problem, "") == answer_reward(problem, "Step 1: x = 5 …") == 0


def test_rejected_attempts_are_drawn_once_and_taken_in_turn(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stv_train.stages import rejections as stage
    from stv_train.stages import vil as vil_stage

    overrides = {
        "vil__rejected": "6",
        "vil__prompts": "4",
        "vil__first_share": "0.25",
        "verifier__max_new_tokens": "24",
        "vil__missed_share": "0",
    }
    run = copy_of(trained, tmp_path, **overrides)
    model = run.load_model("base")
    problems = practice(run, 3)
    accepted, rejected = (prompts.review_text(*parts) for parts in (("Step 1: ok", "accept"), ("Step 1: 2 + 2 is 4, not 5.", "reject")))
    monkeypatch.setattr(
        stage, "complete", lambda model, tokenizer, asked, sampling, seed: [accepted, rejected, rejected] * (len(asked) // 3)
    )
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, chunks, "write_jsonl")
        with pytest.raises(Interrupted):
            stage.rejected_attempts(run, "vil", model, model, problems, 3)
    with monkeypatch.context() as inner:
        interrupt_after(1, inner, chunks, "write_jsonl")
        with pytest.raises(Interrupted):  # also in the chunk that was the last to be wanted
            stage.rejected_attempts(run, "vil", model, model, problems, 3)
    drawn = stage.rejected_attempts(run, "vil", model, model, problems, 3)
    assert len(drawn) == 6
    assert {one["feedback"] for one in drawn} == {"Step 1: 2 + 2 is 4, not 5."}, "what is accepted is not refined"
    monkeypatch.setattr(stage, "attempt_all", lambda *_: pytest.fail("they were drawn again"))
    assert stage.rejected_attempts(run, "vil", model, model, problems, 3) == drawn
    other = run.new_model(5)
    for generator, verifier in ((other, model), (model, other)):
        with pytest.raises(pytest.fail.Exception, match="drawn again"):
            stage.rejected_attempts(run, "vil", generator, verifier, problems, 3)

    steps = [vil_stage._refine_turns(problems, drawn, run.config.vil, 3, step) for step in range(4)]
    assert {len(step) for step in steps} == {4}, "a first attempt and three refinements"
    prompts_of = [turn.prompt for step in steps for turn in step[1:]]
    whole = sorted(prompts.refine_prompt(one["problem"], one["attempt"], one["feedback"]) for one in drawn)
    assert sorted(prompts_of[:6]) == sorted(prompts_of[6:]) == whole, "each has its turn before one has a second"
    assert prompts_of[:6] != prompts_of[6:]
    assert len(vil_stage._refine_turns(problems, [], run.config.vil, 3, 0)) == 1, "nothing was rejected: first attempts alone"


def test_practice_is_on_missed_problems_and_new_ones(trained: Run, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path, vil__missed_share="0.6")
    rollout_path(run).unlink(missing_ok=True)
    with pytest.raises(TrainError, match=r"vil\.missed_share is 0\.6, but there are no attempts in"):
        practice(run, 3)
    texts = ("3x + 4 = 19", "2x - 5 = 9", "5x + 2 = 22", "7x - 3 = 32", "4x + 9 = 17")
    problems = [read_problem(text, "equations", 3) for text in texts]
    of_training = [problem for problem in problems if split_of(problem.canonical) == "train"]
    assert 1 < len(of_training) < len(problems), "the texts are of more than one split"
    wrong = [Judged(problem, "Step 1: x = 99", check(problem, "Step 1: x = 99")) for problem in problems]
    right = read_problem("6x + 1 = 13", "equations", 3)
    own = solution_text(solve(right))
    write_jsonl(rollout_path(run), map(row, [*wrong, *wrong, Judged(right, own, check(right, own))]))
    chosen = practice(run, 3)
    expected = [problem.canonical for problem in of_training]
    assert [problem.canonical for problem in chosen.missed] == expected, "each once, no held-out one"
    drawn = [chosen.problem(Random(number)) for number in range(400)]
    assert 0.5 < sum(problem.canonical in expected for problem in drawn) / 400 < 0.7
    assert len({problem.text for problem in drawn}) > 100, "the others are new"


def test_probes_of_rl_measure_missed_validation_problems_too(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of(trained, tmp_path, vil__probe_problems="2")
    alike = probe_problems(copy_of(trained, tmp_path / "other", vil__probe_problems="2", vil__missed_share="0"))
    found = probe_problems(run)
    assert [problem.text for problem in found[: len(alike)]] == [problem.text for problem in alike]
    missed = [problem.text for problem in found[len(alike) :]]
    assert missed and missed[0::4] == missed[1::4] == missed[2::4] == missed[3::4], "each is attempted four times"
    assert {split_of(problem.canonical) for problem in found} == {"validation"}
    monkeypatch.setattr(practice_stage, "attempt_all", lambda *_: pytest.fail("they were searched for again"))
    assert [problem.text for problem in probe_problems(run)] == [problem.text for problem in found]
    run.save_model("base", run.new_model(5), {})
    with pytest.raises(pytest.fail.Exception, match="searched for again"):
        probe_problems(run)


def test_grpo_step_raises_what_was_rewarded(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stv_train.optim import MuonAdamW
    from stv_train.stages import vil as vil_stage

    run = copy_of(trained, tmp_path, vil__prompts="2", vil__group="32", vil__max_new_tokens="2")
    model = run.load_model("base")
    problem = make_problem("equations", 1, Random(1))
    turn = vil_stage.Turn(problem, prompts.generate_prompt(problem.text))
    ids = torch.tensor([run.tokenizer.encode(turn.prompt)])

    def probability() -> float:
        with torch.no_grad():
            return float(torch.softmax(model(ids)[0, -1], -1)[likely].sum())

    with torch.no_grad():
        likely = model(ids)[0, -1].topk(60).indices.tolist()
    starts = {run.tokenizer.decode([token]) for token in likely}
    monkeypatch.setattr(vil_stage, "answer_reward", lambda problem, attempt: float(any(attempt.startswith(s) for s in starts if s)))
    before = probability()
    optimizer = MuonAdamW(model, 0.005, 0.001)
    for seed in range(3):
        vil_stage.grpo_step(run, model, optimizer, [turn, turn], seed)
    assert probability() > before
    after = probability()
    vil_stage.grpo_step(run, model, optimizer, [turn, turn], 3, factor=0.0)
    assert probability() == after, "the rate has fallen to nothing"


@pytest.mark.parametrize("helps", [True, False])
def test_the_error_that_is_reported_is_that_of_the_temperature_that_is_kept(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], helps: bool
) -> None:
    def scores(run: Run, model: object, judged: list[Judged], seed: int) -> list[float]:
        """Too careful where the temperature is fitted; where it is measured the same, or one score for all."""
        careful = [0.6 if one.result.correct else 0.4 for one in judged]
        return [score if helps or at % 2 == 0 else 0.6 for at, score in enumerate(careful)]

    monkeypatch.setattr(calibrate, "accept_scores", scores)
    found = calibrate.calibrate(copy_of(trained, tmp_path), "base", "base")
    assert (found["temperature"] < 0.5) is helps and (found["ece_after"] < found["ece_before"]) is helps
    if not helps:
        assert found["temperature"] == 1 and found["ece_after"] == found["ece_before"]
        assert "calibration: temperature 1.000," in capsys.readouterr().out


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_checkpoint_of_another_configuration(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainError, match=r"checkpoint of another configuration.*num_layers"):
        copy_of(trained, tmp_path, model__num_layers="1").load_model("base")
    config = smoke(tmp_path / "fresh")
    with monkeypatch.context() as inner:
        interrupt_after(2, inner, base_stage, "collate")
        with pytest.raises(base_stage.Interrupted):
            train_base(Run(config))
    with pytest.raises(TrainError, match="another configuration of this stage"):
        train_base(Run(smoke(tmp_path / "fresh", base__muon_lr="0.5")))


def test_broken_checkpoint_is_named(tmp_path: Path) -> None:
    run = Run(smoke(tmp_path))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(TrainError, match=r"checkpoint\.pt cannot be read"):
        train_base(run)


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")

    def write(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainError, match="the disk is full"):
        write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\nsede = 1", r"run\.sede is not a known field"),
        ("[run]\nseed = 'a'", r"run\.seed must be int"),
        ("[data.tasks]\ncalculus = 1", "calculus"),
        ("[verifier]\nteacher = 'larger'", r"verifier\.teacher"),
        ("[verifier]\nalpha = 2", r"verifier\.alpha"),
        ("[model]\nhidden_size = 100", r"model\.hidden_size"),
        ("[base]\nstart_from = 'trunk'", r"base\.start_from is trunk, so trunk\.tokens must be above 0"),
        ("[trunk]\ntokens = 9\nstart_from = 'trunk'", r"trunk\.start_from must not be trunk"),
        ("[base]\nstart_from = 'base'", r"base\.start_from must not be base"),
        ("[trunk.kinds]\nsing = 1", r"trunk\.kinds names 'sing'"),
        ("[model]\nnum_kv_heads = 0", r"model\.num_kv_heads must be above 0, not 0\."),
        ("[verifier]\nbatch = 0", r"verifier\.batch must be above 0, not 0\."),
        ("[verifier]\ntemperature = 0", r"verifier\.temperature must be above 0, not 0\.0\."),
        ("[vil]\nprobe_every = 0", r"vil\.probe_every must be above 0, not 0\."),
        ("[base]\nprobe_tokens = 0", r"base\.probe_tokens must be above 0, not 0\."),
        ("[base]\nfirst_drill = 1.0", r"base\.first_drill must be at least 0 and below 1, not 1\.0\."),
        ("[run]\nthreads = -1", r"run\.threads must not be negative, not -1\."),
        ("[run]\ndevice = 'tpu'", r"run\.device must be auto, cpu or cuda, not 'tpu'\."),
        ("[vil]\ngroup = 1", r"vil\.group must be at least 2, not 1\."),
        ("[hf]\ntasks = ['order-99']", r"hf\.tasks names 'order-99'"),
        ("run = 3", "run must be a table"),
        ("[run", "not valid TOML"),
    ],
)
def test_bad_configuration_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(TrainError, match=message):
        load_config(path)


def test_command_prints_one_sentence_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stv", "--config", str(tmp_path / "none.toml")]) == 2
    assert "There is no configuration file" in capsys.readouterr().err
    assert main(["export", "--config", str(CONFIGS / "smoke.toml"), "--out", str(tmp_path / "empty")]) == 2
    assert "holds no finished model" in capsys.readouterr().err
    assert main(["base", "--config", str(CONFIGS / "smoke.toml"), "--set", "nonsense"]) == 2


def test_gates_stop_stv_before_it_starts(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(trained, tmp_path)
    arguments = ["stv", "--config", str(CONFIGS / "smoke.toml"), "--out", str(run.folder), "--set", "gates.enforce=true"]
    assert main([*arguments, "--set", "base.tokens=6000"]) == 2
    assert "Gates are missed (generator and base)" in capsys.readouterr().err and not run.has_model("stv")
    good = {"sums": 0.97, "teacher": 0.9, "refine_true": 0.5, "refine_fresh": 0.2, "refine_ratio": 2.5, "hard": 3.0, "hardest": 2.0}
    assert failures(run.config.gates, good) == []
    for name, value in (("sums", 0.9), ("teacher", 0.7), ("refine_ratio", 1.5), ("hardest", 0.0)):
        assert len(failures(run.config.gates, good | {name: value})) == 1


def test_attempts_are_checked_anew_and_held_out_ones_left_out(tmp_path: Path) -> None:
    held_out = make_problem("equations", 4, Random(1), "test").text
    path = tmp_path / "attempts.jsonl"
    rows = [
        {"problem": held_out, "attempt": "x = 1"},
        {"problem": "x^2 = 4", "attempt": "x = 2"},
        {"problem": "3x + 4 = 19", "attempt": "x = 5", "correct": False},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one,) = load_attempts(path)
    assert one.result.correct, "the stored label is not trusted"
    with pytest.raises(TrainError, match="none is wrong"):
        Balanced([one], 1)
    path.write_text('{"problem": "3x + 4 = 19", "attempt": ""}\n')
    with pytest.raises(TrainError, match=r"row 1: `attempt`"):
        load_attempts(path)
    path.write_text('{"problem": \n')
    with pytest.raises(TrainError, match="line 1 is not valid JSON"):
        load_attempts(path)


def test_students_err_on_levels_where_the_generator_does_not() -> None:
    def judged(level: int, right: bool) -> Judged:
        problem = make_problem("equations", level, Random(level))
        return Judged(problem, *student_attempt(problem, Random(1), right))

    pool = Balanced([judged(1, True), judged(6, False)], 1, student_share=1.0)
    wrong = [pool.draw(2 * n + 1, 1) for n in range(60)]
    assert not any(one.result.correct for one in wrong)
    levels = [one.problem.level for one in wrong]
    assert 15 < levels.count(1) < 45 and levels.count(1) + levels.count(6) == 60


def test_no_verdict_can_be_guessed_from_the_level() -> None:
    def judged(level: int, right: bool, seed: int) -> Judged:
        problem = make_problem("equations", level, Random(seed))
        return Judged(problem, *student_attempt(problem, Random(seed), right))

    easy = [judged(1, at > 0, at) for at in range(60)]
    hard = [judged(6, at % 3 == 0, 100 + at) for at in range(90)]
    pool = Balanced([*easy, *hard], 1, student_share=0.3)
    drawn = [pool.draw(n, 1) for n in range(400)]
    assert [one.result.correct for one in drawn] == [True, False] * 200
    assert [one.problem.level for one in drawn[::2]] == [one.problem.level for one in drawn[1::2]]
    assert {one.problem.level for one in drawn} == {1, 6}
    assert sum(one in hard for one in drawn) > 100, "the generator's own, where it has some"
    assert sum(one is easy[0] for one in drawn) == 0, "its only wrong attempt at that level is not repeated"


def test_user_problems(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"

    def rows(*values: dict[str, object]) -> list[dict[str, Any]]:
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
        return user_problems(path)

    good = rows({"problem": "Solve 2x = 3", "answer": "1.5", "reference": "x = 3/2"}, {"problem": "x^2 = 4", "answer": "2"})
    assert [(row["task"], row["answer"]) for row in good] == [("equations", "3/2"), ("outside", "2")]
    with pytest.raises(TrainError, match=r"row 1: the answer '2' is wrong"):
        rows({"problem": "2x = 3", "answer": "2"})
    with pytest.raises(TrainError, match=r"row 1: the reference is wrong at step 1"):
        rows({"problem": "2x = 3", "answer": "3/2", "reference": "x = 2"})
    with pytest.raises(TrainError, match=r"row 1: `answer`"):
        rows({"problem": "2x = 3"})


def test_traces_become_attempts(trained: Run, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path, rollout__attempts="8", rollout__max_new_tokens="8")
    before = len(load_attempts(rollout_path(run)))
    problem = next(text for text in (f"6x - {n} = 2x + 9" for n in range(1, 50)) if split_of(read_problem(text).canonical) == "train")
    trace = {"trace_id": "1", "problem": problem, "attempt": "Step 1: 4x = 1", "verdict": "reject", "feedback": "Step 1: no."}
    traces = [
        trace,
        trace,
        {**trace, "attempt": " "},
        {**trace, "problem": "Hello"},
        {**trace, "attempt": "x = 7", "label": {"answer": "x = 999"}},
        {**trace, "problem": "How many legs have 3 horses?", "attempt": "12 legs", "answer": "12", "label": {"answer": "12.0"}},
        {**trace, "problem": "How many legs have 2 horses?", "attempt": "I do not know", "answer": None, "label": {"answer": "8"}},
        {**trace, "attempt": "Step 1: 4x = 2", "verdict": "accept", "feedback": "Step 1: ok"},
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in traces))
    from_traces(run, str(path))
    assert len(load_attempts(*attempt_files(run))) == before + 2
    counted = read_jsonl(run.folder / "metrics.jsonl")[-1]
    assert {key: counted[key] for key in ("used", "by_reference", "outside", "cut_off", "wrong_label", "repeated")} == {
        "used": 2,
        "by_reference": 2,
        "outside": 1,
        "cut_off": 1,
        "wrong_label": 1,
        "repeated": 1,
    }
    graded = read_jsonl(run.folder / "rollouts" / "graded.jsonl")
    assert [(row["correct"], row.get("feedback")) for row in graded] == [(True, None), (False, "Step 1: no.")]
    taken_in = read_jsonl(rollout_path(run, TRACES))
    assert [row.get("feedback") for row in taken_in] == ["Step 1: no.", None], "what accepts a wrong attempt is no feedback"

    # A second call adds to the first, and a rollout leaves both.
    path.write_text(json.dumps(trace | {"attempt": "Step 1: 4x = 3"}) + "\n")
    from_traces(run, str(path))
    rollout(run)
    assert len(read_jsonl(rollout_path(run, TRACES))) == 3
    attempts = {one.attempt for one in load_attempts(*attempt_files(run))}
    assert {"Step 1: 4x = 1", "Step 1: 4x = 2", "Step 1: 4x = 3"} <= attempts and len(attempts) > 3
    assert problem in {one.text for one in practice(run, 3).missed}
    for name in (TRACES, GRADED):
        with pytest.raises(TrainError, match=f"--name must not be {name}"):
            rollout(run, name=name)


@pytest.mark.parametrize(
    ("name", "question", "answer", "task"),
    [
        ("simple_equations", "Determine the value of z that satisfies: 70*z + 2790 = 5800", "43", "equations"),
        ("chain_sum", "State the final answer to the following arithmetic problem: 4 + 3 - 9 =", "-2", "order"),
        ("basic_arithmetic", "Calculate -5 * -6.", "30", "order"),
        (
            "fraction_simplification",
            "Simplify the fraction $\\frac{92}{524}$ to its lowest terms. Give only the simplified fraction as your final answer.",
            "$\\frac{23}{131}$",
            "order",
        ),
        ("leg_counting", "How many legs are there in total if you have 3 horses?", "12", "outside"),
    ],
)
def test_reasoning_gym_problems_are_read(name: str, question: str, answer: str, task: str) -> None:
    assert gym_row(name, question, answer)["task"] == task


def test_problems_of_the_real_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    rows = list(gym_problems(("simple_equations", "chain_sum", "basic_arithmetic", "leg_counting"), 20, 1))
    read = {name: sum(row["task"] != "outside" for row in rows if row["source"] == f"reasoning-gym/{name}") for name in GYM_READ}
    assert all(read[name] >= least for name, least in GYM_READ.items()), read
    for one in (one for one in rows if one["task"] != "outside"):
        problem = read_problem(one["problem"])
        assert check(problem, one["reference"]).correct and one["split"] == split_of(problem.canonical)
    with pytest.raises(TrainError, match="no_such_set"):
        list(gym_problems(("no_such_set",), 1, 1))


GYM_READ = {"simple_equations": 17, "chain_sum": 20, "basic_arithmetic": 15, "leg_counting": 0}


def test_answers_compared_by_the_real_math_verify() -> None:
    pytest.importorskip("math_verify")
    for one, other in (("2\\sqrt{2}", "\\sqrt{8}"), ("(1,2)", "(1, 2)"), ("$\\frac{1}{2}$", "0.5"), ("x=3", "3")):
        assert same_answer(one, other), (one, other)
    for one, other in (("\\sqrt{3}", "\\sqrt{8}"), ("", "\\sqrt{8}"), ("(2,1)", "(1,2)")):
        assert not same_answer(one, other), (one, other)


def test_rollout_from_a_server(trained: Run, tmp_path: Path) -> None:
    """Against a server that speaks the chat route: full once, then it answers. Other weights behind the same address are asked anew."""
    asked: list[dict[str, Any]] = []
    served = "first"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"data": [{"id": "generator", "root": f"pack/generator@{served}"}, {"id": "verifier", "root": "v"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            status = 503 if len(asked) == 1 else 200
            answer = {
                "choices": [{"message": {"content": "Step 1: x = 5"}, "finish_reason": "length" if len(asked) % 2 else "stop"}],
                "usage": {"completion_tokens": 6},
            }
            self.answer(status, answer if status == 200 else {"error": {"message": "full"}})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        run = copy_of(trained, tmp_path, rollout__attempts="8")
        address = f"http://127.0.0.1:{server.server_port}"
        rollout(run, server=address)
        rows = read_jsonl(rollout_path(run))
        rollout(run, server=address)
        assert len(asked) == 9, "the same weights are not asked again"
        served = "second"
        rollout(run, server=address)
        assert len(asked) == 17
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked[0]["model"] == "generator"
    assert {row["attempt"] for row in rows} == {"Step 1: x = 5", "Step 1: x = 5 …"}, "a cut-off attempt is marked"
    assert not any(row["correct"] for row in rows if row["attempt"].endswith("…"))


def test_figures_of_other_weights_or_sampling_are_none_of_this_run(trained: Run, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path)
    identity = served_identity(run, "base", "base")
    pair = {"generator": "base", "verifier": "base", "identity": identity, "sets": {}}
    write_json(run.folder / "evaluation" / "served.json", {"pack": "base+base", "pairs": {"base+base": pair}})
    assert load_served(run)["pairs"] == {"base+base": pair}
    # an evaluation that is done again, and was broken off, has taken its files away
    gone = pair | {"sets": {"loop": {"set": "loop", "report": "evaluation/gone.json", "results": "evaluation/gone.jsonl"}}}
    write_json(run.folder / "evaluation" / "served.json", {"pack": "base+base", "pairs": {"base+base": pair, "gone": gone}})
    assert load_served(run)["pairs"] == {"base+base": pair}
    assert not load_served(copy_of(run, tmp_path / "other", export__verifier_temperature="1.7"))["pairs"]
    run.save_model("base", run.new_model(9), {})
    assert not load_served(run)["pairs"]
