"""From logits to tokens: the best, or one drawn, of a large vocabulary.

Logits come as [V, B], in blocks of the vocabulary. The k best tokens lie in the k blocks with the largest maxima,
so only those are sorted; a draw from the whole vocabulary first draws a block by its mass. On 262k tokens a plain
topk or multinomial costs more than the model's own step. A row's random numbers are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from trice.models.kv_cache import BLOCK
from trice.models.sampling import Sampling

FEW = 1024  # tokens among which `top_p` mostly ends
PART = 64  # blocks at a time that are summed in float32


def greedy(logits_VB: torch.Tensor) -> torch.Tensor:
    """The best token of each row, [B]; the first of equal ones."""
    blocks_NWB = logits_VB.view(-1, BLOCK, logits_VB.shape[1])
    block_B = blocks_NWB.amax(1).argmax(0)
    rows_B = torch.arange(len(block_B), device=block_B.device)
    return block_B * BLOCK + blocks_NWB[block_B, :, rows_B].argmax(1)


def top(logits_VB: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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


def masses(logits_VB: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's largest logit [B], and Σ exp((logit − largest) / temperature) of each block [N, B], in float32."""
    blocks_NWB = logits_VB.view(-1, BLOCK, logits_VB.shape[1])
    top_B = blocks_NWB.amax(1).amax(0).float()
    parts = [(part.float() - top_B).div_(temperature).exp_().sum(1) for part in torch.split(blocks_NWB, PART)]
    return top_B, torch.cat(parts)


def log_total(logits_VB: torch.Tensor) -> torch.Tensor:
    """log Σ exp logit of each row, [B] in float32."""
    top_B, mass_NB = masses(logits_VB)
    return top_B + mass_NB.sum(0).log()


def drawn(logits_VB: torch.Tensor, sampling: Sampling, numbers: Sequence[float]) -> torch.Tensor:
    """A token for each row, [B], by one number in [0, 1) each: the tokens' probabilities after temperature, `top_k`
    and `top_p`, laid end to end."""
    numbers_B1 = torch.tensor([[number] for number in numbers], dtype=torch.float64, device=logits_VB.device)
    if not sampling.top_k and sampling.top_p == 1:
        return _from_all(logits_VB, sampling.temperature, numbers_B1)
    weights_Bk, tokens_Bk = nucleus(logits_VB, sampling)
    return tokens_Bk.gather(1, _where(weights_Bk, numbers_B1)).squeeze(1)


def nucleus(logits_VB: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that `top_k` and `top_p` leave and their weights (not normalised), both [B, k], 0 for those that
    are dropped, the likeliest first."""
    values_Bk, tokens_Bk = top(logits_VB, sampling.top_k or FEW)
    weights_Bk = ((values_Bk - values_Bk[:, :1]) / sampling.temperature).exp()
    if sampling.top_p == 1:
        return weights_Bk, tokens_Bk
    total_B1 = weights_Bk.sum(1, keepdim=True)
    if not sampling.top_k:
        total_B1 = masses(logits_VB, sampling.temperature)[1].sum(0).unsqueeze(1)
        if bool((weights_Bk.sum(1, keepdim=True) < sampling.top_p * total_B1).any()):  # a flat distribution
            values_Bk, tokens_Bk = top(logits_VB, len(logits_VB))
            weights_Bk = ((values_Bk - values_Bk[:, :1]) / sampling.temperature).exp()
    # What comes after the mass top_p is reached is dropped, never the first.
    before_Bk = weights_Bk.cumsum(1) - weights_Bk
    return weights_Bk.masked_fill(before_Bk >= sampling.top_p * total_B1, 0), tokens_Bk


def _from_all(logits_VB: torch.Tensor, temperature: float, numbers_B1: torch.Tensor) -> torch.Tensor:
    top_B, mass_NB = masses(logits_VB, temperature)
    ends_BN = mass_NB.T.double().cumsum(1)
    aim_B1 = numbers_B1 * ends_BN[:, -1:]
    block_B1 = torch.searchsorted(ends_BN, aim_B1, right=True).clamp_(max=ends_BN.shape[1] - 1)
    rows_B = torch.arange(len(block_B1), device=block_B1.device)
    inside_BW = logits_VB.view(-1, BLOCK, logits_VB.shape[1])[block_B1.squeeze(1), :, rows_B].float()
    weights_BW = ((inside_BW - top_B.unsqueeze(1)) / temperature).exp()
    start_B1 = (ends_BN - mass_NB.T.double()).gather(1, block_B1)
    share_B1 = ((aim_B1 - start_B1) / mass_NB.T.double().gather(1, block_B1)).clamp_(0, 1)
    return (block_B1 * BLOCK + _where(weights_BW, share_B1)).squeeze(1)


def _where(weights_Bk: torch.Tensor, numbers_B1: torch.Tensor) -> torch.Tensor:
    """The place, [B, 1], at which each number stands among weights laid end to end; never one of weight 0."""
    ends_Bk = weights_Bk.double().cumsum(1)
    last_B1 = (
        (weights_Bk > 0)
        .long()
        .mul_(torch.arange(weights_Bk.shape[1], device=weights_Bk.device))
        .amax(1, keepdim=True)
    )
    return torch.searchsorted(ends_Bk, numbers_B1 * ends_Bk[:, -1:], right=True).minimum(last_B1)


def bar(logits_VB: torch.Tensor, barred: Iterable[Sequence[int]]) -> None:
    """Let no row choose the tokens that are barred for it."""
    pairs = [(token, row) for row, tokens in enumerate(barred) for token in tokens]
    if pairs:
        tokens, rows = torch.tensor(pairs, device=logits_VB.device).T
        logits_VB[tokens, rows] = -torch.inf


def penalise(
    logits_VB: torch.Tensor,
    histories: Iterable[Sequence[int]],
    penalty: float,
    totals_B: torch.Tensor | None = None,
) -> None:
    """Make the tokens of each row's history less likely: a logit above 0 is divided, one below is multiplied by
    the penalty (Keskar et al. 2019, section 4.1). With `totals_B`, log Σ exp logit, the same is done to the
    log-probability, as in transformers' beam search."""
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
