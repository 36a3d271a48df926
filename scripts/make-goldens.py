"""Makes the tiny random checkpoints of the tests with their golden logits, and the golden rotary tables and GGUF blocks.

    pip install torch transformers gguf numpy safetensors
    python scripts/make-goldens.py            # writes tests/goldens/tiny-*

Everything is seeded. The logits are those of `transformers` in float32 with eager attention. Each checkpoint comes as
safetensors and as a GGUF file with equal tensors, so that the tests can hold one reader against the other:

    tiny-llama         tied; values that Q8_0 holds exactly; GGUF in Q8_0
    tiny-llama-biased  untied, biases on q, k, v, o; llama3 scaling (rope_freqs.weight in the GGUF); one layer; GGUF in F32;
                       config.json in the spelling of transformers 4
    tiny-qwen2         untied, two shards, bfloat16; linear scaling; GGUF in BF16; chat template in a file of its own
    tiny-qwen3         tied, bfloat16, heads wider than hidden / heads; yarn scaling; GGUF in F32
"""

import base64
import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
VOCAB_SIZE = 288
EOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROMPTS = [
    "A verifier reads the attempt, finds the first wrong step and says why.",
    "17 * 24 = 408, because 17 * 20 = 340 and 17 * 4 = 68. Grüße, 数学!",
]
CHAT = [
    {"role": "system", "content": "You check solutions."},
    {"role": "user", "content": "Is 2 + 2 = 5?"},
]
GREEDY_TOKENS = 16


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the attempt and the verifier: a step is right or the step is wrong"] * 4, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=EOS, bos_token=START)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that logits are not flat and that every bias and norm weight matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * 1.2 / math.sqrt(parameter.shape[1]))


def round_to_q8_0(model: torch.nn.Module) -> None:
    """Replaces every matrix by the values that its Q8_0 blocks stand for."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                blocks = quantize(parameter.numpy(), gguf.GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.from_numpy(dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))


def base64_of(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def spell_as_transformers_4(path: Path) -> None:
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_checkpoint(
    name,
    model_class,
    config,
    *,
    seed,
    dtype,
    matrix_type,
    shard_size="1GB",
    exact_q8_0=False,
    old_spelling=False,
    template_file=False,
):
    folder = GOLDENS / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = make_tokenizer()
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config.update({**special, "vocab_size": VOCAB_SIZE})
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    randomize(model, seed)
    if exact_q8_0:
        round_to_q8_0(model)
    model = model.to(dtype)
    model.generation_config.update(**{**special, "eos_token_id": [2, 0]})
    model.save_pretrained(folder, max_shard_size=shard_size)
    if old_spelling:
        spell_as_transformers_4(folder / "config.json")
    tokenizer.save_pretrained(folder, save_jinja_files=template_file)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    # from the disk, so that not only the weights but also the rotary frequencies are those of a fresh float32 model
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    write_logits(folder, model, tokenizer)
    write_gguf(folder / f"{name}.gguf", model, tokenizer, matrix_type)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 1 << 20, f"{name} has {size} bytes"
    print(name, size, "bytes")


@torch.no_grad()
def write_logits(folder: Path, model, tokenizer) -> None:
    prompts, rows = [], []
    for text in PROMPTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        logits = model(torch.tensor([ids])).logits[0].float()
        greedy = list(ids)
        for _ in range(GREEDY_TOKENS):
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
        prompts.append({"text": text, "inputIds": ids, "greedyIds": greedy[len(ids) :]})
        rows.append(logits.numpy())
    logits = np.concatenate(rows).astype("<f4")
    spread = float(logits.std(axis=1).mean())
    assert spread > 0.5, f"logits are flat: {spread}"
    (folder / "golden-logits.f32").write_bytes(logits.tobytes())
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    write_json(
        folder / "golden.json",
        {
            "madeBy": "scripts/make-goldens.py",
            "prompts": prompts,
            "logits": {"file": "golden-logits.f32", "shape": list(logits.shape), "rows": "prompt after prompt, token after token"},
            "chat": {"messages": CHAT, "text": chat, "inputIds": tokenizer.encode(chat, add_special_tokens=False)},
        },
    )


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if module in GGUF_NAMES:
        return f"{GGUF_NAMES[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def interleave_heads(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's row order of q and k: pairs (i, i + headDim / 2) of a head become neighbours."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, model, tokenizer, matrix_type) -> None:
    config = model.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(str(path), architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(path.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head_dim != config.hidden_size // config.num_attention_heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    add_vocabulary(writer, tokenizer)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = interleave_heads(values, config.num_attention_heads)
        elif architecture == "llama" and ".k_proj." in name:
            values = interleave_heads(values, config.num_key_value_heads)
        add_tensor(writer, gguf_name(name), np.ascontiguousarray(values), matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer, name: str, values: np.ndarray, matrix_type) -> None:
    if values.ndim < 2 or matrix_type == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, values.astype(np.float32))
    else:
        writer.add_tensor(name, quantize(values, matrix_type), raw_dtype=matrix_type)


def add_vocabulary(writer, tokenizer) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = {EOS, START, END}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def llama3_factors(rope, head_dim: int) -> np.ndarray:
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def make_rope_tables() -> None:
    positions = [0, 1, 2, 7, 40, 255, 1000, 4095, 8191]
    cases = [
        (64, 8192, {"rope_type": "default", "rope_theta": 100000.0}),
        (128, 32768, {"rope_type": "default", "rope_theta": 1000000.0}),
        (64, 8192, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        (
            64,
            131072,
            {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
        (128, 131072, {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 32768}),
        (
            32,
            16384,
            {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 2048,
                "beta_fast": 24.0,
                "beta_slow": 2.0,
                "attention_factor": 1.25,
            },
        ),
        (
            64,
            16384,
            {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 2048,
                "mscale": 0.7,
                "mscale_all_dim": 1.1,
                "truncate": False,
            },
        ),
    ]
    made = []
    for head_dim, max_positions, rope in cases:
        config = LlamaConfig(
            hidden_size=2 * head_dim,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=head_dim,
            intermediate_size=64,
            num_hidden_layers=1,
            max_position_embeddings=max_positions,
            rope_parameters=dict(rope),
        )
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor([positions]))
        half = head_dim // 2
        made.append(
            {
                "config": json.loads(config.to_json_string(use_diff=False)),
                "cos": base64_of(cos[0, :, :half].numpy().astype("<f4")),
                "sin": base64_of(sin[0, :, :half].numpy().astype("<f4")),
            }
        )
    write_json(GOLDENS / "tiny-rope-tables.json", {"madeBy": "scripts/make-goldens.py", "positions": positions, "cases": made})


def make_gguf_blocks() -> None:
    """Two rows of 256 of each type: quantized by the gguf package where it can, else random blocks with sensible scales."""
    generator = np.random.default_rng(7)
    values = generator.normal(size=(2, 256)).astype(np.float32)
    values[0, :32] = 0
    made = []
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"):
        kind = gguf.GGMLQuantizationType[name]
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        try:
            blocks = quantize(values, kind)
        except NotImplementedError:
            blocks = generator.integers(0, 256, size=(2, 256 // block_elements * block_bytes), dtype=np.uint8)
            scales = generator.uniform(-0.1, 0.1, size=(2, 2)).astype("<f2").view(np.uint8)
            if name == "Q6_K":
                blocks[:, -2:] = scales[:, :2]
            else:
                blocks[:, :4] = scales
        expected = dequantize(blocks, kind).astype("<f4")
        assert np.isfinite(expected).all() and expected.std() > 0.01
        made.append({"type": name, "shape": [2, 256], "bytes": base64_of(blocks), "values": base64_of(expected)})
    write_json(GOLDENS / "tiny-gguf-blocks.json", {"madeBy": "scripts/make-goldens.py", "cases": made})


def main() -> None:
    torch.set_num_threads(1)
    GOLDENS.mkdir(parents=True, exist_ok=True)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    quant = gguf.GGMLQuantizationType
    make_checkpoint(
        "tiny-llama",
        LlamaForCausalLM,
        LlamaConfig(**sizes, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        seed=1,
        dtype=torch.float32,
        matrix_type=quant.Q8_0,
        exact_q8_0=True,
    )
    make_checkpoint(
        "tiny-llama-biased",
        LlamaForCausalLM,
        LlamaConfig(
            **{**sizes, "num_hidden_layers": 1},
            tie_word_embeddings=False,
            attention_bias=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        ),
        seed=2,
        dtype=torch.float32,
        matrix_type=quant.F32,
        old_spelling=True,
    )
    make_checkpoint(
        "tiny-qwen2",
        Qwen2ForCausalLM,
        Qwen2Config(
            **sizes,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "linear", "rope_theta": 1000000.0, "factor": 2.0},
        ),
        seed=3,
        dtype=torch.bfloat16,
        matrix_type=quant.BF16,
        shard_size="130KB",
        template_file=True,
    )
    make_checkpoint(
        "tiny-qwen3",
        Qwen3ForCausalLM,
        Qwen3Config(
            **sizes,
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        seed=4,
        dtype=torch.bfloat16,
        matrix_type=quant.F32,
    )
    make_rope_tables()
    make_gguf_blocks()


if __name__ == "__main__":
    main()
