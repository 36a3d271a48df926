"""Evaluations of one served pack through the server's own `stv eval`, each kept once it is done."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ..files import file_digest, read_json, write_json
from ..run import Run, fingerprint
from ..server import run_command, served


@dataclass(frozen=True, slots=True)
class Job:
    """One set of problems and how it is asked; no refinements: one verification each."""

    name: str
    problems: Path
    seed: int
    chains: int = 1
    rounds: int = 0

    def results(self, folder: Path) -> Path:
        return folder / f"{self.name}.results.jsonl"

    def report(self, folder: Path) -> Path:
        return folder / f"{self.name}.report.json"

    def identity(self) -> str:
        return fingerprint(self.seed, self.chains, self.rounds, self.problems.read_text())


def evaluation_folder(run: Run) -> Path:
    return run.folder / "evaluation"


def run_jobs(run: Run, command: list[str], version: str, pack: Path, folder: Path, jobs: list[Job]) -> dict[str, float]:
    """Serves `pack` and does the jobs that are not done yet; results and reports lie in `folder`, which is emptied first where it
    holds figures of other weights or of another server. Returns the seconds that each job took."""
    config = run.config.evaluate
    files = [file_digest(path) for kind in ("safetensors", "jinja") for path in sorted(pack.glob(f"**/*.{kind}"))]
    _keep_only(folder, fingerprint(version, (pack / "pack.json").read_text(), files))
    begun, done, seconds = (folder / f"{name}.json" for name in ("begun", "done", "seconds"))
    started: dict[str, str] = read_json(begun) if begun.exists() else {}
    finished: dict[str, str] = read_json(done) if done.exists() else {}
    spent: dict[str, float] = read_json(seconds) if seconds.exists() else {}
    missing = [job for job in jobs if finished.get(job.name) != job.identity()]
    if not missing:
        return spent
    flags = ["--num-slots", str(config.slots)]
    if config.threads:
        flags += ["--threads", str(config.threads)]
    with served(command, pack, evaluation_folder(run) / "server-data", *flags) as url:
        for job in missing:
            if started.get(job.name) != job.identity():  # what there is of it was asked otherwise, and `stv eval` would refuse it
                job.results(folder).unlink(missing_ok=True)
                started[job.name] = job.identity()
                write_json(begun, started)
            began = time.monotonic()
            run_command(
                [
                    *(*command, "eval", str(job.problems), "--url", url),
                    *("--chains", str(job.chains), "--max-rounds", str(job.rounds), "--seed", str(job.seed)),
                    # A request without a loop is short: more of them fill the same slots.
                    *("--concurrency", str(config.concurrency if job.rounds else 4 * config.concurrency)),
                    *("--out", str(job.results(folder)), "--report", str(job.report(folder))),
                    *(("--plot", str(folder / f"{job.name}.svg")) if job.rounds else ()),
                ]
            )
            spent[job.name] = round(time.monotonic() - began, 1)
            finished[job.name] = job.identity()
            write_json(done, finished)
            write_json(seconds, spent)
    return spent


def _keep_only(folder: Path, identity: str) -> None:
    marker = folder / "identity"
    if not marker.exists() or marker.read_text() != identity:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.write_text(identity)
