"""Greedy answers to math questions: ours beside transformers' `generate`, one question at a time.

Both run in turn in one process on the starter set with four worked examples, and must write the same texts.

    python benchmarks/generation.py [questions=16]
"""

from __future__ import annotations

import sys
import time

import torch

from trice.datasets import load
from trice.models.decoding import generate
from trice.models.local import LocalModel
from trice.models.local import load as load_model
from trice.prompts import load_template
from trice.sampling import Sampling
from trice.stages.generate import find_examples

NEW_TOKENS = 24


def first_line(text: str) -> str | None:
    line, found, _ = text.lstrip().partition("\n")
    return line if found else None


def ours(loaded: LocalModel, prompts: list[list[int]]) -> list[str]:
    texts = [""] * len(prompts)
    for _, indices, batch in generate(loaded, prompts, Sampling(max_new_tokens=NEW_TOKENS), first_line):
        for index, (text,) in zip(indices, batch, strict=True):
            texts[index] = text.strip()
    return texts


def one_at_a_time(loaded: LocalModel, prompts: list[list[int]]) -> list[str]:
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = loaded.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                stop_strings=["\n"],
                tokenizer=loaded.tokenizer,
            )
        text = loaded.tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
        texts.append((first_line(text) or text).strip())
    return texts


def main() -> None:
    count = int((*sys.argv[1:], "16")[0])
    loaded = load_model("gemma-3-270m", dtype="float32")
    template, examples = load_template("plain"), find_examples("math", "mixed")
    questions = load("starter", train=1, test=count).test
    prompts = [template.encode(loaded.tokenizer, "", question.input, examples) for question in questions]
    seconds, texts = [], []
    for way in (one_at_a_time, ours):
        start = time.perf_counter()
        texts.append(way(loaded, prompts))
        seconds.append(time.perf_counter() - start)
    differing = sum(a != b for a, b in zip(*texts, strict=True))
    print(f"generation, {count} questions, float32, {torch.get_num_threads()} threads")
    print(
        f"one at a time {count / seconds[0]:.2f}/s, ours {count / seconds[1]:.2f}/s, "
        f"ratio {seconds[0] / seconds[1]:.1f}, texts that differ {differing}"
    )


if __name__ == "__main__":
    main()
