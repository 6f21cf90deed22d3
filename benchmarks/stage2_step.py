"""One stage-2 step: ours beside the published algorithm, in turn in one process.

The baseline runs every candidate as a sequence of its own, padded to the longest, takes the log-softmax of all
logits and gathers the targets. Both compute the same loss (checked) on the starter set with K candidates.

    python benchmarks/stage2_step.py [questions=4] [K=5] [rounds=3]
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from trice.datasets import load
from trice.models.local import load_base
from trice.prompts import load_template
from trice.training.fit import example
from trice.training.losses import rank_loss, sequence_scores
from trice.training.packing import Example, pack
from trice.training.trainer import Objective, measure


def candidates(count: int, k: int, tokenizer: Any) -> list[Example]:
    """Starter questions with their gold call and k - 1 wrong ones of like length."""
    template, draw = load_template("alpaca"), random.Random(0)
    examples = []
    for question in load("starter", train=count, test=1).train:
        gold = str((question.model_extra or {})["expression"])
        wrong = ["".join(draw.choice("123456789") if c.isdigit() else c for c in gold) for _ in range(k - 1)]
        texts = [f"calculator({text})" for text in (gold, *wrong)]
        instruction = "Given a math problem, please answer it and you can use a calculator for help."
        examples.append(
            example(template, tokenizer, instruction, question.input, texts, [20.0] + [5.0] * (k - 1))
        )
    return examples


def ours(model: Any, examples: list[Example]) -> torch.Tensor:
    part = measure(model, pack(examples), Objective())
    return part.sft / part.tokens + part.rank / part.questions


def published(model: Any, examples: list[Example]) -> torch.Tensor:
    rows = [(e.prompt, r.ids) for e in examples for r in e.responses]
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, (prompt, ids) in enumerate(rows):
        row = torch.tensor(prompt + ids)
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(ids)
    logps = model(input_ids=tokens, attention_mask=mask).logits.log_softmax(-1)
    real = labels != -100
    chosen = logps.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    response = torch.arange(len(rows)).unsqueeze(1).expand_as(labels)[real]
    k = len(examples[0].responses)
    scores = sequence_scores(chosen[real], response, len(rows)).view(-1, k)
    rewards = torch.tensor([e.rewards for e in examples])
    rank = rank_loss(scores, rewards, torch.ones_like(rewards, dtype=torch.bool))[0].mean()
    gold = torch.arange(0, len(rows), k)
    return rank - chosen[gold][real[gold]].mean()


def timed(step: Any, model: Any, examples: list[Example]) -> tuple[float, float]:
    model.zero_grad()
    start = time.perf_counter()
    loss = step(model, examples)
    loss.backward()
    return time.perf_counter() - start, float(loss.detach())


def main() -> None:
    count, k, rounds = map(int, [*sys.argv[1:], *("4", "5", "3")[len(sys.argv) - 1 :]])
    loaded = load_base("gemma-3-270m", dtype="float32")
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, lora).get_base_model().train()
    examples = candidates(count, k, loaded.tokenizer)
    timed(ours, model, examples)  # warm up
    pairs = [(timed(published, model, examples), timed(ours, model, examples)) for _ in range(rounds)]
    for (_, theirs), (_, mine) in pairs:
        assert abs(theirs - mine) < 1e-4 * abs(theirs), f"different losses: {theirs} and {mine}"
    slow, fast = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[0][0] / pair[1][0] for pair in pairs)
    print(f"stage-2 step, {count} questions, K={k}, float32, {torch.get_num_threads()} threads")
    print(f"published {count / slow:.2f} questions/s, ours {count / fast:.2f} questions/s, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
