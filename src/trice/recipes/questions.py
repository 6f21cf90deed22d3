"""The questions of a recipe: loading a data set, and writing the files of a run's first step."""

from __future__ import annotations

from typing import NamedTuple

from trice import datasets
from trice.progress import notice
from trice.recipes.paths import RunPaths
from trice.recipes.recipe import Recipe
from trice.recipes.sections import DataSet
from trice.stages.generate import with_instruction
from trice.stages.prepare_data import raw_row
from trice.storage.files import write_rows
from trice.tasks import Tasks
from trice.types import Question


class Part(NamedTuple):
    """The questions of a data set: for stage 1, for the rounds of stage 2, and for testing."""

    train: list[Question]
    feedback: list[Question]
    test: list[Question]


def load_questions(recipe: Recipe, entry: DataSet) -> Part:
    """The questions of an entry of `data`. `scale` multiplies those to train on. In a mix each question names its
    task. Raises InputError if they cannot be read."""
    train, feedback = _scaled(entry.train, recipe.scale), _scaled(entry.feedback, recipe.scale)
    # Without a file, the questions of the rounds are those that follow the training questions.
    following = 0 if entry.feedback_file else feedback or 0
    count = train if train is None else train + following
    if entry.file:
        part = datasets.load_file(entry.dataset, entry.file, train=count, test=entry.test, seed=recipe.seed)
    elif entry.train_file and entry.test_file:
        files = entry.train_file, entry.test_file
        part = datasets.load_files(entry.dataset, *files, train=count, test=entry.test)
    else:
        part = datasets.load(entry.dataset, hub=entry.hub, train=count, test=entry.test)
    rows, others = part.train, []
    if following:
        rows, others = part.train[:train], part.train[train:]
    elif entry.feedback_file and entry.test_file:
        files = entry.feedback_file, entry.test_file
        others = datasets.load_files(entry.dataset, *files, train=feedback, test=entry.test).train
    fields = {"task": entry.task if recipe.task == "mix" else None, "tool": entry.tool}
    given = {name: value for name, value in fields.items() if value}
    return Part(*([row.model_copy(update=given) for row in each] for each in (rows, others, part.test)))


def _scaled(count: int | None, scale: float) -> int | None:
    return count and max(1, round(count * scale))


def write_questions(recipe: Recipe, tasks: Tasks, paths: RunPaths) -> str:
    """Write the questions of all data sets: for training, for the rounds of stage 2, held out, and for testing. Returns
    how many there are."""
    tests: list[Question] = []
    held_out: list[Question] = []
    calibration: list[Question] = []
    counts = []
    count = recipe.validation
    for entry in recipe.data:
        part = load_questions(recipe, entry)
        train, test = part.train, part.test
        if entry.file:
            by = f"split by seed {recipe.seed}"
            notice(f"{entry.file}: {len(train)} questions to train on, {len(test)} to test ({by})")
        if count and train:
            train, validation = part.train[:-count], part.train[-count:]
            held_out += [with_instruction(question, tasks.of(question)) for question in validation]
            test = part.test if recipe.validates else validation
        if recipe.calibrate.questions and train:
            train, others = train[: -recipe.calibrate.questions], train[-recipe.calibrate.questions :]
            calibration += [with_instruction(question, tasks.of(question)) for question in others]
        if train:
            write_rows(paths.train(entry.dataset), map(raw_row, train))
        if part.feedback:
            write_rows(paths.feedback(entry.dataset), map(raw_row, part.feedback))
        tests += [with_instruction(question, tasks.of(question)) for question in test]
        more = f" (+ {len(part.feedback)} of answers alone)" if part.feedback else ""
        counts.append(f"{entry.dataset} {len(train)}{more} + {len(test)}")
    write_rows(paths.tests, tests)
    if recipe.validates:
        write_rows(paths.validation, held_out)
    if recipe.calibrate.questions:
        write_rows(paths.calibration_questions, calibration)
    return "questions to train + test: " + ", ".join(counts)
