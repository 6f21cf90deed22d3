"""Rows that enter and leave a running batch generate what they would alone, each with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_decoding import Spelled, some_prompts

from trice.models.batch_attention import batch_attention
from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import EncodedPrompt
from trice.models.continuous_batch import BatchRow, ContinuousBatch, DecodingSettings
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling

TOKENS = 12


@pytest.fixture(params=["llama", "gemma2", "gemma3"])
def spelled(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> LocalModel:
    return replace(load(str(tiny_model(request.param)), device="cpu", dtype="float32"), tokenizer=Spelled())


def nine_settings() -> list[DecodingSettings]:
    """Nine different settings, some of which choose tokens alike."""
    greedy, drawn = Sampling(TOKENS), Sampling(TOKENS, temperature=1.0, seed=3)
    return [
        DecodingSettings(greedy), DecodingSettings(drawn), DecodingSettings(greedy, suppress=lambda _: (5, 6, 7)),
        DecodingSettings(replace(drawn, seed=4, max_new_tokens=5)),
        DecodingSettings(Sampling(TOKENS, repetition_penalty=1.5)), DecodingSettings(replace(drawn, top_p=0.5)),
        DecodingSettings(greedy, lambda text, checked: text if len(text.split()) == 3 else None),
        DecodingSettings(replace(drawn, samples=2)), DecodingSettings(replace(greedy)),
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [0, 12])
def test_rows_of_all_kinds_enter_at_any_time(spelled: LocalModel, shared: int) -> None:
    prompts = some_prompts(shared)
    asks = [
        EncodedPrompt(prompt, str(n), tuple(range(settings.sampling.samples)))
        for n, (prompt, settings) in enumerate(zip(prompts, nine_settings(), strict=True))
    ]
    expected = {}
    for number, (each, settings) in enumerate(zip(asks, nine_settings(), strict=True)):
        for _, found in generate(
            spelled, [each], settings.sampling, settings.finish, suppress=settings.suppress
        ):
            for sample, generated in found.items():
                expected[number, sample] = generated.text, generated.tokens
    with batch_attention(spelled):
        batch = ContinuousBatch(spelled, BatchDecoder(spelled, prompts[0][:shared]))
        done: dict[tuple[int, int], BatchRow] = {}
        waiting = list(enumerate(zip(asks, nine_settings(), strict=True)))
        steps = 0
        while waiting or len(batch):
            if waiting and steps % 2 == 0:
                number, (each, settings) = waiting.pop(0)
                batch.add(number, each, settings)
            for row in batch.step():
                if row.text is not None:
                    done[row.owner, row.sample] = row
            steps += 1
    assert {key: (row.text, row.ids) for key, row in done.items()} == expected
    assert done[3, 0].at_length_limit  # the length was its end
    assert not done[6, 0].at_length_limit


def test_rows_that_leave_change_no_other(spelled: LocalModel) -> None:
    prompts = some_prompts(12)
    settings = DecodingSettings(Sampling(TOKENS))
    expected = {
        number: found[0].text
        for number, found in generate(
            spelled, [EncodedPrompt(prompt) for prompt in prompts], settings.sampling
        )
    }
    with batch_attention(spelled):
        batch = ContinuousBatch(spelled, BatchDecoder(spelled, prompts[0][:12]))
        for number, prompt in enumerate(prompts[:-1]):
            batch.add(number, EncodedPrompt(prompt), settings)
        batch.step()
        batch.add(8, EncodedPrompt(prompts[8]), settings)
        batch.remove(lambda number: number in (0, 3, 7, 8))
        assert set(batch.owners) <= {1, 2, 4, 5, 6}
        texts = {}
        while len(batch):
            texts |= {row.owner: row.text for row in batch.step() if row.text is not None}
        batch.decoder.clear()
        assert batch.decoder.cache.capacity == 0
        batch.add(0, EncodedPrompt(prompts[0]), settings)  # an empty batch still has the shared prefix
        while len(batch):
            texts |= {row.owner: row.text for row in batch.step() if row.text is not None}
    assert texts.items() <= expected.items()
    assert texts[0] == expected[0]
    assert len(texts) > 3


@pytest.mark.parametrize("shared", [0, 12])
@torch.no_grad()
def test_a_row_that_returns_has_the_logits_of_a_full_forward(spelled: LocalModel, shared: int) -> None:
    prompts = some_prompts(shared)
    added = {
        1: [7, 8, 9],
        2: [5],
        8: [11, 12, 13, 14, 15, 16, 17],
    }  # the rows that return, and their new tokens
    with batch_attention(spelled):
        decoder = BatchDecoder(spelled, prompts[0][:shared])
        decoder.append([prompt[shared:] for prompt in prompts], [1] * 9)
        decoder.step([4] * 9)
        left = [decoder.cache.row(row) for row in added]
        decoder.reorder([0, 3, 4, 5, 6, 7])
        found = decoder.logits(decoder.append_cached(left, list(added.values()))).T.clone()
        later = decoder.logits(decoder.step([6] * 9)).T.clone()
        decoder.clear()
        alone = decoder.logits(decoder.append_cached(left[:1], [added[1]])).T.clone()

    def expected(ids: list[int]) -> torch.Tensor:
        return spelled.model(torch.tensor([ids])).logits[0, -1]

    def assert_same(logits: torch.Tensor, ids: list[int]) -> None:
        plain = expected(ids)
        torch.testing.assert_close(logits[: len(plain)], plain, atol=1e-4, rtol=1e-4)

    for place, (row, tokens) in enumerate(added.items()):
        assert_same(found[place], [*prompts[row], 4, *tokens])
        assert_same(later[6 + place], [*prompts[row], 4, *tokens, 6])
    assert_same(later[1], [*prompts[3], 4, 6])
    assert_same(alone[0], [*prompts[1], 4, *added[1]])
