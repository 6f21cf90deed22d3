"""Attention over a packed tree in blocks: each block of successive tokens against the few keys it can see.

Registered with transformers as an attention implementation, so that every model which asks for its attention by
name runs on it unchanged: full and sliding-window layers, grouped queries. Without `tree_keys_BK` it is plain
SDPA. A soft cap on attention's own scores is not covered: such models run in eager mode under a whole mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "trice_tree"


def tree_attention(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_keys_BK: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of T tokens, [1, T, H, D]. `attention_mask` is [B, 1, Q, K] for B blocks of Q queries with K keys.

    The H / G query heads of a group stand under one another, so that keys and values are not repeated for them.
    """
    if tree_keys_BK is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_1HTD, key_1GTD, value_1GTD, attention_mask, dropout, scaling, **kwargs
        )
        return result
    assert attention_mask is not None
    (blocks, keys), size = tree_keys_BK.shape, attention_mask.shape[2]
    _, heads, tokens, width = query_1HTD.shape
    groups = key_1GTD.shape[1]
    query = F.pad(query_1HTD[0], (0, 0, 0, blocks * size - tokens))
    query = query.view(groups, heads // groups, blocks, size, width).permute(2, 0, 1, 3, 4)
    query_BGLD = query.reshape(blocks, groups, -1, width)

    def gathered(states_1GTD: torch.Tensor) -> torch.Tensor:
        rows = states_1GTD[0].index_select(1, tree_keys_BK.flatten())
        return rows.view(groups, blocks, keys, -1).transpose(0, 1)

    output = F.scaled_dot_product_attention(
        query_BGLD,
        gathered(key_1GTD),
        gathered(value_1GTD),
        attn_mask=attention_mask.repeat(1, 1, heads // groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    output = output.view(blocks, groups, heads // groups, size, -1).permute(0, 3, 1, 2, 4)
    return output.reshape(1, blocks * size, heads, -1)[:, :tokens], None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
