"""The problems that RL practises on.

A generator that is right in nine of ten attempts gives groups of answers that are all right, which teach nothing. So a share of the
problems are those that it missed once already, in the attempts that the verifier was trained on; the others keep what it can do."""

from __future__ import annotations

from random import Random

from ..documents import DocumentSource, Mix
from ..errors import TrainError
from ..run import Run, fingerprint
from ..tasks.steps import Problem
from .rollout import missed_problems, rollout_path


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
    share, path = run.config.vil.missed_share, rollout_path(run)
    if share and not path.exists():
        raise TrainError(
            f"vil.missed_share is {share}, but there are no attempts in {path}; run `stv-train rollout` first, or set it to 0."
        )
    return Practice(source, missed_problems(path) if share else [], share)


__all__ = ["Practice", "practice"]
