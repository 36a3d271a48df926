"""STV, then ViL, with LoRA on a real checkpoint: attempts, verifier, generator, merge, pack. Each stage is done once."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from ..answers import final_answer, same_answer
from ..config import Config
from ..errors import TrainError
from ..export import checkpoint_hash, write_weights
from ..files import read_jsonl, write_json, write_jsonl
from ..optim import schedule
from ..probes import CUT, texts
from ..run import Interrupted, Progress, Run, fingerprint
from ..sampler import Sampling
from ..stages.verifier import Task, update_step
from ..stages.vil import grpo_step
from ..tasks.mistakes import student_attempt
from ..tasks.problems import make_problem
from ..tasks.steps import Problem, solution_text, solve
from .model import BasePolicy, HfTokens, LoraAdamW, LoraPolicy, load_checkpoint, with_adapters
from .prompts import PackPrompts

VERIFIER, GENERATOR = "verifier", "generator"


@dataclass(frozen=True, slots=True)
class HfSetting:
    run: Run
    tokenizer: HfTokens
    prompts: PackPrompts

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def device(self) -> torch.device:
        return self.run.device


def train_hf(run: Run, to: Path | None = None) -> Path:
    """All stages of `stv-train hf`; returns the pack's folder. The same command goes on behind the last finished stage."""
    config = run.config.hf
    if not config.checkpoint:
        raise TrainError("`stv-train hf` needs hf.checkpoint: a folder, a GGUF file or a hub's name.")
    model, tokens = load_checkpoint(config.checkpoint)
    setting = HfSetting(run, tokens, PackPrompts(Path(config.pack), tokens))
    peft_model = with_adapters(model.to(run.device), (VERIFIER, GENERATOR), config.rank, config.alpha, run.config.run.seed)
    rows = graded_attempts(setting, BasePolicy(peft_model, VERIFIER, tokens))
    with run.interruptible():
        _stage(setting, peft_model, VERIFIER, rows)
        _stage(setting, peft_model, GENERATOR, rows)
    return export_merged(setting, peft_model, to or run.folder / "pack")


# --- Attempts ---------------------------------------------------------------------------------------------------------


def graded_attempts(setting: HfSetting, base: BasePolicy) -> list[dict[str, Any]]:
    """Rows with `problem`, `attempt`, `correct`, `answer`, `reference`: a user's file, or the checkpoint's own attempts at problems
    of this package and, so that both classes are there, students' attempts."""
    run, config = setting.run, setting.config.hf
    if config.attempts_file:
        return read_graded(Path(config.attempts_file))
    path = run.folder / "hf-attempts.jsonl"
    marker = path.with_suffix(".identity")
    identity = fingerprint(
        *(run.config.run.seed, config.checkpoint, config.attempts, config.tasks, config.max_new_tokens, config.temperature),
        setting.prompts.identity,
    )
    if path.exists() and marker.exists() and marker.read_text() == identity:
        return read_jsonl(path)
    rng = Random(f"{run.config.run.seed}:hf")
    problems = [_problem(config.tasks, rng) for _ in range(config.attempts)]
    began = time.monotonic()
    written = [setting.tokenizer.encode(setting.prompts.generate_prompt(p.text)) for p in problems]
    sampled = base.sample(written, Sampling(config.temperature, config.max_new_tokens, config.sample_batch), run.config.run.seed)
    seconds = time.monotonic() - began
    count = sum(len(c.ids) for c in sampled)
    rows = []
    for at, (problem, attempt) in enumerate(zip(problems, texts(sampled, setting.tokenizer), strict=True)):
        rows.append(_row(problem, attempt, _is_right(attempt, str(problem.answer))))
        right = bool(at % 2)
        by_student, checked = student_attempt(problem, rng, right)
        if checked.correct == right:
            rows.append(_row(problem, f"{by_student}\n\\boxed{{{_last_number(by_student)}}}", right))
    write_jsonl(path, rows)
    marker.write_text(identity)
    share = sum(row["correct"] for row in rows) / len(rows)
    run.log("hf-attempts", attempts=len(rows), right=share, tokens=count, seconds=round(seconds, 1))
    run.say(f"hf: {len(rows)} attempts, {share:.0%} right; sampled {count / seconds:,.0f} tokens/s")
    return rows


def _is_right(attempt: str, answer: str) -> bool:
    return not attempt.endswith(CUT) and same_answer(final_answer(attempt), answer)


def _problem(tasks: tuple[str, ...], rng: Random) -> Problem:
    name, _, level = rng.choice(tasks).partition("-")
    return make_problem(name, int(level or 1), rng)


def _row(problem: Problem, attempt: str, correct: bool) -> dict[str, Any]:
    reference = solution_text(solve(problem)) + f"\n\\boxed{{{problem.answer}}}"
    return {"problem": problem.text, "attempt": attempt, "correct": correct, "answer": str(problem.answer), "reference": reference}


def _last_number(text: str) -> str:
    found = re.findall(r"-?\d+(?:/\d+)?", text)
    return found[-1] if found else ""


def read_graded(path: Path) -> list[dict[str, Any]]:
    """A file of graded attempts, as `data from-traces` writes it. `reference` may be missing: then the teacher is told the answer."""
    rows = []
    for number, one in enumerate(read_jsonl(path), 1):
        for key in ("problem", "attempt", "answer"):
            if not isinstance(one.get(key), str) or not one[key].strip():
                raise TrainError(f"{path}, row {number}: `{key}` must be a text that is not empty, not {one.get(key)!r}.")
        if not isinstance(one.get("correct"), bool):
            raise TrainError(f"{path}, row {number}: `correct` must be true or false, not {one.get('correct')!r}.")
        if not isinstance(one.get("reference", ""), str):
            raise TrainError(f"{path}, row {number}: `reference` must be a text, not {one['reference']!r}.")
        rows.append(one)
    return rows


# --- Stages -----------------------------------------------------------------------------------------------------------


def _stage(setting: HfSetting, peft_model: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Trains one adapter, or loads it where it is finished. Between steps it can be interrupted and goes on from there."""
    run, config = setting.run, setting.config.hf
    total = config.stv_steps if name == VERIFIER else config.vil_steps
    folder = run.folder / f"hf-{name}"
    optimizer = LoraAdamW(peft_model, name, config.rate)
    identity = fingerprint(run.config.run.seed, config, run.config.verifier, run.config.vil, name, rows, setting.prompts.identity)
    weights = {key: p for key, p in peft_model.named_parameters() if f".{name}." in key}
    state = run.load_checkpoint(f"hf-{name}", identity)
    step = 0
    if state is not None:
        for key, p in weights.items():
            p.data.copy_(state["weights"][key])
        optimizer.inner.load_state_dict(state["optimizer"])
        step = state["step"]
        run.say(f"hf {name}: {'finished' if step >= total else 'goes on'} at step {step} of {total}")
    progress = Progress(f"hf {name}", total, "steps", step, every=2.0)

    def checkpoint() -> None:
        saved = {key: p.detach().cpu() for key, p in weights.items()}
        run.save_checkpoint(f"hf-{name}", {"identity": identity, "weights": saved, "optimizer": optimizer.inner.state_dict(), "step": step})

    saved = time.monotonic()
    while step < total:
        began = time.monotonic()
        act = _stv_step if name == VERIFIER else _vil_step
        facts = act(setting, peft_model, optimizer, rows, step, schedule(step, total, decay=0.5))
        step += 1
        run.log(f"hf-{name}", step=step, seconds=round(time.monotonic() - began, 1), **facts)
        progress.update(step, "  ".join(f"{key} {value:.3f}" for key, value in facts.items()))
        if run.stopping and step < total:
            checkpoint()
            raise Interrupted(f"hf {name} stopped at step {step} of {total}")
        if time.monotonic() - saved > run.config.run.checkpoint_seconds:
            checkpoint()
            saved = time.monotonic()
    if state is None or state["step"] < total:
        checkpoint()
    write_json(folder / "facts.json", {"steps": total, "identity": identity, "model": {"checkpoint": config.checkpoint}})


def _stv_step(
    setting: HfSetting, peft_model: Any, optimizer: LoraAdamW, rows: list[dict[str, Any]], step: int, factor: float
) -> dict[str, float]:
    """One step of STV: reviews by the student (adapter on), scored by the same model with the reference in its prompt (adapter off)."""
    tokens = setting.tokenizer
    seed = setting.run.config.run.seed + 20_000 + step
    student, teacher = LoraPolicy(peft_model, VERIFIER, tokens), BasePolicy(peft_model, VERIFIER, tokens)
    tasks = stv_tasks(setting, rows, seed)
    sampled = student.sample([tokens.encode(t.student) for t in tasks], review_sampling(setting), seed)
    peft_model.set_adapter(VERIFIER)
    facts = update_step(setting, "stv", student, teacher, optimizer, tasks, sampled, None, factor)
    return facts | {"tokens": float(sum(len(c.ids) for c in sampled))}


def review_sampling(setting: HfSetting) -> Sampling:
    """At the temperature that the verifier's gradient is taken at."""
    config = setting.config.hf
    return Sampling(setting.config.verifier.temperature, config.max_new_tokens, config.sample_batch)


def stv_tasks(setting: HfSetting, rows: list[dict[str, Any]], seed: int) -> list[Task]:
    """A batch of reviews to sample. Which of them is the verdict alone is drawn for each: at fixed places of a balanced batch it would
    always be asked of the same class, and learned without looking."""
    rng, share = Random(f"{seed}:score"), setting.config.verifier.score_share
    return [stv_task(setting, one, rng.random() < share) for one in balanced(rows, setting.config.hf.batch, seed)]


def stv_task(setting: HfSetting, row: dict[str, Any], is_score: bool = False) -> Task:
    """A review to sample; with `is_score` the verdict alone, straight behind the prompt, as the server's mode `score` asks."""
    verdict = "accept" if row["correct"] else "reject"
    reference = row.get("reference") or f"The answer is {row['answer']}."
    student = setting.prompts.verify_prompt(row["problem"], row["attempt"])
    teacher = setting.prompts.teacher_prompt(row["problem"], row["attempt"], verdict, reference)
    if is_score:
        pack = setting.prompts.pack_json()
        student, teacher = (text.removesuffix(pack["feedback"]["open"]) + pack["verdict"]["open"] for text in (student, teacher))
    return Task(student, teacher, verdict, *_texts(row), is_score)


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    return row["problem"], row["attempt"]


def balanced(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """As many right as wrong attempts. Raises TrainError where one class is missing."""
    classes = [[row for row in rows if row["correct"] is wanted] for wanted in (True, False)]
    for group, name in zip(classes, ("right", "wrong"), strict=True):
        if not group:
            raise TrainError(f"Among the attempts none is {name}: a verifier needs both. Draw more attempts or change hf.tasks.")
    rng = Random(seed)
    return [rng.choice(classes[at % 2]) for at in range(count)]


def _vil_step(
    setting: HfSetting, peft_model: Any, optimizer: LoraAdamW, rows: list[dict[str, Any]], step: int, factor: float
) -> dict[str, float]:
    """One step of ViL: refinements of wrong attempts with the frozen verifier's feedback; the reward is the answer alone."""
    config, tokens = setting.config.hf, setting.tokenizer
    seed = setting.run.config.run.seed + 40_000 + step
    verifier, generator = LoraPolicy(peft_model, VERIFIER, tokens), LoraPolicy(peft_model, GENERATOR, tokens)
    chosen = [row for row in balanced(rows, 2 * config.prompts, seed) if not row["correct"]]
    asked = [tokens.encode(setting.prompts.verify_prompt(*_texts(row))) for row in chosen]
    reviews = texts(verifier.sample(asked, review_sampling(setting), seed), tokens)
    turns = []
    for row, review in zip(chosen, reviews, strict=True):
        feedback, _ = setting.prompts.split_review(review)
        prompt = setting.prompts.refine_prompt(row["problem"], row["attempt"], feedback.strip() or "The solution is wrong.")
        turns.append(AnswerTurn(prompt, row["answer"]))
    peft_model.set_adapter(GENERATOR)
    return grpo_step(_Bounded(setting), generator, optimizer, turns, seed, factor)


@dataclass(frozen=True, slots=True)
class AnswerTurn:
    """A refinement turn that is rewarded for its final answer."""

    prompt: str
    answer: str
    kept: str = ""

    def reward(self, attempt: str) -> float:
        return float(_is_right(attempt, self.answer))


class _Bounded:
    """The setting with the lengths and groups of `[hf]` in the place of the pack's."""

    def __init__(self, inner: HfSetting) -> None:
        hf = inner.config.hf
        vil = replace(inner.config.vil, group=hf.group, max_new_tokens=hf.max_new_tokens, temperature=hf.temperature)
        rollout = replace(inner.config.rollout, batch=hf.sample_batch)
        self.config = replace(inner.config, vil=vil, rollout=rollout)
        self.tokenizer, self.prompts, self.device = inner.tokenizer, inner.prompts, inner.device


# --- Merge and export -------------------------------------------------------------------------------------------------


def export_merged(setting: HfSetting, peft_model: Any, target: Path) -> Path:
    """Merges each adapter into a copy of the base and writes a pack with the prompts it was trained with."""
    run, config = setting.run, setting.config.hf
    building = target.with_name(target.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    dtype = torch.bfloat16 if config.weights == "bfloat16" else torch.float32
    for name in (GENERATOR, VERIFIER):
        peft_model.set_adapter(name)
        peft_model.merge_adapter([name])
        inner = peft_model.base_model.model
        state = {
            key.replace(".base_layer", ""): value.detach().to(dtype).contiguous()
            for key, value in inner.state_dict().items()
            if "lora_" not in key
        }
        folder = building / name
        plain = inner.config
        if getattr(plain, "tie_word_embeddings", False):
            state.pop("lm_head.weight", None)
        write_weights(folder, state)
        written = plain.to_dict() | {"torch_dtype": config.weights, "dtype": config.weights}
        written.pop("quantization_config", None)
        (folder / "config.json").write_text(json.dumps(written, indent=2, default=str) + "\n")
        setting.tokenizer.inner.save_pretrained(folder)
        peft_model.unmerge_adapter()
    pack = json.loads(json.dumps(setting.prompts.pack_json()))
    pack["name"] = config.name
    pack["description"] = (
        f"{Path(config.checkpoint).stem} with LoRA adapters merged: {config.stv_steps} steps of STV, {config.vil_steps} of ViL."
    )
    pack["roles"] = {name: {"source": f"./{name}", "hash": checkpoint_hash(building / name)} for name in (GENERATOR, VERIFIER)}
    shutil.copytree(setting.prompts.folder / "prompts", building / "prompts")
    write_json(building / "pack.json", pack)
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    building.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    run.say(f"hf: {target}")
    return target


__all__ = ["HfSetting", "balanced", "graded_attempts", "read_graded", "stv_task", "train_hf"]
