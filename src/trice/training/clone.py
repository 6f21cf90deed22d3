"""Stage 1, behavior cloning: fine-tuning on the target of each question, a direct answer or a tool call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trice.formats.chat import ChatFormat
from trice.formats.prompt import TOOLS, load_template
from trice.stages.chat_responses import chat_format_of, prompt_messages, schemas, target_messages
from trice.storage.files import read_rows
from trice.tasks import Tasks, recorded_task, task_asked
from trice.training.settings import Clone
from trice.training.validation import load_validation
from trice.types import LabeledQuestion


def examples(
    data: Path, template: str, limit: int | None = None, tasks: Tasks | None = None
) -> Callable[[Any], list[Any]]:
    """A function from the tokenizer to the training set. Raises InputError for data or a template that do not
    fit."""
    rows, form = read_rows(data, LabeledQuestion, repeated=True)[:limit], load_template(template)

    def make(tokenizer: Any) -> list[Any]:
        from trice.training.tokenization import tokenize_example

        if form.name == TOOLS:
            chat, known = chat_format_of(form, tokenizer), tasks or Tasks("math")
            return [_conversation(chat, known, row) for row in rows]
        return [
            tokenize_example(form, tokenizer, row.instruction, row.input, [row.output], [0.0]) for row in rows
        ]

    return make


def _conversation(chat: ChatFormat, tasks: Tasks, row: LabeledQuestion) -> Any:
    """A labeled question as a tokenized conversation in the template `tools`."""
    from trice.training.tokenization import tokenize_conversation

    tools = tasks.of_row(row.task, row.instruction, row.where).tools
    messages = [*prompt_messages(row.instruction, row.input), *target_messages(row, tools)]
    return tokenize_conversation(chat, messages, schemas(tools))


def clone(
    data: Path,
    output: Path,
    model: str,
    *,
    settings: Clone | None = None,
    template: str = "plain",
    validation: Path | None = None,
    tasks: Tasks | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Train a LoRA adapter on `data` (rows of instruction, input, output) and save it in `output`.

    The loss is the mean of −log p over the batch's response tokens, the end token included; prompts carry none.
    With `settings.eval_steps`, the adapter is the checkpoint with the best accuracy on the questions of `tasks` in
    the file `validation`. The adapter records the name of `tasks`, or the shipped task that has the rows'
    instruction, for `chat`, `serve` and the stages. Raises InputError before training if data, model, template or
    settings do not fit.
    """
    settings = settings or Clone()
    make = examples(data, template, limit, tasks)
    held_out = load_validation(settings, validation, tasks, max_new_tokens)

    task = recorded_task(tasks) or task_asked(row.instruction for row in read_rows(data, LabeledQuestion))
    from trice.training.fine_tune import fit

    return fit(
        "clone", make, data, model, None, output, settings,
        task=task, template=template, seed=seed, limit=limit, device=device, dtype=dtype, validation=held_out,
    )  # fmt: skip
