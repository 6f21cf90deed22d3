"""The objectives against numbers worked out by hand, and against the plain computation in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trice.training import losses
from trice.training.losses import rank_loss, sequence_scores, token_log_probs


def ranked(
    scores: list[list[float]],
    rewards: list[list[float]],
    real: list[list[int]] | None = None,
    margin: float = 0.0,
) -> list[list[float]]:
    """The loss, pairs and ordered pairs of each question."""
    scores_QK = torch.tensor(scores, dtype=torch.float64)
    real_QK = torch.tensor(real).bool() if real else torch.ones_like(scores_QK).bool()
    parts = rank_loss(scores_QK, torch.tensor(rewards, dtype=torch.float64), real_QK, margin)
    return [[float(value) for value in part] for part in parts]


def test_all_five_reward_levels() -> None:
    # Best first. Wrong pairs: 15 below 10 by 1; 15 below 5 by 0.5; 10 above 5; 0 above 20 by 0.5, above 15 by
    # 2, above 10 by 1, above 5 by 1.5. Right: 20 over 15, 10, 5 and 10 over 5. (-1 -2.5 -1.5 -2 -0.5)
    loss, pairs, ordered = ranked([[-1.0, -2.5, -1.5, -2.0, -0.5]], [[20, 15, 10, 5, 0]])
    assert loss == [pytest.approx(1 + 0.5 + 0.5 + 2 + 1 + 1.5)]
    assert (pairs, ordered) == ([10], [4])


def test_equal_rewards_give_no_term() -> None:
    assert ranked([[-1.0, -9.0, -3.0]], [[15, 15, 15]]) == [[0], [0], [0]]
    # Only 20 against each of the two 10s: 4 − 1 where it is worse, none where it is better.
    assert ranked([[-4.0, -1.0, -9.0]], [[20, 10, 10]]) == [[3], [2], [1]]


def test_equal_scores_cost_nothing_and_are_not_ordered() -> None:
    assert ranked([[-2.0, -2.0]], [[20, 0]]) == [[0], [1], [0]]


def test_margin_also_charges_narrowly_ordered_pairs() -> None:
    # 20 over 10 by 0.25 and over 0 by 2, 10 over 0 by 1.75; margin 0.5 charges the first 0.25.
    assert ranked([[-1.0, -1.25, -3.0]], [[20, 10, 0]], margin=0.5) == [[0.25], [3], [3]]
    assert ranked([[-2.0, -2.0]], [[20, 0]], margin=0.5) == [[0.5], [1], [0]]


def test_padded_candidates_do_not_exist() -> None:
    scores, rewards = [[-1.0, -3.0, 0.0], [-3.0, -1.0, -2.0]], [[20, 0, -5], [20, 15, 10]]
    loss, pairs, ordered = ranked(scores, rewards, [[1, 1, 0], [1, 1, 1]])
    assert loss == [0, 2 + 1]
    assert (pairs, ordered) == ([1, 3], [1, 1])


@given(
    st.lists(st.tuples(st.floats(-20, 0), st.sampled_from([20, 15, 10, 5, 0])), min_size=1, max_size=6),
    st.floats(0, 2),
    st.randoms(),
)
def test_rank_loss_is_the_double_loop_in_any_order(candidates: list, margin: float, random: object) -> None:
    expected = sum(
        max(0, p_i - p_j + margin) for p_i, r_i in candidates for p_j, r_j in candidates if r_i < r_j
    )
    random.shuffle(candidates)  # type: ignore[attr-defined]
    scores, rewards = zip(*candidates, strict=True)
    assert ranked([list(scores)], [list(rewards)], margin=margin)[0] == [pytest.approx(expected, abs=1e-9)]


@pytest.mark.parametrize(
    ("length_penalty", "expected"),
    [(1.0, [-2.0, -3.0, -6.0, 0.0]), (0.0, [-4.0, -3.0, -18.0, 0.0]), (2.0, [-1.0, -3.0, -2.0, 0.0])],
)
def test_sequence_scores(length_penalty: float, expected: list[float]) -> None:
    # Response 0: −1 −3; 1: −3; 2: −4 −5 −9, interleaved; 3 has no token.
    logps_N = torch.tensor([-1.0, -4.0, -3.0, -3.0, -5.0, -9.0])
    response_N = torch.tensor([0, 2, 0, 1, 2, 2])
    assert sequence_scores(logps_N, response_N, 4, length_penalty).tolist() == expected


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("tokens", [1, 7, 255, 256, 257, 600])
def test_token_log_probs_and_gradient_are_those_of_the_plain_computation(
    tokens: int, cap: float | None
) -> None:
    torch.manual_seed(tokens)
    hidden_ND = torch.randn(tokens, 5, dtype=torch.float64, requires_grad=True)
    weight_VD = 3 * torch.randn(11, 5, dtype=torch.float64)
    targets_N, pull_N = torch.randint(0, 11, (tokens,)), torch.randn(tokens, dtype=torch.float64)

    logits = hidden_ND @ weight_VD.T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain_N = logits.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    (plain_slope,) = torch.autograd.grad(plain_N @ pull_N, hidden_ND)
    ours_N = token_log_probs(hidden_ND, weight_VD, targets_N, cap)
    (slope,) = torch.autograd.grad(ours_N @ pull_N, hidden_ND)

    torch.testing.assert_close(ours_N, plain_N, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, plain_slope, rtol=1e-9, atol=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, weight_VD = torch.randn(10, 4, requires_grad=True), torch.randn(9, 4)
    results = []
    for chunk in (1, 3, 10):
        monkeypatch.setattr(losses, "CHUNK", chunk)
        logps_N = token_log_probs(hidden_ND, weight_VD, torch.arange(9).repeat(2)[:10])
        results.append(torch.cat([logps_N[:, None], *torch.autograd.grad(logps_N.sum(), hidden_ND)], 1))
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])


def test_huge_logits_stay_finite() -> None:
    hidden_ND = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    logps_N = token_log_probs(hidden_ND, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
    assert logps_N.tolist() == [0, -2e4]
    (slope,) = torch.autograd.grad(logps_N.sum(), hidden_ND)
    assert slope.tolist() == [[0], [2]]


def test_half_precision_sums_over_the_vocabulary_in_float32() -> None:
    # 4,096 equal logits: log 4096 = 8.3178, of which bfloat16 would keep 8.3125.
    logps_N = token_log_probs(
        torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(4096, 2, dtype=torch.bfloat16), torch.tensor([0])
    )
    assert logps_N.dtype == torch.float32
    assert float(logps_N) == pytest.approx(-8.317766, abs=1e-5)
