"""Every loss against a slow, obvious implementation."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stv_train import prompts
from stv_train.batches import answer_loss, collate
from stv_train.config import load_config
from stv_train.documents import Encoded
from stv_train.errors import TrainError
from stv_train.losses import (
    class_advantages,
    distillation_loss,
    generalized_jsd,
    group_advantages,
    meta_reward,
    policy_gradient_loss,
    token_logprobs,
    update_teacher,
    verdict_reward,
)
from stv_train.sampler import Completion
from stv_train.stages.verifier import Task, update_step
from stv_train.stages.vil import _step_on
from stv_train.tokenizer import END, PackTokenizer


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


def slow_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_divergence(student: list[float], teacher: list[float], alpha: float) -> float:
    if alpha == 0:
        return slow_kl(teacher, student)
    if alpha == 1:
        return slow_kl(student, teacher)
    mixed = [(1 - alpha) * s + alpha * t for s, t in zip(student, teacher, strict=True)]
    return (1 - alpha) * slow_kl(student, mixed) + alpha * slow_kl(teacher, mixed)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_full_vocabulary(alpha: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 11, dtype=torch.float64) * 3, torch.randn(7, 11, dtype=torch.float64) * 3
    slow = sum(slow_divergence(softmax(s), softmax(t), alpha) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)) / 7
    assert distillation_loss(student, teacher, alpha).item() == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_top_k_with_tail(k: int) -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(5, 11, dtype=torch.float64) * 3, torch.randn(5, 11, dtype=torch.float64) * 3
    slow = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        ps, pt = softmax(s), softmax(t)
        top = sorted(range(11), key=lambda at: -ps[at])[:k]
        bucket_s = [ps[at] for at in top] + [1 - sum(ps[at] for at in top)]
        bucket_t = [pt[at] for at in top] + [1 - sum(pt[at] for at in top)]
        slow += slow_divergence(bucket_s, bucket_t, 0.5) / 5
    assert distillation_loss(student, teacher, 0.5, k).item() == pytest.approx(slow, rel=1e-6)


def test_divergence_pulls_the_student_and_leaves_the_teacher() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    teacher = torch.tensor([[3.0, 0.0, 0.0, 0.0]], requires_grad=True)
    distillation_loss(student, teacher, 0.5).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[0, 0] < 0 < student.grad[0, 1]
    assert generalized_jsd(torch.log_softmax(teacher, -1), torch.log_softmax(teacher, -1), 0.5).item() == pytest.approx(0, abs=1e-7)
    with pytest.raises(TrainError, match="alpha"):
        generalized_jsd(student, teacher, 1.5)


def test_gradient_of_the_divergence_by_differences() -> None:
    torch.manual_seed(2)
    student = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: distillation_loss(s, teacher, 0.5), (student,))


def test_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    rows, advantages = torch.tensor([0, 0, 1]), torch.tensor([0.5, -1.0])
    loss = policy_gradient_loss(logprobs, rows, advantages)
    assert loss.item() == pytest.approx(-((-1.0) * 0.5 + (-2.0) * 0.5 + (-0.5) * -1.0) / 3)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5 / 3, -0.5 / 3, 1.0 / 3])


def slow_clipped_surrogate(new: torch.Tensor, old: torch.Tensor, rows: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """The loss of GRPO, which may use a batch of samples for several updates."""
    total = torch.zeros(())
    for n, o, row in zip(new, old, rows.tolist(), strict=True):
        ratio = (n - o).exp()
        total = total - torch.minimum(ratio * advantages[row], ratio.clamp(0.8, 1.2) * advantages[row]) / len(new)
    return total


def test_grpo_with_one_update_for_each_batch_is_reinforce() -> None:
    torch.manual_seed(3)
    logprobs = torch.randn(9, requires_grad=True)
    rows, advantages = torch.randint(0, 3, (9,)), group_advantages(torch.tensor([[1.0, 0.0, 0.5]]))
    (slow,) = torch.autograd.grad(slow_clipped_surrogate(logprobs, logprobs.detach(), rows, advantages), logprobs)
    (fast,) = torch.autograd.grad(policy_gradient_loss(logprobs, rows, advantages), logprobs)
    assert torch.allclose(slow, fast)


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert group_advantages(rewards).tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]
    assert group_advantages(rewards, True).tolist() == pytest.approx([1, -1, -1, 1, 0, 0, 0, 0], abs=1e-4)
    by_class = class_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    assert by_class.tolist() == [0.5, -0.5, 0.0, 0.0], "a class that is always right teaches nothing to the other"


def test_rewards() -> None:
    assert verdict_reward("reject", "reject", "Step 1: no.") == 1
    assert verdict_reward("reject", "reject", "  ") == 0, "an empty feedback earns nothing"
    assert verdict_reward("accept", "reject", "ok") == 0
    assert verdict_reward(None, "reject", "ok") == 0, "a verdict that cannot be read earns nothing"
    assert meta_reward("reject", "reject", "Step 1", 0.25) == 0.25
    assert meta_reward("accept", "accept", "ok", 0.25) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_token_logprobs(temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    expected = math.log(softmax([value / temperature for value in (0.0, 1.0, 2.0)])[1])
    assert token_logprobs(logits, torch.tensor([1]), temperature).item() == pytest.approx(expected)


def test_ema_teacher() -> None:
    old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = old.weight.detach().clone()
    update_teacher(old, new, 0.25)
    assert torch.allclose(old.weight, 0.75 * before + 0.25 * new.weight)


class Table:
    """A model that knows only the token before: row t of `scores` are the logits behind token t."""

    max_length = 64

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def hidden(self, ids: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        scores = self.scores[ids]
        return scores if at is None else scores.flatten(0, 1)[at]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_tokens_behind_a_comma_weigh_more_among_the_answers(weight: float) -> None:
    comma = 3
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    rows = [Encoded([1, 3, 2, 3, 5, 0], 2), Encoded([4, 2, 3, 1], 1)]  # answers: 2 3 5 0 and 2 3 1
    total = weights = 0.0
    for row in rows:
        for at in range(row.num_prompt, len(row.ids)):
            before, target = row.ids[at - 1], row.ids[at]
            w = weight if before == comma else 1.0
            total += w * -math.log(softmax(scores[before].tolist())[target])
            weights += w
    loss = answer_loss(Table(scores), collate(rows, torch.device("cpu")), comma, weight)
    assert loss.item() == pytest.approx(total / weights, rel=1e-5)


class Kept:
    """An optimizer that only keeps the gradient."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores
        self.gradient = torch.zeros_like(scores)

    def zero_grad(self) -> None:
        self.scores.grad = None

    def clip(self, limit: float) -> float:
        return 0.0

    def step(self, factor: float) -> None:
        assert self.scores.grad is not None
        self.gradient = self.scores.grad.clone()


def slow_policy_gradient(scores: torch.Tensor, written: list[tuple[list[int], list[int], float]], temperature: float) -> torch.Tensor:
    """Of the log-probabilities of (prompt, sample, advantage) under the policy that samples at `temperature`, token mean."""
    gradient = torch.zeros_like(scores)
    count = sum(len(sample) for _, sample, _ in written)
    for prompt, sample, advantage in written:
        for before, token in zip([prompt[-1], *sample], sample, strict=False):
            chosen = torch.softmax(scores.detach()[before] / temperature, -1)
            chosen[token] -= 1.0
            gradient[before] += advantage / count / temperature * chosen
    return gradient


@pytest.fixture()
def scores(tokenizer: PackTokenizer) -> torch.Tensor:
    size = tokenizer.vocab_size
    return torch.randn(size, size, generator=torch.Generator().manual_seed(6)).requires_grad_()


def setting(tokenizer: PackTokenizer, **fields: str) -> Any:
    config = load_config(
        Path(__file__).parents[1] / "configs" / "smoke.toml", {key.replace("__", "."): value for key, value in fields.items()}
    )
    return SimpleNamespace(config=config, tokenizer=tokenizer, prompts=prompts, device=torch.device("cpu"))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_step_of_rl_follows_the_policy_that_was_sampled(tokenizer: PackTokenizer, scores: torch.Tensor, temperature: float) -> None:
    run, kept = setting(tokenizer, vil__temperature=str(temperature)), Kept(scores)
    written = [([9, 8], [7, 6, 5], 0.5), ([9, 8], [4, 3], -0.5)]
    rows = [(Encoded(prompt + sample, len(prompt)), at) for at, (prompt, sample, _) in enumerate(written)]
    _step_on(run, Table(scores), kept, rows, torch.tensor([0.5, -0.5]), 1.0)
    assert torch.allclose(kept.gradient, slow_policy_gradient(scores, written, temperature), atol=1e-7)


def test_verdicts_are_learned_at_the_temperature_of_the_samples_and_distilled_at_1(tokenizer: PackTokenizer, scores: torch.Tensor) -> None:
    tasks = [Task("Check", "Known", "reject", "2 + 2", "5") for _ in range(2)]
    reviews = [prompts.review_text("Step 1: no.", verdict) for verdict in ("reject", "accept")]
    sampled = [Completion([*tokenizer.encode(review), END], True) for review in reviews]
    teacher, prompt = Table(scores.detach().flip(0)), tokenizer.encode("Check")
    written = [(prompt, one.ids, advantage) for one, advantage in zip(sampled, (0.5, -0.5), strict=True)]

    def gradient(method: str, temperature: float) -> torch.Tensor:
        kept = Kept(scores)
        run = setting(tokenizer, verifier__temperature=str(temperature), verifier__pg_coef="0.25")
        update_step(run, method, Table(scores), teacher, kept, tasks, sampled, None, 1.0)
        return kept.gradient

    by_verdict = {at: slow_policy_gradient(scores, written, at) for at in (0.5, 1.0)}
    for at, expected in by_verdict.items():
        assert torch.allclose(gradient("verdict-rl", at), expected, atol=1e-7)
    distilled = {at: gradient("stv", at) - 0.25 * expected for at, expected in by_verdict.items()}
    assert distilled[1.0].abs().max() > 1e-4 and torch.allclose(distilled[0.5], distilled[1.0], atol=1e-7)


def test_a_review_that_does_not_fit_the_context_beside_what_the_teacher_is_told_is_left_out(
    tokenizer: PackTokenizer, scores: torch.Tensor
) -> None:
    review = Completion([*tokenizer.encode(prompts.review_text("Step 1: no.", "reject")), END], True)
    short = Task("Check", "Known", "reject", "2 + 2", "5")
    long = Task("Check", "Known " * Table.max_length, "reject", "2 + 2", "5")

    def gradient(*tasks: Task) -> torch.Tensor:
        kept = Kept(scores)
        teacher = Table(scores.detach().flip(0))
        update_step(
            setting(tokenizer, verifier__pg_coef="0"), "stv", Table(scores), teacher, kept, list(tasks), [review] * len(tasks), None, 1.0
        )
        return kept.gradient

    assert gradient(short).abs().max() > 1e-4
    assert torch.allclose(gradient(short, long), gradient(short), atol=1e-7)
