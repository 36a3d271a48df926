"""Attempts that the verifier does not accept, with its feedback: what ViL's refinement turns begin with.

Generator and verifier are frozen in ViL, so their attempts and reviews are draws from one distribution for all of its steps: drawn
once, in full batches, instead of anew for each step, where nine of ten were right, accepted and of no use."""

from __future__ import annotations

from random import Random
from typing import Any

from .. import prompts
from ..model import Llama
from ..probes import attempt_all, complete
from ..run import Interrupted, Progress, Run, fingerprint, weights_digest
from ..tasks.steps import Problem
from .chunks import in_chunks
from .loops import review_sampling
from .practice import Practice
from .rollout import rollout_path, rollout_sampling, row

CHUNK = 512  # attempts per file at most: what an interrupt can cost
MOST_CHUNKS = 40  # a verifier that accepts nearly everything is not asked for ever


def rejected_attempts(run: Run, name: str, generator: Llama, verifier: Llama, practice: Practice, seed: int) -> list[dict[str, Any]]:
    """`vil.rejected` rows as those of a rollout, with `feedback`, for the training of `name`; fewer where MOST_CHUNKS chunks of
    attempts give fewer. Chunks of these very models already on disk are not drawn again."""
    wanted = run.config.vil.rejected
    chunk = min(CHUNK, wanted)
    models = [weights_digest(model) for model in (generator, verifier)]
    identity = fingerprint(chunk, seed, practice.identity, rollout_sampling(run), review_sampling(run), models)
    folder = rollout_path(run, name).with_suffix("") / identity
    rows: list[dict[str, Any]] = []
    progress = Progress(f"{name}: attempts that are not accepted", wanted, "attempts")

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        problems = [practice.problem(Random(f"{seed}:rejected:{at}")) for at in range(first, first + count)]
        return _draw(run, generator, verifier, problems, seed + first)

    for part in in_chunks(run, name, folder, MOST_CHUNKS * chunk, chunk, draw):
        rows += part
        progress.update(min(len(rows), wanted))
        if run.stopping:
            raise Interrupted(f"{name} stopped with {len(rows):,} attempts that are not accepted")
        if len(rows) >= wanted:
            break
    rows = rows[:wanted]
    run.log(f"{name}-rejections", rejected=len(rows), wrong=sum(not one["correct"] for one in rows))
    return rows


def _draw(run: Run, generator: Llama, verifier: Llama, problems: list[Problem], seed: int) -> list[dict[str, Any]]:
    judged = attempt_all(generator, run.tokenizer, problems, rollout_sampling(run), seed)
    asked = [prompts.verify_prompt(one.problem.text, one.attempt) for one in judged]
    reviews = complete(verifier, run.tokenizer, asked, review_sampling(run), seed)
    rows = []
    for one, review in zip(judged, reviews, strict=True):
        feedback, verdict = prompts.split_review(review)
        if verdict != "accept" and feedback.strip():
            rows.append(row(one) | {"feedback": feedback})
    return rows


__all__ = ["rejected_attempts"]
