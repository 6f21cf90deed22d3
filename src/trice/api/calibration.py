"""Calibrate as a function on objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.api.data import Source, working_folder, write_questions
from trice.api.models import FewShot, Model, require_model

if TYPE_CHECKING:
    from trice.models.call_threshold import Calibration, Signal
    from trice.tasks import TaskLike


def calibrate(
    model: Model,
    questions: Source,
    task: str | TaskLike,
    *,
    max_calls: float | None = None,
    min_accuracy: float | None = None,
    cost: float | None = None,
    signal: Signal = "p-call",
    few_shot: FewShot = None,
    output: str | Path | None = None,
    **sampling: Any,
) -> Calibration:
    """Choose when a trained model calls a tool: a threshold for its probability of calling, for a stated aim.

    Every question is answered without a tool and with a call, so that accuracy and calls of every threshold are known.
    The choice is saved as `calibration.json` next to the adapter's files; `trice.generate`, `trice.evaluate` and
    `Model.ask` then apply it, and so do the commands.

    Args:
        model: A local model, usually with an adapter.
        questions: As for `trice.questions`, with gold answers. They must not be those that the model was trained on.
        task: A `trice.Task` or the name of one that ships.
        max_calls: The aim is the best accuracy with calls on at most this share of the questions.
        min_accuracy: The aim is the fewest calls with at least this accuracy.
        cost: The aim is the best accuracy minus this price for each call. Without any of the three, the aim is the
            fewest calls that lose no accuracy against the best threshold.
        signal: `p-call`, the probability that the response begins with a call, or `probe`, a linear probe for need on
            the hidden state of the question.
        few_shot: Worked examples to put before each question.
        output: A folder that keeps the responses, so that another aim generates nothing. The default is `calibration`
            in the adapter's folder; without an adapter, nothing is kept.
        sampling: As for `trice.generate`. Greedy without it.

    Returns:
        A `Calibration`; printed, it shows the threshold, what it costs and what other settings give. It can be passed
        on as `call_threshold`.

    Raises:
        InputError: If the aim cannot be reached, with the best value that can be, or if the model is at an endpoint,
            which does not give P(call).

    Example:
        >>> import trice
        >>> model = trice.load("runs/units/both")                                              # doctest: +SKIP
        >>> print(trice.calibrate(model, "held-out.jsonl", "math", max_calls=0.3))             # doctest: +SKIP
    """
    from trice.frontier import Aim
    from trice.models.call_threshold import load_signal
    from trice.stages.calibrate import calibrate as stage
    from trice.tasks import Tasks

    aim = Aim(max_calls, min_accuracy, cost)
    spec = require_model(model).spec(few_shot, **sampling)
    with working_folder(output or (model.adapter and model.adapter / "calibration")) as folder:
        data = write_questions(folder, questions, task)
        return stage(data, folder, Tasks(task), spec, aim, load_signal(signal))
