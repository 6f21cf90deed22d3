"""Generate: a local model answers questions, batch by batch, losing nothing to a kill.

`split`, `collect` and every evaluation are this stage with other prompts. Responses are not read or judged
here. Endpoints answer through `trice.models.endpoint`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from pydantic import Field

from trice import calls
from trice.errors import InputError
from trice.journal import Journal, digest, read_rows
from trice.models.adapters import adapter_weights
from trice.progress import Progress
from trice.prompts import Example, Template, load_template
from trice.records import Outcome, Question, Response, Row
from trice.sampling import Sampling
from trice.tasks import Sources, Task, Tasks

if TYPE_CHECKING:
    from trice.models.local import LocalModel

# Left out of a question that becomes a response: a user's row may have fields of these names.
GRADED = set(Response.model_fields) - set(Question.model_fields)
Compel = Literal["call", "answer"]


def load_compel(name: str | None) -> Compel | None:
    """`name` as what to compel. Raises InputError for another word."""
    if name is not None and name not in get_args(Compel):
        raise InputError(f"--compel {name}: there is {', '.join(get_args(Compel))}")
    return cast("Compel | None", name)


@dataclass(frozen=True)
class Asking:
    """How questions are put to a local model. `examples` names worked ones (`find_examples`). `compel` makes every
    response a call, or none."""

    model: str
    adapter: Path | None = None
    template: str = "plain"
    examples: str | None = None
    compel: Compel | None = None
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 64
    device: str = "auto"
    dtype: str = "auto"

    def settings(self) -> dict[str, Any]:
        """Everything the responses depend on but the examples, for the journal."""
        weights = self.adapter and digest(adapter_weights(self.adapter))
        return asdict(self) | {"adapter": weights, "sampling": asdict(self.sampling)}


class Group(NamedTuple):
    """Questions, by their numbers, that are asked in one way: those of one task."""

    task: Task
    examples: tuple[Example, ...]
    opening: str  # of every response, where a call is compelled
    silent: list[str]  # tools that may not be called
    questions: dict[int, Question]


def generate(
    data: Path,
    output: Path,
    task: str,
    asking: Asking,
    *,
    origin: str = "",
    tools: Sources | None = None,
    limit: int | None = None,
) -> list[Response]:
    """Answer the questions of `data` and write them with their responses to `output`, in order.

    Raises InputError where data, task, template, model or adapter do not fit, before the model is loaded.
    """
    tasks, template = Tasks(task, tools), load_template(asking.template)
    questions = [ask(question, tasks.of(question)) for question in read_rows(data, Question)[:limit]]
    groups = grouped(tasks, questions, asking)
    from trice.models.local import check_model, load, resolve_dtype

    check_model(asking.model, asking.adapter)
    dtype = resolve_dtype(asking.dtype, asking.device)
    settings: dict[str, Any] = {"data": digest(data), "task": task, "origin": origin, "limit": limit}
    shown = {group.task.name: [list(example) for example in group.examples] for group in groups}
    settings |= asking.settings() | {"dtype": dtype, "template_sha256": template.sha256, "examples": shown}
    settings |= {"instructions": {group.task.name: group.task.instruction for group in groups}}
    with Journal(output, settings, len(questions) * asking.sampling.samples) as journal:
        if journal.finished:
            return read_rows(output, Response)
        model = load(asking.model, asking.adapter, device=asking.device, dtype=dtype)
        _answer(model, template, groups, asking, origin, journal)
        rows = [Response.model_validate(row) for row in journal.rows.values()]
        order = {(question.dataset, question.id): number for number, question in enumerate(questions)}
        rows.sort(key=lambda row: (order[row.dataset, row.id], row.sample))
        journal.finish(rows)
    return rows


def ask(question: Question, task: Task) -> Question:
    """The question with the task's instruction, unless it has its own."""
    return question if question.instruction else question.model_copy(update={"instruction": task.instruction})


def grouped(tasks: Tasks, questions: Sequence[Question], asking: Asking) -> list[Group]:
    """The questions of each task, in order of the tasks' first. Raises InputError where a task without a tool is
    compelled to call one."""
    groups: dict[str, Group] = {}
    for number, question in enumerate(questions):
        task = tasks.of(question)
        if task.name not in groups:
            examples = find_examples(task.name, asking.examples)
            opening = _opening(tasks, task) if asking.compel == "call" else ""
            silent = tasks.tool_names(task) if asking.compel == "answer" else []
            groups[task.name] = Group(task, examples, opening, silent, {})
        groups[task.name].questions[number] = question
    return list(groups.values())


def _opening(tasks: Tasks, task: Task) -> str:
    """How a call of the task's own tool begins."""
    own = tasks.own_tools(task)
    if not own:
        raise InputError(f"task '{task.name}': has no tool to be compelled to call")
    return f"{own[0].name}("


def finisher(template: Template, task: Task) -> Callable[[str], str | None]:
    """When a response is over: its first whole call has closed, or the template's stop text has come."""
    parsers = {tool.name: tool.parse for tool in task.tools}

    def finish(text: str) -> str | None:
        for stop in template.stop:
            before, found, _ = text.lstrip().partition(stop)
            if found:
                return before
        if text.endswith(")") and calls.read(text, parsers).outcome is Outcome.CALLED:
            return text
        return None

    return finish


def _answer(
    model: LocalModel,
    template: Template,
    groups: Sequence[Group],
    asking: Asking,
    origin: str,
    journal: Journal,
) -> None:
    """Answer all questions, each batch stored as it comes."""
    done = len({(row["dataset"], row["id"]) for row in journal.rows.values()})
    total = sum(len(group.questions) for group in groups)
    with Progress(f"generate {journal.output.name}", total, done) as progress:
        for group in groups:
            for unit, found in answered(model, template, group, asking, origin=origin, done=journal):
                rows = [row for rows in found.values() for row in rows]
                # The last row of a batch goes by the batch's name: where it is there, so are the others.
                journal.add({f"{unit}:{n}": row for n, row in enumerate(rows[:-1])} | {unit: rows[-1]})
                progress.advance(len(found))


def answered(
    model: LocalModel,
    template: Template,
    group: Group,
    asking: Asking,
    *,
    origin: str = "",
    done: Container[str] = (),
) -> Iterator[tuple[str, dict[int, list[Response]]]]:
    """Batch by batch, its name and the responses to each of its questions, by the question's number. Batches whose
    names are in `done` are left out."""
    from trice.models.decoding import generate as decode

    numbers, asked = list(group.questions), list(group.questions.values())
    start = template.encode_response(model.tokenizer, group.opening, end=False) if group.opening else []
    prompts = [
        template.encode(model.tokenizer, question.instruction, question.input, group.examples) + start
        for question in asked
    ]
    finish = finisher(template, group.task)
    batches = decode(
        model,
        prompts,
        asking.sampling,
        lambda text: finish(group.opening + text),
        batch_size=asking.batch_size,
        suppress=_first_tokens(model, group.silent),
        skip=lambda batch: f"{group.task.name}:{batch}" in done,
    )
    for batch, indices, texts in batches:
        pairs = zip(indices, texts, strict=True)
        found = {numbers[i]: list(_rows(asked[i], samples, group.opening, origin)) for i, samples in pairs}
        yield f"{group.task.name}:{batch}", found


def _rows(question: Question, samples: Sequence[str], opening: str, origin: str) -> Iterator[Response]:
    for sample, text in enumerate(samples):
        written = text if text.lstrip().startswith(opening) else opening + text
        fields = {"response": written.strip(), "origin": origin, "sample": sample}
        yield Response.model_validate(question.model_dump(exclude=GRADED) | fields)


def _first_tokens(model: LocalModel, tools: Sequence[str]) -> list[int]:
    """The tokens a call can begin with, however it is cut into tokens, which a model that must not call may
    not choose: those that hold a tool's name and parenthesis, or end in a beginning of the name."""
    if not tools:
        return []
    names = "|".join(map(re.escape, tools))
    beginnings = "|".join(re.escape(name[:end]) for name in tools for end in range(1, len(name) + 1))
    opening = re.compile(rf"(?<![A-Za-z0-9_])(?:(?:{beginnings})$|(?:{names})\()")
    texts = model.tokenizer.batch_decode([[token] for token in range(len(model.tokenizer))])
    return [token for token, text in enumerate(texts) if opening.search(text)]


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


def find_examples(task: str, name: str | None) -> tuple[Example, ...]:
    """A task's worked examples by name (`direct`, `calls`, `mixed`) or from a file; none for None."""
    if name is None:
        return ()
    return (
        read_examples(Path(name)) if name.endswith((".json", ".jsonl")) else load_builtin_examples(task, name)
    )
