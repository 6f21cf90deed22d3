"""Dropout drops at its rate, keeps the expectation, and goes by torch's seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trice.models.local import load_base
from trice.training.dropout import Dropout
from trice.training.lora import with_lora
from trice.training.settings import Lora


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_and_the_expectation(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1001, 999, dtype=dtype))
    zero = dropped == 0
    # A million draws: a share within four standard deviations, in every column of four draws to a number too.
    for part in (zero, *(zero.flatten()[place::4] for place in range(4))):
        spread = (rate * (1 - rate) / part.numel()) ** 0.5
        assert part.double().mean().item() == pytest.approx(rate, abs=4 * spread)
    assert dropped[~zero].unique().tolist() == [pytest.approx(1 / (1 - rate), rel=4e-3)]


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    zero = (Dropout(0.5)(torch.ones(1_000_000)) == 0).double()
    for distance in (1, 2, 3, 4):
        both = (zero[:-distance] * zero[distance:]).mean().item()
        assert both == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1e6) ** 0.5)


def test_the_gradient_goes_where_the_value_goes() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(2)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach())
    torch.manual_seed(2)
    assert torch.equal(Dropout(0.4)(x), y)
    assert Dropout(0.4).eval()(x) is x


def test_lora_layers_have_it(tiny_model: Callable[[str], Path]) -> None:
    loaded = load_base(str(tiny_model("llama")), device="cpu", dtype="float32")
    model = with_lora(loaded, None, Lora(lora_dropout=0.3), 0)
    assert not [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert {module.rate for module in model.modules() if isinstance(module, Dropout)} == {0.3}
