"""Prompts and verdict format of a pack folder, rendered with the checkpoint's own chat template, as the server renders them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from ..errors import TrainError
from ..run import fingerprint
from .model import HfTokens


class PackPrompts:
    """Answers like the module `prompts` for any pack folder."""

    def __init__(self, folder: Path, tokens: HfTokens) -> None:
        try:
            self._pack: dict[str, Any] = json.loads((folder / "pack.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise TrainError(f"hf.pack must be a folder with a pack.json; {folder} cannot be read: {error}.") from error
        self.folder = folder
        self._tokens = tokens
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        self._template = lru_cache(maxsize=32)(lambda name: environment.from_string((folder / name).read_text()))

    def pack_json(self) -> dict[str, Any]:
        return self._pack

    @property
    def identity(self) -> str:
        """Of all that prompts are made of."""
        templates = sorted({one["template"] for prompt in self._pack["prompts"].values() for one in prompt["messages"]})
        return fingerprint(self._pack, [(self.folder / name).read_text() for name in templates])

    def _render(self, name: str, **texts: str) -> str:
        messages = [
            {"role": one["role"], "content": self._template(one["template"]).render(**texts).rstrip("\n")}
            for one in self._pack["prompts"][name]["messages"]
        ]
        text: str = self._tokens.inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text + str(self._pack["prompts"][name].get("assistant_prefix", ""))

    def generate_prompt(self, problem: str) -> str:
        return self._render("generate", problem=problem)

    def refine_prompt(self, problem: str, attempt: str, feedback: str) -> str:
        return self._render("refine", problem=problem, attempt=attempt, feedback=feedback, verdict="reject")

    def verify_prompt(self, problem: str, solution: str) -> str:
        """Ends with the opening of the feedback, which the server writes itself."""
        return self._render("verify", problem=problem, solution=solution) + str(self._pack["feedback"]["open"])

    def teacher_prompt(self, problem: str, solution: str, verdict: str, reference: str) -> str:
        """The verify prompt with a reference, and the true verdict behind it. Used in training only."""
        word = self._pack["verdict"]["words"][verdict]
        known = f"{reference}\n\nThe verdict is known: {word}."
        name = "verify_reference" if "verify_reference" in self._pack["prompts"] else "verify"
        return self._render(name, problem=problem, solution=solution, reference=known) + str(self._pack["feedback"]["open"])

    def split_review(self, text: str) -> tuple[str, str | None]:
        """(feedback, verdict) of a sampled verification; the last verdict counts, None when there is none to read."""
        pack = self._pack
        feedback, found, rest = text.rpartition(pack["verdict"]["open"])
        if not found:
            return text, None
        close = pack["verdict"]["close"]
        word = (rest.partition(close)[0] if close else rest).strip()
        verdict = next((name for name, spelled in pack["verdict"]["words"].items() if spelled == word), None)
        return feedback.replace(pack["feedback"]["close"].strip() or "\0", "").strip(), verdict
