"""LoRA layers for training: new ones, or those of an existing adapter.

The default target modules are found by the names that attention layers usually have, not by a list of models, so a
new family with the usual names needs no entry.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from trice.errors import InputError, error_line
from trice.models.adapters import CONFIG, lora_config
from trice.models.local import LocalModel, attach
from trice.training.settings import Lora

# Queries and values as in the paper, or the whole of a fused projection.
DEFAULT_TARGETS = (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("W_pack",))


def with_lora(loaded: LocalModel, adapter: Path | None, lora: Lora, seed: int) -> Any:
    """The model with trainable LoRA layers: those of `adapter`, or new ones. Raises InputError for bad targets."""
    import torch
    from peft import LoraConfig, get_peft_model

    from trice.training import dropout

    torch.manual_seed(seed)
    head = loaded.model.get_output_embeddings()
    if adapter:
        if lora_config(adapter).layer_replication:
            raise InputError(
                f"{adapter / CONFIG}: field 'layer_replication': an adapter that repeats layers can be used but "
                "not trained further"
            )
        model = attach(loaded, adapter, trainable=True)
    else:
        targets = family_targets(loaded) if lora.target_modules is None else lora.target_modules
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                # PEFT uses names that transformers has changed.
                warnings.simplefilter("ignore", FutureWarning)
                model = get_peft_model(loaded.model, config)
        except ValueError as error:
            raise InputError(f"lora.target_modules {targets}: {error_line(error)}") from None
    if loaded.model.get_output_embeddings() is not head:  # PEFT wrapped it in an adapter layer
        where = f"{adapter / CONFIG}" if adapter else "lora.target_modules"
        raise InputError(
            f"{where}: the output head cannot be among the trained layers; leave it out of the target modules"
        )
    if loaded.device.type == "cpu":
        dropout.on_cpu(model)
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # the order of a set differs between processes
            config.target_modules = sorted(config.target_modules)
    # The base is frozen, so PEFT need not ask the hub at every save whether the vocabulary has changed.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def family_targets(loaded: LocalModel) -> list[str]:
    """The default target modules of this model.

    Raises InputError, which lists the model's linear layers, if its attention has none of the usual names.
    """
    import torch

    head = loaded.model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in loaded.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    for usual in DEFAULT_TARGETS:
        if names.issuperset(usual):
            return list(usual)
    raise InputError(
        f"lora.target_modules: model '{loaded.name}' has none of the usual attention layers; choose some of "
        f"{', '.join(sorted(names)) or '(it has no linear layers)'}, or all-linear"
    )


def adapter_lora(adapter: Path) -> Lora:
    """The LoRA settings of an adapter, with its target modules by their short names. Raises InputError if they are
    not valid."""
    config = lora_config(adapter)
    targets = config.target_modules
    short = sorted({name.rpartition(".")[2] for name in targets}) if isinstance(targets, set) else targets
    try:
        return Lora(
            r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=short
        )
    except ValueError as error:
        raise InputError(f"{adapter / CONFIG}: {error_line(error)}") from None
