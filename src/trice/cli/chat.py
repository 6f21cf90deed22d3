"""Chat in the terminal: the model answers typed questions, and its tool calls are executed and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trice.cli.app import printable
from trice.formats.prompt import Template, load_template
from trice.models.call_threshold import find_threshold
from trice.models.sampling import Sampling
from trice.stages.generate import respond, with_instruction
from trice.stages.grading import execute
from trice.stages.model_spec import ModelSpec
from trice.tasks import MIXED, Sources, Tasks
from trice.tasks.final_answer import final_text
from trice.types import Outcome, Question, Response, ToolCall


def chat(
    model: str,
    adapter: Path | None = None,
    task: str = "math",
    template: Template | None = None,
    *,
    max_new_tokens: int = 64,
    tools: Sources | None = None,
    answer_from_result: bool = False,
    call_threshold: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Answer questions from the terminal until an empty line or the end of input. `call_threshold` is a number or
    `off`; by default it is that of the adapter's calibration.

    Raises InputError if the task, model or adapter does not fit."""
    tasks = Tasks(task, tools, answer_from_result=answer_from_result)
    template = template or load_template()
    threshold = find_threshold(call_threshold, adapter, template)
    spec = ModelSpec(model, adapter, template, sampling=Sampling(max_new_tokens), call_threshold=threshold)
    from trice.models.generation import TransformersEngine
    from trice.models.local import load

    loaded = load(model, adapter, device=device, dtype=dtype)
    engine = TransformersEngine(loaded)

    def answer(questions: Sequence[Question]) -> list[str]:
        return [row.response for row in respond(engine, tasks, questions, spec)]

    print("Type a question. An empty line ends the chat.")
    if threshold:
        print(f"A tool is called if {threshold.signal} exceeds the call threshold, {threshold.value:.4g}.")
    while text := _read():
        # In a mix, any of its tasks can be named, because all questions get the same instruction.
        row = Question(id="chat", input=text, task=MIXED[0] if tasks.mixed else None)
        asked = with_instruction(row, tasks.of(row))
        written = respond(engine, tasks, [asked], spec)
        response = execute(tasks, written, answer)[0].response
        print(show(response, final_text(response, tasks.of(response))))


def show(response: Response, answer: str) -> str:
    """The decision, the calls, their results and the answer, one on each line."""
    lines = [f"response  {response.response}"]
    malformed = response.outcome is Outcome.MALFORMED
    if response.completion is not None and response.calls:
        for message in response.completion:
            lines += [f"call      {call.name} {_arguments(call)}" for call in message.tool_calls]
            lines += [f"result    {message.content}"] if message.role == "tool" else []
    elif response.execution and response.call and not malformed:
        output = response.execution.output
        lines += [
            f"decision  call {response.call.name}",
            f"call      {_arguments(response.call)}",
            f"result    {f'error: {response.execution.error}' if output is None else output}",
            *(f"reading   {turn}" for turn in response.turns or ()),
        ]
    elif not malformed:
        lines.append("decision  answer without a tool")
    lines += [f"decision  a malformed call: {response.reason}"] if malformed else []
    lines.append(f"answer    {answer or 'none'}")
    return "\n".join(f"  {printable(line)}" for line in lines)


def _arguments(call: ToolCall) -> str:
    return ", ".join(str(value) for value in call.arguments.values())


def _read() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
