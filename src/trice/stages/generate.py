"""Generate: a model answers questions, and every response is stored as it arrives, so that a kill loses none.

`split`, `collect` and every evaluation are this stage with other settings. Calls are executed in the background while
the model generates. Responses are not judged here: that is `trice.stages.grading`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError, TriceError
from trice.formats.prompt import CHAT, check_expressible
from trice.models.engine import TOO_LONG, Engine, Failure, Generated, GenerationSettings, Prompt
from trice.models.sampling import Sampling
from trice.progress import Progress, notice
from trice.stages.call_decision import by_decision
from trice.stages.chat_responses import NOTHING_KEPT, Unfinished, roll_out, unchanged_by_tool_choice
from trice.stages.few_shot import find_examples
from trice.stages.model_spec import ModelSpec, check_model_spec, open_engine
from trice.storage.files import check_output, digest, read_rows
from trice.storage.row_store import RowStore
from trice.tasks import TaskLike, Tasks
from trice.tasks.outcome import called
from trice.tools.call_text import write_call
from trice.tools.executor import BackgroundExecutor, remove_sidecars
from trice.tools.second_turn import SECOND_TURN
from trice.types import GRADED, Question, Response


class Group(NamedTuple):
    """Questions, by their numbers, that are asked with the same settings: those of one task."""

    task: TaskLike
    settings: GenerationSettings
    questions: dict[int, Question]


class Resample(NamedTuple):
    """More samples for the questions whose first response `passes`. `sampling.samples` counts that response too."""

    sampling: Sampling
    passes: Callable[[Response], bool]


def generate(
    data: Path,
    output: Path,
    tasks: Tasks,
    spec: ModelSpec,
    *,
    origin: str = "",
    limit: int | None = None,
    retry: bool = False,
    execute_calls: bool = True,
    empty_if_too_long: bool = False,
    auto_responses: Path | None = None,
    resample: Resample | None = None,
) -> list[Response]:
    """Answer the questions of `data` and write them with their responses to `output`, in order.

    Args:
        data: Questions, with or without gold answers.
        output: Where the responses go. If it is finished already, nothing is done.
        tasks: What the questions belong to.
        spec: The model and how it is asked.
        origin: The name of the model in the responses.
        limit: Only the first `limit` questions.
        retry: Whether questions without a response are asked again.
        execute_calls: Whether calls are executed in the background, and their outputs kept for `evaluate` and
            `score`.
        empty_if_too_long: Whether a prompt that exceeds the model's context gets an empty response, not none.
        auto_responses: Responses of the same model with tool choice `auto`. Those that the tool choice of `spec`
            would not change are taken from there.
        resample: Which questions get more samples.

    Raises:
        InputError: If data, task, template, model or adapter do not fit, before the model is loaded.
    """
    check_output(output, data)
    questions = [
        with_instruction(question, tasks.of(question))
        for question in read_rows(data, Question, unanswered=True)[:limit]
    ]
    groups = group_by_task(tasks, questions, spec)
    check_model_spec(spec)
    settings: dict[str, Any] = {
        "data": digest(data),
        "task": tasks.identity,
        "origin": origin,
        "limit": limit,
        **spec.settings(),
        "template_sha256": spec.prompt_template.sha256,
        "instructions": {group.task.name: group.task.instruction for group in groups},
        "examples": {group.task.name: [list(each) for each in group.settings.examples] for group in groups},
        **({"more": asdict(resample.sampling)} if resample else {}),
    }
    with RowStore(output, settings, len(questions) * spec.sampling.samples, retry=retry) as journal:
        if journal.is_finished:
            return read_rows(output, Response, unanswered=True)
        if not journal.rows and not journal.is_resumed:
            remove_sidecars(output, "calls")  # of an earlier run
        samples = range((resample or spec).sampling.samples)
        contents = map(content_key, questions)
        keys = [[journal.key(content, sample) for sample in samples] for content in contents]
        if auto_responses and not journal.rows:
            journal.add(_unchanged(groups, keys, spec, origin, auto_responses))
        with (
            BackgroundExecutor(partial(called, tasks), output) if execute_calls else nullcontext() as executor
        ):
            ask = partial(
                _answer_missing, origin=origin, journal=journal, executor=executor,
                opened=cache(partial(open_engine, spec)), empty_if_too_long=empty_if_too_long,
            )  # fmt: skip
            ask(groups, [each[: spec.sampling.samples] for each in keys], spec)
            if resample:
                ask(
                    _passing(groups, keys, journal, resample), keys, replace(spec, sampling=resample.sampling)
                )
            rows = [
                Response.model_validate(journal.rows[key]) for each in keys for key in each if key in journal
            ]
            journal.finish(rows)
            if spec.template.format == CHAT:  # the responses hold their executions
                remove_sidecars(output, "calls")
    return rows


def with_instruction(question: Question, task: TaskLike) -> Question:
    """The question with the task's instruction, unless it has its own or is a conversation."""
    if question.instruction or question.messages is not None:
        return question
    return question.model_copy(update={"instruction": task.instruction})


def group_by_task(tasks: Tasks, questions: Sequence[Question], spec: ModelSpec) -> list[Group]:
    """The questions by task, in order of appearance. Raises InputError for a question that the template cannot
    express, and for tool choice `required` without tools."""
    check_expressible(questions, spec.prompt_template)
    groups: dict[str, Group] = {}
    for number, question in enumerate(questions):
        task = tasks.of(question)
        if spec.tool_choice == "required" and not (question.tools or tasks.own_tools(task)):
            raise InputError(f"tool choice 'required': task '{task.name}' has no tool to call")
        if task.name not in groups:
            groups[task.name] = Group(task, generation_settings(tasks, task, spec), {})
        groups[task.name].questions[number] = question
    return list(groups.values())


def generation_settings(tasks: Tasks, task: TaskLike, spec: ModelSpec) -> GenerationSettings:
    """The generation settings for the questions of a task. In a second turn, nothing executes a call, so it is asked
    with tool choice `none`; else a model that learned to call writes a call in place of the answer."""
    own = tuple(tool.name for tool in tasks.own_tools(task))
    tools, tool_choice = task.tools, spec.tool_choice
    if task.name == SECOND_TURN:
        tools, tool_choice = tasks.all_tools(task), "none"
    return GenerationSettings(
        spec.prompt_template,
        spec.sampling,
        find_examples(task.name, spec.few_shot),
        {tool.name: tool.parse for tool in tools},
        own,
        tool_choice,
        can_prefill=not spec.chats,
        call_writers={tool.name: partial(write_call, tool) for tool in tools},
    )


def content_key(question: Question) -> str:
    """A hash of everything in a question that its responses depend on."""
    # These fields change nothing of how a question is asked, and so nothing that is sampled.
    left_out = {*GRADED, "tool", "turn", "first_turn", "expected_calls"}
    left_out |= {name for name in ("messages", "tools", "gold_calls") if getattr(question, name) is None}
    text = question.model_dump_json(exclude=left_out)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _answer_missing(
    groups: Sequence[Group],
    keys: Sequence[Sequence[str]],
    spec: ModelSpec,
    origin: str,
    journal: RowStore,
    executor: BackgroundExecutor | None,
    opened: Callable[[], Engine],
    empty_if_too_long: bool,
) -> None:
    """Answer the questions without a response. Each response is stored as it arrives, and its call is executed in the
    background."""
    known = {*journal.rows, *journal.failed}
    left: list[tuple[Group, dict[int, tuple[int, ...]]]] = []
    for group in groups:
        wanted: dict[int, tuple[int, ...]] = {}
        for number in group.questions:
            if missing := tuple(sample for sample, key in enumerate(keys[number]) if key not in known):
                wanted[number] = missing
                known.update(keys[number])  # of two equal questions only one is asked
        left.append((group, wanted))
    total = sum(len(group.questions) for group in groups) * spec.sampling.samples
    waiting = sum(len(samples) for _, wanted in left for samples in wanted.values())
    if not waiting:
        return
    engine, client = opened(), spec.client
    if client is not None:
        client.account.resume(journal.spent, journal.spend)
    if executor:
        executor.take(Response.model_validate(row) for row in journal.rows.values())
    with Progress("responses", total, total - waiting) as progress:

        def store(number: int, rows: dict[int, Response]) -> None:
            journal.add({keys[number][sample]: row for sample, row in rows.items()})
            if executor:
                executor.take(rows.values())
            progress.advance(len(rows), client.figures if client is not None else "")

        unfinished = Unfinished(
            lambda number, sample: journal.unfinished.get(keys[number][sample]),
            lambda number, sample, value: journal.keep(keys[number][sample], value),
        )
        for group, wanted in _decided(engine, spec, left):
            failed = _answer(
                engine, group, wanted, store, origin, unfinished, journal.output, empty_if_too_long
            )
            for number, reason in failed.items():
                for sample in wanted[number]:
                    journal.fail(keys[number][sample], reason)
                question = group.questions[number]
                notice(f"{question.where or question.id}: no response: {reason}")


def _decided(
    engine: Engine, spec: ModelSpec, groups: Iterable[tuple[Group, Mapping[int, tuple[int, ...]]]]
) -> Iterator[tuple[Group, dict[int, tuple[int, ...]]]]:
    """The groups with the samples that are wanted, divided by what the model's call threshold decides."""
    for group, wanted in groups:
        asked = {number: question for number, question in group.questions.items() if number in wanted}
        for settings, numbers in by_decision(engine, group.task, group.settings, spec.call_threshold, asked):
            yield group._replace(settings=settings), {number: wanted[number] for number in numbers}


def _unchanged(
    groups: Sequence[Group], keys: Sequence[Sequence[str]], spec: ModelSpec, origin: str, auto_responses: Path
) -> dict[str, Response]:
    """The responses with tool choice `auto` that the tool choice of `spec` would not change, by their keys."""
    greedy = Sampling(spec.sampling.max_new_tokens, seed=spec.sampling.seed)
    if spec.client is not None or spec.engine != "transformers" or spec.sampling != greedy:
        return {}
    from trice.models.local import load_tokenizer

    known = {(row.dataset, row.id): row for row in read_rows(auto_responses, Response)}
    tokenizer = load_tokenizer(spec.model)
    found = {}
    for group in groups:
        settings = group.settings
        if spec.template.format == CHAT:
            unchanged = unchanged_by_tool_choice(settings, tokenizer)
        else:
            unchanged = partial(settings.unchanged_by_tool_choice, tokenizer)
        for number, question in group.questions.items():
            row = known.get((question.dataset, question.id))
            if row and unchanged(row):
                found[keys[number][0]] = row.model_copy(update={"origin": origin})
    return found


def _passing(
    groups: Sequence[Group], keys: Sequence[Sequence[str]], journal: RowStore, resample: Resample
) -> list[Group]:
    """The questions whose first response passes, in groups with the settings of the other samples."""

    def passes(number: int) -> bool:
        row = journal.rows.get(keys[number][0])
        return row is not None and resample.passes(Response.model_validate(row))

    return [
        Group(
            group.task,
            replace(group.settings, sampling=resample.sampling),
            {number: question for number, question in group.questions.items() if passes(number)},
        )
        for group in groups
    ]


def _answer(
    engine: Engine,
    group: Group,
    wanted: Mapping[int, tuple[int, ...]],
    store: Callable[[int, dict[int, Response]], None],
    origin: str = "",
    unfinished: Unfinished = NOTHING_KEPT,
    output: Path | None = None,
    empty_if_too_long: bool = True,
) -> dict[int, str]:
    """Let the engine write the `wanted` samples of a group's questions. `store` receives responses with their
    question's number, by sample. In the format `chat`, calls are stored next to `output`. Returns the reasons why
    questions got no response, by their numbers."""
    numbers, settings = list(wanted), group.settings

    def deliver(index: int, found: dict[int, Generated]) -> None:
        question = group.questions[numbers[index]]
        rows = {sample: _row(question, settings, origin, sample, each) for sample, each in found.items()}
        store(numbers[index], rows)

    failures: list[Failure] = []
    if settings.template.format == CHAT:
        asked = {n: (group.questions[n], content_key(group.questions[n]), wanted[n]) for n in numbers}
        failures = roll_out(engine, group.task, settings, asked, origin, store, unfinished, output)
    elif numbers:
        questions = [(group.questions[number], wanted[number]) for number in numbers]
        prompts = [Prompt(content_key(each), each.instruction, each.input, s) for each, s in questions]
        failures = engine.generate(prompts, settings, deliver)
    missing = {}
    for index, reason, *_ in failures:
        question = group.questions[numbers[index]]
        if empty_if_too_long and reason.startswith(TOO_LONG):
            deliver(index, dict.fromkeys(wanted[numbers[index]], Generated("")))
            notice(f"{question.where or question.id}: {reason}; its response is empty")
        else:
            missing[numbers[index]] = reason
    return missing


def respond(
    engine: Engine, tasks: Tasks, questions: Sequence[Question], spec: ModelSpec, calls: Path | None = None
) -> list[Response]:
    """One response to each question, in order, without files. In the format `chat`, calls are stored next to the
    path `calls`, if it is given. A prompt that is too long for the model gets an empty response. Raises TriceError for
    a question without a response."""
    found: dict[int, Response] = {}

    def store(number: int, rows: dict[int, Response]) -> None:
        found[number] = rows[0]

    groups = [
        (group, dict.fromkeys(group.questions, (0,))) for group in group_by_task(tasks, questions, spec)
    ]
    for group, wanted in _decided(engine, spec, groups):
        for reason in _answer(engine, group, wanted, store, output=calls).values():
            raise TriceError(f"{spec.model}: no response: {reason}")
    return [found[number] for number in range(len(questions))]


def _row(
    question: Question, settings: GenerationSettings, origin: str, sample: int, generated: Generated
) -> Response:
    response = settings.full_response(generated.text)
    fields = {"response": response, "origin": origin, "sample": sample, "tokens": generated.tokens}
    fields["truncated"] = generated.truncated or None
    return Response.model_validate(question.model_dump(exclude=GRADED) | fields)
