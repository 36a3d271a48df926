"""The server of this project, driven from outside: its command, a process that serves a pack, and its routes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import TrainError

START_SECONDS = 120.0


def server_command(configured: str = "") -> list[str]:
    """The command of the server: the configured one, `stv` on the path, or this repository's own build."""
    if configured:
        return shlex.split(configured)
    built = Path(__file__).resolve().parents[3] / "dist" / "cli" / "main.js"
    if shutil.which("node") and built.exists():
        return ["node", str(built)]
    if shutil.which("stv"):
        return ["stv"]
    raise TrainError("There is no server to drive: put `stv` on the path, build this repository (npm run build), or set evaluate.server.")


def server_version(command: list[str]) -> str:
    """What `--version` says; a TrainError when the command cannot be run."""
    try:
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise TrainError(f"`{shlex.join(command)} --version` cannot be run: {error}.") from error
    return result.stdout.strip()


@contextmanager
def served(command: list[str], pack: Path, data: Path, *flags: str) -> Iterator[str]:
    """Serves `pack` on a free port of this machine while the block runs; yields the address once both roles are ready.

    `data` holds the prepared models, so that a second start is quick. A TrainError carries the server's last words."""
    arguments = ["serve", "--pack", str(pack.resolve()), "--port", "0", "--offline", "true", "--data-dir", str(data.resolve())]
    arguments += ["--log-level", "error", *flags]
    # Appended to by the server and read by name: one shared file position would let the reader move the writer.
    with tempfile.NamedTemporaryFile("ab") as said:
        process = subprocess.Popen([*command, *arguments], stdout=said, stderr=subprocess.STDOUT)
        try:
            yield _wait_until_ready(process, Path(said.name), shlex.join([*command, *arguments]))
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], said: Path, command: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    text = ""
    while time.monotonic() < deadline:
        text = said.read_text(errors="replace")
        if process.poll() is not None:
            raise TrainError(f"`{command}` ended with status {process.returncode}: {text.strip()[-600:]}")
        found = re.search(r"listens on (http://[^\s\"]+)", text)
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.1)
    raise TrainError(f"`{command}` was not ready after {START_SECONDS:.0f} s: {text.strip()[-600:]}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def post_json(url: str, body: dict[str, Any], key: str = "", attempts: int = 5) -> dict[str, Any]:
    """Posts and reads JSON; waits as long as the server asks when it is full. Raises TrainError with the server's words."""
    data = json.dumps(body).encode()
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    for attempt in range(attempts):
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            if error.code in (429, 503) and attempt + 1 < attempts:
                time.sleep(float(error.headers.get("retry-after") or 1))
                continue
            raise TrainError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from error
        except (OSError, json.JSONDecodeError) as error:
            raise TrainError(f"Cannot reach {url}: {error}.") from error
    raise TrainError(f"{url} stayed full.")


def served_as(url: str, alias: str, key: str = "") -> str:
    """Full name, with the digest of the weights, of the model that answers to `alias` (`GET /v1/models`). Raises TrainError where
    there is none."""
    address = f"{url.rstrip('/')}/v1/models"
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            roots = {one["id"]: str(one.get("root") or one["id"]) for one in json.load(response)["data"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"Cannot read from {address} which models are served: {error}.") from error
    if alias not in roots:
        raise TrainError(f"{address} names no `{alias}`; it names {', '.join(roots) or 'nothing'}.")
    return roots[alias]


def run_command(command: list[str]) -> None:
    """Runs a tool of the server to its end; its progress and complaints go to stderr. Raises TrainError with its status."""
    try:
        result = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise TrainError(f"`{shlex.join(command)}` cannot be run: {error}.") from error
    if result.returncode:
        raise TrainError(f"`{shlex.join(command)}` ended with status {result.returncode}; the same command goes on from what it has.")


def swap_models(url: str, name: str, key: str = "") -> None:
    """Exchanges both models of a running server for the pack `name` below its model folders (`POST /admin/models/both/load`);
    returns when they serve. What began before ends with the old ones."""
    post_json(f"{url.rstrip('/')}/admin/models/both/load", {"name": name}, key)
