"""Masks drawn by hand: a window counts positions, not places in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from trice.models.attention_masks import layer_masks

FULL, SLIDING = "full_attention", "sliding_attention"


def draw(mask_B1QK: torch.Tensor) -> list[str]:
    """The first row's mask, a string for each query."""
    return ["".join("x" if seen else "." for seen in row) for row in mask_B1QK[0, 0].tolist()]


def causal(config: Any, positions: list[int]) -> Any:
    """Masks of one row in which every token may see those before it in memory."""
    positions_BT = torch.tensor([positions])
    allowed_BTT = torch.ones(1, len(positions), len(positions), dtype=torch.bool).tril()
    return layer_masks(config, allowed_BTT, positions_BT, positions_BT)


TRIANGLE = ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]
BAND = ["x....", "xx...", ".xx..", "..xx.", "...xx"]


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        MistralConfig(sliding_window=None),
        MistralConfig(sliding_window=5),  # reaches as far as the row
        Qwen2Config(use_sliding_window=False, sliding_window=2),
        Qwen3Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=2, max_window_layers=2),
        Gemma3TextConfig(num_hidden_layers=2, layer_types=[FULL, FULL], sliding_window=2),
    ],
    ids=lambda config: config.model_type,
)
def test_one_mask_where_no_layer_slides(config: Any) -> None:
    assert draw(causal(config, [0, 1, 2, 3, 4])) == TRIANGLE


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=2),
        Gemma3TextConfig(num_hidden_layers=2, layer_types=[SLIDING, SLIDING], sliding_window=2),
    ],
    ids=lambda config: config.model_type,
)
def test_one_cut_mask_where_every_layer_slides(config: Any) -> None:
    assert draw(causal(config, [0, 1, 2, 3, 4])) == BAND


@pytest.mark.parametrize(
    "config",
    [
        Gemma3TextConfig(num_hidden_layers=2, layer_types=[SLIDING, FULL], sliding_window=2),
        Qwen3Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=2, max_window_layers=1),
    ],
    ids=lambda config: config.model_type,
)
def test_a_mask_for_each_kind_of_layer(config: Any) -> None:
    masks = causal(config, [0, 1, 2, 3, 4])
    assert {kind: draw(mask) for kind, mask in masks.items()} == {FULL: TRIANGLE, SLIDING: BAND}


def test_the_window_goes_by_position() -> None:
    # A prompt at 0 1 2 and two responses that both begin at 3: the second sees as far back as the first.
    positions_BT = torch.tensor([[0, 1, 2, 3, 4, 3, 4]])
    allowed_BTT = torch.ones(1, 7, 7, dtype=torch.bool).tril()
    allowed_BTT[:, 5:, 3:5] = False
    mask = layer_masks(MistralConfig(sliding_window=3), allowed_BTT, positions_BT, positions_BT)
    assert draw(mask)[3:] == [".xxx...", "..xxx..", ".xx..x.", "..x..xx"]


def test_one_query_over_a_cache() -> None:
    # Two places of padding stand before three cached tokens; the query is at position 3.
    allowed_BQK = torch.tensor([[[False, False, True, True, True, True]]])
    positions_BK = torch.tensor([[0, 0, 0, 1, 2, 3]])
    mask = layer_masks(MistralConfig(sliding_window=3), allowed_BQK, positions_BK[:, -1:], positions_BK)
    assert draw(mask) == ["...xxx"]


def test_padding_sees_itself_so_that_no_row_is_empty() -> None:
    mask = layer_masks(
        LlamaConfig(), torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2), torch.zeros(1, 4)
    )
    assert draw(mask) == ["..x.", "...x"]


def test_eager_attention_adds_its_mask() -> None:
    config = LlamaConfig(attn_implementation="eager")
    mask = causal(config, [0, 1, 2])
    least = torch.finfo(torch.float32).min
    assert mask[0, 0].tolist() == [[0, least, least], [0, 0, least], [0, 0, 0]]
