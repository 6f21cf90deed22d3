"""Merging a LoRA adapter into the weights of its base model, with the logits that PEFT computes without merging.

PEFT merges into whatever tensor a layer holds. Where two layers hold the same one (an output head tied to the
embeddings, layers that `layer_replication` repeats), merging into one would change the other as well, so such a
layer receives a copy first. Does not cover models in 8 or 4 bits.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn


def merge(model: Any) -> Any:
    """The base model of a PEFT model, with the adapter in its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders = Counter(
        parameter.data_ptr()
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.numel()
    )
    tied = model.get_base_model().get_output_embeddings()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            _separate(module.get_base_layer(), holders)
            _open_bias(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied layers, which is followed here
        merged = model.merge_and_unload()
    config = merged.config.get_text_config()
    for (
        module
    ) in merged.modules():  # a repeated layer holds a copy, which a change of the model's would not reach
        if isinstance(getattr(module, "config", None), type(config)):
            module.config = config
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if tied is not None and head.weight is not embedding.weight:
        config.tie_word_embeddings = merged.config.tie_word_embeddings = False
    return merged


def _separate(layer: nn.Module, holders: Counter[int]) -> None:
    """Give a layer its own copy of every parameter that another layer holds too."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if holders[parameter.data_ptr()] > 1:
            copy = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(layer, name, copy)


def _open_bias(module: Any) -> None:
    """Give the base layer of LoRA with a bias (`lora_bias`) one to merge it into, where it has none."""
    layer = module.get_base_layer()
    if any(getattr(module, "lora_bias", {}).values()) and layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]), requires_grad=False)
