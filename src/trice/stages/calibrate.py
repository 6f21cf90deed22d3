"""Calibrate: choose the call threshold of a model on held-out questions.

Every question is answered twice, without a tool and with a call, and both responses are judged as in evaluation. With
the signal of each question (`trice.models.call_signals`), that gives accuracy and calls of every threshold at once.
What is expected of the chosen one on new questions is estimated by cross-validation: the probe and the threshold are
chosen without the questions that they are measured on. The model is not trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.frontier import ALWAYS, Aim, Point, Side, area, frontier, oracle
from trice.metrics import Share, needs_tool
from trice.models.adapters import adapter_weights
from trice.models.call_threshold import (
    CALIBRATION,
    Calibration,
    CallThreshold,
    Estimate,
    Probe,
    Setting,
    Signal,
)
from trice.progress import notice
from trice.stages.call_decision import CallSignal, call_signals
from trice.stages.evaluate import evaluate
from trice.stages.generate import generate, group_by_task, with_instruction
from trice.stages.model_spec import ModelSpec, check_model_spec, open_engine
from trice.stages.signal_fit import MIN_OF_EACH, Answered, AnsweredQuestions
from trice.storage.files import digest, read_rows, write_rows, write_text
from trice.storage.row_reader import records
from trice.tasks import Tasks, check_questions
from trice.types import Outcome, Question, Response

# In the working folder: a row for each question, with its signals and both answers.
DECISIONS = "decisions.json"


def calibrate(
    data: Path, folder: Path, tasks: Tasks, spec: ModelSpec, aim: Aim | None = None, signal: Signal = "p-call"
) -> Calibration:
    """Choose the threshold, and save it as `calibration.json` in `folder` and next to the adapter's files.

    Args:
        data: Held-out questions with gold answers.
        folder: Keeps both responses to each question, so that another aim generates nothing.
        tasks: What the questions belong to.
        spec: The model and how it is asked. Its tool choice and threshold are not used.
        aim: What the threshold is chosen for; by default the fewest calls without a loss of accuracy.
        signal: What is compared with the threshold.

    Raises:
        InputError: If the aim cannot be reached, with the best value that can be; if P(call) cannot be computed; if no
            question is offered a tool.
    """
    aim, spec = aim or Aim(), decidable(spec)
    questions = read_rows(data, Question)
    check_questions(tasks, questions)
    _warn_if_trained_on(spec.adapter, questions)
    answered = answer_both_ways(data, folder, tasks, spec)
    if not answered.rows:
        raise InputError(f"{data}: no question is offered a tool, so there is no call to decide on")
    if signal == "probe" and not answered.can_probe:
        raise InputError(
            f"signal 'probe' needs at least {MIN_OF_EACH} questions that need a tool and {MIN_OF_EACH} that do not; of "
            f"the {len(answered.rows)} in {data}, {sum(answered.needed)} need one; choose p-call"
        )
    fitted = answered.fit(signal)
    decisions = answered.decisions(fitted.values)
    points = frontier(decisions)
    chosen = aim.choose(points)
    # With one question there are no others to choose a threshold on.
    expected = answered.cross_validated(aim, signal) if len(decisions) > 1 else chosen
    found = Calibration(
        threshold=CallThreshold(value=chosen.threshold, probe=fitted.probe), aim=str(aim), task=tasks.name,
        prompts=spec.template.record, adapter=spec.adapter and digest(adapter_weights(spec.adapter)),
        few_shot=spec.few_shot if isinstance(spec.few_shot, str) else None, questions=len(decisions),
        expected=_setting(expected), chosen=_setting(chosen), never=_setting(points[0]), always=_setting(points[-1]),
        oracle=_setting(oracle(decisions)), area=area(points),
        auroc={name: Estimate(**each._asdict()) for name, each in answered.aurocs().items()},
    )  # fmt: skip
    write_decisions(folder / DECISIONS, answered)
    text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    for target in dict.fromkeys(filter(None, (folder, spec.adapter))):
        write_text(target / CALIBRATION, text)
    return found


def decidable(spec: ModelSpec) -> ModelSpec:
    """The same model, asked to call whenever it is offered a tool, and loaded once. Raises InputError if its P(call)
    cannot be computed."""
    spec = replace(spec, tool_choice="auto", call_threshold=CallThreshold(value=ALWAYS))
    check_model_spec(spec)
    return replace(spec, opened=spec.opened or cache(partial(open_engine, spec)))


def answer_both_ways(data: Path, folder: Path, tasks: Tasks, spec: ModelSpec) -> AnsweredQuestions:
    """The questions with their signals and both answers, which `folder` keeps. `spec` is of `decidable`."""
    without = _answers(data, folder / "without.json", tasks, replace(spec, tool_choice="none"))
    called = _answers(data, folder / "called.json", tasks, spec)
    return _join(*_signals(read_rows(data, Question), tasks, spec), without, called)


def _answers(data: Path, output: Path, tasks: Tasks, spec: ModelSpec) -> list[Response]:
    """The judged responses. Those that exist already are not generated again."""
    generate(data, output, tasks, spec)
    results = output.with_name(f"{output.stem}_result.json")
    evaluate(output, results, tasks, spec=spec)
    return read_rows(results, Response)


def _signals(
    questions: Sequence[Question], tasks: Tasks, spec: ModelSpec
) -> tuple[dict[int, tuple[Question, CallSignal]], list[int]]:
    """The questions that are offered a tool, with their signals, and the layers of the states in these."""
    from trice.models.call_signals import layer_count
    from trice.models.generation import TransformersEngine
    from trice.stages.need_probe import probed_layers

    engine = open_engine(spec)
    assert isinstance(engine, TransformersEngine)  # checked by `check_model_spec`
    layers = probed_layers(layer_count(engine.loaded.model))
    found: dict[int, tuple[Question, CallSignal]] = {}
    for group in group_by_task(tasks, [with_instruction(each, tasks.of(each)) for each in questions], spec):
        signals = call_signals(engine, group.task, group.settings, group.questions, layers)
        found |= {number: (group.questions[number], each) for number, each in signals.items()}
    return dict(sorted(found.items())), layers


def _join(
    signals: dict[int, tuple[Question, CallSignal]],
    layers: list[int],
    without: Sequence[Response],
    called: Sequence[Response],
) -> AnsweredQuestions:
    """The questions that have a signal and both answers."""
    one, other = ({(row.dataset, row.id): row for row in rows} for rows in (without, called))
    rows = []
    for question, signal in signals.values():
        key = (question.dataset, question.id)
        if key in one and key in other:
            needed = needs_tool(one[key])
            rows.append(Answered(question, signal, needed, _side(one[key]), _side(other[key])))
    return AnsweredQuestions(rows, layers)


def _side(row: Response) -> Side:
    return Side(bool(row.correct), max(1, len(row.calls)) if row.outcome is Outcome.CALLED else 0)


def _setting(point: Point) -> Setting:
    right, called = Share(point.right, point.questions), Share(point.called, point.questions)
    return Setting(accuracy=_estimate(right), calls=_estimate(called))


def _estimate(share: Share) -> Estimate:
    return Estimate(value=share.value or 0, low=share.low or 0, high=share.high or 0)


def write_decisions(path: Path, answered: AnsweredQuestions, probe: Probe | None = None) -> None:
    """Write a row for each question. Without a `probe`, its values are of probes that were fitted on the others."""
    rows: list[dict[str, Any]] = [
        {"dataset": each.question.dataset, "id": each.question.id, "needed": each.needed,
         "p-call": each.signal.probability, "without": each.without._asdict(), "called": each.called._asdict()}
        for each in answered.rows
    ]  # fmt: skip
    if probe is not None:
        place = answered.layers.index(probe.layer)
        scores = [probe.score(each.signal.states[place]) for each in answered.rows]
    else:
        scores = answered.fit("probe").values if answered.can_probe else []
    for row, score in zip(rows, scores, strict=False):
        row["probe"] = score
    write_rows(path, rows)


def _warn_if_trained_on(adapter: Path | None, questions: Sequence[Question]) -> None:
    """A notice if the adapter was trained on some of these questions, as far as its folder or its run shows it."""
    if adapter is None:
        return
    run = adapter.resolve().parent.parent / "data" / "stage1"
    files = [adapter / "examples.json", adapter / "questions.json", *sorted(run.glob("*/*.json"))]
    filled = [path for path in files if path.is_file() and path.stat().st_size]
    trained = {str(row.get("input") or row.get("question")) for path in filled for _, row in records(path)}
    known = sum(each.input in trained for each in questions)
    if known:
        notice(
            f"{known} of {len(questions)} questions are among those that {adapter} was trained on, where the model is "
            "surer than on new ones; calibrate on questions that are held out"
        )
