"""Attention masks for rows that are not one plain sequence: packed trees and shared prefixes.

A mask is computed from which keys each token may attend to and from positions, so it is exact for sliding-window
layers whatever padding or sibling tokens lie between two tokens in memory.
"""

from __future__ import annotations

from typing import Any

import torch

KINDS = {"full_attention", "sliding_attention"}  # of layers, as model configurations name them


def layer_masks(
    config: Any,
    allowed_BQK: torch.Tensor,
    query_positions_BQ: torch.Tensor,
    key_positions_BK: torch.Tensor,
    itself: bool = True,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The `attention_mask` to pass to a transformers causal LM.

    Args:
        config: The model's configuration.
        allowed_BQK: Which keys a query may attend to, before any window (bool).
        query_positions_BQ: Positions of the queries.
        key_positions_BK: Positions of the keys.
        itself: Let every query attend to its own token; the queries are the last keys.

    Returns:
        One [B, 1, Q, K] mask if all layers attend alike, else one for each kind of layer. If all layers have
        sliding windows, the one mask is limited to the window. Masks are bool, or for eager attention, which
        adds them to its scores, 0 and the smallest float32.
    """
    eager = getattr(config, "_attn_implementation", None) == "eager"
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    slides = "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True))
    full = _as_mask(allowed_BQK, eager, itself)
    if not window or not slides or int(key_positions_BK.max()) < window:
        return full
    distance_BQK = query_positions_BQ.unsqueeze(2) - key_positions_BK.unsqueeze(1)
    near = _as_mask(allowed_BQK & (distance_BQK < window), eager, itself)
    return {"full_attention": full, "sliding_attention": near} if len(kinds) > 1 else near


def _as_mask(allowed_BQK: torch.Tensor, eager: bool, itself: bool) -> torch.Tensor:
    """As [B, 1, Q, K]. With `itself` no padding row is empty, since an empty softmax is NaN."""
    if itself:
        queries, keys = allowed_BQK.shape[1:]
        diagonal = torch.eye(queries, keys, dtype=torch.bool, device=allowed_BQK.device)
        allowed_BQK = allowed_BQK | diagonal.roll(keys - queries, dims=1)
    allowed_B1QK = allowed_BQK.unsqueeze(1)
    if not eager:
        return allowed_B1QK
    added_B1QK = torch.zeros(allowed_B1QK.shape, dtype=torch.float32, device=allowed_B1QK.device)
    return added_B1QK.masked_fill(~allowed_B1QK, torch.finfo(torch.float32).min)
