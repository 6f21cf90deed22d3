"""Merges a LoRA adapter into the weights of its base model, with the same logits as PEFT without merging.

PEFT merges into the tensor that a layer holds. If two layers share a tensor (an output head tied to the
embeddings, or layers that `layer_replication` repeats), merging into one would change the other, so such a
layer first gets a copy. Models in 8 or 4 bits are not covered.
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
            _untie(module.get_base_layer(), holders)
            _add_bias(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied layers, which is followed here
        merged = model.merge_and_unload()
    config = merged.config.get_text_config()
    for module in merged.modules():  # a repeated layer has a copy of the configuration
        if isinstance(getattr(module, "config", None), type(config)):
            module.config = config
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if tied is not None and head.weight is not embedding.weight:
        config.tie_word_embeddings = merged.config.tie_word_embeddings = False
    return merged


def _untie(layer: nn.Module, holders: Counter[int]) -> None:
    """Give a layer a copy of every parameter that it shares with another layer."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if holders[parameter.data_ptr()] > 1:
            copy = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(layer, name, copy)


def _add_bias(module: Any) -> None:
    """Give the base layer of LoRA with a bias (`lora_bias`) a bias to merge it into, if it has none."""
    layer = module.get_base_layer()
    if any(getattr(module, "lora_bias", {}).values()) and layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]), requires_grad=False)
