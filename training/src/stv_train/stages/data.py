"""Problems as files: held-out sets, users' own problems, reasoning-gym, and traces of a running server."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from ..answers import same_answer
from ..errors import OutsideDomain, TrainError
from ..files import parse_jsonl, read_jsonl, write_jsonl
from ..probes import Judged
from ..run import Run
from ..tasks.checking import check
from ..tasks.problems import SPLITS, all_kinds, make_problem, read_problem, split_of
from ..tasks.steps import Problem, solution_text, solve
from .rollout import GRADED, TRACES, attempt_files, rollout_path, row

GIVE_UP = 200  # draws in a row without a new problem: easy levels hold few


def problem_row(problem: Problem) -> dict[str, Any]:
    return {
        "problem": problem.text,
        "task": problem.task,
        "level": problem.level,
        "answer": str(problem.answer),
        "reference": solution_text(solve(problem)),
        "split": split_of(problem.canonical),
    }


def different_problems(task: str, level: int, split: str, count: int, rng: Random, seen: set[str]) -> list[Problem]:
    """`count` problems of a level that are not among those `seen`, to which they are added; fewer where the level holds fewer."""
    found: list[Problem] = []
    in_vain = 0
    while len(found) < count and in_vain < GIVE_UP:
        problem = make_problem(task, level, rng, split)
        in_vain += 1
        if problem.canonical not in seen:
            seen.add(problem.canonical)
            found.append(problem)
            in_vain = 0
    return found


def write_problems(run: Run) -> list[Path]:
    """`data/{split}.jsonl`: for each task and level up to `problems_per_bin` different problems of the split."""
    paths = []
    for split in SPLITS:
        seen: set[str] = set()
        rng = Random(f"{run.config.run.seed}:data:{split}")
        drawn = [different_problems(*kind, split, run.config.data.problems_per_bin, rng, seen) for kind in all_kinds(run.config.data.tasks)]
        rows = [problem_row(problem) for problems in drawn for problem in problems]
        path = run.folder / "data" / f"{split}.jsonl"
        write_jsonl(path, rows)
        run.say(f"data: {len(rows):,} problems in {path}")
        paths.append(path)
    if run.config.data.gym:
        rows = list(gym_problems(run.config.data.gym, run.config.data.problems_per_bin, run.config.run.seed))
        write_jsonl(run.folder / "data" / "gym.jsonl", rows)
        run.say(f"data: {len(rows):,} problems of reasoning-gym")
    if run.config.data.user_problems:
        rows = user_problems(Path(run.config.data.user_problems))
        write_jsonl(run.folder / "data" / "user.jsonl", rows)
        run.say(f"data: {len(rows):,} problems of {run.config.data.user_problems}")
    return paths


def gym_problems(datasets: tuple[str, ...], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Problems nobody here wrote. Those that the pack cannot read come with `task: outside`."""
    try:
        import reasoning_gym
    except ImportError:
        raise TrainError("data.gym needs the package reasoning-gym: pip install 'stv-train[gym]'.") from None
    for name in datasets:
        try:
            dataset = reasoning_gym.create_dataset(name, size=count, seed=seed)
        except ValueError as error:
            raise TrainError(f"data.gym names {name!r}, which reasoning-gym does not know: {error}") from None
        for item in dataset:
            yield gym_row(name, str(item["question"]), str(item["answer"]))


def gym_row(name: str, question: str, answer: str) -> dict[str, Any]:
    """One problem of reasoning-gym; its last line that the pack can read is the problem. Its split is the one that it belongs to: of
    short ones the most are like some that are trained on."""
    for text in [question, *reversed(question.splitlines())]:
        try:
            problem = read_problem(_plain(text))
        except OutsideDomain:
            continue
        if same_answer(_plain(answer), str(problem.answer)):
            return problem_row(problem) | {"source": f"reasoning-gym/{name}"}
    return {
        "problem": question,
        "task": "outside",
        "level": 0,
        "answer": answer,
        "source": f"reasoning-gym/{name}",
        "split": "test",
    }


def _plain(text: str) -> str:
    """LaTeX fractions and instructions after the question, as reasoning-gym writes them, into plain text."""
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text).replace("$", "")
    text = re.split(r"\. (?:Give|Ensure|Respond|Simplify|Your|Please)\b", text)[0]
    text = re.sub(
        r"(?i)^(?:simplify the fraction|determine the value of [a-z] that satisfies:?|state the final answer to the "
        r"following arithmetic problem:|find the value of [a-z] in the equation:?|solve for [a-z]:)\s*",
        "",
        text.strip(),
    )
    return text.split(" to its lowest terms")[0].strip()


def user_problems(path: Path) -> list[dict[str, Any]]:
    """A user's problems, one JSON object a line: `problem`, `answer` and, where there is one, `reference`.

    A reference that is wrong is refused by line; a problem that the pack cannot read is kept as `outside`."""
    rows = []
    for number, one in enumerate(read_jsonl(path), 1):
        for key in ("problem", "answer"):
            if not isinstance(one.get(key), str) or not one[key].strip():
                raise TrainError(f"{path}, row {number}: `{key}` must be a text that is not empty, not {one.get(key)!r}.")
        try:
            problem = read_problem(one["problem"])
        except OutsideDomain:
            rows.append({"problem": one["problem"], "task": "outside", "level": 0, "answer": one["answer"], "split": "train"})
            continue
        if not same_answer(one["answer"], str(problem.answer)):
            raise TrainError(f"{path}, row {number}: the answer {one['answer']!r} is wrong; it is {problem.answer}.")
        made = problem_row(problem)
        reference = one.get("reference")
        if reference is not None:
            if not isinstance(reference, str):
                raise TrainError(f"{path}, row {number}: `reference` must be a text, not {reference!r}.")
            found = check(problem, reference)
            if not found.correct:
                raise TrainError(f"{path}, row {number}: the reference is wrong at step {found.first_error}: {found.finding}")
            made["reference"] = reference
        rows.append(made)
    return rows


def fetch_traces(server: str, key: str = "", page_size: int = 1000) -> list[dict[str, Any]]:
    """All traces of a running server, page by page (`GET /traces`), with the labels that callers gave."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        url = f"{server.rstrip('/')}/traces?limit={page_size}&labels=true" + (f"&after={after}" if after else "")
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                page = parse_jsonl(response.read().decode(), url)
        except OSError as error:
            raise TrainError(f"Cannot read traces from {url}: {error}.") from error
        if not page:
            return rows
        rows += page
        after = str(page[-1]["trace_id"])


def graded_traces(rows: list[dict[str, Any]], where: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    """Rows of attempts of traces, graded by the exact checker; where a label states another answer, the row is left out. Problems that
    the checker cannot read come apart, graded by their label's answer where they have one.

    What happened to the rest is counted: outside without a label, held out, cut off, labelled wrongly, repeated."""
    counts = dict.fromkeys(("used", "by_reference", "outside", "held_out", "cut_off", "wrong_label", "repeated"), 0)
    checked: list[dict[str, Any]] = []
    by_reference: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for number, one in enumerate(rows, 1):
        for key in ("problem", "attempt"):
            if not isinstance(one.get(key), str):
                raise TrainError(f"{where}, trace {number}: `{key}` must be a text, not {one.get(key)!r}.")
        label = one.get("label") or {}
        try:
            problem = read_problem(one["problem"])
        except OutsideDomain:
            if not label.get("answer") or not one["attempt"].strip() or one.get("finish_reason") == "length":
                counts["outside"] += 1
            elif (one["problem"], one["attempt"]) in seen:
                counts["repeated"] += 1
            else:
                seen.add((one["problem"], one["attempt"]))
                counts["by_reference"] += 1
                right = same_answer(str(one.get("answer") or ""), str(label["answer"]))
                graded = {"problem": one["problem"], "attempt": one["attempt"], "correct": right, "answer": str(label["answer"])}
                reference = {"reference": label["reference"]} if label.get("reference") else {}
                by_reference.append(graded | reference | _objection(one, right))
            continue
        if split_of(problem.canonical) != "train":
            counts["held_out"] += 1
        elif label.get("answer") and not same_answer(str(label["answer"]).split("=")[-1], str(problem.answer)):
            counts["wrong_label"] += 1
        elif not one["attempt"].strip() or one.get("finish_reason") == "length":
            counts["cut_off"] += 1
        elif (problem.canonical, one["attempt"]) in seen:
            counts["repeated"] += 1
        else:
            seen.add((problem.canonical, one["attempt"]))
            counts["used"] += 1
            judged = Judged(problem, one["attempt"], check(problem, one["attempt"]))
            checked.append(row(judged) | _objection(one, judged.result.correct))
    return checked, by_reference, counts


def _objection(trace: dict[str, Any], right: bool) -> dict[str, str]:
    """The `feedback` of a trace, where it objects to a wrong attempt: what accepts one is nothing to go by."""
    feedback = trace.get("feedback")
    said = isinstance(feedback, str) and bool(feedback.strip())
    return {"feedback": str(feedback)} if said and not right and trace.get("verdict") != "accept" else {}


def _add_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds to what an earlier call took in; of the same attempt the newer row stays."""
    before = read_jsonl(path) if path.exists() else []
    write_jsonl(path, {(one.get("problem"), one.get("attempt")): one for one in [*before, *rows]}.values())


def from_traces(run: Run, source: str, key: str = "") -> None:
    """Adds the attempts of traces (a JSONL file, or the address of a running server) to the attempts of the run, in a file of their own
    that no rollout replaces. Those at problems outside the checker's domain, graded by the caller's answer, go to
    `rollouts/graded.jsonl` for `stv-train hf`."""
    is_server = source.startswith(("http://", "https://"))
    rows = fetch_traces(source, key) if is_server else read_jsonl(Path(source))
    checked, by_reference, counts = graded_traces(rows, source)
    run.log("from-traces", source=source, **counts)
    run.say("from-traces: " + "  ".join(f"{name} {count}" for name, count in counts.items()))
    if by_reference:
        _add_rows(rollout_path(run, GRADED), by_reference)
    if checked:
        _add_rows(rollout_path(run, TRACES), checked)
    elif not by_reference and not any(file.exists() for file in attempt_files(run)):
        raise TrainError(f"{source} holds no attempt at a training problem of this pack.")
