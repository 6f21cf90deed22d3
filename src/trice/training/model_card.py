"""The model card of an adapter: its use, measures, terms and training settings.

It has no model index, because the hub reads one only for data sets that it hosts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trice.models import gemma
from trice.models.adapters import MADE
from trice.storage.files import read_text, write_text

CARD = "README.md"
STAGES = {"clone": "behaviour cloning (stage 1)", "rlef": "RLEF (stage 2)"}
LEAD = """# A selective tool user: {name}

A LoRA adapter for `{model}`, trained by trice {trice} with {stage}, to answer directly what it knows and to
call a tool otherwise. Prompts must have the form of the template `{template}`.
"""
USE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "{name}")  # this folder, or the repository
```

There the model writes its tool calls as text. trice also executes them and gives the final answer. It needs a
folder, so download the repository first (`hf download REPOSITORY --local-dir {name}`):

```bash
trice chat --model {model} --adapter {name} --task {task}
```"""


def write_card(
    adapter: Path,
    data: Path | None = None,
    measures: Mapping[str, str] | None = None,
    *,
    licences: Mapping[str, str] | None = None,
    task: str = "TASK",
) -> None:
    """Write `README.md` into the adapter's folder. `measures` are results by name (`asdiv, accuracy`), `licences`
    those of model and data, `task` the task that it was trained for."""
    made = json.loads((adapter / MADE).read_text(encoding="utf-8"))
    model = made["model"]
    shown = ",".join(Path(part).name for part in task.split(","))  # a task may be a file
    use = USE.format(base=hub_name(model) or model, name=adapter.name, model=model, task=shown)
    measured = [_measured(measures or {}), _best_step(adapter / "log.jsonl")]
    sections = {
        "How to use it": use,
        "Measures": "\n\n".join(filter(None, measured)),
        "Terms": _terms(model, licences or {}),
        "Training": f"Data: `{data.name if data else 'see below'}` (sha256 below).\n\n{_table(made)}",
    }
    parts = [f"## {title}\n\n{text}\n" for title, text in sections.items()]
    head = f"---\n{_metadata(model)}---\n"
    write_text(adapter / CARD, "\n".join([head, _lead(adapter.name, made), *parts]))


def hub_name(model: str) -> str | None:
    """The name of a base model on the hub, or None if the model is a folder."""
    if model == gemma.NAME:
        return gemma.HUB
    of_the_hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) and not Path(model).is_dir()
    return model if of_the_hub else None


def _metadata(model: str) -> str:
    """The metadata that the hub reads, as YAML."""
    base = hub_name(model)
    metadata: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    if base:
        metadata |= {"base_model": base, "base_model_relation": "adapter"}
    if base == gemma.HUB:
        metadata["license"] = "gemma"
    return yaml.safe_dump(metadata | {"tags": ["trice", "tool-use", "lora"]}, sort_keys=False)


def _lead(name: str, made: Mapping[str, Any]) -> str:
    known = {key: made[key] for key in ("model", "trice", "template")}
    lead = LEAD.format(name=name, stage=STAGES[made["stage"]], **known)
    if made["model"] == gemma.NAME:
        lead += f"`{gemma.NAME}` is `{gemma.HUB}`, its weights rounded to 4 bits (Q4_K_M) and read back.\n"
    return lead


def _measured(measures: Mapping[str, str]) -> str:
    """Results with their intervals, as a table."""
    if not measures:
        return "Not evaluated yet."
    lines = "\n".join(f"| {name} | {figure} |" for name, figure in measures.items())
    return f"On test questions, with 95% intervals:\n\n| measure | value |\n|---|---|\n{lines}"


def _terms(model: str, licences: Mapping[str, str]) -> str:
    terms = f"The licence and terms of the base model `{model}` apply to the adapter too"
    named = "\n".join(f"- {name}: {licence}" for name, licence in licences.items())
    return f"{terms}. Those of model and data:\n\n{named}" if named else f"{terms}, and those of the data."


def _table(made: Mapping[str, Any]) -> str:
    settings = "\n".join(f"| {name} | `{value}` |" for name, value in made.items())
    return f"| setting | value |\n|---|---|\n{settings}"


def _best_step(log: Path) -> str:
    """The step that validation chose, with its results; empty without validation."""
    entries = [json.loads(line) for line in read_text(log).splitlines()] if log.is_file() else []
    validated = [entry for entry in entries if "accuracy" in entry]
    if not validated:
        return ""
    best = max(validated, key=lambda entry: entry["accuracy"])  # the earliest of equals, as in the trainer
    last = max(entry["step"] for entry in entries)
    shares = (
        f"{name.replace('_', ' ')} {best[name]:.1%} ({best[f'{name}_low']:.1%} to {best[f'{name}_high']:.1%})"
        for name in ("accuracy", "tool_use")
    )
    return f"Step {best['step']} of {last} was the best on the held-out questions: {', '.join(shares)}."
