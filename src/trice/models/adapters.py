"""Reads the folder of a LoRA adapter, as PEFT and programs based on it write it.

An `adapter_model.bin` whose pickle contains code is refused and never run. Only LoRA adapters are covered. This
module does not load torch when it is imported.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError, error_line
from trice.formats.prompt import CHAT, Template, prompt_template
from trice.storage.files import read_object

CONFIG = "adapter_config.json"
TRAINING_RECORD = "trice.json"  # the inputs of the training, such as model, template and settings
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first one that exists, as in PEFT
PREFIX = "base_model.model."
POINTER = b"version https://git-lfs.github.com/spec/"

# PEFT imports bitsandbytes wherever it is installed, which then gives advice on kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def adapter_weights(adapter: Path) -> Path:
    """The file with the adapter's weights. Raises InputError if there is none."""
    found = next((adapter / name for name in WEIGHTS if (adapter / name).is_file()), None)
    if found is None:
        raise InputError(f"{adapter} is not an adapter ({' or '.join(WEIGHTS)} is missing)")
    refuse_pointer(found)
    return found


def refuse_pointer(path: Path) -> None:
    """Raise InputError if a file is a Git LFS pointer, as in a clone without Git LFS."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(
                f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
            )


def adapter_config(adapter: Path, model: str) -> dict[str, Any]:
    """The adapter's configuration. Raises InputError if there is none, or for another kind or base model."""
    path = adapter / CONFIG
    if not path.is_file():
        raise InputError(f"{adapter} is not an adapter ({CONFIG} is missing)")
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


def training_record(adapter: Path) -> dict[str, Any]:
    """An adapter's `trice.json`, which records how it was trained; empty if there is none. Raises InputError if
    it is not a JSON object."""
    path = adapter / TRAINING_RECORD
    return read_object(path) if path.is_file() else {}


class AdapterRecord(NamedTuple):
    """An adapter's base model, task, format and prompt template. None if it is not recorded, as in adapters of other
    programs."""

    model: str | None = None
    task: str | None = None
    format: str | None = None
    template: str | None = None

    def prompt_template(self, format: str | None = None, template: str | None = None) -> Template:
        """The template of the prompts: of `format` and `template` if given, else of those that are recorded. `chat`
        alone keeps the recorded arguments of the chat template. Raises InputError if they do not fit together."""
        if format is None or (format == CHAT and (self.format or "").startswith(f"{CHAT}:")):
            format = self.format
        if template is None and (format or "paper") == (self.format or "paper"):
            template = self.template
        return prompt_template(format, template)


def adapter_record(adapter: Path) -> AdapterRecord:
    """An adapter's recorded base model, task, format and template. Raises InputError if there is no adapter, or if its
    files are not JSON."""
    if not (adapter / CONFIG).is_file():
        raise InputError(f"{adapter} is not an adapter ({CONFIG} is missing)")
    # The record of a checkpoint is in the folder of its training.
    record = training_record(adapter) or training_record(adapter.parent)
    found = {name: record.get(name) for name in AdapterRecord._fields}
    name, colon, arguments = str(found["template"]).partition(":")
    if name == "tools":  # the name of the format chat before it had its own option
        found |= {"format": f"chat{colon}{arguments}", "template": None}
    found["model"] = found["model"] or read_object(adapter / CONFIG).get("base_model_name_or_path")
    return AdapterRecord(**{name: str(value) if value else None for name, value in found.items()})


def lora_config(adapter: Path) -> Any:
    """PEFT's `LoraConfig` of the adapter, without keys that the installed PEFT does not know.

    Raises InputError if required keys are missing or have wrong values.
    """
    from peft import LoraConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about keys of other versions of PEFT
            return LoraConfig.from_pretrained(str(adapter))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{adapter / CONFIG} is not a LoRA configuration ({error_line(error)})") from None


def read_weights(adapter: Path) -> dict[str, Any]:
    """The adapter's tensors by the names that the current PEFT uses.

    Names that contain the adapter's name (`lora_A.default.weight`) or lack the wrapper's prefix are converted.
    Raises InputError if the file is damaged, or contains anything but named tensors.
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
                warnings.simplefilter("ignore")  # about pickles in another protocol than torch's
                tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error_line(error)})") from None
    except Exception:  # torch raises many kinds of errors for a pickle that is damaged or contains code
        raise InputError(
            f"{path} is refused: it is damaged, or contains something else than weights"
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise InputError(f"{path} is refused: it contains something else than named weights")
    return {_current_name(name): tensor for name, tensor in tensors.items()}


def _current_name(name: str) -> str:
    name = re.sub(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$", r".\1.\2", name)
    name = re.sub(r"\.(lora_embedding_[AB])\.[^.]+$", r".\1", name)
    return name if name.startswith(PREFIX) else PREFIX + name
