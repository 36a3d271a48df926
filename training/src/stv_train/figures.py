"""Figures of served evaluations: what `stv eval` reported, and comparisons of two pairs on the same problems with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import file_digest, read_json, read_jsonl
from .run import Run, fingerprint
from .stages.loops import VERIFIERS, load_loops

Figure = dict[str, float | None]
"""`value`, `low`, `high`: an estimate with its 95 % interval over problems; null where nothing can be said, and `high` alone where the
interval has no upper end: JSON has no word for that."""

Array = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Pair:
    generator: str
    verifier: str

    @property
    def name(self) -> str:
        return f"{self.generator}+{self.verifier}"


@dataclass(frozen=True, slots=True)
class Chain:
    first_right: bool
    right: bool
    accepted: bool
    score: float


def load_served(run: Run) -> dict[str, Any]:
    """`evaluation/served.json` without the pairs whose weights, sampling or problems are others by now, or whose files an evaluation that
    was broken off has taken away; empty before `stv-train evaluate`."""
    path = run.folder / "evaluation" / "served.json"
    if not path.exists():
        return {}
    data: dict[str, Any] = read_json(path)
    asked: dict[str, str] = data.get("problems", {})
    changed = {name for name, digest in asked.items() if not (file := problems_path(run, name)).exists() or file_digest(file) != digest}

    def is_current(one: dict[str, Any]) -> bool:
        if any(found["set"] in changed for found in one["sets"].values()):
            return False
        files = [run.folder / found[key] for found in one["sets"].values() for key in ("report", "results")]
        return one.get("identity") == served_identity(run, one["generator"], one["verifier"]) and all(map(Path.exists, files))

    kept = {name: one for name, one in data["pairs"].items() if is_current(one)}
    return data | {"pairs": kept, "larger": None if "loop" in changed else data.get("larger")}


def problems_path(run: Run, name: str) -> Path:
    """The problems of a set, as `stv eval` reads them."""
    return run.folder / "evaluation" / "problems" / f"{name}.jsonl"


def served_identity(run: Run, generator: str, verifier: str) -> str:
    """Of what a pair answers with: its weights and how they are sampled. Empty where a model is missing."""
    if not all(map(run.has_model, (generator, verifier))):
        return ""
    weights = [file_digest(run.folder / name / "weights.safetensors") for name in (generator, verifier)]
    return fingerprint(weights, run.config.export.temperature, run.config.export.verifier_temperature)


def report_of(run: Run, served: dict[str, Any], pair: str, job: str = "loop") -> dict[str, Any] | None:
    found = served.get("pairs", {}).get(pair, {}).get("sets", {}).get(job)
    if not found:
        return None
    report: dict[str, Any] = read_json(run.folder / found["report"])
    return report


def pair_of(run: Run, verifier: str) -> str:
    """The pair of a verifier with the generator of the evaluation."""
    return Pair(run.config.evaluate.generator, verifier).name


def same_number(one: str | None, key: str) -> bool:
    """Whether a stated answer is the right number, exactly."""
    try:
        return one is not None and Fraction(one.strip()) == Fraction(key.strip())
    except (ValueError, ZeroDivisionError):
        return False


def chains_of(run: Run, served: dict[str, Any], pair: str, bins: tuple[str, ...], job: str = "loop") -> dict[str, list[Chain]]:
    """Problem -> the ends of its chains, for problems of `bins`; empty where the pair was not evaluated."""
    found = served.get("pairs", {}).get(pair, {}).get("sets", {}).get(job)
    if not found:
        return {}
    return read_chains(run.folder / found["results"], problems_path(run, found["set"]), bins)


def read_chains(results: Path, problems: Path, bins: tuple[str, ...] | None = None) -> dict[str, list[Chain]]:
    """The same from the files that `stv eval` wrote and read; without `bins` all problems."""
    keys = {row["id"]: row["answer"] for row in read_jsonl(problems) if bins is None or row.get("bin") in bins}
    chains: dict[str, list[Chain]] = {}
    for row in read_jsonl(results):
        if row.get("id") not in keys:
            continue
        for chain in row["chains"]:
            if rounds := chain["rounds"]:
                last, key = rounds[-1], keys[row["id"]]
                one = Chain(same_number(rounds[0]["answer"], key), same_number(last["answer"], key), last["accepted"], last["score"] or 0.0)
                chains.setdefault(row["id"], []).append(one)
    return chains


def _draws(count: int, seed: int = 1) -> Array:
    """Weights [resamples, problems] of a bootstrap over problems."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, [1 / count] * count, RESAMPLES).astype(np.float64)


def _figure(value: float, drawn: Array) -> Figure:
    """Draws in which the figure does not exist are left out. A ratio to nothing exists, and is larger than any other."""
    drawn = drawn[~np.isnan(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return {"value": None, "low": None, "high": None}
    return {"value": float(value), "low": _quantile(drawn, 0.025), "high": _quantile(drawn, 0.975)}


def _quantile(drawn: Array, share: float) -> float | None:
    """None where it is infinite; between a number and infinity there is nothing to interpolate."""
    above = np.quantile(drawn, share, method="higher")
    return float(np.quantile(drawn, share)) if np.isfinite(above) else None


def _shares(chains: dict[str, list[Chain]], ids: list[str], first: bool) -> Array:
    return np.array([np.mean([c.first_right if first else c.right for c in chains[name]]) for name in ids])


def compare(one: dict[str, list[Chain]], other: dict[str, list[Chain]], first: bool = False) -> dict[str, Figure]:
    """pass@1 of one over that of the other, and their difference, paired by problem. `first` compares round 0."""
    ids = sorted(one.keys() & other.keys())
    if not ids:
        nothing: Figure = {"value": None, "low": None, "high": None}
        return {"ratio": nothing, "difference": nothing}
    a, b, weights = _shares(one, ids, first), _shares(other, ids, first), _draws(len(ids))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (weights @ a) / (weights @ b)
    return {
        "ratio": _figure(_ratio(float(a.mean()), float(b.mean())), drawn),
        "difference": _figure(a.mean() - b.mean(), weights @ (a - b) / len(ids)),
    }


def _ratio(one: float, other: float) -> float:
    """Infinite over nothing; nothing over nothing is no number."""
    return one / other if other else one * float("inf")


def precision_at(right: Array, score: Array, accepted: Array, weight: Array, total: float, coverage: float) -> float:
    """Precision of the `coverage * total` accepted chains of highest score; within equal scores chains are taken evenly."""
    order = np.argsort(-score, kind="stable")
    order = order[accepted[order] > 0]
    _, group = np.unique(-score[order], return_inverse=True)
    size = np.bincount(group, weight[order])
    hits = np.bincount(group, (weight * right)[order])
    wanted = coverage * total
    before = np.concatenate(([0.0], np.cumsum(size)[:-1]))
    taken = np.clip(wanted - before, 0, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((taken * np.where(size > 0, hits / size, 0)).sum() / taken.sum()) if taken.sum() > 0 else float("nan")


def precision_at_equal_coverage(one: dict[str, list[Chain]], other: dict[str, list[Chain]]) -> dict[str, Figure]:
    """Precision of what is accepted, at the lower of the two coverages (shares of chains that are accepted), and the ratio."""
    ids = sorted(one.keys() & other.keys())
    nothing: Figure = {"value": None, "low": None, "high": None}
    if not ids:
        return dict.fromkeys(("coverage", "one", "other", "ratio"), nothing)
    flat = []
    for chains in (one, other):
        rows = [(at, c.right, c.score, c.accepted) for at, name in enumerate(ids) for c in chains[name]]
        flat.append(tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))

    def measure(weights: Array) -> tuple[float, float, float, float]:
        parts = []
        for problem, right, score, accepted in flat:
            weight = weights[problem.astype(int)]
            parts.append((right, score, accepted, weight, float(weight.sum())))
        coverage = min(float((p[2] * p[3]).sum()) / p[4] for p in parts)
        a, b = (precision_at(*p, coverage) for p in parts)
        return coverage, a, b, _ratio(a, b)

    value = measure(np.ones(len(ids)))
    drawn = np.array([measure(weights) for weights in _draws(len(ids))])
    return {name: _figure(value[at], drawn[:, at]) for at, name in enumerate(("coverage", "one", "other", "ratio"))}


@dataclass(frozen=True, slots=True)
class Goal:
    text: str
    measured: Figure
    wanted: float
    unit: str  # x or %
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        value = self.measured["value"]
        return None if value is None else value >= self.wanted


def goals(run: Run, served: dict[str, Any]) -> list[Goal]:
    """The goals of the method that the evaluated pairs allow to judge, each with its interval."""
    stv = {name: chains_of(run, served, pair_of(run, "stv"), (name,)) for name in ("hard", "hardest")}
    untrained = {name: chains_of(run, served, pair_of(run, "base"), (name,)) for name in ("hard", "hardest")}
    found = []
    for name, wanted in (("hardest", 2.0), ("hard", 1.3)):
        if stv[name] and untrained[name]:
            both = compare(stv[name], untrained[name])
            note = _difference(both["difference"])
            found.append(
                Goal(
                    f"final pass@1 on {name}: STV loop over the untrained verifier's loop, same generator", both["ratio"], wanted, "x", note
                )
            )
    hard = ("hard", "hardest")
    one, other = chains_of(run, served, pair_of(run, "stv"), hard), chains_of(run, served, pair_of(run, "base"), hard)
    if one and other:
        at = precision_at_equal_coverage(one, other)
        note = f"at coverage {_percent(at['coverage'])}: {_percent(at['one'])} against {_percent(at['other'])}"
        found.append(
            Goal("precision of accepted answers on hard and hardest at equal coverage: STV over untrained", at["ratio"], 3.0, "x", note)
        )
    if (report := report_of(run, served, pair_of(run, "stv"), "attempts")) and report["overall"]["first_error"]:
        located = report["overall"]["first_error"]["located_when_wrong"]
        found.append(Goal("first wrong step found in wrong attempts (STV)", located, 0.8, "%"))
    vil, rlvr, longer = (chains_of(run, served, Pair(name, "stv").name, ("hard",)) for name in ("vil", "rlvr", "rlvr-longer"))
    if vil and rlvr:
        both = compare(vil, rlvr, first=True)
        note = _difference(both["difference"])
        if longer:
            # Whatever is trained on from a generator errs elsewhere than it does, so only a control shows what the verifier brought.
            instead = compare(longer, rlvr, first=True)["ratio"]["value"]
            note += "; RLVR continued instead " + ("-" if instead is None else f"{instead:.2f}x")
        text = "pass@1 without a verifier on hard: ViL over the converged RLVR generator"
        found.append(Goal(text, both["ratio"], 1.3, "x", note))
    return found


def rivals(run: Run, served: dict[str, Any]) -> list[dict[str, Any]]:
    """The STV loop against every baseline on each hard bin: difference of the final pass@1, paired by problem."""
    rows: list[dict[str, Any]] = []
    for name in ("hard", "hardest"):
        stv = chains_of(run, served, pair_of(run, "stv"), (name,))
        if not stv:
            continue
        for label, verifier in VERIFIERS:
            if verifier != "stv" and (other := chains_of(run, served, pair_of(run, verifier), (name,))):
                rows.append({"bin": name, "rival": label, "gain": compare(stv, other)["difference"]})
        report = report_of(run, served, pair_of(run, "stv"))
        equal = report["bins"].get(name, {}).get("equal_tokens") if report else None
        for label, key in (("best of n at equal tokens", "best_of_n"), ("resampling at equal tokens", "resample")):
            if equal:
                n = f" (n {equal[key]['n']}{', limited by chains' if equal[key]['limited_by_samples'] else ''})"
                rows.append({"bin": name, "rival": label + n, "gain": equal[key]["loop_gain"]})
        rows += _told_apart(run, name)
        larger = served.get("larger")
        if larger and name in larger["bins"]:
            shares = larger["bins"][name]["by_problem"]
            gains = np.array([np.mean([c.right for c in chains]) - shares[problem] for problem, chains in stv.items()])
            gain = _figure(float(gains.mean()), _draws(len(gains)) @ gains / len(gains))
            rows.append(
                {"bin": name, "rival": f"larger generator, {larger['parameters'] / 1e6:.1f}M parameters, no verifier", "gain": gain}
            )
    return rows


def _told_apart(run: Run, name: str) -> list[dict[str, Any]]:
    """The rivals that run in PyTorch only, against the STV loop run the same way on the same problems."""
    loops = {loop["name"]: loop["by_problem"] for loop in load_loops(run.folder / "evaluation" / "loops.json").get(name, [])}
    rows = []
    for label, values in loops.items():
        if "STV" in loops and (label.startswith("verdict alone") or label == "resampling") and values:
            gains = np.array(loops["STV"]) - np.array(values)
            gain = _figure(float(gains.mean()), _draws(len(gains)) @ gains / len(gains))
            rows.append({"bin": name, "rival": f"{label} (both in PyTorch)", "gain": gain})
    return rows


def _percent(figure: Figure) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.1%}"


def _difference(figure: Figure) -> str:
    if figure["value"] is None or figure["low"] is None or figure["high"] is None:
        return ""
    return f"difference {100 * figure['value']:+.1f} points ({100 * figure['low']:+.1f} to {100 * figure['high']:+.1f})"
