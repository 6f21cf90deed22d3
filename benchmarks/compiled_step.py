"""One stage-1 step with `torch_compile: true` beside the same step without, in turn in one process.

Both train LoRA on all linear layers over the same 16 questions of the starter set, in the dtype that `auto` means
here, and must have the same loss.

    python benchmarks/compiled_step.py [rounds=5]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from baselines import ours, timed
from trice.datasets import load
from trice.formats.prompt import load_template
from trice.models.local import load_base, resolve_dtype
from trice.training.environment import compile_layers
from trice.training.packed_forward import PackedForward
from trice.training.packing import TokenizedExample
from trice.training.tokenization import tokenize_example

QUESTIONS = 16


def questions(tokenizer: Any) -> list[TokenizedExample]:
    template = load_template("plain")
    return [
        tokenize_example(
            template,
            tokenizer,
            "",
            row.input,
            [f"calculator({(row.model_extra or {})['expression']})"],
            [0.0],
        )
        for row in load("starter", train=QUESTIONS, test=1).train
    ]


def made(dtype: str, examples: list[TokenizedExample]) -> tuple[Any, PackedForward]:
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    base = load_base("gemma-3-270m", dtype=dtype).model
    model = get_peft_model(base, lora).train()
    return model, PackedForward(model, examples)


def step(forward: PackedForward, examples: list[TokenizedExample]) -> tuple[float, float]:
    return timed(lambda: ours(forward, examples), forward.model)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    dtype = resolve_dtype("auto", "cpu")
    examples = questions(load_base("gemma-3-270m", dtype=dtype).tokenizer)
    (_, plain), (model, compiled) = made(dtype, examples), made(dtype, examples)
    compile_layers(model)
    start = time.perf_counter()
    step(compiled, examples)
    first = time.perf_counter() - start
    step(plain, examples)
    pairs = [(step(plain, examples), step(compiled, examples)) for _ in range(rounds)]
    for (_, theirs), (_, mine) in pairs:
        assert abs(theirs - mine) < 1e-2 * abs(theirs), f"different losses: {theirs} and {mine}"
    slow, fast = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[0][0] / pair[1][0] for pair in pairs)
    print(f"stage-1 step, {QUESTIONS} questions, {dtype}, {torch.get_num_threads()} threads")
    print(
        f"plain {slow:.2f} s, compiled {fast:.2f} s, ratio {ratio:.2f}; the first compiled step took {first:.0f} s"
    )


if __name__ == "__main__":
    main()
