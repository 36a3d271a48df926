"""`REPORT.md` of a run: what was run, on what, for how long, and every figure with its interval. Written from the run's files."""

from __future__ import annotations

import json
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .files import read_json, read_jsonl, write_atomically
from .plots import plot_run
from .report_served import gates_table, loop_section, rates_section, served_sections, table
from .run import Run


def write_report(run: Run) -> Path:
    """Sections for whatever the run has done; nothing is claimed that no file of the run holds."""
    probe = "In-training figures: they steer, they prove nothing."
    control = (
        "The same test problems and bins, the same weights in floating point, not the served graph: controls that are told the truth "
        "cannot be asked of a server. Their rivals are run the same way beside them."
    )
    parts = [_head(run), _commands(run), _times(run), _gates(run), *served_sections(run)]
    parts += [loop_section(run, "loops", "Controls in PyTorch, test problems", control), rates_section(run), _verifiers(run)]
    parts += [loop_section(run, "probe", "Loops, in-training probe (PyTorch, validation problems)", probe), _plots(run)]
    path = run.folder / "REPORT.md"
    write_atomically(path, lambda file: file.write_text("\n".join(part for part in parts if part)))
    return path


def _head(run: Run) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "tokenizers", "safetensors"))
    device = torch.cuda.get_device_name() if run.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    device += f", {run.precision}".replace("torch.", "")
    settings = {section: values for section, values in run.config.as_dict().items() if section != "report"}
    title = run.config.report.title or f"Report of the run `{run.folder.name}`"
    foreword = f"{run.config.report.foreword.strip()}\n\n" if run.config.report.foreword.strip() else ""
    return f"""# {title}

{foreword}stv-train {__version__}, seed {run.config.run.seed}, Python {platform.python_version()}, {packages}; {device}.

```json
{plain_paths(json.dumps(settings, indent=1))}
```
"""


def plain_paths(text: str) -> str:
    """Absolute paths without their folders: where a run lay on someone's disk says nothing to a reader."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/)+", "", text)


def _commands(run: Run) -> str:
    """What was typed, in order, and how long it took."""
    path = run.folder / "commands.jsonl"
    if not path.exists():
        return ""
    rows = []
    for one in read_jsonl(path):
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one["started"]))
        rows.append([started, f"`{plain_paths(one['command'])}`", f"{one['seconds']:,.0f}", one["ended"]])
    return "## Commands\n\n" + table(["Started (UTC)", "Command", "Seconds", "Ended"], rows)


def _facts(run: Run) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_json(path) for path in sorted(run.folder.glob("*/facts.json"))}


def _times(run: Run) -> str:
    rows = []
    for name, facts in _facts(run).items():
        seen = ", ".join(f"{facts[key]:,} {key}" for key in ("tokens", "samples", "steps") if key in facts)
        rows.append([name, seen, f"{facts['seconds']:,.0f}" if "seconds" in facts else "-"])
    return "## Models\n\n" + table(["Model", "Seen", "Seconds"], rows) if rows else ""


def _gates(run: Run) -> str:
    gates = gates_table(run)
    return "## Gates\n\n" + gates if gates else ""


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
    return text + table(["Verifier", *names], rows) + tail


def _plots(run: Run) -> str:
    written = plot_run(run)
    return "## Plots\n\n" + "\n".join(f"![{path.stem}](plots/{path.name})" for path in written) + "\n" if written else ""
