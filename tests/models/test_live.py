"""Rows that enter and leave while others are under way write what they would alone, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_decoding import Spelled, some_prompts

from trice.models.batching import Ask
from trice.models.generation import Live, Row, Way, generate
from trice.models.kv_cache import Rows, attending
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling

TOKENS = 12


@pytest.fixture(params=["llama", "gemma2", "gemma3"])
def spelled(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> LocalModel:
    return replace(load(str(tiny_model(request.param)), device="cpu", dtype="float32"), tokenizer=Spelled())


def ways() -> list[Way]:
    """Nine different ones, some of which choose alike."""
    greedy, drawn = Sampling(TOKENS), Sampling(TOKENS, temperature=1.0, seed=3)
    return [
        Way(greedy), Way(drawn), Way(greedy, suppress=lambda _: (5, 6, 7)),
        Way(replace(drawn, seed=4, max_new_tokens=5)),
        Way(Sampling(TOKENS, repetition_penalty=1.5)), Way(replace(drawn, top_p=0.5)),
        Way(greedy, lambda text, seen: text if len(text.split()) == 3 else None),
        Way(replace(drawn, samples=2, logprobs=True)), Way(replace(greedy, logprobs=True)),
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [0, 12])
def test_rows_of_all_kinds_enter_at_any_time(spelled: LocalModel, shared: int) -> None:
    prompts = some_prompts(shared)
    asks = [
        Ask(prompt, str(n), tuple(range(way.sampling.samples)))
        for n, (prompt, way) in enumerate(zip(prompts, ways(), strict=True))
    ]
    expected = {}
    for number, (each, way) in enumerate(zip(asks, ways(), strict=True)):
        for _, found in generate(spelled, [each], way.sampling, way.finish, suppress=way.suppress):
            for sample, written in found.items():
                expected[number, sample] = written.text, written.tokens
    with attending(spelled):
        live = Live(spelled, Rows(spelled, prompts[0][:shared]))
        done: dict[tuple[int, int], Row] = {}
        waiting = list(enumerate(zip(asks, ways(), strict=True)))
        steps = 0
        while waiting or len(live):
            if waiting and steps % 2 == 0:
                number, (each, way) = waiting.pop(0)
                live.enter(number, each, way)
            for row in live.step():
                if row.text is not None:
                    done[row.number, row.sample] = row
            steps += 1
    assert {key: (row.text, row.ids) for key, row in done.items()} == expected
    assert done[3, 0].full  # the length was its end
    assert not done[6, 0].full
    assert done[7, 1].written.logprob is not None


def test_rows_that_leave_change_no_other(spelled: LocalModel) -> None:
    prompts = some_prompts(12)
    way = Way(Sampling(TOKENS))
    expected = {
        number: found[0].text
        for number, found in generate(spelled, [Ask(prompt) for prompt in prompts], way.sampling)
    }
    with attending(spelled):
        live = Live(spelled, Rows(spelled, prompts[0][:12]))
        for number, prompt in enumerate(prompts[:-1]):
            live.enter(number, Ask(prompt), way)
        live.step()
        live.enter(8, Ask(prompts[8]), way)
        live.leave(lambda number: number in (0, 3, 7, 8))
        assert set(live.numbers) <= {1, 2, 4, 5, 6}
        texts = {}
        while len(live):
            texts |= {row.number: row.text for row in live.step() if row.text is not None}
        live.rows.clear()
        assert live.rows.held == 0
        live.enter(0, Ask(prompts[0]), way)  # a batch without rows goes on from what is shared
        while len(live):
            texts |= {row.number: row.text for row in live.step() if row.text is not None}
    assert texts.items() <= expected.items()
    assert texts[0] == expected[0]
    assert len(texts) > 3
