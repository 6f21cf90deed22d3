"""Training: stage 1 and stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trice.cli import options as o
from trice.cli.app import train
from trice.errors import InputError
from trice.progress import first_process


def _tell(trained: Path) -> None:
    """The finished adapter, once where several processes trained it."""
    if first_process():
        print(trained)


@train.command()
def clone(
    model: o.Model,
    data: o.Data,
    output: o.Output,
    template: o.Template = "plain",
    validation: o.Validation = None,
    task: o.TaskTaught = None,
    tool: o.Tools = None,
    max_new_tokens: o.MaxNewTokens = 64,
    set_: o.Set = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    dry_run: o.DryRun = False,
) -> None:
    """Stage 1: fine-tune on each question's gold response (defaults are the paper's)."""
    from trice.training.clone import clone as stage
    from trice.training.clone import examples
    from trice.training.settings import Clone, read_settings

    settings = read_settings(Clone, set_ or [])
    if dry_run:
        validated = (settings, validation, task or "math", o.sources(tool), max_new_tokens)
        _dry_run(examples(data, template, limit), model, None, settings, validated, seed, device, dtype)
        return
    trained = stage(
        data, output, model, settings=settings, template=template,
        validation=validation, task=task, tools=o.sources(tool), max_new_tokens=max_new_tokens,
        seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
    _tell(trained)


@train.command()
def rlef(
    model: o.Model,
    data: o.Data,
    output: o.Output,
    adapter: o.Adapter = None,
    alpha: Annotated[float, typer.Option(min=0, help="Weight of the ranking loss.")] = 1.0,
    template: o.Template = "plain",
    validation: o.Validation = None,
    task: o.TaskTaught = None,
    tool: o.Tools = None,
    max_new_tokens: o.MaxNewTokens = 64,
    set_: o.Set = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    dry_run: o.DryRun = False,
) -> None:
    """Stage 2: rank candidates in the order of their rewards, from the stage-1 adapter."""
    from trice.training.rlef import examples
    from trice.training.rlef import rlef as stage
    from trice.training.settings import Rlef, read_settings

    settings = read_settings(Rlef, [f"alpha={alpha}", *(set_ or [])])
    if dry_run:
        validated = (settings, validation, task or "math", o.sources(tool), max_new_tokens)
        _dry_run(examples(data, template, limit), model, adapter, settings, validated, seed, device, dtype)
        return
    trained = stage(
        data, output, model, adapter, settings=settings, template=template,
        validation=validation, task=task, tools=o.sources(tool), max_new_tokens=max_new_tokens,
        seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
    _tell(trained)


def _dry_run(
    examples: Any, model: str, adapter: Path | None, settings: Any, validated: tuple[Any, ...],
    seed: int, device: str, dtype: str,
) -> None:  # fmt: skip
    from trice.training.dry_run import plan
    from trice.training.validation import load_validation

    load_validation(*validated)
    made = plan(examples, model, adapter, settings, seed=seed, device=device, dtype=dtype)
    print("\n".join(made.lines()))
    if made.advice:
        raise InputError(made.advice)
