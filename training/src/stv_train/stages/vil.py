"""Verifier-in-the-loop RL: RLVR until it no longer gains, then GRPO on refinement turns with the verifier frozen.

The reward is the correctness of the answer alone; verdict and feedback are context, never reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import Any, Protocol

import torch

from .. import prompts
from ..batches import answer_logits, collate
from ..config import VilConfig
from ..documents import Encoded
from ..errors import TrainError
from ..losses import group_advantages, policy_gradient_loss, token_logprobs
from ..model import Llama
from ..optim import MuonAdamW, schedule
from ..policy import Policy, Setting, Steps
from ..probes import attempt_all, texts
from ..run import Interrupted, Progress, Run, fingerprint, weights_digest
from ..sampler import Sampler, Sampling, sample
from ..tasks.checking import states_answer
from ..tasks.steps import Problem, solution_text, solve
from .loops import review_sampling
from .practice import Practice, practice, probe_problems
from .rejections import rejected_attempts
from .rollout import rollout_sampling, row_problem
from .verifier import MICRO_TOKENS

CONTROLS = ("vil", "rlvr-longer", "vil-untrained", "prefix")


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt for the generator; `kept` is what of the answer is already written (prefix-conditioning)."""

    problem: Problem
    prompt: str
    kept: str = ""

    def reward(self, attempt: str) -> float:
        return answer_reward(self.problem, attempt)


class Rewarded(Protocol):
    """A prompt whose answers can be rewarded."""

    @property
    def prompt(self) -> str: ...
    @property
    def kept(self) -> str: ...
    def reward(self, attempt: str) -> float: ...


def answer_reward(problem: Problem, attempt: str) -> float:
    """1 when the attempt's last line states the right answer; how it got there does not count."""
    return float(states_answer(problem, attempt))


def train_vil(run: Run, control: str = "vil", verifier: str = "stv", other_seed: int | None = None) -> Llama:
    """`vil`, or one of its controls, from the generator that RLVR has converged; kept under the control's name, with another
    seed than the run's under `CONTROL-seedN`."""
    if control not in CONTROLS:
        raise TrainError(f"The control must be one of {', '.join(CONTROLS)}, not {control!r}.")
    converged = train_rlvr(run)
    name = control if other_seed is None else f"{control}-seed{other_seed}"
    if run.has_model(name):
        run.say(f"{name}: already trained")
        return run.load_model(name)
    own_seed = run.config.run.seed if other_seed is None else other_seed
    config, seed = run.config.vil, own_seed + 40_000
    problems = practice(run, seed)

    turns: Callable[[int], list[Turn]]
    judge = ""
    if control == "rlvr-longer":
        turns = partial(_first_turns, problems, config.prompts, seed)
    elif control == "prefix":
        turns = partial(_prefix_turns, problems, config.prompts, seed)
    else:
        frozen = run.load_model("base" if control == "vil-untrained" else verifier)
        judge = fingerprint(weights_digest(frozen), review_sampling(run))
        rows = rejected_attempts(run, name, converged, frozen, problems, seed)
        turns = partial(_refine_turns, problems, rows, config, seed)
    identity = _identity(run, name, own_seed, converged, problems, judge)
    return _train(run, name, converged, turns, config.steps, patience=0, identity=identity, own_seed=own_seed)


def _identity(run: Run, name: str, own_seed: int, first: Llama, problems: Practice, judge: str = "") -> str:
    """Of all that decides the weights of a model: `first` is what it begins with, `judge` names the frozen verifier."""
    sampled = rollout_sampling(run)  # whose batch decides which numbers a sample is drawn with
    return fingerprint(run.config.vil, run.config.model, name, own_seed, weights_digest(first), problems.identity, sampled, judge)


def train_rlvr(run: Run) -> Llama:
    """GRPO on first attempts until validation no longer rises (`patience` probes) or the steps are spent."""
    if run.has_model("rlvr"):
        return run.load_model("rlvr")
    config, seed = run.config.vil, run.config.run.seed + 30_000
    problems, first = practice(run, seed), run.load_model(run.generator)
    return _train(
        run,
        "rlvr",
        first,
        partial(_first_turns, problems, config.prompts, seed),
        config.rlvr_steps,
        patience=config.patience,
        identity=_identity(run, "rlvr", run.config.run.seed, first, problems),
        own_seed=run.config.run.seed,
    )


def _first_turns(problems: Practice, count: int, seed: int, step: int) -> list[Turn]:
    drawn = [problems.problem(Random(f"{seed}:vil:{step}:{at}")) for at in range(count)]
    return [Turn(problem, prompts.generate_prompt(problem.text)) for problem in drawn]


def _prefix_turns(problems: Practice, count: int, seed: int, step: int) -> list[Turn]:
    turns = []
    for turn in _first_turns(problems, count, seed, step):
        lines = solve(turn.problem)
        keep = Random(f"{seed}:prefix:{step}:{turn.problem.text}").randrange(len(lines))
        turns.append(Turn(turn.problem, turn.prompt, solution_text(lines[:keep]) + ("\n" if keep else "")))
    return turns


def _refine_turns(problems: Practice, rows: list[dict[str, Any]], config: VilConfig, seed: int, step: int) -> list[Turn]:
    """Refinements of rejected attempts, in an order of its own each time that all have had their turn, after some first attempts."""
    first = round(config.prompts * config.first_share)
    turns = _first_turns(problems, first, seed + 1, step)
    for at in range(step * (config.prompts - first), (step + 1) * (config.prompts - first)) if rows else ():
        time_round, place = divmod(at, len(rows))
        row = rows[_order(len(rows), f"{seed}:rejected:{time_round}")[place]]
        problem = row_problem(row)
        turns.append(Turn(problem, prompts.refine_prompt(problem.text, row["attempt"], row["feedback"])))
    return turns


@lru_cache(maxsize=2)
def _order(count: int, key: str) -> list[int]:
    return Random(key).sample(range(count), count)


def _train(
    run: Run,
    name: str,
    model: Llama,
    turns: Callable[[int], list[Turn]],
    steps: int,
    patience: int,
    identity: str,
    own_seed: int,
) -> Llama:
    config, seed = run.config.vil, own_seed + 50_000
    optimizer = MuonAdamW(model, config.muon_lr, config.adam_lr)
    measured = probe_problems(run)
    step, best, since_best = 0, -1.0, 0
    best_state = {key: value.clone() for key, value in model.state_dict().items()}
    spent = 0.0
    if (state := run.load_checkpoint(name, identity)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, best, since_best, spent = state["step"], state["best"], state["since_best"], state["spent"]
        best_state = state["best_state"]
        run.say(f"{name}: goes on at step {step} of {steps}")
    progress = Progress(name, steps, "steps", step)
    began = saved = time.monotonic()

    def checkpoint() -> None:
        run.save_checkpoint(
            name,
            {
                "identity": identity,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "best": best,
                "since_best": since_best,
                "best_state": best_state,
                "spent": spent + time.monotonic() - began,
            },
        )

    def probe() -> None:
        nonlocal best, since_best, best_state
        judged = attempt_all(model, run.tokenizer, measured, Sampling(), seed)
        score = sum(answer_reward(one.problem, one.attempt) for one in judged) / len(judged)
        run.log(f"{name}-probe", step=step, answers_right=score)
        run.say(f"{name} at step {step}: {score:.1%} of answers right")
        if score > best:
            best, since_best = score, 0
            best_state = {key: value.clone() for key, value in model.state_dict().items()}
        else:
            since_best += 1

    with run.interruptible():
        while step < steps:
            if step % config.probe_every == 0:
                probe()
                if patience and since_best >= patience:
                    run.say(f"{name}: no gain in {patience} probes, ends at step {step}")
                    break
            # RLVR ends when it no longer gains, which nobody knows before: only a fixed number of steps can end in a falling rate.
            factor = 1.0 if patience else schedule(step, steps, decay=config.decay)
            facts = grpo_step(run, model, optimizer, turns(step), seed + step, factor)
            step += 1
            run.log(name, step=step, **facts)
            progress.update(step, "  ".join(f"{key} {value:.3f}" for key, value in facts.items()))
            if run.stopping and step < steps:
                checkpoint()
                raise Interrupted(f"{name} stopped at step {step} of {steps}")
            if time.monotonic() - saved > run.config.run.checkpoint_seconds:
                checkpoint()
                saved = time.monotonic()
        else:
            probe()  # of the last steps, which may be the best
        asked = run.stopping
    if patience:
        model.load_state_dict(best_state)
    spent += time.monotonic() - began
    run.save_model(name, model, {"steps": step, "seconds": round(spent, 1), "best": best})
    run.end_checkpoint(name)
    if asked:
        raise Interrupted(f"{name} is done")
    return model


def grpo_step(
    run: Setting, model: Llama | Sampler, optimizer: Steps, turns: Sequence[Rewarded], seed: int, factor: float = 1.0
) -> dict[str, float]:
    """Samples a group per turn and takes one gradient step at `factor` of the rate; groups without a difference in reward teach nothing."""
    config, tokenizer = run.config.vil, run.tokenizer
    if not turns:
        return {"reward": 0.0, "useful_groups": 0.0}
    heads = [tokenizer.encode(turn.prompt + turn.kept) for turn in turns]
    repeated = [head for head in heads for _ in range(config.group)]
    sampling = Sampling(config.temperature, config.max_new_tokens, run.config.rollout.batch)
    sampled = sample(model, repeated, sampling, seed)
    written = texts(sampled, tokenizer)
    rewards = torch.tensor(
        [[turn.reward(turn.kept + written[at * config.group + n]) for n in range(config.group)] for at, turn in enumerate(turns)]
    )
    advantages = group_advantages(rewards, config.std_normalization).to(run.device)
    rows = [(Encoded(head + c.ids, len(head)), at) for at, (head, c) in enumerate(zip(repeated, sampled, strict=True)) if c.ids]
    rows = [(row, at) for row, at in rows if float(advantages[at]) != 0.0]
    useful = float((rewards.std(-1, correction=0) > 0).float().mean())
    facts = {
        "reward": float(rewards.mean()),
        "useful_groups": useful,
        "tokens": float(sum(len(c.ids) for c in sampled)),
    }
    if rows:
        _step_on(run, model, optimizer, rows, advantages, factor)
    return facts


def _step_on(
    run: Setting, model: Policy, optimizer: Steps, rows: list[tuple[Encoded, int]], advantages: torch.Tensor, factor: float
) -> None:
    config = run.config.vil
    num_tokens = sum(len(row.ids) - row.num_prompt for row, _ in rows)
    optimizer.zero_grad()
    ordered = sorted(rows, key=lambda r: len(r[0].ids))
    at = 0
    while at < len(ordered):
        size = 1
        while at + size < len(ordered) and len(ordered[at + size][0].ids) * (size + 1) <= MICRO_TOKENS:
            size += 1
        part = ordered[at : at + size]
        at += size
        batch = collate([row for row, _ in part], run.device)
        logprobs = token_logprobs(*answer_logits(model, batch), config.temperature)
        numbers = torch.tensor([number for _, number in part], device=run.device)
        samples = numbers[batch.answers.nonzero()[:, 0]]
        loss = policy_gradient_loss(logprobs, samples, advantages)
        (loss * (int(batch.answers.sum()) / num_tokens)).backward()  # type: ignore[no-untyped-call]
    optimizer.clip(1.0)
    optimizer.step(factor)


__all__ = ["CONTROLS", "answer_reward", "train_rlvr", "train_vil"]
