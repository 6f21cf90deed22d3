"""Which model each step of a recipe asks, and how: as `split` does, as an origin of candidates, or as a variant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trice.recipes.conditions import TOOL_CHOICES, Variant
from trice.recipes.paths import RunPaths
from trice.recipes.recipe import Recipe
from trice.recipes.sections import Origin
from trice.stages.model_spec import ModelSpec


def model_spec(recipe: Recipe, **changes: Any) -> ModelSpec:
    """The recipe's base model with greedy decoding, unless changed."""
    fields: dict[str, Any] = {
        "model": recipe.model, "template": recipe.template, "sampling": recipe.sampling(),
        "batch_size": recipe.generation_batch_size, "device": recipe.device, "dtype": recipe.dtype,
        "engine": recipe.engine, "workers": recipe.workers,
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def without_tools(recipe: Recipe) -> ModelSpec:
    """The base model with tools withheld. What it answers wrong needs a tool, among the training questions (`split`)
    and among the test questions (`zero-shot`)."""
    return model_spec(recipe, few_shot=recipe.split.few_shot, tool_choice="none")


def split_model(recipe: Recipe) -> ModelSpec:
    """The same with the length limit of `split`."""
    spec = without_tools(recipe)
    length = recipe.split.max_new_tokens or recipe.max_new_tokens
    return replace(spec, sampling=replace(spec.sampling, max_new_tokens=length))


def origin_model(recipe: Recipe, origin: Origin, paths: RunPaths) -> ModelSpec:
    """The model of an origin: an endpoint, the base model, a checkpoint of stage 1, or any other model."""
    sampling = recipe.sampling(
        samples=origin.samples, temperature=origin.temperature, top_k=origin.top_k, top_p=origin.top_p,
        repetition_penalty=origin.repetition_penalty, beams=origin.beams,
    )  # fmt: skip
    asked = {"few_shot": origin.few_shot, "tool_choice": origin.tool_choice, "sampling": sampling}
    stage1 = paths.model(Variant("stage-1"))
    if origin.endpoint:
        return model_spec(recipe, model=origin.endpoint.model, client=origin.endpoint.open(), **asked)
    if origin.model:
        template = origin.template or recipe.template
        return model_spec(recipe, model=origin.model, adapter=origin.adapter, template=template, **asked)
    if origin.source == "early":
        checkpoints = sorted(stage1.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        return model_spec(recipe, adapter=checkpoints[0] if checkpoints else stage1, **asked)
    return model_spec(recipe, adapter=stage1 if origin.source == "stage-1" else None, **asked)


def variant_model(recipe: Recipe, variant: Variant, paths: RunPaths) -> ModelSpec:
    """The model of a variant, and how it is asked the test questions."""
    if variant.condition == "zero-shot":
        return without_tools(recipe)
    trained = recipe.evaluate.model_of(variant)
    return model_spec(
        recipe,
        adapter=paths.model(trained) if trained else None,
        few_shot=recipe.evaluate.few_shot if variant.condition == "few-shot" else None,
        tool_choice=TOOL_CHOICES.get(variant.condition, "auto"),
    )
