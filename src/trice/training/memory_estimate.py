"""An estimate of a micro-batch's memory and operations, from a forward and backward pass on tensors without data.

PyTorch's fake tensors run every operation for its shapes only. The peak of live bytes and the number of
multiplications follow for any model family, dtype and LoRA, with or without gradient checkpointing. The estimate
does not include what kernels allocate internally, fragmentation, `torch_compile` and validation. The allocations of
`trice.training.output_head`, which reads values, are written down here. A model whose forward pass reads values, as
a mixture of experts may, cannot be estimated.
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
"""Bytes of a weight. In 4 bits, 64 weights share a scale of 8 bits and 256 scales one of 32 (QLoRA, section 3)."""


class Cost(NamedTuple):
    """For one micro-batch: peak bytes, the part of the base's weights, and operations without the output head's."""

    peak: int
    weights: int
    operations: int


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages, their peak, and the operations of matrix products."""

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
                weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _attention(products: int, first: int) -> Any:
    """The operations of this number of products of queries with keys; argument `first` of the kernel is the
    queries."""

    def operations(*args: Any, **kwargs: Any) -> int:
        query, key = args[first : first + 2]
        return int(2 * products * query.numel() * key.shape[-2])

    return operations


COUNTED = flop_registry | {  # torch's registry has the kernels of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention(2, 0),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention(5, 1),
}


def estimate_memory(
    model: Any,
    examples: Sequence[TokenizedExample],
    layout: Layout,
    device: torch.device,
    *,
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Cost:
    """The cost of one training step of a PEFT model without weight data, on one micro-batch and on `device`.

    The model can be used again. Raises TriceError if its forward pass reads values.
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
    inputs = model_inputs(causal, packed)  # masks read values
    count = _Counter()
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
            f"{type(causal).__name__}: memory cannot be estimated without weights ({reason})"
        ) from None
    whole = sum(_size(weight) for weight in weights if not weight.requires_grad)
    base, dequantized = (whole, 0) if quantize is None else _quantized(causal, whole, QUANTIZED[quantize])
    return Cost(count.peak - whole + base + dequantized, base, count.operations)


def _step(causal: Any, inputs: dict[str, Any], packed: Packed, device: torch.device) -> None:
    """Forward and backward through the layers, with the allocations of the output head."""
    source_M = torch.empty(packed.source_M.shape, dtype=torch.long, device=device)
    with half_precision_autocast(causal):
        body = getattr(causal, causal.base_model_prefix)
        states_MD = body(**inputs)[0].flatten(0, 1).index_select(0, source_M)
        kept = _head(causal, states_MD, len(packed.target_E))
    states_MD.backward(torch.empty_like(states_MD))
    del kept


def _head(causal: Any, states_MD: torch.Tensor, edges: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensors that `token_log_probs` keeps for its backward pass; its tiles are freed at once."""
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
    """Replace all weights and buffers by fake tensors on `device`, shared ones once, and return them."""
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
    """A tensor of the same shape on `device`, without data in a fake mode; other values unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device=device)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _quantized(causal: Any, whole: int, bytes_each: float) -> tuple[int, int]:
    """Bytes of the base with all linear layers but the head quantised, and of the largest layer when it is
    dequantised for its product."""
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
