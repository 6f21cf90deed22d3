"""How far a model's own rounding changes its results in half precision.

Two correct computations in a different order differ in half precision, and a deep model amplifies the
difference: the logits of SmolLM2-135M differ by up to 8% of their spread in bfloat16. A fixed tolerance would
refuse such a model, or accept a wrong computation of another. The tolerance is therefore measured: every
layer's output is changed by about one unit in the last place, and the plain forward pass shows the effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

# Correct results differed from the plain ones by 0.2 to 1.7 times as much as the perturbed ones did.
MARGIN = 2.5


def within_rounding(
    model: torch.nn.Module, difference: float, tolerance: float, from_rounding: Callable[[], float]
) -> bool:
    """Whether a difference from the plain result is below the tolerance or explained by rounding.

    Args:
        model: The model, in half precision.
        difference: The difference of the result from the plain forward pass.
        tolerance: A difference that is always accepted.
        from_rounding: Repeats the plain forward pass and returns its difference from the first one.
    """
    if difference <= tolerance:
        return True
    with perturbed_layers(model):
        return difference <= MARGIN * from_rounding()


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers of a model of transformers, which have a common base class."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def perturbed_layers(model: torch.nn.Module) -> Iterator[None]:
    """Change the output of every decoder layer by one unit in the last place, up or down at random."""
    generator = torch.Generator().manual_seed(0)

    def perturb(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        signs = torch.randint(0, 2, states.shape, generator=generator).to(states.device) * 2 - 1
        perturbed = (states * (1 + torch.finfo(states.dtype).eps * signs)).to(states.dtype)
        return (perturbed, *output[1:]) if isinstance(output, tuple) else perturbed

    with ExitStack() as hooks:
        for layer in decoder_layers(model):
            hooks.enter_context(layer.register_forward_hook(perturb))
        yield
