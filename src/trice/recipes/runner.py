"""Running a recipe: data, split, label, clone, collect, score, rlef, generate, evaluate, report.

The steps are those of `trice.recipes.plan`. Their files are in the run's folder, in the published layout. If a run
is started again, finished steps are skipped and an interrupted one resumes. A setting that finished steps depend on
may not change in a folder; conditions and seeds may be added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.models.engine import base_engine
from trice.progress import notice, waiting
from trice.recipes.pipeline import Pipeline
from trice.recipes.plan import Plan
from trice.recipes.recipe import Recipe, dump_recipe
from trice.recipes.resolve import licences, load_data, open_endpoint
from trice.recipes.status import table, to_retry
from trice.stages.collect import origin_path
from trice.stages.few_shot import find_examples
from trice.stages.model_spec import check_engine
from trice.stages.teachers import load_teacher_prompts
from trice.storage.files import digest, write_text
from trice.storage.locks import lock_folder
from trice.storage.run_store import RunStore
from trice.tasks import Tasks, check_questions, check_tools
from trice.types import Question


def run(recipe: Recipe, *, retry: bool = False) -> Path:
    """Run a recipe to its report.

    Args:
        recipe: the recipe, from `load_recipe`.
        retry: try failed rows again, also in finished steps if no costly step has used their rows.

    Returns:
        The run's folder.

    Raises:
        InputError: the recipe names something that does not exist, or differs from the one that the folder was
            begun with. This is found before anything expensive.
    """
    with waiting("checking the recipe and its data"):
        check(recipe)
    folder = recipe.folder
    with lock_folder(folder):
        store = open_store(recipe)
        store.check()
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        for part in parts(recipe):
            pipeline = Pipeline(part, folder, per_task=recipe.per_task, retry=retry)
            plan = Plan(pipeline, store)
            if retry:
                store.forget(to_retry(list(plan.steps()), store))
            for step in plan.steps():
                store.run(step)
            pipeline.report()
    return folder


def status(recipe: Recipe) -> list[str]:
    """How far the run of a recipe is, a line for each step, read from its files alone."""
    store, folder = open_store(recipe), recipe.folder
    pipelines = [Pipeline(part, folder, per_task=recipe.per_task) for part in parts(recipe)]
    steps = [step for pipeline in pipelines for step in Plan(pipeline, store).steps()]
    return table(steps, store)


def open_store(recipe: Recipe) -> RunStore:
    """The store of a recipe's run."""
    about = {"name": recipe.name, "title": recipe.title, "model": recipe.model, "seed": recipe.seed}
    return RunStore(recipe.folder, inputs(recipe), about | {"licences": licences(recipe)})


def inputs(recipe: Recipe) -> dict[str, Any]:
    """The settings that steps depend on, by key, and the checksums of the user's question files."""
    how, values = recipe.evaluate, recipe.identity()
    del values["evaluate"]
    files = [file for entry in recipe.data for file in entry.files]
    return values | {
        "engine": base_engine(recipe.engine),
        "files": {str(file): digest(file) for file in files},
        "checkpoints chosen by validation": recipe.validates,
        "evaluate.few_shot": how.few_shot,
        "evaluate.any_passage": how.any_passage,
        "evaluate.first seed": how.seeds[0],
    }


def parts(recipe: Recipe) -> list[Recipe]:
    """The recipe itself; with `per_task`, one for each task that is trained on."""
    if not recipe.per_task:
        return [recipe]
    tasks = dict.fromkeys(str(entry.task) for entry in recipe.data if entry.train != 0)
    for entry in recipe.data:
        if entry.task not in tasks:
            notice(f"{entry.dataset}: is left out, no model is trained on its task '{entry.task}'")
    return [
        recipe.model_copy(
            update={
                "task": task,
                "per_task": False,
                "data": [entry for entry in recipe.data if entry.task == task],
            }
        )
        for task in tasks
    ]


def check(recipe: Recipe) -> None:
    """Raise InputError for a task, template, data set, reward, example file or model that there is not."""
    from trice.formats.prompt import load_template
    from trice.models.local import check_model, pick_device, resolve_dtype
    from trice.rewards import load_reward
    from trice.training.environment import check_machine

    tasks = Tasks(recipe.tasks, recipe.tools)
    load_template(recipe.template)
    load_reward(recipe.score.reward)
    asked: list[Question] = []
    for entry in recipe.data:
        part = load_data(recipe, entry)
        asked += part.test[:1]
        check_questions(tasks, [*part.train, *part.test])
        if entry.train != 0 and len(part.train) <= recipe.validation:
            raise InputError(
                f"validation={recipe.validation}: {entry.dataset} has {len(part.train)} to train on"
            )
    few_shot = recipe.evaluate.few_shot if "few-shot" in recipe.evaluate.conditions else None
    for name in dict.fromkeys(tasks.of(question).name for question in asked):
        _check_examples(name, "split.few_shot", recipe.split.few_shot)
        _check_examples(name, "evaluate.few_shot", few_shot)
        for origin in recipe.collect:
            _check_examples(name, f"collect.{origin.origin}.few_shot", origin.few_shot)
    check_tools(tasks, asked)
    if recipe.ranked and not recipe.collect:
        raise InputError(
            f"{recipe.name}: key 'collect': stage 2 needs candidates; name their origins, or leave the conditions "
            "'stage-2-alone' and 'both' out of evaluate.conditions"
        )
    for origin in recipe.collect:
        origin_path(recipe.folder, recipe.task, origin.origin)
        if origin.endpoint is None:
            check_engine(recipe.engine, recipe.sampling(samples=origin.samples, beams=origin.beams))
    check_engine(recipe.engine, recipe.sampling())
    if recipe.label.teacher == "endpoint":
        load_teacher_prompts(recipe.tasks, recipe.label.prompt)
    for endpoint in (recipe.label.endpoint, *(origin.endpoint for origin in recipe.collect)):
        if endpoint:
            open_endpoint(endpoint)
    resolve_dtype(recipe.dtype, recipe.device)
    pick_device(recipe.device)
    check_model(recipe.model)
    for origin in recipe.collect:
        if origin.model:
            check_model(origin.model, origin.adapter)
            load_template(origin.template or recipe.template)
    if recipe.trains:
        check_machine(recipe.clone, recipe.device)
    if recipe.ranked:
        check_machine(recipe.rlef, recipe.device)


def _check_examples(task: str, key: str, examples: str | None) -> None:
    """Raise InputError, naming the recipe's key, if a task has no such worked examples."""
    try:
        find_examples(task, examples)
    except InputError as error:
        instead = "leave few-shot out of evaluate.conditions" if key.startswith("eval") else f"set {key}=null"
        raise InputError(f"key '{key}': {error}, or {instead}") from None
