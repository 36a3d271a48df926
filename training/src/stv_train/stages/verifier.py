"""Training of the verifier: STV, and its baselines at the same number of samples (SFT, verdict RL, meta-verifier RL)."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import prompts
from ..batches import answer_logits, answer_loss, batches, collate
from ..documents import FEW, Encoded, make_outside_attempt, review_feedback, teacher_prompt, verdict_of
from ..errors import TrainError
from ..losses import (
    class_advantages,
    distillation_loss,
    meta_reward,
    policy_gradient_loss,
    token_logprobs,
    update_teacher,
    verdict_reward,
)
from ..model import Llama
from ..optim import MuonAdamW, schedule
from ..policy import Policy, Setting, Steps
from ..probes import Judged, attempt_all, texts, validation_problems, verifier_probe
from ..run import Interrupted, Progress, Run, fingerprint, weights_digest
from ..sampler import Completion, Sampling, sample
from ..tasks.checking import objections
from ..tasks.mistakes import student_attempt
from ..tasks.problems import all_kinds, make_problem
from ..tokenizer import END
from .rollout import attempt_files, load_attempts

METHODS = ("sft", "verdict-rl", "stv", "meta-rl")
MICRO_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Task:
    """One verification to sample: what the student sees, what the teacher sees, and the truth."""

    student: str
    teacher: str
    truth: str
    problem: str
    attempt: str
    is_score: bool = False


def by_verdict_and_level(judged: list[Judged]) -> dict[bool, dict[tuple[str, int], list[Judged]]]:
    groups: dict[bool, dict[tuple[str, int], list[Judged]]] = {True: defaultdict(list), False: defaultdict(list)}
    for one in judged:
        groups[one.result.correct][one.problem.task, one.problem.level].append(one)
    return groups


class Balanced:
    """Endless draws of attempts in pairs of a right and a wrong one of the same level, so that no verdict can be guessed from the
    kind of problem; levels weigh as the roots of their numbers of right and of wrong attempts together.

    A share are students' attempts, levels weighed alike: people hand in their own work, which is not spoiled as the generator's is."""

    def __init__(self, judged: list[Judged], seed: int, student_share: float = 0.0) -> None:
        self.student_share = student_share
        self.groups = by_verdict_and_level(judged)
        for right, name in ((True, "right"), (False, "wrong")):
            if not self.groups[right]:
                raise TrainError(f"Among the attempts none is {name}: a verifier needs both. Draw more attempts or change the levels.")
        self.all = {right: [one for group in groups.values() for one in group] for right, groups in self.groups.items()}
        self.keys = sorted({key for groups in self.groups.values() for key in groups})
        self.kinds = [key for key in self.keys if key[1]]
        self.weights = [sum(len(groups.get(key, [])) ** 0.5 for groups in self.groups.values()) for key in self.keys]

    def draw(self, number: int, seed: int) -> Judged:
        pair = Random(f"{seed}:pair:{number // 2}")
        key = pair.choices(self.keys, self.weights)[0]
        is_student = pair.random() < self.student_share
        if is_student and self.kinds:
            key = pair.choice(self.kinds)
        right = number % 2 == 0
        rng = Random(f"{seed}:balanced:{number}")
        group = self.groups[right].get(key, [])
        if not is_student and (len(group) >= FEW or not key[1]):
            return rng.choice(group or self.all[right])
        # People make mistakes on easy problems too, where the generator has none to show.
        problem = make_problem(*key, rng) if key[1] else rng.choice(self.all[right]).problem
        return Judged(problem, *student_attempt(problem, rng, right))


def make_task(run: Run, pool: Balanced, number: int, seed: int) -> Task:
    config = run.config.verifier
    rng = Random(f"{seed}:task:{number}")
    if rng.random() < config.outside_share:
        problem, attempt = make_outside_attempt(rng)
        student = prompts.verify_prompt(problem, attempt)
        teacher = prompts.teacher_prompt(problem, attempt, "undetermined", "")
        truth = "undetermined"
    else:
        one = pool.draw(number, seed)
        problem, attempt = one.problem.text, one.attempt
        student = prompts.verify_prompt(problem, attempt)
        teacher = teacher_prompt(one.problem, attempt, one.result)
        truth = verdict_of(one.result)
    if rng.random() < config.score_share:
        opening = prompts.pack_json()["verdict"]["open"]
        return Task(student + opening, teacher + opening, truth, problem, attempt, True)
    return Task(student, teacher, truth, problem, attempt)


def train_verifier(run: Run, method: str, other_seed: int | None = None) -> Llama:
    """Trains, or goes on, until the configured samples are seen. The model is kept under the method's name; with another seed
    than the run's under `METHOD-seedN`."""
    if method not in METHODS:
        raise TrainError(f"The method must be one of {', '.join(METHODS)}, not {method!r}.")
    name = method if other_seed is None else f"{method}-seed{other_seed}"
    if run.has_model(name):
        run.say(f"{name}: already trained")
        return run.load_model(name)
    config = run.config.verifier
    seed = (run.config.run.seed if other_seed is None else other_seed) + 20_000
    student = run.load_model("base")
    teacher = student if config.teacher == "live" else copy.deepcopy(student).requires_grad_(False)
    judged = load_attempts(*attempt_files(run))
    pool = Balanced(judged, seed, config.student_share)
    optimizer = MuonAdamW(student, config.muon_lr, config.adam_lr)
    total = -(-config.samples // config.batch)
    step, spent = 0, 0.0
    attempts = [(one.problem.canonical, one.attempt) for one in judged]
    identity = fingerprint(seed - 20_000, run.config.model, config, method, attempts, weights_digest(student))
    if (state := run.load_checkpoint(name, identity)) is not None:
        student.load_state_dict(state["student"])
        if config.teacher != "live":
            teacher.load_state_dict(state["teacher"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        run.say(f"{name}: goes on at step {step} of {total}")
    meta = train_meta(run, pool, seed) if method == "meta-rl" else None
    probe_set = probe_attempts(run, run.load_model(run.generator))
    progress = Progress(name, total, "steps", step)
    began = saved = time.monotonic()

    def checkpoint() -> None:
        state = {
            "identity": identity,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
        }
        if config.teacher != "live":
            state["teacher"] = teacher.state_dict()
        run.save_checkpoint(name, state | {"spent": spent + time.monotonic() - began})

    def probe() -> dict[str, float]:
        found = verifier_probe(student, run.tokenizer, probe_set, Sampling(1.0, config.max_new_tokens), seed)
        run.log(f"{name}-probe", step=step, samples=step * config.batch, **found)
        run.say(f"{name} at {step * config.batch:,}: " + "  ".join(f"{k} {v:.1%}" for k, v in found.items()))
        return found

    if step == 0:
        probe()
    with run.interruptible():
        while step < total:
            tasks = [make_task(run, pool, step * config.batch + at, seed) for at in range(config.batch)]
            sampled = _sample_reviews(run, teacher if method == "sft" else student, tasks, method == "sft", seed + step)
            facts = update_step(run, method, student, teacher, optimizer, tasks, sampled, meta, schedule(step, total, decay=0.5))
            if config.teacher == "ema":
                update_teacher(teacher, student, config.ema)
            step += 1
            run.log(name, step=step, samples=step * config.batch, **facts)
            progress.update(step, "  ".join(f"{key} {value:.3f}" for key, value in facts.items()))
            if step % config.probe_every == 0 and step < total:
                probe()
            if run.stopping and step < total:
                checkpoint()
                raise Interrupted(f"{name} stopped at step {step} of {total}")
            if time.monotonic() - saved > run.config.run.checkpoint_seconds:
                checkpoint()
                saved = time.monotonic()
        checkpoint()  # the probe takes its time too
        asked = run.stopping
    spent += time.monotonic() - began
    final = probe()
    run.save_model(name, student, {"samples": total * config.batch, "seconds": round(spent, 1), "probe": final})
    run.end_checkpoint(name)
    if asked:
        raise Interrupted(f"{name} is done")
    return student


def _sample_reviews(run: Run, model: Llama, tasks: list[Task], as_teacher: bool, seed: int) -> list[Completion]:
    config = run.config.verifier
    sampling = Sampling(config.temperature, config.max_new_tokens, config.batch)
    written = [run.tokenizer.encode(t.teacher if as_teacher else t.student) for t in tasks]
    return sample(model, written, sampling, seed)


def update_step(
    run: Setting,
    method: str,
    student: Policy,
    teacher: Policy,
    optimizer: Steps,
    tasks: list[Task],
    sampled: list[Completion],
    meta: Llama | None,
    factor: float,
) -> dict[str, float]:
    """One gradient step on the sampled verifications; what it logs."""
    config, tokenizer = run.config.verifier, run.tokenizer
    reviews = texts(sampled, tokenizer)
    # In score mode the server wrote the opening: it belongs to the text that is read, not to the sample.
    opening = run.prompts.pack_json()["verdict"]["open"]
    readings = [run.prompts.split_review((opening if t.is_score else "") + r) for t, r in zip(tasks, reviews, strict=True)]
    exists = _defects(run, meta, tasks, readings) if meta is not None else [1.0] * len(tasks)
    rewards = torch.tensor(
        [
            meta_reward(verdict, t.truth, "-" if t.is_score else feedback, belief)
            if method == "meta-rl"
            else verdict_reward(verdict, t.truth, "-" if t.is_score else feedback)
            for t, (feedback, verdict), belief in zip(tasks, readings, exists, strict=True)
        ]
    )
    classes = torch.tensor([prompts.VERDICTS.index(t.truth) for t in tasks])
    advantages = class_advantages(rewards, classes).to(run.device)
    pairs: list[tuple[Encoded, Encoded, int]] = []
    for at, (task, completion) in enumerate(zip(tasks, sampled, strict=True)):
        if not completion.ids or (method == "sft" and not completion.stopped):
            continue
        mine, theirs = tokenizer.encode(task.student), tokenizer.encode(task.teacher)
        ids = completion.ids
        if max(len(mine), len(theirs)) + len(ids) > student.max_length:
            continue  # what the teacher is told beside it does not fit
        pairs.append((Encoded(mine + ids, len(mine)), Encoded(theirs + ids, len(theirs)), at))
    num_tokens = sum(len(a.ids) - a.num_prompt for a, _, _ in pairs)
    optimizer.zero_grad()
    sums = {"opd": 0.0, "pg": 0.0, "sft": 0.0}
    for chunk in _chunks(pairs):
        batch = collate([a for a, _, _ in chunk], run.device)
        share = int(batch.answers.sum()) / max(num_tokens, 1)
        if method == "sft":
            loss = answer_loss(student, batch)
            sums["sft"] += loss.item() * share
        else:
            logits, targets = answer_logits(student, batch)
            rows = _rows(chunk, batch.answers)
            pg = policy_gradient_loss(token_logprobs(logits, targets, config.temperature), rows, advantages)
            loss = (config.pg_coef if method == "stv" else 1.0) * pg
            sums["pg"] += pg.item() * share
            if method == "stv":
                other = collate([b for _, b, _ in chunk], run.device)
                with torch.no_grad():
                    teacher_logits, _ = answer_logits(teacher, other)
                # At temperature 1, whatever was sampled at: samples say where the two are compared, and it is what they say at 1 that
                # is to become the same.
                opd = distillation_loss(logits, teacher_logits, config.alpha, config.top_k)
                loss = loss + config.opd_coef * opd
                sums["opd"] += opd.item() * share
        (loss * share).backward()  # type: ignore[no-untyped-call]
    norm = optimizer.clip(1.0)
    optimizer.step(factor)
    unread = sum(verdict is None for _, verdict in readings) / len(readings)
    return {"reward": float(rewards.mean()), "unread": unread, "gradient_norm": norm} | {k: v for k, v in sums.items() if v}


def _rows(chunk: list[tuple[Encoded, Encoded, int]], answers: Tensor) -> Tensor:
    numbers = torch.tensor([at for _, _, at in chunk], device=answers.device)
    return numbers[answers.nonzero()[:, 0]]


def _chunks(pairs: list[tuple[Encoded, Encoded, int]]) -> list[list[tuple[Encoded, Encoded, int]]]:
    chunks: list[list[tuple[Encoded, Encoded, int]]] = []
    chunk: list[tuple[Encoded, Encoded, int]] = []
    longest = 0
    for pair in sorted(pairs, key=lambda p: len(p[1].ids)):
        longest_now = max(longest, len(pair[1].ids))
        if chunk and longest_now * (len(chunk) + 1) > MICRO_TOKENS:
            chunks.append(chunk)
            chunk, longest_now = [], len(pair[1].ids)
        chunk.append(pair)
        longest = longest_now
    return [*chunks, chunk] if chunk else chunks


def probe_attempts(run: Run, generator: Llama) -> list[Judged]:
    """Attempts of the generator at validation problems, of each level as many right as wrong."""
    seed = run.config.run.seed + 31
    problems = validation_problems(run.config.data.tasks, max(4, run.config.gates.problems // 4), seed)
    judged = attempt_all(generator, run.tokenizer, problems, Sampling(), seed)
    groups = by_verdict_and_level(judged)
    rng = Random(seed)
    pairs = []
    for kind in dict.fromkeys(all_kinds(run.config.data.tasks)):
        right, wrong = groups[True].get(kind, []), groups[False].get(kind, [])
        count = min(len(right), len(wrong), 20)
        pairs += rng.sample(right, count) + rng.sample(wrong, count)
    return pairs or judged


# --- The meta-verifier ------------------------------------------------------------------------------------------------


def meta_prompt(problem: str, attempt: str, feedback: str) -> str:
    """Asks whether the defect that a review claims exists."""
    tail = "<|end|><|assistant|>"
    return prompts.verify_prompt(problem, attempt).removesuffix(tail) + f" the mistake:\n{feedback}{tail}"


def train_meta(run: Run, pool: Balanced, seed: int) -> Llama:
    """A second model that judges reviews, trained on the untrained verifier's reviews and on true ones."""
    if run.has_model("meta"):
        return run.load_model("meta")
    config = run.config.verifier
    model = run.load_model("base")
    base = copy.deepcopy(model)
    optimizer = MuonAdamW(model, config.muon_lr, config.adam_lr)
    total = max(1, config.samples // config.batch // 3)
    progress = Progress("meta-verifier", total, "steps")
    for step in range(total):
        wrong = [pool.draw(2 * (step * config.batch + at) + 1, seed + 1) for at in range(config.batch)]
        written = [run.tokenizer.encode(prompts.verify_prompt(one.problem.text, one.attempt)) for one in wrong]
        reviews = texts(sample(base, written, Sampling(1.0, config.max_new_tokens, config.batch), seed + step), run.tokenizer)
        rows = []
        for at, (one, review) in enumerate(zip(wrong, reviews, strict=True)):
            feedback = review_feedback(one.result) if at % 2 else prompts.split_review(review)[0]
            exists = claims_true_defect(one, feedback)
            prompt = run.tokenizer.encode(meta_prompt(one.problem.text, one.attempt, feedback))
            answer = [*run.tokenizer.encode(prompts.score_text("accept" if exists else "reject")), END]
            if len(prompt) + len(answer) <= model.config.max_length:
                rows.append(Encoded(prompt + answer, len(prompt)))
        for group in batches(rows, MICRO_TOKENS, Random(step)):
            optimizer.zero_grad()
            answer_loss(model, collate(group, run.device)).backward()  # type: ignore[no-untyped-call]
            optimizer.clip(1.0)
            optimizer.step(schedule(step, total, decay=0.5))
        progress.update(step + 1)
    run.save_model("meta", model, {"steps": total})
    return model


def claims_true_defect(judged: Judged, feedback: str) -> bool:
    """Whether the last step that the feedback objects to is the first wrong one."""
    if judged.result.correct:
        return False
    claimed = [line for line in objections(feedback) if line.startswith("Step ")]
    return bool(claimed) and claimed[-1].startswith(f"Step {judged.result.first_error}: ")


@torch.no_grad()
def _defects(run: Setting, meta: Llama, tasks: list[Task], readings: list[tuple[str, str | None]]) -> list[float]:
    """The meta-verifier's belief that each claimed defect exists, 0..1."""
    opening = prompts.pack_json()["verdict"]["open"]
    words = [run.tokenizer.encode(word)[0] for word in ("accept", "reject")]
    out = []
    for task, (feedback, verdict) in zip(tasks, readings, strict=True):
        if verdict != "reject" or task.is_score:
            out.append(1.0)
            continue
        ids = run.tokenizer.encode(meta_prompt(task.problem, task.attempt, feedback) + opening)[: meta.config.max_length]
        logits = meta(torch.tensor([ids], device=run.device))[0, -1, words]
        out.append(float(F.softmax(logits, -1)[0]))
    return out
