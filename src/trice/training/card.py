"""The model card of an adapter: what it was trained on, from what, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trice.journal import read_text, write_text


def write_card(adapter: Path, data: Path | None = None, measures: Mapping[str, str] | None = None) -> None:
    """Write `README.md` in the adapter's folder. `measures` are lines of name and figure, once evaluated."""
    made = json.loads((adapter / "trice.json").read_text(encoding="utf-8"))
    stage = "behaviour cloning (stage 1)" if made["stage"] == "clone" else "RLEF (stage 2)"
    settings = "\n".join(f"| {name} | `{value}` |" for name, value in made.items())
    measured = "\n".join(f"| {name} | {figure} |" for name, figure in (measures or {}).items())
    chosen = _chosen(adapter / "log.jsonl")
    text = f"""---
library_name: peft
base_model: {made["model"]}
tags: [trice, tool-use, lora]
---

# A selective tool user: {adapter.name}

A LoRA adapter for `{made["model"]}`, trained by trice {made["trice"]} with {stage}. Prompts must have the form
of the template `{made["template"]}`. The base model's licence and terms hold for the adapter too.

## Measures

{"| measure | value |" + chr(10) + "|---|---|" + chr(10) + measured if measured else "Not evaluated yet."}
{chosen and f"{chr(10)}{chosen}{chr(10)}"}
## Training

Data: `{data.name if data else "see below"}` (sha256 below).

| setting | value |
|---|---|
{settings}
"""
    write_text(adapter / "README.md", text)


def _chosen(log: Path) -> str:
    """Which step the adapter is, and what was measured there, where a validation chose it."""
    entries = [json.loads(line) for line in read_text(log).splitlines()] if log.is_file() else []
    validated = [entry for entry in entries if "accuracy" in entry]
    if not validated:
        return ""
    best = max(
        validated, key=lambda entry: entry["accuracy"]
    )  # the earliest of equals, as the trainer takes it
    last = max(entry["step"] for entry in entries)
    shares = (
        f"{name.replace('_', ' ')} {best[name]:.1%} ({best[f'{name}_low']:.1%} to {best[f'{name}_high']:.1%})"
        for name in ("accuracy", "tool_use")
    )
    return (
        f"The best of {last} steps on the held-out questions, step {best['step']}: {', '.join(shares)} there."
    )
