"""A training step of both stages: ours, the published algorithm and TRL's trainer, in turn in one process.

All compute the same loss on the same questions (checked); ratios are medians over rounds, each round running
every side once. Memory is the peak over the weights, useful arithmetic what no exact algorithm can leave out, held
against the machine's own matrix products in the same run. LoRA and prompts are the paper's.

    python benchmarks/training_step.py [--data FILE] [--questions 4] [--k 5] [--stage 1]
        [--chunk 0] [--rounds 5] [--compile] [--trl]

FILE is a stage-2 file of math (`trice score --no-distinct` keeps the duplicates that sampling really gives);
without one, questions of the starter set get wrong calls made from the right one. `--trl` needs `pip install trl`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from baselines import (
    TrlSft,
    chunked,
    cloning,
    lora_model,
    ours,
    published_parts1,
    published_parts2,
    questions,
    timed,
)
from rates import matrix_rate, needed, peak_memory, useful_flops
from trice.models.local import load_base
from trice.training.environment import compile_layers
from trice.training.packing import TokenizedExample, tree_size
from trice.training.trainer import LossSums

Step = Callable[[], torch.Tensor]
Baseline = Callable[[Any, Sequence[TokenizedExample]], LossSums]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="training steps beside their baselines")
    parser.add_argument("--data", type=Path, help="a stage-2 file of math")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="only this stage")
    parser.add_argument(
        "--chunk", type=int, default=0, help="questions that the published steps take at a time; 0: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="ours with the setting `torch_compile`")
    parser.add_argument("--trl", action="store_true", help="TRL's SFTTrainer beside stage 1")
    return parser.parse_args()


def compare(
    name: str, model: Any, examples: Sequence[TokenizedExample], steps: dict[str, Step], rounds: int
) -> None:
    """Time all steps in turn and print a line for each, with its ratio to the first, which is ours."""
    memory, seconds, losses = {}, {each: [] for each in steps}, {}
    for each, step in steps.items():
        timed(step, model)  # the first run of a size pays for its pages, and for compiling
        memory[each] = peak_memory(lambda step=step: timed(step, model))
    rates = []
    for _ in range(rounds):
        rates.append(matrix_rate())
        for each, step in steps.items():
            took, losses[each] = timed(step, model)
            seconds[each].append(took)
    first = next(iter(steps))
    for each, loss in losses.items():
        # 262k logits added up in float32 by another order differ by 1e-5.
        assert abs(loss - losses[first]) < 1e-4 * abs(loss), f"{each}: loss {loss} against {losses[first]}"
    work = needed(model.config, examples)
    size = f"{len(examples)} questions, {tree_size(examples)} tokens in the tree, {work.sources} states to the head"
    print(f"{name}: {size}")
    for each in steps:
        ratios = [slow / fast for slow, fast in zip(seconds[each], seconds[first], strict=True)]
        took = statistics.median(seconds[each])
        rate, machine = useful_flops(model.config, work) / took, statistics.median(rates)
        print(
            f"  {each:10} {len(examples) / took:6.2f} questions/s, ours {statistics.median(ratios):5.2f} times"
            f" faster ({min(ratios):.2f} to {max(ratios):.2f}); peak {memory[each] / 1e6:6.0f} MB,"
            f" {memory[each] / memory[first]:5.1f} times ours; useful {rate / 1e9:4.0f} GFLOP/s,"
            f" {rate / machine:.0%} of {machine / 1e9:.0f}; loss {losses[each]:.6f}"
        )


def main() -> None:
    given = arguments()
    loaded = load_base("gemma-3-270m", dtype="float32")
    ranked = questions(given.questions, given.k, loaded.tokenizer, given.data)
    gold = cloning(ranked)
    model, forward = lora_model(loaded.model, 0.0, ranked)
    print(
        f"K={given.k}, float32, {torch.get_num_threads()} threads, {given.rounds} rounds, compile={given.compile}"
    )
    if given.compile:
        compiled, forward = lora_model(load_base("gemma-3-270m", dtype="float32").model, 0.0, ranked)
        compile_layers(compiled)

    def published(step: Baseline, rows: Sequence[TokenizedExample]) -> Step:
        size = given.chunk or len(rows)
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        return lambda: chunked(step, model, chunks)

    if given.stage != 1:
        steps = {"ours": lambda: ours(forward, ranked), "published": published(published_parts2, ranked)}
        compare("stage 2", model, ranked, steps, given.rounds)
    if given.stage != 2:
        steps = {"ours": lambda: ours(forward, gold), "published": published(published_parts1, gold)}
        if given.trl:
            steps["TRL"] = TrlSft(model, loaded.tokenizer, gold)
        compare("stage 1", model, gold, steps, given.rounds)


if __name__ == "__main__":
    main()
