"""Each trick of the packed forward alone and on top of the others, and how the step's cost grows.

The first table starts from the published stage 2 and adds one trick after another; all have the same loss
(checked).
The second gives ours for numbers of candidates, lengths of prompts and sizes of batches, beside the published
algorithm where its memory allows (`--limit` GB): questions/s, peak memory, tokens run of those the published runs.

    python benchmarks/tricks.py [--data FILE] [--questions 4] [--rounds 3] [--limit 12] [--only tricks|growth]

FILE as in `training_step.py`.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from baselines import best, lora_model, ours, published_stage2, questions, timed
from rates import peak_memory
from trice.models.local import load_base
from trice.training.environment import compile_layers
from trice.training.packed_forward import PackedForward
from trice.training.packing import TokenizedExample, pack, tree_size
from trice.training.settings import Rlef
from trice.training.tokenization import longest_sequence
from trice.training.trainer import loss_sums

Step = Callable[[], torch.Tensor]
LOGIT_BYTES = 16  # per position and word: logits, their float copy, log-softmax, gradient


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what each trick brings, and how cost grows")
    parser.add_argument("--data", type=Path, help="a stage-2 file of math")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=12, help="GB that the published algorithm may take")
    parser.add_argument("--only", choices=("tricks", "growth"))
    return parser.parse_args()


def separately(forward: PackedForward, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """One tree a question, in turn: the prompt once for its candidates, nothing shared between questions."""
    parts = []
    for example in examples:
        packed = pack([example], "mask")
        part = loss_sums(forward(packed), packed, Rlef())
        loss = part.sft / sum(sum(e.responses[best(e)].loss) for e in examples)
        loss = loss + part.rank / len(examples)
        loss.backward()
        parts.append(loss.detach())
    return torch.stack(parts).sum()


def run(steps: dict[str, Step], model: Any, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Median seconds, peak bytes and loss of each step, run in turn."""
    peaks = {}
    for name, step in steps.items():
        timed(step, model)
        peaks[name] = peak_memory(lambda step=step: timed(step, model))
    taken = [{name: timed(step, model) for name, step in steps.items()} for _ in range(rounds)]
    return {
        name: (statistics.median(one[name][0] for one in taken), peaks[name], taken[0][name][1])
        for name in steps
    }


def tricks(
    model: Any, forward: PackedForward, fast: PackedForward, examples: Sequence[TokenizedExample], rounds: int
) -> None:
    """From the published algorithm to ours; `fast` is the packed forward pass of a compiled model."""
    steps: dict[str, Step] = {
        "published": lambda: published_stage2(model, examples),
        "+ head on responses, tiled": lambda: ours(forward, examples, "padded"),
        "+ prompt once a question": lambda: separately(forward, examples),
        "+ instruction once a batch": lambda: ours(forward, examples, "mask"),
        "+ attention in blocks": lambda: ours(forward, examples, "blocks"),
        "+ compiled layers": lambda: ours(fast, examples, "blocks"),
    }
    found = run(steps, model, rounds)
    first = before = found["published"]
    print(f"{'trick':28} {'questions/s':>11} {'of published':>12} {'of the one above':>16} {'peak MB':>8}")
    for name, (seconds, peak, loss) in found.items():
        assert abs(loss - first[2]) < 1e-4 * abs(loss), f"{name}: loss {loss} against {first[2]}"
        gains = f"{first[0] / seconds:>11.2f}x {before[0] / seconds:>15.2f}x"
        print(f"{name:28} {len(examples) / seconds:>11.2f} {gains} {peak / 1e6:>8.0f}")
        before = (seconds, peak, loss)


def published_tokens(examples: Sequence[TokenizedExample]) -> int:
    """Tokens with padding: every response with its prompt, as long as the longest."""
    return sum(len(e.responses) for e in examples) * max(map(longest_sequence, examples))


def growth(
    model: Any,
    forward: PackedForward,
    source: Callable[[int, int], list[TokenizedExample]],
    rounds: int,
    limit: float,
) -> None:
    """Ours and, where it fits, the published algorithm along three axes."""
    words = model.config.get_text_config().vocab_size
    base = source(4, 5)
    sizes = {
        **{f"K = {k}, 4 questions": source(4, k) for k in (2, 5, 10, 20)},
        **{
            f"prompts of {n}, K = 5, 2 questions": lengthened(base[:2], n)
            for n in (50, 100, 200, 500, 1000, 2000)
        },
        **{f"{n} questions, K = 5": source(n, 5) for n in (1, 2, 8, 16, 32)},
    }
    print(
        f"{'':36} {'ours q/s':>9} {'MB':>6} {'published q/s':>14} {'MB':>6} {'ratio':>6} {'tokens saved':>13}"
    )
    for name, examples in sizes.items():
        steps: dict[str, Step] = {"ours": lambda examples=examples: ours(forward, examples)}
        tokens = published_tokens(examples)
        if tokens * words * LOGIT_BYTES < limit * 1e9:
            steps["published"] = lambda examples=examples: published_stage2(model, examples)
        found = run(steps, model, rounds)
        seconds, peak, _ = found["ours"]
        saved = 1 - tree_size(examples) / tokens
        line = f"{name:36} {len(examples) / seconds:>9.2f} {peak / 1e6:>6.0f}"
        if "published" in found:
            slow, theirs, _ = found["published"]
            line += f" {len(examples) / slow:>14.3f} {theirs / 1e6:>6.0f} {slow / seconds:>5.1f}x"
        else:
            line += f" {'too large':>14} {'':>6} {'':>6}"
        print(f"{line} {saved:>12.0%}")


def lengthened(examples: Sequence[TokenizedExample], length: int) -> list[TokenizedExample]:
    """The questions with prompts of about `length` tokens: cut, or with more of other questions' text before."""
    draw = random.Random(0)

    def prompt(example: TokenizedExample) -> list[int]:
        more = [draw.choice(example.prompt[1:]) for _ in range(length - len(example.prompt))]
        return [example.prompt[0], *more, *example.prompt[1:]][-length:]

    return [replace(example, prompt=prompt(example)) for example in examples]


def main() -> None:
    given = arguments()
    loaded = load_base("gemma-3-270m", dtype="float32")

    def source(count: int, k: int) -> list[TokenizedExample]:
        return questions(count, k, loaded.tokenizer, given.data)

    examples = source(given.questions, 5)
    model, forward = lora_model(loaded.model, 0.0, examples)
    print(
        f"{given.questions} questions, K=5, float32, {torch.get_num_threads()} threads, {given.rounds} rounds"
    )
    if given.only != "growth":
        compiled, fast = lora_model(load_base("gemma-3-270m", dtype="float32").model, 0.0, examples)
        compile_layers(compiled)
        tricks(model, forward, fast, examples, given.rounds)
    if given.only != "tricks":
        growth(model, forward, source, given.rounds, given.limit)


if __name__ == "__main__":
    main()
