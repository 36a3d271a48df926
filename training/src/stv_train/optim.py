"""Muon for matrices, AdamW for the rest (embeddings, norms), behind one optimizer with one state."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalize(matrices: Tensor, steps: int = 5, precision: torch.dtype = torch.float32) -> Tensor:
    """[n, rows, columns] -> near-orthogonal matrices of the same row and column spaces (Newton-Schulz, quintic)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(precision)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    out: Tensor = (x.transpose(-2, -1) if tall else x).to(matrices.dtype)
    return out


class MuonAdamW:
    """Learning rates are given per step as a factor of the configured ones, so that schedules live elsewhere."""

    def __init__(
        self,
        model: nn.Module,
        muon_lr: float = 0.02,
        adam_lr: float = 0.003,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        self.muon_lr, self.adam_lr, self.momentum, self.weight_decay = muon_lr, adam_lr, momentum, weight_decay
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [(n, p) for n, p in named if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in named if p.dim() != 2 or "embed" in n]
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for _, parameter in matrices:
            by_shape[tuple(parameter.shape)].append(parameter)
        self.groups = list(by_shape.values())
        self.buffers = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=betas, eps=1e-8, weight_decay=0.0, foreach=True)
        self.parameters = [p for _, p in named]
        self.precision = getattr(model, "precision", torch.float32)  # of the orthogonalization

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def clip(self, limit: float) -> float:
        return float(nn.utils.clip_grad_norm_(self.parameters, limit))

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradients = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            buffer.mul_(self.momentum).add_(gradients)
            update = orthogonalize(gradients.add(buffer, alpha=self.momentum), precision=self.precision)
            rows, columns = group[0].shape
            rate = self.muon_lr * factor * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                if self.weight_decay:
                    parameter.mul_(1 - rate * self.weight_decay)
                parameter.add_(change, alpha=-rate)
        for param_group in self.adam.param_groups:
            param_group["lr"] = self.adam_lr * factor
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"buffers": self.buffers, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, stored in zip(self.buffers, state["buffers"], strict=True):
            mine.copy_(stored)
        self.adam.load_state_dict(state["adam"])


def schedule(step: int, total: int, warmup: float = 0.02, decay: float = 0.4) -> float:
    """Warm up, stay, fall linearly to zero. Most of the loss falls while the rate does."""
    rising = max(1, int(total * warmup))
    falling = max(1, int(total * decay))
    if step < rising:
        return (step + 1) / rising
    if step >= total - falling:
        return max(0.0, (total - step) / falling)
    return 1.0
