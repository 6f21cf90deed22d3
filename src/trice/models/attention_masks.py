"""Attention masks for rows that are not one plain sequence: packed trees, and shared prefixes.

A mask is built from what each token may see and from positions, so it stays exact for sliding-window layers
whatever padding or siblings stand between two tokens in memory.
"""

from __future__ import annotations

from typing import Any

import torch

KINDS = {"full_attention", "sliding_attention"}  # of layers, as configurations name them


def layer_masks(
    config: Any,
    allowed_BQK: torch.Tensor,
    query_positions_BQ: torch.Tensor,
    key_positions_BK: torch.Tensor,
    itself: bool = True,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The `attention_mask` to pass to a transformers causal LM.

    `allowed_BQK` (bool) says which keys a query may see, before any window. Returns one [B, 1, Q, K] mask where
    every layer sees alike, else one for each kind of layer. Where a model has sliding windows in every layer
    the one mask is cut to the window. Masks are bool, or 0 and the least float32 where the model runs in eager
    mode, which adds them to its scores. With `itself`, every query sees its own token, the last ones of the keys.
    """
    eager = getattr(config, "_attn_implementation", None) == "eager"
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    slides = "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True))
    full = _written(allowed_BQK, eager, itself)
    if not window or not slides or int(key_positions_BK.max()) < window:
        return full
    distance_BQK = query_positions_BQ.unsqueeze(2) - key_positions_BK.unsqueeze(1)
    near = _written(allowed_BQK & (distance_BQK < window), eager, itself)
    return {"full_attention": full, "sliding_attention": near} if len(kinds) > 1 else near


def _written(allowed_BQK: torch.Tensor, eager: bool, itself: bool) -> torch.Tensor:
    """As [B, 1, Q, K], each query seeing itself, so that no padding row is empty (an empty softmax is NaN)."""
    if itself:
        queries, keys = allowed_BQK.shape[1:]
        own = torch.eye(queries, keys, dtype=torch.bool, device=allowed_BQK.device)
        allowed_BQK = allowed_BQK | own.roll(keys - queries, dims=1)
    seen_B1QK = allowed_BQK.unsqueeze(1)
    if not eager:
        return seen_B1QK
    added_B1QK = torch.zeros(seen_B1QK.shape, dtype=torch.float32, device=seen_B1QK.device)
    return added_B1QK.masked_fill(~seen_B1QK, torch.finfo(torch.float32).min)
