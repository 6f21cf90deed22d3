"""The losses of both stages, as pure functions of log-probabilities with gradients.

They work in any torch training loop, with log-probabilities from `trice.PackedForward` or from any other forward
pass. They know no model, tokenizer or file, and they do not average over questions: that is the loop's.

Shapes: N response tokens of S responses, Q questions with K candidate responses each. If questions have fewer than
K candidates, `real_QK` is False where one is missing, and the entries of scores and rewards there do not matter.

Example:
    >>> import torch
    >>> from trice import losses
    >>> logps_N = torch.tensor([-0.5, -0.5, -0.25, -2.0], requires_grad=True)
    >>> response_N = torch.tensor([0, 0, 1, 2])                  # three responses, the first of two tokens
    >>> scores_QK = losses.sequence_scores(logps_N, response_N, 3).view(1, 3)
    >>> ranked = losses.rank_loss(scores_QK, torch.tensor([[1.0, 0.0, 0.0]]))
    >>> loss = ranked.loss_Q.mean() + losses.sft_loss(logps_N[response_N == 0])
    >>> round(loss.item(), 6)                                    # (-0.25 + 0.5) + 0.5
    0.75
    >>> loss.backward()
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from trice.training.settings import RankingObjective


def sft_loss(logps_N: torch.Tensor) -> torch.Tensor:
    """The loss of stage 1: the mean of −log p over all response tokens of the batch.

    It is the usual token-level cross-entropy (transformers' causal LM loss without gradient accumulation): a long
    response weighs more than a short one. In stage 2 it is L_sft, on the best-rewarded response of each question.

    Args:
        logps_N: log p of every token that carries loss. Prompt tokens and tool results must not be among them.

    Returns:
        A scalar; 0 if there are no tokens.

    Example:
        >>> import torch
        >>> sft_loss(torch.tensor([-1.0, -3.0])).item()
        2.0
    """
    return -logps_N.sum() / max(1, len(logps_N))


def sequence_scores(
    logps_N: torch.Tensor, response_N: torch.Tensor, responses: int, length_penalty: float = 1.0
) -> torch.Tensor:
    """The score of each response, p_i = Σ_m log p(y_i,m) / len(y_i)**length_penalty.

    Args:
        logps_N: log p of every response token that carries loss.
        response_N: The number of the response that each token belongs to, from 0.
        responses: The number of responses, S.
        length_penalty: 1 gives means (TRICE, RRHF), 0 sums (DPO). len counts the tokens that carry loss.

    Returns:
        [S]; 0 for a response without tokens.

    Example:
        >>> import torch
        >>> sequence_scores(torch.tensor([-1.0, -3.0, -4.0]), torch.tensor([0, 0, 1]), 2).tolist()
        [-2.0, -4.0]
    """
    total = logps_N.new_zeros(responses).index_add(0, response_N, logps_N)
    length = logps_N.new_zeros(responses).index_add(0, response_N, torch.ones_like(logps_N))
    return total / length.clamp(min=1) ** length_penalty


class Ranking(NamedTuple):
    """For each question, [Q]: the loss, the number of pairs with unequal rewards, and how many of these the policy
    orders as the rewards do."""

    loss_Q: torch.Tensor
    pairs_Q: torch.Tensor
    ordered_Q: torch.Tensor


def ranking(
    objective: RankingObjective,
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor | None = None,
    reference_QK: torch.Tensor | None = None,
    *,
    margin: float = 0.0,
    beta: float = 0.1,
    baseline_offset: float = 0.0,
) -> Ranking:
    """L_rank of each question by the objective's name, as the setting `objective` has it.

    Args:
        objective: `rank`, `weighted`, `dpo`, `listwise`, `grpo` or `reinforce`.
        scores_QK: `sequence_scores` by question.
        rewards_QK: The reward of each candidate.
        real_QK: Which candidates exist; all of them if None.
        reference_QK: Scores under the reference policy, for `dpo`.
        margin: For `rank` and `weighted`.
        beta: For `dpo`.
        baseline_offset: For `reinforce`.

    Raises:
        ValueError: If `dpo` gets no reference scores.

    Example:
        >>> import torch
        >>> ranking("rank", torch.tensor([[-2.0, -1.0]]), torch.tensor([[1.0, 0.0]])).loss_Q.tolist()
        [1.0]
    """
    match objective:
        case "rank":
            return rank_loss(scores_QK, rewards_QK, real_QK, margin)
        case "weighted":
            return weighted_loss(scores_QK, rewards_QK, real_QK, margin)
        case "listwise":
            return listwise_loss(scores_QK, rewards_QK, real_QK)
        case "grpo":
            return grpo_loss(scores_QK, rewards_QK, real_QK)
        case "reinforce":
            return reinforce_loss(scores_QK, rewards_QK, real_QK, baseline_offset)
        case "dpo":
            if reference_QK is None:
                raise ValueError("objective 'dpo' needs reference_QK, the scores under the reference policy")
            return dpo_loss(scores_QK, rewards_QK, reference_QK, real_QK, beta)


def rank_loss(
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor | None = None,
    margin: float = 0.0,
) -> Ranking:
    """The ranking loss Σ_{r_i < r_j} max(0, p_i − p_j + margin), a sum over pairs for each question.

    Equal rewards give no term. With margin 0 it is the ranking loss of TRICE (Qiao et al., NAACL 2024) and of RRHF
    (Yuan et al., 2023). A pair counts as ordered if p_i < p_j.

    Args:
        scores_QK: `sequence_scores` by question.
        rewards_QK: The reward of each candidate.
        real_QK: Which candidates exist; all of them if None.
        margin: By how much the better response must score higher before its pair costs nothing.

    Example:
        >>> import torch
        >>> rank_loss(torch.tensor([[-1.0, -0.5, -2.0]]), torch.tensor([[1.0, 0.0, 0.0]])).loss_Q.tolist()
        [0.5]
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    loss_QKK = (_differences(scores_QK) + margin).clamp(min=0)
    return _ranking(loss_QKK.mul(pairs_QKK).sum((1, 2)), scores_QK, pairs_QKK)


def weighted_loss(
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor | None = None,
    margin: float = 0.0,
) -> Ranking:
    """The ranking loss weighted by rewards, Σ_{r_i < r_j} (r_j − r_i) max(0, p_i − p_j + margin).

    A hinge multiplied by the cost of its error, as in slack re-scaling (Tsochantaridis et al., JMLR 2005). The
    weight has the unit of the rewards, which α has to compensate: the paper's rewards differ by 5 to 20, 10 on
    average.

    Args:
        scores_QK, rewards_QK, real_QK, margin: As in `rank_loss`.

    Example:
        >>> import torch
        >>> weighted_loss(torch.tensor([[-1.0, -0.5]]), torch.tensor([[4.0, 1.0]])).loss_Q.tolist()
        [1.5]
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    weight_QKK = _differences(rewards_QK).neg().masked_fill(~pairs_QKK, 0).to(scores_QK.dtype)
    loss_QKK = (_differences(scores_QK) + margin).clamp(min=0)
    return _ranking(loss_QKK.mul(weight_QKK).sum((1, 2)), scores_QK, pairs_QKK)


def dpo_loss(
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    reference_QK: torch.Tensor,
    real_QK: torch.Tensor | None = None,
    beta: float = 0.1,
) -> Ranking:
    """DPO on all pairs of unequal rewards: −Σ_{r_i < r_j} log σ(β (d_j − d_i)), with d = score − reference score.

    The sigmoid loss of DPO (Rafailov et al., NeurIPS 2023), whose scores are sums of log-probabilities
    (`length_penalty` 0); with means (1) it is the length-normalised variant. All pairs are used, as InstructGPT
    (Ouyang et al., 2022) does with ranked lists and LiPO (Liu et al., 2024) does for DPO: the best response against
    the others alone would leave the order of the others unused. A pair counts as ordered if d_i < d_j, DPO's
    implicit reward.

    Args:
        scores_QK, rewards_QK, real_QK: As in `rank_loss`.
        reference_QK: The same scores under the reference policy, without gradient.
        beta: The inverse temperature.

    Example:
        >>> import torch
        >>> scores, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
        >>> round(dpo_loss(scores, rewards, scores).loss_Q.item(), 4)  # log 2: the policy is the reference
        0.6931
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    shift_QK = scores_QK - reference_QK.to(scores_QK.dtype)
    loss_QKK = torch.nn.functional.softplus(beta * _differences(shift_QK))
    return _ranking(loss_QKK.mul(pairs_QKK).sum((1, 2)), shift_QK, pairs_QKK)


def listwise_loss(
    scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor | None = None
) -> Ranking:
    """−log P(the order of the rewards) under the Plackett-Luce model of each question's candidates.

    The model draws responses one after another with probability ∝ exp(p_i) among those that are left (Plackett
    1975, Luce 1959; as a loss: ListMLE, Xia et al., ICML 2008). Equal rewards have no order: P is the sum over all
    orders of theirs. It is the product over reward levels of P(the whole level is drawn before everything below),
    because later draws do not depend on the order of earlier ones; the factor of the lowest level is 1. A pair
    counts as ordered if p_i < p_j.

    Args:
        scores_QK, rewards_QK, real_QK: As in `rank_loss`.

    Example:
        >>> import torch
        >>> scores, rewards = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
        >>> round(listwise_loss(scores, rewards).loss_Q.exp().item(), 4)  # one of 3! equally likely orders
        6.0
    """
    pairs_QKK = _pairs(rewards_QK, real_QK)
    level_QKK = rewards_QK.unsqueeze(2) == rewards_QK.unsqueeze(1)
    if real_QK is not None:
        level_QKK = level_QKK & real_QK.unsqueeze(2) & real_QK.unsqueeze(1)
    below_QKK = pairs_QKK.transpose(1, 2)
    # The first response of a level represents it, if there is a level below.
    first_QK = ~level_QKK.tril(-1).any(2) & below_QKK.any(2)
    question_L = first_QK.nonzero()[:, 0]
    before_L = _log_before(scores_QK[question_L].double(), level_QKK[first_QK], below_QKK[first_QK])
    loss_Q = before_L.new_zeros(len(scores_QK)).index_add(0, question_L, -before_L)
    return _ranking(loss_Q.to(scores_QK.dtype), scores_QK, pairs_QKK)


def grpo_loss(
    scores_QK: torch.Tensor, rewards_QK: torch.Tensor, real_QK: torch.Tensor | None = None
) -> Ranking:
    """The policy gradient of GRPO: the mean of −A_i (p_i − stopgrad(p_i) + 1) over a question's candidates, with
    A_i = (r_i − mean) / (std + 1e-4).

    The form of GRPO (Shao et al., DeepSeekMath, 2024) without a KL term, when the policy that is trained is the one
    that sampled: each probability ratio is then 1, and its gradient is that of log p. The mean and the unbiased
    standard deviation are those of the question's rewards. Equal rewards give no loss and no gradient. The
    advantages of a question add up to 0, so the value is 0, and only the gradient informs. A pair counts as ordered
    if p_i < p_j.

    With means as scores (`length_penalty` 1), value and gradient are those of `GRPOTrainer` of TRL 1.16 with
    `loss_type="grpo"` and `scale_rewards="group"`. Its `beta`, `num_iterations`, `steps_per_generation`, entropy
    settings and `importance_sampling_level` have their defaults, the temperature is 1, and completions are not
    generated by vLLM. Clipping (`epsilon`) then has no effect. TRL's default `loss_type` is `"dapo"`, which
    averages over the tokens of the batch instead.

    Args:
        scores_QK, real_QK: As in `rank_loss`.
        rewards_QK: The reward of each candidate. A response that was sampled n times is n candidates.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[-1.0, -2.0]], requires_grad=True)
        >>> grpo_loss(scores, torch.tensor([[1.0, 0.0]])).loss_Q.sum().backward()
        >>> [round(slope, 3) for slope in scores.grad[0].tolist()]  # ∓ 0.5 / (√0.5 + 1e-4) / 2
        [-0.354, 0.354]
    """
    centered_QK, candidates_Q1 = _centered(rewards_QK, real_QK)
    variance_Q1 = centered_QK.square().sum(1, keepdim=True) / (candidates_Q1 - 1).clamp(min=1)
    advantages_QK = centered_QK / (variance_Q1.sqrt() + 1e-4)
    return _policy_gradient(scores_QK, advantages_QK / candidates_Q1, _pairs(rewards_QK, real_QK))


def reinforce_loss(
    scores_QK: torch.Tensor,
    rewards_QK: torch.Tensor,
    real_QK: torch.Tensor | None = None,
    baseline_offset: float = 0.0,
) -> Ranking:
    """REINFORCE with the group's mean less an offset as the baseline: `grpo_loss` with A_i = r_i − (mean − offset).

    The policy gradient of Williams (1992). With sums as scores (`length_penalty` 0) its gradient is that of Dr. GRPO
    (Liu et al., 2025) up to a constant factor, which is TRL's `max_completion_length`. With means (1), value and
    gradient are those of TRL's `GRPOTrainer` with `loss_type="grpo"` and `scale_rewards="none"`, without an offset.
    The advantage has the unit of the rewards.

    An offset above 0 is Asymmetric REINFORCE (Arnal et al., NeurIPS 2025, where it is −δV). It adds imitation of all
    sampled responses, −offset · mean score, which draws the policy back to the one that sampled. Since questions with
    equal rewards are left out, its gradient is not 0 on average: it points to as many right as wrong responses. With 4
    samples, rewards 0 and 1 and an offset of 0.3, a question of which 10% are right learns 29% faster, and one of which
    90% are right 29% slower.

    Args:
        scores_QK, rewards_QK, real_QK: As in `grpo_loss`.
        baseline_offset: By how much the baseline is below the mean reward. Questions with equal rewards give no loss
            with it either.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[-1.0, -2.0]], requires_grad=True)
        >>> reinforce_loss(scores, torch.tensor([[1.0, 0.0]])).loss_Q.sum().backward()
        >>> scores.grad.tolist()
        [[-0.25, 0.25]]
    """
    advantages_QK, candidates_Q1 = _centered(rewards_QK, real_QK, baseline_offset)
    return _policy_gradient(scores_QK, advantages_QK / candidates_Q1, _pairs(rewards_QK, real_QK))


def _centered(
    rewards_QK: torch.Tensor, real_QK: torch.Tensor | None, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """r_i − mean + offset in float64, 0 for missing candidates, and the number of candidates, [Q, 1]."""
    real_QK = torch.ones_like(rewards_QK).bool() if real_QK is None else real_QK
    rewards_QK = rewards_QK.double().masked_fill(~real_QK, 0)
    candidates_Q1 = real_QK.sum(1, keepdim=True).clamp(min=1)
    mean_Q1 = rewards_QK.sum(1, keepdim=True) / candidates_Q1
    return (rewards_QK - mean_Q1 + offset).masked_fill(~real_QK, 0), candidates_Q1


def _policy_gradient(scores_QK: torch.Tensor, weights_QK: torch.Tensor, pairs_QKK: torch.Tensor) -> Ranking:
    # The mean of equal rewards may differ from them by rounding, which Adam would enlarge.
    unequal_Q1 = pairs_QKK.any(2).any(1, keepdim=True)
    weights_QK = weights_QK.masked_fill(~unequal_Q1, 0).to(scores_QK.dtype)
    ratio_QK = scores_QK - scores_QK.detach() + 1
    return _ranking(-(weights_QK * ratio_QK).sum(1), scores_QK, pairs_QKK)


def _log_before(scores_LK: torch.Tensor, level_LK: torch.Tensor, below_LK: torch.Tensor) -> torch.Tensor:
    """log P(the whole level is drawn before anything below), [L] in float64, where only these are left.

    With exponential waiting times, P = ∫₀^∞ Π_{i in level} (1 − exp(−t w_i / W)) exp(−t) dt, w = exp(score), W
    their sum below (DeLong, Guirguis and So, Biometrika 1994). The work grows with K, not with K! or 2^K. In x =
    log t the integrand is smooth and vanishes outside −36 … 6, so equal steps of 0.1 are exact to about 12 digits
    for levels of up to 50 responses.
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


def expected_utility(
    opening_QJ: torch.Tensor, utility_Q2: torch.Tensor, real_QJ: torch.Tensor | None = None
) -> torch.Tensor:
    """What the decision to call a tool or not is worth in expectation: P(call)·U_call + (1 − P(call))·U_answer.

    P(call) is the sum of the probabilities with which a response begins as a call of each tool. Its gradient is exact,
    without samples of the decision; U_call and U_answer are constants, the mean rewards of responses of each kind.

    Args:
        opening_QJ: log-probabilities of the beginnings of calls, sums over their tokens, by question and tool. None of
            them may continue another one, which contains its probability.
        utility_Q2: U_call and U_answer of each question, without gradient.
        real_QJ: Which beginnings exist; all of them if None.

    Returns:
        [Q], in the unit of the rewards; 0·P + U_answer for a question without a tool.

    Example:
        >>> import torch
        >>> opening = torch.tensor([[0.25]]).log()
        >>> expected_utility(opening, torch.tensor([[0.9, 0.1]])).tolist()  # 0.25·0.9 + 0.75·0.1
        [0.30000001192092896]
    """
    if real_QJ is not None:
        opening_QJ = opening_QJ.masked_fill(~real_QJ, -torch.inf)
    call_Q = opening_QJ.exp().sum(1)
    worth_Q2 = utility_Q2.to(call_Q.dtype)
    return call_Q * worth_Q2[:, 0] + (1 - call_Q) * worth_Q2[:, 1]


def _pairs(rewards_QK: torch.Tensor, real_QK: torch.Tensor | None) -> torch.Tensor:
    """Where r_i < r_j and both responses exist, [Q, K, K] by question, i and j."""
    lower_QKK = rewards_QK.unsqueeze(2) < rewards_QK.unsqueeze(1)
    return lower_QKK if real_QK is None else lower_QKK & real_QK.unsqueeze(2) & real_QK.unsqueeze(1)


def _differences(values_QK: torch.Tensor) -> torch.Tensor:
    """v_i − v_j, [Q, K, K] by question, i and j."""
    return values_QK.unsqueeze(2) - values_QK.unsqueeze(1)


def _ranking(loss_Q: torch.Tensor, values_QK: torch.Tensor, pairs_QKK: torch.Tensor) -> Ranking:
    ordered_QKK = (_differences(values_QK) < 0) & pairs_QKK
    return Ranking(loss_Q, pairs_QKK.sum((1, 2)), ordered_QKK.sum((1, 2)))
