"""Evaluation of what is served: packs of the run's models behind the real server, through its own `stv eval`, on held-out
problems; beside it the controls that must be told the truth, in PyTorch, on the same problems."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from random import Random
from typing import Any

from ..documents import outside_attempt
from ..errors import TrainError
from ..export import export_pack, load_export
from ..figures import Pair, problems_path, served_identity
from ..files import file_digest, read_jsonl, write_json, write_jsonl
from ..larger import larger_pass_at_1
from ..run import Run, fingerprint
from ..server import server_command, server_version
from ..tasks.outside import TEMPLATES, make_outside
from ..tasks.problems import read_problem
from .bins import Binned, attempts_to_verify, binned_problems
from .data import problem_row
from .loops import VERIFIERS, run_loops
from .served import Job, evaluation_folder, run_jobs
from .vil import CONTROLS


def pairs_of(run: Run, pack: Pair) -> list[Pair]:
    """The pack first; then every verifier with `evaluate.generator`, every generator with STV."""
    configured = run.config.evaluate.pairs
    if configured:
        found = []
        for text in configured:
            generator, plus, verifier = text.partition("+")
            if not plus:
                raise TrainError(f"evaluate.pairs names {text!r}; a pair is GENERATOR+VERIFIER.")
            found.append(Pair(generator, verifier))
        return list(dict.fromkeys([pack, *found]))

    def seeded(name: str) -> list[str]:
        return sorted(path.parent.name for path in run.folder.glob(f"{name}-seed*/facts.json"))

    verifiers = [name for name in (*(name for _, name in VERIFIERS), *seeded("stv")) if run.has_model(name)]
    generators = [name for name in ("generator", "rlvr", *CONTROLS, *seeded("vil")) if run.has_model(name)]
    best = "stv" if run.has_model("stv") else "base"
    return list(dict.fromkeys([pack, *(Pair(run.config.evaluate.generator, v) for v in verifiers), *(Pair(g, best) for g in generators)]))


def evaluate_served(run: Run, folder: Path) -> dict[str, Any]:
    """Evaluates the pack in `folder` and its rivals; writes `evaluation/served.json` and returns it. Goes on where it was
    broken off; figures of other weights are dropped."""
    config = run.config.evaluate
    command = server_command(config.server)
    version = server_version(command)
    exported = load_export(run, folder)
    pack = Pair(exported["generator"], exported["verifier"])
    # The controls come last: until they are there, those of an earlier evaluation would pass for them.
    (evaluation_folder(run) / "loops.json").unlink(missing_ok=True)
    sets = _problem_sets(run)
    results: dict[str, Any] = {}
    for number, pair in enumerate(pairs := pairs_of(run, pack), 1):
        run.say(f"evaluate: {pair.name} ({number} of {len(pairs)})")
        place = folder
        if pair != pack:
            place = export_pack(run, pair.generator, pair.verifier, evaluation_folder(run) / "packs" / pair.name, quiet=True)
        chosen = ["loop"]
        if pair.generator == config.generator or pair == pack:
            chosen.append("attempts")
        if pair == pack:
            chosen += [name for name in ("outside", "gym") if name in sets]
        seeds = [run.config.run.seed]
        if config.second_seed and (pair == pack or pair in (Pair(config.generator, "base"), Pair(config.generator, "stv"))):
            seeds.append(run.config.run.seed + 1)
        results[pair.name] = _evaluate_pair(run, command, version, pair, place, {name: sets[name] for name in chosen}, seeds)
    made: dict[str, Any] = {
        "server": version,
        "pack": pack.name,
        "problems": {name: file_digest(path) for name, path in sets.items()},
        "pairs": results,
        "seconds": round(sum(job["seconds"] or 0.0 for found in results.values() for job in found["sets"].values()), 1),
        "larger": larger_pass_at_1(run, sets["loop"]),
    }
    write_json(evaluation_folder(run) / "served.json", made)
    if config.controls:
        _controls(run, sets["loop"])
    run.say(f"evaluate: {evaluation_folder(run) / 'served.json'}, {made['seconds']:.0f} s")
    return made


def _evaluate_pair(
    run: Run, command: list[str], version: str, pair: Pair, pack: Path, sets: dict[str, Path], seeds: list[int]
) -> dict[str, Any]:
    config = run.config.evaluate
    folder = evaluation_folder(run) / pair.name
    jobs = {}
    for name, problems in sets.items():
        for seed in seeds if name == "loop" else seeds[:1]:
            unique = f"{name}-{seed}" if seed != run.config.run.seed else name
            shape = (config.chains, config.rounds) if name == "loop" else (1, 0)
            jobs[name, seed] = Job(unique, problems, seed, *shape)
    spent = run_jobs(run, command, version, pack, folder, list(jobs.values()))
    reports: dict[str, Any] = {}
    for (name, seed), job in jobs.items():
        reports[job.name] = {"set": name, "seed": seed, "report": str(job.report(folder).relative_to(run.folder))}
        reports[job.name] |= {"results": str(job.results(folder).relative_to(run.folder)), "seconds": spent.get(job.name)}
    identity = served_identity(run, pair.generator, pair.verifier)
    return {"generator": pair.generator, "verifier": pair.verifier, "identity": identity, "sets": reports}


# --- Problems ---------------------------------------------------------------------------------------------------------


def _problem_sets(run: Run) -> dict[str, Path]:
    """The held-out sets as files for `stv eval`, drawn once: `loop` by bin, `attempts` with their first wrong step,
    `outside`, and `gym` where the run has problems of reasoning-gym."""
    config = run.config.evaluate
    paths = {name: problems_path(run, name) for name in ("loop", "attempts", "outside")}
    identity = fingerprint(
        *(run.config.run.seed, config.problems, config.attempts, run.config.data.tasks, run.config.export.temperature),
        file_digest(run.folder / config.generator / "weights.safetensors"),
        TEMPLATES["test"],
    )
    marker = paths["loop"].with_name("identity")
    if not marker.exists() or marker.read_text() != identity:
        generator = run.load_model(config.generator)
        began = time.monotonic()
        binned = binned_problems(run, generator, "test", config.problems, run.config.export.temperature)
        write_jsonl(paths["loop"], (_loop_row(one) for one in binned))
        run.log("evaluation-bins", seconds=round(time.monotonic() - began, 1), problems=len(binned), sampler="PyTorch")
        judged = attempts_to_verify(run, generator, "test", config.attempts)
        rows = [
            {
                **{"id": f"a{at}", "problem": one.problem.text, "answer": str(one.problem.answer)},
                **{"group": one.problem.task, "attempt": one.attempt, "first_error": one.result.first_error},
            }
            for at, one in enumerate(judged)
        ]
        write_jsonl(paths["attempts"], rows)
        rng = Random(f"{run.config.run.seed}:outside")
        handed_in = ((make_outside(rng, "test"), outside_attempt(rng, "test")) for _ in range(config.attempts))
        outside = [{"id": f"o{at}", "problem": text, "attempt": attempt} for at, (text, attempt) in enumerate(handed_in)]
        # No answer is right: the only fitting verdict is `undetermined`.
        write_jsonl(paths["outside"], ({**one, "answer": "none", "bin": "outside"} for one in outside))
        marker.write_text(identity)
    gym = run.folder / "data" / "gym.jsonl"
    if gym.exists():
        chosen = [one for one in read_jsonl(gym) if one["task"] != "outside" and one["split"] != "train"]
        rows = [one | {"group": one["source"], "bin": "gym"} for one in chosen]
        if rows:
            paths["gym"] = problems_path(run, "gym")
            write_jsonl(paths["gym"], rows)
    return paths


def _loop_row(one: Binned) -> dict[str, Any]:
    row = problem_row(one.problem)
    return {
        **{"id": hashlib.sha256(one.problem.canonical.encode()).hexdigest()[:12], "problem": row["problem"], "answer": row["answer"]},
        **{"bin": one.bin, "group": f"{one.problem.task}-{one.problem.level}", "task": row["task"], "level": row["level"]},
        **{"reference": row["reference"], "right_of_32": one.num_right},
    }


def _controls(run: Run, loop: Path) -> None:
    rows = [row for row in read_jsonl(loop) if row["bin"] != "easy"]
    problems = [Binned(read_problem(row["problem"], row["task"], row["level"]), row["bin"], row["right_of_32"]) for row in rows]
    began = time.monotonic()
    run_loops(run, problems, run.config.evaluate.control_chains, "loops")
    run.log("evaluation-loops", seconds=round(time.monotonic() - began, 1))
