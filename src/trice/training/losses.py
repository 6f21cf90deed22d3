"""The objectives of both stages, as functions of log-probabilities.

Shapes: Q questions, K candidate responses each (padded with `real_QK` False where a question has fewer), N
response tokens. Nothing here knows of models or files.
"""

from __future__ import annotations

import torch


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
