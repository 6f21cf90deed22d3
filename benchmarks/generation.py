"""Compares trice's generation with transformers' `generate` on real math questions.

Both run alternately in one process, in float32, and end a response where its call closes or its line ends.
Greedy responses must have the same tokens; a difference is counted as a tie if the two best logits differ by
less than 1e-4. The questions come from ASDiv and SVAMP if TRICE_DATA names their folder, else from the starter
set.

    python benchmarks/generation.py [figure …] [--ours 200] [--theirs 40] [--rounds 3] [--adapter FOLDER]
        [--template alpaca]

Figures: rates (of a prefill and of a step), greedy (transformers: one question at a time), original (the same
without the stop rule), few-shot (batches of 32), samples (5 each, batches of 16 questions), beams (4, penalty
1.3, one at a time). `--theirs` is the number of questions for transformers, whose time per question does not
depend on it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from rates import matrix_rate
from trice.datasets import load
from trice.formats.prompt import decode, load_template
from trice.models.batch_attention import batch_attention
from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import EncodedPrompt
from trice.models.engine import Finish, tokens_needed
from trice.models.generation import generate
from trice.models.local import LocalModel
from trice.models.local import load as load_model
from trice.models.sampling import Sampling
from trice.models.token_sampling import greedy_tokens
from trice.stages.generate import group_by_task
from trice.stages.generate import with_instruction as instruct
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks

Texts = list[list[list[int]]]
TIE = 1e-4


class Figure(NamedTuple):
    """What is compared: the sampling, the options of transformers, its batch size, and the few-shot examples."""

    sampling: Sampling
    theirs: dict[str, Any]
    batch: int
    examples: str | None = None
    stops: bool = (
        True  # whether transformers ends a row where its response is finished, not only at an end token
    )


FIGURES = {
    "greedy": Figure(Sampling(64), {"do_sample": False}, 1),
    "original": Figure(Sampling(64), {"do_sample": False}, 1, stops=False),
    "few-shot": Figure(Sampling(64), {"do_sample": False}, 32, "mixed"),
    "samples": Figure(
        Sampling(64, temperature=1.0, top_k=50, samples=5),
        {"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "num_return_sequences": 5},
        16,
    ),
    "beams": Figure(
        Sampling(128, beams=4, repetition_penalty=1.3),
        {"do_sample": False, "num_beams": 4, "repetition_penalty": 1.3},
        1,
        stops=False,
    ),
}


class Over(StoppingCriteria):  # type: ignore[misc]
    """Ends a row where its response is finished, as trice does."""

    def __init__(self, tokenizer: Any, finish: Finish, start: int) -> None:
        self.tokenizer, self.finish, self.start = tokenizer, finish, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([self.finish(text, 0) is not None for text in texts], device=input_ids.device)


def theirs(loaded: LocalModel, prompts: Sequence[list[int]], figure: Figure, finish: Finish) -> Texts:
    """The responses of `model.generate`, in batches of prompts of similar length."""
    found: Texts = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    pad, samples = loaded.tokenizer.pad_token_id, figure.sampling.samples
    for start in range(0, len(order), figure.batch):
        batch = order[start : start + figure.batch]
        width = max(len(prompts[number]) for number in batch)
        tokens = torch.tensor([[pad] * (width - len(prompts[n])) + prompts[n] for n in batch])
        mask = torch.tensor([[0] * (width - len(prompts[n])) + [1] * len(prompts[n]) for n in batch])
        stop = StoppingCriteriaList([Over(loaded.tokenizer, finish, width)]) if figure.stops else None
        with torch.inference_mode():
            out = loaded.model.generate(
                tokens, attention_mask=mask, max_new_tokens=figure.sampling.max_new_tokens,
                stopping_criteria=stop, pad_token_id=pad, **figure.theirs,
            )[:, width:]  # fmt: skip
        for place, number in enumerate(batch):
            rows = out[place * samples : (place + 1) * samples].tolist()
            found[number] = [ended(loaded, row, finish) for row in rows]
    return found


def ended(loaded: LocalModel, ids: list[int], finish: Finish) -> list[int]:
    """The ids up to where the response is finished."""
    for place, token in enumerate(ids):
        if token in loaded.eos_ids:
            return ids[:place]
        over = finish(decode(loaded.tokenizer, ids[: place + 1]), 0)
        if over is not None:
            return ids[: tokens_needed(loaded.tokenizer, ids[: place + 1], over)]
    return ids


def ours(
    loaded: LocalModel,
    prompts: Sequence[list[int]],
    figure: Figure,
    finish: Finish,
    size: int,
) -> Texts:
    samples = tuple(range(figure.sampling.samples))
    found: list[dict[int, list[int]]] = [{} for _ in prompts]
    asked = [EncodedPrompt(prompt, str(number), samples) for number, prompt in enumerate(prompts)]
    for number, written in generate(loaded, asked, figure.sampling, finish, batch_size=size):
        found[number] |= {sample: each.tokens or [] for sample, each in written.items()}
    return [[each[sample] for sample in samples] for each in found]


def tied(loaded: LocalModel, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Whether two responses differ first at a token that float32 cannot decide."""
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if place is None:
        return False
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([prompt + one[:place]])).logits[0, -1]
    return bool(abs(logits[one[place]] - logits[other[place]]) < TIE)


def compare(loaded: LocalModel, name: str, args: argparse.Namespace) -> None:
    figure = FIGURES[name]
    prompts, finish = questions(loaded, args.ours, figure, args.template)
    step = max(1, len(prompts) // args.theirs)
    some = list(range(0, len(prompts), step))[: args.theirs]
    rates: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(args.rounds):
        start = time.perf_counter()
        expected = theirs(loaded, [prompts[number] for number in some], figure, finish)
        rates["theirs"].append(len(some) / (time.perf_counter() - start))
        start = time.perf_counter()
        found = ours(loaded, prompts, figure, finish, args.batch_size)
        rates["ours"].append(len(prompts) / (time.perf_counter() - start))
    ratios = [b / a for a, b in zip(rates["theirs"], rates["ours"], strict=True)]
    tokens = sum(len(ids) for each in found for ids in each)
    middle = {way: statistics.median(found) for way, found in rates.items()}
    print(
        f"{name}: {len(prompts)} questions, {tokens / sum(map(len, found)):.1f} tokens a response; "
        f"theirs {middle['theirs']:.2f}/s on {len(some)}, ours {middle['ours']:.2f}/s, "
        f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})", flush=True,
    )  # fmt: skip
    if figure.sampling.temperature:
        lengths = [statistics.mean(len(ids) for each in texts for ids in each) for texts in (expected, found)]
        print(f"  tokens a response: theirs {lengths[0]:.1f}, ours {lengths[1]:.1f}")
        return
    pairs = [(prompts[n], found[n][0], texts[0]) for n, texts in zip(some, expected, strict=True)]
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    excused = sum(tied(loaded, *pair) for pair in differing)
    print(
        f"  equal {len(pairs) - len(differing)} of {len(pairs)}, ties {excused}, other {len(differing) - excused}"
    )


def shares(loaded: LocalModel, size: int) -> None:
    """Print the arithmetic of a prefill and of a decoding step as a share of the machine's rate, and how long the
    matrix products of the step take alone, which is a lower bound."""
    linears = [each for each in loaded.model.base_model.modules() if isinstance(each, torch.nn.Linear)]
    peak, layers = matrix_rate(), [linear.weight for linear in linears]
    head_VD, inner = loaded.model.get_output_embeddings().weight, sum(weight.numel() for weight in layers)
    prompts = questions(loaded, size, FIGURES["few-shot"])[0]
    with torch.inference_mode(), batch_attention(loaded):
        decoder, some = BatchDecoder(loaded), prompts[: size // 4]
        took = timed(lambda: BatchDecoder(loaded).append(some, [1] * len(some)))
        decoder.append([prompt[-32:] for prompt in prompts], [1] * len(prompts))
        states_BD = decoder.step([1] * len(decoder))
        step = timed(lambda: greedy_tokens(decoder.logits(decoder.step([1] * len(decoder)))))
        inputs = {width: torch.rand(len(decoder), width) for width in {weight.shape[1] for weight in layers}}
        alone = timed(
            lambda: [torch.nn.functional.linear(inputs[weight.shape[1]], weight) for weight in layers]
        )
        alone += timed(lambda: decoder.logits(states_BD))
    tokens = sum(map(len, some))
    print(
        f"prefill: {tokens / took:.0f} tokens/s, {2 * inner * tokens / took / peak:.0%} of the machine's rate"
    )
    work = 2 * (inner + head_VD.numel()) * len(decoder)
    print(
        f"decoding, {len(decoder)} rows: {step * 1e3:.0f} ms a step, {work / step / peak:.0%} of the machine's rate; "
        f"its products alone {alone * 1e3:.0f} ms, {work / alone / peak:.0%}: {alone / step:.0%} of the ceiling"
    )


def timed(work: Callable[[], object]) -> float:
    """The median of five runs, in seconds."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def questions(
    loaded: LocalModel, count: int, figure: Figure, template: str = "plain"
) -> tuple[list[list[int]], Finish]:
    """The prompts of so many questions, and the function that finishes their responses."""
    tasks = Tasks("math")
    if os.environ.get("TRICE_DATA"):
        found = [
            *load("ASDiv", train=1, test=count // 2).test,
            *load("SVAMP", train=1, test=count - count // 2).test,
        ]
    else:
        found = load("starter", train=1, test=count).test
    asked = [instruct(question, tasks.of(question)) for question in found]
    spec = ModelSpec("", template=load_template(template), sampling=figure.sampling, few_shot=figure.examples)
    ((_, settings, _),) = group_by_task(tasks, asked, spec)
    encode = settings.template.encode
    return [
        encode(loaded.tokenizer, q.instruction, q.input, settings.examples) for q in asked
    ], settings.finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", nargs="*", default=["rates", *FIGURES])
    parser.add_argument("--ours", type=int, default=200)
    parser.add_argument("--theirs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=ModelSpec("").batch_size)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--template", default="plain")
    args = parser.parse_args()
    loaded = load_model("gemma-3-270m", args.adapter, dtype="float32")
    print(
        f"{torch.get_num_threads()} threads, {matrix_rate() / 1e9:.0f} GFLOP/s of matrix products, "
        f"batch {args.batch_size}"
    )
    for name in args.figures:
        if name == "rates":
            shares(loaded, args.batch_size)
        else:
            compare(loaded, name, args)


if __name__ == "__main__":
    main()
