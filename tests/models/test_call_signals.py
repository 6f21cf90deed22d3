"""P(call) and states of prompts, against the plain forward pass of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trice.models.call_signals import exclusive, layer_count, read_signals

PROMPTS = [[5, 9, 17, 40, 8], [5, 9, 17, 40, 8, 30, 31, 12], [5, 9, 99, 3]]
OPENINGS = [[20], [21, 22, 23], [21, 22]]


def plainly(loaded: Any, prompt: list[int], opening: list[int]) -> float:
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[*prompt, *opening]])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(opening) - 1)
    return float(sum(logits[place, token] for place, token in zip(places, opening, strict=True)).exp())


@pytest.mark.parametrize("batch_size", [1, 6, 128])
def test_openings_have_the_probability_of_their_tokens(any_model: Any, batch_size: int) -> None:
    found = read_signals(any_model, PROMPTS, OPENINGS, batch_size=batch_size)
    assert found.states == [[], [], []]
    for prompt, row in zip(PROMPTS, found.openings, strict=True):
        one, longer, shorter = (plainly(any_model, prompt, opening) for opening in OPENINGS)
        # The last opening is the beginning of the second, whose probability is not counted twice.
        assert row == pytest.approx([one, longer, shorter - longer], rel=1e-4)
        assert sum(row) == pytest.approx(one + shorter, rel=1e-4)


def test_states_are_those_of_the_last_prompt_token(any_model: Any) -> None:
    layers = list(range(1, layer_count(any_model.model) + 1))
    shared = [[*range(10, 30), 7, 8], [*range(10, 30), 9]]  # more than 8 common tokens are computed once
    for prompts in (PROMPTS, shared):
        found = read_signals(any_model, prompts, OPENINGS, layers, batch_size=4)
        for prompt, states in zip(prompts, found.states, strict=True):
            with torch.inference_mode():
                hidden = any_model.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
            # transformers applies the final norm to the last of them
            for layer in layers[:-1]:
                torch.testing.assert_close(
                    torch.tensor(states[layer - 1]), hidden[layer][0, -1], rtol=1e-4, atol=1e-5
                )
            assert len(states[-1]) == len(states[0])


def test_names_that_continue_names_are_counted_once() -> None:
    openings = [[1], [1, 2], [1, 2, 3], [1, 4], [5]]
    found = exclusive(torch.tensor([[0.5, 0.3, 0.1, 0.15, 0.2]]), openings)
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.2, 0.1, 0.15, 0.2]]))


def test_no_prompt_and_no_opening(any_model: Any) -> None:
    assert read_signals(any_model, [], OPENINGS) == ([], [])
    assert read_signals(any_model, PROMPTS, []).openings == [[], [], []]
