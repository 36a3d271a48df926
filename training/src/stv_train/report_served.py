"""The part of `REPORT.md` that is evidence: tables of the served evaluations, goals, rivals, controls."""

from __future__ import annotations

from typing import Any

from .figures import Figure, goals, load_served, pair_of, report_of, rivals
from .files import read_jsonl
from .gates import known_gates
from .run import Run
from .stages.loops import load_loops


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]) + "\n"


def gates_table(run: Run) -> str:
    """A column for each model whose gates were measured; empty where none were."""
    found = known_gates(run)
    if not found:
        return ""
    rows = [[name, *(f"{figures[name]:.4g}" for figures in found.values())] for name in next(iter(found.values()))]
    return table(["Figure", *found], rows)


def share(figure: Figure | None, points: bool = False) -> str:
    """`12.3 % (10.1 to 14.5)`."""
    if not figure or figure["value"] is None:
        return "-"
    sign = "+" if points else ""
    text = f"{100 * figure['value']:{sign}.1f} %"
    if figure["low"] is None or figure["high"] is None:
        return text
    return f"{text} ({100 * figure['low']:{sign}.1f} to {100 * figure['high']:{sign}.1f})"


def times(figure: Figure) -> str:
    """`2.1x (1.6 to 2.9)`; where some draws are ratios to nothing, `2.1x (1.6 to inf)`."""
    if figure["value"] is None:
        return "-"
    low, high = ("inf" if end is None else f"{end:.2f}" for end in (figure["low"], figure["high"]))
    return f"{figure['value']:.2f}x ({low} to {high})"


def number(figure: Figure | None) -> str:
    return "-" if not figure or figure["value"] is None else f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def verdict_rows(reports: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of a table of verifications: the figure, then its value in each report of `stv eval`."""

    def values(one: dict[str, Any]) -> list[str]:
        return [
            share(one["verdicts"]["accept_when_right"]),
            share(one["verdicts"]["reject_when_wrong"]),
            share((one["first_error"] or {}).get("located_when_wrong")),
            number((one["calibration"] or {}).get("served", {}).get("ece")),
            share(one["answer_leaks"]),
        ]

    labels = [
        "right attempts accepted",
        "wrong attempts rejected",
        "first wrong step found in wrong attempts",
        "calibration error (ECE) of the score",
        "feedback that gives the answer away",
    ]
    columns = [values(report["overall"]) for report in reports]
    return [list(row) for row in zip(labels, *columns, strict=True)]


def served_sections(run: Run) -> list[str]:
    served = load_served(run)
    if not served:
        return []
    settings = run.config.evaluate
    head = (
        "## Evaluation of what is served\n\n"
        f"Packs of this run behind the server (stv {served['server']}), int8 graphs, through `stv eval`: test problems that nothing was "
        f"trained or tuned on, {_asked(run, served)}generator at temperature "
        f"{run.config.export.temperature:g}, verifier at {run.config.export.verifier_temperature:g}. Bins by the right "
        f"answers of `{settings.generator}` in 32 samples (PyTorch): Hardest 0, Hard below 0.2; the evaluated attempts are other "
        "samples. Right is what states the right final answer. Intervals: 95 %, bootstrap over "
        f"problems. A pair is generator+verifier; the pack is `{served['pack']}`; `base` as verifier is the untrained one. "
        f"All of it took {served['seconds']:,.0f} s.\n"
    )
    sections = (goals_section, _pairs, _rounds, _verification, _rivals, _coverage, _second, _other_sets)
    return [head, *(section(run, served) for section in sections)]


def _asked(run: Run, served: dict[str, Any]) -> str:
    """What the reports themselves say: the configuration may be another by now."""
    settings = [report["settings"] for pair in served["pairs"] if (report := report_of(run, served, pair))]
    said = dict.fromkeys(f"{one['chains']} chains, up to {one['max_rounds']} refinements" for one in settings)
    return "".join(f"{text}, " for text in said)


def goals_section(run: Run, served: dict[str, Any]) -> str:
    rows = []
    for goal in goals(run, served):
        measured = times(goal.measured) if goal.unit == "x" else share(goal.measured)
        wanted = f"{goal.wanted:g}x" if goal.unit == "x" else f"{goal.wanted:.0%}"
        if goal.is_met is None:
            met = "cannot be said (the base of the ratio is 0)"
        elif goal.is_met:
            met = "met"
        else:
            short = goal.wanted - (goal.measured["value"] or 0.0)
            met = f"missed by {short:.2f}x" if goal.unit == "x" else f"missed by {100 * short:.1f} points"
        rows.append([goal.text, wanted, measured, met, goal.note])
    leaks = _leaks(run, served)
    if leaks is not None:
        rows.append(["feedback that gives the answer away (pack)", "0 %", share(leaks), "met" if leaks["value"] == 0 else "missed", ""])
    return "### Goals\n\n" + table(["Goal", "At least", "Measured", "", "Detail"], rows) if rows else ""


def _leaks(run: Run, served: dict[str, Any]) -> Figure | None:
    report = report_of(run, served, served["pack"])
    found: Figure | None = report["overall"]["answer_leaks"] if report else None
    return found


def _pairs(run: Run, served: dict[str, Any]) -> str:
    text = ""
    for name in ("hardest", "hard", "easy"):
        rows = []
        for pair in served["pairs"]:
            report = report_of(run, served, pair)
            if not report or name not in report["bins"]:
                continue
            found = report["bins"][name]
            first, last = found["rounds"][0], found["rounds"][-1]
            solved = found["tokens"]["per_solved_chain"]
            row = [f"`{pair}`", share(first["pass_at_1"]), share(last["pass_at_1"]), share(last["accept_rate"]), share(last["precision"])]
            row += [share(last["inflation_gap"], True), share(found["flips"]["wrong_to_right"]), share(found["flips"]["right_to_wrong"])]
            rows.append([*row, "-" if solved is None else f"{solved:,.0f}"])
            count = found["problems"]
        if rows:
            head = ["Pair", "pass@1, round 0", "final", "accepted", "precision", "inflation gap", "wrong to right", "right to wrong"]
            text += f"#### {name.capitalize()}, {count} problems\n\n" + table([*head, "tokens per solved chain"], rows) + "\n"
    return "### Loops by pair\n\n" + text if text else ""


def _rounds(run: Run, served: dict[str, Any]) -> str:
    text = ""
    for name in ("hardest", "hard"):
        rows = []
        for pair in served["pairs"]:
            report = report_of(run, served, pair)
            if report and name in report["bins"]:
                rounds = report["bins"][name]["rounds"]
                for label, key in (("pass@1", "pass_at_1"), ("accepted", "accept_rate")):
                    rows.append([f"`{pair}`", label, *(f"{100 * (one[key]['value'] or 0):.1f}" for one in rounds)])
        if rows:
            head = ["Pair", "%", *(f"round {at}" for at in range(len(rows[0]) - 2))]
            text += f"#### {name.capitalize()}\n\n" + table(head, rows) + "\n"
    return "### By round\n\n" + text if text else ""


def _verification(run: Run, served: dict[str, Any]) -> str:
    rows = []
    for pair, found in served["pairs"].items():
        report = report_of(run, served, pair, "attempts")
        if not report:
            continue
        one = report["overall"]
        calibration = one["calibration"] or {}
        ece = [number(calibration.get(name, {}).get("ece")) for name in ("raw", "served", "fitted")]
        located = one["first_error"]["located_when_wrong"] if one["first_error"] else None
        verdicts = one["verdicts"]
        row = [f"`{found['verifier']}`", share(verdicts["accept_when_right"]), share(verdicts["reject_when_wrong"])]
        rows.append([*row, share(verdicts["balanced_accuracy"]), share(located), *ece, share(one["answer_leaks"])])
        count = one["problems"]
    if not rows:
        return ""
    head = ["Verifier", "right accepted", "wrong rejected", "balanced", "first wrong step found", "ECE raw", "served", "fitted", "leaks"]
    text = f"Attempts of `{run.config.evaluate.generator}` at {count} test problems, half of them right (all steps), "
    text += "one verification each. ECE `served`: with the pack's calibration, fitted on validation attempts; `fitted`: temperature from "
    text += "the other half of these.\n\n"
    rows = list({row[0]: row for row in reversed(rows)}.values())[::-1]
    return "### Verification\n\n" + text + table(head, rows)


def _rivals(run: Run, served: dict[str, Any]) -> str:
    rows = [[row["bin"], row["rival"], share(row["gain"], True)] for row in rivals(run, served)]
    text = f"Final pass@1 of the STV loop (`{pair_of(run, 'stv')}`) less that of the rival, in points, paired by problem.\n\n"
    return "### STV against the baselines\n\n" + text + table(["Bin", "Rival", "STV gains"], rows) if rows else ""


def _coverage(run: Run, served: dict[str, Any]) -> str:
    rows = []
    for pair in served["pairs"]:
        report = report_of(run, served, pair)
        if not report:
            continue
        for name in ("hardest", "hard"):
            points = report["bins"].get(name, {}).get("precision_coverage", [])
            cells = []
            for wanted in (0.05, 0.1, 0.2, 0.4, 0.8):
                reached = [point for point in points if point["coverage"] >= wanted]
                cells.append(f"{100 * reached[0]['precision']:.1f}" if reached else "-")
            rows.append([f"`{pair}`", name, *cells])
    head = ["Pair", "Bin", *(f"{wanted} %" for wanted in (5, 10, 20, 40, 80))]
    text = "Precision (%) of the accepted chains of highest score, at the coverage of the column; - where fewer are accepted.\n\n"
    return "### Precision and coverage\n\n" + text + table(head, rows) if rows else ""


def _second(run: Run, served: dict[str, Any]) -> str:
    rows = []
    for pair, found in served["pairs"].items():
        for job, one in found["sets"].items():
            report = report_of(run, served, pair, job)
            if one["set"] != "loop" or not report or len([j for j in found["sets"] if found["sets"][j]["set"] == "loop"]) < 2:
                continue
            for name in ("hardest", "hard"):
                if name in report["bins"]:
                    last = report["bins"][name]["rounds"][-1]
                    first = report["bins"][name]["rounds"][0]["pass_at_1"]
                    cells = [share(first), share(last["pass_at_1"]), share(last["accept_rate"]), share(last["precision"])]
                    rows.append([f"`{pair}`", name, str(one["seed"]), *cells])
    text = "Sampling seeds. Models trained with another seed are pairs of their own (`stv-seedN`) in the tables above.\n\n"
    head = ["Pair", "Bin", "Seed", "pass@1, round 0", "final", "accepted", "precision"]
    return "### Second seed\n\n" + text + table(head, rows) if rows else ""


def _other_sets(run: Run, served: dict[str, Any]) -> str:
    pack = served["pack"]
    text = ""
    if report := report_of(run, served, pack, "outside"):
        one = report["overall"]["verdicts"]["undetermined_when_wrong"]
        text += f"Problems outside the domain with something handed in ({report['overall']['problems']}): `undetermined` in {share(one)}.\n"
    if report := report_of(run, served, pack, "gym"):
        rows = []
        for name, found in report["groups"].items():
            first = found["rounds"][0]
            verdicts = found["verdicts"]
            cells = [
                str(found["problems"]),
                share(first["pass_at_1"]),
                share(verdicts["accept_when_right"]),
                share(verdicts["reject_when_wrong"]),
            ]
            rows.append([name, *cells])
        head = ["Data set", "problems", "pass@1", "right accepted", "wrong rejected"]
        text += "\nreasoning-gym: problems nobody here wrote, those that the pack can read, one attempt each.\n\n" + table(head, rows)
    return "### Other problems\n\n" + text if text else ""


def loop_section(run: Run, name: str, title: str, text: str) -> str:
    """Loops in PyTorch from `evaluation/NAME.json`."""
    out = ""
    for place, loops in load_loops(run.folder / "evaluation" / f"{name}.json").items():
        rows = []
        for loop in loops:
            shares, accepted, precision = loop["pass_at_1"], loop["accept_rate"], loop["precision"]
            low, high = loop.get("interval") or [0.0, 0.0]
            row = [str(loop["name"]), f"{shares[0]:.1%}", f"{shares[-1]:.1%} ({low:.1%} to {high:.1%})", f"{accepted[-1]:.1%}"]
            rows.append([*row, f"{precision[-1]:.1%}", f"{accepted[-1] - shares[-1]:+.1%}", f"{loop.get('tokens', [0])[-1]:,.0f}"])
        head = ["Loop", "pass@1, round 0", "final (95 %)", "accepted", "precision", "inflation gap", "tokens"]
        out += f"\n### {place.capitalize()}\n\n" + table(head, rows)
    return f"## {title}\n\n{text}\n" + out if out else ""


def rates_section(run: Run) -> str:
    """Tokens per second of rollouts, by sampler."""
    rows = [
        [
            "server" if row["server"] else "PyTorch",
            *(f"{value:,.0f}" for value in (row.get("drawn", row["attempts"]), row["tokens"], row["tokens"] / row["seconds"])),
        ]
        for row in read_jsonl(run.folder / "metrics.jsonl")
        if row["stage"] == "rollout" and row.get("tokens") and row.get("seconds")
    ]
    return "## Sampling\n\n" + table(["Sampler", "Attempts", "Tokens", "Tokens/s"], rows) if rows else ""
