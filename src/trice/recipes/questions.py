"""The questions of a recipe: loading a data set, and writing the files of a run's first step."""

from __future__ import annotations

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


def load_questions(recipe: Recipe, entry: DataSet) -> datasets.Split:
    """The questions of an entry of `data`. `scale` multiplies the training questions. In a mix each question names
    its task. Raises InputError if they cannot be read."""
    train = entry.train and max(1, round(entry.train * recipe.scale))
    if entry.file:
        part = datasets.load_file(entry.dataset, entry.file, train=train, test=entry.test, seed=recipe.seed)
    elif entry.train_file and entry.test_file:
        files = entry.train_file, entry.test_file
        part = datasets.load_files(entry.dataset, *files, train=train, test=entry.test)
    else:
        part = datasets.load(entry.dataset, hub=entry.hub, train=train, test=entry.test)
    fields = {"task": entry.task if recipe.task == "mix" else None, "tool": entry.tool}
    given = {name: value for name, value in fields.items() if value}
    if not given:
        return part
    train_rows, test_rows = (
        [row.model_copy(update=given) for row in rows] for rows in (part.train, part.test)
    )
    return part._replace(train=train_rows, test=test_rows)


def write_questions(recipe: Recipe, tasks: Tasks, paths: RunPaths) -> str:
    """Write the training, held-out and test questions of all data sets; returns how many there are."""
    tests: list[Question] = []
    held_out: list[Question] = []
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
        if train:
            write_rows(paths.train(entry.dataset), map(raw_row, train))
        tests += [with_instruction(question, tasks.of(question)) for question in test]
        counts.append(f"{entry.dataset} {len(train)} + {len(test)}")
    write_rows(paths.tests, tests)
    if recipe.validates:
        write_rows(paths.validation, held_out)
    return "questions to train + test: " + ", ".join(counts)
