"""`stv-train`: one command, one subcommand per stage."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
from pathlib import Path

from .calibrate import calibrate
from .card import card
from .config import load_config
from .errors import TrainError
from .exchange import export_rows
from .export import export_pack, exported_folder, load_export, write_checkpoint
from .files import append_json, write_json
from .gates import require_gates
from .report import write_report
from .run import Interrupted, Run, exit_code
from .server import server_command, swap_models
from .stages.adopt import adopt
from .stages.base import train_base, train_generator
from .stages.data import from_traces, write_problems
from .stages.evaluate import evaluate_served
from .stages.everyday import compare_packs
from .stages.loops import probe_loops
from .stages.rollout import attempt_files, rollout
from .stages.served import evaluation_folder
from .stages.together import train_pair
from .stages.verifier import train_verifier
from .stages.vil import CONTROLS, train_rlvr, train_vil

GENERATORS = ("vil", "rlvr", "generator")  # the newest a run may have


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stv-train", description="Trains the generator and the verifier of an STV pack.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="a TOML file")
        command.add_argument("--out", metavar="FOLDER", help="the run's folder, instead of run.out of the configuration")
        command.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="overrides one field")
        return command

    data = add("data", "write the problem sets, or take in the traces of a server")
    data.add_argument("action", nargs="?", choices=["problems", "from-traces", "export"], default="problems")
    data.add_argument("--traces", metavar="FILE_OR_URL", help="a JSONL file of traces, or the address of a running server")
    data.add_argument("--key", default="", help="the server's key, where it needs one")
    data.add_argument("--attempts", type=Path, metavar="FILE", help="export: graded attempts; default: the run's own")
    data.add_argument("--pack", type=Path, metavar="FOLDER", default=Path("packs/default-prompts"), help="export: whose prompts")
    data.add_argument("--format", choices=["trl", "verl"], default="trl")
    data.add_argument("--to", type=Path, metavar="FOLDER", help="export: default `exchange` below the run")
    add("base", "train the base model and measure its gates")
    add("generator", "go on from the base with documents for the generator alone, where generator.tokens asks for it")
    adopted = add("adopt", "take a checkpoint of another run or pack in as a model of this one")
    adopted.add_argument("checkpoint", type=Path, metavar="FOLDER", help="in Hugging Face's layout, of the run's shape")
    adopted.add_argument("--name", required=True, metavar="NAME", help="under which the run's other stages find it")
    rolled = add("rollout", "draw the generator's own attempts")
    rolled.add_argument("--server", default="", metavar="URL", help="sample from a running server instead of PyTorch")
    rolled.add_argument("--generator", default="", metavar="NAME", help="a model of the run; default: what RL begins with")
    rolled.add_argument("--key", default="", help="the server's key, where it needs one")
    rolled.add_argument("--name", default="train", help="of the file of attempts")
    add("sft", "baseline: train the verifier on the teacher's texts")
    verdict = add("verdict-rl", "baseline: train the verifier by verdict RL alone")
    verdict.add_argument("--meta", action="store_true", help="weigh rejections by a meta-verifier")
    stv = add("stv", "train the verifier by self-trained verification")
    vil = add("vil", "train the generator with the verifier in the loop")
    vil.add_argument("--control", choices=CONTROLS, default="vil")
    vil.add_argument("--rlvr-only", action="store_true", help="end after RLVR")
    vil.add_argument("--verifier", default="stv", metavar="NAME")
    for command in (stv, vil):
        command.add_argument("--seed", type=int, metavar="N", help="another seed than the run's; the model is kept as NAME-seedN")
    evaluate = add("evaluate", "evaluate the exported pack through the server")
    evaluate.add_argument("--probe", action="store_true", help="a small probe of the loop in PyTorch instead; no evidence")
    evaluate.add_argument("--pack", type=Path, metavar="FOLDER")
    compared = add("compare", "measure packs, whoever made them, as people meet them: problems of all levels, students' attempts")
    compared.add_argument("packs", nargs="+", type=Path, metavar="PACK", help="a pack's folder")
    compared.add_argument("--split", default="validation", help="validation (the default: to choose) or test (to report)")
    export = add("export", "write the pack, or one model as a checkpoint")
    export.add_argument(
        "--model", default="", metavar="NAME", help="this model of the run alone, as a checkpoint in Hugging Face's layout at --to"
    )
    export.add_argument("--generator", default="", metavar="NAME", help="a model of the run; default: the last one trained")
    export.add_argument("--verifier", default="", metavar="NAME")
    export.add_argument("--to", type=Path, metavar="FOLDER")
    export.add_argument(
        "--swap", default="", metavar="URL", help="then exchange the models of this running server; --to lies in its model folder"
    )
    export.add_argument("--key", default="", help="the server's key, where it needs one")
    real = add("hf", "STV and ViL with LoRA on a Hugging Face causal model, merged into a pack")
    real.add_argument("--to", type=Path, metavar="FOLDER")
    whole = add("all", "every stage, from nothing to the pack")
    whole.add_argument("--baselines", action="store_true", help="the baselines as well")
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, str]:
    overrides = {}
    for item in arguments.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise TrainError(f"--set takes section.field=value, not {item!r}.")
        overrides[name] = value
    if arguments.out:
        overrides["run.out"] = arguments.out
    return overrides


def _gated_models(run: Run) -> None:
    train_pair(run)
    require_gates(run)


def _evaluate(run: Run, pack: Path | None) -> None:
    folder = pack or exported_folder(run)
    served = evaluate_served(run, folder)
    exported = load_export(run, folder)
    write_json(evaluation_folder(run) / "served.json", served | {"everyday": compare_packs(run, [folder], "test")})
    (folder / "README.md").write_text(card(run, exported["generator"], exported["verifier"]))


def _export_rows(run: Run, arguments: argparse.Namespace) -> None:
    target = arguments.to or run.folder / "exchange"
    attempts = [arguments.attempts] if arguments.attempts else attempt_files(run)
    written = export_rows(attempts, arguments.pack, target, arguments.format, "stv", run.config.run.seed)
    run.say(f"data: {target}: " + "  ".join(f"{name} {count:,}" for name, count in written.items()))
    if not any(name.startswith("vil.") for name in written):
        run.say("data: no `vil` rows: no wrong attempt comes with a feedback, and none is at a problem that can be checked here")


def _newest(run: Run, names: tuple[str, ...]) -> str:
    return next((name for name in names if run.has_model(name)), "base")


def _execute(arguments: argparse.Namespace, argv: list[str]) -> None:
    run = Run(load_config(arguments.config, _overrides(arguments)))
    started, ended = time.time(), "failed"
    try:
        _dispatch(run, arguments)
        ended = "done"
    except (Interrupted, KeyboardInterrupt):
        ended = "interrupted"
        raise
    finally:
        command = shlex.join(["stv-train", *argv])
        append_json(
            run.folder / "commands.jsonl", {"started": started, "command": command, "seconds": time.time() - started, "ended": ended}
        )
    if (run.folder / "metrics.jsonl").exists():
        write_report(run)


def _dispatch(run: Run, arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "data" if arguments.action == "from-traces":
            if not arguments.traces:
                raise TrainError("`data from-traces` needs --traces FILE_OR_URL.")
            from_traces(run, arguments.traces, arguments.key)
        case "data" if arguments.action == "export":
            _export_rows(run, arguments)
        case "data":
            write_problems(run)
        case "base":
            train_base(run)
        case "adopt":
            adopt(run, arguments.name, arguments.checkpoint)
        case "generator":
            train_generator(run)
        case "rollout":
            rollout(run, arguments.generator, arguments.server, arguments.name, arguments.key)
        case "sft":
            train_verifier(run, "sft")
        case "verdict-rl":
            train_verifier(run, "meta-rl" if arguments.meta else "verdict-rl")
        case "stv":
            _gated_models(run)
            train_verifier(run, "stv", arguments.seed)
        case "vil" if arguments.rlvr_only:
            train_rlvr(run)
        case "vil":
            train_vil(run, arguments.control, arguments.verifier, arguments.seed)
        case "evaluate" if arguments.probe:
            probe_loops(run)
        case "evaluate":
            _evaluate(run, arguments.pack)
        case "compare":
            print(compare_packs(run, arguments.packs, arguments.split))
        case "export" if arguments.model:
            if arguments.to is None:
                raise TrainError("`export --model` needs --to: the folder that is to hold the checkpoint.")
            write_checkpoint(arguments.to, run.load_model(arguments.model), run.config.export.weights)
            run.say(f"export: {arguments.model} is {arguments.to}")
        case "export":
            generator = arguments.generator or _newest(run, GENERATORS)
            verifier = arguments.verifier or _newest(run, ("stv",))
            if run.has_model(verifier):
                calibrate(run, verifier, generator)
            folder = export_pack(run, generator, verifier, arguments.to)
            if arguments.swap:
                swap_models(arguments.swap, folder.name, arguments.key)
                run.say(f"export: {arguments.swap} serves {folder.name}")
        case "hf":
            from .hf.train import train_hf  # transformers and peft are optional

            train_hf(run, arguments.to)
        case "all":
            write_problems(run)
            _gated_models(run)
            rollout(run)
            train_verifier(run, "stv")
            if arguments.baselines:
                for method in ("sft", "verdict-rl", "meta-rl"):
                    train_verifier(run, method)
            if run.config.vil.steps:
                for control in CONTROLS if arguments.baselines else CONTROLS[:1]:
                    train_vil(run, control)
            elif run.config.vil.rlvr_steps:
                train_rlvr(run)
            generator = _newest(run, GENERATORS)
            calibrate(run, "stv", generator)
            export_pack(run, generator, "stv")
            try:
                server_command(run.config.evaluate.server)
            except TrainError as error:
                run.say(f"evaluate: left out. {error}")
            else:
                _evaluate(run, None)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    with contextlib.suppress(ValueError):  # not in the main thread: the owner of the thread decides
        # As Ctrl-C does: a server that was started for the evaluation is stopped before this process ends.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return exit_code(lambda: _execute(arguments, sys.argv[1:] if argv is None else argv))
