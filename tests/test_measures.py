"""Shares, need and paired differences against numbers worked out by hand."""

import pytest

from trice import metrics
from trice.errors import InputError
from trice.metrics import Share
from trice.types import Outcome, Response


def row(id: str, outcome: str, correct: bool | None, dataset: str = "D") -> Response:
    return Response(
        id=id,
        dataset=dataset,
        input="q",
        answer="1",
        response="r",
        outcome=Outcome(outcome),
        correct=correct,
    )


@pytest.mark.parametrize(
    ("count", "total", "value", "low", "high"),
    [
        (5, 10, 0.5, 0.2366, 0.7634),
        (0, 10, 0.0, 0.0, 0.2775),  # z²/(n + z²) = 3.8415/13.8415
        (10, 10, 1.0, 0.7225, 1.0),
        (0, 0, None, None, None),
    ],
)
def test_a_share_has_wilsons_interval(count, total, value, low, high):
    share = Share(count, total)
    found = [share.value, share.low, share.high]
    assert found == [None if x is None else pytest.approx(x, abs=5e-5) for x in (value, low, high)]


# The base model is right on a, b, c, d and wrong on e, f, g, h, i.
BASE = [row(id, "answered", id in "abcd") for id in "abcdefghi"]
ROWS = [
    row("a", "answered", True),
    row("b", "called", True),  # over-use
    row("c", "called", False),  # over-use, harmful
    row("d", "malformed", False),  # neither called nor answered
    row("e", "called", True),
    row("f", "answered", False),  # under-use
    row("g", "answered", True),  # needed by the base, not by this model
    row("h", "malformed", False),  # no abstention: not under-use
    row("i", "answered", False),  # under-use
]


def test_measures_without_a_base_count_verdicts_and_outcomes():
    assert metrics.measure(ROWS) == {
        "accuracy": Share(4, 9),
        "tool_use": Share(3, 9),
        "malformed": Share(2, 9),
        "answered": Share(4, 9),
    }


def test_measures_against_need():
    found = metrics.measure(ROWS, BASE)
    assert found["need"] == Share(5, 9)
    assert found["over_use"] == Share(2, 4)
    assert found["harmful_use"] == Share(1, 4)
    assert found["under_use"] == Share(2, 5)


def test_the_base_model_against_its_own_need():
    found = metrics.measure(BASE, BASE)
    assert (found["over_use"], found["under_use"]) == (Share(0, 4), Share(5, 5))


def test_nothing_to_measure_gives_empty_shares():
    assert metrics.measure([], [])["under_use"].value is None


def test_a_question_the_base_model_was_not_asked_is_named():
    with pytest.raises(InputError, match="question 'i' of 'D'"):
        metrics.measure(ROWS, BASE[:-1])


def test_an_ungraded_row_is_named():
    with pytest.raises(InputError, match="question 'x' is not graded"):
        metrics.measure([row("x", "answered", None)])


def test_the_same_id_in_two_data_sets_is_two_questions():
    base = [row("1", "answered", True, "A"), row("1", "answered", False, "B")]
    rows = [row("1", "called", True, "A"), row("1", "called", True, "B")]
    found = metrics.by_dataset(rows, base)
    assert list(found) == ["A", "B", "total"]
    assert found["A"]["need"] == Share(0, 1)
    assert found["B"]["need"] == Share(1, 1)
    assert found["total"]["over_use"] == Share(1, 1)


def test_total_is_there_for_one_data_set_too():
    assert list(metrics.by_dataset(ROWS)) == ["D", "total"]


def test_the_mean_of_seeds_counts_each_question_once():
    assert metrics.mean([Share(6, 10), Share(7, 10)]) == Share(6.5, 10)
    assert metrics.mean([Share(3, 10)]) == Share(3, 10)
    assert metrics.mean([Share(0, 0), Share(0, 0)]) == Share(0, 0)
    assert metrics.mean([Share(5, 10), Share(20, 20)]) == Share(7.5, 10)  # 75%, of the fewer questions


def verdicts(*values: int) -> list[Response]:
    return [row(str(place), "answered", bool(value)) for place, value in enumerate(values)]


def test_a_paired_difference_by_hand():
    # Differences 1, 1, 0, -1: mean 0.25, s² = (2·0.5625 + 0.0625 + 1.5625)/3 = 0.91667, s/√4 = 0.47871
    found = metrics.difference(verdicts(1, 1, 0, 0), verdicts(0, 0, 0, 1))
    assert found.delta == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25 - 1.959964 * 0.478714, abs=1e-5)
    assert found.high == 1.0  # 0.25 + 0.938 is cut to the largest there is


def test_seeds_are_averaged_question_by_question_first():
    # Means over two seeds: 1, 0.5 against 0, 0.5: differences 1 and 0, s = 0.70711, s/√2 = 0.5
    found = metrics.difference(verdicts(1, 1) + verdicts(1, 0), verdicts(0, 1) + verdicts(0, 0))
    assert found.delta == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - 1.959964 * 0.5, abs=1e-6)


def test_few_questions_with_the_same_difference_tell_little():
    # z² = 3.8415: 1 - 2 · 3.8415/(1 + 3.8415) = -0.58690, and 3.8415/(2 + 3.8415) = 0.65762
    assert metrics.difference(verdicts(1), verdicts(0)) == (1.0, pytest.approx(-0.58690, abs=1e-5), 1.0)
    equal = metrics.difference(verdicts(1, 0), verdicts(1, 0))
    thirds = metrics.paired_difference(
        {("D", "1"): 1.0, ("D", "2"): 2 / 3}, {("D", "1"): 2 / 3, ("D", "2"): 1 / 3}
    )
    assert thirds.low < 0 < thirds.high  # the differences are equal but for rounding
    assert equal == (0.0, pytest.approx(-0.65762, abs=1e-5), pytest.approx(0.65762, abs=1e-5))


def test_different_questions_are_not_compared():
    with pytest.raises(InputError, match="question '1' of 'D' is on one side"):
        metrics.difference(verdicts(1, 0), verdicts(1))
    with pytest.raises(InputError, match="no questions"):
        metrics.difference([], [])
