"""Stage 1, behaviour cloning: fine-tuning on each question's gold response, a direct answer or a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trice.journal import read_rows
from trice.prompts import load_template
from trice.records import Labelled
from trice.training.settings import Clone


def clone(
    data: Path,
    output: Path,
    model: str,
    *,
    settings: Clone | None = None,
    template: str = "plain",
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Train a LoRA adapter on `data` (rows of instruction, input, output) and save it in `output`.

    The loss is the mean over the batch's response tokens, end token included; prompts carry none.
    Raises InputError for data, model, template or settings that do not fit, before training starts.
    """
    rows, form = read_rows(data, Labelled)[:limit], load_template(template)

    def examples(tokenizer: Any) -> list[Any]:
        from trice.training.fit import example

        return [example(form, tokenizer, row.instruction, row.input, [row.output], [0.0]) for row in rows]

    from trice.training.fit import fit

    return fit(
        "clone", examples, data, model, None, output, settings or Clone(),
        template=template, seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
