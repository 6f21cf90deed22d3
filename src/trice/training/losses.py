"""The objectives of both stages, as functions of log-probabilities.

Shapes: Q questions, K candidate responses each (padded with `real_QK` False where a question has fewer), N
response tokens, D hidden size, V vocabulary. Nothing here knows of models or files.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 256  # response tokens whose logits exist at the same time


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ)[target] in chunks, so that no [N, V] matrix ever exists.

    The head's weight is frozen: only the hidden states get a gradient, g · (W[target] − softmax(h Wᵀ) W).
    All but the factor g is known in the forward pass, so it is computed there, while a chunk's logits are at
    hand, and the backward pass costs nothing. A soft cap brings the chain rule's factor 1 − (logit/cap)².
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, cap: float | None
    ) -> torch.Tensor:
        parts, slopes = [], []
        for hidden, targets in zip(torch.split(hidden_ND, CHUNK), torch.split(targets_N, CHUNK), strict=True):
            logits = _float(hidden @ weight_VD.T)
            logits = logits if cap is None else logits.div_(cap).tanh_().mul_(cap)
            chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
            total = logits.logsumexp(1)
            parts.append(chosen - total)
            if ctx.needs_input_grad[0]:
                slopes.append(_slope(logits, total, targets, weight_VD, cap))
        ctx.save_for_backward(*slopes)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        slope_ND = torch.cat(ctx.saved_tensors)
        return (slope_ND * grads[0].unsqueeze(1)).to(slope_ND.dtype), None, None, None


def _slope(
    logits: torch.Tensor,
    total: torch.Tensor,
    targets: torch.Tensor,
    weight_VD: torch.Tensor,
    cap: float | None,
) -> torch.Tensor:
    """The gradient of each token's log-probability by its hidden state, [n, D]. Overwrites uncapped logits."""
    chain = None if cap is None else 1 - (logits / cap) ** 2
    push = logits.sub_(total.unsqueeze(1)).exp_().neg_()
    push[torch.arange(len(targets), device=push.device), targets] += 1
    if chain is not None:
        push *= chain
    return push.to(weight_VD.dtype) @ weight_VD


def _float(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: half precision is too coarse for a sum over the vocabulary."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def token_log_probs(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, cap: float | None = None
) -> torch.Tensor:
    """log p(target | context) of each response token, [N] in float32 (float64 for float64 input).

    `hidden_ND` are the last hidden states at the positions that predict the targets, `weight_VD` the (frozen)
    output head, `cap` the model's final soft cap on logits, if it has one.
    """
    result: torch.Tensor = _TokenLogProbs.apply(hidden_ND, weight_VD, targets_N, cap)  # type: ignore[no-untyped-call]
    return result


def sequence_scores(
    logps_N: torch.Tensor, response_N: torch.Tensor, responses: int, length_penalty: float = 1.0
) -> torch.Tensor:
    """p_i = Σ_m log p(y_i,m) / len(y_i)**length_penalty for each response, [responses].

    `response_N` tells which response each token belongs to; len counts the tokens that carry loss.
    """
    total = logps_N.new_zeros(responses).index_add(0, response_N, logps_N)
    length = logps_N.new_zeros(responses).index_add(0, response_N, torch.ones_like(logps_N))
    return total / length.clamp(min=1) ** length_penalty


def rank_loss(
    scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor, margin: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ranking loss Σ_{r_i < r_j} max(0, p_i − p_j + margin) of each question.

    Equal rewards give no term. With margin 0 this is the ranking loss of TRICE (Qiao et al., NAACL 2024) and
    RRHF (Yuan et al., 2023). Returns, each [Q]: the loss (a sum over pairs), the number of pairs, and the
    number of them that are ordered rightly (p_i < p_j).
    """
    lower_QKK = rewards_QK.unsqueeze(2) < rewards_QK.unsqueeze(1)
    pairs_QKK = lower_QKK & real_QK.unsqueeze(2) & real_QK.unsqueeze(1)
    gap_QKK = scores_QK.unsqueeze(2) - scores_QK.unsqueeze(1)
    loss_Q = (gap_QKK + margin).clamp(min=0).mul(pairs_QKK).sum((1, 2))
    ordered_Q = ((gap_QKK < 0) & pairs_QKK).sum((1, 2))
    return loss_Q, pairs_QKK.sum((1, 2)), ordered_Q
