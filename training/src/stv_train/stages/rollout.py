"""The generator's own attempts at training problems, checked; from PyTorch or from a running server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from .. import prompts
from ..documents import DocumentSource, Mix
from ..errors import OutsideDomain, TrainError
from ..files import read_jsonl, write_jsonl
from ..model import Llama
from ..probes import Judged, texts
from ..run import Progress, Run, fingerprint, weights_digest
from ..sampler import Sampling, sample
from ..server import post_json, served_as
from ..tasks.checking import check
from ..tasks.problems import read_problem, split_of
from ..tasks.steps import Problem
from .chunks import in_chunks

CHUNK = 2048  # attempts per file of a rollout: what an interrupt can cost
TRACES, GRADED = "traces", "graded"  # files of `data from-traces`: no rollout may take their place


def rollout_path(run: Run, name: str = "train") -> Path:
    return run.folder / "rollouts" / f"{name}.jsonl"


def attempt_files(run: Run) -> list[Path]:
    """What the run's attempts lie in: those that it drew, and those that `data from-traces` took in."""
    drawn, traces = rollout_path(run), rollout_path(run, TRACES)
    return [path for path in (drawn, traces) if path.exists()] or [drawn]


def rollout(run: Run, generator: str = "", server: str = "", name: str = "train", key: str = "") -> Path:
    """Draws the configured number of attempts, chunk by chunk; a chunk of the same weights already on disk is not drawn again."""
    if name in (TRACES, GRADED):
        raise TrainError(f"--name must not be {name}: {rollout_path(run, name)} holds what `data from-traces` took in.")
    config, seed = run.config.rollout, run.config.run.seed + 5000
    generator = generator or run.generator
    path = rollout_path(run, name)
    model = None if server else run.load_model(generator)
    drawn_by = served_as(server, "generator", key) if model is None else weights_digest(model)
    c = run.config
    identity = fingerprint(c.run.seed, c.data.tasks, c.data.falling, config, generator, drawn_by, c.model)
    marker = path.with_suffix(".identity")
    if path.exists() and marker.exists() and marker.read_text() == identity:
        run.say(f"rollout: {path} is complete")
        return path
    source = DocumentSource(Mix({"solve": 1.0}, run.config.data.tasks, run.config.data.falling * config.rising), seed)
    progress = Progress("rollout", config.attempts, "attempts", 0)
    tokens, drawn, began = 0, 0, time.monotonic()

    def draw(first: int, count: int) -> Iterator[dict[str, Any]]:
        nonlocal tokens, drawn
        problems = [source.problem(Random(f"{seed}:rollout:{first + at}")) for at in range(count)]
        if model is None:
            attempts, used = _from_server(server, problems, config.temperature, config.max_new_tokens, seed + first, key)
        else:
            attempts, used = _from_model(run, model, problems, seed + first)
        tokens, drawn = tokens + used, drawn + count
        # Nothing at all is no attempt: there would be nothing to verify.
        return (row(Judged(p, a, check(p, a))) for p, a in zip(problems, attempts, strict=True) if a.strip(" …\n"))

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, part in enumerate(in_chunks(run, "rollout", path.with_suffix("") / identity, config.attempts, CHUNK, draw), 1):
        for one in part:
            rows.setdefault((one["problem"], one["attempt"]), one)
        progress.update(min(number * CHUNK, config.attempts))
    write_jsonl(path, rows.values())
    marker.write_text(identity)
    right = sum(one["correct"] for one in rows.values())
    seconds = time.monotonic() - began
    # what an earlier process drew took none of these seconds
    facts = {"attempts": len(rows), "right": right, "drawn": drawn, "tokens": tokens, "seconds": round(seconds, 1), "server": server}
    run.log("rollout", **facts)
    rate = f", {tokens / seconds:,.0f} tokens/s from {server or 'PyTorch'}" if tokens else ""
    run.say(f"rollout: {len(rows):,} unique attempts, {right:,} right{rate}")
    return path


def rollout_sampling(run: Run) -> Sampling:
    config = run.config.rollout
    return Sampling(config.temperature, config.max_new_tokens, config.batch)


def row(judged: Judged) -> dict[str, Any]:
    return {
        "problem": judged.problem.text,
        "task": judged.problem.task,
        "level": judged.problem.level,
        "attempt": judged.attempt,
        "correct": judged.result.correct,
        "first_error": judged.result.first_error,
        "finding": judged.result.finding,
        "kind": judged.result.kind,
    }


def row_problem(one: dict[str, Any]) -> Problem:
    """The problem of a row. Raises OutsideDomain for one that this pack does not know."""
    return read_problem(one["problem"], str(one.get("task", "")), int(one.get("level", 0)))


def _from_model(run: Run, model: Llama, problems: list[Problem], seed: int) -> tuple[list[str], int]:
    written = [run.tokenizer.encode(prompts.generate_prompt(p.text)) for p in problems]
    completions = sample(model, written, rollout_sampling(run), seed)
    return texts(completions, run.tokenizer), sum(len(c.ids) for c in completions)


def _from_server(
    server: str, problems: list[Problem], temperature: float, max_tokens: int, seed: int, key: str = ""
) -> tuple[list[str], int]:
    """Attempts by `POST /v1/chat/completions` of a running server, many at a time so that it can batch them."""

    def ask(item: tuple[int, Problem]) -> tuple[str, int]:
        number, problem = item
        body = {
            "model": "generator",
            "messages": [{"role": "user", "content": problem.text}],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": (seed + number) % 2**31,
        }
        answer = post_json(f"{server.rstrip('/')}/v1/chat/completions", body, key)
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        return text + ("" if choice["finish_reason"] == "stop" else " …"), int(answer["usage"]["completion_tokens"])

    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = list(pool.map(ask, enumerate(problems)))
    return [text for text, _ in answers], sum(tokens for _, tokens in answers)


def load_attempts(*paths: Path) -> list[Judged]:
    """Attempts of JSONL files with `problem` and `attempt` (and `task`, `level`), each once and checked anew: stored labels are
    not trusted. Rows of held-out problems, or outside the domain, are left out."""
    judged: dict[tuple[str, str], Judged] = {}
    for path in paths:
        for one, problem in _training_rows(path, lambda one: (one["problem"], one["attempt"]) not in judged):
            judged[one["problem"], one["attempt"]] = Judged(problem, one["attempt"], check(problem, one["attempt"]))
    if not judged:
        raise TrainError(f"{' and '.join(map(str, paths))} holds no attempt at a training problem of this pack.")
    return list(judged.values())


def missed_problems(*paths: Path) -> list[Problem]:
    """Training problems of the domain of which the files hold a wrong attempt, each once, in the files' order."""
    found: dict[str, Problem] = {}
    for path in paths:
        for _, problem in _training_rows(path, lambda one: one.get("correct") is False):
            found.setdefault(problem.canonical, problem)
    return list(found.values())


def _training_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> Iterator[tuple[dict[str, Any], Problem]]:
    """The wanted rows at training problems of the domain, with these; reading a problem takes longer than all else of a row."""
    for number, one in enumerate(read_jsonl(path), 1):
        for key in ("problem", "attempt"):
            if not isinstance(one.get(key), str) or not one[key].strip():
                raise TrainError(f"{path}, row {number}: `{key}` must be a text that is not empty, not {one.get(key)!r}.")
        if not wanted(one):
            continue
        try:
            problem = row_problem(one)
        except OutsideDomain:
            continue
        if split_of(problem.canonical) == "train":
            yield one, problem
