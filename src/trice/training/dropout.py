"""Dropout for LoRA on a CPU, where drawing the mask costs more than LoRA itself.

torch draws one random number an element, one after another. Here one draw of 64 bits serves four elements: 16 bits
decide with a probability right to 1/131072, far closer than any dropout rate is meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LEVELS = 1 << 16


class Dropout(nn.Module):
    """Each element is 0 with probability `rate`, else divided by 1 - rate; in eval mode nothing happens."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # A level below this drops; levels are signed 16-bit numbers, all equally likely.
        self.below = round(rate * LEVELS) - LEVELS // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.below
        return x * (kept.to(x.dtype) / (1 - self.rate))


def on_cpu(model: Any) -> None:
    """Give the LoRA layers of a PEFT model this dropout in place of torch's."""
    for module in model.modules():
        drops = getattr(module, "lora_dropout", None)
        if isinstance(drops, nn.ModuleDict):
            for name, drop in drops.items():
                if isinstance(drop, nn.Dropout):
                    drops[name] = Dropout(drop.p)
