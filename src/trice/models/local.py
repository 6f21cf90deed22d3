"""A causal language model of transformers on this machine: loading, with or without a LoRA adapter.

Covers hub names, folders and the embedded default (`gemma-3-270m`). Generation is in `trice.models.generation`,
training in `trice.training`. A base can be loaded in 8 or 4 bits to train on; generation runs it whole.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trice.errors import InputError, error_line
from trice.formats.prompt import end_of_turn
from trice.models import LOADING, gemma
from trice.models.adapters import PREFIX, adapter_config, lora_config, read_weights, refuse_pointer
from trice.models.attention_masks import KINDS
from trice.models.cpu_dtype import faster_dtype
from trice.models.lora_merging import merge

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNLOADABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
    ValueError,
)  # from files that do not fit


@dataclass
class LocalModel:
    """A loaded model with its tokenizer. `name` is what the user called it; `device` where it lives. `use_model_head` is
    found out when it first generates (`trice.models.kv_cache`)."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    use_model_head: bool | None = None

    @property
    def eos_ids(self) -> set[int]:
        """Every token that ends a response for this model."""
        ids = [self.tokenizer.eos_token_id, end_of_turn(self.tokenizer)]
        configured = self.model.generation_config.eos_token_id
        ids += configured if isinstance(configured, list) else [configured]
        return {token for token in ids if token is not None}

    @property
    def context(self) -> int:
        """Tokens of a prompt and its response together, at most."""
        return context_length(self.model.config)


def context_length(config: Any) -> int:
    """Positions that a model was made for, those that its scaled rotary embeddings add among them. A sliding window
    is no limit."""
    config = config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if not isinstance(most, int):
        return 1 << 30
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if scaling.get("rope_type", scaling.get("type")) in ("yarn", "dynamic"):
        before = scaling.get("original_max_position_embeddings") or most
        most = max(most, int(before * float(scaling.get("factor") or 1)))
    return most


def quiet() -> None:
    """Keep other libraries' progress bars and advice out of our output."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("peft").setLevel(logging.ERROR)


def pick_device(device: str) -> torch.device:
    """The torch device called `device`; `auto` is a GPU where there is one. Raises InputError for another word."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {error_line(error)}") from None
    return torch.device(device)


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` as a dtype's name: bfloat16 where the device computes clearly faster in it, else float32; on a CPU
    this is measured (`trice.models.cpu_dtype`).

    Raises InputError for a name that is no dtype."""
    if dtype == "auto":
        if pick_device(device).type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        return faster_dtype()
    if dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}': there is auto, {', '.join(DTYPES)}")
    return dtype


def find_model(name: str) -> str:
    """What transformers can load for `name`: a hub name or folder as it is, the embedded default's folder."""
    return str(gemma.ensure()) if name == gemma.NAME else name


def check_model(name: str, adapter: Path | None = None) -> None:
    """Raise InputError, before anything expensive, where the model or the adapter cannot be what is meant."""
    if adapter is not None:
        adapter_config(adapter, name)
    if name == gemma.NAME:
        return gemma.check()
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else ():
        if path.is_file() and path.stat().st_size < 1024:  # a pointer has about 130 bytes
            refuse_pointer(path)
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model '{name}': neither a folder with a model, nor a hub name that can be loaded, "
            f"nor '{gemma.NAME}' ({error_line(error)})"
        ) from None


def load(name: str, adapter: Path | None = None, *, device: str = "auto", dtype: str = "auto") -> LocalModel:
    """Load a model for generation, its adapter merged into the weights.

    Raises InputError for an unknown model, device or dtype, and for an adapter of another base model.
    """
    with LOADING:
        loaded = load_base(name, adapter, device=device, dtype=dtype)
        if adapter is not None:
            loaded.model = merge(attach(loaded, adapter))
    loaded.model.eval()
    return loaded


def attach(loaded: LocalModel, adapter: Path, *, trainable: bool = False) -> Any:
    """The model with the adapter's layers in it. Raises InputError where its weights do not fit."""
    from peft import get_peft_model, set_peft_model_state_dict

    config, weights = lora_config(adapter), read_weights(adapter)
    _check_vocabulary(loaded, adapter, weights)
    config.inference_mode, config.base_model_name_or_path = not trainable, loaded.name
    try:
        with LOADING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on tied layers, which `merge` follows
            model = get_peft_model(loaded.model, config)
            result = set_peft_model_state_dict(model, weights)
    except (*UNLOADABLE, KeyError) as error:
        raise InputError(f"{adapter}: does not fit model '{loaded.name}' ({error_line(error)})") from None
    # PEFT leaves layers without weights as they were made, that is without effect, and says nothing of others.
    for what, names in (("has no weights for", result.missing_keys), ("is for", result.unexpected_keys)):
        strangers = [name for name in names if "lora_" in name]
        if strangers:
            raise InputError(
                f"{adapter}: does not fit model '{loaded.name}' ({what} {strangers[0]}"
                f"{f' and {len(strangers) - 1} more' if len(strangers) > 1 else ''})"
            )
    return model


def _check_vocabulary(loaded: LocalModel, adapter: Path, weights: dict[str, Any]) -> None:
    """Raise InputError for an adapter whose base had another vocabulary, as after tokens were added to it."""
    ends = (loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings())
    named = [PREFIX + name for name, module in loaded.model.named_modules() if module in ends]
    shapes = {f"{name}{part}": 0 for name in named for part in (".weight", ".base_layer.weight")}
    shapes |= {f"{name}.lora_embedding_A": 1 for name in named}
    ours = ends[0].weight.shape[0]
    for name in shapes.keys() & weights.keys():
        theirs = weights[name].shape[shapes[name]]
        if theirs != ours:
            raise InputError(
                f"{adapter}: was trained with resized embeddings of {theirs} tokens, model '{loaded.name}' has "
                f"{ours}; resize the base model in the same way, save it, and name its folder as the model"
            )


def load_base(
    name: str,
    adapter: Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    empty: bool = False,
) -> LocalModel:
    """Load a model without its adapter, which is only checked to belong to it. `quantize` (`8bit` or `4bit`)
    keeps its linear layers in so many bits, which needs bitsandbytes. An `empty` model has layers whose weights
    are on torch's meta device: shapes without data."""
    quiet()
    check_model(name, adapter)
    where = pick_device(device)
    number = DTYPES[resolve_dtype(dtype, device)]
    options = {"dtype": number, "trust_remote_code": False, **_quantization(quantize, number, where)}
    source = find_model(name)
    try:
        with LOADING:
            tokenizer = load_tokenizer(name)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            options["attn_implementation"] = _kernel(config.get_text_config())
            if empty:
                model = _empty(source, config, options)
            else:
                model = AutoModelForCausalLM.from_pretrained(source, **options)
            _complete(tokenizer, model, name)
    except UNLOADABLE as error:
        raise InputError(f"model '{name}': cannot be loaded ({error_line(error)})") from None
    model.name_or_path = model.config.name_or_path = name  # adapters name the model, not a cache folder
    for module in model.modules():
        # On some CPUs bitsandbytes would repack 4-bit weights in eval mode, into a form without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return LocalModel(name, model if quantize or empty else model.to(where), tokenizer, where)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model."""
    source = find_model(name)
    return _tokenizer(source, _state(source))


@lru_cache(maxsize=2)
def _tokenizer(source: str, state: object) -> Any:
    """Kept from one load to the next: reading a vocabulary of 262k takes longer than reading the weights."""
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _state(source: str) -> tuple[tuple[str, int, int], ...] | None:
    """Tells whether the files of a model's folder are still the same."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in files)


def _empty(source: str, config: Any, options: dict[str, Any]) -> Any:
    """The model on torch's meta device, as configured."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **options)
    with contextlib.suppress(OSError):  # a model need not say how it generates
        model.generation_config = GenerationConfig.from_pretrained(source)
    return model


def _quantization(quantize: str | None, number: torch.dtype, where: torch.device) -> dict[str, Any]:
    """Options for bitsandbytes: 8-bit integers, or QLoRA's 4-bit floats with scales quantised in turn."""
    if quantize is None:
        return {}
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=number,
    )
    return {"quantization_config": config, "device_map": {"": where}}


def _kernel(config: Any) -> str:
    """Which of transformers' attention implementations the model runs on. Raises ValueError where its layers
    attend in ways that our masks do not know."""
    others = set(getattr(config, "layer_types", None) or ()) - KINDS
    if others:
        raise ValueError(f"layers of kind {', '.join(sorted(others))} are not covered")
    # The fused kernel has no soft cap on attention's own scores, which Gemma 2 was trained with.
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _complete(tokenizer: Any, model: Any, name: str) -> None:
    """Give a tokenizer that names no end or padding token those that the model is configured with."""
    ends = model.generation_config.eos_token_id
    if tokenizer.eos_token_id is None:
        end = ends[0] if isinstance(ends, list) and ends else ends
        if not isinstance(end, int):
            raise InputError(
                f"model '{name}': neither its tokenizer nor its configuration names an end token"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
