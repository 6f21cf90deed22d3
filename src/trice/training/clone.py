"""Stage 1, behaviour cloning: fine-tuning on each question's gold response, a direct answer or a call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trice.formats.prompt import load_template
from trice.storage.files import read_rows
from trice.tasks import Sources, task_asked
from trice.training.settings import Clone
from trice.training.validation import load_validation
from trice.types import LabeledQuestion


def examples(data: Path, template: str, limit: int | None = None) -> Callable[[Any], list[Any]]:
    """What makes the training set, given the tokenizer. Raises InputError for data or template that do not fit."""
    rows, form = read_rows(data, LabeledQuestion, repeated=True)[:limit], load_template(template)

    def make(tokenizer: Any) -> list[Any]:
        from trice.training.tokenization import tokenize_example

        return [
            tokenize_example(form, tokenizer, row.instruction, row.input, [row.output], [0.0]) for row in rows
        ]

    return make


def clone(
    data: Path,
    output: Path,
    model: str,
    *,
    settings: Clone | None = None,
    template: str = "plain",
    validation: Path | None = None,
    task: str | None = None,
    tools: Sources | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Train a LoRA adapter on `data` (rows of instruction, input, output) and save it in `output`.

    The loss is the mean over the batch's response tokens, end token included; prompts carry none.
    With `settings.validate_every`, the adapter is the checkpoint that answers the questions of `task` in the file
    `validation` best. The adapter records `task` for `chat`, `serve` and the stages; without one, the shipped task
    whose instruction the rows have. Raises InputError for data, model, template or settings that do not fit, before
    training starts.
    """
    settings = settings or Clone()
    make = examples(data, template, limit)
    held_out = load_validation(settings, validation, task or "math", tools, max_new_tokens)

    task = task or task_asked(row.instruction for row in read_rows(data, LabeledQuestion))
    from trice.training.fine_tune import fit

    return fit(
        "clone", make, data, model, None, output, settings,
        task=task, template=template, seed=seed, limit=limit, device=device, dtype=dtype, validation=held_out,
    )  # fmt: skip
