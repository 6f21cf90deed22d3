"""Every family writes in batches, token by token, what its plain model writes one prompt at a time.

In float32, two ways to compute the same logits differ in their last bits, so two tokens of the same logit may change
places. Such ties are counted and printed. No other difference is accepted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import families
from trice.models.batching import EncodedPrompt
from trice.models.engine import Generated
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.models.token_sampling import BLOCK, sample_tokens

TIE = 1e-4  # of logits, or of beams' scores
EDGE = 1e-5  # of a cumulative probability
TOKENS = 12  # longer than the sliding layers' window
SHARED = 2 * families.WINDOW + 3  # tokens of a few-shot prompt's beginning, which windows leave behind
LENGTHS = (7, 20, 1, 3, 12, 3, 26)
SIZES = (1, 3, 64)  # alone; rows enter while others run; all at once
LARGER = (1, 8, 64)  # the same with several rows for each prompt
FAMILIES = (
    "llama", "gemma2", "gemma3", "glm", "glm4", "qwen2", "qwen3", "mistral", "phi3", "gpt_neox", "granite",
)  # fmt: skip


def prompts(shared: int) -> list[list[int]]:
    """Prompts of mixed lengths, all of which begin with `shared` tokens."""
    draw = random.Random(shared)
    first, *others = ([draw.randrange(3, 320) for _ in range(length)] for length in (shared, *LENGTHS))
    return [first + other for other in others]


def plain(loaded: LocalModel, prompt: list[int], **options: Any) -> Any:
    """transformers' own `generate` after one prompt."""
    tokens = torch.tensor([prompt])
    return loaded.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
        eos_token_id=sorted(loaded.eos_ids),
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


def up_to_the_end(loaded: LocalModel, ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in loaded.eos_ids), len(ids))
    return list(ids[:end])


def ours(loaded: LocalModel, asked: list[list[int]], sampling: Sampling, size: int) -> list[list[Generated]]:
    """Each prompt's responses, in order."""
    samples = tuple(range(sampling.samples))
    asks = [EncodedPrompt(prompt, str(number), samples) for number, prompt in enumerate(asked)]
    found: list[dict[int, Generated]] = [{} for _ in asked]
    for number, each in generate(loaded, asks, sampling, batch_size=size):
        assert not found[number].keys() & each.keys()
        found[number] |= each
    return [[each[sample] for sample in samples] for each in found]


@pytest.fixture(scope="module", params=FAMILIES)
@torch.no_grad()
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> LocalModel:
    """A tiny model of each family, which ends its responses at several tokens, at different times."""
    made = load(str(tiny_model(request.param)), device="cpu", dtype="float32")
    some = prompts(0)[::2] + prompts(SHARED)[::2]
    free = [plain(made, prompt).sequences[0, len(prompt) :].tolist() for prompt in some]
    common = Counter(token for ids in free for token in ids[2:]).most_common(3)
    made.model.generation_config.eos_token_id = [2, *(token for token, _ in common)]
    return made


@pytest.mark.parametrize("shared", [0, SHARED])
@torch.no_grad()
def test_greedy_responses_are_plain_generates(loaded: LocalModel, shared: int) -> None:
    asked = prompts(shared)
    expected = [plain(loaded, prompt) for prompt in asked]
    ids = [
        up_to_the_end(loaded, each.sequences[0, len(prompt) :].tolist())
        for each, prompt in zip(expected, asked, strict=True)
    ]
    assert len(set(map(len, ids))) > 1  # rows end at different times
    ties, compared = set(), 0
    # Several samples come from one prefill.
    for samples, size in [*((1, size) for size in SIZES), (3, 8), (3, 64)]:
        found = ours(loaded, asked, Sampling(TOKENS, samples=samples), size)
        for number, responses in enumerate(found):
            for written in responses:
                compared += 1
                if written.tokens == ids[number]:
                    continue
                pairs = zip([*(written.tokens or []), -1], [*ids[number], -1], strict=False)
                place = next(place for place, (one, other) in enumerate(pairs) if one != other)
                best, second = expected[number].scores[place][0].topk(2).values.tolist()
                assert best - second < TIE, f"prompt {number}, token {place}: {best - second} apart"
                ties.add((number, place))
    print(f"{type(loaded.model).__name__}: {compared} greedy responses compared, ties excused: {len(ties)}")


@pytest.mark.parametrize("shared", [0, SHARED])
@torch.no_grad()
def test_samples_are_drawn_from_the_plain_models_logits(loaded: LocalModel, shared: int) -> None:
    """The plain model's logits and the row's random numbers give the tokens in every batch. A number within EDGE of the
    boundary between two tokens may give either, because rounding differs between shapes and processors."""
    asked, sampling, ties = prompts(shared), Sampling(TOKENS, temperature=1.0, samples=3), 0
    for size in LARGER:
        drawn = [[each.tokens or [] for each in row] for row in ours(loaded, asked, sampling, size)]
        assert len({tuple(ids) for responses in drawn for ids in responses}) > 15
        for number, (prompt, responses) in enumerate(zip(asked, drawn, strict=True)):
            for sample, ids in enumerate(responses):
                logits_TV = loaded.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :]
                padding = -logits_TV.shape[1] % BLOCK
                logits_VT = torch.nn.functional.pad(logits_TV, (0, padding), value=-torch.inf).T.contiguous()
                generator = random.Random(f"{sampling.seed} {number} {sample}")
                numbers = [generator.random() for _ in range(len(ids) + 1)]
                exact, *near = (
                    sample_tokens(
                        logits_VT, sampling, [min(max(0.0, each + shift), 1 - EDGE) for each in numbers]
                    ).tolist()
                    for shift in (0, -EDGE, EDGE)
                )
                for place, token in enumerate(ids):
                    assert token in {exact[place], *(tokens[place] for tokens in near)}
                    ties += token != exact[place]
                ends = {tokens[-1] for tokens in (exact, *near)}
                assert len(ids) == TOKENS or ends.intersection(loaded.eos_ids)
    assert ties <= 3


@pytest.mark.parametrize(("shared", "penalty"), [(0, 1.0), (SHARED, 1.3)])
@torch.no_grad()
def test_beams_are_plain_generates(loaded: LocalModel, shared: int, penalty: float) -> None:
    asked = prompts(shared)[:6]
    sampling = Sampling(TOKENS, beams=4, samples=2, repetition_penalty=penalty)
    expected = [
        plain(loaded, prompt, num_beams=4, num_return_sequences=4, repetition_penalty=penalty)
        for prompt in asked
    ]
    ties = set()
    for size in LARGER:
        for number, responses in enumerate(ours(loaded, asked, sampling, size)):
            best = expected[number].sequences[:, len(asked[number]) :].tolist()
            scores = expected[number].sequences_scores.tolist()
            for place, written in enumerate(responses):
                if written.tokens != up_to_the_end(loaded, best[place]):
                    gap = min(abs(scores[place] - other) for i, other in enumerate(scores) if i != place)
                    assert gap < TIE, f"prompt {number}, beam {place}: {gap} from the next"
                    ties.add((number, place))
    print(
        f"{type(loaded.model).__name__}: {len(asked) * len(LARGER) * 2} beams compared, ties excused: {len(ties)}"
    )
