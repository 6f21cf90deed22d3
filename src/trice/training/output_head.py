"""Log-probabilities of response tokens from hidden states, without the [tokens × vocabulary] matrix.

The output head is multiplied in tiles of the vocabulary that fit the processor's cache, as flash attention does
with keys. A running maximum and sum give the log-softmax, and the same pass sums the head's rows weighted by their
probabilities, which is all that the gradient needs. The head's weight counts as frozen: only hidden states get a
gradient.
"""

from __future__ import annotations

from typing import Any

import torch

TILE = {"cpu": 2048}  # vocabulary entries at a time
GPU_TILE = 32768  # a GPU is faster with fewer and larger products
STATE_CHUNK = 1024  # hidden states at a time, which bounds the memory


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ)[target] of each edge (state, target).

    The gradient with respect to h is W[target] − Σ_v p_v W_v. A soft cap on logits multiplies both terms by the
    chain rule's 1 − (logit/cap)². The weighted sum is computed once for each state, however many targets it has.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden_MD: torch.Tensor,
        weight_VD: torch.Tensor,
        state_E: torch.Tensor,
        target_E: torch.Tensor,
        cap: float | None,
    ) -> torch.Tensor:
        chosen_E = hidden_MD.new_empty(len(state_E), dtype=accumulation_dtype(hidden_MD))
        totals, means = [], []
        for first in range(0, len(hidden_MD), STATE_CHUNK):
            hidden = hidden_MD[first : first + STATE_CHUNK]
            edges = ((state_E >= first) & (state_E < first + STATE_CHUNK)).nonzero().squeeze(1)
            total, mean, chosen = _tiled_softmax(
                hidden, weight_VD, state_E[edges] - first, target_E[edges], cap, ctx.needs_input_grad[0]
            )
            chosen_E[edges] = chosen
            totals.append(total)
            means.append(mean)
        if ctx.needs_input_grad[0]:
            rows_ED = weight_VD[target_E]
            slope_E = torch.ones_like(chosen_E) if cap is None else 1 - (chosen_E / cap) ** 2
            ctx.save_for_backward(torch.cat(means), rows_ED, slope_E, state_E)
            ctx.dtype = hidden_MD.dtype
        return chosen_E - torch.cat(totals)[state_E]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        mean_MD, rows_ED, slope_E, state_E = ctx.saved_tensors
        (grad_E,) = grads
        push_M = grad_E.new_zeros(len(mean_MD)).index_add_(0, state_E, grad_E)
        grad_MD = mean_MD * -push_M.unsqueeze(1)
        grad_MD.index_add_(0, state_E, rows_ED.to(mean_MD.dtype) * (grad_E * slope_E).unsqueeze(1))
        return grad_MD.to(ctx.dtype), None, None, None, None


def accumulation_dtype(tensor: torch.Tensor) -> torch.dtype:
    """At least float32, since half precision is too coarse for a sum over the vocabulary."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _tiled_softmax(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    state_E: torch.Tensor,
    target_E: torch.Tensor,
    cap: float | None,
    with_mean: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log Σ_v exp logit_v [M], the probability-weighted mean row of the head [M, D], and the edges' logits [E]."""
    dtype, tile = accumulation_dtype(hidden_MD), TILE.get(hidden_MD.device.type, GPU_TILE)
    top_M1 = hidden_MD.new_full((len(hidden_MD), 1), -torch.inf, dtype=dtype)
    sum_M1 = torch.zeros_like(top_M1)
    mean_MD = torch.zeros(hidden_MD.shape, dtype=dtype, device=hidden_MD.device)
    chosen_E = hidden_MD.new_empty(len(state_E), dtype=dtype)
    # Reused, because a new buffer for each tile would cause page faults.
    logits = hidden_MD.new_empty(len(hidden_MD), tile)
    target_E, order = target_E.sort()
    starts = range(0, len(weight_VD), tile)
    bounds = torch.searchsorted(target_E, torch.tensor([*starts, len(weight_VD)], device=target_E.device))
    for start, (low, high) in zip(starts, bounds.unfold(0, 2, 1).tolist(), strict=True):
        rows = weight_VD[start : start + tile]
        tile_logits = logits[:, : len(rows)]
        torch.mm(hidden_MD, rows.T, out=tile_logits)
        part = tile_logits.to(dtype)
        if cap is not None:
            part = part.div(cap).tanh_().mul_(cap)
        inside = order[low:high]
        chosen_E[inside] = part[state_E[inside], target_E[low:high] - start]
        best = torch.maximum(top_M1, part.amax(1, keepdim=True))
        fade, top_M1 = (top_M1 - best).exp_(), best
        chain = None if cap is None else 1 - (part / cap) ** 2
        part = part.sub_(best).exp_()
        sum_M1.mul_(fade).add_(part.sum(1, keepdim=True))
        if with_mean:
            part = part if chain is None else part.mul_(chain)
            _add_product(mean_MD.mul_(fade), part, rows)
    return (top_M1 + sum_M1.log()).squeeze(1), mean_MD.div_(sum_M1), chosen_E


def _add_product(total_MD: torch.Tensor, part: torch.Tensor, rows: torch.Tensor) -> None:
    if rows.dtype == total_MD.dtype:
        total_MD.addmm_(part, rows)
    else:  # the product in the head's precision, the sum over tiles in float32
        total_MD.add_(part.to(rows.dtype) @ rows)


def token_log_probs(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    state_E: torch.Tensor,
    target_E: torch.Tensor,
    cap: float | None = None,
) -> torch.Tensor:
    """log p(target | context) of each edge, [E] in float32 (float64 for float64 input).

    `hidden_MD` are the last hidden states at the positions that predict a token. Edge e predicts `target_E[e]` from
    state `state_E[e]`. `weight_VD` is the frozen output head, `cap` the model's soft cap on final logits.
    """
    result: torch.Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_MD, weight_VD, state_E, target_E, cap
    )
    return result
