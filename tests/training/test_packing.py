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
from plainly import alone

from trice.models.local import load
from trice.training import packing
from trice.training.packed_forward import PackedForward
from trice.training.packing import Layout, ResponseTokens, TokenizedExample, micro_batches, pack, tree_size

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def some_examples(seed: int = 0) -> list[TokenizedExample]:
    """Prompts shorter and longer than the tiny models' window of 8, one to five responses of 1 to 12 tokens."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, 320) for _ in range(length)]

    examples = [
        TokenizedExample(
            ids(prompt),
            [ResponseTokens(tokens, [True] * len(tokens)) for tokens in map(ids, lengths)],
            [float(draw.choice([20, 15, 10, 5, 0])) for _ in lengths],
        )
        for prompt, lengths in [(3, [2, 12, 1]), (21, [11, 4, 4, 7, 1]), (30, [3]), (9, [10, 9]), (1, [5, 2])]
    ]
    return [*examples, relative(examples[1]), replace(examples[2], prompt=examples[2].prompt[:20])]


def relative(example: TokenizedExample) -> TokenizedExample:
    """Another end of the same prompt; responses that begin alike, two equal ones, one that goes on from them."""
    first, second = example.responses[0].ids, example.responses[1].ids
    several = [first, first[:4] + second, second, second, [*second, *first[:3]]]
    return TokenizedExample(
        example.prompt[:15] + example.prompt[:4],
        [ResponseTokens(ids, [True] * len(ids)) for ids in several],
        [20.0, 5.0, 10.0, 0.0, 5.0],
    )


def packed(model: Any, examples: Sequence[TokenizedExample]) -> list[list[torch.Tensor]]:
    """The same from one packed micro-batch, by example and response, the way this model goes."""
    if "forward" not in vars(model):
        model.packed_forward = PackedForward(model, some_examples())
    batch = model.packed_forward.pack(examples)
    logps_N = model.packed_forward(batch)
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
        parts = micro_batches(examples, budget)
        assert len(parts) > 1
        for part in parts:
            for example, logps in zip(part, packed(exact_model, part), strict=True):
                assert_same(logps, whole[id(example)], **EXACT)


@torch.no_grad()
def test_a_token_without_loss_carries_none_but_is_seen(exact_model: Any) -> None:
    """As a tool's result within a response would be."""
    example = some_examples()[1]
    ids = example.responses[0].ids
    masked = replace(example, responses=[ResponseTokens(ids, [i not in (0, 3, 4) for i in range(len(ids))])])
    (ours,) = packed(exact_model, [masked])[0]
    (full,) = alone(exact_model, replace(example, responses=example.responses[:1]))
    assert_same([ours], [full[[1, 2, *range(5, len(ids))]]], **EXACT)
    other = [*ids[:3], ids[3] % 300 + 5, *ids[4:]]
    changed = replace(example, responses=[ResponseTokens(other, masked.responses[0].loss)])
    (seen,) = packed(exact_model, [changed])[0]
    assert torch.equal(seen[:2], ours[:2])
    assert not torch.isclose(seen[2:], ours[2:]).all()


def test_siblings_and_neighbours_are_not_seen(exact_model: Any) -> None:
    """The loss of one response has no gradient at another's tokens, nor at another question's."""
    forward = PackedForward(exact_model, some_examples())
    batch = forward.pack(some_examples())
    vectors = exact_model.get_input_embeddings()(batch.tokens_RT).detach().requires_grad_()
    exact_model.get_input_embeddings().forward = lambda tokens: vectors
    (slope_RTD,) = torch.autograd.grad(forward(batch)[batch.response_N == 4].sum(), vectors)
    felt = slope_RTD.abs().sum(-1) > 0
    seen = [token for token, used in zip(batch.tokens_RT.flatten(), felt.flatten(), strict=True) if used]
    example = some_examples()[1]  # responses 0 to 2 are the first question's
    assert set(map(int, seen)) <= {*example.prompt, *example.responses[1].ids}
    assert int(felt.sum()) <= len(example.prompt) + len(example.responses[1].ids) - 1


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "gpt_neox"])
@pytest.mark.parametrize("layout", ["blocks", "mask", "rows"])
@torch.no_grad()
def test_every_layout_gives_the_same(
    family: str,
    layout: Layout,
    tiny_model: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(str(tiny_model(family)), device="cpu", dtype="float32").model.double()
    request.getfixturevalue("float64")
    monkeypatch.setattr(packing, "BLOCK", 8)  # several blocks, each with a path above it
    forward = PackedForward(model, some_examples())
    assert forward.strategy.layout == "blocks"
    batch = pack(some_examples(), layout)
    expected = torch.cat([logps for example in some_examples() for logps in alone(model, example)])
    assert_same([forward(batch)], [expected], **EXACT)


def tokens(*ids: int) -> ResponseTokens:
    return ResponseTokens(list(ids), [True] * len(ids))


def test_what_is_shared_is_there_once() -> None:
    # 1 2 3 are both prompts' beginning; last tokens are only predicted. The tree, by hand:
    # 1 2 3 ─┬ 4 (prompt one) ─┬ 7 ── 8
    #        │                 └ 9
    #        └ 5 6 (prompt two) ── 7
    one = TokenizedExample(
        [1, 2, 3, 4], [tokens(7, 8, 0), tokens(7, 0), tokens(9, 0), tokens(7, 0)], [3.0, 2.0, 1.0, 0.0]
    )
    two = TokenizedExample([1, 2, 3, 5, 6], [tokens(7, 0), tokens(0)], [1.0, 0.0])
    batch = pack([one, two], "mask")
    assert batch.tokens_RT.tolist() == [[1, 2, 3, 4, 7, 8, 9, 5, 6, 7]]
    assert batch.positions_RT.tolist() == [[0, 1, 2, 3, 4, 5, 4, 3, 4, 5]]
    assert tree_size([one, two]) == 10
    seen = ["".join(str(int(x)) for x in row) for row in batch.allowed_BQK[0].tolist()]
    assert seen == [
        "1000000000",
        "1100000000",
        "1110000000",
        "1111000000",
        "1111100000",
        "1111110000",
        "1111001000",
        "1110000100",
        "1110000110",
        "1110000111",
    ]
    # The states after 4, 7, 8 and 9 of the first question, after 6 and 7 of the second, each once.
    assert batch.source_M.tolist() == [3, 4, 5, 6, 8, 9]
    edges = list(zip(batch.source_M[batch.state_E].tolist(), batch.target_E.tolist(), strict=True))
    assert edges == [(3, 7), (4, 8), (5, 0), (4, 0), (3, 9), (6, 0), (8, 7), (9, 0), (8, 0)]
    assert batch.edge_N.tolist() == [0, 1, 2, 0, 3, 4, 5, 0, 3, 6, 7, 8]
    assert batch.slot_QK.tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]


def test_a_block_has_the_path_above_it_and_itself() -> None:
    batch = pack([TokenizedExample([1, 2, 3], [tokens(4, 5, 6, 0), tokens(7, 8, 0)], [1.0, 0.0])], "blocks")
    assert batch.keys_BK is not None
    assert batch.keys_BK.tolist() == [list(range(8))]  # all in one: 1 2 3 4 5 6 7 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK", 4)
        batch = pack(
            [TokenizedExample([1, 2, 3], [tokens(4, 5, 6, 0), tokens(7, 8, 0)], [1.0, 0.0])], "blocks"
        )
    assert batch.keys_BK is not None
    # The second block begins at 5, below 1 2 3 4, which the first does not need: padding, that nobody sees.
    assert batch.keys_BK[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    seen = ["".join(str(int(x)) for x in row) for row in batch.allowed_BQK.flatten(0, 1).tolist()]
    assert seen == [
        "00001000", "00001100", "00001110", "00001111",
        "11111000", "11111100", "11100010", "11100011",
    ]  # fmt: skip


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=20)


@given(prompts, st.integers(1, 60), st.integers(1, 4))
def test_micro_batches_hold_every_example_once_within_the_budget(
    given_prompts: list[list[int]], budget: int, processes: int
) -> None:
    examples = [TokenizedExample(prompt, [tokens(1, 2), tokens(0)], [1.0, 0.0]) for prompt in given_prompts]
    parts = micro_batches(examples, budget, processes)
    assert sorted(id(e) for part in parts for e in part) == sorted(map(id, examples))
    assert len(parts) % processes == 0
    assert all(len(part) <= 1 or tree_size(part) <= budget for part in parts)
    filled = [bool(part) for part in parts]
    assert filled == sorted(filled, reverse=True)
    if processes == 1:
        assert all(filled)


@given(prompts)
def test_the_size_of_a_tree_is_that_of_the_packed_row(given_prompts: list[list[int]]) -> None:
    examples = [
        TokenizedExample(prompt, [tokens(1, 2, 0), tokens(1, 0)], [1.0, 0.0]) for prompt in given_prompts
    ]
    paths = {tuple((e.prompt + r.ids[:-1])[:n]) for e in examples for r in e.responses for n in range(1, 99)}
    batch = pack(examples, "mask")
    assert batch.tokens_RT.shape == (1, tree_size(examples)) == (1, len(paths))
