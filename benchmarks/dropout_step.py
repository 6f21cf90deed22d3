"""One training step with our dropout on LoRA's inputs beside the same step with torch's, in turn in one process.

LoRA on all linear layers with the paper's rate, stage 2 in the paper's form. The two draw other masks, so what is
checked is that without them (in eval mode) both have the same loss.

    python benchmarks/dropout_step.py [float32|bfloat16] [rounds=5]
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from baselines import ours, questions, timed
from trice.models.local import load_base
from trice.training import dropout
from trice.training.packed_forward import PackedForward


def model(base: Any) -> Any:
    torch.manual_seed(0)
    lora = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(base, lora).train()


def main() -> None:
    dtype = sys.argv[1] if len(sys.argv) > 1 else "float32"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    models = []
    for _ in range(2):
        loaded = load_base("gemma-3-270m", dtype=dtype)
        examples = questions(8, 5, loaded.tokenizer)
        models.append(model(loaded.model))
    plain, fast = models
    dropout.on_cpu(fast)
    forwards = {id(each): PackedForward(each, examples) for each in models}

    def step(chosen: Any) -> tuple[float, float]:
        return timed(lambda: ours(forwards[id(chosen)], examples), chosen)

    with torch.no_grad():
        losses = [ours(forwards[id(each.eval())], examples).item() for each in models]
    assert losses[0] == losses[1], losses
    for each in models:
        step(each.train())
    pairs = [(step(plain)[0], step(fast)[0]) for _ in range(rounds)]
    slow, quick = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(
        f"stage-2 step, 8 questions, K=5, all-linear LoRA, dropout 0.05, {dtype}, {torch.get_num_threads()} threads"
    )
    print(f"torch {slow:.2f} s, ours {quick:.2f} s, ratio {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
