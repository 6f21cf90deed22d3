"""Loads a causal language model of transformers on this machine, with or without a LoRA adapter.

A model is a hub name, a folder, or the name of an embedded model (`trice.models.embedded`). Generation is in
`trice.models.generation`, training in `trice.training`. A base model can be loaded in 8 or 4 bits for training;
generation does not use these.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trice.errors import InputError, error_line, nearest
from trice.formats.chat import ChatFormat, chat_format
from trice.formats.prompt import end_of_turn
from trice.models import LOADING
from trice.models.adapters import PREFIX, adapter_config, lora_config, read_weights, refuse_pointer
from trice.models.attention_masks import KINDS
from trice.models.cpu_dtype import faster_dtype
from trice.models.embedded import MODELS
from trice.models.lora_merging import merge
from trice.progress import waiting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Raised by damaged or unsuitable files.
UNLOADABLE = (OSError, RuntimeError, SafetensorError, UnpicklingError, ValueError)


@dataclass
class LocalModel:
    """A loaded model with its tokenizer. `name` is the name that the user gave. `use_model_head` is set when the
    model first generates (`trice.models.decoder_check`)."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    use_model_head: bool | None = None
    _chat_formats: dict[str, ChatFormat] = field(default_factory=dict, init=False, repr=False)

    def chat_format(self, **arguments: Any) -> ChatFormat:
        """The chat format of the tokenizer with these arguments of its template, which is made once."""
        key = json.dumps(arguments, sort_keys=True)
        if key not in self._chat_formats:
            self._chat_formats[key] = chat_format(self.tokenizer, **arguments)
        return self._chat_formats[key]

    @property
    def eos_ids(self) -> set[int]:
        """The tokens that end a response."""
        ids = [self.tokenizer.eos_token_id, end_of_turn(self.tokenizer)]
        configured = self.model.generation_config.eos_token_id
        ids += configured if isinstance(configured, list) else [configured]
        return {token for token in ids if token is not None}

    @property
    def context(self) -> int:
        """Maximum number of tokens of a prompt and its response together."""
        return context_length(self.model.config)


def context_length(config: Any) -> int:
    """The number of positions that a model supports, including those added by scaled rotary embeddings. A
    sliding window is not a limit."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if not isinstance(limit, int):
        return 1 << 30
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if scaling.get("rope_type", scaling.get("type")) in ("yarn", "dynamic"):
        original = scaling.get("original_max_position_embeddings") or limit
        limit = max(limit, int(original * float(scaling.get("factor") or 1)))
    return limit


def quiet() -> None:
    """Turn off progress bars and advice of other libraries."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("peft").setLevel(logging.ERROR)


def pick_device(device: str) -> torch.device:
    """The torch device called `device`; `auto` is a GPU if there is one. Raises InputError for an unknown
    device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {error_line(error)}") from None
    return torch.device(device)


def resolve_dtype(dtype: str, device: str) -> str:
    """The name of the dtype. `auto` is bfloat16 if the device computes clearly faster in it, else float32; on a
    CPU this is measured (`trice.models.cpu_dtype`).

    Raises InputError for an unknown dtype."""
    if dtype == "auto":
        if pick_device(device).type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        return faster_dtype()
    if dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}' is not valid; choose auto, {', '.join(DTYPES)}")
    return dtype


def find_model(name: str) -> str:
    """The hub name or folder that transformers loads for `name`, which may be an embedded model."""
    return str(MODELS[name].ensure()) if name in MODELS else name


def check_model(name: str, adapter: Path | None = None) -> None:
    """Raise InputError, before anything expensive, if the model or the adapter cannot be loaded."""
    if adapter is not None:
        adapter_config(adapter, name)
    if name in MODELS:
        return MODELS[name].check()
    # Such a name is no hub name, and without a network its look-up would be retried for half a minute.
    near = None if "/" in name or Path(name).exists() else nearest(name, MODELS, 0.75)
    if near:
        raise InputError(f"there is no model '{name}'; did you mean '{near}'?")
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else ():
        if path.is_file() and path.stat().st_size < 1024:  # a pointer has about 130 bytes
            refuse_pointer(path)
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model '{name}' is neither a folder with a model, nor a hub name that can be loaded, "
            f"nor {' or '.join(MODELS)} ({error_line(error)})"
        ) from None


def load(name: str, adapter: Path | None = None, *, device: str = "auto", dtype: str = "auto") -> LocalModel:
    """Load a model for generation, with its adapter merged into the weights.

    Raises InputError for an unknown model, device or dtype, and for an adapter of another base model.
    """
    with LOADING:
        loaded = load_base(name, adapter, device=device, dtype=dtype)
        if adapter is not None:
            loaded.model = merge(attach(loaded, adapter))
    loaded.model.eval()
    return loaded


def attach(loaded: LocalModel, adapter: Path, *, trainable: bool = False) -> Any:
    """Add the adapter's layers to the model. Raises InputError if its weights do not fit."""
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
    # PEFT does not report missing or unknown weights; a layer without weights would have no effect.
    for what, names in (("has no weights for", result.missing_keys), ("is for", result.unexpected_keys)):
        mismatched = [name for name in names if "lora_" in name]
        if mismatched:
            raise InputError(
                f"{adapter}: does not fit model '{loaded.name}' ({what} {mismatched[0]}"
                f"{f' and {len(mismatched) - 1} more' if len(mismatched) > 1 else ''})"
            )
    return model


def _check_vocabulary(loaded: LocalModel, adapter: Path, weights: dict[str, Any]) -> None:
    """Raise InputError if the adapter's base model had another vocabulary, for example with added tokens."""
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
    """Load a model without its adapter, which is only checked to belong to it.

    `quantize` (`8bit` or `4bit`) quantises the linear layers, which needs bitsandbytes. With `empty`, the
    weights are on torch's meta device: shapes without data. Raises InputError as `load` does.
    """
    quiet()
    check_model(name, adapter)
    where = pick_device(device)
    torch_dtype = DTYPES[resolve_dtype(dtype, device)]
    options = {
        "dtype": torch_dtype,
        "trust_remote_code": False,
        **_quantization(quantize, torch_dtype, where),
    }
    source = find_model(name)
    try:
        with LOADING, waiting(f"loading the model {name}", Path(source) if Path(source).is_dir() else None):
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
    # Adapters record the model's name, not a cache folder.
    model.name_or_path = model.config.name_or_path = name
    for module in model.modules():
        # On some CPUs bitsandbytes would repack 4-bit weights in eval mode into a format without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return LocalModel(name, model if quantize or empty else model.to(where), tokenizer, where)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model."""
    source = find_model(name)
    return _tokenizer(source, _folder_state(source))


@lru_cache(maxsize=2)
def _tokenizer(source: str, state: object) -> Any:
    """Cached, because reading a vocabulary of 262k takes longer than reading the weights."""
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _folder_state(source: str) -> tuple[tuple[str, int, int], ...] | None:
    """Sizes and times of the files in a model's folder, which change when the files do."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def _empty(source: str, config: Any, options: dict[str, Any]) -> Any:
    """The model on torch's meta device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **options)
    with contextlib.suppress(OSError):  # the file is optional
        model.generation_config = GenerationConfig.from_pretrained(source)
    return model


def _quantization(quantize: str | None, dtype: torch.dtype, where: torch.device) -> dict[str, Any]:
    """Options for bitsandbytes: 8-bit integers, or QLoRA's 4-bit floats with quantised scales."""
    if quantize is None:
        return {}
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": where}}


def _kernel(config: Any) -> str:
    """The attention implementation of transformers to use. Raises ValueError for kinds of layers that
    `trice.models.attention_masks` does not support."""
    others = set(getattr(config, "layer_types", None) or ()) - KINDS
    if others:
        raise ValueError(f"layers of kind {', '.join(sorted(others))} are not supported")
    # The fused kernel has no soft cap on attention scores, which Gemma 2 was trained with.
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _complete(tokenizer: Any, model: Any, name: str) -> None:
    """Set the tokenizer's end and padding tokens from the model's configuration if it has none."""
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
