"""Stage 2, reinforcement learning with execution feedback: ranking candidates in the order of their rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trice.journal import read_rows
from trice.prompts import load_template
from trice.records import Ranked
from trice.training.settings import Rlef


def rlef(
    data: Path,
    output: Path,
    model: str,
    adapter: Path | None = None,
    *,
    settings: Rlef | None = None,
    template: str = "plain",
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Go on from the stage-1 `adapter` (or from the base model) on `data`, rows of ranked candidates.

    The objective is α·L_rank + L_sft as `trice.training.trainer` states it. Raises InputError for data, model,
    adapter, template or settings that do not fit, before training starts.
    """
    rows, form = read_rows(data, Ranked)[:limit], load_template(template)

    def examples(tokenizer: Any) -> list[Any]:
        from trice.training.fit import example

        return [
            example(form, tokenizer, row.instruction, row.input, row.responses, row.scores) for row in rows
        ]

    from trice.training.fit import fit

    return fit(
        "rlef", examples, data, model, adapter, output, settings or Rlef(),
        template=template, seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
