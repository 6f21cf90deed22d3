"""What training asks of the machine beyond its model: a compiler for `compile`, packages for `report_to` and
`quantize`, the other processes of a launch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from trice.errors import InputError
from trice.training.settings import Clone


def processes(device: str) -> Any:
    """The team of processes that `accelerate launch` or torchrun started, each on a GPU of its own; a team of one
    without them."""
    from accelerate import PartialState

    from trice.models.local import pick_device

    return PartialState(cpu=pick_device(device).type == "cpu")


def check_machine(settings: Clone, device: str) -> None:
    """Raise InputError where these settings ask for a device, a compiler or a tracker that cannot be had."""
    kind, _, index = device.partition(":")
    if index not in ("", "0"):  # transformers' trainer takes the first GPU it sees
        raise InputError(f"device {device}: to train on it, set CUDA_VISIBLE_DEVICES={index} and take {kind}")
    if settings.compile:
        _check_compiler(device)
    if settings.report_to:
        _check_trackers(settings.report_to)
    if settings.quantize and not find_spec("bitsandbytes"):
        raise InputError(
            f"quantize={settings.quantize}: needs bitsandbytes: pip install 'trice-rlef[quantize]'"
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
