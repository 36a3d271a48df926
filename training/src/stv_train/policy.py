"""What the losses and steps need of a model, a tokenizer, an optimizer and a run; the pack's own and Hugging Face's both have it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .config import Config


class Tokens(Protocol):
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class Policy(Protocol):
    @property
    def max_length(self) -> int:
        """Tokens that `hidden` takes."""
        ...

    def hidden(self, ids: Tensor, at: Tensor | None = None) -> Tensor:
        """ids [B, T], padded on the right -> final hidden states [B, T, size]; with `at` [N], positions of the flattened batch, theirs
        alone [N, size]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., size] -> [..., vocab]."""
        ...


class Steps(Protocol):
    def zero_grad(self) -> None: ...
    def clip(self, limit: float) -> float: ...
    def step(self, factor: float) -> None: ...


class Setting(Protocol):
    """A run, as far as a gradient step is concerned. `prompts` is the module `prompts`, or what answers like it."""

    @property
    def config(self) -> Config: ...
    @property
    def tokenizer(self) -> Tokens: ...
    @property
    def prompts(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
