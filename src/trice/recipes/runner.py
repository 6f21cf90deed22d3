"""Running a recipe: check it, do its steps in order, write the report; and how far a run is.

The steps are in `trice.recipes.steps`. Their files are in the run's folder, in the published layout. If a run is
started again, finished steps are skipped and an interrupted one resumes. A setting that finished steps depend on may
not change in a folder; conditions and seeds may be added.
"""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trice import datasets
from trice.errors import InputError
from trice.progress import aligned, duration, notice, waiting
from trice.recipes.inputs import input_files, input_settings
from trice.recipes.models import model_spec, origin_model
from trice.recipes.questions import load_questions
from trice.recipes.recipe import Recipe, dump_recipe
from trice.recipes.steps import Steps
from trice.stages.collect import origin_path
from trice.stages.few_shot import find_examples
from trice.stages.model_spec import check_model_spec
from trice.stages.teachers import load_teacher_prompts
from trice.storage.files import write_text
from trice.storage.locks import lock_folder
from trice.storage.row_state import RowState, read_state
from trice.storage.run_store import RunStore, Step
from trice.tasks import Tasks, check_questions, check_tools
from trice.types import Question

CHEAP = ("mix", "score", "evaluate")  # kinds of steps that run again when their input changes


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
        parts = [Steps(part, retry=retry) for part in recipe.parts()]
        for steps in parts:
            check(steps.recipe, steps.tasks)
    for entry in recipe.data:
        if not any(entry in steps.recipe.data for steps in parts):
            notice(f"{entry.dataset}: is left out, because no model is trained on its task '{entry.task}'")
    folder = recipe.folder
    with lock_folder(folder):
        store = open_store(recipe)
        store.check()
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        for steps in parts:
            if retry:
                planned = list(steps)
                names = to_retry(planned, store.finished_steps(planned))
                store.forget(names)
            for step in steps:
                store.run(step)
            report(steps)
    return folder


def open_store(recipe: Recipe) -> RunStore:
    """The store of a recipe's run."""
    about = {"name": recipe.name, "title": recipe.title, "model": recipe.model, "seed": recipe.seed}
    about |= {"licences": licences(recipe)}
    return RunStore(recipe.folder, input_settings(recipe), about, input_files(recipe))


def licences(recipe: Recipe) -> dict[str, str]:
    """The licences of the recipe's data sets and model, as far as they are known."""
    from trice.models.embedded import MODELS

    names = {entry.dataset for entry in recipe.data}
    found = {entry.name: entry.licence for entry in datasets.catalogue() if entry.name in names}
    embedded = MODELS.get(recipe.model)
    return found | ({embedded.title: embedded.licence} if embedded else {})


def report(steps: Steps) -> None:
    """Write the report of all variants, and a card for each model."""
    from trice.report import card_measures, write_report
    from trice.training.model_card import write_card

    recipe, paths = steps.recipe, steps.paths
    write_report([recipe.folder])
    measures = card_measures(recipe.folder, {entry.dataset for entry in recipe.data})
    for variant in recipe.trained:
        write_card(
            paths.model(variant), paths.training_data(variant), measures.get(variant.name),
            licences=licences(recipe), task=recipe.tasks,
        )  # fmt: skip


def check(recipe: Recipe, tasks: Tasks) -> None:
    """Raise InputError if the recipe names a template, data set, reward, example file or model that does not exist or
    does not fit its tasks."""
    from trice.models.local import pick_device, resolve_dtype
    from trice.rewards import load_reward
    from trice.training.environment import check_machine

    load_reward(recipe.score.reward)
    _check_questions(recipe, tasks)
    if recipe.label.teacher == "endpoint":
        load_teacher_prompts(tasks, recipe.label.prompt)
    if recipe.ranked and not recipe.collect and not recipe.rlef.rounds:
        raise InputError(
            f"{recipe.name}: key 'collect': stage 2 needs candidates; name their origins, set rlef.rounds, or "
            "leave the conditions 'stage-2-alone' and 'both' out of evaluate.conditions"
        )
    for origin in recipe.collect:
        origin_path(recipe.folder, tasks, origin.origin)
    if recipe.label.endpoint:
        recipe.label.endpoint.open()
    pick_device(recipe.device)
    resolve_dtype(recipe.dtype, recipe.device)
    for spec in (model_spec(recipe), *(origin_model(recipe, origin) for origin in recipe.collect)):
        check_model_spec(spec)
    if recipe.clones:
        check_machine(recipe.clone, recipe.device)
    if recipe.ranked:
        check_machine(recipe.rlef, recipe.device)


def _check_questions(recipe: Recipe, tasks: Tasks) -> None:
    """Raise InputError for questions, tools or worked examples that are missing or do not fit."""
    asked: list[Question] = []
    for entry in recipe.data:
        part = load_questions(recipe, entry)
        asked += part.test[:1]
        check_questions(tasks, [*part.train, *part.feedback, *part.test])
        held_out = recipe.validation + recipe.calibrate.questions
        if entry.train != 0 and len(part.train) <= held_out:
            there_are = f"{entry.dataset} has {len(part.train)} training questions"
            keys = f"validation={recipe.validation}"
            keys += (
                f" and calibrate.questions={recipe.calibrate.questions}" if recipe.calibrate.questions else ""
            )
            raise InputError(f"{keys}: {there_are}; hold out fewer")
    for task in dict.fromkeys(tasks.of(question).name for question in asked):
        _check_examples(recipe, task)
    check_tools(tasks, asked)


def _check_examples(recipe: Recipe, task: str) -> None:
    """Raise InputError, naming the recipe's key, if a task has no such worked examples."""
    named = {"split.few_shot": recipe.split.few_shot}
    if "few-shot" in recipe.evaluate.conditions:
        named["evaluate.few_shot"] = recipe.evaluate.few_shot
    named |= {f"collect.{origin.origin}.few_shot": origin.few_shot for origin in recipe.collect}
    for key, examples in named.items():
        try:
            find_examples(task, examples)
        except InputError as error:
            instead = (
                "leave few-shot out of evaluate.conditions" if key.startswith("eval") else f"set {key}=null"
            )
            raise InputError(f"key '{key}': {error}, or {instead}") from None


def status(recipe: Recipe) -> list[str]:
    """How far the run of a recipe is, a line for each step. It is read from the run's files, without a lock and
    without a model, so another process may work on the run."""
    steps = [step for part in recipe.parts() for step in Steps(part)]
    return table(steps, open_store(recipe).finished_steps(steps))


class Line(NamedTuple):
    """A line of the table."""

    step: str
    done: str = ""
    failed: str = ""
    remaining: str = ""
    rate: str = ""
    state: str = ""


def table(steps: Sequence[Step], finished: Mapping[str, float]) -> list[str]:
    """A line for each step: rows done, failed and remaining, their rate, and how long it took or will take.
    `finished` are the seconds that finished steps took, by name."""
    lines = [Line("step", "done", "failed", "remaining", "rate", "")]
    lines += [_line(step, finished.get(step.name)) for step in steps]
    figures = range(1, len(Line._fields) - 1)
    return [*aligned(lines, right=figures), f"{len(finished)} of {len(steps)} steps finished"]


def _line(step: Step, seconds: float | None) -> Line:
    rows = read_state(step.progress) if step.progress else None
    state = _unfinished(step, rows) if seconds is None else f"finished in {duration(seconds)}"
    if rows is None:
        return Line(step.name, state=state)
    rate = (f"{rows.rate:,.0f}/s" if rows.rate >= 100 else f"{rows.rate:.3g}/s") if rows.rate else ""
    done, failed, remaining = map(str, (rows.done_count, rows.failed_count, rows.remaining_count))
    return Line(step.name, done, failed, remaining, rate, state)


def _unfinished(step: Step, rows: RowState | None) -> str:
    """How far an unfinished step is."""
    if rows is None:
        at = _checkpoint(step.progress) if step.progress else None
        return f"step {at[0]} of {at[1]} at the last checkpoint" if at else ""
    if rows.summary:
        return "rows finished"
    left = f"{duration(rows.remaining_count / rows.rate)} left, " if rows.rate and rows.total else ""
    return f"{left}last row {duration(max(0.0, time.time() - rows.updated_at))} ago"


def _checkpoint(folder: Path) -> tuple[int, int] | None:
    """The training steps at the last whole checkpoint, and in total."""
    found = []
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_bytes())
            found.append((int(state["global_step"]), int(state["max_steps"])))
        except (OSError, ValueError, KeyError):  # it is being written or removed at this moment
            continue
    return max(found, default=None)


def to_retry(steps: Sequence[Step], finished: Container[str]) -> set[str]:
    """The finished steps whose failed rows are tried again, by name. Cheap steps after them run again because
    their input changes. A step is left as it is, with a notice, if a costly step has already used its rows."""
    names = set()
    for step in steps:
        rows = read_state(step.progress) if step.progress and step.name in finished else None
        if rows is None or not rows.failed_count:
            continue
        users = [each for each in _costly_users(step, steps) if _has_begun(each)]
        if users:
            count = rows.failed_count
            notice(
                f"{step.name}: {count} failed rows are not tried again: '{users[0].name}' has used the others"
            )
        else:
            names.add(step.name)
    return names


def _costly_users(step: Step, steps: Sequence[Step]) -> list[Step]:
    """The steps that use the files of `step`, directly or through cheap steps, and are too costly to repeat."""
    files, users = set(step.outputs), []
    for each in steps[steps.index(step) + 1 :]:
        if not files.isdisjoint(each.inputs):
            if each.kind in CHEAP or each.progress is None:
                files.update(each.outputs)
            else:
                users.append(each)
    return users


def _has_begun(step: Step) -> bool:
    progress = step.progress
    return progress is not None and (progress.exists() or read_state(progress) is not None)
