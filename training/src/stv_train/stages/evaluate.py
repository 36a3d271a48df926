"""Evaluation: the served pack, through the server's own `eval`; beside it a small probe of the loop in PyTorch."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import prompts
from ..documents import GENERIC_FEEDBACK, review_feedback
from ..errors import TrainError
from ..model import Llama
from ..probes import Judged, attempt_all, complete
from ..run import Run, write_json, write_jsonl
from ..sampler import Sampling
from ..statistics import bootstrap
from ..tasks.problems import TASKS, make_problem
from ..tasks.steps import Problem, check
from .data import problem_row

SAMPLES = 32


def bin_of(num_right: int, samples: int = SAMPLES) -> str:
    """Hardest: none right; Hard: pass@1 above 0 and below 0.2; else easy."""
    return "hardest" if num_right == 0 else "hard" if num_right / samples < 0.2 else "easy"


def binned_problems(run: Run, generator: Llama, split: str, per_bin: int) -> dict[str, list[Problem]]:
    """Different problems of `split` by bin of the generator's pass@1 over 32 samples; at most `per_bin` each."""
    seed = run.config.run.seed + 60_000
    rng = Random(f"{seed}:{split}")
    bins: dict[str, list[Problem]] = {"easy": [], "hard": [], "hardest": []}
    seen: set[str] = set()
    kinds = [(task, level) for task, weight in run.config.data.tasks.items() if weight > 0 for level in range(1, TASKS[task] + 1)]
    for chunk in range(200):
        if len(bins["hard"]) >= per_bin and len(bins["hardest"]) >= per_bin:
            break
        problems = []
        for _ in range(4 * len(kinds)):
            problem = make_problem(*rng.choice(kinds), rng, split)
            if problem.canonical not in seen:
                seen.add(problem.canonical)
                problems.append(problem)
        judged = attempt_all(generator, run.tokenizer, [p for p in problems for _ in range(SAMPLES)], Sampling(), seed + chunk)
        for at, problem in enumerate(problems):
            right = sum(one.result.correct for one in judged[at * SAMPLES : (at + 1) * SAMPLES])
            found = bins[bin_of(right)]
            if len(found) < per_bin:
                found.append(problem)
    return bins


def evaluate_served(run: Run, pack: Path) -> None:
    """Drives the server's `eval` on the exported pack. Raises TrainError when the server has none to drive."""
    command = shlex.split(run.config.evaluate.server) if run.config.evaluate.server else _own_server()
    folder = run.folder / "evaluation"
    config = run.config.evaluate
    generator = run.load_model("base")
    bins = binned_problems(run, generator, "test", config.problems)
    rows = [problem_row(problem) | {"bin": name} for name, problems in bins.items() for problem in problems]
    write_jsonl(folder / "problems.jsonl", rows)
    arguments = [
        "eval",
        "--pack",
        str(pack),
        "--problems",
        str(folder / "problems.jsonl"),
        "--out",
        str(folder / "results.json"),
    ]
    arguments += ["--chains", str(config.chains), "--rounds", str(config.rounds), "--seed", str(run.config.run.seed)]
    result = subprocess.run([*command, *arguments], check=False)
    if result.returncode:
        raise TrainError(f"`{shlex.join([*command, *arguments])}` ended with status {result.returncode}.")
    run.say(f"evaluate: {folder / 'results.json'}")


def _own_server() -> list[str]:
    root = Path(__file__).resolve().parents[4]
    built = root / "dist" / "cli" / "main.js"
    if shutil.which("stv"):
        command = ["stv"]
    elif shutil.which("node") and built.exists():
        command = ["node", str(built)]
    else:
        raise TrainError("There is no server to evaluate with: put `stv` on the path, build this repository, or set evaluate.server.")
    probe = subprocess.run([*command, "eval", "--help"], capture_output=True, check=False)
    if probe.returncode:
        raise TrainError(f"`{shlex.join(command)}` has no command `eval`; `stv-train evaluate --probe` measures the loop in PyTorch.")
    return command


# --- A probe of the loop, in PyTorch ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loop:
    """Figures by round: pass@1, accept rate, and how many of the accepted are right."""

    name: str
    pass_at_1: list[float]
    accept_rate: list[float]
    precision: list[float]
    interval: tuple[float, float]  # of the final pass@1, 95 % over problems

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "pass_at_1": self.pass_at_1,
            "accept_rate": self.accept_rate,
            "precision": self.precision,
            "interval": list(self.interval),
        }


def loop_probe(
    run: Run,
    generator: Llama,
    verifier: Llama | None,
    first: list[Judged],
    rounds: int,
    name: str,
    feedback: str = "own",
    temperature: float = 1.0,
) -> Loop:
    """The V-R loop from the attempts `first` on. Without a verifier the verdict is the truth (`feedback` true or generic)
    or, with `feedback` none, every attempt is sampled anew. An accepted attempt stays as it is."""
    seed = run.config.run.seed + 70_000
    current = list(first)
    accepted = [False] * len(first)
    pass_at_1, accept_rate, precision = [], [], []
    for number in range(rounds + 1):
        open_rows = [at for at, done in enumerate(accepted) if not done]
        written: list[str | None] = [None] * len(current)
        if verifier is not None and open_rows:
            asked = [prompts.verify_prompt(current[at].problem.text, current[at].attempt) for at in open_rows]
            reviews = complete(verifier, run.tokenizer, asked, Sampling(1.0, 160), seed + 2 * number)
            for at, review in zip(open_rows, reviews, strict=True):
                written[at], verdict = prompts.split_review(review)
                accepted[at] = verdict == "accept"
        elif feedback != "none":
            for at in open_rows:
                accepted[at] = current[at].result.correct
                written[at] = GENERIC_FEEDBACK if feedback == "generic" else review_feedback(current[at].result)
        right = [one.result.correct for one in current]
        taken = [ok for ok, done in zip(right, accepted, strict=True) if done]
        pass_at_1.append(sum(right) / len(right))
        accept_rate.append(sum(accepted) / len(accepted))
        precision.append(sum(taken) / len(taken) if taken else 0.0)
        if number == rounds:
            break
        open_rows = [at for at, done in enumerate(accepted) if not done]
        if feedback == "none":
            asked = [prompts.generate_prompt(current[at].problem.text) for at in open_rows]
        else:
            asked = [
                prompts.refine_prompt(current[at].problem.text, current[at].attempt, (written[at] or "").strip() or GENERIC_FEEDBACK)
                for at in open_rows
            ]
        made = complete(generator, run.tokenizer, asked, Sampling(temperature), seed + 2 * number + 1)
        for at, text in zip(open_rows, made, strict=True):
            current[at] = Judged(current[at].problem, text, check(current[at].problem, text))
    by_problem: dict[str, list[bool]] = {}
    for one in current:
        by_problem.setdefault(one.problem.canonical, []).append(one.result.correct)
    interval = bootstrap([sum(found) / len(found) for found in by_problem.values()])
    return Loop(name, pass_at_1, accept_rate, precision, interval)


def probe_loops(run: Run) -> dict[str, list[Loop]]:
    """Loops of every verifier that the run has, on validation problems by bin. In-training figures, no evidence."""
    config = run.config.evaluate
    generator = run.load_model("base")
    bins = binned_problems(run, generator, "validation", config.problems)
    found: dict[str, list[Loop]] = {}
    for name, problems in bins.items():
        if not problems:
            continue
        repeated = [problem for problem in problems for _ in range(config.chains)]
        first = attempt_all(generator, run.tokenizer, repeated, Sampling(), run.config.run.seed + 65_000)
        temperature = run.config.gates.refine_temperature
        loops = [
            loop_probe(run, generator, None, first, config.rounds, "resampling", "none"),
            loop_probe(run, generator, None, first, config.rounds, "truth, generic feedback", "generic", temperature),
            loop_probe(run, generator, None, first, config.rounds, "truth, true feedback", "true", temperature),
        ]
        for label, model in (
            ("untrained", "base"),
            ("SFT", "sft"),
            ("verdict RL", "verdict-rl"),
            ("meta RL", "meta-rl"),
            ("STV", "stv"),
        ):
            if run.has_model(model):
                loops.append(loop_probe(run, generator, run.load_model(model), first, config.rounds, label, "own", temperature))
        found[name] = loops
        for loop in loops:
            run.say(
                f"probe {name} ({len(problems)} problems) {loop.name:24} pass@1 "
                + " ".join(f"{v:.1%}" for v in loop.pass_at_1)
                + f"  accepted {loop.accept_rate[-1]:.1%}  precision {loop.precision[-1]:.1%}"
            )
    write_json(
        run.folder / "evaluation" / "probe.json",
        {name: [loop.as_dict() for loop in loops] for name, loops in found.items()},
    )
    return found


def load_probe(run: Run) -> dict[str, list[dict[str, object]]]:
    path = run.folder / "evaluation" / "probe.json"
    if not path.exists():
        return {}
    data: dict[str, list[dict[str, object]]] = json.loads(path.read_text())
    return data
