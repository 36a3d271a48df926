"""Checkpoints in Hugging Face's layout as models of a run: what training begins with, or what another run or pack has made."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import TrainError
from ..files import file_digest
from ..model import Llama, from_hf
from ..run import Run


def read_checkpoint(run: Run, folder: Path, asked_by: str) -> Llama:
    """The run's model with the weights of a checkpoint in Hugging Face's layout. A TrainError begins with `asked_by`."""
    model = run.new_model(run.config.run.seed)
    path = folder / "model.safetensors"
    try:
        from_hf(model, load_file(path))
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{asked_by}: {path} cannot be read: {error}") from None
    except (KeyError, RuntimeError) as error:
        raise TrainError(f"{asked_by}: {path} is a checkpoint of another shape: {error}") from None
    return model


@lru_cache(maxsize=4)
def checkpoint_digest(folder: Path) -> str:
    """Names the weights of a checkpoint. Read once for a process: a training asks for it at every buffer of documents."""
    return file_digest(folder / "model.safetensors")[:16]


def adopt(run: Run, name: str, folder: Path) -> None:
    """Makes a checkpoint a model of the run, for example a pack's generator that another run's verifier is trained for."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise TrainError(f"--name must be lower-case letters, digits and hyphens, not {name!r}.")
    there = run.folder / name
    if run.has_model(name) or (there.exists() and {path.name for path in there.iterdir()} - {"weights.safetensors"}):
        raise TrainError(f"--name {name}: {there} exists already.")
    run.save_model(name, read_checkpoint(run, folder, "adopt"), {"adopted": str(folder)})
    run.say(f"adopt: {folder} is {run.folder / name}")
