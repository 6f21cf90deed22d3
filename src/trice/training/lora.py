"""LoRA layers for training: new ones on layers chosen per family of models, or those of an adapter.

Which layers carry LoRA by default goes by the names that a model's attention uses, not by a list of models,
so that a new family with the usual names needs no entry.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.models.adapters import CONFIG, lora_config
from trice.models.local import LocalModel, attach
from trice.training.settings import Lora

# What is adapted by default: queries and values as in the paper, or all of a fused projection.
ATTENTION = (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("W_pack",))


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
                f"{adapter / CONFIG}: field 'layer_replication': an adapter that repeats layers can be used, but "
                "not trained further"
            )
        model = attach(loaded, adapter, trainable=True)
    else:
        targets = family_targets(loaded) if lora.targets is None else lora.targets
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            model = get_peft_model(loaded.model, config)
        except ValueError as error:
            raise InputError(f"lora targets {targets}: {str(error).splitlines()[0]}") from None
    if loaded.model.get_output_embeddings() is not head:  # PEFT put a layer of its own around it
        where = f"{adapter / CONFIG}" if adapter else "lora targets"
        raise InputError(
            f"{where}: the output head cannot be among the trained layers; training reads it as it is"
        )
    if loaded.device.type == "cpu":
        dropout.on_cpu(model)
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # a set has another order in every process
            config.target_modules = sorted(config.target_modules)
    # The base is frozen: PEFT need not ask the hub, at every save, whether its vocabulary was changed.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def family_targets(loaded: LocalModel) -> list[str]:
    """The layers of this model's attention that LoRA goes on where none are named.

    Raises InputError, naming the linear layers there are, where its attention has none of the usual names.
    """
    import torch

    head = loaded.model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in loaded.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    for usual in ATTENTION:
        if names.issuperset(usual):
            return list(usual)
    raise InputError(
        f"lora targets: model '{loaded.name}' has none of the usual attention layers; name some of "
        f"{', '.join(sorted(names)) or '(it has no linear layers)'}, or all-linear"
    )


def adapter_lora(adapter: Path) -> Lora:
    """The LoRA settings an adapter was made with, its targets by their short names. Raises InputError where
    they cannot be."""
    config = lora_config(adapter)
    targets = config.target_modules
    short = sorted({name.rpartition(".")[2] for name in targets}) if isinstance(targets, set) else targets
    try:
        return Lora(r=config.r, alpha=config.lora_alpha, dropout=config.lora_dropout, targets=short)
    except ValueError as error:
        raise InputError(f"{adapter / CONFIG}: {str(error).splitlines()[0]}") from None
