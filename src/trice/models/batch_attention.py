"""Attention of the rows of a batch to a shared prefix and to each row's own keys.

All rows of a batch begin with the same tokens, the shared prefix. Its keys and values are stored once and are read
by all rows in one matrix product. The function is registered with transformers' attention interface. Models whose
layers do not attend through that interface are not covered; `trice.models.decoder_check` detects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trice.models.local import LocalModel

NAME = "trice_batch"

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class SharedPrefix:
    """Keys and values [G, P, D] of each layer for the tokens that all rows begin with."""

    layers: list[KeysValues]
    length: int


@contextmanager
def batch_attention(loaded: LocalModel) -> Iterator[None]:
    """Use this attention in the model's layers within the context."""
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        loaded.model.set_attn_implementation(before)


def attention_forward(
    module: torch.nn.Module,
    query_BHQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    shared: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of B rows, [B, Q, H, D], to `shared` and then to their own keys; `attention_mask` is
    [B, 1, Q, P + K]. The H / G query heads of a group are stacked, so that no key is repeated."""
    if shared is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHQD, key_BGKD, value_BGKD, attention_mask, dropout, scaling, **kwargs
        )
        return result
    assert attention_mask is not None
    batch, heads, queries, width = query_BHQD.shape
    groups = key_BGKD.shape[1]
    query_BGXD = query_BHQD.reshape(batch, groups, -1, width)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    scale = width**-0.5 if scaling is None else scaling
    prefix = shared.layers[module.layer_idx] if shared.length else None  # type: ignore[index]
    if queries > 1 and prefix is not None:  # in prefill, copying the prefix costs less than separate scores
        pairs = ((key_BGKD, prefix[0]), (value_BGKD, prefix[1]))
        key_BGKD, value_BGKD = (torch.cat([of.expand(batch, -1, -1, -1), row], 2) for row, of in pairs)
        prefix = None
    if softcap is None and (queries > 1 or prefix is None):
        output = F.scaled_dot_product_attention(query_BGXD, key_BGKD, value_BGKD, attn_mask=mask, scale=scale)
    else:
        output = _attend(query_BGXD, key_BGKD, value_BGKD, mask, scale, softcap, prefix)
    output_BHQD = output.reshape(batch, heads, queries, -1)
    return output_BHQD.transpose(1, 2).contiguous(), None


def _attend(
    query_BGXD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    mask_B1XK: torch.Tensor,
    scale: float,
    softcap: float | None,
    prefix: KeysValues | None,
) -> torch.Tensor:
    """Attention to the prefix, as one product of the queries of all rows, and to each row's own keys."""
    batch, groups, queries, width = query_BGXD.shape
    scores = query_BGXD @ key_BGKD.transpose(2, 3)
    if prefix is not None:
        all_queries_GYD = query_BGXD.transpose(0, 1).reshape(groups, -1, width)
        to_prefix = (all_queries_GYD @ prefix[0].transpose(1, 2)).view(groups, batch, queries, -1)
        scores = torch.cat([to_prefix.transpose(0, 1), scores], 3)
    scores = scores.float() * scale
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    weights = scores.masked_fill_(~mask_B1XK, -torch.inf).softmax(-1).to(value_BGKD.dtype)
    length = weights.shape[3] - key_BGKD.shape[2]  # of the prefix
    output = weights[..., length:] @ value_BGKD
    if prefix is not None:
        weights_GYP = weights[..., :length].transpose(0, 1).reshape(groups, -1, length)
        output = output + (weights_GYP @ prefix[1]).view(groups, batch, queries, -1).transpose(0, 1)
    return output


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
