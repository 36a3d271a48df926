"""Calibration of the verifier's score on validation attempts: temperature scaling, kept for the pack."""

from __future__ import annotations

from random import Random

import torch

from . import prompts
from .files import write_json
from .model import Llama
from .probes import Judged, complete, validation_problems
from .run import Run
from .sampler import Sampling
from .stages.verifier import probe_attempts
from .statistics import expected_calibration_error, fit_temperature, logit, sigmoid
from .tasks.mistakes import student_attempt

STUDENTS_PER_LEVEL = 12


@torch.no_grad()
def accept_scores(run: Run, verifier: Llama, judged: list[Judged], seed: int) -> list[float]:
    """P(accept) among the verdict words, read behind the verifier's own feedback, as the server elicits it."""
    written = [prompts.verify_prompt(one.problem.text, one.attempt) for one in judged]
    reviews = complete(
        verifier, run.tokenizer, written, Sampling(run.config.export.verifier_temperature, run.config.verifier.max_new_tokens), seed
    )
    words = [run.tokenizer.encode(word)[0] for word in prompts.VERDICTS]
    scores = []
    for prompt, review in zip(written, reviews, strict=True):
        feedback = prompts.split_review(review)[0].removesuffix(" …")
        ids = run.tokenizer.encode(prompt + feedback + prompts.verdict_opening())[-verifier.config.max_length :]
        logits = verifier(torch.tensor([ids], device=run.device))[0, -1, words]
        scores.append(float(torch.softmax(logits, -1)[0]))
    return scores


def student_attempts(run: Run) -> list[Judged]:
    """A right and a wrong one at each of some validation problems: people hand in their own work."""
    rng = Random(run.config.run.seed + 92)
    problems = validation_problems(run.config.data.tasks, STUDENTS_PER_LEVEL, run.config.run.seed + 93)
    return [Judged(problem, *student_attempt(problem, rng, right)) for problem in problems for right in (True, False)]


def calibrate(run: Run, name: str, generator: str) -> dict[str, float]:
    """Fits on one half of the validation attempts, those of the `generator` that it is paired with and students', measures the error
    on the other, writes `calibration.json`. A temperature that does not lower the error there is not kept, and 1 changes nothing."""
    judged = [*probe_attempts(run, run.load_model(generator)), *student_attempts(run)]
    Random(run.config.run.seed).shuffle(judged)
    scores = accept_scores(run, run.load_model(name), judged, run.config.run.seed + 91)
    truths = [one.result.correct for one in judged]
    fit, held = slice(0, None, 2), slice(1, None, 2)
    temperature = fit_temperature(scores[fit], truths[fit])
    scaled = [sigmoid(logit(score) / temperature) for score in scores[held]]
    before, after = (expected_calibration_error(some, truths[held]) for some in (scores[held], scaled))
    if after >= before:
        temperature, after = 1.0, before
    figures = {
        "temperature": round(temperature, 4),
        "ece_before": before,
        "ece_after": after,
        "attempts": float(len(judged)),
    }
    write_json(run.folder / "calibration.json", {"verifier": name, "temperature": figures["temperature"]})
    run.log("calibration", verifier=name, **figures)
    run.say(f"calibration: temperature {temperature:.3f}, ECE {figures['ece_before']:.3f} -> {figures['ece_after']:.3f}")
    return figures
