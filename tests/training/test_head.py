"""The tiled output head against the plain computation in float64, and on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from trice.training import output_head
from trice.training.output_head import token_log_probs


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize(("states", "edges"), [(1, 1), (7, 7), (7, 30), (40, 3)])
@pytest.mark.parametrize("tile", [2, 11, 100])
def test_log_probs_and_gradient_are_those_of_the_plain_computation(
    states: int, edges: int, tile: int, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state predicts several tokens, one, or none; tiles and slices of states end anywhere."""
    monkeypatch.setattr(output_head, "TILE", {"cpu": tile})
    monkeypatch.setattr(output_head, "STATE_CHUNK", 6)
    torch.manual_seed(states)
    hidden_MD = torch.randn(states, 5, dtype=torch.float64, requires_grad=True)
    weight_VD = 3 * torch.randn(11, 5, dtype=torch.float64)
    state_E, target_E = torch.randint(0, states, (edges,)), torch.randint(0, 11, (edges,))
    pull_E = torch.randn(edges, dtype=torch.float64)

    logits = hidden_MD @ weight_VD.T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain_E = logits.log_softmax(-1)[state_E, target_E]
    (plain_slope,) = torch.autograd.grad(plain_E @ pull_E, hidden_MD)
    ours_E = token_log_probs(hidden_MD, weight_VD, state_E, target_E, cap)
    (slope,) = torch.autograd.grad(ours_E @ pull_E, hidden_MD)

    torch.testing.assert_close(ours_E, plain_E, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, plain_slope, rtol=1e-9, atol=1e-12)


def test_huge_logits_stay_finite() -> None:
    hidden_MD = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    both = torch.tensor([0, 1])
    logps_E = token_log_probs(hidden_MD, torch.tensor([[1.0], [-1.0]]), both, torch.tensor([0, 0]))
    assert logps_E.tolist() == [0, -2e4]
    (slope,) = torch.autograd.grad(logps_E.sum(), hidden_MD)
    assert slope.tolist() == [[0], [2]]


def test_half_precision_sums_over_the_vocabulary_in_float32() -> None:
    # 4,096 equal logits: log 4096 = 8.3178, of which bfloat16 would keep 8.3125.
    hidden_MD = torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
    zero = torch.tensor([0])
    logps_E = token_log_probs(hidden_MD, torch.ones(4096, 2, dtype=torch.bfloat16), zero, zero)
    assert logps_E.dtype == torch.float32
    assert logps_E.item() == pytest.approx(-8.317766, abs=1e-5)
    (slope,) = torch.autograd.grad(logps_E.sum(), hidden_MD)
    assert slope.dtype == torch.bfloat16
    assert slope.tolist() == [[0, 0]]  # all rows are equal, so what a state is changes nothing


def test_in_half_precision_a_certain_token_has_probability_one_at_most() -> None:
    torch.manual_seed(0)
    hidden_MD, weight_VD = torch.randn(50, 16).bfloat16(), (8 * torch.randn(30, 16)).bfloat16()
    best_E = (hidden_MD @ weight_VD.T).argmax(1)
    assert float(token_log_probs(hidden_MD, weight_VD, torch.arange(50), best_E).max()) <= 0
