"""The training environment: the processes of a launch, and checks of what the settings need from the machine (a
compiler for `torch_compile`, packages for `report_to` and `quantize`)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from trice.errors import InputError, error_line
from trice.training.settings import Clone, Rlef


def processes(device: str) -> Any:
    """The processes that `accelerate launch` or torchrun started, each with its own GPU; otherwise this process."""
    from accelerate import PartialState

    from trice.models.local import pick_device

    return PartialState(cpu=pick_device(device).type == "cpu")


def deepspeed() -> bool:
    """Whether `accelerate launch` started this process for DeepSpeed, according to its environment variables."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def sharded() -> bool:
    """Whether the weights are sharded among the processes, as FSDP and DeepSpeed's ZeRO-3 do."""
    zero3 = deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return zero3 or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def check_machine(settings: Clone, device: str) -> None:
    """Raise InputError if the settings need a device, compiler, tracker or launch that is not available."""
    kind, _, index = device.partition(":")
    if index not in ("", "0"):  # transformers' trainer takes the first visible GPU
        raise InputError(
            f"device {device}: training uses the first visible GPU; set CUDA_VISIBLE_DEVICES={index} "
            f"and choose {kind}"
        )
    if settings.torch_compile:
        _check_compiler(device)
    if settings.report_to:
        _check_trackers(settings.report_to)
    if settings.quantize:
        _check_quantization(settings.quantize, device)
    if sharded():
        _check_sharding(settings)


def _check_quantization(quantize: str, device: str) -> None:
    from trice.models.local import pick_device

    if not find_spec("bitsandbytes"):
        raise InputError(f"quantize={quantize}: needs bitsandbytes: pip install 'trice-rlef[quantize]'")
    kind = pick_device(device).type
    if kind not in ("cuda", "cpu", "xpu"):
        raise InputError(
            f"quantize={quantize}: bitsandbytes does not support device {kind}; leave quantize out"
        )


def _check_sharding(settings: Clone) -> None:
    """Refuse settings that need whole weights in each process, or forward passes in one process alone."""
    if settings.quantize:
        raise InputError(
            f"quantize={settings.quantize}: not supported under FSDP or ZeRO-3; use recipes/accelerate/ddp.yaml"
        )
    if settings.eval_steps:
        raise InputError(
            "eval_steps: not supported under FSDP or ZeRO-3, where no process can answer questions alone; use DDP"
        )
    if isinstance(settings, Rlef) and settings.objective == "dpo":
        raise InputError(
            "objective=dpo: not supported under FSDP or ZeRO-3; reference scores need the whole model; use DDP"
        )
    if settings.torch_compile:
        raise InputError("torch_compile: not supported under FSDP or ZeRO-3; leave it out")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise InputError(
                "FSDP version 1 is not supported; set fsdp_version: 2, as recipes/accelerate/fsdp.yaml does"
            )
        if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "true").lower() == "true":
            raise InputError(
                "FSDP: set fsdp_cpu_ram_efficient_loading: false; every process reads the weights"
            )


def _check_compiler(device: str) -> None:
    import torch

    from trice.models.local import pick_device

    try:
        torch.compile(torch.sin)(torch.ones(8, device=pick_device(device)))
    except RuntimeError as error:  # the base class of the errors of torch.compile
        raise InputError(
            f"torch_compile: torch.compile does not work on this machine ({error_line(error)}); install a C++ "
            "compiler, or leave torch_compile out"
        ) from None


def _check_trackers(names: list[str]) -> None:
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"report_to: {error_line(error)}") from None


def compile_layers(model: Any) -> None:
    """Compile every decoder layer for any shape. All layers share the compiled code; compiling the whole model would
    take minutes."""
    from trice.models.rounding import decoder_layers

    for layer in decoder_layers(model):
        layer.compile(dynamic=True)
