"""Writes a model with its adapter merged, as a folder that transformers, vLLM and other programs load.

The folder has the weights, the tokenizer with its chat template, the generation config and the adapter's record of its
training (`trice.json`). GGUF files are not written. Merging itself is in `trice.models.lora_merging`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trice.errors import InputError
from trice.formats.chat import chat_format
from trice.formats.prompt import CHAT
from trice.models.adapters import TRAINING_RECORD, adapter_record
from trice.models.local import DTYPES, LocalModel, check_model, find_model, load
from trice.storage.cache import make_once


def write_merged(adapter: Path, output: Path, model: str | None = None, *, dtype: str | None = None) -> Path:
    """Merge an adapter into its base model on the CPU and write the result to a new folder.

    Args:
        adapter: The adapter's folder. If it holds a tokenizer, the folder gets that one, else the base model's.
        output: The folder, which appears when it is complete.
        model: The base model. By default it is the one that the adapter records.
        dtype: Type of the written weights. By default it is that of the base model's files.

    Raises:
        InputError: If the folder exists, if the adapter does not fit the model, or if the architecture has no place
            for its weights, for example for a bias.
    """
    base = model or adapter_record(adapter).model
    if not base:
        raise InputError(f"{adapter}: does not record its base model; give it with --model")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output}: already exists; choose a new folder")
    check_model(base, adapter)
    loaded = load(base, adapter, device="cpu", dtype=dtype or _stored_dtype(base))
    _check_architecture(loaded, adapter)
    tokenizer = loaded.tokenizer
    if (adapter / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
    ends = loaded.eos_ids  # with the end of a turn, which some configurations lack
    if adapter_record(adapter).prompt_template().format == CHAT:
        chat = chat_format(tokenizer)  # with the template for tools, if the model's has none
        tokenizer, ends = chat.tokenizer, ends | chat.end_ids
    generation = loaded.model.generation_config
    generation.eos_token_id = sorted(ends)
    generation.pad_token_id = tokenizer.pad_token_id

    def make(folder: Path) -> None:
        loaded.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if (adapter / TRAINING_RECORD).is_file():
            shutil.copyfile(adapter / TRAINING_RECORD, folder / TRAINING_RECORD)

    make_once(output, make, lambda folder: (folder / "config.json").is_file())
    return output


def _stored_dtype(model: str) -> str:
    """The type of the weights in the model's files."""
    config = AutoConfig.from_pretrained(find_model(model), trust_remote_code=False).get_text_config()
    return next((name for name, kind in DTYPES.items() if kind == config.dtype), "float32")


def _check_architecture(loaded: LocalModel, adapter: Path) -> None:
    """Raise InputError if a model of this configuration would not load all of the merged weights."""
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(loaded.model.config)
    other = loaded.model.state_dict().keys() ^ plain.state_dict().keys()
    if other:
        raise InputError(
            f"{adapter}: cannot be merged into a plain model of its architecture, which has no place for "
            f"{min(other)}; use the adapter with PEFT"
        )
