"""Batched generation writes what the plain model writes one prompt at a time, token by token."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trice.models.batching import EncodedPrompt, admit, compact_order, shared_prefix
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.models.token_sampling import BLOCK, greedy_tokens, top_tokens

TOKENS = 14  # written by each response where nothing ends it: longer than the tiny models' window of 8


class Spelled:
    """Decodes token ids to their numbers, so that texts are equal only where all tokens are."""

    eos_token_id = 2

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)


@pytest.fixture
def spelled(tiny_model: Callable[[str], Path]) -> LocalModel:
    """A model with sliding and full attention; test_identity has every family."""
    return replace(load(str(tiny_model("gemma3")), device="cpu", dtype="float32"), tokenizer=Spelled())


def some_prompts(shared: int = 0) -> list[list[int]]:
    """Nine prompts of 1 to 20 tokens after as many that they share."""
    draw = random.Random(0)
    prefix = [draw.randrange(3, 320) for _ in range(shared)]
    return [
        prefix + [draw.randrange(3, 320) for _ in range(length)] for length in (7, 20, 1, 3, 12, 3, 9, 15, 8)
    ]


def plain(loaded: LocalModel, prompt: list[int], **options: Any) -> list[int]:
    """What `model.generate` writes greedily after one prompt, its end token left out."""
    tokens = torch.tensor([prompt])
    written = loaded.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        **{"max_new_tokens": TOKENS} | options,
    )[0, len(prompt) :].tolist()
    return written[:-1] if written[-1] in loaded.eos_ids else written


def ours(
    loaded: LocalModel, prompts: list[list[int]], sampling: Sampling | None = None, **options: Any
) -> list[list[str]]:
    """The texts of each prompt, in the order of the prompts."""
    sampling = sampling or Sampling(max_new_tokens=TOKENS)
    samples = tuple(range(sampling.samples))
    texts: list[dict[int, str]] = [{} for _ in prompts]
    asked = [EncodedPrompt(prompt, str(number), samples) for number, prompt in enumerate(prompts)]
    for number, found in generate(loaded, asked, sampling, **options):
        texts[number] |= {sample: written.text for sample, written in found.items()}
    return [[found[sample] for sample in samples] for found in texts]


def assert_written(loaded: LocalModel, prompt: list[int], text: str, expected: list[int]) -> None:
    """`text` is `expected`, up to a tie: two tokens whose logits float32 cannot tell apart."""
    written = [int(token) for token in text.split()]
    for place, (one, other) in enumerate(zip([*written, -1], [*expected, -1], strict=False)):
        if one == other:
            continue
        logits = loaded.model(torch.tensor([prompt + expected[:place]])).logits[0, -1]
        assert min(one, other) >= 0, f"ended after {len(written)} tokens, not {len(expected)}"
        assert abs(logits[one] - logits[other]) < 1e-4, f"token {place} is {one}, not {other}"
        return


@pytest.fixture
def forwards(spelled: LocalModel) -> list[tuple[int, int]]:
    """Rows and width of every pass through the model's layers."""
    shapes: list[tuple[int, int]] = []
    spelled.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple((args or [kwargs["input_ids"]])[0].shape)),
        with_kwargs=True,
    )
    return shapes


@pytest.mark.parametrize("shared", [0, 12])
@torch.no_grad()
def test_rows_end_at_any_of_several_end_tokens_and_leave(
    spelled: LocalModel, forwards: list[tuple[int, int]], shared: int
) -> None:
    prompts = some_prompts(shared)
    free = [plain(spelled, prompt) for prompt in prompts]
    ends = [token for token, _ in Counter(token for tokens in free for token in tokens[1:]).most_common(4)]
    spelled.model.generation_config.eos_token_id = [2, *ends]
    expected = [plain(spelled, prompt, pad_token_id=0) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 3  # rows end at different times
    forwards.clear()
    texts = ours(spelled, prompts)
    for prompt, (text,), tokens in zip(prompts, texts, expected, strict=True):
        assert_written(spelled, prompt, text, tokens)
    rows = [rows for rows, width in forwards if width == 1 and rows > 1]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < len(prompts) * 0.75


def test_the_shared_prefix_is_computed_once(spelled: LocalModel, forwards: list[tuple[int, int]]) -> None:
    ours(spelled, some_prompts(50), Sampling(max_new_tokens=1), batch_size=3)
    assert forwards[-4:] == [(1, 50), (3, 20), (3, 9), (3, 3)]


@torch.no_grad()
def test_suppressed_tokens_never_appear(spelled: LocalModel) -> None:
    prompts = some_prompts()
    banned = sorted({token for prompt in prompts for token in plain(spelled, prompt)[:3]})
    for prompt, (text,) in zip(prompts, ours(spelled, prompts, suppress=lambda _: banned), strict=True):
        assert not set(map(int, text.split())) & set(banned)
        assert_written(spelled, prompt, text, plain(spelled, prompt, suppress_tokens=banned))
    drawn = Sampling(max_new_tokens=TOKENS, temperature=2.0, samples=4)
    for texts in ours(spelled, prompts, drawn, suppress=lambda _: banned):
        assert not {int(token) for text in texts for token in text.split()} & set(banned)


@torch.no_grad()
def test_the_repetition_penalty_is_that_of_transformers(spelled: LocalModel) -> None:
    prompts = some_prompts(12)
    sampling = Sampling(max_new_tokens=TOKENS, repetition_penalty=1.3)
    differ = 0
    for prompt, (text,) in zip(prompts, ours(spelled, prompts, sampling), strict=True):
        expected = plain(spelled, prompt, repetition_penalty=1.3)
        assert list(map(int, text.split())) == expected
        differ += expected != plain(spelled, prompt)
    assert differ


def test_finish_ends_a_row_and_no_other(spelled: LocalModel) -> None:
    prompts = some_prompts(12)
    free = [text for (text,) in ours(spelled, prompts)]

    def finish(text: str, seen: int) -> str | None:
        return text.replace(" ", "-") if int(text.split()[-1]) % 5 == 0 else None

    def cut(text: str) -> str:
        words = text.split()
        end = next((place for place, word in enumerate(words) if int(word) % 5 == 0), None)
        return text if end is None else "-".join(words[: end + 1])

    expected = [cut(text) for text in free]
    assert len({len(text.split("-")) for text in expected}) > 3
    assert [text for (text,) in ours(spelled, prompts, finish=finish)] == expected


def test_a_finished_response_may_be_empty(spelled: LocalModel) -> None:
    assert ours(spelled, some_prompts(), finish=lambda text, seen: "") == [[""]] * 9


def test_texts_are_decoded_without_special_tokens(tiny_model: Callable[[str], Path]) -> None:
    loaded = load(str(tiny_model("llama")), device="cpu", dtype="float32")
    prompt = loaded.tokenizer("Question: 12+30?\nAnswer:")["input_ids"]
    with torch.no_grad():
        expected = loaded.tokenizer.decode(plain(loaded, prompt), skip_special_tokens=True)
    assert ours(loaded, [prompt]) == [[expected]]


DRAWN = Sampling(max_new_tokens=6, temperature=1.0, samples=3, seed=5)


@pytest.mark.parametrize("shared", [0, 12])
def test_what_is_drawn_depends_on_seed_key_and_number_alone(spelled: LocalModel, shared: int) -> None:
    prompts = some_prompts(shared)
    whole = ours(spelled, prompts, DRAWN, batch_size=9)
    assert ours(spelled, prompts, DRAWN, batch_size=1) == whole
    assert ours(spelled, prompts, replace(DRAWN, seed=6)) != whole
    some = [EncodedPrompt(prompts[number], str(number), (2, 0)) for number in (6, 1, 4)]
    found = dict(generate(spelled, some, DRAWN))
    for place, number in enumerate((6, 1, 4)):
        assert {k: each.text for k, each in found[place].items()} == {k: whole[number][k] for k in (0, 2)}


def test_samples_stand_with_their_prompt(spelled: LocalModel) -> None:
    prompts = some_prompts(12)
    greedy = ours(spelled, prompts)
    same = ours(spelled, prompts, Sampling(max_new_tokens=TOKENS, samples=3), batch_size=7)
    assert same == [texts * 3 for texts in greedy]
    drawn = ours(spelled, prompts, replace(DRAWN, samples=4))
    assert all(len(texts) == 4 and len(set(texts)) > 1 for texts in drawn)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-5}])
def test_the_narrowest_draw_is_greedy(spelled: LocalModel, narrow: dict[str, Any]) -> None:
    prompts = some_prompts()
    sampling = Sampling(**{"max_new_tokens": TOKENS, "temperature": 1.0} | narrow)
    assert ours(spelled, prompts, sampling) == ours(spelled, prompts)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"top_k": 6}, {"top_k": 5000}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.6}],
)
@torch.no_grad()
def test_draws_follow_the_softmax(spelled: LocalModel, options: dict[str, Any]) -> None:
    """Pearson's chi-square of 4,000 draws of one token, rare tokens taken together."""
    prompt = some_prompts()[0]
    sampling = Sampling(**{"max_new_tokens": 1, "temperature": 1.0, "samples": 4000} | options)
    ((texts),) = ours(spelled, [prompt], sampling, batch_size=4000)
    drawn = Counter(int(text or 2) for text in texts)  # an end token leaves no text

    logits = spelled.model(torch.tensor([prompt])).logits[0, -1].double() / sampling.temperature
    chance = dict(enumerate(logits.softmax(0).tolist()))
    likeliest = sorted(chance, key=lambda token: -chance[token])[: sampling.top_k or None]
    kept, mass, total = [], 0.0, sum(chance[token] for token in likeliest)
    for token in likeliest:
        if mass < sampling.top_p * total:
            kept.append(token)
            mass += chance[token]
    assert set(drawn) <= set(kept)

    expected = {token: 4000 * chance[token] / mass for token in kept}
    common = [token for token in kept if expected[token] >= 10]
    rest = (sum(drawn.values()) - sum(drawn[t] for t in common), 4000 - sum(expected[t] for t in common))
    cells = [(drawn[token], expected[token]) for token in common] + ([rest] if rest[1] >= 10 else [])
    assert len(cells) > 1
    chi_square = sum((seen - due) ** 2 / due for seen, due in cells)
    freedom = len(cells) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_the_top_of_a_large_vocabulary_is_that_of_a_plain_topk() -> None:
    torch.manual_seed(0)
    for width in (64 * BLOCK, 2 * BLOCK):  # only the best blocks are looked at, and all
        logits_VB = torch.randn(width, 5)
        logits_VB[:20, 0] += 9  # all the largest in one block
        logits_VB[:, 1] = -torch.inf
        logits_VB[[3, 300], 1] = torch.tensor([1.0, 2.0])
        assert torch.equal(greedy_tokens(logits_VB), logits_VB.argmax(0))
        for k in (1, 6, 40):
            values, tokens = top_tokens(logits_VB, k)
            assert torch.equal(values, logits_VB.T.topk(k).values)
            assert torch.equal(logits_VB.T.gather(1, tokens), values)
            assert all(len(set(row)) == k for row in tokens.tolist())


def test_rows_enter_and_leave() -> None:
    waiting = [3, 2, 1, 0]
    assert admit(waiting, [2, 2, 2, 2], 5, 0) == [0, 1]
    assert waiting == [3, 2]
    assert admit([0], [9], 5, 0) == [0]  # one at least, however many rows it has
    assert admit([0], [9], 5, 1) == []
    assert admit([1, 0], [8, 8], 64, 60) == []  # too little is free to be worth a pass
    assert admit([0], [3], 64, 60) == [0]  # the rest
    assert compact_order([True, False, True, False, True]) == [0, 4, 2]
    assert compact_order([False, False]) == []


def test_shared_prefix() -> None:
    same = list(range(10))
    assert shared_prefix([[*same, 7], [*same, 8, 9]]) == 10
    assert shared_prefix([[*same, 7], same]) == 9  # each keeps a token of its own
    assert shared_prefix([[*same[:7], 1], [*same[:7], 2]]) == 0  # too short to be worth it
    assert shared_prefix([same]) == shared_prefix([]) == 0
