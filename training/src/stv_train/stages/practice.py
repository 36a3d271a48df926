"""The problems that RL practises on, and those that its probes measure.

A generator that is right in nine of ten attempts gives groups of answers that are all right, which teach nothing. So a share of the
problems are those that it missed once already, in the attempts that the verifier was trained on; the others keep what it can do."""

from __future__ import annotations

from random import Random

from ..documents import DocumentSource, Mix
from ..errors import TrainError
from ..files import read_jsonl, write_jsonl
from ..probes import attempt_all, validation_problems
from ..run import Run, fingerprint, weights_digest
from ..tasks.checking import states_answer
from ..tasks.steps import Problem
from .rollout import attempt_files, missed_problems, rollout_path, rollout_sampling, row, row_problem

SEARCHED = 4  # times as many validation problems as a probe has are tried once each to find missed ones
REPEATED = 4  # attempts of a probe at each missed problem


class Practice:
    def __init__(self, source: DocumentSource, missed: list[Problem], share: float) -> None:
        self.source, self.missed, self.share = source, missed, share

    @property
    def identity(self) -> str:
        return fingerprint(self.source.mix, self.share, [problem.canonical for problem in self.missed])

    def problem(self, rng: Random) -> Problem:
        if self.missed and rng.random() < self.share:
            return rng.choice(self.missed)
        return self.source.problem(rng)


def practice(run: Run, seed: int) -> Practice:
    """Levels weigh alike among the problems that are new; `vil.missed_share` are problems missed in the run's rollout."""
    source = DocumentSource(Mix({"solve": 1.0}, run.config.data.tasks, 1.0), seed)
    share, files = run.config.vil.missed_share, attempt_files(run)
    if share and not files[0].exists():
        raise TrainError(
            f"vil.missed_share is {share}, but there are no attempts in {files[0]}; run `stv-train rollout` first, or set it to 0."
        )
    return Practice(source, missed_problems(*files) if share else [], share)


def probe_problems(run: Run) -> list[Problem]:
    """Validation problems, `vil.probe_problems` of each level, and REPEATED times each of some more that the generator missed: nearly all
    others are solved before RL begins, so what it gains shows on these alone. The same for all stages of a run."""
    config, seed = run.config.vil, run.config.run.seed + 50_000
    alike = validation_problems(run.config.data.tasks, config.probe_problems, seed)
    if not config.missed_share:
        return alike
    generator = run.load_model(run.generator)
    identity = fingerprint(run.config.data.tasks, config.probe_problems, seed, rollout_sampling(run), weights_digest(generator))
    path = rollout_path(run, f"probe-{identity}")
    if not path.exists():
        tried = validation_problems(run.config.data.tasks, SEARCHED * config.probe_problems, seed + 1)
        judged = attempt_all(generator, run.tokenizer, tried, rollout_sampling(run), seed)
        write_jsonl(path, [row(one) for one in judged if not states_answer(one.problem, one.attempt)])
    return alike + [problem for problem in map(row_problem, read_jsonl(path)) for _ in range(REPEATED)]


__all__ = ["Practice", "practice", "probe_problems"]
