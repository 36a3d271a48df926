"""The model card of a pack: data, recipe, limits, licence, numbers, command. Only what the run's files hold."""

from __future__ import annotations

import platform
from typing import Any

import torch

from . import __version__
from .config import RANDOM, TRUNK
from .figures import load_served, report_of
from .report_served import gates_table, goals_section, share, table, verdict_rows
from .run import Run
from .stages.base import Course


def card(run: Run, generator: str, verifier: str) -> str:
    """Numbers are those of the served pack once `stv-train evaluate` has run on these very models."""
    made_verifier = run.facts(verifier)
    stages = [name for name in dict.fromkeys(("trunk", "base", "generator", verifier, "rlvr", generator)) if run.has_model(name)]
    device = torch.cuda.get_device_name() if run.device.type == "cuda" else f"CPU ({platform.machine()})"
    tasks = ", ".join(f"{name} ({weight:g})" for name, weight in run.config.data.tasks.items() if weight > 0)
    seconds = {name: run.facts(name).get("seconds") for name in stages}
    spent = ", ".join(f"{name} {value:,.0f}" for name, value in seconds.items() if value)
    gates = gates_table(run)
    text = f"""# stv-mini

A generator and a verifier for school mathematics with worked steps, trained from nothing.

- **Tasks (weights):** {tasks}. Problems are generated; those whose hash falls into the validation or test split are never
  trained on.
- **Models:** generator `{generator}`, verifier `{verifier}`; {run.load_model(generator).num_parameters():,} parameters each, llama
  shape; the files are Hugging Face checkpoints and load with `transformers`.
- **Recipe:** {_recipe(run, generator, verifier)}
- **Seconds spent:** {spent or "not recorded"}, on {device}{_without_adopted(run, stages)}.
- **Limits:** knows no other problems than these; verdicts on anything else are meant to be `undetermined`. Numbers far above 999 are
  beyond it.
- **Licence:** Apache-2.0.
- **Made by:** {_commands(run, stages)}`stv-train all --config CONFIG` of stv-train {__version__}, seed {run.config.run.seed}.
"""
    served = load_served(run)
    evidence = _served(run, served, f"{generator}+{verifier}")
    if evidence:
        everyday = served.get("everyday", "")
        return text + evidence + (f"\n## As people meet it\n\n{everyday}" if everyday else "")
    probe = [[name, f"{value:.1%}"] for name, value in made_verifier.get("probe", {}).items()]
    text += "\nThis pack has not been evaluated as it is served; what follows steered the training and is no evidence.\n"
    if gates:
        text += "\n## Gates (validation problems, attempts at temperature 1)\n\n" + gates
    if probe:
        text += "\n## In-training probe of the verifier (validation problems, temperature 1)\n\n" + table(["Figure", "Value"], probe)
    return text


def _adopted(run: Run, stages: list[str]) -> dict[str, str]:
    """Models that the run took in as they were -> where from."""
    found = {name: run.facts(name).get("adopted") for name in stages}
    return {name: str(folder) for name, folder in found.items() if folder}


def _without_adopted(run: Run, stages: list[str]) -> str:
    names = ", ".join(_adopted(run, stages))
    return f", without what had made {names}" if names else ""


def _commands(run: Run, stages: list[str]) -> str:
    return "".join(f"`stv-train adopt {folder} --name {name}`, then " for name, folder in _adopted(run, stages).items())


def _recipe(run: Run, generator: str, verifier: str) -> str:
    """Which trainings the two models went through."""

    def documents(name: str) -> str:
        if folder := run.facts(name).get("adopted"):
            return f"taken in from `{folder}`"
        origin, tokens = Course(run, name).origin, run.facts(name).get("tokens", 0)
        said = {RANDOM: "random weights", "base": "the base", TRUNK: "the trunk"}.get(origin, f"`{origin}`")
        return f"{tokens:,} tokens from {said}" if tokens else f"{said} as it is"

    text = "base training on documents (solutions, refinements, reviews, explanations, single operations), "
    text += f"the trunk of both models {documents('trunk')}, the base " if run.has_model("trunk") else ""
    text += f"{documents('base')}; "
    if verifier.startswith("stv"):
        text += "the verifier goes on from there by self-trained verification (on-policy distillation from the same model that is "
        text += "shown the verdict and the reference's line, and verdict RL)"
    else:
        text += "the verifier is the base" if verifier == "base" else f"the verifier is `{verifier}`"
    if run.has_model("generator"):
        text += f"; the generator by documents of its own (problems, refinements, single operations), {documents('generator')}"
    if generator in ("rlvr", "vil"):
        text += "; the generator then by GRPO on attempts"
    if generator == "vil":
        text += " and on refinements with that verifier frozen"
    return text + "."


def _served(run: Run, served: dict[str, Any], pack: str) -> str:
    """Figures of `stv eval` on the served int8 graphs; empty when the evaluated pack was another."""
    if served.get("pack") != pack or not (report := report_of(run, served, pack)):
        return ""
    rows = []
    for name in ("easy", "hard", "hardest"):
        if one := report["bins"].get(name):
            first, last = one["rounds"][0], one["rounds"][-1]
            cells = [share(first["pass_at_1"]), share(last["pass_at_1"]), share(last["accept_rate"]), share(last["precision"])]
            rows.append([name, str(one["problems"]), *cells])
    settings = report["settings"]
    text = (
        "\n## Numbers of the served pack\n\n"
        f"`stv eval` on the int8 graphs, test problems, {settings['chains']} chains, up to {settings['max_rounds']} refinements, 95 % "
        f"intervals over problems. Bins by the right answers of `{run.config.evaluate.generator}`: Hardest 0 right of 32, Hard below "
        "0.2.\n\n"
    )
    text += table(["Bin", "problems", "pass@1 without verifier", "after the loop", "accepted", "precision of accepted"], rows)
    if attempts := report_of(run, served, pack, "attempts"):
        count = attempts["overall"]["problems"]
        text += f"\nVerification of {count} attempts, half of them right:\n\n" + table(["Figure", "Value"], verdict_rows([attempts]))
    if outside := report_of(run, served, pack, "outside"):
        text += f"\nProblems outside the domain: `undetermined` in {share(outside['overall']['verdicts']['undetermined_when_wrong'])}.\n"
    return text + "\n" + goals_section(run, served).replace("### ", "## ")
