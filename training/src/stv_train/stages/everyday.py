"""Held-out problems as they come, of every level alike, and what people hand in: the figures of a model card, and the comparison of
packs, whoever made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ..errors import TrainError
from ..figures import compare, read_chains, same_number
from ..files import read_json, write_json, write_jsonl
from ..report_served import share, table, verdict_rows
from ..run import Run, fingerprint
from ..server import server_command, server_version
from ..tasks.checking import Check, states_answer
from ..tasks.mistakes import OWN_WAYS, student_attempt
from ..tasks.problems import SPLITS, all_kinds
from ..tasks.steps import Problem, attempt_lines
from .data import different_problems
from .served import Job, evaluation_folder, run_jobs

Report = dict[str, Any]


def everyday_folder(run: Run) -> Path:
    return evaluation_folder(run) / "everyday"


def everyday_jobs(run: Run, split: str) -> list[Job]:
    """`random`: the loop on problems of `split`; `students`: the same loop from people's wrong attempts; `handed-in`: verdicts on
    people's attempts, half of them right; `own-way`: verdicts on such that do not go by the book (equations of the first level have no
    other way). `evaluate.per_level` problems of each level, or all where it holds fewer; half as many for `students`."""
    config, seed = run.config.evaluate, run.config.run.seed
    folder = everyday_folder(run) / split
    rows: dict[str, list[dict[str, Any]]] = {"random": [], "students": [], "handed-in": [], "own-way": []}
    for task, level in all_kinds(run.config.data.tasks):
        rng, own = (Random(f"{seed}:{name}:{split}:{task}:{level}") for name in ("everyday", "own-way"))
        for at, problem in enumerate(different_problems(task, level, split, config.per_level, rng, set())):
            same = {
                **{"id": f"{task}-{level}-{at}", "problem": problem.text, "answer": str(problem.answer)},
                **{"group": f"{task}-{level}", "bin": "all"},
            }
            rows["random"].append(same)
            for name, right in (("handed-in", at % 2 == 0), ("students", False)):
                attempt, result = _handed_in(problem, rng, right)
                if name == "handed-in" or at % 2:
                    rows[name].append(same | {"attempt": attempt, "first_error": result.first_error})
            if task == "equations" and level > 1:
                attempt, result = _handed_in(problem, own, at % 2 == 0, own_ways=1.0)
                rows["own-way"].append(same | {"attempt": attempt, "first_error": result.first_error})
    rows = {name: written for name, written in rows.items() if written}
    for name, written in rows.items():
        write_jsonl(folder / f"{name}.jsonl", written)
    loop = (config.chains, config.rounds)
    shapes = {"random": loop, "students": loop, "handed-in": (1, 0), "own-way": (1, 0)}
    return [Job(name, folder / f"{name}.jsonl", seed, *shapes[name]) for name in rows]


def _handed_in(problem: Problem, rng: Random, right: bool, own_ways: float = OWN_WAYS) -> tuple[str, Check]:
    """A student's attempt whose last line is as right as its steps: `stv eval` grades what is handed in by the value of its answer."""
    for _ in range(100):
        attempt, result = student_attempt(problem, rng, right, own_ways=own_ways)
        last = attempt_lines(attempt)[-1].rpartition("=")[2]
        if right or not (states_answer(problem, attempt) or same_number(last, str(problem.answer))):
            break
    return attempt, result


@dataclass(frozen=True, slots=True)
class Measured:
    """A pack's name, reports by set, and its folder of results."""

    name: str
    reports: dict[str, Report]
    folder: Path


def compare_packs(run: Run, packs: list[Path], split: str) -> str:
    """Measures packs of any origin on the same problems; returns tables with one column each, also in `evaluation/everyday/SPLIT.md`.

    Choosing is for the validation split; what was chosen is then measured on the test split."""
    if split not in SPLITS[1:]:
        raise TrainError(f"--split must be one of {', '.join(SPLITS[1:])}, not {split!r}: training problems show nothing.")
    names = _names(packs)
    command = server_command(run.config.evaluate.server)
    version = server_version(command)
    jobs = everyday_jobs(run, split)
    measured = []
    for pack, name in zip(packs, names, strict=True):
        run.say(f"compare: {pack}")
        folder = everyday_folder(run) / split / fingerprint(str(pack.resolve()))
        run_jobs(run, command, version, pack, folder, jobs)
        reports = {job.name: read_json(job.report(folder)) for job in jobs}
        measured.append(Measured(name, reports, folder))
    text = everyday_tables(split, measured)
    if len(measured) > 1:
        text += "\n" + _differences(jobs, measured)
    path = everyday_folder(run) / f"{split}.md"
    path.write_text(text)
    write_json(path.with_suffix(".json"), {one.name: one.reports for one in measured})
    return text


def _names(packs: list[Path]) -> list[str]:
    """Name and version of each pack; the folders where these are the same."""
    names = []
    for pack in packs:
        try:
            made = json.loads((pack / "pack.json").read_text())
            names.append(f"{made['name']} {made['version']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainError(f"{pack} is not a pack: its pack.json cannot be read ({error}).") from None
    return names if len(set(names)) == len(names) else [str(pack) for pack in packs]


def everyday_tables(split: str, measured: list[Measured]) -> str:
    """Tables, a column for each pack, with 95 % intervals over problems."""
    head = ["Figure", *(one.name for one in measured)]

    def rows(name: str, figures: list[tuple[str, Any]]) -> str:
        return table(head, [[label, *(of(one.reports[name]) for one in measured)] for label, of in figures])

    def last(report: Report) -> dict[str, Any]:
        found: dict[str, Any] = report["overall"]["rounds"][-1]
        return found

    def gain(report: Report) -> str:
        equal = report["overall"]["equal_tokens"]
        return share(equal["best_of_n"]["loop_gain"], True) if equal else "-"

    random, handed_in = (measured[0].reports[name] for name in ("random", "handed-in"))
    settings = random["settings"]
    asked = f"{settings['chains']} chains, up to {settings['max_rounds']} refinements"
    text = f"{random['overall']['problems']} {split} problems, all levels alike, {asked}; answers count by their value, reduced or not:\n\n"
    text += rows(
        "random",
        [
            ("pass@1 without verifier", lambda r: share(r["overall"]["rounds"][0]["pass_at_1"])),
            ("after the loop", lambda r: share(last(r)["pass_at_1"])),
            ("gain of the loop over best of n at equal tokens, points", gain),
            ("precision of accepted", lambda r: share(last(r)["precision"])),
            ("wrong attempts rejected", lambda r: share(r["overall"]["verdicts"]["reject_when_wrong"])),
            ("refinements: wrong to right", lambda r: share(r["overall"]["flips"]["wrong_to_right"])),
            ("refinements: right to wrong", lambda r: share(r["overall"]["flips"]["right_to_wrong"])),
        ],
    )
    if (students := measured[0].reports.get("students")) is not None:  # none where a level has one problem
        text += f"\nThe same loop from students' wrong attempts at {students['overall']['problems']} problems:\n\n"
        text += rows(
            "students",
            [
                ("right after the first refinement", lambda r: share(r["overall"]["rounds"][min(1, settings["max_rounds"])]["pass_at_1"])),
                ("after the loop", lambda r: share(last(r)["pass_at_1"])),
                ("precision of accepted", lambda r: share(last(r)["precision"])),
            ],
        )
    text += f"\n{handed_in['overall']['problems']} students' attempts, half of them right, one verification each:\n\n"
    text += table(head, verdict_rows([one.reports["handed-in"] for one in measured]))
    if (own_way := measured[0].reports.get("own-way")) is not None:
        text += f"\nThe same with {own_way['overall']['problems']} attempts at equations that do not go by the book:\n\n"
        text += table(head, verdict_rows([one.reports["own-way"] for one in measured]))
    return text


def _differences(jobs: list[Job], measured: list[Measured]) -> str:
    """Shares of right answers of each pack less those of the first, paired by problem."""
    first = measured[0]
    rows = []
    for job in jobs:
        if not job.rounds:
            continue
        for one in measured[1:]:
            mine, base = (read_chains(job.results(m.folder), job.problems) for m in (one, first))
            cells = [share(compare(mine, base, first=at_first)["difference"], True) for at_first in (True, False)]
            rows.append([job.name, one.name, *cells])
    text = f"Right answers less those of `{first.name}`, in points, paired by problem:\n\n"
    return text + table(["Set", "Pack", "first attempt", "after the loop"], rows)
