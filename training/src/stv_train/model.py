"""A llama-shaped causal language model: RMS norm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

Knows token ids only. Weights leave it under Hugging Face's names, so that `LlamaForCausalLM` gives the same logits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ModelConfig:
    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 384
    max_length: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def hf(self) -> dict[str, Any]:
        """`config.json` of a Hugging Face llama checkpoint."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_length,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 4,
            "pad_token_id": 0,
            "torch_dtype": "float32",
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_table(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [length, head_dim], halves repeated as Hugging Face's rotate_half has it."""
    inverse = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    angles = torch.outer(torch.arange(length).float(), inverse)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """q [B, heads, T, d]; k, v [B, kv heads, S, d]; bias [T, S] or [B, 1, T, S], added to the scores -> [B, heads, T, d].

    Two plain products: with few wide heads they take a third of the time of PyTorch's fused attention on a CPU. The heads of
    a group become rows of one product, so that keys and values are not repeated."""
    batch, heads, length, size = q.shape
    kv_heads = k.shape[1]
    scores = (q.reshape(batch, kv_heads, -1, size) @ k.transpose(-1, -2)).view(batch, heads, length, -1) * size**-0.5 + bias
    shares = scores.softmax(-1).to(v.dtype).view(batch, kv_heads, -1, scores.shape[-1])
    mixed: Tensor = (shares @ v).view(batch, heads, length, size)
    return mixed


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.input_norm = RMSNorm(c.hidden_size, c.norm_eps)
        self.post_norm = RMSNorm(c.hidden_size, c.norm_eps)
        # One matrix for q, k, v and one for gate, up: fewer and larger products; split on export.
        self.qkv = nn.Linear(c.hidden_size, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)
        self.gate_up = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def split_heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, T, d], k and v [B, kv heads, T, d]."""
        c = self.config
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, c.head_dim).transpose(1, 2)
        q, k, v = heads.split((c.num_heads, c.num_kv_heads, c.num_kv_heads), dim=1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def mlp(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, at: Tensor | None = None) -> Tensor:
        """x [B, T, hidden] -> the same, or with `at` [N], positions of the flattened batch, [N, hidden]: theirs alone."""
        q, k, v = self.split_heads(self.input_norm(x), cos, sin)
        mixed = attend(q, k, v, bias).transpose(1, 2).flatten(2)
        if at is not None:
            x, mixed = x.flatten(0, 1)[at], mixed.flatten(0, 1)[at]
        x = x + self.o(mixed)
        return x + self.mlp(self.post_norm(x))


class Llama(nn.Module):
    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        cos, sin = rope_table(config, config.max_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        future = torch.full((config.max_length, config.max_length), float("-inf")).triu(1)
        self.register_buffer("future", future, persistent=False)
        self.precision = torch.float32  # of the products; weights, norms, softmax and losses stay in float32
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                if name.endswith(("o.weight", "down.weight")):
                    std /= (2 * config.num_layers) ** 0.5
                with torch.no_grad():
                    parameter.normal_(0, std, generator=generator)

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.embed.weight.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def hidden(self, ids: Tensor, at: Tensor | None = None) -> Tensor:
        """ids [B, T], padded on the right -> last hidden states [B, T, hidden]; with `at` [N], positions of the flattened batch, theirs
        alone [N, hidden], for which the last layer does only what they need."""
        length = ids.shape[1]
        cos, sin, bias = self.cos[:length], self.sin[:length], self.future[:length, :length]  # type: ignore[index]
        with self.autocast():
            x = self.embed(ids)
            for layer in self.layers[:-1]:
                x = layer(x, cos, sin, bias)
            out: Tensor = self.norm(self.layers[-1](x, cos, sin, bias, at))
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        with self.autocast():
            out: Tensor = hidden @ self.embed.weight.T
        return out.float()

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(ids))

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def from_hf(model: Llama, state: dict[str, Tensor]) -> None:
    """Fills `model` from a state under Hugging Face's names, the inverse of `to_hf`. Raises KeyError for a name that is absent and
    RuntimeError where a shape differs."""
    own = {"embed.weight": state["model.embed_tokens.weight"], "norm.weight": state["model.norm.weight"]}
    for index in range(model.config.num_layers):
        at, mine = f"model.layers.{index}.", f"layers.{index}."
        own |= {
            mine + "input_norm.weight": state[at + "input_layernorm.weight"],
            mine + "post_norm.weight": state[at + "post_attention_layernorm.weight"],
            mine + "qkv.weight": torch.cat([state[f"{at}self_attn.{name}_proj.weight"] for name in "qkv"]),
            mine + "o.weight": state[at + "self_attn.o_proj.weight"],
            mine + "gate_up.weight": torch.cat([state[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up")]),
            mine + "down.weight": state[at + "mlp.down_proj.weight"],
        }
    model.load_state_dict({name: tensor.float() for name, tensor in own.items()})


def to_hf(model: Llama) -> dict[str, Tensor]:
    """State under Hugging Face's names; the LM head is tied and therefore absent."""
    c = model.config
    state = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    sizes = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        at = f"model.layers.{index}."
        q, k, v = torch.split(layer.qkv.weight, sizes)
        gate, up = layer.gate_up.weight.chunk(2)
        state |= {
            at + "input_layernorm.weight": layer.input_norm.weight,
            at + "post_attention_layernorm.weight": layer.post_norm.weight,
            at + "self_attn.q_proj.weight": q,
            at + "self_attn.k_proj.weight": k,
            at + "self_attn.v_proj.weight": v,
            at + "self_attn.o_proj.weight": layer.o.weight,
            at + "mlp.gate_proj.weight": gate,
            at + "mlp.up_proj.weight": up,
            at + "mlp.down_proj.weight": layer.down.weight,
        }
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
