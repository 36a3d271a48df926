"""`REPORT.md` of a run: what was run, on what, for how long, and every figure with its interval. Written from the run's files."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .plots import plot_run
from .run import Run, read_jsonl
from .stages.loops import load_loops


def write_report(run: Run) -> Path:
    """Sections for whatever the run has done; nothing is claimed that no file of the run holds."""
    parts = [_head(run), _times(run), _gates(run), _verifiers(run), _loops(run), _plots(run)]
    path = run.folder / "REPORT.md"
    path.write_text("\n".join(part for part in parts if part))
    return path


def _head(run: Run) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "tokenizers", "safetensors"))
    device = torch.cuda.get_device_name() if run.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"""# Report of the run `{run.folder.name}`

stv-train {__version__}, seed {run.config.run.seed}, Python {platform.python_version()}, {packages}; {device}.

```json
{json.dumps(run.config.as_dict(), indent=1)}
```
"""


def _facts(run: Run) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(run.folder.glob("*/facts.json"))}


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]) + "\n"


def _times(run: Run) -> str:
    rows = []
    for name, facts in _facts(run).items():
        seen = ", ".join(f"{facts[key]:,} {key}" for key in ("tokens", "samples", "steps") if key in facts)
        rows.append([name, seen, f"{facts['seconds']:,.0f}" if "seconds" in facts else "-"])
    return "## Models\n\n" + _table(["Model", "Seen", "Seconds"], rows) if rows else ""


def _gates(run: Run) -> str:
    gates = _facts(run).get("base", {}).get("gates")
    if not gates:
        return ""
    return "## Gates of the base model\n\n" + _table(["Figure", "Value"], [[name, f"{value:.4g}"] for name, value in gates.items()])


def _verifiers(run: Run) -> str:
    found = {name: facts["probe"] for name, facts in _facts(run).items() if facts.get("probe")}
    if not found:
        return ""
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{probe[key]:.1%}" for key in names)] for name, probe in found.items()]
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    untrained = next((row for row in metrics if row["stage"] == "stv-probe" and row.get("step") == 0), None)
    if untrained:
        rows.insert(0, ["untrained", *(f"{untrained[key]:.1%}" for key in names)])
    text = "## Verifiers, in-training probe\n\nValidation problems, attempts and reviews at temperature 1.\n\n"
    calibration = next((row for row in reversed(metrics) if row["stage"] == "calibration"), None)
    tail = ""
    if calibration:
        before, after = calibration["ece_before"], calibration["ece_after"]
        tail = f"\nCalibration: temperature {calibration['temperature']}, ECE {before:.3f} before and {after:.3f} after.\n"
    return text + _table(["Verifier", *names], rows) + tail


def _loops(run: Run) -> str:
    text = ""
    for name, loops in load_loops(run.folder / "evaluation" / "probe.json").items():
        rows = []
        for loop in loops:
            interval: Any = loop.get("interval") or [0.0, 0.0]
            shares: Any = loop["pass_at_1"]
            accepted: Any = loop["accept_rate"]
            precision: Any = loop["precision"]
            rows.append(
                [
                    str(loop["name"]),
                    f"{shares[0]:.1%}",
                    f"{shares[-1]:.1%} ({interval[0]:.1%} to {interval[1]:.1%})",
                    f"{accepted[-1]:.1%}",
                    f"{precision[-1]:.1%}",
                    f"{accepted[-1] - shares[-1]:+.1%}",
                ]
            )
        head = ["Loop", "pass@1, round 0", "final (95 % over problems)", "accept rate", "precision", "inflation gap"]
        text += f"\n### {name}\n\n" + _table(head, rows)
    return "## Loops, in-training probe (PyTorch, validation problems)\n" + text if text else ""


def _plots(run: Run) -> str:
    written = plot_run(run)
    return "## Plots\n\n" + "\n".join(f"![{path.stem}](plots/{path.name})" for path in written) + "\n" if written else ""
