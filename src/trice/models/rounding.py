"""How far a model's own rounding takes its results.

In half precision two correct computations in another order differ, and a deep model amplifies it: the logits of
SmolLM2-135M differ by up to 8% of their spread in bfloat16. A fixed tolerance would refuse such a model, or pass a
wrong computation of another. So the tolerance is measured: every layer's output is moved by about one unit in the
last place, and the plain forward pass shows what that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

TIMES = (
    2.5  # correct results were 0.2 to 1.7 times as far from each other as the moved ones from the plain ones
)


@contextmanager
def rounding(model: torch.nn.Module) -> Iterator[None]:
    """Within it the output of every decoder layer is moved by one unit in the last place, up or down by chance."""
    draws = torch.Generator().manual_seed(0)

    def move(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        up = torch.randint(0, 2, states.shape, generator=draws).to(states.device) * 2 - 1
        moved = (states * (1 + torch.finfo(states.dtype).eps * up)).to(states.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    # what transformers' decoder layers derive from
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_hook(move) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
