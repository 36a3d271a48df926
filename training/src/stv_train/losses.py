"""The losses of verifier and generator training. Pure functions of tensors; every one has a slow twin in the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import TrainError


def generalized_jsd(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Divergence per position [N] between two sets of log-probabilities [N, V].

    M = (1 - alpha) student + alpha teacher; (1 - alpha) KL(student || M) + alpha KL(teacher || M). The ends are the
    limits that give a signal: alpha 0 is KL(teacher || student), alpha 1 is KL(student || teacher). The teacher gets no
    gradient."""
    if not 0 <= alpha <= 1:
        raise TrainError(f"alpha must be within 0..1, not {alpha}.")
    teacher = teacher.detach()
    if alpha == 0:
        return _kl(teacher, student)
    if alpha == 1:
        return _kl(student, teacher)
    weights = torch.tensor([1 - alpha, alpha], dtype=student.dtype, device=student.device).log()
    mixture = torch.logsumexp(torch.stack((student + weights[0], teacher + weights[1])), dim=0)
    return (1 - alpha) * _kl(student, mixture) + alpha * _kl(teacher, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension of log-probabilities; terms with p = 0 count nothing."""
    ratio = torch.where(p == -torch.inf, torch.zeros_like(p), p - torch.where(p == -torch.inf, torch.zeros_like(q), q))
    return (p.exp() * ratio).sum(-1)


def top_k_with_tail(student_logits: Tensor, teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, k + 1] of the student's k likeliest tokens and of all others together, for both models."""
    student, teacher = F.log_softmax(student_logits, -1), F.log_softmax(teacher_logits, -1)
    k = min(k, student.shape[-1] - 1)
    top = student.topk(k, dim=-1).indices
    return _bucketed(student.gather(-1, top)), _bucketed(teacher.gather(-1, top))


def _bucketed(top: Tensor) -> Tensor:
    # 1 - sum p, kept off zero where the top tokens hold everything
    tail = torch.log1p(-top.exp().sum(-1).clamp(max=1 - 1e-7))
    return torch.cat((top, tail.unsqueeze(-1)), dim=-1)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, alpha: float, top_k: int = 0) -> Tensor:
    """On-policy distillation: token mean of the generalized JSD, over the vocabulary or the student's top k and a tail."""
    if top_k:
        student, teacher = top_k_with_tail(student_logits, teacher_logits, top_k)
    else:
        student, teacher = F.log_softmax(student_logits, -1), F.log_softmax(teacher_logits, -1)
    return generalized_jsd(student, teacher, alpha).mean()


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """log p(target) [N] from logits [N, V], under the policy that samples at `temperature`."""
    return F.log_softmax(logits / temperature, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def policy_gradient_loss(logprobs: Tensor, rows: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE over tokens [N]; `rows` [N] says which sample a token belongs to. Token mean, as in the distillation.

    With the advantages of groups it is GRPO: each batch of samples is used for one update, so the policy that is updated is the one
    that was sampled, the ratio of the two is 1 and nothing is clipped."""
    return -(logprobs * advantages[rows].detach()).mean()


def group_advantages(rewards: Tensor, std_normalization: bool = False) -> Tensor:
    """rewards [groups, samples] -> reward minus the mean of its group, flattened; divided by the deviation on request."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    if std_normalization:
        centred = centred / (rewards.std(-1, correction=0, keepdim=True) + 1e-6)
    return centred.flatten()


def class_advantages(rewards: Tensor, classes: Tensor) -> Tensor:
    """Reward minus the mean reward of its class in the batch: one class cannot be the other's baseline."""
    out = torch.zeros_like(rewards)
    for name in set(classes.tolist()):
        chosen = classes == name
        out[chosen] = rewards[chosen] - rewards[chosen].mean()
    return out


def verdict_reward(verdict: str | None, truth: str, feedback: str) -> float:
    """1 when the verdict equals the truth and there is feedback; an output without a verdict earns nothing."""
    return 1.0 if verdict == truth and feedback.strip() else 0.0


def meta_reward(verdict: str | None, truth: str, feedback: str, defect_exists: float) -> float:
    """The verdict's reward times what the meta-verifier believes of the claimed defect; a clean accept claims none."""
    reward = verdict_reward(verdict, truth, feedback)
    return reward if verdict != "reject" else reward * defect_exists


def update_teacher(teacher: torch.nn.Module, student: torch.nn.Module, share: float) -> None:
    """teacher = (1 - share) teacher + share student, parameter by parameter."""
    with torch.no_grad():
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new, share)
