"""The model against transformers, the sampler against plain forwards, the optimizer against its definition."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from stv_train.export import write_checkpoint
from stv_train.model import Llama, from_hf, to_hf
from stv_train.optim import MuonAdamW, orthogonalize, schedule
from stv_train.run import precision_on, product_seconds
from stv_train.sampler import Sampling, sample
from stv_train.tokenizer import END, PackTokenizer


def test_exported_checkpoint_gives_the_same_logits_in_transformers(tmp_path: Path, tiny: Llama, tokenizer: PackTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    write_checkpoint(tmp_path, tiny)
    other = transformers.LlamaForCausalLM.from_pretrained(tmp_path, torch_dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("<|user|>4(x - 3) = 2x + 9<|end|><|assistant|>Step 1: 4x - 12 = 2x + 9")])
    with torch.no_grad():
        assert torch.allclose(tiny(ids), other(ids).logits, atol=1e-4)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = again.apply_chat_template([{"role": "user", "content": "3x = 6"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>3x = 6<|end|><|assistant|>"
    assert again(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


def test_whoever_reads_one_file_of_an_exported_checkpoint_reads_all(tmp_path: Path, tiny: Llama) -> None:
    write_checkpoint(tmp_path, tiny)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["config.json"]}, modes


def test_an_exported_checkpoint_is_read_back_exactly(tiny: Llama) -> None:
    other = Llama(tiny.config, seed=9)
    from_hf(other, to_hf(tiny))
    for name, weight in tiny.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


def test_hidden_states_of_some_positions_are_those_of_all_and_so_are_their_gradients(tiny: Llama) -> None:
    ids = torch.tensor([[7, 30, 99, 12, 5], [9, 9, 200, 31, 0]])
    at = torch.tensor([1, 4, 5, 8])
    found = []
    for states in (tiny.hidden(ids).flatten(0, 1)[at], tiny.hidden(ids, at)):
        tiny.zero_grad()
        tiny.logits(states).square().mean().backward()
        found.append((states, [parameter.grad for parameter in tiny.parameters()]))
    (all_states, all_gradients), (states, gradients) = found
    assert states.shape == (4, tiny.config.hidden_size) and torch.allclose(states, all_states, atol=1e-6)
    for one, other in zip(gradients, all_gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def slow_greedy(model: Llama, prompt: list[int], budget: int) -> list[int]:
    ids = list(prompt)
    for _ in range(budget):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == END:
            break
    return ids[len(prompt) :]


def test_batched_greedy_equals_one_by_one(tiny: Llama) -> None:
    # Large weights spread the logits, so that rounding cannot decide.
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(3)
    prompts = [[7, 30, 99, 12], [8], [9, 9, 200, 31, 77, 5, 66, 300, 21], [400, 3]]
    found = sample(tiny, prompts, Sampling(temperature=0, max_new_tokens=12, batch=3), seed=1)
    assert [c.ids for c in found] == [slow_greedy(tiny, prompt, 12) for prompt in prompts]


def test_sampling_is_seeded_and_follows_the_distribution(tiny: Llama) -> None:
    prompts = [[5, 6, 7]] * 4000
    sampling = Sampling(max_new_tokens=1, batch=1000)
    first = [c.ids[0] for c in sample(tiny, prompts, sampling, seed=4)]
    assert first == [c.ids[0] for c in sample(tiny, prompts, sampling, seed=4)]
    assert first != [c.ids[0] for c in sample(tiny, prompts, sampling, seed=5)]
    with torch.no_grad():
        expected = torch.softmax(tiny(torch.tensor([[5, 6, 7]]))[0, -1], -1)
    counts = torch.bincount(torch.tensor(first), minlength=len(expected)) / 4000
    assert (counts - expected).abs().sum() < 1.2 * (len(expected) / 4000) ** 0.5  # mean of the total variation is below 0.8 of this


def test_end_token_stops_and_budget_cuts(tiny: Llama) -> None:
    with torch.no_grad():
        tiny.norm.weight.zero_()  # all logits equal: argmax is token 0, never the end
    (cut,) = sample(tiny, [[5, 6]], Sampling(temperature=0, max_new_tokens=3), seed=0)
    assert (cut.ids, cut.stopped) == ([0, 0, 0], False)
    (full,) = sample(tiny, [[5] * 256], Sampling(max_new_tokens=3), seed=0)
    assert (full.ids, full.stopped) == ([], False), "a prompt that fills the context cannot go on"


def test_a_long_prompt_takes_no_room_from_the_others_of_its_batch(tiny: Llama) -> None:
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(3)
    rest = torch.randint(5, 800, (250,), generator=torch.Generator().manual_seed(2)).tolist()
    prompts = [[7, 30, 99, 12], rest, [8]]
    found = sample(tiny, prompts, Sampling(temperature=0, max_new_tokens=12), seed=1)
    assert [c.ids for c in found] == [slow_greedy(tiny, prompt, budget) for prompt, budget in zip(prompts, (12, 6, 12), strict=True)]


def test_orthogonalize_gives_near_orthogonal_matrices() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (1, 8, 32), (1, 32, 8)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.4 and values.max() < 1.4


def test_optimizer_learns_and_resumes_exactly(tiny: Llama) -> None:
    ids = torch.randint(5, 800, (4, 16), generator=torch.Generator().manual_seed(1))

    def step(model: Llama, optimizer: MuonAdamW) -> float:
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(0.5)
        return loss.item()

    optimizer = MuonAdamW(tiny)
    losses = [step(tiny, optimizer) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.5
    other = Llama(tiny.config, seed=9)
    other.load_state_dict(tiny.state_dict())
    resumed = MuonAdamW(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [step(tiny, optimizer) for _ in range(2)] == [step(other, resumed) for _ in range(2)]


def test_schedule_rises_stays_and_falls_to_zero() -> None:
    values = [schedule(step, 1000) for step in range(1001)]
    assert values[0] < 0.1 and values[20] == values[599] == 1.0 and values[1000] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(values[600:]))


@pytest.mark.parametrize(
    ("wanted", "bfloat16_takes", "chosen"),
    [
        ("auto", 0.5, torch.bfloat16),
        ("auto", 1.5, torch.float32),
        ("bfloat16", 1.5, torch.bfloat16),
        ("float32", 0.5, torch.float32),
    ],
)
def test_precision_is_what_the_processor_multiplies_faster(
    wanted: str, bfloat16_takes: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(0 < product_seconds(dtype) < 5 for dtype in (torch.float32, torch.bfloat16))
    monkeypatch.setattr("stv_train.run.product_seconds", lambda dtype: bfloat16_takes if dtype is torch.bfloat16 else 1.0)
    assert precision_on(torch.device("cpu"), wanted) is chosen
