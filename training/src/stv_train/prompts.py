"""Prompts and verdict format, read from the very files that the pack ships; the same texts the server renders."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2

VERDICTS = ("accept", "reject", "undetermined")


def template_text(name: str) -> str:
    return files("stv_train").joinpath("templates").joinpath(name).read_text()


@lru_cache(maxsize=1)
def pack_json() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(template_text("pack.json"))
    return data


@lru_cache(maxsize=32)
def _template(source: str) -> jinja2.Template:
    # As the server's renderer has it: blocks leave no newline behind.
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(source)


def _render(name: str, **texts: str) -> str:
    messages = [
        {"role": message["role"], "content": _template(template_text_cached(message["template"])).render(**texts)}
        for message in pack_json()["prompts"][name]["messages"]
    ]
    return chat(messages)


@lru_cache(maxsize=32)
def template_text_cached(name: str) -> str:
    return template_text(name)


def chat(messages: list[dict[str, str]]) -> str:
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>"


def generate_prompt(problem: str) -> str:
    return _render("generate", problem=problem)


def refine_prompt(problem: str, attempt: str, feedback: str) -> str:
    return _render("refine", problem=problem, attempt=attempt, feedback=feedback, verdict="reject")


def verify_prompt(problem: str, solution: str) -> str:
    return _render("verify", problem=problem, solution=solution)


def reference_prompt(problem: str, solution: str, reference: str) -> str:
    return _render("verify_reference", problem=problem, solution=solution, reference=reference)


def teacher_prompt(problem: str, solution: str, verdict: str, hint: str) -> str:
    """The verify prompt, with the true verdict and the reference's line for the first wrong step behind its last message.

    Used in training only; the server never renders it."""
    told = f"\nVerdict: {verdict}" + (f"\n{hint}" if hint else "")
    prompt = verify_prompt(problem, solution)
    tail = "<|end|><|assistant|>"
    return prompt.removesuffix(tail) + told + tail


def verdict_opening() -> str:
    pack = pack_json()
    opening: str = pack["feedback"]["close"] + pack["verdict"]["open"]
    return opening


def review_text(feedback: str, verdict: str) -> str:
    """A whole verification as the verifier writes it."""
    return f"{feedback}{verdict_opening()}{verdict}"


def score_text(verdict: str) -> str:
    """A verification without feedback (score mode)."""
    opening: str = pack_json()["verdict"]["open"]
    return opening + verdict


def split_review(text: str) -> tuple[str, str | None]:
    """(feedback, verdict) of a sampled verification; verdict None when there is none to read (never an accept)."""
    opening = verdict_opening()
    feedback, found, word = text.rpartition(opening)
    if not found:
        bare = pack_json()["verdict"]["open"]
        if text.startswith(bare) and text[len(bare) :] in VERDICTS:
            return "", text[len(bare) :]
        return text, None
    return feedback, word if word in VERDICTS else None
