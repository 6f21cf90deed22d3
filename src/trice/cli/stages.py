"""The stages one by one, except for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trice.cli.app import STAGES, app
from trice.cli.settings_command import settings_command

if TYPE_CHECKING:
    from trice.cli.options import (
        CalibrateOptions,
        CollectOptions,
        DecisionOptions,
        EngineOptions,
        EvaluateOptions,
        Label,
        MixOptions,
        ModelOptions,
        ReaderOptions,
        RetryInput,
        RetryInputOutput,
        SamplingOptions,
        ScoreOptions,
        SplitOptions,
        TaskOptions,
    )
    from trice.stages.model_spec import ModelSpec


@settings_command(app, STAGES)
def split(input: RetryInput, model: ModelOptions, split: SplitOptions, engine: EngineOptions) -> None:
    """Ask a model every question with tools withheld, and split the questions by what it knows.

    A question that it answers correctly is asked several times. Known questions go to <data>_right.json, unknown
    ones to <data>_wrong.json."""
    from trice.cli.resolve import model_spec, model_tasks
    from trice.models.sampling import Sampling
    from trice.stages.split import split as stage

    length = split.max_new_tokens or Sampling.max_new_tokens
    settings = {"few_shot": split.few_shot, "max_new_tokens": length, "seed": split.seed}
    files = stage(
        input.data, model_tasks(model), model_spec(model, engine, settings), samples=split.samples,
        temperature=split.temperature, known=split.known, limit=input.limit, retry=input.retry_failed,
    )  # fmt: skip
    print(files)
    for count, path in ((files.known_count, files.known), (files.unknown_count, files.unknown)):
        if count:
            print(f"{count} questions in {path}")


@settings_command(app, STAGES)
def label(input: RetryInputOutput, task: TaskOptions, teacher: Label) -> None:
    """Give each question a tool call from a teacher.

    Each call is executed, and kept only if it gives the gold answer."""
    from trice.cli.resolve import refuse
    from trice.stages.label import label as stage
    from trice.stages.teachers import load_teacher
    from trice.tasks import Tasks

    if teacher.teacher != "endpoint":
        refuse(f"to --teacher {teacher.teacher}", teacher, "endpoint", "retries", "prompt")
    client = teacher.endpoint.open() if teacher.endpoint else None
    tasks = Tasks(task.task, task.tool)
    chosen = load_teacher(teacher.teacher, tasks, client, teacher.retries, teacher.prompt)
    print(stage(
        input.data, input.output, tasks, chosen, reading=teacher.reading, limit=input.limit, retry=input.retry_failed,
    ))  # fmt: skip


@settings_command(app, STAGES)
def mix(mix: MixOptions, task: TaskOptions) -> None:
    """Join correct answers and labeled calls into one shuffled file for stage 1."""
    from trice.cli.resolve import refuse
    from trice.stages.mix import mix as stage
    from trice.tasks import Tasks

    unused = {"selective": ["questions"], "answers": ["labelled", "right"], "calls": ["right", "questions"]}
    refuse(f"to --kind {mix.kind}", mix, *unused[mix.kind])
    rows = stage(
        mix.labelled, mix.output, Tasks(task.task, task.tool),
        right=mix.right, kind=mix.kind, questions=mix.questions, seed=mix.seed,
    )  # fmt: skip
    print(f"{rows} questions in {mix.output}")


@settings_command(app, STAGES)
def collect(
    candidates: CollectOptions, model: ModelOptions, sampling: SamplingOptions, engine: EngineOptions
) -> None:
    """Collect candidate responses from one origin in <output>/<task>_<origin>_response.json."""
    from trice.cli.resolve import model_spec, model_tasks, refuse
    from trice.stages import collect as stage

    data, output, origin = candidates.data, candidates.output, candidates.origin
    task = model_tasks(model)
    if origin == "gold":
        reason = "to --origin gold, which copies the gold responses"
        refuse(reason, candidates, "retry_failed")
        for settings in (sampling, engine):
            refuse(reason, settings)
        refuse(reason, model, "endpoint", "model", "format", "template", "tool")
        print(stage.collect_gold(data, output, task, candidates.limit))
        return
    rows = stage.collect(
        data, output, task, origin, model_spec(model, engine, sampling.model_dump()),
        limit=candidates.limit, retry=candidates.retry_failed,
    )  # fmt: skip
    print(f"{len(rows)} responses in {stage.origin_path(output, task, origin)}")


@settings_command(app, STAGES)
def score(score: ScoreOptions, model: ModelOptions, reader: ReaderOptions, engine: EngineOptions) -> None:
    """Parse, execute and judge every candidate, and rank the candidates of each question by reward.

    --model or --adapter names the model that reads what a tool returned, for the tasks qa, mlqa and hotpot."""
    from trice.cli.resolve import model_tasks
    from trice.rewards import load_reward
    from trice.stages.score import score as stage
    from trice.tools.ray_executor import runner

    rows = stage(
        score.data, score.output, model_tasks(model),
        reward=load_reward(score.reward), distinct=score.distinct, spec=_reader_spec(model, reader, engine),
        runner=runner(engine.engine, engine.workers),
    )  # fmt: skip
    count = sum(len(row.candidates) for row in rows)
    print(f"{count} candidates of {len(rows)} questions in {score.output}")


@settings_command(app, STAGES)
def generate(
    input: RetryInputOutput, model: ModelOptions, sampling: SamplingOptions, decision: DecisionOptions,
    engine: EngineOptions,
) -> None:  # fmt: skip
    """Answer questions with a model. The responses are written, and `trice evaluate` judges them."""
    from dataclasses import replace

    from trice.cli.resolve import model_spec, model_tasks, refuse
    from trice.models.call_threshold import find_threshold
    from trice.stages.generate import generate as stage

    spec = model_spec(model, engine, sampling.model_dump())
    if sampling.tool_choice != "auto":
        refuse(f"to --tool-choice {sampling.tool_choice}", decision)
    else:
        threshold = find_threshold(decision.call_threshold, spec.adapter, spec.template)
        spec = replace(spec, call_threshold=threshold)
    rows = stage(
        input.data, input.output, model_tasks(model), spec,
        limit=input.limit, retry=input.retry_failed,
    )  # fmt: skip
    print(f"{len(rows)} responses in {input.output}")


@settings_command(app, STAGES)
def calibrate(
    files: CalibrateOptions, model: ModelOptions, reader: ReaderOptions, engine: EngineOptions
) -> None:
    """Choose when a trained model calls a tool: a threshold for its probability of calling, for a stated aim.

    Every question is answered without a tool and with a call. The threshold is saved in calibration.json next to the
    adapter's files, and generate, chat and serve apply it."""
    from trice.cli.resolve import model_spec, model_tasks
    from trice.errors import InputError
    from trice.frontier import Aim
    from trice.stages.calibrate import calibrate as stage

    if files.output is None and model.adapter is None:
        raise InputError("missing option --output: without an adapter, a folder has to keep the calibration")
    folder = files.output or (model.adapter or Path()) / "calibration"
    print(stage(
        files.data, folder, model_tasks(model), model_spec(model, engine, reader.model_dump()),
        Aim(files.max_calls, files.min_accuracy, files.cost), files.signal,
    ))  # fmt: skip


@settings_command(app, STAGES)
def evaluate(
    input: EvaluateOptions, model: ModelOptions, reader: ReaderOptions, engine: EngineOptions
) -> None:
    """Execute and judge responses, and print accuracy and tool use with 95% intervals.

    --model or --adapter names the model that reads what a tool returned, for the tasks qa, mlqa and hotpot."""
    from trice.cli.resolve import model_tasks, refuse
    from trice.stages.evaluate import describe
    from trice.stages.evaluate import evaluate as stage
    from trice.tools.ray_executor import runner

    spec = _reader_spec(model, reader, engine)
    if spec is None:
        refuse("without a model that reads the passages; name it with --model", input, "any_passage")
    print(describe(stage(
        input.data, input.output, model_tasks(model), base=input.base, spec=spec, limit=input.limit,
        runner=runner(engine.engine, engine.workers), any_passage=input.any_passage,
    )))  # fmt: skip


def _reader_spec(model: ModelOptions, reader: ReaderOptions, engine: EngineOptions) -> ModelSpec | None:
    """The model that reads what a tool returned, None without one."""
    from trice.cli.resolve import model_spec, refuse

    if model.model or model.adapter or model.endpoint:
        return model_spec(model, engine, reader.model_dump())
    reason = "without a model that reads what a tool returned; name one with --model or --adapter"
    refuse(reason, model, "format", "template")
    refuse(reason, reader)
    refuse(reason, engine, "device", "dtype", "generation_batch_size")
    return None
