"""STV and ViL with LoRA: every stage on a tiny checkpoint, interrupts, the merge, and what bad input gets."""

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from stv_train.config import load_config  # noqa: E402
from stv_train.errors import TrainError  # noqa: E402
from stv_train.export import write_checkpoint  # noqa: E402
from stv_train.files import read_jsonl  # noqa: E402
from stv_train.hf import train as hf_train  # noqa: E402
from stv_train.hf.model import BasePolicy, LoraPolicy, load_checkpoint, with_adapters  # noqa: E402
from stv_train.hf.train import GENERATOR, VERIFIER, read_graded, train_hf  # noqa: E402
from stv_train.model import Llama  # noqa: E402
from stv_train.run import Run  # noqa: E402
from stv_train.sampler import Completion, Sampling  # noqa: E402
from stv_train.tokenizer import END, PAD  # noqa: E402

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "src" / "stv_train" / "templates"


def run_of(tmp_path: Path, checkpoint: Path, **more: str) -> Run:
    fields = {"run.out": str(tmp_path / "run"), "run.threads": "1", "hf.checkpoint": str(checkpoint), "hf.pack": str(TEMPLATES)}
    fields |= {"hf.attempts": "4", "hf.batch": "4", "hf.stv_steps": "2", "hf.vil_steps": "1", "hf.max_new_tokens": "6", "hf.rank": "2"}
    fields |= {"hf.weights": "float32", "hf.rate": "0.01", "verifier.top_k": "50", "verifier.score_share": "0.5"}
    fields |= {name.replace("__", "."): value for name, value in more.items()}
    return Run(load_config(ROOT / "configs" / "smollm2-lora.toml", fields))


@pytest.fixture()
def checkpoint(tmp_path: Path, tiny: Llama) -> Path:
    write_checkpoint(tmp_path / "checkpoint", tiny)
    return tmp_path / "checkpoint"


def merged(folder: Path) -> dict[str, torch.Tensor]:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return dict(model.state_dict())


def test_all_stages_make_a_pack_of_the_trained_adapters(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rewards of a model that knows nothing are all alike; these differ, so that there is a gradient to follow.
    rng = Random(1)
    monkeypatch.setattr(hf_train.AnswerTurn, "reward", lambda self, attempt: float(rng.random() < 0.5))
    kept: dict[str, Any] = {}
    original = hf_train.export_merged

    def export(setting: Any, peft_model: Any, target: Path) -> Path:
        ids = torch.tensor([[7, 30, 99, 12]])
        for name in (GENERATOR, VERIFIER):
            policy = LoraPolicy(peft_model, name, setting.tokenizer)
            kept[name] = policy.logits(policy.hidden(ids)).detach()
        return original(setting, peft_model, target)

    monkeypatch.setattr(hf_train, "export_merged", export)
    temperatures = []
    sample = LoraPolicy.sample

    def sampled(self: Any, written: Any, sampling: Sampling, seed: int) -> Any:
        temperatures.append(sampling.temperature)
        return sample(self, written, sampling, seed)

    monkeypatch.setattr(LoraPolicy, "sample", sampled)
    pack = train_hf(run_of(tmp_path, checkpoint, verifier__temperature="0.7"))
    assert temperatures == [0.5, 0.7, 0.7, 0.7, 0.5], "attempts, reviews of two steps of STV, then of ViL, and refinements"
    base = merged(checkpoint)
    data = json.loads((pack / "pack.json").read_text())
    for role in (GENERATOR, VERIFIER):
        folder = pack / data["roles"][role]["source"]
        weights = merged(folder)
        assert weights.keys() == base.keys()
        assert any(not torch.equal(weights[name], base[name]) for name in base), f"{role} has learned"
        theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([[7, 30, 99, 12]])).logits
        assert torch.allclose(theirs, kept[role], atol=1e-4), "merging changes nothing"
        assert transformers.AutoTokenizer.from_pretrained(folder).chat_template
    stages = {row["stage"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")}
    assert {"hf-attempts", "hf-verifier", "hf-generator"} <= stages


def test_an_interrupted_stage_goes_on_to_the_same_weights(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    whole = train_hf(run_of(tmp_path / "whole", checkpoint))
    run = run_of(tmp_path / "parts", checkpoint)
    original = hf_train._stv_step

    def stopping(*arguments: Any) -> Any:
        run._stop = True
        return original(*arguments)

    with monkeypatch.context() as inner:
        inner.setattr(hf_train, "_stv_step", stopping)
        with pytest.raises(hf_train.Interrupted):
            train_hf(run)
    parts = train_hf(run_of(tmp_path / "parts", checkpoint))
    one, other = merged(whole / VERIFIER), merged(parts / VERIFIER)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_teacher_is_the_model_without_its_adapter(checkpoint: Path) -> None:
    model, tokens = load_checkpoint(str(checkpoint))
    ids = torch.tensor([[7, 30, 99, 12, 5]])
    with torch.no_grad():
        plain = model(ids).logits
        peft_model = with_adapters(model, (VERIFIER, GENERATOR), 2, 4, 1)
        for name, parameter in peft_model.named_parameters():
            if f"lora_B.{VERIFIER}" in name:
                parameter.normal_()
        student, teacher = LoraPolicy(peft_model, VERIFIER, tokens), BasePolicy(peft_model, VERIFIER, tokens)
        assert torch.allclose(teacher.logits(teacher.hidden(ids)), plain, atol=1e-5)
        assert not torch.allclose(student.logits(student.hidden(ids)), plain, atol=1e-2)
    first = student.sample([[5, 6, 7], [8]], Sampling(1.0, 5, 2), 3)
    assert first == student.sample([[5, 6, 7], [8]], Sampling(1.0, 5, 2), 3) and all(1 <= len(c.ids) <= 5 for c in first)


def test_sampling_does_as_it_is_told_whatever_the_checkpoint_wants(checkpoint: Path) -> None:
    """A penalty changes which token is the likeliest, so that what is sampled would not be what is scored."""
    prompts = [[5, 6, 7], [8, 9]]

    def sampled() -> list[list[Completion]]:
        model, tokens = load_checkpoint(str(checkpoint))
        policy = LoraPolicy(with_adapters(model, (VERIFIER,), 2, 4, 1), VERIFIER, tokens)
        return [policy.sample(prompts, Sampling(temperature, 12, 2), 3) for temperature in (0.0, 1.0)]

    plain = sampled()
    file = checkpoint / "generation_config.json"
    wanted = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "suppress_tokens": [plain[0][0].ids[0]], "min_new_tokens": 12}
    file.write_text(json.dumps(json.loads(file.read_text()) | wanted))
    assert sampled() == plain
    kept = load_checkpoint(str(checkpoint))[0].generation_config
    assert (kept.eos_token_id, kept.pad_token_id) == (END, PAD)


def test_the_verdict_alone_is_asked_of_right_and_of_wrong_attempts(tmp_path: Path, checkpoint: Path) -> None:
    run = run_of(tmp_path, checkpoint, verifier__score_share="0.15")
    _, tokens = load_checkpoint(str(checkpoint))
    setting = hf_train.HfSetting(run, tokens, hf_train.PackPrompts(TEMPLATES, tokens))
    rows = [{"problem": "2 + 2", "attempt": str(said), "answer": "4", "correct": said == 4} for said in (4, 5)]
    tasks = [task for seed in range(200) for task in hf_train.stv_tasks(setting, rows, seed)]
    share = {truth: [task.is_score for task in tasks if task.truth == truth] for truth in ("accept", "reject")}
    for scored in share.values():
        assert len(scored) == 400 and 0.08 < sum(scored) / 400 < 0.22


def test_bad_input_is_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(TrainError, match=r"needs hf\.checkpoint"):
        train_hf(Run(load_config(ROOT / "configs" / "smollm2-lora.toml", {"run.out": str(tmp_path / "run")})))
    with pytest.raises(TrainError, match="cannot be loaded"):
        load_checkpoint(str(tmp_path / "nothing"))
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(TrainError, match="cannot be loaded"):
        load_checkpoint(str(checkpoint))
    (checkpoint / "model.safetensors").write_bytes(weights)
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "chat_template"}))
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(TrainError, match="no chat template"):
        load_checkpoint(str(checkpoint))
    with pytest.raises(TrainError, match=r"hf\.tasks names 'order'"):
        run_of(tmp_path, checkpoint, hf__tasks="['order']")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "p", "attempt": "a", "correct": True}, "`answer`"),
        ({"problem": "p", "attempt": " ", "answer": "1", "correct": True}, "`attempt`"),
        ({"problem": "p", "attempt": "a", "answer": "1"}, "`correct`"),
        ({"problem": "p", "attempt": "a", "answer": "1", "correct": False, "reference": 3}, "`reference`"),
    ],
)
def test_graded_attempts_of_ones_own(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = tmp_path / "graded.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TrainError, match=message):
        read_graded(path)


def test_an_attempt_that_was_cut_off_is_not_right(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hf_train.AnswerTurn("", "11").reward("75 + 36 = 11 …") == 0
    assert hf_train.AnswerTurn("", "11").reward("5 + 6 = 11") == 1
    run = run_of(tmp_path, checkpoint)
    _, tokens = hf_train.load_checkpoint(str(checkpoint))
    setting = hf_train.HfSetting(run, tokens, hf_train.PackPrompts(TEMPLATES, tokens))
    problem = hf_train.make_problem("equations", 1, Random(1))
    monkeypatch.setattr(hf_train, "_problem", lambda *_: problem)
    for stopped in (True, False):
        written = Completion(tokens.encode(f"The answer is {problem.answer}"), stopped)
        base = SimpleNamespace(sample=lambda prompts, *_, written=written: [written] * len(prompts))
        (run.folder / "hf-attempts.identity").unlink(missing_ok=True)
        rows = hf_train.graded_attempts(setting, base)  # type: ignore[arg-type]
        own = [row for row in rows if row["attempt"].startswith("The answer is")]
        assert len(own) == 4 and all(row["correct"] is stopped for row in own)


def test_corrected_labels_are_another_training(tmp_path: Path, checkpoint: Path) -> None:
    rows = [
        {"problem": "2 + 2", "attempt": f"It is \\boxed{{{said}}}", "answer": "4", "correct": said == 4, "reference": "\\boxed{4}"}
        for said in (4, 5)
    ]
    path = tmp_path / "attempts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_of(tmp_path, checkpoint, hf__attempts_file=str(path), hf__vil_steps="0")
    train_hf(run)
    path.write_text("".join(json.dumps(row | {"reference": "2 + 2 is \\boxed{4}"}) + "\n" for row in rows))
    with pytest.raises(TrainError, match="another configuration"):
        train_hf(run)
