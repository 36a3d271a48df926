"""Held-out problems by difficulty: Hardest and Hard, measured by sampling; and attempts to verify."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from ..model import Llama
from ..probes import Judged, attempt_all
from ..run import Run, fingerprint, weights_digest
from ..sampler import Sampling
from ..tasks.checking import states_answer
from ..tasks.problems import all_kinds, make_problem
from ..tasks.steps import Problem
from .chunks import Row, kept_or_stopped

SAMPLES = 32
FIRST = 8  # samples of every problem; an easy one is known by them and costs no more
MIN_EASY = 7  # right of 32 at which pass@1 is no longer below 0.2
BINS = ("hardest", "hard", "easy")


def bin_of(num_right: int, samples: int = SAMPLES) -> str:
    """Hardest: none right; Hard: pass@1 above 0 and below 0.2; else easy."""
    return "hardest" if num_right == 0 else "hard" if num_right / samples < 0.2 else "easy"


@dataclass(frozen=True, slots=True)
class Binned:
    problem: Problem
    bin: str
    num_right: int  # of 32; of the first 8 where these already make it easy


def binned_problems(run: Run, generator: Llama, split: str, per_bin: int, temperature: float = 1.0) -> list[Binned]:
    """Different problems of `split`, at most `per_bin` of each bin (of the easy ones a quarter), by the share of right answers
    of 32 samples.

    Kinds of problems that fill the rare bins are drawn more often; within a kind nothing is chosen. Gives up on a bin that
    stays empty after 200 rounds of drawing. Samples are drawn in PyTorch: many times faster than one request a sample. Each round is
    kept; raises Interrupted behind the one in which `run` was told to stop."""
    seed = run.config.run.seed + 60_000
    rng = Random(f"{seed}:{split}")
    kinds = all_kinds(run.config.data.tasks)
    found: dict[str, list[Binned]] = {name: [] for name in BINS}
    limits = {name: -(-per_bin // 4) if name == "easy" else per_bin for name in BINS}
    drawn = dict.fromkeys(kinds, 0)
    wanted = dict.fromkeys(kinds, 0)
    seen: set[str] = set()
    sampling = Sampling(temperature, run.config.rollout.max_new_tokens, run.config.rollout.batch)
    digest = weights_digest(generator)

    def measured(problems: list[Problem], seed: int) -> list[Binned]:
        identity = fingerprint([problem.canonical for problem in problems], sampling, seed, digest)
        path = run.folder / "evaluation" / "bins" / f"{identity}.jsonl"
        measure = partial(_measure, run, generator, problems, sampling, seed)
        rows = kept_or_stopped(run, path, measure, "the search for bins stopped after a round")
        return [Binned(problem, row["bin"], row["right"]) for problem, row in zip(problems, rows, strict=True)]

    for number in range(200):
        missing = {name for name in BINS if name != "easy" and len(found[name]) < per_bin}
        if not missing:
            break
        problems = []
        for _ in range(max(32, min(4 * len(kinds), 4 * per_bin))):
            # Laplace's rule: a kind that has not been tried is worth a try.
            weights = [(wanted[kind] + 1) / (drawn[kind] + 2) for kind in kinds]
            kind = rng.choices(kinds, weights)[0]
            drawn[kind] += 1
            problem = make_problem(*kind, rng, split)
            if problem.canonical not in seen:
                seen.add(problem.canonical)
                problems.append(problem)
        for one in measured(problems, seed + 2 * number):
            if one.bin in missing:
                wanted[one.problem.task, one.problem.level] += 1
            if len(found[one.bin]) < limits[one.bin]:
                found[one.bin].append(one)
        run.say(f"bins of {split}: " + "  ".join(f"{name} {len(found[name])}/{limits[name]}" for name in BINS))
    return [one for name in BINS for one in found[name]]


def _measure(run: Run, generator: Llama, problems: list[Problem], sampling: Sampling, seed: int) -> list[Row]:
    def count(of: list[Problem], samples: int, seed: int) -> list[int]:
        judged = attempt_all(generator, run.tokenizer, [p for p in of for _ in range(samples)], sampling, seed)
        right = [states_answer(one.problem, one.attempt) for one in judged]
        return [sum(right[at * samples : (at + 1) * samples]) for at in range(len(of))]

    first = count(problems, FIRST, seed)
    open_problems = [p for p, num in zip(problems, first, strict=True) if num < MIN_EASY]
    rest = dict(zip((p.canonical for p in open_problems), count(open_problems, SAMPLES - FIRST, seed + 1), strict=True))
    found = []
    for problem, num in zip(problems, first, strict=True):
        right = num + rest.get(problem.canonical, 0)
        found.append({"right": right, "bin": bin_of(right) if problem.canonical in rest else "easy"})
    return found


def attempts_to_verify(run: Run, generator: Llama, split: str, per_class: int) -> list[Judged]:
    """Attempts of the generator at different problems of `split`, `per_class` right and as many wrong, levels drawn alike.

    Left out: a right answer behind a wrong step (neither class), and an attempt that was cut off."""
    seed = run.config.run.seed + 80_000
    rng = Random(f"{seed}:{split}")
    kinds = all_kinds(run.config.data.tasks)
    classes: dict[bool, list[Judged]] = {True: [], False: []}
    seen: set[str] = set()
    for chunk in range(100):
        if all(len(group) >= per_class for group in classes.values()):
            break
        problems = [make_problem(*rng.choice(kinds), rng, split) for _ in range(256)]
        for one in attempt_all(generator, run.tokenizer, problems, Sampling(), seed + chunk):
            right = one.result.correct
            usable = one.attempt.strip() and not one.attempt.endswith("…") and right == states_answer(one.problem, one.attempt)
            if usable and one.problem.canonical not in seen and len(classes[right]) < per_class:
                seen.add(one.problem.canonical)
                classes[right].append(one)
    return [*classes[True], *classes[False]]
