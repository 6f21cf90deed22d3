"""Phase 3: generation with ours, with transformers' `generate` and with its continuous batching.

Equality: the same greedy tokens in float32 for a small random model; a difference is excused where the two best
logits lie within TIE. Rates: 128 greedy rows at the shapes of Llama 1B and 7B with random weights in bfloat16, the
paper's prompts, no end token, so that every way writes as many tokens. In bfloat16 random weights have near ties,
so that tokens are only compared in float32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from shapes import LLAMA_1B, LLAMA_7B, SMALL, TINY, Machine, Skipped, load_shape, prompt_texts
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import LocalModel
from trice.models.sampling import Sampling

TIE = 1e-4
Tokens = list[list[int]]
Written = tuple[Tokens, dict[str, Any]]
"""Each prompt's tokens, and further figures."""


def parts(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "equality, float32", partial(equality, machine)
    shapes = {"tiny": TINY} if machine.tiny else {"1B": LLAMA_1B, "7B": LLAMA_7B}
    for name, shape in shapes.items():
        shared: dict[str, Any] = {}
        rows, tokens = (8, 6) if machine.tiny else (128, 128)
        for way, write in {"ours": ours, "generate": theirs, "generate_batch": continuous}.items():
            yield f"{name}, {way}", partial(rate, machine, shape, write, shared, rows, tokens)
            if write is ours:
                yield f"{name}, ours, profile", partial(profile, machine, shared, 4 if machine.tiny else 32)
        shared.clear()


def loaded(
    machine: Machine, shape: dict[str, Any], dtype: torch.dtype, rows: int
) -> tuple[LocalModel, Tokens]:
    """A model without an end token, and its prompts."""
    texts = prompt_texts(rows)
    made = load_shape(shape, dtype, machine.device, texts)
    prompts = [made.tokenizer(text)["input_ids"] for text in texts[:rows]]
    made.tokenizer.eos_token = None
    made.model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, do_sample=False)
    return made, prompts


def ours(model: LocalModel, prompts: Tokens, tokens: int) -> Written:
    found: Tokens = [[] for _ in prompts]
    asked = [EncodedPrompt(prompt, str(number)) for number, prompt in enumerate(prompts)]
    for number, written in generate(model, asked, Sampling(tokens), batch_size=len(prompts)):
        found[number] = list(written[0].tokens or [])
    return found, {}


def theirs(model: LocalModel, prompts: Tokens, tokens: int) -> Written:
    """`model.generate` on one batch, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    with torch.inference_mode():
        out = model.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return out[:, width:].tolist(), {}


def continuous(model: LocalModel, prompts: Tokens, tokens: int) -> Written:
    """transformers' continuous batching, with the rate between its first and its last token: before them it takes
    the card's memory and captures graphs."""
    if model.device.type == "cpu":
        raise Skipped(
            "continuous batching is measured on a GPU alone: on a CPU it spends 40 s on filling the memory"
        )
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=-1)
    before = model.model.config._attn_implementation
    try:
        out = model.model.generate_batch(prompts, generation_config=config, record_timestamps=True)
    finally:
        model.model.set_attn_implementation(before)
    by_prompt = [each for _, each in sorted(out.items(), key=lambda pair: int(pair[0].rpartition("_")[2]))]
    found = [list(each.generated_tokens) for each in by_prompt]
    if len(found) != len(prompts) or any(each.error for each in by_prompt):
        errors = sorted({str(each.error) for each in by_prompt if each.error})
        raise RuntimeError(f"{len(found)} of {len(prompts)} prompts were answered {errors[:2]}")
    times = [at for each in by_prompt for at in each.timestamps or []]
    seconds = max(times) - min(times) if times else 0
    return found, {"steady_tokens_s": round(len(times) / seconds)} if seconds else {}


def rate(
    machine: Machine,
    shape: dict[str, Any],
    write: Callable[[LocalModel, Tokens, int], Written],
    shared: dict[str, Any],
    rows: int,
    tokens: int,
) -> dict[str, Any]:
    if not shared:
        shared["model"], shared["prompts"] = loaded(machine, shape, torch.bfloat16, rows)
    model, prompts = shared["model"], shared["prompts"]
    write(model, prompts, 4)
    before, took = machine.reset_peak(), []
    for _ in range(1 if machine.tiny else 2):
        machine.wait()
        start = time.perf_counter()
        found, more = write(model, prompts, tokens)
        machine.wait()
        took.append(time.perf_counter() - start)
    written, seconds = sum(map(len, found)), statistics.median(took)
    return {
        "rows": rows, "prompt_tokens": round(sum(map(len, prompts)) / rows, 1), "written": written,
        "batch_s": round(seconds, 3), "tokens_s": round(written / seconds),
        "step_ms": round(seconds / tokens * 1e3, 2),
        "peak_gb": round((machine.peak() - before) / 1e9, 2), "ok": written == rows * tokens, **more,
    }  # fmt: skip


def profile(machine: Machine, shared: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Where the time of our prefill and so many steps of decoding goes."""
    model, prompts = shared["model"], shared["prompts"]
    return machine.profile(lambda: ours(model, prompts, tokens))


def equality(machine: Machine) -> dict[str, Any]:
    rows, tokens = (3, 6) if machine.tiny else (16, 48)
    shape = TINY | {"initializer_range": 0.3} if machine.tiny else SMALL
    model, prompts = loaded(machine, shape, torch.float32, rows)
    mine, others = ours(model, prompts, tokens)[0], theirs(model, prompts, tokens)[0]
    differ = [number for number in range(rows) if mine[number] != others[number]]
    ties = [n for n in differ if tied(model, prompts[n], mine[n], others[n])]
    distinct = len({token for each in mine for token in each})
    return {
        "rows": rows, "tokens": tokens, "distinct_tokens": distinct, "different": len(differ), "ties": len(ties),
        "ok": len(differ) == len(ties),
    }  # fmt: skip


def tied(model: LocalModel, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Whether two responses part where float32 cannot tell two tokens apart."""
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if place is None:
        return False
    with torch.inference_mode():
        logits = model.model(torch.tensor([prompt + one[:place]], device=model.device)).logits[0, -1]
    return bool(abs(logits[one[place]] - logits[other[place]]) < TIE)
