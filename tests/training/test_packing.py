"""Packing is exact: every response has the log-probabilities it has by itself in the plain model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trice.training.packing import Example, Tokens, bins, micro_batches, pack
from trice.training.trainer import log_probs

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def some_examples(seed: int = 0) -> list[Example]:
    """Prompts shorter and longer than the tiny models' window of 8, one to five responses of 1 to 12 tokens."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, 320) for _ in range(length)]

    return [
        Example(
            ids(prompt),
            [Tokens(tokens, [True] * len(tokens)) for tokens in map(ids, lengths)],
            [float(draw.choice([20, 15, 10, 5, 0])) for _ in lengths],
        )
        for prompt, lengths in [(3, [2, 12, 1]), (21, [11, 4, 4, 7, 1]), (30, [3]), (9, [10, 9]), (1, [5, 2])]
    ]


def alone(model: Any, example: Example) -> list[torch.Tensor]:
    """Each response's log-probabilities from the plain model, one sequence at a time."""
    results = []
    for ids, loss in example.responses:
        tokens = torch.tensor([example.prompt + ids])
        logps = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
        chosen = logps[:-1].gather(1, tokens[0, 1:, None])[-len(ids) :, 0]
        results.append(chosen[torch.tensor(loss)])
    return results


def packed(model: Any, examples: Sequence[Example]) -> list[list[torch.Tensor]]:
    """The same from one packed micro-batch, by example and response."""
    batch = pack(examples)
    logps_N = log_probs(model, batch)
    return [
        [logps_N[batch.response_N == slot] for slot in slots if slot >= 0] for slots in batch.slot_QK.tolist()
    ]


def assert_same(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], **tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.fixture
def exact_model(any_model: Any, float64: None) -> Any:
    """Each family in turn, computing in float64 throughout."""
    return any_model.model.double()


@torch.no_grad()
def test_packed_equals_one_at_a_time(exact_model: Any) -> None:
    examples = some_examples()
    for ours, example in zip(packed(exact_model, examples), examples, strict=True):
        assert_same(ours, alone(exact_model, example), **EXACT)


@torch.no_grad()
def test_packed_equals_one_at_a_time_in_float32(any_model: Any) -> None:
    examples = some_examples(1)
    for ours, example in zip(packed(any_model.model, examples), examples, strict=True):
        assert_same(ours, alone(any_model.model, example), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_company_order_and_padding_change_no_example(exact_model: Any) -> None:
    examples = some_examples()
    together = packed(exact_model, examples)
    for ours, example in zip(together, examples, strict=True):
        assert_same(packed(exact_model, [example])[0], ours, **EXACT)
    for ours, theirs in zip(packed(exact_model, examples[::-1])[::-1], together, strict=True):
        assert_same(ours, theirs, **EXACT)
    turned = [replace(example, responses=example.responses[::-1]) for example in examples]
    for ours, theirs in zip(packed(exact_model, turned), together, strict=True):
        assert_same(ours[::-1], theirs, **EXACT)


@torch.no_grad()
def test_the_cut_into_micro_batches_changes_no_example(exact_model: Any) -> None:
    examples = some_examples()
    whole = {id(e): logps for e, logps in zip(examples, packed(exact_model, examples), strict=True)}
    for budget in (1, 64, 90):
        parts = list(micro_batches(examples, budget))
        assert len(parts) > 1
        for part in parts:
            for example, logps in zip(part, packed(exact_model, part), strict=True):
                assert_same(logps, whole[id(example)], **EXACT)


@torch.no_grad()
def test_a_token_without_loss_carries_none_but_is_seen(exact_model: Any) -> None:
    """As a tool's result within a response would be."""
    example = some_examples()[1]
    ids = example.responses[0].ids
    masked = replace(example, responses=[Tokens(ids, [i not in (0, 3, 4) for i in range(len(ids))])])
    (ours,) = packed(exact_model, [masked])[0]
    (full,) = alone(exact_model, replace(example, responses=example.responses[:1]))
    assert_same([ours], [full[[1, 2, *range(5, len(ids))]]], **EXACT)
    other = [*ids[:3], ids[3] % 300 + 5, *ids[4:]]
    changed = replace(example, responses=[Tokens(other, masked.responses[0].loss)])
    (seen,) = packed(exact_model, [changed])[0]
    assert torch.equal(seen[:2], ours[:2])
    assert not torch.isclose(seen[2:], ours[2:]).all()


def test_siblings_and_neighbours_are_not_seen(exact_model: Any) -> None:
    """The loss of one response has no gradient at another's tokens, nor at another question's."""
    batch = pack(some_examples())
    vectors = exact_model.get_input_embeddings()(batch.tokens_RT).detach().requires_grad_()
    exact_model.get_input_embeddings().forward = lambda tokens: vectors
    (slope_RTD,) = torch.autograd.grad(log_probs(exact_model, batch)[batch.response_N == 4].sum(), vectors)
    felt = slope_RTD.abs().sum(-1) > 0
    seen = [token for token, used in zip(batch.tokens_RT.flatten(), felt.flatten(), strict=True) if used]
    example = some_examples()[1]  # responses 0 to 2 are the first question's
    assert set(map(int, seen)) <= {*example.prompt, *example.responses[1].ids}
    assert int(felt.sum()) <= len(example.prompt) + len(example.responses[1].ids) - 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_bins_hold_every_item_once_in_rows_no_longer_than_the_longest(lengths: list[int]) -> None:
    rows = bins(lengths)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= max(lengths) for row in rows)
    # First fit leaves no two rows half empty.
    assert sum(sum(lengths[item] for item in row) * 2 <= max(lengths) for row in rows) <= 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 120))
def test_micro_batches_hold_every_example_once_within_the_budget(lengths: list[int], budget: int) -> None:
    examples = [Example([0] * length, [], []) for length in lengths]
    parts = list(micro_batches(examples, budget))
    assert sorted(id(e) for part in parts for e in part) == sorted(map(id, examples))
    assert all(part for part in parts)
    assert all(len(part) == 1 or sum(map(len, part)) <= budget for part in parts)
