"""Files that are never half written, and rows of JSON Lines."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from shutil import disk_usage
from typing import Any

from safetensors import SafetensorError

from .errors import TrainError

LITTLE = 65_536  # bytes: what is left of a disk when a file did not fit


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file beside `path`, which then takes its place: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.touch()
        readers = temporary.stat().st_mode
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fchmod(handle.fileno(), readers)  # safetensors puts a file of its own there that the owner alone may read
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = "the disk is full" if _is_full(path.parent, error) else str(error)
        temporary.unlink(missing_ok=True)
        raise TrainError(f"Cannot write {path}: {reason}. The previous state is intact; the same command goes on from it.") from error


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether that is why writing there failed: PyTorch only says that it could not write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOSPC
    return "No space left" in str(error) or disk_usage(folder).free < LITTLE


def file_digest(path: Path) -> str:
    """SHA-256 of what the file holds, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    write_atomically(path, lambda part: part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n"))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    def write(part: Path) -> None:
        with part.open("w") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    write_atomically(path, write)


def append_json(path: Path, row: dict[str, Any]) -> None:
    """Adds a line, whole or not at all. Raises TrainError when the disk is full."""
    try:
        with path.open("ab", buffering=0) as handle:
            line = (json.dumps(row) + "\n").encode()
            before = handle.tell()
            if handle.write(line) != len(line):
                os.truncate(path, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        reason = "the disk is full" if _is_full(path.parent, error) else str(error)
        raise TrainError(f"Cannot write {path}: {reason}.") from error


def read_json(path: Path) -> Any:
    """Raises TrainError that names the file where it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainError(f"{path} cannot be read: {reason}.") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file. Raises TrainError that names the line at fault."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise TrainError(f"There is no file {path}.") from None
    except UnicodeDecodeError as error:
        raise TrainError(f"{path} is not UTF-8 text: {error}.") from None
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_jsonl(text, str(path))


def parse_jsonl(text: str, source: str) -> list[dict[str, Any]]:
    """Rows of JSON Lines that `source` holds. A text inside may hold any other separator of lines than a line feed: JSON leaves those as
    they are. Raises TrainError that names the line at fault."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TrainError(f"{source}, line {number} is not valid JSON: {error.msg}.") from None
        if not isinstance(row, dict):
            raise TrainError(f"{source}, line {number} must hold a JSON object, not {line[:40]!r}.")
        rows.append(row)
    return rows
