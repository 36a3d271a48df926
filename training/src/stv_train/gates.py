"""The four conditions that a generator and a teacher must meet before self-trained verification can show anything."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .config import GateConfig
from .errors import TrainError
from .files import read_json, write_json
from .model import Llama
from .probes import Judged, attempt_all, refine_probe, teacher_probe, validation_problems
from .run import Run, fingerprint
from .sampler import Sampling
from .tasks.problems import make_problem


def measure_gates(run: Run, generator: Llama, teacher: Llama) -> dict[str, float]:
    """All figures are on validation problems; the generator's attempts at temperature 1."""
    config, seed = run.config.gates, run.config.run.seed + 77
    rng = Random(f"gates:{seed}")
    sums = [make_problem("order", rng.choice((1, 2)), rng, "validation") for _ in range(config.problems)]
    judged = attempt_all(generator, run.tokenizer, sums, Sampling(), seed)
    figures = {"sums": sum(one.result.correct for one in judged) / len(judged)}
    wrong = own_wrong(run, generator, config, seed)
    figures["wrong_attempts"] = float(len(wrong))
    figures["teacher"] = teacher_probe(teacher, run.tokenizer, wrong, run.config.verifier.max_new_tokens, seed)
    refined = refine_probe(generator, run.tokenizer, wrong, config.refine_temperature, seed)
    figures |= {f"refine_{name}": share for name, share in refined.items()}
    figures["refine_ratio"] = refined["true"] / max(refined["fresh"], 1 / max(len(wrong), 1))
    hard, hardest = bins(run, generator, config, seed)
    return figures | {"hard": float(hard), "hardest": float(hardest)}


def gates_path(run: Run) -> Path:
    """Where gates are kept that base training did not measure: those of a generator of its own, or of a base that was taken in."""
    return run.folder / run.generator / "gates.json"


def pair_gates(run: Run) -> dict[str, float]:
    """The figures of the run's generator and of the base as its teacher, measured once for the two: by base training where it is both."""
    if run.generator == "base" and (gates := run.facts("base").get("gates")):
        return dict(gates)
    path, models = gates_path(run), [fingerprint(run.facts(name)) for name in (run.generator, "base")]
    if path.exists() and (found := read_json(path))["models"] == models:
        return dict(found["gates"])
    measured = measure_gates(run, run.load_model(run.generator), run.load_model("base"))
    report_gates(run, measured)
    write_json(path, {"models": models, "gates": measured})
    return measured


def known_gates(run: Run) -> dict[str, dict[str, float]]:
    """All that were measured, by whose they are."""
    found = {"base": run.facts("base").get("gates", {})} if run.has_model("base") else {}
    if gates_path(run).exists():
        name = "base" if run.generator == "base" else "generator, with the base as its teacher"
        found[name] = read_json(gates_path(run))["gates"]
    return {name: figures for name, figures in found.items() if figures}


def own_wrong(run: Run, model: Llama, config: GateConfig, seed: int) -> list[Judged]:
    """Wrong attempts at validation problems of all levels, at most `problems`."""
    per_level = max(1, config.problems // 6)
    problems = validation_problems(run.config.data.tasks, per_level, seed + 1)
    judged = attempt_all(model, run.tokenizer, problems, Sampling(), seed + 1)
    wrong = [one for one in judged if not one.result.correct and one.result.kind != "empty"]
    Random(seed).shuffle(wrong)
    return wrong[: config.problems]


def bins(run: Run, model: Llama, config: GateConfig, seed: int) -> tuple[int, int]:
    """(Hard, Hardest): problems with 0 < pass@1 < 0.2, and with none right, of the configured number of samples."""
    problems = validation_problems(run.config.data.tasks, 1, seed + 2)
    rng = Random(seed + 2)
    while len(problems) < config.bin_problems:
        problems += validation_problems(run.config.data.tasks, 1, rng.randrange(10**9))
    problems = problems[: config.bin_problems]
    repeated = [problem for problem in problems for _ in range(config.samples)]
    judged = attempt_all(model, run.tokenizer, repeated, Sampling(), seed + 3)
    shares = [
        sum(one.result.correct for one in judged[at : at + config.samples]) / config.samples for at in range(0, len(judged), config.samples)
    ]
    return sum(0 < share < 0.2 for share in shares), sum(share == 0 for share in shares)


def failures(config: GateConfig, figures: dict[str, float]) -> list[str]:
    """One sentence per gate that is not met."""
    out = []
    if figures["sums"] < config.sums:
        out.append(f"sums and products are right in {figures['sums']:.1%}, below {config.sums:.0%}")
    if figures["teacher"] < config.teacher:
        out.append(f"the teacher's feedback is exact in {figures['teacher']:.1%}, below {config.teacher:.0%}")
    if figures["refine_ratio"] < config.refine_ratio:
        out.append(
            f"one refinement with true feedback repairs {figures['refine_true']:.1%} of wrong attempts, a fresh sample "
            f"{figures['refine_fresh']:.1%}: {figures['refine_ratio']:.2f}x, below {config.refine_ratio:g}x"
        )
    if not figures["hard"] or not figures["hardest"]:
        out.append(f"the bins hold {figures['hard']:.0f} Hard and {figures['hardest']:.0f} Hardest problems")
    return out


def report_gates(run: Run, figures: dict[str, float]) -> list[str]:
    run.log("gates", **figures)
    missed = failures(run.config.gates, figures)
    run.say("gates: " + "  ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    for sentence in missed:
        run.say(f"gate missed: {sentence}")
    if not missed:
        run.say("gates: all met")
    return missed


def require_gates(run: Run) -> None:
    """Raises TrainError when a gate is missed: a pair that cannot use feedback cannot show the method."""
    missed = failures(run.config.gates, pair_gates(run))
    if missed and run.config.gates.enforce:
        models = " and ".join(dict.fromkeys((run.generator, "base")))
        raise TrainError(f"Gates are missed ({models}): " + "; ".join(missed) + ". Train longer, or set gates.enforce = false.")
