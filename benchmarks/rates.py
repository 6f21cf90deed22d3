"""What a training step is held to: its useful arithmetic, the machine's own rate, and the memory that it takes.

The arithmetic is counted from shapes for Llama-like layers (Gemma 3 among them), not for mixtures of experts.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trice.training.packing import TokenizedExample


def matrix_rate(seconds: float = 1.0) -> float:
    """The machine's own rate of float32 matrix products in FLOP/s: the median of each shape that
    training meets, and of those the best.

    [tokens, in] x [in, out] with the weight stored [out, in], as linear layers have it.
    """
    shapes = [(600, 640, 2048), (600, 2048, 640), (2048, 2048, 2048), (300, 640, 4096)]
    return max(_product_rate(*shape, seconds / len(shapes)) for shape in shapes)


def _product_rate(rows: int, inner: int, columns: int, seconds: float) -> float:
    left, weight, out = torch.rand(rows, inner), torch.rand(columns, inner), torch.empty(rows, columns)
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, weight.T, out=out)
        took.append(time.perf_counter() - start)
    return 2 * rows * inner * columns / statistics.median(took)


class Work(NamedTuple):
    """What no exact algorithm can leave out of a step: `tokens` to run through the layers, `sources` that predict a
    response token and so meet the output head, and the (query, key) pairs that attention multiplies: `pairs` with
    every token as a query, `source_pairs` with the sources alone, each by kind of layer."""

    tokens: int
    sources: int
    pairs: dict[str, int]
    source_pairs: dict[str, int]


def needed(config: Any, examples: Sequence[TokenizedExample]) -> Work:
    """The work in `examples`: each distinct prefix once, and only prefixes on the way to a response token.

    A token that predicts nothing (a response's end token) is not run. Sliding layers see `sliding_window` keys.
    """
    sources, nodes = set(), set()
    for e in examples:
        for response in e.responses:
            ids = (*e.prompt, *response.ids)
            ends = [len(e.prompt) + place for place, loss in enumerate(response.loss) if loss]
            sources |= {ids[:end] for end in ends}
            nodes |= {ids[:end] for end in range(1, max(ends, default=0) + 1)}
    window = getattr(config.get_text_config(), "sliding_window", None) or max(map(len, nodes))

    def pairs(prefixes: set[tuple[int, ...]]) -> dict[str, int]:
        return {
            "full_attention": sum(len(prefix) for prefix in prefixes),
            "sliding_attention": sum(min(len(prefix), window) for prefix in prefixes),
        }

    return Work(len(nodes), len(sources), pairs(nodes), pairs(sources))


def useful_flops(config: Any, work: Work, rank: int = 8) -> float:
    """Operations (2 a multiply-add) of a step of forward and backward, from shapes, for LoRA on queries and values.

    Per token a linear layer [in, out] costs 2·in·out forward and as much backward (its weight is frozen: only the
    gradient by its input), its LoRA 6·r·(in + out) (forward, by input, by weights). Per pair and head attention
    costs 4·head_dim forward (scores, values) and 8 backward. Per source the output head costs 2·D·V forward and as
    much backward. In the last layer only keys and values are needed of tokens that are no source; in the first,
    nothing needs a gradient below queries, values and their LoRA (so for two layers or more). Elementwise work,
    softmax and norms count as nothing.
    """
    c = config.get_text_config()
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attend = 2 * queries  # of one product over one pair, all heads
    small = 2 * rank * (c.hidden_size + queries), 2 * rank * (c.hidden_size + keys)  # LoRA of queries, values
    to_q, to_k = 2 * c.hidden_size * queries, 2 * c.hidden_size * keys
    rest = 2 * c.hidden_size * queries + 6 * c.hidden_size * c.intermediate_size  # output projection and MLP
    kinds = getattr(c, "layer_types", None) or ["full_attention"] * c.num_hidden_layers
    total = 4 * c.hidden_size * c.vocab_size * work.sources
    for number, kind in enumerate(kinds):
        last = number == len(kinds) - 1
        acting, pairs = (work.sources, work.source_pairs) if last else (work.tokens, work.pairs)
        total += acting * (2 * (to_q + rest) + 3 * small[0]) + work.tokens * (4 * to_k + 3 * small[1])
        total += 6 * attend * pairs[kind]
    low_rank = 2 * 2 * rank * c.hidden_size  # gradients by the inputs of both LoRA layers
    unneeded = work.tokens * (to_q + 2 * to_k + low_rank) + attend * work.pairs[kinds[0]]
    return float(total - unneeded)


def peak_memory(function: Callable[[], Any]) -> int:
    """Bytes by which resident memory rises at most while `function` runs.

    The kernel's own high-water mark (VmHWM), set back before: it misses no spike between two samples, and unlike
    a process of its own it needs no second loading of the weights. Call `function` or the like once before, on one
    short example, so that weights mapped from a file and libraries' buffers are resident already. Freed memory
    that glibc keeps is handed back first (malloc_trim); what it keeps of blocks below 32 MB during the run counts,
    for it is resident. Linux only.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
