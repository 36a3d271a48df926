"""Documents into padded batches of similar length."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LENGTH_STEP
from .documents import Encoded
from .policy import Policy
from .tokenizer import PAD


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor  # [B, T], padded on the right
    answers: Tensor  # [B, T - 1] bool: positions whose next token is to be learned: the answer, and what the prompt teaches
    num_tokens: int  # without padding


def collate(rows: list[Encoded], device: torch.device, rounded: bool = True) -> Batch:
    """`rounded`: the length of the batch is `padded`; else that of its longest row."""
    longest = max(len(row.ids) for row in rows)
    if rounded:
        longest = padded(longest)
    ids = torch.full((len(rows), longest), PAD)
    answers = torch.zeros((len(rows), longest - 1), dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        answers[at, row.num_prompt - 1 : len(row.ids) - 1] = True
        for start, stop in row.learned:
            answers[at, start - 1 : stop - 1] = True
    return Batch(ids.to(device), answers.to(device), sum(len(row.ids) for row in rows))


def padded(length: int) -> int:
    """Length of the rows of a batch whose longest has `length`: few different ones, since a CPU prepares its bfloat16 products anew
    for each shape. One more than a round number, which is what is left as input."""
    step = min(max(8, 1 << max(length.bit_length() - 4, 0)), LENGTH_STEP)
    return -(-(length - 1) // step) * step + 1


def batches(rows: list[Encoded], batch_tokens: int, rng: Random, rounded: bool = True) -> list[list[Encoded]]:
    """Groups of similar length, each as many as fit into `batch_tokens` with padding (one row at least), in random order. `rounded` as
    for `collate`."""
    groups: list[list[Encoded]] = []
    rest = sorted(rows, key=lambda r: len(r.ids), reverse=True)
    while rest:
        longest = len(rest[0].ids)
        count = max(1, batch_tokens // (padded(longest) if rounded else longest))
        groups.append(rest[:count])
        rest = rest[count:]
    rng.shuffle(groups)
    return groups


def answer_logits(model: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
    """(logits [N, vocab], targets [N]) at the answer positions only, row by row: last layer and LM head are spared the prompts."""
    at = batch.answers.flatten().nonzero().squeeze(1)
    return model.logits(model.hidden(batch.ids[:, :-1], at)), batch.ids[:, 1:].flatten()[at]


def answer_loss(model: Policy, batch: Batch, judged_after: int | None = None, judgement_weight: float = 1.0) -> Tensor:
    """Mean cross-entropy; tokens that follow the token `judged_after` weigh `judgement_weight` times as much."""
    logits, targets = answer_logits(model, batch)
    losses = F.cross_entropy(logits, targets, reduction="none")
    if judged_after is None or judgement_weight == 1:
        return losses.mean()
    weights = torch.where(batch.ids[:, :-1][batch.answers] == judged_after, judgement_weight, 1.0)
    return (losses * weights).sum() / weights.sum()
