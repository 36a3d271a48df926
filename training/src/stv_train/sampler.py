"""Batched sampling with a key-value cache. Prompts of similar length go together, padded on the left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .model import Layer, Llama, attend
from .policy import Policy
from .tokenizer import END, PAD


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float = 1.0
    max_new_tokens: int = 320
    batch: int = 256


@dataclass(frozen=True, slots=True)
class Completion:
    """`ids` end with the end token when `stopped`; otherwise the output was cut off."""

    ids: list[int]
    stopped: bool


class _Cache:
    """Keys and values [B, kv heads, capacity, d] per layer; one write position for all rows. In float32, as all of sampling:
    with few rows casting to bfloat16 costs more than its products save."""

    def __init__(self, model: Llama, batch: int, capacity: int) -> None:
        c = model.config
        shape = (batch, c.num_kv_heads, capacity, c.head_dim)
        device = model.embed.weight.device
        self.keys = [torch.zeros(shape, device=device, dtype=torch.float32) for _ in range(c.num_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=torch.float32) for _ in range(c.num_layers)]
        self.length = 0

    def keep(self, rows: Tensor) -> None:
        """`rows` ascend: they move up in place, and what is not written yet is left where it is."""
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):
                kept[layer] = old[: len(rows)]
                kept[layer][:, :, : self.length] = old[rows, :, : self.length]


def _forward(model: Llama, ids: Tensor, positions: Tensor, visible: Tensor, cache: _Cache) -> Tensor:
    """ids, positions [B, T]; visible [B, 1, T, past + T] bool. Logits of the last position [B, vocab]."""
    x = model.embed(ids)
    bias = torch.zeros(visible.shape, device=ids.device).masked_fill_(~visible, float("-inf"))
    cos = model.cos[positions].unsqueeze(1)  # type: ignore[index]
    sin = model.sin[positions].unsqueeze(1)  # type: ignore[index]
    start, stop = cache.length, cache.length + ids.shape[1]
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        q, k, v = layer.split_heads(layer.input_norm(x), cos, sin)
        cache.keys[index][:, :, start:stop] = k
        cache.values[index][:, :, start:stop] = v
        mixed = attend(q, cache.keys[index][:, :, :stop], cache.values[index][:, :, :stop], bias)
        x = x + layer.o(mixed.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_norm(x))
    cache.length = stop
    logits: Tensor = model.norm(x[:, -1]) @ model.embed.weight.T
    return logits


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    # Gumbel's trick: one pass, and seeded.
    noise = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-7).to(logits.device)
    return (logits / temperature - torch.log(-torch.log(noise))).argmax(-1)


@torch.no_grad()
def _sample_batch(model: Llama, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator) -> list[Completion]:
    batch, longest = len(prompts), max(len(p) for p in prompts)
    budgets = [min(sampling.max_new_tokens, model.config.max_length - len(p)) for p in prompts]
    budget = max(budgets)
    device = model.embed.weight.device
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts], device=device)
    cache = _Cache(model, batch, longest + budget)
    columns = torch.arange(longest, device=device)
    positions = (columns - pads[:, None]).clamp(min=0)
    # A padding row sees itself: a row that sees nothing would be undefined.
    real = columns >= pads[:, None]
    visible = real[:, None, :] & (columns[None, :, None] >= columns[None, None, :])
    visible = visible | torch.eye(longest, dtype=torch.bool, device=device)
    logits = _forward(model, ids, positions, visible[:, None], cache)
    outputs: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * batch
    rows = list(range(batch))  # row of the cache -> prompt
    for count in range(1, budget + 1):
        tokens = _pick(logits, sampling.temperature, generator)
        going: list[int] = []
        for at, token in enumerate(tokens.tolist()):
            outputs[rows[at]].append(token)
            if token == END:
                stopped[rows[at]] = True
            elif count < budgets[rows[at]]:
                going.append(at)
        if not going:
            break
        if len(going) < len(rows):
            keep = torch.tensor(going, device=device)
            cache.keep(keep)
            tokens, pads = tokens[keep], pads[keep]
            rows = [rows[at] for at in going]
        at_column = cache.length
        positions = (at_column - pads)[:, None]
        visible_row = torch.arange(at_column + 1, device=device) >= pads[:, None]
        logits = _forward(model, tokens[:, None], positions, visible_row[:, None, None], cache)
    return [Completion(out, stop) for out, stop in zip(outputs, stopped, strict=True)]


class Sampler(Policy, Protocol):
    """A model that samples by itself (Hugging Face's)."""

    def sample(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[Completion]: ...


def sample(model: Llama | Sampler, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[Completion]:
    """One completion per prompt, in order. The same prompts, sampling and seed give the same completions.

    A prompt that fills the context gives an empty, unfinished completion."""
    if not isinstance(model, Llama):
        return model.sample(prompts, sampling, seed)
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    order = [at for at in order if len(prompts[at]) < model.config.max_length]
    results: list[Completion] = [Completion([], False) for _ in prompts]
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), sampling.batch):
        part = order[start : start + sampling.batch]
        completions = _sample_batch(model, [prompts[at] for at in part], sampling, generator)
        for at, completion in zip(part, completions, strict=True):
            results[at] = completion
    model.train(was_training)
    return results
