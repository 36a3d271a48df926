"""Rewards for TRL and verl. `compute_score` has verl's signature; `trl_reward` has TRL's. One file, no import of stv_train.

`verdict` rows: 1 when the verdict is the true one and there is feedback before it. `answer` rows: 1 when the final answer is right."""

import re
from fractions import Fraction

VERDICT = re.compile(r"<verdict>\s*(\w+)\s*</verdict>")
_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:/\d+|\.\d+)?")


def final_answer(text: str) -> str:
    """The last boxed answer, with whatever braces it holds; without a box the last number, in plain digits. Empty where a box is begun
    and none is closed: a number in front of it is no answer."""
    boxed = [found for start in _BOXED.finditer(text) if (found := _closed(text, start.end())) is not None]
    if boxed or r"\boxed" in text:
        return boxed[-1].strip() if boxed else ""
    numbers = _NUMBER.findall(text)
    return _digits(numbers[-1]) if numbers else ""


def _closed(text: str, start: int) -> str | None:
    """What stands between the brace in front of `start` and the one that closes it; None where none does. Escaped braces are text."""
    depth = 1
    for mark in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if not depth:
            return text[start : mark.start()]
    return None


def same_answer(one: str, other: str) -> bool:
    """Equal as exact numbers; else by math-verify where it is installed; else as texts."""
    try:
        return _number(one) == _number(other)
    except (ValueError, ZeroDivisionError):
        pass
    try:
        from math_verify import parse, verify
    except ImportError:
        return " ".join(one.split()) == " ".join(other.split())
    # LaTeX is found between delimiters only.
    stated, key = (parse(f"${text.strip().strip('$')}$") for text in (one, other))
    return bool(stated and key and verify(key, stated))


def _number(text: str) -> Fraction:
    """Raises ValueError for what is no plain number, with or without LaTeX's way to write a fraction."""
    text = text.strip().strip("$").strip().replace("−", "-")
    if "e" in text.lower():
        raise ValueError("an exponent can name a number that no memory holds")
    if fraction := _FRACTION.fullmatch(text):
        return Fraction("{}{}/{}".format(*fraction.groups()))
    return Fraction(_digits(text) if _NUMBER.fullmatch(text) else text)


def _digits(number: str) -> str:
    """−1,200 as -1200."""
    return number.replace("−", "-").replace(",", "")


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None) -> float:
    """`data_source` ends in `verdict` or `answer`; `ground_truth` is the verdict's word, or the answer."""
    if data_source.endswith("verdict"):
        found = list(VERDICT.finditer(solution_str))
        if not found:
            return 0.0
        feedback = re.sub(r"</?feedback>", "", solution_str[: found[-1].start()]).strip()
        return float(found[-1].group(1) == ground_truth and bool(feedback))
    return float(same_answer(final_answer(solution_str), ground_truth))


def trl_reward(completions: list, data_source: list[str], ground_truth: list[str], **_: object) -> list[float]:
    """Columns of the data set arrive as lists beside the completions, which are lists of messages."""
    written = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [compute_score(*row) for row in zip(data_source, written, ground_truth, strict=True)]
