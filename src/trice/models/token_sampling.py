"""Chooses tokens from logits of a large vocabulary: the best ones, or samples.

Logits are [V, B], divided into blocks of the vocabulary. The k best tokens are in the k blocks with the largest
maxima, so only those are sorted. Sampling from the whole vocabulary first samples a block by its total weight. With
262k tokens a plain topk or multinomial takes longer than the model's own step. Each row has its own random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from trice.models.sampling import Sampling

BLOCK = 256  # vocabulary entries per block
NUCLEUS_TOKENS = 1024  # the best tokens, among which `top_p` usually ends
BLOCKS_AT_A_TIME = 64  # that are summed in float32


def greedy_tokens(logits_VB: torch.Tensor) -> torch.Tensor:
    """The best token of each row, [B]; the first one if several are equal."""
    blocks_NWB = logits_VB.view(-1, BLOCK, logits_VB.shape[1])
    block_B = blocks_NWB.amax(1).argmax(0)
    rows_B = torch.arange(len(block_B), device=block_B.device)
    return block_B * BLOCK + blocks_NWB[block_B, :, rows_B].argmax(1)


def top_tokens(logits_VB: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest logits of each row in float32 and their tokens, both [B, k], the largest first."""
    vocabulary, rows = logits_VB.shape
    k = min(k, vocabulary)
    if vocabulary <= k * BLOCK:
        values, tokens = logits_VB.T.float().topk(k)
        return values, tokens
    blocks_NWB = logits_VB.view(-1, BLOCK, rows)
    best_kB = blocks_NWB.amax(1).topk(k, 0).indices
    inside_kBW = blocks_NWB[best_kB, :, torch.arange(rows, device=best_kB.device)]
    values, places = inside_kBW.transpose(0, 1).flatten(1).float().topk(k)
    return values, best_kB.T.gather(1, places // BLOCK) * BLOCK + places % BLOCK


def block_weights(logits_VB: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's largest logit [B], and Σ exp((logit − largest) / temperature) of each block [N, B], in float32."""
    blocks_NWB = logits_VB.view(-1, BLOCK, logits_VB.shape[1])
    top_B = blocks_NWB.amax(1).amax(0).float()
    parts = [
        (part.float() - top_B).div_(temperature).exp_().sum(1)
        for part in torch.split(blocks_NWB, BLOCKS_AT_A_TIME)
    ]
    return top_B, torch.cat(parts)


def log_sum_exp(logits_VB: torch.Tensor) -> torch.Tensor:
    """log Σ exp logit of each row, [B] in float32."""
    top_B, weights_NB = block_weights(logits_VB)
    return top_B + weights_NB.sum(0).log()


def sample_tokens(logits_VB: torch.Tensor, sampling: Sampling, numbers: Sequence[float]) -> torch.Tensor:
    """Sample a token for each row, [B], given one uniform random number in [0, 1) for each. Inverts the cumulative
    distribution of the tokens after temperature, `top_k` and `top_p`."""
    numbers_B1 = torch.tensor([[number] for number in numbers], dtype=torch.float64, device=logits_VB.device)
    if not sampling.top_k and sampling.top_p == 1:
        return _sample_from_all(logits_VB, sampling.temperature, numbers_B1)
    weights_Bk, tokens_Bk = nucleus(logits_VB, sampling)
    return tokens_Bk.gather(1, _find_positions(weights_Bk, numbers_B1)).squeeze(1)


def nucleus(logits_VB: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that `top_k` and `top_p` keep, the most probable first, and their weights, both [B, k].
    Weights are not normalised; those of dropped tokens are 0."""
    values_Bk, tokens_Bk = top_tokens(logits_VB, sampling.top_k or NUCLEUS_TOKENS)
    weights_Bk = ((values_Bk - values_Bk[:, :1]) / sampling.temperature).exp()
    if sampling.top_p == 1:
        return weights_Bk, tokens_Bk
    total_B1 = weights_Bk.sum(1, keepdim=True)
    if not sampling.top_k:
        total_B1 = block_weights(logits_VB, sampling.temperature)[1].sum(0).unsqueeze(1)
        flat = weights_Bk.sum(1, keepdim=True) < sampling.top_p * total_B1
        if bool(flat.any()):
            values_Bk, tokens_Bk = top_tokens(logits_VB, len(logits_VB))
            weights_Bk = ((values_Bk - values_Bk[:, :1]) / sampling.temperature).exp()
    # Tokens after the total weight reaches top_p are dropped, but never the first one.
    before_Bk = weights_Bk.cumsum(1) - weights_Bk
    return weights_Bk.masked_fill(before_Bk >= sampling.top_p * total_B1, 0), tokens_Bk


def _sample_from_all(logits_VB: torch.Tensor, temperature: float, numbers_B1: torch.Tensor) -> torch.Tensor:
    top_B, weights_NB = block_weights(logits_VB, temperature)
    ends_BN = weights_NB.T.double().cumsum(1)
    aim_B1 = numbers_B1 * ends_BN[:, -1:]
    block_B1 = torch.searchsorted(ends_BN, aim_B1, right=True).clamp_(max=ends_BN.shape[1] - 1)
    rows_B = torch.arange(len(block_B1), device=block_B1.device)
    inside_BW = logits_VB.view(-1, BLOCK, logits_VB.shape[1])[block_B1.squeeze(1), :, rows_B].float()
    weights_BW = ((inside_BW - top_B.unsqueeze(1)) / temperature).exp()
    start_B1 = (ends_BN - weights_NB.T.double()).gather(1, block_B1)
    share_B1 = ((aim_B1 - start_B1) / weights_NB.T.double().gather(1, block_B1)).clamp_(0, 1)
    return (block_B1 * BLOCK + _find_positions(weights_BW, share_B1)).squeeze(1)


def _find_positions(weights_Bk: torch.Tensor, numbers_B1: torch.Tensor) -> torch.Tensor:
    """The index, [B, 1], at which each number falls into the cumulative weights; never one of weight 0."""
    ends_Bk = weights_Bk.double().cumsum(1)
    last_B1 = (
        (weights_Bk > 0)
        .long()
        .mul_(torch.arange(weights_Bk.shape[1], device=weights_Bk.device))
        .amax(1, keepdim=True)
    )
    return torch.searchsorted(ends_Bk, numbers_B1 * ends_Bk[:, -1:], right=True).minimum(last_B1)


def suppress_tokens(logits_VB: torch.Tensor, suppressed: Iterable[Sequence[int]]) -> None:
    """Set the logits of each row's suppressed tokens to -inf."""
    pairs = [(token, row) for row, tokens in enumerate(suppressed) for token in tokens]
    if pairs:
        tokens, rows = torch.tensor(pairs, device=logits_VB.device).T
        logits_VB[tokens, rows] = -torch.inf


def penalise_repetition(
    logits_VB: torch.Tensor,
    histories: Iterable[Sequence[int]],
    penalty: float,
    totals_B: torch.Tensor | None = None,
) -> None:
    """Make the tokens of each row's history less likely: a logit above 0 is divided by the penalty, one below 0 is
    multiplied by it (Keskar et al. 2019, section 4.1). With `totals_B`, log Σ exp logit, the penalty is applied to
    the log-probability instead, as in transformers' beam search."""
    if penalty == 1:
        return
    pairs = [(token, row) for row, history in enumerate(histories) for token in set(history)]
    tokens, rows = torch.tensor(pairs, device=logits_VB.device).T
    scores = logits_VB[tokens, rows].float()
    if totals_B is None:
        scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    else:
        scores = (scores - totals_B[rows]) * penalty + totals_B[rows]
    logits_VB[tokens, rows] = scores.to(logits_VB.dtype)
