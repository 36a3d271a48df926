"""Small statistics with fixed seeds: bootstrap intervals over problems, calibration error, temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random


def bootstrap(values: Sequence[float], resamples: int = 1000, seed: int = 1) -> tuple[float, float]:
    """95 % interval of the mean by resampling `values`, which are one number per problem (chains averaged before)."""
    if not values:
        return 0.0, 0.0
    rng = Random(seed)
    count = len(values)
    means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def expected_calibration_error(scores: Sequence[float], truths: Sequence[bool], bins: int = 10) -> float:
    """Mean distance between score and share of truths, over bins of equal width, weighed by their size."""
    if not scores:
        return 0.0
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [at for at, s in enumerate(scores) if low <= s < high or (number == bins - 1 and s == 1)]
        if inside:
            mean = sum(scores[at] for at in inside) / len(inside)
            share = sum(truths[at] for at in inside) / len(inside)
            total += len(inside) / len(scores) * abs(mean - share)
    return total


def logit(probability: float) -> float:
    inside = min(1 - 1e-9, max(1e-9, probability))
    return math.log(inside / (1 - inside))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def log_loss(scores: Sequence[float], truths: Sequence[bool], temperature: float) -> float:
    total = 0.0
    for score, truth in zip(scores, truths, strict=True):
        value = logit(score) / temperature
        total += math.log1p(math.exp(-abs(value))) + (max(-value, 0.0) if truth else max(value, 0.0))
    return total / max(len(scores), 1)


def fit_temperature(scores: Sequence[float], truths: Sequence[bool]) -> float:
    """The temperature of least log loss, 0.05..20, by golden-section search over its logarithm (the loss has one valley)."""
    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if log_loss(scores, truths, math.exp(a)) < log_loss(scores, truths, math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)
