"""The whole loop from one recipe: data, split, label, clone, collect, score, rlef, evaluate, report.

The steps are those of `trice.recipes.pipeline`; their files lie in the run's folder, in the published layout. Run again,
finished steps are skipped and the interrupted one goes on where it was. A folder begun with another
recipe is refused, except for what is evaluated: settings and seeds may be added, and what stage 2 is made of may
change until a setting needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.models.engine import base_engine
from trice.progress import notice
from trice.recipes.pipeline import Loop
from trice.recipes.recipe import Recipe, dump_recipe, load_recipe
from trice.recipes.resolve import load_data, open_endpoint
from trice.recipes.status import table
from trice.stages.collect import origin_path
from trice.stages.generate import check_engine, find_examples
from trice.stages.teachers import load_teacher_prompts
from trice.storage.files import differences, digest, read_text, write_text
from trice.storage.locks import alone
from trice.tasks import Tasks, check_questions, check_tools
from trice.types import Question


def run(recipe: Recipe, *, retry: bool = False) -> Path:
    """Run a recipe to its report; returns the run's folder. `retry` does failed rows again, of finished steps too
    where nothing costly has been made of them. Raises InputError before anything expensive."""
    check(recipe)
    folder = recipe.folder
    with alone(folder):
        _claim(folder, recipe)
        for part in parts(recipe):
            Loop(part, folder, apart=recipe.per_task, retry=retry).run()
    return folder


def status(recipe: Recipe) -> list[str]:
    """How far the run of a recipe is, a line for each step, from its files alone: it may be under way elsewhere."""
    loops = [Loop(part, recipe.folder, apart=recipe.per_task) for part in parts(recipe)]
    steps = [step for loop in loops for step in loop.plan()]
    return table(steps, loops[0].steps) if loops else []


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
    few_shot = recipe.evaluate.few_shot if "few-shot" in recipe.evaluate.settings else None
    for name in dict.fromkeys(tasks.of(question).name for question in asked):
        for examples in (recipe.split.few_shot, few_shot, *(origin.few_shot for origin in recipe.collect)):
            find_examples(name, examples)
    check_tools(tasks, asked)
    if recipe.ranked and not recipe.collect:
        raise InputError(f"{recipe.name}: stage 2 needs candidates: give the key 'collect' its origins")
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


def _claim(folder: Path, recipe: Recipe) -> None:
    """Keep the recipe in the run's folder. Raises InputError where it was begun with another one."""
    path = folder / "recipe.yaml"
    if path.is_file():
        begun = load_recipe(str(path))
        ranked = begun.ranked or (folder / "data" / "stage2").exists()
        before, now = (_fixed(each, ranked) for each in (begun, recipe))
        if before != now:
            raise InputError(
                f"{folder}: begun with another recipe ({differences(before, now)}); "
                "use that one again, or another output="
            )
    write_text(path, dump_recipe(recipe))
    _claim_files(folder / "files.json", recipe)


def _claim_files(path: Path, recipe: Recipe) -> None:
    """Keep the checksums of the user's own questions. Raises InputError where a file has changed since."""
    files = [file for entry in recipe.data for file in (entry.train_file, entry.test_file) if file]
    now = {str(file): digest(file) for file in files}
    before = json.loads(read_text(path)) if path.is_file() else now
    for file, checksum in now.items():
        if before.get(file, checksum) != checksum:
            raise InputError(f"{file}: has changed since {path.parent} was begun; take another output=")
    if now:
        write_text(path, json.dumps(now, indent=2) + "\n")


def _fixed(recipe: Recipe, ranked: bool) -> dict[str, Any]:
    """What may not change in a folder; `ranked` where a setting has needed stage 2. The first seed's models go
    by their setting's name alone."""
    value = recipe.identity()
    for key in () if ranked else ("collect", "score", "rlef"):
        del value[key]
    value["engine"] = base_engine(recipe.engine)
    value["held-out questions choose checkpoints"] = recipe.validates
    how = recipe.evaluate
    value["evaluate"] = {
        "few_shot": how.few_shot, "any_passage": how.any_passage, "first seed": how.seeds[0],
    }  # fmt: skip
    return value
