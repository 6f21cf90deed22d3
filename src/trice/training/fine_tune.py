"""Training of an adapter in a folder, for both stages: settings, checkpoints, resuming, and the finished adapter.

A killed training resumes from its last complete checkpoint and ends in the same bytes. A folder in which training
was started with other settings is refused. The training step is in `trice.training.trainer`.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice import __version__
from trice.formats.chat import chat_format
from trice.formats.prompt import CHAT, Template
from trice.models.adapters import CONFIG, TRAINING_RECORD, WEIGHTS, adapter_weights
from trice.models.local import LocalModel, check_model, load_base, pick_device, resolve_dtype
from trice.progress import Progress, first_process, notice
from trice.storage.files import digest, read_object, write_text
from trice.storage.inputs import check_same_inputs
from trice.storage.locks import lock_folder
from trice.training.environment import check_machine, compile_layers, deepspeed, processes, sharded
from trice.training.lora import adapter_lora, with_lora
from trice.training.model_card import write_card
from trice.training.packing import TokenizedExample
from trice.training.settings import Clone
from trice.training.tokenization import drop_long
from trice.training.validation import Validation, clear_calls

if TYPE_CHECKING:
    from trice.training.trainer import TriceConfig


def record_inputs(output: Path, fixed: dict[str, Any], about: dict[str, Any], settings: Clone) -> bool:
    """Record the inputs of a training in `output`, unless the adapter made from them is there: then return True.

    The adapter depends on `fixed` and on the identity of the settings; `about` is recorded only. Raises InputError,
    with the differences, if training was started with other inputs.
    """
    path = output / TRAINING_RECORD
    done = (output / CONFIG).is_file() and any((output / name).is_file() for name in WEIGHTS)
    now = json.loads(json.dumps(fixed | settings.identity()))
    # A training that stopped before its first checkpoint has no results that depend on its settings.
    if path.is_file() and (done or any(output.glob("checkpoint-*"))):
        # An older version may have recorded fewer settings.
        known = type(settings)().identity() | read_object(path)
        before = {key: known.get(key) for key in now}
        check_same_inputs(output, before, now, "another --output")
        if done:
            return True
    if first_process():
        record = about | fixed | settings.model_dump(mode="json")
        write_text(path, json.dumps(record, indent=2) + "\n")
    return False


def resolve_settings(settings: Clone, model: str, adapter: Path | None, device: str) -> Clone:
    """The settings, with the LoRA settings of the adapter if there is one. Raises InputError, before weights are
    loaded, if model, adapter, settings and machine do not fit together."""
    check_model(model, adapter)
    check_machine(settings, device)
    return settings.model_copy(update={"lora": adapter_lora(adapter)}) if adapter else settings


def count_steps(settings: Clone, questions: int) -> tuple[int, int]:
    """Optimiser steps of an epoch and of the whole training."""
    per_epoch = -(-questions // settings.batch_size)
    if settings.max_steps > 0:
        return per_epoch, settings.max_steps
    return per_epoch, math.ceil(per_epoch * settings.num_train_epochs)


def trainer_state(checkpoint: Path) -> Any:
    """The trainer's state in a checkpoint, which is written last."""
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint. Incomplete ones, from a kill during saving, are removed."""
    steps = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(steps):
        try:
            trainer_state(path)
            return path
        except (OSError, ValueError):
            shutil.rmtree(path)
    return None


def training_arguments(
    output: Path, settings: Clone, seed: int, loaded: LocalModel, steps_per_epoch: int
) -> TriceConfig:
    """The trainer's arguments for these settings."""
    import torch

    from trice.training.trainer import TriceConfig

    on_cpu = loaded.device.type == "cpu"
    changed: dict[str, Any] = {
        "save_steps": settings.save_steps or steps_per_epoch,
        "eval_steps": settings.eval_steps or None,
        "report_to": settings.report_to or "none",
        "torch_compile": False,  # `compile_layers` compiles the layers instead of the whole model
    }
    # The other settings have the names of the trainer's arguments.
    known = TriceConfig.__dataclass_fields__
    same = {name: value for name, value in settings if name in known}
    # transformers renamed it within version 5.
    old, new = "gradient_checkpointing", "activation_checkpointing"
    checkpointing = new if new in known else old
    changed |= {checkpointing: same.pop(old), f"{checkpointing}_kwargs": {"use_reentrant": False}}
    return TriceConfig(
        output_dir=str(output),
        save_strategy="steps",
        eval_strategy="steps" if settings.eval_steps else "no",
        metric_for_best_model="reward" if settings.eval_steps else None,
        # The callback counts the validations without a better one.
        restore_callback_states_from_checkpoint=settings.early_stopping_patience > 0,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        use_cpu=on_cpu,
        # Small gradients vanish in float16 unless the loss is scaled, which the trainer does on a GPU only.
        fp16=loaded.model.dtype == torch.float16 and not on_cpu,
        # DeepSpeed does not read the model's dtype.
        bf16=loaded.model.dtype == torch.bfloat16 and deepspeed(),
        **(same | changed),
    )


def fit(
    stage: str,
    examples: Callable[[Any], list[TokenizedExample]],
    data: Path,
    model: str,
    adapter: Path | None,
    output: Path,
    settings: Clone,
    *,
    task: str | None,
    template: Template,
    seed: int,
    limit: int | None,
    device: str,
    dtype: str,
    validation: Validation | None = None,
) -> Path:
    """Train an adapter in the folder `output` and return the folder. `examples` makes the training set from the
    tokenizer, `validation` chooses the checkpoint, and `task` is recorded in the adapter."""
    settings = resolve_settings(settings, model, adapter, device)
    dtype = resolve_dtype(dtype, device)
    fixed = {
        "stage": stage,
        "model": model,
        "adapter": adapter and digest(adapter_weights(adapter)),
        "data": digest(data),
        **template.record,
        "template_sha256": template.sha256,
        "seed": seed,
        "dtype": dtype,
        "limit": limit,
        "validation": validation and validation.identity(),
    }
    about = {"trice": __version__, "task": task}
    state = processes(device)
    with lock_folder(output) if state.is_main_process else nullcontext():
        with state.main_process_first():
            if record_inputs(output, fixed, about, settings):
                notice(f"{output}: already trained with these settings")
                return output
            checkpoint = last_checkpoint(output)
        # Sharded weights go to the device in pieces, because whole they may not fit on it.
        loaded = load_base(
            model, adapter, device="cpu" if sharded() else device, dtype=dtype, quantize=settings.quantize
        )
        loaded = replace(loaded, device=pick_device(device))
        validate = partial(validation.counts, loaded, template, output) if validation else None
        final = _run(examples, loaded, adapter, output, settings, seed, validate, checkpoint)
        if state.is_main_process:
            clear_calls(output)
            write_card(output, data)
            if template.format == CHAT:  # for programs that read the template from the adapter's folder
                chat_format(loaded.tokenizer).tokenizer.save_pretrained(output)
            _copy_adapter(final, output)  # last: the adapter's configuration marks the folder as finished
        state.wait_for_everyone()
    return output


def _run(
    examples: Callable[[Any], list[TokenizedExample]],
    loaded: LocalModel,
    adapter: Path | None,
    output: Path,
    settings: Clone,
    seed: int,
    validate: Callable[[int, int], list[float]] | None,
    checkpoint: Path | None,
) -> Path:
    """Train, and return the folder with the best adapter: a checkpoint's, or the one that training starts from; without
    validation that of the last checkpoint."""
    from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback

    from trice.training.trainer import TrainingLog, TriceTrainer, write_log

    rows = drop_long(examples(loaded.tokenizer), min(settings.max_length, loaded.context))
    steps_per_epoch, total = count_steps(settings, len(rows))
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    state = trainer_state(checkpoint) if checkpoint else {}
    # Killed after the last step: `Trainer` would do one more.
    if checkpoint and (done >= total or _stopped_early(state)):
        if first_process():
            write_log(output / "log.jsonl", state["log_history"])
        return _best(output, adapter, state["best_global_step"]) or checkpoint
    model = with_lora(loaded, adapter, settings.lora, seed)
    args = training_arguments(output, settings, seed, loaded, steps_per_epoch)
    args.eval_on_start = bool(validate and adapter and not checkpoint)
    trainer = TriceTrainer(model, args, rows, validate=validate)
    if settings.torch_compile:
        compile_layers(model)
    trainer.remove_callback(PrinterCallback)
    if settings.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping_patience))
    random.seed(seed)
    with Progress("training steps", total, done) as progress:
        trainer.add_callback(TrainingLog(output / "log.jsonl", progress))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best = _best(output, adapter, trainer.state.best_global_step)
    return best or output / f"checkpoint-{trainer.state.global_step}"


def _stopped_early(state: Any) -> bool:
    """Whether early stopping ended the training at this checkpoint."""
    return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def _best(output: Path, start: Path | None, step: int | None) -> Path | None:
    """The folder of the adapter with the best validation, the earliest of equals, or None without validation. Step 0 is
    the adapter that training started from."""
    if step is None:
        return None
    if step == 0:
        notice(
            f"{output}: training made nothing better on the held-out questions, so the adapter is that of {start}"
        )
        return start
    notice(f"{output}: the adapter is that of step {step}, the best on the held-out questions")
    return output / f"checkpoint-{step}"


def _copy_adapter(trained: Path, output: Path) -> None:
    """Copy an adapter to the folder. Each file appears whole, the configuration last."""
    for path in (adapter_weights(trained), trained / CONFIG):
        scratch = output / ".saving"  # a fixed name, so a file that a kill leaves is overwritten
        shutil.copyfile(path, scratch)
        os.replace(scratch, output / path.name)
