"""Small measurements during training, on validation problems. They steer nobody's claims: the evidence is the server's
evaluation of the exported pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import prompts
from .documents import GENERIC_FEEDBACK, hint_of, review_feedback, teacher_prompt
from .model import Llama
from .policy import Tokens
from .sampler import Completion, Sampling, sample
from .tasks.checking import Check, check, leaks, objections
from .tasks.problems import all_kinds, make_problem
from .tasks.steps import Problem
from .tokenizer import PackTokenizer


@dataclass(frozen=True, slots=True)
class Judged:
    problem: Problem
    attempt: str
    result: Check


CUT = " …"
"""What `texts` puts behind a text that was cut off: it states nothing, whatever it ends with."""


def texts(completions: list[Completion], tokenizer: Tokens) -> list[str]:
    """Text of each; one that was cut off ends in a mark that no checker accepts."""
    return [tokenizer.decode(c.ids) + ("" if c.stopped else CUT) for c in completions]


def complete(model: Llama, tokenizer: PackTokenizer, written: list[str], sampling: Sampling, seed: int) -> list[str]:
    return texts(sample(model, [tokenizer.encode(text) for text in written], sampling, seed), tokenizer)


def attempt_all(model: Llama, tokenizer: PackTokenizer, problems: list[Problem], sampling: Sampling, seed: int) -> list[Judged]:
    written = [prompts.generate_prompt(problem.text) for problem in problems]
    attempts = complete(model, tokenizer, written, sampling, seed)
    return [Judged(p, a, check(p, a)) for p, a in zip(problems, attempts, strict=True)]


def validation_problems(tasks: dict[str, float], per_level: int, seed: int, split: str = "validation") -> list[Problem]:
    """`per_level` problems of each task and level; easy levels hold few different ones, so some may repeat."""
    rng = Random(f"probe:{seed}")
    return [make_problem(*kind, rng, split) for kind in all_kinds(tasks) for _ in range(per_level)]


def rates(judged: list[Judged], key: Callable[[Judged], str]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for one in judged:
        groups.setdefault(key(one), []).append(one.result.correct)
    return {name: sum(found) / len(found) for name, found in groups.items()}


def solve_probe(model: Llama, tokenizer: PackTokenizer, tasks: dict[str, float], per_level: int, seed: int) -> dict[str, float]:
    """pass@1 at temperature 1 by task and level."""
    judged = attempt_all(model, tokenizer, validation_problems(tasks, per_level, seed), Sampling(), seed)
    return rates(judged, lambda one: f"{one.problem.task}-{one.problem.level}")


def teacher_probe(model: Llama, tokenizer: PackTokenizer, wrong: list[Judged], max_new_tokens: int, seed: int) -> float:
    """Share of wrong attempts for which the teacher's greedy feedback is exactly the true one."""
    written = [teacher_prompt(one.problem, one.attempt, one.result) for one in wrong]
    reviews = complete(model, tokenizer, written, Sampling(temperature=0.0, max_new_tokens=max_new_tokens), seed)
    right = sum(prompts.split_review(r) == (review_feedback(one.result), "reject") for r, one in zip(reviews, wrong, strict=True))
    return right / max(len(wrong), 1)


def refine_probe(model: Llama, tokenizer: PackTokenizer, wrong: list[Judged], temperature: float, seed: int) -> dict[str, float]:
    """Share of wrong attempts that one refinement repairs, by feedback, beside a fresh sample."""
    sampling = Sampling(temperature=temperature)

    def share(feedback: Callable[[Judged], str]) -> float:
        written = [prompts.refine_prompt(one.problem.text, one.attempt, feedback(one)) for one in wrong]
        made = complete(model, tokenizer, written, sampling, seed)
        return sum(check(one.problem, text).correct for one, text in zip(wrong, made, strict=True)) / max(len(wrong), 1)

    fresh = attempt_all(model, tokenizer, [one.problem for one in wrong], Sampling(), seed + 1)
    cool = attempt_all(model, tokenizer, [one.problem for one in wrong], sampling, seed + 2)
    return {
        "true": share(lambda one: review_feedback(one.result)),
        "generic": share(lambda one: GENERIC_FEEDBACK),
        "fresh": sum(one.result.correct for one in fresh) / max(len(fresh), 1),
        "fresh_same_temperature": sum(one.result.correct for one in cool) / max(len(cool), 1),
    }


def verifier_probe(model: Llama, tokenizer: PackTokenizer, judged: list[Judged], sampling: Sampling, seed: int) -> dict[str, float]:
    """Verdict accuracy per class, first error found, leaks and verdicts that cannot be read."""
    written = [prompts.verify_prompt(one.problem.text, one.attempt) for one in judged]
    reviews = complete(model, tokenizer, written, sampling, seed)
    counts = dict.fromkeys(("right", "accepted", "wrong", "rejected", "located", "exact", "unread", "leaks"), 0)
    for one, review in zip(judged, reviews, strict=True):
        feedback, verdict = prompts.split_review(review)
        counts["unread"] += verdict is None
        counts["leaks"] += leaks(feedback, one.problem, one.attempt)
        if one.result.correct:
            counts["right"] += 1
            counts["accepted"] += verdict == "accept"
        else:
            counts["wrong"] += 1
            counts["rejected"] += verdict == "reject"
            last = feedback.splitlines()[-1] if feedback else ""
            counts["located"] += verdict == "reject" and last.startswith(f"Step {one.result.first_error}: ") and bool(objections(last))
            counts["exact"] += verdict == "reject" and feedback == review_feedback(one.result)
    right, wrong = max(counts["right"], 1), max(counts["wrong"], 1)
    return {
        "right_accepted": counts["accepted"] / right,
        "wrong_rejected": counts["rejected"] / wrong,
        "first_error_found": counts["located"] / wrong,
        "feedback_exact": counts["exact"] / wrong,
        "unread": counts["unread"] / max(len(judged), 1),
        "leaks": counts["leaks"] / max(len(judged), 1),
    }


__all__ = [
    "Judged",
    "attempt_all",
    "complete",
    "hint_of",
    "rates",
    "refine_probe",
    "solve_probe",
    "teacher_probe",
    "validation_problems",
    "verifier_probe",
]
