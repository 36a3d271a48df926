"""Rows for other trainers: verdict RL, STV and ViL for TRL (JSON Lines) and verl (Parquet)."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import jinja2

from .documents import review_feedback
from .errors import OutsideDomain, TrainError
from .files import read_jsonl, write_atomically, write_jsonl
from .tasks.checking import check
from .tasks.problems import read_problem
from .tasks.steps import solution_text, solve

VALIDATION_SHARE = 0.05


class Messages:
    """Prompts of a pack folder as chat messages."""

    def __init__(self, folder: Path) -> None:
        try:
            self.pack: dict[str, Any] = json.loads((folder / "pack.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise TrainError(f"--pack must name a folder with a pack.json; {folder} cannot be read: {error}.") from error
        self.folder = folder
        self._environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)

    def render(self, name: str, **texts: str) -> list[dict[str, str]]:
        if name not in self.pack["prompts"]:
            raise TrainError(f"{self.folder} has no prompt {name!r}.")
        return [
            {
                "role": one["role"],
                "content": self._environment.from_string((self.folder / one["template"]).read_text()).render(**texts).rstrip("\n"),
            }
            for one in self.pack["prompts"][name]["messages"]
        ]


def graded_rows(path: Path) -> list[dict[str, Any]]:
    """Graded attempts of a rollout or of `data from-traces`. Raises TrainError that names row and field."""
    rows = read_jsonl(path)
    for number, one in enumerate(rows, 1):
        for key in ("problem", "attempt"):
            if not isinstance(one.get(key), str) or not one[key].strip():
                raise TrainError(f"{path}, row {number}: `{key}` must be a text that is not empty, not {one.get(key)!r}.")
        if not isinstance(one.get("correct"), bool):
            raise TrainError(f"{path}, row {number}: `correct` must be true or false, not {one.get('correct')!r}.")
        for key in ("answer", "reference", "feedback"):
            if one.get(key) is not None and not isinstance(one[key], str):
                raise TrainError(f"{path}, row {number}: `{key}` must be a text, not {one[key]!r}.")
    if not rows:
        raise TrainError(f"{path} holds no attempt.")
    return rows


def each_once(files: list[Path]) -> list[dict[str, Any]]:
    """The graded attempts of all files; of the same attempt the row of the last one, that of a trace with what was said about it."""
    return list({(one["problem"], one["attempt"]): one for path in files for one in graded_rows(path)}.values())


def with_references(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fills `answer` and `reference` of problems that this package can solve; rows that stay without an answer are left out."""
    found = []
    for one in rows:
        if not one.get("answer") or not one.get("reference"):
            try:
                problem = read_problem(one["problem"])
            except OutsideDomain:
                if not one.get("answer"):
                    continue
            else:
                solved = {"answer": str(problem.answer), "reference": solution_text(solve(problem))}
                one = {**one, **{key: one.get(key) or text for key, text in solved.items()}}
        found.append(one)
    return found


def with_feedback(one: dict[str, Any]) -> dict[str, Any]:
    """A wrong attempt with what is to be said about it: what its trace says, else the true review where this package can check it."""
    if str(one.get("feedback") or "").strip():
        return one
    try:
        result = check(read_problem(one["problem"]), one["attempt"])
    except OutsideDomain:
        return one
    return one if result.correct else one | {"feedback": review_feedback(result)}


def verdict_row(messages: Messages, one: dict[str, Any], source: str) -> dict[str, Any]:
    """A review to write: `prompt` is the student's, `ref_prompt` the teacher's, which knows verdict and reference."""
    word = messages.pack["verdict"]["words"]["accept" if one["correct"] else "reject"]
    reference = one.get("reference") or f"The answer is {one['answer']}."
    known = f"{reference}\n\nThe verdict is known: {word}."
    return {
        "data_source": f"{source}/verdict",
        "prompt": messages.render("verify", problem=one["problem"], solution=one["attempt"]),
        "ref_prompt": messages.render("verify_reference", problem=one["problem"], solution=one["attempt"], reference=known),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": word},
        "extra_info": {"problem": one["problem"], "answer": one["answer"]},
    }


def vil_row(messages: Messages, one: dict[str, Any], source: str) -> dict[str, Any]:
    """A refinement turn: an attempt with a verifier's feedback; the reward is the answer."""
    return {
        "data_source": f"{source}/answer",
        "prompt": messages.render("refine", problem=one["problem"], attempt=one["attempt"], feedback=one["feedback"], verdict="reject"),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": one["answer"]},
        "extra_info": {"problem": one["problem"], "answer": one["answer"]},
    }


def export_rows(attempts: list[Path], pack: Path, to: Path, form: str, source: str, seed: int) -> dict[str, int]:
    """Writes `{verdict,vil}.{train,val}` below `to`; returns how many rows each holds. `verdict` takes as many right as wrong
    attempts; `vil` those wrong attempts that have a feedback. Problems are not shared between train and val."""
    if form not in ("trl", "verl"):
        raise TrainError(f"--format must be trl or verl, not {form!r}.")
    messages = Messages(pack)
    rows = with_references(each_once(attempts))
    rng = Random(seed)
    classes = [[one for one in rows if one["correct"] is wanted] for wanted in (True, False)]
    for group in classes:
        rng.shuffle(group)
    count = min(map(len, classes))
    if not count:
        raise TrainError(f"{' and '.join(map(str, attempts))}: attempts of one class only; verdicts need right and wrong ones.")
    kinds = {
        "verdict": [verdict_row(messages, one, source) for pair in zip(*(g[:count] for g in classes), strict=True) for one in pair],
        "vil": [vil_row(messages, one, source) for one in map(with_feedback, classes[1]) if str(one.get("feedback") or "").strip()],
    }
    written = {}
    for kind, made in kinds.items():
        for split in ("train", "val"):
            chosen = [row for row in made if (Random(row["extra_info"]["problem"]).random() < VALIDATION_SHARE) == (split == "val")]
            if chosen:
                _write(to / f"{kind}.{split}", chosen, form)
                written[f"{kind}.{split}"] = len(chosen)
    return written


def _write(path: Path, rows: list[dict[str, Any]], form: str) -> None:
    if form == "trl":
        # TRL hands the columns beside the prompt to the reward function.
        flat = [{**row, "ground_truth": row["reward_model"]["ground_truth"]} for row in rows]
        write_jsonl(path.with_name(path.name + ".jsonl"), flat)
        return
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise TrainError("Parquet needs pyarrow: pip install 'stv-train[export]'.") from None
    table = pyarrow.Table.from_pylist(rows)
    write_atomically(path.with_name(path.name + ".parquet"), lambda part: parquet.write_table(table, part))
