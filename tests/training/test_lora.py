"""Which layers carry LoRA where none are named, and what is said where none can be chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trice.errors import InputError
from trice.models.local import LocalModel, load_base
from trice.training.lora import family_targets, with_lora
from trice.training.settings import Lora

QUERIES = ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", QUERIES),
        ("glm", QUERIES),
        ("glm4", QUERIES),
        ("qwen2", QUERIES),
        ("qwen3", QUERIES),
        ("gemma2", QUERIES),
        ("gemma3", QUERIES),
        ("mistral", QUERIES),
        ("phi3", ["qkv_proj"]),
        ("gpt_neox", ["query_key_value"]),
    ],
)
def test_targets_are_the_models_own_attention(
    tiny_model: Callable[[str], Path], family: str, targets: list[str]
) -> None:
    loaded = load_base(str(tiny_model(family)), device="cpu", dtype="float32")
    assert family_targets(loaded) == targets
    layers = loaded.model.config.num_hidden_layers
    model = with_lora(loaded, None, Lora(), 0)
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in adapted} == set(targets)
    assert len(adapted) == layers * len(targets)


def test_layers_that_are_named_are_those(tiny_model: Callable[[str], Path]) -> None:
    for named, expected in ((["o_proj"], {"o_proj"}), (r".*\.0\.mlp\.up_proj", {"up_proj"})):
        loaded = load_base(str(tiny_model("llama")), device="cpu", dtype="float32")
        model = with_lora(loaded, None, Lora(target_modules=named), 0)
        assert {
            name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "lora_A")
        } == expected


class Unusual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.widen, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 9)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_where_no_name_is_known_the_layers_there_are_are_named() -> None:
    loaded = LocalModel("some/model", Unusual(), None, torch.device("cpu"))
    with pytest.raises(InputError) as caught:
        with_lora(loaded, None, Lora(), 0)
    assert str(caught.value) == (
        "lora.target_modules: model 'some/model' has none of the usual attention layers; choose some of mixer, widen, "
        "or all-linear"
    )
