"""Every loss against a slow, obvious implementation."""

import math

import pytest
import torch

from stv_train.batches import answer_loss, collate
from stv_train.documents import Encoded
from stv_train.errors import TrainError
from stv_train.losses import (
    class_advantages,
    distillation_loss,
    generalized_jsd,
    group_advantages,
    grpo_loss,
    meta_reward,
    policy_gradient_loss,
    token_logprobs,
    update_teacher,
    verdict_reward,
)


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


def test_grpo() -> None:
    torch.manual_seed(3)
    new, old = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    rows, advantages = torch.randint(0, 3, (9,)), torch.randn(3, dtype=torch.float64)
    slow = 0.0
    for n, o, row in zip(new.tolist(), old.tolist(), rows.tolist(), strict=True):
        ratio, advantage = math.exp(n - o), advantages[row].item()
        slow -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage) / 9
    assert grpo_loss(new, old, rows, advantages, 0.2).item() == pytest.approx(slow)


def test_grpo_at_the_sampling_policy_is_reinforce() -> None:
    logprobs = torch.randn(6, requires_grad=True)
    rows, advantages = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, -1.0, 0.5])
    (one,) = torch.autograd.grad(grpo_loss(logprobs, logprobs.detach(), rows, advantages, 0.2), logprobs)
    (other,) = torch.autograd.grad(policy_gradient_loss(logprobs, rows, advantages), logprobs)
    assert torch.allclose(one, other)


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


def test_token_logprobs() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert token_logprobs(logits, torch.tensor([1])).item() == pytest.approx(math.log(softmax([0.0, 1.0, 2.0])[1]))


def test_ema_teacher() -> None:
    old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = old.weight.detach().clone()
    update_teacher(old, new, 0.25)
    assert torch.allclose(old.weight, 0.75 * before + 0.25 * new.weight)


class Table:
    """A model that knows only the token before: row t of `scores` are the logits behind token t."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return self.scores[ids]

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
