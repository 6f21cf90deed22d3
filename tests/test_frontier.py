"""Accuracy against calls for every threshold, by numbers worked out by hand."""

from __future__ import annotations

import pytest

from trice.errors import InputError
from trice.frontier import Aim, Decision, Side, area, auroc, frontier, oracle, point, reliability

RIGHT, WRONG = Side(True, 0), Side(False, 0)
FOUR = [
    Decision(0.6, RIGHT, Side(True, 1)),
    Decision(0.9, WRONG, Side(True, 1)),
    Decision(0.6, WRONG, Side(False, 1)),
    Decision(0.2, RIGHT, Side(False, 2)),
]
NEEDED = [not each.without.right for each in FOUR]


def test_every_threshold_gives_the_counts_of_its_answers() -> None:
    found = [(each.right, each.called, each.calls) for each in frontier(FOUR)]
    assert found == [(2, 0, 0), (3, 1, 1), (3, 3, 3), (2, 4, 5)]
    assert [each.threshold for each in frontier(FOUR)] == pytest.approx([1, 0.75, 0.4, 0])
    assert [point(FOUR, each.threshold) for each in frontier(FOUR)] == frontier(FOUR)


def test_signals_that_are_next_to_each_other_are_told_apart() -> None:
    signals = [1.0, 1 - 2**-53, 5e-324]
    rows = [Decision(signal, WRONG, Side(True, 1)) for signal in signals]
    assert [each.called for each in frontier(rows)] == [0, 1, 2, 3]
    assert [point(rows, each.threshold).called for each in frontier(rows)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("aim", "called"),
    [
        (Aim(), 1),  # 3 right with 1 or with 3 calls: the fewer
        (Aim(max_calls=0.2), 0),
        (Aim(max_calls=0.25), 1),
        (Aim(max_calls=1), 1),
        (Aim(min_accuracy=0.5), 0),
        (Aim(min_accuracy=0.75), 1),
        (Aim(cost=0.3), 1),  # 3 - 0.3 against 2
        (Aim(cost=1), 0),  # 3 - 1 is no more than 2
    ],
)
def test_the_aim_chooses_the_threshold(aim: Aim, called: int) -> None:
    assert aim.choose(frontier(FOUR)).called == called


def test_an_aim_that_cannot_be_reached_names_the_best() -> None:
    with pytest.raises(InputError, match=r"min_accuracy 0\.9 .* accuracy 0\.750 with calls on 25%"):
        Aim(min_accuracy=0.9).choose(frontier(FOUR))
    with pytest.raises(InputError, match="max_calls and cost: a threshold has one aim"):
        Aim(max_calls=0.1, cost=0.1)
    with pytest.raises(InputError, match="min_accuracy 65 is not valid; it is between 0 and 1"):
        Aim(min_accuracy=65)


def test_the_oracle_calls_where_only_the_call_is_right() -> None:
    assert oracle(FOUR)[1:] == (4, 3, 1, 1)


def test_the_area_is_the_mean_accuracy_over_all_shares_of_calls() -> None:
    # trapezoids: 0.25 * 0.625 + 0.5 * 0.75 + 0.25 * 0.625
    assert area(frontier(FOUR)) == pytest.approx(0.6875)
    without_signal = [each._replace(signal=0.5) for each in FOUR]
    assert area(frontier(without_signal)) == (0.5 + 0.5) / 2  # of never and always
    assert area(frontier([Decision(0.5, RIGHT, RIGHT)])) == 1  # nothing is ever called


def test_the_area_under_the_roc_curve_counts_pairs() -> None:
    found = auroc([each.signal for each in FOUR], NEEDED)
    assert found is not None
    assert found.value == 3.5 / 4  # 0.9 beats 0.6 and 0.2; 0.6 draws with 0.6 and beats 0.2
    assert found.low < 0.5 < found.value < found.high < 1
    assert auroc([0.1, 0.2], [True, True]) is None
    perfect = auroc([0.1] * 20 + [0.9] * 20, [False] * 20 + [True] * 20)
    assert perfect is not None
    assert (perfect.value, round(perfect.low, 2), round(perfect.high, 6)) == (1, 0.9, 1)


def test_the_calibration_curve_has_equal_bins() -> None:
    curve = reliability([each.signal for each in FOUR], NEEDED, bins=2)
    assert [(round(mean, 6), share.count, share.total) for mean, share in curve] == [
        (0.4, 0, 2),
        (0.75, 2, 2),
    ]
    assert len(reliability([0.1, 0.2], [True, False], bins=10)) == 2
