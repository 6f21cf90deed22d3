"""What a micro-batch would cost, without weights: the real forward and backward pass of the real model, on tensors
that have a shape and no data.

PyTorch's fake tensors run every operation for its shapes alone, so that how many bytes live at one time, and how
many multiplications there are, come out for any family of models, dtype and LoRA, with gradient checkpointing as
without. Not seen: what kernels allocate inside themselves, an allocator's waste, `compile`, validation. The output
head's share is stated as `trice.training.output_head` is written, since it looks at values. A model that does so
too (a mixture of experts may) cannot be rehearsed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from trice.errors import TriceError
from trice.training.attention import NAME as TREE_ATTENTION
from trice.training.output_head import GPU_TILE, STATE_CHUNK, TILE, accumulation_dtype
from trice.training.packed_forward import half_precision_autocast, model_inputs
from trice.training.packing import Layout, Packed, TokenizedExample, pack

QUANTIZED = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes of a weight. 64 weights of 4 bits share a scale of 8 bits, 256 scales one of 32 (QLoRA, section 3)."""


class Cost(NamedTuple):
    """Of one micro-batch: bytes at the peak, of them the base's weights, and operations but for the head's."""

    peak: int
    weights: int
    operations: int


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that live, the most there were, and operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operations = COUNTED.get(func.overloadpacket)
        if operations:
            self.operations += operations(*args, **(kwargs or {}), out_val=out)
        self.add(out)
        return out

    def add(self, tensors: Any) -> None:
        for tensor in tree_iter(tensors):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._seen:
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self._seen.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _attention(products: int, first: int) -> Any:
    """Counts so many products of queries with keys; the queries are argument number `first` of the kernel."""

    def operations(*args: Any, **kwargs: Any) -> int:
        query, key = args[first : first + 2]
        return int(2 * products * query.numel() * key.shape[-2])

    return operations


COUNTED = flop_registry | {  # which knows the kernels of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention(2, 0),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention(5, 1),
}


def rehearse(
    model: Any,
    examples: Sequence[TokenizedExample],
    layout: Layout,
    device: torch.device,
    *,
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Cost:
    """The cost on `device` of training `model`, whose weights have no data, on one micro-batch.

    Its LoRA layers are there. The same model can be rehearsed again. Raises TriceError where its forward pass
    looks at values.
    """
    causal = model.get_base_model()
    packed = pack(examples, layout)
    if layout == "blocks":
        causal.set_attn_implementation(TREE_ATTENTION)
    model.train()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    inputs = model_inputs(causal, packed)  # masks look at values
    count = _Count()
    try:
        with FakeTensorMode():
            weights = _weights(model, device)
            count.add(weights)
            inputs = tree_map(lambda each: _like(each, device), inputs)
            with count:
                _step(causal, inputs, packed, device)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TriceError(
            f"{type(causal).__name__} cannot be rehearsed without its weights ({reason})"
        ) from None
    whole = sum(_size(weight) for weight in weights if not weight.requires_grad)
    base, dequantized = (whole, 0) if quantize is None else _quantized(causal, whole, QUANTIZED[quantize])
    return Cost(count.peak - whole + base + dequantized, base, count.operations)


def _step(causal: Any, inputs: dict[str, Any], packed: Packed, device: torch.device) -> None:
    """Forward and backward through the body, and what the head allocates between them."""
    source_M = torch.empty(packed.source_M.shape, dtype=torch.long, device=device)
    with half_precision_autocast(causal):
        body = getattr(causal, causal.base_model_prefix)
        states_MD = body(**inputs)[0].flatten(0, 1).index_select(0, source_M)
        kept = _head(causal, states_MD, len(packed.target_E))
    states_MD.backward(torch.empty_like(states_MD))
    del kept


def _head(causal: Any, states_MD: torch.Tensor, edges: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What `token_log_probs` keeps for its backward pass; its tiles live for a moment."""
    dtype = accumulation_dtype(states_MD)
    weight_VD = causal.get_output_embeddings().weight
    tile = min(len(weight_VD), TILE.get(states_MD.device.type, GPU_TILE))
    logits = states_MD.new_empty(min(STATE_CHUNK, len(states_MD)), tile)
    copies = (logits.dtype != dtype) + 3 * bool(
        getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    )
    tiles = [torch.empty_like(logits, dtype=dtype) for _ in range(copies)]
    del tiles
    return torch.empty_like(states_MD, dtype=dtype), weight_VD.new_empty(edges, weight_VD.shape[1])


def _weights(model: Any, device: torch.device) -> list[torch.Tensor]:
    """Put fake tensors on `device` in the place of all weights and buffers, shared ones once. Gives them."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        new = _like(tensor, device)
        return (
            torch.nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else new
        )

    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    group[name] = made.setdefault(id(tensor), fake(tensor))
                    made[id(group[name])] = group[name]
    return list({id(tensor): tensor for tensor in made.values()}.values())


def _like(value: Any, device: torch.device) -> Any:
    """A tensor of the same shape on `device`, within a fake mode without data; other values as they are."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device=device)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _quantized(causal: Any, whole: int, bytes_each: float) -> tuple[int, int]:
    """Bytes of the base with its linear layers quantised, all but the head, and of the largest one as it is
    multiplied with."""
    head = causal.get_output_embeddings().weight
    linear = [
        module.weight
        for module in causal.modules()
        if isinstance(module, torch.nn.Linear)
        and not module.weight.requires_grad
        and module.weight is not head
    ]
    saved = sum(_size(weight) - weight.numel() * bytes_each for weight in linear)
    return int(whole - saved), max(map(_size, linear))
