"""Rewards for TRL and verl. `compute_score` has verl's signature; `trl_reward` has TRL's. One file, no import of stv_train.

`verdict` rows: 1 when the verdict is the true one and there is feedback before it. `answer` rows: 1 when the final answer is right."""

import re
from fractions import Fraction

VERDICT = re.compile(r"<verdict>\s*(\w+)\s*</verdict>")


def final_answer(text: str) -> str:
    """The last boxed answer, else the last number."""
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    if boxed:
        return boxed[-1].strip()
    numbers = re.findall(r"-?\d+(?:/\d+|\.\d+)?", text)
    return numbers[-1] if numbers else ""


def same_answer(one: str, other: str) -> bool:
    """Equal as exact numbers; else by math-verify where it is installed; else as texts."""
    try:
        return Fraction(one.strip()) == Fraction(other.strip())
    except (ValueError, ZeroDivisionError):
        pass
    try:
        from math_verify import parse, verify
    except ImportError:
        return " ".join(one.split()) == " ".join(other.split())
    # LaTeX is found between delimiters only.
    stated, key = (parse(f"${text.strip().strip('$')}$") for text in (one, other))
    return bool(stated and key and verify(key, stated))


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
