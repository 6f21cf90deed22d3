"""What a reader should conclude, and comments on a loss that jumps."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import graded, result

from trice.report.headline import conclusion
from trice.report.results import compute_results
from trice.report.run_reader import read_run
from trice.report.sections import jumps


@pytest.mark.parametrize(
    ("base", "first", "both", "expected"),
    [
        (2, 20, 38, "Ship both stages: both stages are better than stage 1 on these questions."),
        (2, 30, 31, "Ship stage 1: these questions do not show that both stages are better."),
        (2, 38, 20, "Ship stage 1: both stages are worse than stage 1 on these questions."),
        (20, 21, 21, "Ship neither stage yet: these questions do not show that training made the model better."),
        (20, 22, 25, "Ship both stages: they are better than the base model on these questions, which do not show "
                     "that of stage 1 alone."),
        (38, 10, 10, "Ship neither stage yet: these questions do not show that training made the model better."),
        (2, 20, None, "Ship stage 1: it is better than the base model on these questions, and both stages are not "
                      "evaluated."),
        (20, 21, None, None),
        (None, 20, 38, None),
    ],
)  # fmt: skip
def test_a_conclusion_says_what_the_intervals_carry(
    tmp_path: Path, base: int | None, first: int | None, both: int | None, expected: str | None
) -> None:
    for name, right in (("zero-shot", base), ("stage-1", first), ("both", both)):
        if right is not None:
            result(tmp_path, name, *(graded(n, "answered", n < right) for n in range(40)))
    assert conclusion(compute_results(read_run(tmp_path))) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("calls", "right", "expected"),
    [
        (20, 31, "Ship both stages: they call a tool on 50% of the questions, stage 1 on 100%, and they are right at "
                 "least as often on these questions."),
        (20, 29, "Ship stage 1: these questions do not show that both stages are better."),
        (39, 31, "Ship stage 1: these questions do not show that both stages are better."),
    ],
)  # fmt: skip
def test_fewer_calls_without_fewer_right_answers_are_a_reason_to_ship(
    tmp_path: Path, calls: int, right: int, expected: str
) -> None:
    result(tmp_path, "zero-shot", *(graded(n, "answered", n < 2) for n in range(40)))
    result(tmp_path, "stage-1", *(graded(n, "called", n < 30) for n in range(40)))
    result(
        tmp_path, "both", *(graded(n, "called" if n < calls else "answered", n < right) for n in range(40))
    )
    assert conclusion(compute_results(read_run(tmp_path))) == [expected]


def test_a_loss_that_jumps_at_the_end_is_explained() -> None:
    def log(*losses: float) -> list[dict[str, float]]:
        return [{"step": step, "loss": loss} for step, loss in enumerate(losses)]

    (line,) = jumps(
        {"stage-1": log(1.0, 0.3, 0.0003, 0.0002, 0.0002, 2.9), "both": log(1.0, 0.5, 0.6, 0.5, 0.7)}
    )
    assert line.startswith(
        "stage-1: the last logged loss, 2.9, is 9,667 times the median of the 5 before it (0.0003)."
    )
    assert not jumps(
        {"short": log(0.1, 2.9), "down": log(2.0, 1.0, 0.5, 0.2), "small": log(1e-4, 1e-4, 1e-4, 2e-3)}
    )
    assert not jumps({"zero": log(0.0, 0.0, 0.0, 1.0), "none": [{"step": 1, "rank_loss": 1.0}]})
