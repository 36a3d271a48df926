"""A Hugging Face causal model with LoRA adapters, as the losses and the sampler see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import TrainError
from ..sampler import Completion, Sampling

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class HfTokens:
    """Encodes text that already holds the chat template's special tokens; decodes without them."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.inner(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self.inner.decode(ids, skip_special_tokens=True)
        return text


def load_checkpoint(source: str) -> tuple[Any, HfTokens]:
    """Model in float32 and tokenizer of a folder, a GGUF file or a hub's name. Raises TrainError for what cannot be loaded, and
    where there is no chat template: the prompts would have no form."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    except ImportError:
        raise TrainError("Real checkpoints need transformers and peft: pip install 'stv-train[hf]'.") from None
    path = Path(source)
    place, more = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (source, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **more)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **more)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise TrainError(f"The checkpoint {source} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise TrainError(f"The checkpoint {source} has no chat template; hf.checkpoint must be a chat model.")
    # What else a checkpoint wants done to its samples, a penalty on repetition say, is unknown to the losses. `generate` takes what it is
    # not given from here, whatever configuration it is passed.
    theirs = model.generation_config
    model.generation_config = GenerationConfig.from_dict({"eos_token_id": theirs.eos_token_id, "pad_token_id": theirs.pad_token_id})
    return model, HfTokens(tokenizer)


class LoraPolicy(nn.Module):
    """The model with the adapter `name` in use."""

    def __init__(self, peft_model: Any, name: str, tokens: HfTokens) -> None:
        super().__init__()
        self.inner = peft_model
        self.name = name
        self.end = int(tokens.inner.eos_token_id)
        # Padding stands behind the end and is never looked at; any token will do.
        self.pad = tokens.inner.pad_token_id if tokens.inner.pad_token_id is not None else self.end

    @contextmanager
    def _used(self) -> Iterator[Any]:
        self.inner.set_adapter(self.name)
        yield self.inner.base_model.model

    @property
    def max_length(self) -> int:
        return int(self.inner.config.max_position_embeddings)

    def hidden(self, ids: Tensor, at: Tensor | None = None) -> Tensor:
        with self._used() as model:
            states: Tensor = model.model(input_ids=ids).last_hidden_state
        return states if at is None else states.flatten(0, 1)[at]

    def logits(self, hidden: Tensor) -> Tensor:
        with self._used() as model:
            scores: Tensor = model.lm_head(hidden)
        return scores

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order; batches of equal treatment, padded on the left."""
        torch.manual_seed(seed)
        found: list[Completion] = []
        device = next(self.inner.parameters()).device
        self.inner.eval()
        with self._used() as model:
            for start in range(0, len(prompts), sampling.batch):
                part = prompts[start : start + sampling.batch]
                longest = max(len(ids) for ids in part)
                ids = torch.tensor([[self.pad] * (longest - len(row)) + row for row in part], device=device)
                mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part], device=device)
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=sampling.temperature > 0,
                    **({"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature > 0 else {}),
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=self.end,
                    pad_token_id=self.pad,
                )
                found += [self._completion(row[longest:].tolist()) for row in out]
        self.inner.train()
        return found

    def _completion(self, ids: list[int]) -> Completion:
        stopped = self.end in ids
        return Completion(ids[: ids.index(self.end) + 1] if stopped else ids, stopped)


class BasePolicy(LoraPolicy):
    """The same weights without any adapter: the frozen teacher, and the untrained model."""

    @contextmanager
    def _used(self) -> Iterator[Any]:
        with self.inner.disable_adapter():
            yield self.inner.base_model.model


def with_adapters(model: Any, names: tuple[str, ...], rank: int, alpha: int, seed: int) -> Any:
    """The model with fresh LoRA adapters on every linear layer; only they are trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainError("LoRA needs peft: pip install 'stv-train[hf]'.") from None
    torch.manual_seed(seed)
    found = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    targets = [name for name in TARGETS if name in found]
    if not targets:
        raise TrainError(f"The checkpoint has none of the layers {', '.join(TARGETS)}; its architecture is not supported.")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    made = get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        made.add_adapter(name, config)
    return made


class LoraAdamW:
    """AdamW over one adapter."""

    def __init__(self, peft_model: Any, name: str, rate: float) -> None:
        peft_model.set_adapter(name)
        self.parameters = [p for key, p in peft_model.named_parameters() if f".{name}." in key]
        self.rate = rate
        self.inner = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0)

    def zero_grad(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def clip(self, limit: float) -> float:
        return float(nn.utils.clip_grad_norm_(self.parameters, limit))

    def step(self, factor: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = self.rate * factor
        self.inner.step()
