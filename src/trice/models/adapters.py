"""A LoRA adapter's folder, as PEFT and programs built on it write it: which files, and what they say.

Weights are read as weights: an `adapter_model.bin` whose pickle names code is refused and never run. Adapters
of other kinds than LoRA are not covered. Importing this loads no torch.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError, error_line
from trice.storage.files import read_object

CONFIG = "adapter_config.json"
MADE = "trice.json"  # how it was made, and the template it wants
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first there is, as PEFT chooses
PREFIX = "base_model.model."
POINTER = b"version https://git-lfs.github.com/spec/"

# PEFT imports bitsandbytes wherever it is installed, which then gives advice on kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def adapter_weights(adapter: Path) -> Path:
    """The file with the adapter's weights. Raises InputError where there is none."""
    found = next((adapter / name for name in WEIGHTS if (adapter / name).is_file()), None)
    if found is None:
        raise InputError(f"{adapter}: no adapter here ({' or '.join(WEIGHTS)} is missing)")
    refuse_pointer(found)
    return found


def refuse_pointer(path: Path) -> None:
    """Raise InputError where a file is a Git LFS pointer, which a clone without Git LFS leaves in its place."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(
                f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
            )


def adapter_config(adapter: Path, model: str) -> dict[str, Any]:
    """The adapter's own configuration. Raises InputError where there is none, or it is of another kind or base."""
    path = adapter / CONFIG
    if not path.is_file():
        raise InputError(f"{adapter}: no adapter here ({CONFIG} is missing)")
    adapter_weights(adapter)
    config = read_object(path)
    base = str(config.get("base_model_name_or_path") or "")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise InputError(f"{path}: field 'peft_type': '{kind}'; only LORA adapters can be used")
    # Folders move, so only the last part of a path must agree.
    if base and Path(base).name != Path(model).name:
        raise InputError(
            f"{adapter}: was trained on base model '{base}', not on '{model}' (is it the same under another "
            f"name? then correct base_model_name_or_path in {CONFIG})"
        )
    return config


def read_made(adapter: Path) -> dict[str, Any]:
    """What an adapter's `trice.json` says of its making; empty where there is none. Raises InputError where it
    is no JSON object."""
    path = adapter / MADE
    return read_object(path) if path.is_file() else {}


class Recorded(NamedTuple):
    """What an adapter says of its use: its base model, the task it was trained for and its prompt template. None
    stands for what it does not say, as adapters of other programs do not."""

    model: str | None
    task: str | None
    template: str | None


def read_recorded(adapter: Path) -> Recorded:
    """What an adapter's files record. Raises InputError where there is no adapter, or its files are no JSON."""
    if not (adapter / CONFIG).is_file():
        raise InputError(f"{adapter}: no adapter here ({CONFIG} is missing)")
    made = read_made(adapter) or read_made(adapter.parent)  # a checkpoint lies in the folder of its training
    found = {name: made.get(name) for name in Recorded._fields}
    found["model"] = found["model"] or read_object(adapter / CONFIG).get("base_model_name_or_path")
    return Recorded(**{name: str(value) if value else None for name, value in found.items()})


def lora_config(adapter: Path) -> Any:
    """PEFT's `LoraConfig` of the adapter; keys that this PEFT does not know are left out.

    Raises InputError where it does not hold what a LoRA adapter's must.
    """
    from peft import LoraConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that other versions of PEFT know
            return LoraConfig.from_pretrained(str(adapter))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{adapter / CONFIG}: not a LoRA configuration ({error_line(error)})") from None


def read_weights(adapter: Path) -> dict[str, Any]:
    """The adapter's tensors by the names PEFT saves under today.

    Names that hold the adapter's own (`lora_A.default.weight`) or lack the wrapper's beginning are brought to
    that form. Raises InputError where the file is damaged, or holds anything but named tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = adapter_weights(adapter)
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles in another protocol than torch's own
                tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error_line(error)})") from None
    except Exception:  # torch names no end of errors for a pickle that is damaged, or wants to run code
        raise InputError(f"{path}: refused, not a file of plain weights (or a damaged one)") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise InputError(f"{path}: refused, holds something else than named weights")
    return {_todays(name): tensor for name, tensor in tensors.items()}


def _todays(name: str) -> str:
    name = re.sub(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$", r".\1.\2", name)
    name = re.sub(r"\.(lora_embedding_[AB])\.[^.]+$", r".\1", name)
    return name if name.startswith(PREFIX) else PREFIX + name
