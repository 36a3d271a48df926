"""The control of a larger generator without a verifier: another run's base model on this run's held-out problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import TrainError
from .files import read_jsonl
from .model import Llama, ModelConfig
from .probes import attempt_all
from .run import Run, load_weights, read_facts
from .stages.loops import attempt_sampling
from .statistics import bootstrap
from .tasks.checking import states_answer
from .tasks.problems import read_problem


def load_other(run: Run, folder: Path, name: str = "base") -> Llama:
    """A finished model of another run, of whatever size. Raises TrainError when its vocabulary is another."""
    if not (folder / name / "facts.json").exists():
        raise TrainError(f"{folder} holds no finished model {name!r} (evaluate.larger names the folder of a run).")
    config = ModelConfig(**read_facts(folder / name)["model"])
    if config.vocab_size != run.tokenizer.vocab_size:
        raise TrainError(f"{folder} has a vocabulary of {config.vocab_size} tokens, this run {run.tokenizer.vocab_size}.")
    model = run.prepared(Llama(config))
    load_weights(model, folder / name / "weights.safetensors")
    return model


def larger_pass_at_1(run: Run, problems: Path) -> dict[str, Any] | None:
    """pass@1 by bin with its interval, as many samples a problem as there are chains; None where none is configured."""
    if not run.config.evaluate.larger:
        return None
    model = load_other(run, Path(run.config.evaluate.larger))
    rows = read_jsonl(problems)
    chains = run.config.evaluate.chains
    found: dict[str, Any] = {"run": run.config.evaluate.larger, "parameters": model.num_parameters(), "bins": {}}
    for name in dict.fromkeys(row["bin"] for row in rows):
        chosen = [read_problem(row["problem"], row["task"], row["level"]) for row in rows if row["bin"] == name]
        repeated = [p for p in chosen for _ in range(chains)]
        judged = attempt_all(model, run.tokenizer, repeated, attempt_sampling(run), run.config.run.seed + 67_000)
        right = [states_answer(one.problem, one.attempt) for one in judged]
        shares = [sum(right[at * chains : (at + 1) * chains]) / chains for at in range(len(chosen))]
        low, high = bootstrap(shares)
        by_problem = dict(zip((row["id"] for row in rows if row["bin"] == name), shares, strict=True))
        found["bins"][name] = {"value": sum(shares) / max(len(shares), 1), "low": low, "high": high, "by_problem": by_problem}
    return found
