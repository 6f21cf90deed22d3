"""Float32 training against the plain computation in float64, for every family: loss and gradient to 1e-5."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plainly import objective
from test_packing import some_examples

from trice.models.local import load_base
from trice.training.lora import with_lora
from trice.training.packed_forward import PackedForward, PackingStrategy
from trice.training.settings import Lora, Rlef
from trice.training.trainer import loss_sums

FAMILIES = [
    "llama",
    "glm",
    "glm4",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "phi3",
    "gpt_neox",
    "granite",
]
SETTINGS = Rlef(alpha=0.5, margin=0.2)


def slope(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_within_1e5_of_float64(
    family: str, tiny_model: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    loaded = load_base(str(tiny_model(family)), device="cpu", dtype="float32")
    plain = copy.deepcopy(loaded.model)
    examples = some_examples()
    forward = PackedForward(loaded.model, examples)
    expected_strategy = {
        "gemma2": PackingStrategy("mask"),
        "granite": PackingStrategy("blocks", model_head=True),
    }
    assert forward.strategy == expected_strategy.get(family, PackingStrategy("blocks"))
    models = []
    for base in (loaded.model, plain):
        loaded.model = base
        model = with_lora(loaded, None, Lora(r=2, lora_dropout=0, target_modules="all-linear"), 0)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        models.append(model)
    ours, reference = models
    packed = forward.pack(examples)
    part = loss_sums(forward(packed), packed, SETTINGS)
    loss = SETTINGS.alpha * part.rank / part.questions + part.sft / part.tokens
    gradient = slope(ours, loss)
    request.getfixturevalue("float64")
    reference.double()
    expected = objective(reference, examples, SETTINGS.alpha, SETTINGS.margin)
    exact = slope(reference, expected)
    loss_error = abs(loss.item() / expected.item() - 1)
    slope_error = float((gradient - exact).norm() / exact.norm())
    print(f"{family:10} {forward.strategy}: loss {loss_error:.1e}, gradient {slope_error:.1e}")
    assert loss_error < 1e-5
    assert slope_error < 1e-5
