"""Stage 1, behavior cloning: fine-tuning on the target of each question, a direct answer or a tool call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trice.datasets.conversations import holds_conversations, read_conversations
from trice.errors import InputError, located_at
from trice.formats.chat import ToolSchema
from trice.formats.prompt import CHAT, Template, check_expressible, load_template
from trice.progress import notice
from trice.stages.chat_responses import chat_format_of, offered_tools, prompt_messages, target_messages
from trice.storage.files import read_rows
from trice.tasks import Tasks, recorded_task, task_asked, tasks_asked
from trice.training.settings import Clone
from trice.training.validation import load_validation
from trice.training_data import LabeledQuestion
from trice.types import Message


def examples(
    data: Path, template: Template, limit: int | None = None, tasks: Tasks | None = None
) -> Callable[[Any], list[Any]]:
    """A function from the tokenizer to the training set. Raises InputError for data that do not fit."""
    if template.format == CHAT:
        conversations = _conversations(data, limit, tasks)

        def render(tokenizer: Any) -> list[Any]:
            from trice.training.tokenization import tokenize_conversation

            chat = chat_format_of(template, tokenizer)
            made = []
            for where, messages, tools, context in conversations:
                with located_at(where):
                    made.append(tokenize_conversation(chat, messages, tools, context))
            return made

        return render
    rows = read_rows(data, LabeledQuestion, repeated=True)[:limit]
    check_expressible(rows, template)
    for row in rows:
        calls = sum(len(message.tool_calls) for message in row.completion or ())
        if calls > 1:
            raise InputError(
                f"{row.where}: field 'completion': has {calls} tool calls, and the format paper has one; use the "
                "format chat"
            )

    def make(tokenizer: Any) -> list[Any]:
        from trice.training.tokenization import tokenize_example

        return [
            tokenize_example(template, tokenizer, row.instruction, row.input, [row.output], [0.0])
            for row in rows
        ]

    return make


def _conversations(
    data: Path, limit: int | None, tasks: Tasks | None
) -> list[tuple[str, list[Message], list[ToolSchema], int]]:
    """The training conversations in a file of labeled questions, or of conversations in a form of TRL or ShareGPT. Each
    has its place in the file, its messages, its tools, and the number of messages at the beginning that carry no loss:
    those of a labeled question's prompt."""
    if holds_conversations(data):
        found = read_conversations(data)
        for reason, count in found.reasons.most_common():
            notice(f"{data}: {count} rows left out: {reason}")
        kept = [row for row in found.rows if row.completion][:limit]
        if not kept:
            raise InputError(f"{data}: no conversation ends with a message of the assistant")
        return [
            (question.where, [*prompt_messages(question), *response], offered_tools(question, ()), 0)
            for question, response in kept
        ]
    rows = read_rows(data, LabeledQuestion, repeated=True)[:limit]
    known = tasks or tasks_asked(rows)
    conversations = []
    for row in rows:
        tools = known.of_row(row.task, row.instruction, row.where).tools
        prompt = prompt_messages(row)
        messages = [*prompt, *target_messages(row, tools)]
        conversations.append((row.where, messages, offered_tools(row, tools), len(prompt)))
    return conversations


def clone(
    data: Path,
    output: Path,
    model: str,
    *,
    settings: Clone | None = None,
    template: Template | None = None,
    validation: Path | None = None,
    tasks: Tasks | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Train a LoRA adapter on `data` (rows of instruction, input, output; in the format `chat` also conversations
    of `messages` and `tools`) and save it in `output`.

    The loss is the mean of −log p over the batch's response tokens, the end token included; prompts carry none.
    With `settings.eval_steps`, the adapter is the checkpoint with the best accuracy on the questions of `tasks` in
    the file `validation`. The adapter records the name of `tasks`, or the shipped task that has the rows'
    instruction, for `chat`, `serve` and the stages. Raises InputError before training if data, model, template or
    settings do not fit.
    """
    settings = settings or Clone()
    template = template or load_template()
    make = examples(data, template, limit, tasks)
    held_out = load_validation(settings, validation, tasks, max_new_tokens)

    task = recorded_task(tasks)
    if task is None and not holds_conversations(data):
        task = task_asked(read_rows(data, LabeledQuestion, repeated=True))
    from trice.training.fine_tune import fit

    return fit(
        "clone", make, data, model, None, output, settings,
        task=task, template=template, seed=seed, limit=limit, device=device, dtype=dtype, validation=held_out,
    )  # fmt: skip
