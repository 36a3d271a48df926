"""From finished models to a pack folder that the server loads: checkpoints, tokenizer, prompts, card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import prompts
from .card import card
from .errors import TrainError
from .figures import served_identity
from .files import read_json, write_atomically, write_json
from .model import Llama, to_hf
from .run import Run
from .tasks.problems import all_kinds
from .tokenizer import END, PAD, write_tokenizer

TASK_NAMES = {"equations": "linear equations", "order": "the order of operations", "fractions": "fractions", "percent": "percentages"}


def write_checkpoint(folder: Path, model: Llama, weights: str = "float32") -> None:
    """A Hugging Face llama checkpoint with its tokenizer and chat template."""
    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    write_weights(folder, {name: tensor.cpu().to(dtype) for name, tensor in to_hf(model).items()})
    write_json(folder / "config.json", model.config.hf() | {"torch_dtype": weights})
    write_json(folder / "generation_config.json", {"eos_token_id": END, "pad_token_id": PAD, "do_sample": True})
    write_tokenizer(folder, prompts.template_text("chat_template.jinja"), model.config.max_length)


def write_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """`model.safetensors` of a Hugging Face checkpoint; makes `folder`."""
    write_atomically(folder / "model.safetensors", lambda part: save_file(state, part, metadata={"format": "pt"}))


def checkpoint_hash(folder: Path) -> str:
    """What the server compares with `hash` of a role: over the names and hashes of the folder's files, all of which it reads."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        whole.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def export_pack(run: Run, generator: str, verifier: str, folder: Path | None = None, quiet: bool = False) -> Path:
    """Writes the pack beside `folder`, checks its size, then puts it in place as a whole."""
    config = run.config.export
    target = folder or (Path(config.folder) if config.folder else run.folder / "pack")
    building = target.with_name(target.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    pack = json.loads(json.dumps(prompts.pack_json()))
    pack["description"] += f": {_tasks(run)}."
    write_checkpoint(building / "generator", run.load_model(generator), config.weights)
    if verifier == generator:
        pack["roles"]["verifier"]["source"] = "./generator"
    else:
        write_checkpoint(building / "verifier", run.load_model(verifier), config.weights)
    for role in pack["roles"].values():
        role["hash"] = checkpoint_hash(building / role["source"])
    for prompt in pack["prompts"].values():
        for message in prompt["messages"]:
            path = building / message["template"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(prompts.template_text(message["template"]))
    calibration = run.folder / "calibration.json"
    fitted = read_json(calibration) if calibration.exists() else {}
    if fitted.get("verifier") == verifier:
        pack["calibration"] = {"temperature": fitted["temperature"]}
    pack["sampling"]["generator"]["temperature"] = config.temperature
    pack["sampling"]["verifier"]["temperature"] = config.verifier_temperature
    write_json(building / "pack.json", pack)
    (building / "README.md").write_text(card(run, generator, verifier))
    size = sum(path.stat().st_size for path in building.rglob("*") if path.is_file()) / 2**20
    if size > config.max_mib:
        shutil.rmtree(building)
        raise TrainError(f"The pack would hold {size:.1f} MiB, above export.max_mib = {config.max_mib:g}.")
    if target.exists():
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        building.rename(target)
        shutil.rmtree(old)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        building.rename(target)
    if not quiet:
        write_json(
            run.folder / "export.json",
            {
                **{"folder": str(target.resolve()), "generator": generator, "verifier": verifier, "mib": round(size, 2)},
                "identity": served_identity(run, generator, verifier),
            },
        )
        run.say(f"export: {target}, {size:.1f} MiB")
    return target


def load_export(run: Run, folder: Path) -> dict[str, str]:
    """Which models of the run the pack in `folder` holds. Raises TrainError when it is not the run's last export."""
    path = run.folder / "export.json"
    made: dict[str, str] = read_json(path) if path.exists() else {}
    if made.get("folder") != str(folder.resolve()) or not (folder / "pack.json").exists():
        raise TrainError(f"{folder} is not the pack that this run exported last; run `stv-train export` first.")
    if made.get("identity") != served_identity(run, made["generator"], made["verifier"]):
        raise TrainError(f"{folder} holds other weights than the run by now, or is sampled otherwise; run `stv-train export` again.")
    return made


def exported_folder(run: Run) -> Path:
    """Where the run's pack lies: what was exported last, else where it would be."""
    path = run.folder / "export.json"
    if path.exists():
        return Path(read_json(path)["folder"])
    return Path(run.config.export.folder) if run.config.export.folder else run.folder / "pack"


def _tasks(run: Run) -> str:
    names = [TASK_NAMES.get(task, task) for task in dict.fromkeys(task for task, _ in all_kinds(run.config.data.tasks))]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
