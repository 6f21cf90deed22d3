"""What training asks of the machine beyond its model: a compiler for `compile`, packages for `report_to` and
`quantize`, the other processes of a launch."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from trice.errors import InputError
from trice.training.settings import Clone, Rlef


def processes(device: str) -> Any:
    """The team of processes that `accelerate launch` or torchrun started, each on a GPU of its own; a team of one
    without them."""
    from accelerate import PartialState

    from trice.models.local import pick_device

    return PartialState(cpu=pick_device(device).type == "cpu")


def deepspeed() -> bool:
    """Whether `accelerate launch` started this process for DeepSpeed, by the environment it leaves."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def sharded() -> bool:
    """Whether it cuts the weights up among processes, as FSDP and DeepSpeed's ZeRO-3 do."""
    zero3 = deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return zero3 or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def check_machine(settings: Clone, device: str) -> None:
    """Raise InputError where these settings ask for a device, a compiler, a tracker or a launch out of reach."""
    kind, _, index = device.partition(":")
    if index not in ("", "0"):  # transformers' trainer takes the first GPU it sees
        raise InputError(f"device {device}: to train on it, set CUDA_VISIBLE_DEVICES={index} and take {kind}")
    if settings.compile:
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
            f"quantize={quantize}: bitsandbytes does not cover device {kind}; leave quantize out"
        )


def _check_sharding(settings: Clone) -> None:
    """Refuse what needs whole weights, or as many forward passes in one process as in another."""
    if settings.quantize:
        raise InputError(
            f"quantize={settings.quantize}: not under FSDP or ZeRO-3; recipes/accelerate/ddp.yaml takes it"
        )
    if settings.validate_every:
        raise InputError(
            "validate_every: not under FSDP or ZeRO-3, whose processes cannot answer questions alone"
        )
    if isinstance(settings, Rlef) and settings.objective == "dpo":
        raise InputError(
            "objective=dpo: not under FSDP or ZeRO-3: its reference needs the whole model at first"
        )
    if settings.compile:
        raise InputError("compile: not under FSDP or ZeRO-3")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise InputError("FSDP: set fsdp_version: 2, as recipes/accelerate/fsdp.yaml does")
        if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "true").lower() == "true":
            raise InputError(
                "FSDP: set fsdp_cpu_ram_efficient_loading: false; every process reads the weights"
            )


def _check_compiler(device: str) -> None:
    import torch

    from trice.models.local import pick_device

    try:
        torch.compile(torch.sin)(torch.ones(8, device=pick_device(device)))
    except RuntimeError as error:  # what all of torch.compile's own errors derive from
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"compile: torch.compile does not work on this machine ({reason}); install a C++ compiler, or leave "
            "compile out"
        ) from None


def _check_trackers(names: list[str]) -> None:
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"report_to: {str(error).splitlines()[0]}") from None


def compile_layers(model: Any) -> None:
    """Compile every decoder layer, for any shape: one layer's code serves all, where a whole model would take
    minutes to compile."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):  # what transformers' decoder layers derive from
            module.compile(dynamic=True)
