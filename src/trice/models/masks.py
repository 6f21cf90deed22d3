"""Attention masks for rows that are not one plain sequence: packed trees, and shared prefixes.

A mask is built from what each token may see and from positions, so it stays exact for sliding-window layers
whatever padding or siblings stand between two tokens in memory.
"""

from __future__ import annotations

from typing import Any

import torch


def layer_masks(
    config: Any, allowed_BQK: torch.Tensor, query_positions_BQ: torch.Tensor, key_positions_BK: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The `attention_mask` to pass to a transformers causal LM.

    `allowed_BQK` (bool) says which keys a query may see, before any window. Returns one [B, 1, Q, K] mask where
    every layer sees alike, else one for each kind of layer. Where a model has sliding windows in every layer
    the one mask is cut to the window.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    slides = "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True))
    full = _visible_diagonal(allowed_BQK).unsqueeze(1)
    if not window or not slides or int(key_positions_BK.max()) < window:
        return full
    distance_BQK = query_positions_BQ.unsqueeze(2) - key_positions_BK.unsqueeze(1)
    near = _visible_diagonal(allowed_BQK & (distance_BQK < window)).unsqueeze(1)
    return {"full_attention": full, "sliding_attention": near} if len(kinds) > 1 else near


def _visible_diagonal(allowed_BQK: torch.Tensor) -> torch.Tensor:
    """Let each query see itself, so that no padding row is empty (an empty softmax is NaN)."""
    queries, keys = allowed_BQK.shape[1:]
    itself = torch.eye(queries, keys, dtype=torch.bool, device=allowed_BQK.device)
    return allowed_BQK | itself.roll(keys - queries, dims=1)
