"""Generate: an engine answers questions, each response stored as it comes, losing nothing to a kill.

`split`, `collect` and every evaluation are this stage with other prompts. Responses are not judged
here, but the calls in them are run beside (`trice.tools.executor.BackgroundExecutor`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from pydantic import Field

from trice import ray_cluster
from trice.errors import InputError, TriceError
from trice.formats.prompt import CHAT, Example, Template, load_template
from trice.models import vllm_engine
from trice.models.adapters import adapter_weights
from trice.models.engine import (
    TOO_LONG,
    Engine,
    EngineName,
    Failure,
    Generated,
    GenerationSettings,
    Prompt,
    ToolChoice,
    base_engine,
)
from trice.models.sampling import Sampling
from trice.progress import Progress, notice
from trice.storage.files import check_output, digest, read_rows
from trice.storage.row_store import RowStore
from trice.tasks import Sources, TaskLike, Tasks, identity
from trice.tasks.outcome import called
from trice.tools.call_text import write_call
from trice.tools.executor import BackgroundExecutor, remove_sidecars
from trice.types import Question, Response, Row

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint

# Left out of a question that becomes a response: a user's row may have fields of these names.
GRADED = set(Response.model_fields) - set(Question.model_fields)


def load_tool_choice(name: str) -> ToolChoice:
    """The tool choice called `name`. Raises InputError if there is none."""
    if name not in get_args(ToolChoice):
        raise InputError(f"tool choice '{name}' is not valid; choose auto, none or required")
    return cast("ToolChoice", name)


@dataclass(frozen=True)
class ModelSpec:
    """How questions are put to a model: a local one, by an `engine` (with `workers`, where it is a cluster's), or
    that of an endpoint (`client`). `few_shot` are worked examples, or names them (`find_examples`). `tool_choice` makes every
    response a call, or none. `opened` gives an engine that is kept loaded."""

    model: str
    adapter: Path | None = None
    template: str | Template = "plain"
    few_shot: str | tuple[Example, ...] | None = None
    tool_choice: ToolChoice = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 128
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "transformers"
    workers: int | None = None
    client: Endpoint | None = None
    opened: Callable[[], Engine] | None = field(default=None, compare=False, repr=False)

    @property
    def prompt_template(self) -> Template:
        """The template prompts are written in; an endpoint's chats are in its own."""
        template = load_template(self.template)
        return load_template(CHAT) if self.chats and template.name != CHAT else template

    @property
    def chats(self) -> bool:
        """Whether questions are put as chats, which nobody but the model can begin to answer."""
        return self.client is not None and self.client.api == "chat"

    def settings(self) -> dict[str, Any]:
        """Everything the responses depend on but the examples, for the journal: not how fast they are written."""
        if self.client is not None:
            at = self.client
            known = {"model": at.model, "endpoint": at.url, "api": at.api, "tokenizer": at.tokenizer}
            unsent = {} if at.send_temperature else {"send_temperature": False}
            return (
                known
                | unsent
                | {
                    "template": self.prompt_template.name,
                    "tool_choice": self.tool_choice,
                    "sampling": asdict(self.sampling),
                }
            )
        from trice.models.local import resolve_dtype

        return {
            "model": self.model,
            "adapter": self.adapter and digest(adapter_weights(self.adapter)),
            "template": load_template(self.template).name,
            "tool_choice": self.tool_choice,
            "sampling": asdict(self.sampling),
            "dtype": resolve_dtype(self.dtype, self.device),
            "engine": base_engine(self.engine),
        }


class Group(NamedTuple):
    """Questions, by their numbers, that are asked with the same settings: those of one task."""

    task: TaskLike
    settings: GenerationSettings
    questions: dict[int, Question]


class More(NamedTuple):
    """A second go at the questions whose first response `passes`: in all as many samples as `sampling` says, that
    first response among them."""

    sampling: Sampling
    passes: Callable[[Response], bool]


def generate(
    data: Path,
    output: Path,
    task: str | TaskLike,
    spec: ModelSpec,
    *,
    origin: str = "",
    tools: Sources | None = None,
    limit: int | None = None,
    retry: bool = False,
    run_calls: bool = True,
    long_is_empty: bool = False,
    free: Path | None = None,
    more: More | None = None,
) -> list[Response]:
    """Answer the questions of `data` and write them with their responses to `output`, in order. With `run_calls`,
    the calls in them are run at the same time, and their outputs kept for `evaluate` and `score`. `free` holds
    responses of the same model to the same questions under no tool choice: those that the tool choice of `spec`
    would not change are taken from there. `more` samples those again whose first response passes.

    A prompt that is longer than the model's context gets no response, or with `long_is_empty` an empty one.
    Where `output` is finished already, nothing is done; `retry` asks those again that got no response. Raises
    InputError where data, task, template, model or adapter do not fit, before the model is loaded.
    """
    check_output(output, data)
    tasks = Tasks(task, tools)
    questions = [
        ask(question, tasks.of(question)) for question in read_rows(data, Question, unanswered=True)[:limit]
    ]
    groups = grouped(tasks, questions, spec)
    check_model_spec(spec)
    settings: dict[str, Any] = {
        "data": digest(data),
        "task": identity(task),
        "origin": origin,
        "limit": limit,
    }
    settings |= spec.settings() | {"template_sha256": spec.prompt_template.sha256}
    settings |= {"instructions": {group.task.name: group.task.instruction for group in groups}}
    settings |= {
        "examples": {group.task.name: [list(each) for each in group.settings.examples] for group in groups}
    }
    settings |= {"more": asdict(more.sampling)} if more else {}
    with RowStore(output, settings, len(questions) * spec.sampling.samples, retry=retry) as journal:
        if journal.is_finished:
            return read_rows(output, Response, unanswered=True)
        if not journal.rows:
            remove_sidecars(output, "calls")  # another time's
        samples = range((more or spec).sampling.samples)
        contents = map(content_key, questions)
        keys = [[journal.key(content, sample) for sample in samples] for content in contents]
        if free and not journal.rows:
            journal.add(_unchanged(groups, keys, spec, origin, free))
        with BackgroundExecutor(partial(called, tasks), output) if run_calls else nullcontext() as ahead:
            opened = cache(partial(open_engine, spec))
            first = [each[: spec.sampling.samples] for each in keys]
            _answer(groups, first, spec, origin, journal, ahead, opened, long_is_empty)
            if more:
                chosen, how = _passing(groups, keys, journal, more), replace(spec, sampling=more.sampling)
                _answer(chosen, keys, how, origin, journal, ahead, opened, long_is_empty)
            rows = [
                Response.model_validate(journal.rows[key]) for each in keys for key in each if key in journal
            ]
            journal.finish(rows)
    return rows


def ask(question: Question, task: TaskLike) -> Question:
    """The question with the task's instruction, unless it has its own."""
    return question if question.instruction else question.model_copy(update={"instruction": task.instruction})


def grouped(tasks: Tasks, questions: Sequence[Question], spec: ModelSpec) -> list[Group]:
    """The questions of each task, in order of the tasks' first. Raises InputError where a task without a tool is
    compelled to call one."""
    groups: dict[str, Group] = {}
    for number, question in enumerate(questions):
        task = tasks.of(question)
        if task.name not in groups:
            groups[task.name] = Group(task, generation_settings(tasks, task, spec), {})
        groups[task.name].questions[number] = question
    return list(groups.values())


def generation_settings(tasks: Tasks, task: TaskLike, spec: ModelSpec) -> GenerationSettings:
    """How a task's questions are answered."""
    own = tuple(tool.name for tool in tasks.own_tools(task))
    if spec.tool_choice == "required" and not own:
        raise InputError(f"task '{task.name}': has no tool to be compelled to call")
    return GenerationSettings(
        spec.prompt_template,
        spec.sampling,
        find_examples(task.name, spec.few_shot),
        {tool.name: tool.parse for tool in task.tools},
        own,
        spec.tool_choice,
        can_prefill=not spec.chats,
        call_writers={tool.name: partial(write_call, tool) for tool in task.tools},
    )


def check_model_spec(spec: ModelSpec) -> None:
    """Raise InputError where what is to answer cannot be what is meant, before it is loaded."""
    if spec.client is not None:
        if spec.adapter:
            raise InputError("an adapter is for a local model; an endpoint's is named as its model")
        if spec.engine != "transformers":
            raise InputError(f"engine '{spec.engine}': is for a local model, not for an endpoint")
        return
    from trice.models.local import check_model

    check_engine(spec.engine, spec.sampling)
    check_model(spec.model, spec.adapter)


def check_engine(name: str, sampling: Sampling) -> None:
    """Raise InputError for an engine that there is not, that lacks what it needs, or that cannot sample so."""
    if name not in get_args(EngineName):
        raise InputError(f"engine '{name}': there is {', '.join(get_args(EngineName))}")
    if name.startswith("ray"):
        ray_cluster.check()
    if base_engine(name) == "vllm":
        vllm_engine.check(sampling)


def open_engine(spec: ModelSpec) -> Engine:
    """What answers, loaded."""
    if spec.opened is not None:
        return spec.opened()
    if spec.client is not None:
        from trice.models.endpoint_engine import EndpointEngine

        return EndpointEngine(spec.client)
    from trice.models.local import load, resolve_dtype

    dtype = resolve_dtype(spec.dtype, spec.device)
    if spec.engine.startswith("ray"):
        from trice.models.ray_engine import RayEngine

        # With the dtype of this machine, whatever the workers would choose: the output is that of one process.
        there = replace(spec, engine=base_engine(spec.engine), dtype=dtype)
        return RayEngine(partial(open_engine, there), spec.workers)
    if spec.engine == "vllm":
        return vllm_engine.VllmEngine(spec.model, spec.adapter, dtype=dtype)
    from trice.models.generation import TransformersEngine

    loaded = load(spec.model, spec.adapter, device=spec.device, dtype=dtype)
    return TransformersEngine(loaded, spec.batch_size)


def content_key(question: Question) -> str:
    """Stands for all that a question says."""
    # These fields change nothing of how a question is asked, and so nothing that is sampled.
    text = question.model_dump_json(exclude={*GRADED, "tool", "turn", "first_turn"})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _answer(
    groups: Sequence[Group],
    keys: Sequence[Sequence[str]],
    spec: ModelSpec,
    origin: str,
    journal: RowStore,
    ahead: BackgroundExecutor | None,
    opened: Callable[[], Engine],
    long_is_empty: bool,
) -> None:
    """Answer what has no response yet, each stored as it comes, under its question's and sample's key, and its call
    run `ahead`."""
    known = {*journal.rows, *journal.failed}
    left: list[tuple[Group, dict[int, tuple[int, ...]]]] = []
    for group in groups:
        wanted: dict[int, tuple[int, ...]] = {}
        for number in group.questions:
            if missing := tuple(sample for sample, key in enumerate(keys[number]) if key not in known):
                wanted[number] = missing
                known.update(keys[number])  # a question that stands there twice is asked once
        left.append((group, wanted))
    total = sum(len(group.questions) for group in groups) * spec.sampling.samples
    waiting = sum(len(samples) for _, wanted in left for samples in wanted.values())
    if not waiting:
        return
    engine, client = opened(), spec.client
    if client is not None:
        client.account.resume(journal.spent)
    if ahead:
        ahead.take(Response.model_validate(row) for row in journal.rows.values())
    with Progress(f"generate {journal.output.name}", total, total - waiting) as progress:
        for group, wanted in left:
            numbers = list(wanted)

            def store(number: int, rows: dict[int, Response]) -> None:
                if client is not None:
                    journal.spent = client.account.so_far
                journal.add({keys[number][sample]: row for sample, row in rows.items()})
                if ahead:
                    ahead.take(rows.values())
                progress.advance(len(rows), client.figures if client is not None else "")

            for failure in answer(engine, group, store, wanted, origin):
                number = numbers[failure.request]
                question = group.questions[number]
                if long_is_empty and failure.reason.startswith(TOO_LONG):
                    empty = Generated("")
                    store(
                        number, {n: _row(question, group.settings, origin, n, empty) for n in wanted[number]}
                    )
                    notice(f"{question.where or question.id}: {failure.reason}; its response is empty")
                    continue
                for sample in wanted[number]:
                    journal.fail(keys[number][sample], failure.reason)
                notice(f"{question.where or question.id}: no response: {failure.reason}")


def _unchanged(
    groups: Sequence[Group], keys: Sequence[Sequence[str]], spec: ModelSpec, origin: str, free: Path
) -> dict[str, Response]:
    """The responses in `free` that are the same under the tool choice of `spec`, by their keys."""
    greedy = Sampling(spec.sampling.max_new_tokens, seed=spec.sampling.seed)
    if spec.client is not None or spec.engine != "transformers" or spec.sampling != greedy:
        return {}
    from trice.models.local import load_tokenizer

    known = {(row.dataset, row.id): row for row in read_rows(free, Response)}
    tokenizer = load_tokenizer(spec.model)
    found = {}
    for group in groups:
        for number, question in group.questions.items():
            row = known.get((question.dataset, question.id))
            if row and group.settings.unchanged_by_tool_choice(tokenizer, row.response, row.tokens):
                found[keys[number][0]] = row.model_copy(update={"origin": origin})
    return found


def _passing(
    groups: Sequence[Group], keys: Sequence[Sequence[str]], journal: RowStore, more: More
) -> list[Group]:
    """The questions whose first response passes, in groups that are sampled again."""

    def passes(number: int) -> bool:
        row = journal.rows.get(keys[number][0])
        return row is not None and more.passes(Response.model_validate(row))

    return [
        Group(
            group.task,
            replace(group.settings, sampling=more.sampling),
            {number: question for number, question in group.questions.items() if passes(number)},
        )
        for group in groups
    ]


def answer(
    engine: Engine,
    group: Group,
    store: Callable[[int, dict[int, Response]], None],
    wanted: Mapping[int, tuple[int, ...]] | None = None,
    origin: str = "",
) -> list[Failure]:
    """Let the engine answer a group's questions, or the samples `wanted` of some, each response given to `store`
    by the question's number and the sample's."""
    samples = tuple(range(group.settings.sampling.samples))
    wanted = wanted if wanted is not None else dict.fromkeys(group.questions, samples)
    numbers = list(wanted)
    prompts = [
        Prompt(content_key(question), question.instruction, question.input, wanted[number])
        for number, question in group.questions.items()
        if number in wanted
    ]

    def done(index: int, found: dict[int, Generated]) -> None:
        question = group.questions[numbers[index]]
        rows = {
            sample: _row(question, group.settings, origin, sample, each) for sample, each in found.items()
        }
        store(numbers[index], rows)

    return engine.generate(prompts, group.settings, done) if prompts else []


def respond(engine: Engine, tasks: Tasks, questions: Sequence[Question], spec: ModelSpec) -> list[Response]:
    """One response to each question, in order, with nothing kept on disk: an empty one where the prompt is too long
    for the model. Raises TriceError for a question without a response."""
    found: dict[int, Response] = {}

    def store(number: int, rows: dict[int, Response]) -> None:
        found[number] = rows[0]

    for group in grouped(tasks, questions, spec):
        numbers = list(group.questions)
        for failure in answer(engine, group, store):
            if failure.reason.startswith(TOO_LONG):
                question = group.questions[numbers[failure.request]]
                notice(f"{question.where or question.id}: no response: {failure.reason}")
                found[numbers[failure.request]] = _row(question, group.settings, "", 0, Generated(""))
                continue
            raise TriceError(f"{spec.model}: no response: {failure.reason}")
    return [found[number] for number in range(len(questions))]


def _row(
    question: Question, settings: GenerationSettings, origin: str, sample: int, generated: Generated
) -> Response:
    response = settings.full_response(generated.text)
    fields = {"response": response, "origin": origin, "sample": sample, "tokens": generated.tokens}
    return Response.model_validate(question.model_dump(exclude=GRADED) | fields)


class Worked(Row):
    """A worked example in a file."""

    input: str
    output: str = Field(min_length=1)


def read_examples(path: Path) -> tuple[Example, ...]:
    """Worked examples from a JSONL file of `input` and `output`."""
    return tuple(Example(row.input, row.output) for row in read_rows(path, Worked))


def load_builtin_examples(task: str, kind: str) -> tuple[Example, ...]:
    """The worked examples that come with a task: `direct` answers, `calls`, or `mixed`. Raises InputError for
    another task or kind."""
    file = resources.files("trice") / "tasks" / f"{task}_examples.json"
    if not file.is_file():
        raise InputError(f"examples '{kind}': task '{task}' has none of its own; give a .jsonl file")
    kinds = json.loads(file.read_text(encoding="utf-8"))
    if kind not in kinds:
        raise InputError(f"examples '{kind}': there is {', '.join(kinds)}, or a .jsonl file")
    return tuple(Example(row["input"], row["output"]) for row in kinds[kind])


def find_examples(task: str, name: str | tuple[Example, ...] | None) -> tuple[Example, ...]:
    """A task's worked examples by name (`direct`, `calls`, `mixed`) or from a file; none for None; given ones as
    they are."""
    if not isinstance(name, str):
        return name or ()
    return (
        read_examples(Path(name))
        if name.endswith((".json", ".jsonl", ".csv", ".gz", ".parquet"))
        else load_builtin_examples(task, name)
    )
