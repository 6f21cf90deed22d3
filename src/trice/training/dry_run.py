"""What a training would cost and whether it fits, before any weight is loaded: `trice train … --dry-run`.

Tokens, micro-batches and steps are those of the training itself, counted on the first pass over its data. Memory is
that of its largest micro-batch, rehearsed without data (`trice.training.memory_estimate`):

    peak = PROGRAM + the base's weights + 4 · LoRA's (weights, gradient, AdamW's two moments) + SLACK · activations

Time is operations over the machine's own rate in one matrix product, times EFFICIENCY, the share of that rate which
whole steps reached. Both are estimates. Validation, `compile` and DPO's pass for its reference are not in them, and
models are taken to go the trainer's fastest way, which only their weights can show.
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
from trice.training.fine_tune import checked, count_steps
from trice.training.lora import with_lora
from trice.training.memory_estimate import rehearse
from trice.training.packing import Layout, TokenizedExample, micro_batches, pack, tree_size
from trice.training.settings import Clone
from trice.training.tokenization import longest_sequence
from trice.training.trainer import QuestionBatchSampler

SLACK = {"cpu": 1.35}  # an allocator's holes: measured on Gemma 3 270M, float32 and bfloat16
SLACK_ELSEWHERE = 1.1
PROGRAM = {"cpu": 600_000_000}  # what training holds besides, measured so too; none of it is on a GPU
EFFICIENCY = {"float32": 0.6}  # of steps of the same model on a CPU with matrix units
EFFICIENCY_HALF = 0.25  # where products are so fast that the rest of a step counts for more
SMALLEST_BUDGET = 64  # as `token_budget` has it


class Memory(NamedTuple):
    """Bytes at the peak of one process."""

    weights: int
    lora: int
    activations: int
    program: int

    @property
    def peak(self) -> int:
        return sum(self)


class TokenCounts(NamedTuple):
    """Of one pass over the data: `full`, every response with its prompt, padded to the longest of its batch;
    `packed`, in trees; `responses`, those with loss, which `states` predict at the output head; `parts`, the
    micro-batches."""

    full: int
    packed: int
    responses: int
    states: int
    parts: int


@dataclass(frozen=True)
class Plan:
    """What a training would cost. `memory` and `seconds` (of all steps) are None where the model cannot be
    rehearsed, for the reason `unknown`; `advice` says what to change where it cannot fit."""

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
    doubts: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The plan for people, a figure a line."""
        tokens, team = self.tokens, self.capacity.processes
        each = " in each process" if team > 1 else ""
        table = {
            "model": f"{self.model}, {self.parameters:,} parameters, {self.dtype} on {self.device}",
            "LoRA": f"{self.trainable:,} trainable parameters",
            "data": f"{self.questions:,} questions, {self.responses:,} responses",
            "tokens": f"{tokens.full:,} as full padded sequences, {tokens.packed:,} in packed trees: "
            f"{1 - tokens.packed / tokens.full:.1%} saved",
            "output head": f"{tokens.responses:,} response tokens, predicted from {tokens.states:,} states",
            "steps": f"{self.steps:,}; an epoch has {self.steps_per_epoch:,}, in {tokens.parts:,} micro-batches"
            + (f" of {team} processes" if team > 1 else ""),
            "memory": self._memory() + each,
            "time": self._time(),
        }
        return [f"{name:12} {value}" for name, value in table.items()] + [
            f"! {doubt}" for doubt in self.doubts
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
    """What `trice.training.fine_tune.fit` would do with the same arguments. `machine` is this one unless given.

    Loads the tokenizer and the configuration, no weights. Raises InputError for a model, an adapter, settings or
    data that training would refuse.
    """
    settings = checked(settings, model, adapter, device)
    where, dtype = pick_device(device), resolve_dtype(dtype, device)
    loaded = load_base(model, adapter, device=device, dtype=dtype, empty=True)
    machine = machine or capacity(where, DTYPES[dtype])
    everything = examples(loaded.tokenizer)
    rows = [example for example in everything if longest_sequence(example) <= settings.max_length]
    if not rows:
        raise InputError(f"max_length {settings.max_length}: every question is longer")
    parameters = loaded.model.num_parameters()
    layout: Layout = "blocks" if loaded.model.config._attn_implementation == "sdpa" else "mask"
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an adapter's weights go nowhere
        policy = with_lora(loaded, adapter, settings.lora, seed)
    trainable = sum(each.numel() for each in policy.parameters() if each.requires_grad)
    an_epoch, steps = count_steps(settings, len(rows))
    batches = _batches(rows, settings, seed, steps)
    stage = _Stage(policy, trainable, layout, where, batches, machine)
    tokens = _count(batches, stage.parts(settings))
    memory = seconds = None
    unknown = advice = ""
    try:
        memory, operations = stage.cost(settings)
        head = loaded.model.get_output_embeddings().weight
        operations = operations * tokens.packed + 4 * tokens.states * head.numel()
        rate = machine.rate * EFFICIENCY.get(dtype, EFFICIENCY_HALF) * machine.processes
        seconds = operations / rate / len(batches) * steps
        advice = stage.advice(settings, memory)
    except TriceError as error:
        unknown = str(error)
    return Plan(
        model, str(where), dtype, parameters, trainable, len(rows), sum(len(row.responses) for row in rows), tokens,
        an_epoch, steps, machine, memory, seconds, unknown, advice,
        _doubts(settings, len(everything), len(rows), steps),
    )  # fmt: skip


class _Stage(NamedTuple):
    """What the settings that bound memory are tried on."""

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
        """Memory, and operations of the model's body for each token of a tree."""
        largest = max(self.parts(settings), key=tree_size)
        cost = rehearse(
            self.policy, largest, self.layout, self.device,
            gradient_checkpointing=settings.gradient_checkpointing, quantize=settings.quantize,
        )  # fmt: skip
        lora = 4 * self.trainable
        copies = 5 if self.machine.processes > 1 else 4  # what is sent between processes is one more
        kind = self.device.type
        activations = int(SLACK.get(kind, SLACK_ELSEWHERE) * (cost.peak - cost.weights - lora))
        memory = Memory(cost.weights, copies * lora, activations, PROGRAM.get(kind, 0))
        return memory, cost.operations / tree_size(largest)

    def advice(self, settings: Clone, memory: Memory) -> str:
        """Empty where it fits, else which settings to change for what: the first change that is enough."""
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
                return f"{short}; {_bytes(least.peak)} would do with {options}"
        return f"{short}; no setting brings it below {_bytes(least.peak)}: take a smaller model or max_length"

    def _changes(self, settings: Clone) -> list[dict[str, Any]]:
        """Smaller micro-batches first, which cost little; then activations computed twice; then 4-bit weights."""
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


def _batches(
    rows: Sequence[TokenizedExample], settings: Clone, seed: int, steps: int
) -> list[list[TokenizedExample]]:
    """The batches of the first epoch, or of all steps where they are fewer."""
    order = QuestionBatchSampler(len(rows), settings.batch_size, seed)
    return [[rows[i] for i in batch] for batch in itertools.islice(order, steps)]


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


def _doubts(settings: Clone, rows: int, kept: int, steps: int) -> list[str]:
    """Settings that make no sense together, or with these data."""
    doubts = {
        f"max_length={settings.max_length} leaves out {rows - kept:,} of {rows:,} questions": kept < rows,
        f"batch_size={settings.batch_size} is more than the {kept:,} questions there are: a step is an epoch":
            settings.batch_size > kept,
        f"warmup_steps={settings.warmup_steps} is all of the {steps:,} steps: the learning rate never gets to "
        f"{settings.learning_rate:g}": settings.warmup_steps >= steps,
        f"validate_every={settings.validate_every} is beyond the last of {steps:,} steps: there is but one "
        "checkpoint to choose": settings.validate_every > steps,
    }  # fmt: skip
    return [text for text, so in doubts.items() if so]


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    """In the unit that gives it two figures or more."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
