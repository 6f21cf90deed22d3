"""Faster dropout for LoRA on a CPU, where sampling torch's mask takes longer than LoRA itself.

torch samples one random number for each element. This module samples 64 bits for four elements: 16 bits decide about
each element, and the error of the probability is at most 1/131072.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LEVELS = 1 << 16


class Dropout(nn.Module):
    """Sets each element to 0 with probability `rate` and divides the others by 1 - rate. Does nothing in eval
    mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # Uniform signed 16-bit numbers; an element is dropped if its number is below this one.
        self.threshold = round(rate * LEVELS) - LEVELS // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.threshold
        return x * (kept.to(x.dtype) / (1 - self.rate))


def on_cpu(model: Any) -> None:
    """Replace torch's dropout in the LoRA layers of a PEFT model by this one."""
    for module in model.modules():
        drops = getattr(module, "lora_dropout", None)
        if isinstance(drops, nn.ModuleDict):
            for name, drop in drops.items():
                if isinstance(drop, nn.Dropout):
                    drops[name] = Dropout(drop.p)
