"""A run's folder: checkpoints that are never half written, metrics as JSON Lines, progress with time left, interrupts."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import prompts
from .config import Config
from .errors import TrainError
from .files import append_json, read_json, write_atomically, write_json
from .model import Llama, ModelConfig
from .tokenizer import PackTokenizer


class Interrupted(Exception):
    """Raised between steps after SIGINT or SIGTERM; by then the checkpoint is written."""


def exit_code(work: Callable[[], None]) -> int:
    """Does the work of a process; what ends it early is one sentence on stderr and a code."""
    try:
        work()
    except TrainError as error:
        print(f"stv-train: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"stv-train: {_cause(error)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"stv-train: {stop}; the same command goes on from there", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stv-train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _cause(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; what was there before is intact, and the same command goes on from it"
    return f"{error.filename}: {error.strerror}." if error.filename else f"{error}."


def fingerprint(*parts: object) -> str:
    """Names a configuration: equal for equal values, whatever the order of keys."""

    def plain(value: object) -> object:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    text = json.dumps([plain(part) for part in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_digest(model: torch.nn.Module) -> str:
    """Names the weights of a model: a run's models keep their names when they are trained anew."""
    whole = hashlib.sha256()
    for name, value in model.state_dict().items():
        whole.update(name.encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


def read_facts(folder: Path) -> dict[str, Any]:
    """What made the model in `folder`. Raises TrainError where that cannot be read."""
    facts: dict[str, Any] = read_json(folder / "facts.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("model"), dict):
        raise TrainError(f"{folder / 'facts.json'} must hold an object with a `model`.")
    return facts


def load_weights(model: Llama, path: Path) -> None:
    """Raises TrainError where the file is broken, or holds the weights of another shape."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


class Progress:
    """One line on stderr: share done, rate, time left. Silent between updates."""

    def __init__(self, name: str, total: float, unit: str, done: float = 0.0, every: float = 10.0) -> None:
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.start, self.started_at, self.last = time.monotonic(), done, 0.0

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        finished = done >= self.total
        if now - self.last < self.every and not finished:
            return
        self.last = now
        rate = (done - self.started_at) / max(now - self.start, 1e-9)
        left = (self.total - done) / rate if rate > 0 else float("inf")
        remaining = "--" if left == float("inf") else f"{int(left // 3600)}:{int(left % 3600 // 60):02}:{int(left % 60):02}"
        share = 100 * done / max(self.total, 1e-9)
        print(
            f"{self.name} {share:5.1f} %  {rate:,.0f} {self.unit}/s  left {remaining}  {note}",
            file=sys.stderr,
            flush=True,
        )


def precision_on(device: torch.device, wanted: str) -> torch.dtype:
    """`auto`: bfloat16 where its products are the faster ones. A processor's flags do not tell: some multiply it at twice the speed of
    float32, some at half of it, and one without it is several times slower."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return min((torch.float32, torch.bfloat16), key=product_seconds)


def product_seconds(dtype: torch.dtype) -> float:
    """Time of a matrix product on this processor, of the size that training a small model is made of."""
    rows, weights = torch.ones(2048, 192, dtype=dtype), torch.ones(576, 192, dtype=dtype)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times.append(time.perf_counter() - began)
    return min(times)


class Run:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.run.out)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"The run's folder {self.folder} (--out or run.out) cannot be made: {error.strerror}.") from None
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        cuda = torch.cuda.is_available()
        if config.run.device == "cuda" and not cuda:
            raise TrainError("run.device is cuda, but PyTorch finds no CUDA device here.")
        self.device = torch.device("cuda" if cuda and config.run.device != "cpu" else "cpu")
        self.precision = precision_on(self.device, config.run.precision)
        self.tokenizer = PackTokenizer()
        self.prompts = prompts
        self._stop = False

    # --- Interrupts

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """SIGINT and SIGTERM inside end the stage at its next `check_interrupt`; a second one ends it at once."""

        def handler(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            print("stopping after this step; a second interrupt stops at once", file=sys.stderr, flush=True)

        try:
            previous = [(number, signal.signal(number, handler)) for number in (signal.SIGINT, signal.SIGTERM)]
        except ValueError:  # not in the main thread: the owner of the thread decides
            previous = []
        try:
            yield
        finally:
            for number, old in previous:
                signal.signal(number, old)
            self._stop = False  # not at the beginning: `stop` may come before it

    def stop(self) -> None:
        """As an interrupt does."""
        self._stop = True

    @property
    def stopping(self) -> bool:
        return self._stop

    # --- Records

    def log(self, stage: str, **values: object) -> None:
        row = {"time": round(time.time(), 3), "stage": stage, **values}
        append_json(self.folder / "metrics.jsonl", row)

    def say(self, text: str) -> None:
        print(text, flush=True)

    # --- Models and checkpoints

    def model_config(self) -> ModelConfig:
        section = asdict(self.config.model)
        return ModelConfig(vocab_size=self.tokenizer.vocab_size, **section)

    def new_model(self, seed: int) -> Llama:
        return self.prepared(Llama(self.model_config(), seed))

    def prepared(self, model: Llama) -> Llama:
        model.precision = self.precision
        return model.to(self.device)

    def save_model(self, name: str, model: Llama, facts: dict[str, object]) -> None:
        """A finished model: weights and what made them."""
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        write_atomically(self.folder / name / "weights.safetensors", lambda part: save_file(state, part))
        write_json(self.folder / name / "facts.json", {"model": model.config.as_dict(), **facts})

    @property
    def generator(self) -> str:
        """The model that attempts and RL begin with."""
        return "generator" if self.config.generator.is_own_model else "base"

    def has_model(self, name: str) -> bool:
        return (self.folder / name / "facts.json").exists()

    def facts(self, name: str) -> dict[str, Any]:
        """What made a finished model. Raises TrainError where there is none."""
        folder = self.folder / name
        if not self.has_model(name):
            raise TrainError(f"{folder} holds no finished model; run `stv-train {name.split('-')[0]}` first.")
        return read_facts(folder)

    def load_model(self, name: str) -> Llama:
        facts, folder = self.facts(name), self.folder / name
        wanted = self.model_config().as_dict()
        if facts["model"] != wanted:
            differing = {key: (facts["model"].get(key), value) for key, value in wanted.items() if facts["model"].get(key) != value}
            raise TrainError(f"{folder} is a checkpoint of another configuration: {differing} (stored, configured).")
        model = self.prepared(Llama(self.model_config()))
        load_weights(model, folder / "weights.safetensors")
        return model

    def save_checkpoint(self, stage: str, state: dict[str, Any]) -> None:
        write_atomically(self.folder / stage / "checkpoint.pt", lambda part: torch.save(state, part))

    def load_checkpoint(self, stage: str, identity: str) -> dict[str, Any] | None:
        """The state to go on from; None when there is none. Raises TrainError when it belongs to another configuration."""
        path = self.folder / stage / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise TrainError(f"The checkpoint {path} cannot be read ({error}); remove it to begin the stage anew.") from error
        if state.get("identity") != identity:
            raise TrainError(
                f"{path} is a checkpoint of another configuration of this stage; choose another run.out, or remove it to begin anew."
            )
        return state

    def end_checkpoint(self, stage: str) -> None:
        (self.folder / stage / "checkpoint.pt").unlink(missing_ok=True)
