"""Questions as conversations, and rollouts as responses: the format `chat` for all stages.

Everything else treats such a response like one whose calls are text: it has an outcome, a call with its execution,
and a prediction, and in addition the messages and the loss mask of its tokens. It is executed when it is generated,
and never parsed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trice.errors import InputError, located_at
from trice.formats.chat import ChatFormat, ToolSchema, chat_format, result_message
from trice.formats.paper import parse, visible
from trice.formats.prompt import Example, Template
from trice.messages import Execution, Message, tool_names
from trice.models.engine import Engine, Failure, GenerationSettings, too_long
from trice.tasks import TaskLike
from trice.tasks.final_answer import unread_result
from trice.tools import Tool
from trice.tools.call_text import function_schema
from trice.training_data import Candidates, LabeledQuestion
from trice.types import GRADED, Question, Response

if TYPE_CHECKING:
    from trice.models.endpoint_engine import EndpointEngine
    from trice.stages.rollouts import Rollout


class Unfinished(NamedTuple):
    """Reads and stores the paid part of a response that is not finished, by the numbers of question and sample."""

    get: Callable[[int, int], Any]
    keep: Callable[[int, int, object], None]


NOTHING_KEPT = Unfinished(lambda number, sample: None, lambda number, sample, value: None)


def prompt_messages(
    row: Question | LabeledQuestion | Candidates, examples: Sequence[Example] = (), tools: Sequence[Tool] = ()
) -> list[Message]:
    """The conversation that asks a question: its own messages, or the instruction as system message and the input.
    Few-shot examples follow the system message, with calls of the tools as native calls."""
    shown = [
        message
        for example in examples
        for message in (Message(role="user", content=example.input), written_message(example.output, tools))
    ]
    if row.messages is not None:
        first = next(i for i, each in enumerate(row.messages) if each.role not in ("system", "developer"))
        return [*row.messages[:first], *shown, *row.messages[first:]]
    if not row.instruction or not row.input:
        return [*shown, Message(role="user", content=row.instruction or row.input)]
    asked = Message(role="user", content=row.input)
    return [Message(role="system", content=row.instruction), *shown, asked]


def offered_tools(row: Question | LabeledQuestion | Candidates, tools: Sequence[Tool]) -> list[ToolSchema]:
    """The tools in the prompt of a question, as a chat template expects them: its own, else those of its task."""
    return [function_schema(tool) for tool in tools] if row.tools is None else row.tools


def written_message(text: str, tools: Sequence[Tool]) -> Message:
    """A response of the `paper` format as an assistant message: its call, or its text."""
    call = parse(text, {tool.name: tool.parse for tool in tools}).call
    return Message(role="assistant", tool_calls=[call]) if call else Message(role="assistant", content=text)


def target_messages(row: LabeledQuestion, tools: Sequence[Tool]) -> list[Message]:
    """The target of stage 1 as messages: the model's own conversation, an answer, or the label's call with its result
    and the gold answer. Raises InputError for a call whose result is not known."""
    if row.completion is not None:
        return row.completion
    first = written_message(row.output, tools)
    if not first.tool_calls:
        return [first]
    if row.result is None:
        raise InputError(
            f"{row.where or row.id}: field 'result': is missing; format 'chat' needs the result of the call, which "
            "`trice label` records"
        )
    answer = row.answer if isinstance(row.answer, str) else next(iter(row.answer or ()), "")
    result = result_message(first.tool_calls[0], Execution(output=row.result))
    return [first, result, *([Message(role="assistant", content=answer)] if answer else [])]


def roll_out(
    engine: Engine,
    task: TaskLike,
    settings: GenerationSettings,
    questions: Mapping[int, tuple[Question, str, tuple[int, ...]]],
    origin: str,
    store: Callable[[int, dict[int, Response]], None],
    unfinished: Unfinished,
    output: Path | None = None,
) -> list[Failure]:
    """Answer questions, each given by its number with its key and the samples that are wanted.

    Calls are stored next to `output`, the file that is being made. With tool choice `none` the prompt offers no
    tools; with `required` every response begins with a call. Returns the questions that failed, such as those whose
    prompts do not fit into the context, by their place."""
    from trice.models.endpoint_engine import EndpointEngine

    if isinstance(engine, EndpointEngine):
        return _roll_out_at_endpoint(engine, task, settings, questions, origin, store, unfinished, output)
    from trice.models.ray_engine import RayEngine

    if isinstance(engine, RayEngine):
        numbers = list(questions)

        def deliver(place: int, found: dict[int, Response]) -> None:
            store(numbers[place], found)

        return engine.answer(
            partial(_roll_out_piece, task, settings, origin), list(questions.values()), deliver
        )
    from trice.models.generation import TransformersEngine
    from trice.stages.rollouts import Conversation, rollouts

    assert isinstance(engine, TransformersEngine)  # checked by `check_model_spec`
    loaded = engine.loaded
    chat = loaded.chat_format(**settings.template.chat_template_kwargs)
    opening = chat.call_opening() if settings.tool_choice == "required" else []
    failures, fitting = [], []
    for place, (number, (question, key, samples)) in enumerate(questions.items()):
        offered, tools = _tools(question, task, settings)
        with located_at(question.where or question.id):
            prompt = chat.prompt(prompt_messages(question, settings.examples, task.tools), offered)
        length = len(prompt) + len(opening)
        if length >= loaded.context:
            failures.append(too_long(place, length, loaded.context - 1))
            continue
        fitting.append((number, Conversation(prompt, tools, key, samples, offered)))
    conversations = [each for _, each in fitting]
    sampling = replace(settings.sampling, samples=1)
    for place, sample, rollout in rollouts(
        loaded, chat, conversations, sampling, opening=opening, batch_size=engine.batch_size, output=output
    ):
        number = fitting[place][0]
        store(number, {sample: to_response(questions[number][0], task, rollout, chat, origin, sample)})
    return failures


def _tools(
    question: Question, task: TaskLike, settings: GenerationSettings
) -> tuple[list[ToolSchema], list[Tool]]:
    """The tools that a question is offered, and those of them that are executed."""
    offered = [] if settings.tool_choice == "none" else offered_tools(question, task.tools)
    names = tool_names(offered)
    return offered, [tool.for_question(question) for tool in task.tools if tool.name in names]


def _roll_out_piece(
    task: TaskLike,
    settings: GenerationSettings,
    origin: str,
    engine: Engine,
    questions: Sequence[tuple[Question, str, tuple[int, ...]]],
    deliver: Callable[[int, dict[int, Response]], None],
) -> list[Failure]:
    """Answer questions on a worker of a cluster."""
    return roll_out(engine, task, settings, dict(enumerate(questions)), origin, deliver, NOTHING_KEPT)


def _roll_out_at_endpoint(
    engine: EndpointEngine,
    task: TaskLike,
    settings: GenerationSettings,
    questions: Mapping[int, tuple[Question, str, tuple[int, ...]]],
    origin: str,
    store: Callable[[int, dict[int, Response]], None],
    unfinished: Unfinished,
    output: Path | None,
) -> list[Failure]:
    from trice.stages.endpoint_rollouts import Conversation, endpoint_rollouts

    conversations, numbers = [], list(questions)
    for number, (question, _, samples) in questions.items():
        offered, tools = _tools(question, task, settings)
        messages = prompt_messages(question, settings.examples, task.tools)
        begun = {sample: unfinished.get(number, sample) for sample in samples}
        kept = {sample: value for sample, value in begun.items() if value is not None}
        conversations.append(Conversation(messages, tools, samples, kept, offered))

    def receive(place: int, sample: int, rollout: Rollout) -> None:
        question = questions[numbers[place]][0]
        store(numbers[place], {sample: to_response(question, task, rollout, None, origin, sample)})

    def keep(place: int, sample: int, rollout: object) -> None:
        unfinished.keep(numbers[place], sample, rollout)

    return endpoint_rollouts(engine, conversations, settings, receive, keep, output=output)


def unchanged_by_tool_choice(settings: GenerationSettings, tokenizer: Any) -> Callable[[Response], bool]:
    """Whether a greedy response with tool choice `auto` is the same with that of `settings`: with `required` if it
    begins with a call anyway. With `none`, the prompt is another one."""
    if settings.tool_choice != "required":
        return lambda row: settings.tool_choice == "auto"
    opening = chat_format_of(settings.template, tokenizer).call_opening()
    return lambda row: row.tokens is not None and row.tokens[: len(opening)] == opening


def to_response(
    question: Question,
    task: TaskLike,
    rollout: Rollout,
    chat: ChatFormat | None,
    origin: str = "",
    sample: int = 0,
) -> Response:
    """A rollout as an executed response. If the model said nothing over the result of its last call, the result is the
    prediction. `chat` is None for a rollout without token ids."""
    written = [token for token, own in zip(rollout.ids, rollout.loss, strict=True) if own]
    calls = rollout.calls
    prediction = task.predict(visible(rollout.answer)) if rollout.answer else None
    if prediction is None and unread_result(rollout.messages) is not None:
        prediction = rollout.executions[-1].output
    fields: dict[str, Any] = {
        "response": chat.text(written) if chat else response_text(rollout.messages),
        "origin": origin,
        "sample": sample,
        "tokens": rollout.ids if chat else None,
        "loss": rollout.loss if chat else None,
        "completion": rollout.messages,
        "truncated": not rollout.complete or None,
        "outcome": rollout.outcome,
        "reason": rollout.reason,
        "call": calls[0] if calls else None,
        "execution": rollout.executions[0] if rollout.executions else None,
        "prediction": prediction,
    }
    return Response.model_validate(question.model_dump(exclude=GRADED) | fields)


def response_text(messages: Sequence[Message]) -> str:
    """What the model wrote in a rollout as one text, with calls in the tags of the Hermes models."""
    texts = []
    for message in messages:
        if message.role == "assistant":
            calls = [json.dumps(call.model_dump(), ensure_ascii=False) for call in message.tool_calls]
            texts += [message.content.strip(), *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
    return "\n".join(filter(None, texts))


def chat_format_of(template: Template, tokenizer: Any) -> ChatFormat:
    """The chat format of a tokenizer with the template's arguments."""
    return chat_format(tokenizer, **template.chat_template_kwargs)
