"""Training: stage 1 and stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.cli.app import train
from trice.cli.settings_command import settings_command

if TYPE_CHECKING:
    from trice.cli.options import Clone, DeviceOptions, Rlef, RlefOptions, TrainOptions
    from trice.tasks import Tasks


@settings_command(train)
def clone(files: TrainOptions, training: Clone, device: DeviceOptions) -> None:
    """Stage 1: fine-tune on the gold response of each question (defaults of the paper)."""
    from trice.training.clone import clone as stage
    from trice.training.clone import examples

    _train(stage, examples, files, None, training, device)


@settings_command(train)
def rlef(files: RlefOptions, training: Rlef, device: DeviceOptions) -> None:
    """Stage 2: train the stage-1 adapter to rank candidates by their rewards (defaults of the paper)."""
    from functools import partial

    from trice.training.rlef import examples
    from trice.training.rlef import rlef as stage

    made = partial(examples, settings=training)
    _train(partial(stage, adapter=files.adapter), made, files, files.adapter, training, device)


def _train(
    stage: Any,
    examples: Any,
    files: TrainOptions,
    adapter: Path | None,
    training: Clone,
    device: DeviceOptions,
) -> None:
    from trice.cli.resolve import refuse
    from trice.models.adapters import AdapterRecord, adapter_record
    from trice.progress import first_process

    if not files.validation:
        refuse("without --validation", files, "tool", "max_new_tokens")
    recorded = adapter_record(adapter) if adapter else AdapterRecord()
    template = recorded.prompt_template(files.format, files.template)
    if files.dry_run:
        _dry_run(examples(files.data, template, files.limit, _tasks(files)), files, adapter, training, device)
        return
    trained = stage(
        files.data, files.output, files.model, settings=training, template=template,
        validation=files.validation, tasks=_tasks(files), max_new_tokens=files.max_new_tokens,
        seed=files.seed, limit=files.limit, device=device.device, dtype=device.dtype,
    )  # fmt: skip
    if first_process():
        print(trained)


def _tasks(files: TrainOptions) -> Tasks | None:
    from trice.tasks import Tasks

    return Tasks(files.task or "math", files.tool) if files.task or files.tool else None


def _dry_run(
    examples: Any, files: TrainOptions, adapter: Path | None, training: Clone, device: DeviceOptions
) -> None:
    from trice.errors import InputError
    from trice.training.dry_run import plan
    from trice.training.validation import load_validation

    load_validation(training, files.validation, _tasks(files), files.max_new_tokens)
    made = plan(
        examples, files.model, adapter, training, seed=files.seed, device=device.device, dtype=device.dtype
    )
    print("\n".join(made.lines()))
    if made.advice:
        raise InputError(made.advice)
