"""The objectives of both stages, as functions of log-probabilities.

Shapes: Q questions, K candidate responses each (padded with `real_QK` False where a question has fewer), N
response tokens. Nothing here knows of models or files.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from trice.training.settings import RankingObjective


def sequence_scores(
    logps_N: torch.Tensor, response_N: torch.Tensor, responses: int, length_penalty: float = 1.0
) -> torch.Tensor:
    """p_i = Σ_m log p(y_i,m) / len(y_i)**length_penalty for each response, [responses].

    `response_N` tells which response each token belongs to; len counts the tokens that carry loss.
    """
    total = logps_N.new_zeros(responses).index_add(0, response_N, logps_N)
    length = logps_N.new_zeros(responses).index_add(0, response_N, torch.ones_like(logps_N))
    return total / length.clamp(min=1) ** length_penalty


class Ranking(NamedTuple):
    """Of each question, [Q]: the loss, its pairs of unequal rewards, and how many of these are ordered rightly."""

    loss_Q: torch.Tensor
    pairs_Q: torch.Tensor
    ordered_Q: torch.Tensor


def ranking(
    objective: RankingObjective,
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor,
    reference_QK: torch.Tensor | None = None,
    *,
    margin: float = 0.0,
    beta: float = 0.1,
) -> Ranking:
    """The term of stage 2 that ranks candidates, by the name that the setting `objective` has for it.

    `scores_QK` are `sequence_scores`, of which `dpo` also wants the reference policy's, taken in the same way.
    `margin` is of `rank` and `weighted` alone, `beta` of `dpo` alone.
    """
    match objective:
        case "rank":
            return rank_loss(scores_QK, rewards_QK, real_QK, margin)
        case "weighted":
            return weighted_loss(scores_QK, rewards_QK, real_QK, margin)
        case "listwise":
            return listwise_loss(scores_QK, rewards_QK, real_QK)
        case "dpo":
            if reference_QK is None:
                raise ValueError("dpo wants the reference policy's scores")
            return dpo_loss(scores_QK, rewards_QK, real_QK, reference_QK, beta)


def rank_loss(
    scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor, margin: float = 0.0
) -> Ranking:
    """The ranking loss Σ_{r_i < r_j} max(0, p_i − p_j + margin) of each question.

    Equal rewards give no term. With margin 0 this is the ranking loss of TRICE (Qiao et al., NAACL 2024) and
    RRHF (Yuan et al., 2023). A pair counts as ordered where p_i < p_j.
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    loss_QKK = (_differences(scores_QK) + margin).clamp(min=0)
    return _ranking(loss_QKK.mul(pairs_QKK).sum((1, 2)), scores_QK, pairs_QKK)


def weighted_loss(
    scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor, margin: float = 0.0
) -> Ranking:
    """The ranking loss weighted by rewards, Σ_{r_i < r_j} (r_j − r_i) max(0, p_i − p_j + margin).

    A hinge times what its error costs, as in slack re-scaling (Tsochantaridis et al., JMLR 2005). The weight is
    in the rewards' own unit, which α has to undo: the paper's rewards differ by 5 to 20, 10 on average.
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    weight_QKK = _differences(rewards_QK).neg().masked_fill(~pairs_QKK, 0).to(scores_QK.dtype)
    loss_QKK = (_differences(scores_QK) + margin).clamp(min=0)
    return _ranking(loss_QKK.mul(weight_QKK).sum((1, 2)), scores_QK, pairs_QKK)


def dpo_loss(
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor,
    reference_QK: torch.Tensor,
    beta: float = 0.1,
) -> Ranking:
    """DPO on all pairs of unequal rewards: −Σ_{r_i < r_j} log σ(β (d_j − d_i)), d = score − reference score.

    The sigmoid loss of DPO (Rafailov et al., NeurIPS 2023), whose scores are sums of log-probabilities
    (`length_penalty` 0); with means (1) it is the length-normalised variant. All pairs, as InstructGPT (Ouyang
    et al., 2022) trains on a ranked list and LiPO (Liu et al., 2024) takes DPO to one: the best response
    against the others would leave the order of the others unused, and these are the pairs of `rank_loss`. A
    pair counts as ordered where d_i < d_j (DPO's implicit reward).
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    shift_QK = scores_QK - reference_QK.to(scores_QK.dtype)
    loss_QKK = torch.nn.functional.softplus(beta * _differences(shift_QK))
    return _ranking(loss_QKK.mul(pairs_QKK).sum((1, 2)), shift_QK, pairs_QKK)


def listwise_loss(scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor) -> Ranking:
    """−log P(the order of the rewards), where the responses are ranked by drawing one after another with
    probability ∝ exp(p_i) among those left (Plackett 1975, Luce 1959; as a loss: ListMLE, Xia et al., ICML 2008).

    Equal rewards are not ordered among themselves: P is the sum over all orders of theirs. It is a product over
    the levels of reward of P(all of the level before all below), as what is drawn later does not depend on how
    the earlier were ordered; the lowest level's factor is 1. A pair counts as ordered where p_i < p_j.
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    both_QKK = real_QK.unsqueeze(2) & real_QK.unsqueeze(1)
    level_QKK = (rewards_QK.unsqueeze(2) == rewards_QK.unsqueeze(1)) & both_QKK
    below_QKK = pairs_QKK.transpose(1, 2)
    # One response stands for its level: the first of it, if there is any below.
    stands_QK = ~level_QKK.tril(-1).any(2) & below_QKK.any(2)
    question_L = stands_QK.nonzero()[:, 0]
    before_L = _log_before(scores_QK[question_L].double(), level_QKK[stands_QK], below_QKK[stands_QK])
    loss_Q = before_L.new_zeros(len(scores_QK)).index_add(0, question_L, -before_L)
    return _ranking(loss_Q.to(scores_QK.dtype), scores_QK, pairs_QKK)


def _log_before(scores_LK: torch.Tensor, level_LK: torch.Tensor, below_LK: torch.Tensor) -> torch.Tensor:
    """log P(all of the level are drawn before any below), [L], all others being gone. Float64.

    With exponential waiting times, P = ∫₀^∞ Π_{i in level} (1 − exp(−t w_i / W)) exp(−t) dt, w = exp(score), W
    their sum below (DeLong, Guirguis and So, Biometrika 1994): work that grows with K, not with K! or 2^K. In
    x = log t the integrand is smooth, and vanishes outside −36 … 6, so that plain steps of 0.1 are exact to
    about 12 digits for levels of up to 50 responses.
    """
    step = 0.1
    x_N = torch.arange(-36, 6, step, dtype=scores_LK.dtype, device=scores_LK.device)
    rest_L1 = scores_LK.masked_fill(~below_LK, -torch.inf).logsumexp(1, keepdim=True)
    rate_LKN = (scores_LK - rest_L1).unsqueeze(2) + x_N
    # log(1 − exp(−exp(rate))): below −30 it is the rate itself, above 6 it is 0.
    inner_LKN = rate_LKN.clamp(-30, 6)
    drawn_LKN = inner_LKN.exp().neg().expm1().neg().log() + (rate_LKN - inner_LKN).clamp(max=0)
    drawn_LN = drawn_LKN.mul(level_LK.unsqueeze(2)).sum(1)
    return (drawn_LN + x_N - x_N.exp()).logsumexp(1) + math.log(step)


def _pairs(rewards_QK: torch.Tensor, real_QK: torch.Tensor) -> torch.Tensor:
    """Where r_i < r_j and both responses exist, [Q, K, K] by question, i and j."""
    lower_QKK = rewards_QK.unsqueeze(2) < rewards_QK.unsqueeze(1)
    return lower_QKK & real_QK.unsqueeze(2) & real_QK.unsqueeze(1)


def _differences(values_QK: torch.Tensor) -> torch.Tensor:
    """v_i − v_j, [Q, K, K] by question, i and j."""
    return values_QK.unsqueeze(2) - values_QK.unsqueeze(1)


def _ranking(loss_Q: torch.Tensor, values_QK: torch.Tensor, pairs_QKK: torch.Tensor) -> Ranking:
    ordered_QKK = (_differences(values_QK) < 0) & pairs_QKK
    return Ranking(loss_Q, pairs_QKK.sum((1, 2)), ordered_QKK.sum((1, 2)))
