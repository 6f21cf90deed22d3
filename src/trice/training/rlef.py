"""Stage 2, reinforcement learning with execution feedback: ranking candidates in the order of their rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trice.datasets.published import read_candidates
from trice.formats.prompt import load_template
from trice.tasks import Sources, task_asked
from trice.training.settings import Rlef
from trice.training.validation import load_validation


def examples(data: Path, template: str, limit: int | None = None) -> Callable[[Any], list[Any]]:
    """What makes the training set, given the tokenizer. Raises InputError for data or template that do not fit."""
    rows, form = read_candidates(data)[:limit], load_template(template)

    def make(tokenizer: Any) -> list[Any]:
        from trice.training.tokenization import tokenize_example

        return [
            tokenize_example(
                form,
                tokenizer,
                row.instruction,
                row.input,
                [each.response for each in row.candidates],
                [each.reward for each in row.candidates],
                [each.tokens for each in row.candidates],
            )
            for row in rows
        ]

    return make


def rlef(
    data: Path,
    output: Path,
    model: str,
    adapter: Path | None = None,
    *,
    settings: Rlef | None = None,
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
    """Go on from the stage-1 `adapter` (or from the base model) on `data`, rows of ranked candidates.

    The objective is α·L_rank + L_sft as `trice.training.trainer` states it. With `settings.validate_every`, the
    adapter is the checkpoint that answers the questions of `task` in the file `validation` best. The adapter
    records its task as that of `clone` does. Raises InputError for data, model, adapter, template or settings that
    do not fit, before training starts.
    """
    settings = settings or Rlef()
    make = examples(data, template, limit)
    held_out = load_validation(settings, validation, task or "math", tools, max_new_tokens)

    task = task or task_asked(row.instruction for row in read_candidates(data))
    from trice.training.fine_tune import fit

    return fit(
        "rlef", make, data, model, adapter, output, settings,
        task=task, template=template, seed=seed, limit=limit, device=device, dtype=dtype, validation=held_out,
    )  # fmt: skip
