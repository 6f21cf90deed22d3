"""Phase 1: the packed forward and backward pass on this device against the plain computation in float64 on the CPU.

For every family of models, both stages, with and without gradient checkpointing: errors of the loss and of the
whole gradient, relative. The plain pass (each response alone, on this device) has errors too: the packed one's must
not be larger than LOOSE times them, or than TIGHT in float32 and FLOOR in bfloat16 (the loss is one number, whose
error in the plain pass may be small by chance). The reference of the
last part, a model with heads as wide as Llama 7B's and prompts of several blocks, is computed on the device.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from plainly import objective
from transformers import AutoModelForCausalLM

import families
from baselines import cloning
from shapes import SMALL, Machine, tokenizer
from trice.models.local import LocalModel, _kernel
from trice.training.lora import with_lora
from trice.training.packed_forward import PackedForward, half_precision_autocast
from trice.training.packing import ResponseTokens, TokenizedExample
from trice.training.settings import Lora, Rlef
from trice.training.trainer import loss_sums

FAMILIES = ["llama", "gemma3", "qwen3", "gemma2", "mistral", "granite", "gpt_neox", "phi3", "qwen2", "glm4"]
SETTINGS = Rlef(alpha=0.5, margin=0.2)
TIGHT = {"loss": 1e-5, "gradient": 5e-5}
LOOSE, FLOOR = 2.0, {"loss": 0.03, "gradient": 2e-3}
VOCABULARY = 320
LORA = Lora(r=2, lora_dropout=0, target_modules="all-linear")
Result = tuple[float, torch.Tensor]


def parts(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    names = [*FAMILIES, "wide"]
    for name in ("gemma3",) if machine.tiny else names:
        yield name, partial(compare, name, machine)


def examples(count: int, wide: bool) -> list[TokenizedExample]:
    """Questions with prompts that share a beginning; some candidates begin alike. `wide`: with longer ones."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(4, VOCABULARY) for _ in range(length)]

    start, made = ids(60 if wide else 11), []
    for _ in range(count):
        first = ids(draw.randrange(3, 12))
        answers = [first, first[:2] + ids(4), ids(6), ids(1), [*first, *ids(2)]]
        responses = [ResponseTokens(answer, [True] * len(answer)) for answer in answers]
        made.append(
            TokenizedExample(start + ids(draw.randrange(4, 30)), responses, [20.0, 5.0, 10.0, 0.0, 5.0])
        )
    return made


def compare(name: str, machine: Machine) -> dict[str, Any]:
    torch.manual_seed(0)
    if name == "wide":
        config = families.config("llama", tokenizer(VOCABULARY, ("",)))
        config.update({key: value for key, value in SMALL.items() if key != "vocab_size"})
        config.head_dim = config.hidden_size // config.num_attention_heads
    else:
        config = families.config(name, tokenizer(VOCABULARY, ("",)))
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=_kernel(config))
    rows = examples(2 if machine.tiny else 8 if name == "wide" else 3, name == "wide")
    stages = {"stage 2": rows, "stage 1": cloning(rows)}
    found: dict[str, Any] = {"ok": True}
    for dtype in (torch.float32, torch.bfloat16):
        rounded = copy.deepcopy(base).to(dtype)
        for stage, questions in stages.items():
            where = machine.device if name == "wide" else torch.device("cpu")
            exact = reference(copy.deepcopy(rounded).double(), questions, where)
            plain = errors(plainly(copy.deepcopy(rounded), questions, machine.device), exact)
            for checkpointing in (False, True):
                way, ours = packed(copy.deepcopy(rounded), questions, machine.device, checkpointing)
                error = errors(ours, exact)
                entry = {"packed": error, "plain": plain, "way": way}
                floor = TIGHT if dtype == torch.float32 else FLOOR
                entry["ok"] = all(error[each] <= max(floor[each], LOOSE * plain[each]) for each in error)
                found["ok"] &= entry["ok"]
                kind = str(dtype).removeprefix("torch.")
                found[f"{stage}, {kind}{', checkpointing' if checkpointing else ''}"] = entry
    return found


def policy(base: Any) -> Any:
    """LoRA layers on all linear layers, the same ones for every copy of a base, on the CPU."""
    model = with_lora(LocalModel("random", base, None, torch.device("cpu")), None, LORA, 0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            values = torch.randn(parameter.shape, generator=draw) * (0.2 if "lora_B" in name else 0.3)
            parameter.data.copy_(values / parameter.shape[1] ** 0.5)
    return model


def slope(model: Any, loss: torch.Tensor) -> Result:
    loss.backward()
    grads = [p.grad.detach().cpu().double().flatten() for p in model.parameters() if p.requires_grad]
    return float(loss.detach()), torch.cat(grads)


def reference(base: Any, rows: Sequence[TokenizedExample], device: torch.device) -> Result:
    model = policy(base).to(device, torch.float64)
    with torch.device(device), double():
        return slope(model, objective(model, list(rows), SETTINGS.alpha, SETTINGS.margin))


@contextmanager
def double() -> Iterator[None]:
    """Within it transformers computes norms and rotary angles in float64, which it takes to float32 otherwise."""
    names, method = ("float", "float32"), torch.Tensor.float
    single = torch.float32
    try:
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        for name in names:
            setattr(torch, name, torch.float64)
        yield
    finally:
        torch.Tensor.float = method  # type: ignore[method-assign]
        for name in names:
            setattr(torch, name, single)


def plainly(base: Any, rows: Sequence[TokenizedExample], device: torch.device) -> Result:
    """Every response alone, on the device."""
    model = policy(base).to(device)
    with torch.device(device), half_precision_autocast(base):
        return slope(model, objective(model, list(rows), SETTINGS.alpha, SETTINGS.margin))


def packed(
    base: Any, rows: Sequence[TokenizedExample], device: torch.device, checkpointing: bool
) -> tuple[str, Result]:
    """As training does it."""
    model = policy(base).to(device).train()
    forward = PackedForward(model, rows)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = forward.pack(rows)
    with forward:
        part = loss_sums(forward(batch), batch, SETTINGS)
        return str(forward.strategy), slope(
            model, SETTINGS.alpha * part.rank / part.questions + part.sft / part.tokens
        )


def errors(result: Result, exact: Result) -> dict[str, float]:
    loss, gradient = abs(result[0] / exact[0] - 1), (result[1] - exact[1]).norm() / exact[1].norm()
    return {"loss": float(f"{loss:.2g}"), "gradient": float(f"{gradient:.2g}")}
