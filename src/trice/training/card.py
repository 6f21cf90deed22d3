"""The model card of an adapter: what it was trained on, from what, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trice.journal import write_text


def write_card(adapter: Path, data: Path | None = None, measures: Mapping[str, str] | None = None) -> None:
    """Write `README.md` in the adapter's folder. `measures` are lines of name and figure, once evaluated."""
    made = json.loads((adapter / "trice.json").read_text(encoding="utf-8"))
    stage = "behaviour cloning (stage 1)" if made["stage"] == "clone" else "RLEF (stage 2)"
    settings = "\n".join(f"| {name} | `{value}` |" for name, value in made.items())
    measured = "\n".join(f"| {name} | {figure} |" for name, figure in (measures or {}).items())
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

## Training

Data: `{data.name if data else "see below"}` (sha256 below).

| setting | value |
|---|---|
{settings}
"""
    write_text(adapter / "README.md", text)
