"""The model card of an adapter, from the template `model_card.md.j2`.

The card has no model index, because the hub reads one only for data sets that it hosts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from trice.models.adapters import TRAINING_RECORD
from trice.models.embedded import MODELS
from trice.storage.files import read_text, write_text

CARD = "README.md"
STAGES = {"clone": "behaviour cloning (stage 1)", "rlef": "RLEF (stage 2)"}


def write_card(
    adapter: Path,
    data: Path,
    measures: Mapping[str, str] | None = None,
    *,
    licences: Mapping[str, str] | None = None,
    task: str = "TASK",
) -> None:
    """Write `README.md` into an adapter's folder.

    Args:
        adapter: The folder.
        data: The file that it was trained on.
        measures: Results by name (`asdiv, accuracy`).
        licences: The licences of the model and the data.
        task: The task that it was trained for.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = resources.files("trice.training").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    record = json.loads(read_text(adapter / TRAINING_RECORD))
    base = hub_name(record["model"])
    card = environment.from_string(template).render(
        name=adapter.name,
        record=record,
        stage=STAGES[record["stage"]],
        base=base or record["model"],
        embedded=MODELS.get(record["model"]),
        metadata=yaml.safe_dump(_metadata(base), sort_keys=False),
        task=",".join(Path(part).name for part in task.split(",")),  # a task may be a file
        data=data.name,
        measures=measures,
        best_step=_best_step(adapter / "log.jsonl"),
        licences=licences,
    )
    write_text(adapter / CARD, card)


def hub_name(model: str) -> str | None:
    """The name of a base model on the hub, or None if the model is a folder."""
    if model in MODELS:
        return MODELS[model].hub
    of_the_hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) and not Path(model).is_dir()
    return model if of_the_hub else None


def _metadata(base: str | None) -> dict[str, Any]:
    """The metadata that the hub reads."""
    metadata: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    if base:
        metadata |= {"base_model": base, "base_model_relation": "adapter"}
    licence = next((each.hub_licence for each in MODELS.values() if each.hub == base), None)
    if licence:
        metadata["license"] = licence
    return metadata | {"tags": ["trice", "tool-use", "lora"]}


def _best_step(log: Path) -> str:
    """The step that validation chose, with its results; empty without validation."""
    entries = [json.loads(line) for line in read_text(log).splitlines()] if log.is_file() else []
    validated = [entry for entry in entries if "accuracy" in entry]
    if not validated:
        return ""
    # The earliest of equals, as in the trainer. Logs of older versions have no reward.
    best = max(validated, key=lambda entry: entry.get("reward", entry["accuracy"]))
    last = max(entry["step"] for entry in entries)
    shares = (
        f"{name.replace('_', ' ')} {best[name]:.1%} ({best[f'{name}_low']:.1%} to {best[f'{name}_high']:.1%})"
        for name in ("accuracy", "tool_use")
    )
    start = "" if best["step"] else " (what training started from)"
    return (
        f"Step {best['step']}{start} of {last} was the best on the held-out questions: {', '.join(shares)}."
    )
