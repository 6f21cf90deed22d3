"""Float32 training against the plain computation in float64, for every family: loss and gradient to 1e-5."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_packing import some_examples

from trice.models.local import load_base
from trice.training.lora import with_lora
from trice.training.packing import Example, pack
from trice.training.policy import Way, prepare
from trice.training.settings import Lora, Rlef
from trice.training.trainer import measure

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


def plainly(model: Any, examples: list[Example]) -> torch.Tensor:
    """α·L_rank + L_sft as the design states it, one sequence at a time through the model's own forward."""
    rank, sft, tokens = torch.zeros(()), torch.zeros(()), 0
    for example in examples:
        totals = []
        for ids, _ in example.responses:
            row = torch.tensor([example.prompt + ids])
            logps = model(input_ids=row, use_cache=False).logits[0].log_softmax(-1)
            totals.append(logps[-len(ids) - 1 : -1].gather(1, row[0, -len(ids) :, None]).sum())
        p = [total / len(response.ids) for total, response in zip(totals, example.responses, strict=True)]
        r = example.rewards
        for i in range(len(p)):
            for j in range(len(p)):
                if r[i] < r[j]:
                    rank = rank + (p[i] - p[j] + SETTINGS.margin).clamp(min=0)
        best = r.index(max(r))
        sft, tokens = sft - totals[best], tokens + len(example.responses[best].ids)
    return SETTINGS.alpha * rank / len(examples) + sft / tokens


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
    way = prepare(loaded.model, examples)
    assert way == {"gemma2": Way("mask"), "granite": Way("blocks", own_head=True)}.get(family, Way("blocks"))
    models = []
    for base in (loaded.model, plain):
        loaded.model = base
        model = with_lora(loaded, None, Lora(r=2, dropout=0, targets="all-linear"), 0)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        models.append(model)
    ours, reference = models
    packed = pack(examples, way.layout)
    part = measure(ours(packed=packed), packed, SETTINGS)
    loss = SETTINGS.alpha * part.rank / part.questions + part.sft / part.tokens
    gradient = slope(ours, loss)
    request.getfixturevalue("float64")
    reference.double()
    expected = plainly(reference, examples)
    exact = slope(reference, expected)
    loss_error = abs(loss.item() / expected.item() - 1)
    slope_error = float((gradient - exact).norm() / exact.norm())
    print(f"{family:10} {way}: loss {loss_error:.1e}, gradient {slope_error:.1e}")
    assert loss_error < 1e-5
    assert slope_error < 1e-5
