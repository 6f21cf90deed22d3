"""Phase 2: a training step at the shape of Llama 7B with random weights, bfloat16, LoRA r 8 on queries and values.

Ours (as training runs it, in micro-batches by token budget), the published algorithms and TRL's SFTTrainer on the
same questions: forward and backward without the optimiser, five candidates in stage 2, the paper's prompts. All
must have the same loss, and ours the published gradient. The share of the card's rate is useful arithmetic
(`rates.useful_flops`) over the time, held against one large bfloat16 product on this card. Peak memory is counted
over the weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from baselines import (
    LORA,
    Step,
    TrlSft,
    chunked,
    cloning,
    our_sums,
    published_parts1,
    published_parts2,
    questions,
    timed,
)
from rates import needed, useful_flops
from shapes import LLAMA_7B, TINY, Machine, Skipped, load_shape, prompt_texts
from trice.training.environment import compile_layers
from trice.training.packed_forward import PackedForward
from trice.training.packing import TokenizedExample, micro_batches, tree_size
from trice.training.trainer import LossSums

DATASHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 operations a second
CANDIDATES = 5
SAME_LOSS, SAME_GRADIENT = 0.01, 0.97  # bfloat16: relative, and as a cosine


def parts(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    rates: dict[str, Any] = {}

    def card() -> dict[str, Any]:
        rates.update(card_rates(machine))
        return rates

    yield "card", card
    shape, count = (TINY, 4) if machine.tiny else (LLAMA_7B, 64)
    steps = Steps(machine, shape, count, rates)
    yield "stage 2", steps.stage2
    yield "stage 1", steps.stage1
    yield "stage 2, profile", steps.profile
    yield "stage 2, gradient checkpointing", steps.checkpointing
    yield "TRL, stage 1", steps.trl
    if not machine.tiny:
        yield "stage 2, compiled", steps.compiled


def card_rates(machine: Machine) -> dict[str, Any]:
    """Operations a second of one large product, bytes a second of one large copy (read and written)."""
    side = 256 if machine.tiny else 8192
    one, other = (torch.randn(side, side, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    large = torch.empty(2**20 if machine.tiny else 2**31, dtype=torch.uint8, device=machine.device)

    def seconds(work: Callable[[], Any]) -> float:
        took = []
        for _ in range(12):
            machine.wait()
            start = time.perf_counter()
            work()
            machine.wait()
            took.append(time.perf_counter() - start)
        return statistics.median(took[2:])

    found = {"tflops": 2 * side**3 / seconds(lambda: one @ other) / 1e12}
    found["copy_tb_s"] = 2 * large.numel() / seconds(large.clone) / 1e12
    if machine.device.type == "cuda":
        name = torch.cuda.get_device_name(machine.device)
        known = next((rate for card, rate in DATASHEET.items() if card in name), None)
        found |= {"datasheet_tflops": known and known / 1e12}
    return {key: value and round(value, 6) for key, value in found.items()}


class Steps:
    """One model for all parts, made when it is first needed."""

    def __init__(self, machine: Machine, shape: dict[str, Any], count: int, rates: dict[str, Any]) -> None:
        self.machine, self.shape, self.count, self.rates = machine, shape, count, rates
        self.rounds = 1 if machine.tiny else 3
        self._made: tuple[Any, Any, list[TokenizedExample], PackedForward] | None = None

    def made(self) -> tuple[Any, Any, list[TokenizedExample], PackedForward]:
        """The policy, the tokenizer, the questions of stage 2, and the policy's packed forward pass."""
        if self._made is None:
            from peft import LoraConfig, get_peft_model

            loaded = load_shape(self.shape, torch.bfloat16, self.machine.device, prompt_texts(self.count))
            ranked = questions(self.count, CANDIDATES, loaded.tokenizer)
            with torch.device(self.machine.device):
                model = get_peft_model(loaded.model, LoraConfig(lora_dropout=0.0, **LORA)).train()
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.02)
            forward = PackedForward(model, ranked)
            assert forward.strategy.layout == "blocks", forward.strategy
            self._made = model, loaded.tokenizer, ranked, forward
        return self._made

    def stage2(self) -> dict[str, Any]:
        _, _, ranked, _ = self.made()
        budgets = [512] if self.machine.tiny else [4096, 8192, 2048]
        sizes = [4] if self.machine.tiny else [8, 16, 4]
        return self.compare(ranked, budgets, sizes, published_parts2)

    def stage1(self) -> dict[str, Any]:
        _, _, ranked, _ = self.made()
        budgets = [512] if self.machine.tiny else [4096, 8192, 2048]
        sizes = [4] if self.machine.tiny else [32, 64, 16]
        return self.compare(cloning(ranked), budgets, sizes, published_parts1)

    def compare(
        self, rows: list[TokenizedExample], budgets: list[int], sizes: list[int], published: Step
    ) -> dict[str, Any]:
        """The best of ours and of the published steps, by how many tokens or questions they take at a time."""
        work = needed(self.made()[0].config, rows)
        prompts = [len(each.prompt) for each in rows]
        found: dict[str, Any] = {
            "questions": len(rows), "prompt_tokens": round(statistics.mean(prompts), 1),
            "tree_tokens": tree_size(rows), "head_states": work.sources,
        }  # fmt: skip
        ours = {f"token_budget {size}": (self.packed_step, micro_batches(rows, size)) for size in budgets}
        theirs = {
            f"{size} questions": (published, [rows[at : at + size] for at in range(0, len(rows), size)])
            for size in sizes
        }
        mine, my_slope = self.best(rows, ours)
        other, its_slope = self.best(rows, theirs)
        found |= {"ours": mine, "published": other}
        found["ratio"] = round(other["step_s"] / mine["step_s"], 2)
        found["gradient_cosine"] = round(float(torch.cosine_similarity(my_slope, its_slope, dim=0)), 5)
        same = abs(mine["loss"] - other["loss"]) <= SAME_LOSS * abs(other["loss"])
        found["ok"] = same and found["gradient_cosine"] >= SAME_GRADIENT
        return found

    def best(
        self, rows: list[TokenizedExample], ways: dict[str, tuple[Step, Sequence[Sequence[TokenizedExample]]]]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        tried = {}
        for name, (step, chunks) in ways.items():
            try:
                tried[name] = self.measure(rows, step, chunks)
            except torch.OutOfMemoryError:
                tried[name] = None
                torch.cuda.empty_cache()
        fitting = {name: each for name, each in tried.items() if each is not None}
        if not fitting:
            raise MemoryError(f"none fits: {', '.join(ways)}")
        first = min(fitting, key=lambda name: fitting[name][0]["step_s"])
        tried_s = {name: each[0]["step_s"] if each else "out of memory" for name, each in tried.items()}
        return {"how": first, **fitting[first][0], "tried_step_s": tried_s}, fitting[first][1]

    def measure(
        self, rows: list[TokenizedExample], step: Step, chunks: Sequence[Sequence[TokenizedExample]]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        model, _, _, forward = self.made()
        run = partial(timed, lambda: chunked(step, model, chunks), model)
        with forward:  # for gradient checkpointing; the published steps do not use its attention
            run()
            model.zero_grad()
            before = self.machine.reset_peak()
            seconds, losses = zip(*(run() for _ in range(self.rounds)), strict=True)
        peak = self.machine.peak() - before
        slope = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
        return self.figures(rows, statistics.median(seconds), losses[-1], peak), slope

    def packed_step(self, model: Any, rows: Sequence[TokenizedExample]) -> LossSums:
        return our_sums(self.made()[3], rows)

    def figures(self, rows: list[TokenizedExample], seconds: float, loss: float, peak: int) -> dict[str, Any]:
        config = self.made()[0].config
        rate = useful_flops(config, needed(config, rows)) / seconds / 1e12
        found = {
            "step_s": round(seconds, 4), "questions_s": round(len(rows) / seconds, 2), "loss": round(loss, 5),
            "peak_gb": round(peak / 1e9, 2), "useful_tflops": round(rate, 3),
        }  # fmt: skip
        if self.rates:
            found["share_of_card"] = round(rate / self.rates["tflops"], 3)
        return found

    def profile(self) -> dict[str, Any]:
        model, _, ranked, _ = self.made()
        chunks = micro_batches(ranked, 512 if self.machine.tiny else 8192)
        model.zero_grad()
        return self.machine.profile(lambda: chunked(self.packed_step, model, chunks))

    def checkpointing(self) -> dict[str, Any]:
        model, _, ranked, _ = self.made()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            budget = 512 if self.machine.tiny else 8192
            return self.measure(ranked, self.packed_step, micro_batches(ranked, budget))[0]
        finally:
            model.gradient_checkpointing_disable()

    def trl(self) -> dict[str, Any]:
        """TRL's trainer, rows packed or padded; whichever is faster counts."""
        model, tokenizer, ranked, _ = self.made()
        try:
            import trl
        except ImportError as error:
            raise Skipped(f"TRL cannot be imported ({error})") from None
        gold = cloning(ranked)
        ways: dict[str, dict[str, Any]] = {
            "packed to 2048": {"packing": True, "per_device_train_batch_size": 1, "max_length": 2048},
            "padded, 32 rows": {"packing": False, "per_device_train_batch_size": 32, "max_length": 2048},
        }
        found: dict[str, Any] = {"version": trl.__version__}
        for name, settings in ways.items():
            step = TrlSft(model, tokenizer, gold, bf16=self.machine.device.type == "cuda", **settings)
            timed(step, model)
            before = self.machine.reset_peak()
            runs = [timed(step, model) for _ in range(self.rounds)]
            seconds = statistics.median(took for took, _ in runs)
            found[name] = self.figures(gold, seconds, runs[-1][1], self.machine.peak() - before)
        return found

    def compiled(self) -> dict[str, Any]:
        """Ours with the setting `torch_compile`; last, for compiling takes its time."""
        self._made = None
        torch.cuda.empty_cache()
        model, _, ranked, _ = self.made()
        compile_layers(model)
        return self.measure(ranked, self.packed_step, micro_batches(ranked, 8192))[0]
