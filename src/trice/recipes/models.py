"""Which model each step of a recipe asks, and how: as `split` does, as an origin of candidates, or as a variant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trice.formats.prompt import prompt_template
from trice.models.sampling import Sampling
from trice.recipes.conditions import TOOL_CHOICES, Variant
from trice.recipes.paths import RunPaths
from trice.recipes.recipe import Recipe
from trice.recipes.sections import Origin
from trice.stages.model_spec import ModelSpec


def model_spec(recipe: Recipe, **changes: Any) -> ModelSpec:
    """The recipe's base model with greedy decoding, unless changed."""
    fields: dict[str, Any] = {
        "model": recipe.model, "template": prompt_template(recipe.format, recipe.template),
        "batch_size": recipe.generation_batch_size,
        "sampling": Sampling(recipe.max_new_tokens, seed=recipe.seed), "device": recipe.device,
        "dtype": recipe.dtype, "engine": recipe.engine, "workers": recipe.workers,
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def without_tools(recipe: Recipe) -> ModelSpec:
    """The base model with tools withheld. What it answers wrong needs a tool, among the training questions (`split`)
    and among the test questions (`zero-shot`)."""
    return model_spec(recipe, few_shot=recipe.split.few_shot, tool_choice="none")


def split_model(recipe: Recipe) -> ModelSpec:
    """The same with the length limit of `split`."""
    length = recipe.split.max_new_tokens or recipe.max_new_tokens
    return replace(without_tools(recipe), sampling=Sampling(length, seed=recipe.seed))


def origin_model(recipe: Recipe, origin: Origin) -> ModelSpec:
    """The model of an origin, as far as it exists before the run: the base model, one that the origin names, or one
    behind an endpoint."""
    format, template = recipe.format, recipe.template
    if origin.format or origin.template:
        format, template = origin.format or "paper", origin.template
    spec = model_spec(
        recipe, model=origin.model or recipe.model, adapter=origin.adapter,
        template=prompt_template(format, template), few_shot=origin.few_shot, tool_choice=origin.tool_choice,
        sampling=origin.sampling(max_new_tokens=recipe.max_new_tokens, seed=recipe.seed),
    )  # fmt: skip
    if not origin.endpoint:
        return spec
    client = origin.endpoint.open()
    return replace(spec, model=client.model, client=client, engine="transformers", workers=None)


def opened_origin_model(recipe: Recipe, origin: Origin, paths: RunPaths) -> ModelSpec:
    """The same with a checkpoint of stage 1."""
    spec, stage1 = origin_model(recipe, origin), paths.model(Variant("stage-1"))
    if origin.source == "stage-1":
        return replace(spec, adapter=stage1)
    if origin.source == "early":
        checkpoints = sorted(stage1.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        return replace(spec, adapter=checkpoints[0] if checkpoints else stage1)
    return spec


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
