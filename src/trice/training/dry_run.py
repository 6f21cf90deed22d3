"""The cost of a training and whether it fits into memory, before any weight is loaded: `trice train … --dry-run`.

Tokens, micro-batches and steps are exact: they are counted on the first epoch's batches. Memory is that of the
largest micro-batch, from a forward and backward pass on tensors without data (`trice.training.memory_estimate`):

    peak = PROGRAM + the base's weights + 4 · LoRA's (weights, gradient, AdamW's two moments) + SLACK · activations

Time is the number of operations divided by the machine's measured rate of matrix products and by EFFICIENCY, the
share of that rate which whole steps reach. Both are estimates. They do not include validation, `torch_compile` and
DPO's pass for reference scores, and they assume the fastest packing strategy, which only a model with weights can
confirm.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trice.errors import InputError, TriceError
from trice.models.local import DTYPES, load_base, pick_device, resolve_dtype
from trice.training.capacity import Capacity, capacity
from trice.training.fine_tune import count_steps, resolve_settings
from trice.training.lora import with_lora
from trice.training.memory_estimate import estimate_memory
from trice.training.packing import Layout, TokenizedExample, micro_batches, pack, tree_size
from trice.training.settings import Clone
from trice.training.tokenization import longest_sequence
from trice.training.trainer import QuestionBatchSampler

CPU_SLACK, GPU_SLACK = 1.35, 1.1  # fragmentation; on the CPU measured on Gemma 3 270M, float32 and bfloat16
CPU_PROGRAM = 600_000_000  # libraries and data, measured in the same way; none of it is on a GPU
EFFICIENCY = {"float32": 0.6}  # measured on a CPU with matrix units
EFFICIENCY_HALF = 0.25  # half-precision products are fast, so the rest of a step counts for more
SMALLEST_BUDGET = 64  # the lowest `token_budget`


class Memory(NamedTuple):
    """Peak memory of one process, in bytes."""

    weights: int
    lora: int
    activations: int
    program: int

    @property
    def peak(self) -> int:
        return sum(self)


class TokenCounts(NamedTuple):
    """Token counts of one epoch: `full` sequences of prompt and response, padded to the longest of their batch;
    `packed` in trees; `responses`, the tokens with loss, and the hidden `states` that predict them. `parts` is the
    number of micro-batches."""

    full: int
    packed: int
    responses: int
    states: int
    parts: int


@dataclass(frozen=True)
class Plan:
    """The cost of a training. `memory` and `seconds` (of all steps) are None if the model cannot be estimated, for
    the reason `unknown`. `advice` says what to change if it does not fit, and `warnings` lists settings that do not
    suit each other or the data."""

    model: str
    device: str
    dtype: str
    parameters: int
    trainable: int
    questions: int
    responses: int
    tokens: TokenCounts
    steps_per_epoch: int
    steps: int
    capacity: Capacity
    memory: Memory | None
    seconds: float | None
    unknown: str = ""
    advice: str = ""
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The plan as text, one figure in each line."""
        tokens, processes = self.tokens, self.capacity.processes
        each = " in each process" if processes > 1 else ""
        table = {
            "model": f"{self.model}, {self.parameters:,} parameters, {self.dtype} on {self.device}",
            "LoRA": f"{self.trainable:,} trainable parameters",
            "data": f"{self.questions:,} questions, {self.responses:,} responses",
            "tokens": f"{tokens.full:,} as full padded sequences, {tokens.packed:,} in packed trees: "
            f"{1 - tokens.packed / tokens.full:.1%} saved",
            "output head": f"{tokens.responses:,} response tokens, predicted from {tokens.states:,} states",
            "steps": f"{self.steps:,}; an epoch has {self.steps_per_epoch:,}, in {tokens.parts:,} micro-batches"
            + (f" of {processes} processes" if processes > 1 else ""),
            "memory": self._memory() + each,
            "time": self._time(),
        }
        return [f"{name:12} {value}" for name, value in table.items()] + [
            f"! {warning}" for warning in self.warnings
        ]

    def _memory(self) -> str:
        if self.memory is None:
            return f"not known: {self.unknown}"
        weights, lora, activations, program = map(_bytes, self.memory)
        free = "unknown" if self.capacity.memory is None else _bytes(self.capacity.memory)
        return (
            f"about {_bytes(self.memory.peak)} at the peak (weights {weights}, LoRA and its optimiser {lora}, "
            f"activations {activations}, program {program}); free: {free}"
        )

    def _time(self) -> str:
        if self.seconds is None:
            return "not known"
        rate = self.capacity.rate / 1e9
        return (
            f"about {_time(self.seconds / self.steps)} a step, {_time(self.seconds)} in all, at {rate:,.0f} "
            "billion operations a second (estimated from one matrix product)"
        )


def plan(
    examples: Callable[[Any], list[TokenizedExample]],
    model: str,
    adapter: Path | None,
    settings: Clone,
    *,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    machine: Capacity | None = None,
) -> Plan:
    """The cost of `trice.training.fine_tune.fit` with the same arguments, on this machine unless `machine` is
    given.

    It loads the tokenizer and the configuration but no weights. Raises InputError for a model, an adapter, settings
    or data that training would refuse.
    """
    settings = resolve_settings(settings, model, adapter, device)
    where, dtype = pick_device(device), resolve_dtype(dtype, device)
    loaded = load_base(model, adapter, device=device, dtype=dtype, empty=True)
    machine = machine or capacity(where, DTYPES[dtype])
    everything = examples(loaded.tokenizer)
    rows = [example for example in everything if longest_sequence(example) <= settings.max_length]
    if not rows:
        raise InputError(
            f"max_length {settings.max_length}: every question is longer; choose a larger max_length"
        )
    parameters = loaded.model.num_parameters()
    layout: Layout = "blocks" if loaded.model.config._attn_implementation == "sdpa" else "mask"
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns that the adapter's weights are not loaded
        policy = with_lora(loaded, adapter, settings.lora, seed)
    trainable = sum(each.numel() for each in policy.parameters() if each.requires_grad)
    an_epoch, steps = count_steps(settings, len(rows))
    order = QuestionBatchSampler(len(rows), settings.batch_size, seed)
    # Those of the first epoch, or of all steps if these are fewer.
    batches = [[rows[i] for i in batch] for batch in itertools.islice(order, steps)]
    workload = _Workload(policy, trainable, layout, where, batches, machine)
    tokens = _count(batches, workload.parts(settings))
    memory = seconds = None
    unknown = advice = ""
    try:
        memory, operations = workload.cost(settings)
        head = loaded.model.get_output_embeddings().weight
        operations = operations * tokens.packed + 4 * tokens.states * head.numel()
        rate = machine.rate * EFFICIENCY.get(dtype, EFFICIENCY_HALF) * machine.processes
        seconds = operations / rate / len(batches) * steps
        advice = workload.advice(settings, memory)
    except TriceError as error:
        unknown = str(error)
    return Plan(
        model, str(where), dtype, parameters, trainable, len(rows), sum(len(row.responses) for row in rows), tokens,
        an_epoch, steps, machine, memory, seconds, unknown, advice,
        _warnings(settings, len(everything), len(rows), steps),
    )  # fmt: skip


class _Workload(NamedTuple):
    """Model, batches and machine, for which several settings are estimated."""

    policy: Any
    trainable: int
    layout: Layout
    device: torch.device
    batches: list[list[TokenizedExample]]
    machine: Capacity

    def parts(self, settings: Clone) -> list[list[TokenizedExample]]:
        """The micro-batches of all processes."""
        cut = (micro_batches(batch, settings.token_budget, self.machine.processes) for batch in self.batches)
        return [part for parts in cut for part in parts if part]

    def cost(self, settings: Clone) -> tuple[Memory, float]:
        """Peak memory, and operations of the model's layers for each token of a tree."""
        largest = max(self.parts(settings), key=tree_size)
        cost = estimate_memory(
            self.policy, largest, self.layout, self.device,
            gradient_checkpointing=settings.gradient_checkpointing, quantize=settings.quantize,
        )  # fmt: skip
        lora = 4 * self.trainable
        copies = 5 if self.machine.processes > 1 else 4  # gradients sent between processes are one more
        cpu = self.device.type == "cpu"
        activations = int((CPU_SLACK if cpu else GPU_SLACK) * (cost.peak - cost.weights - lora))
        memory = Memory(cost.weights, copies * lora, activations, CPU_PROGRAM if cpu else 0)
        return memory, cost.operations / tree_size(largest)

    def advice(self, settings: Clone, memory: Memory) -> str:
        """Empty if it fits, else the first change of settings that is enough."""
        free, least = self.machine.memory, memory
        if free is None or memory.peak <= free:
            return ""
        short = f"does not fit: it takes about {_bytes(memory.peak)} of memory, and {_bytes(free)} are free"
        for change in self._changes(settings):
            if memory.weights + memory.lora > free and "quantize" not in change:
                continue
            least = min(least, self.cost(settings.model_copy(update=change))[0], key=sum)
            if least.peak <= free:
                options = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
                return f"{short}; with {options} it takes {_bytes(least.peak)}"
        return (
            f"{short}; no setting brings it below {_bytes(least.peak)}; choose a smaller model or max_length"
        )

    def _changes(self, settings: Clone) -> list[dict[str, Any]]:
        """Changes in order of their cost: smaller micro-batches, activations computed twice, 4-bit weights."""
        floor = max(SMALLEST_BUDGET, *(tree_size([each]) for batch in self.batches for each in batch))
        budget = min(settings.token_budget, max(map(tree_size, self.parts(settings))))
        budgets: list[dict[str, Any]] = []
        while (budget := budget // 2) >= floor:
            budgets.append({"token_budget": budget})
        twice: dict[str, Any] = {} if settings.gradient_checkpointing else {"gradient_checkpointing": True}
        changes = [*budgets, *([twice | each for each in ({}, *budgets)] if twice else [])]
        if settings.quantize != "4bit":
            changes += [{"quantize": "4bit"}, {"quantize": "4bit"} | (changes[-1] if changes else {})]
        return changes


def _count(
    batches: Sequence[Sequence[TokenizedExample]], parts: Sequence[Sequence[TokenizedExample]]
) -> TokenCounts:
    packed = [pack(part) for part in parts]
    return TokenCounts(
        full=sum(
            sum(len(example.responses) for example in batch) * max(map(longest_sequence, batch))
            for batch in batches
        ),
        packed=sum(each.tokens_RT.numel() for each in packed),
        responses=sum(len(each.edge_N) for each in packed),
        states=sum(len(each.source_M) for each in packed),
        parts=len(parts),
    )


def _warnings(settings: Clone, rows: int, kept: int, steps: int) -> list[str]:
    """Settings that do not suit each other or these data."""
    found = {
        f"max_length={settings.max_length} leaves out {rows - kept:,} of {rows:,} questions": kept < rows,
        f"batch_size={settings.batch_size} is more than the {kept:,} questions: each epoch is one step":
            settings.batch_size > kept,
        f"warmup_steps={settings.warmup_steps} covers all {steps:,} steps: the learning rate never reaches "
        f"{settings.learning_rate:g}": settings.warmup_steps >= steps,
        f"eval_steps={settings.eval_steps} is more than the {steps:,} steps: there is only one "
        "checkpoint to choose": settings.eval_steps > steps,
    }  # fmt: skip
    return [text for text, applies in found.items() if applies]


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    """A duration with at least two significant digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
