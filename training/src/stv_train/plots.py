"""Plots of a run from its metrics: loss, probes by level, verifier figures by samples, loops by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import load_served, report_of
from .files import read_jsonl
from .run import Run
from .stages.loops import load_loops


def plot_run(run: Run) -> list[Path]:
    """Writes `plots/*.png` for whatever the run has measured so far."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = run.folder / "metrics.jsonl"
    if not path.exists():
        return []
    by_stage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_jsonl(path):
        by_stage[row["stage"]].append(row)
    folder = run.folder / "plots"
    folder.mkdir(exist_ok=True)
    written: list[Path] = []

    def draw(name: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> None:
        if not lines:
            return
        figure, axes = pyplot.subplots(figsize=(8, 5))
        for label, (xs, ys) in lines.items():
            axes.plot(xs, ys, label=label, marker="." if len(xs) < 40 else None)
        axes.set(xlabel=x, ylabel=y, title=name)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=7, ncols=2)
        figure.tight_layout()
        target = folder / f"{name}.png"
        figure.savefig(target, dpi=110)
        pyplot.close(figure)
        written.append(target)

    for stage in ("trunk", "base", "generator"):
        if rows := by_stage.get(stage):
            draw(f"{stage}-loss", {"loss": ([r["tokens"] for r in rows], [r["loss"] for r in rows])}, "tokens", "loss")
    for stage, rows in by_stage.items():
        if not stage.endswith("-probe"):
            continue
        x = "tokens" if "tokens" in rows[0] else "samples" if "samples" in rows[0] else "step"
        names = [key for key in rows[-1] if key not in ("time", "stage", "tokens", "samples", "step")]
        draw(
            stage,
            {name: ([r[x] for r in rows if name in r], [r[name] for r in rows if name in r]) for name in names},
            x,
            "share",
        )
    for source in ("probe", "loops"):
        for name, loops in load_loops(run.folder / "evaluation" / f"{source}.json").items():
            for figure in ("pass_at_1", "accept_rate"):
                by_round = {str(loop["name"]): (range(len(loop[figure])), loop[figure]) for loop in loops}
                draw(f"{source}-{name}-{figure}", by_round, "round", figure)
    for name, lines in _served_lines(run).items():
        draw(f"served-{name}", lines, "coverage" if name.endswith("precision") else "round", name.split("-", 1)[1])
    return written


def _served_lines(run: Run) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """By plot: pass@1 and accept rate by round, and precision by coverage, of every evaluated pair."""
    served = load_served(run)
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = defaultdict(dict)
    for pair in served.get("pairs", {}):
        report = report_of(run, served, pair)
        for name in ("hardest", "hard") if report else ():
            one = report["bins"].get(name) if report else None
            if not one:
                continue
            rounds = [float(row["round"]) for row in one["rounds"]]
            for figure in ("pass_at_1", "accept_rate"):
                found[f"{name}-{figure}"][pair] = (rounds, [row[figure]["value"] or 0.0 for row in one["rounds"]])
            points = one["precision_coverage"]
            found[f"{name}-precision"][pair] = ([p["coverage"] for p in points], [p["precision"] for p in points])
    return found
