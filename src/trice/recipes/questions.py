"""The questions of a recipe: loading a data set, and writing the files of a run's first step."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from trice import datasets
from trice.datasets import text_key
from trice.errors import InputError
from trice.progress import notice
from trice.recipes.paths import RunPaths
from trice.recipes.recipe import Recipe
from trice.recipes.sections import DataSet
from trice.stages.generate import with_instruction
from trice.stages.prepare_data import raw_row
from trice.storage.files import write_rows
from trice.tasks import Tasks
from trice.tools import annotated_call
from trice.types import Question


class Part(NamedTuple):
    """The questions of a data set: for stage 1, for the rounds of stage 2, for testing, and those that are held out, to
    choose a checkpoint and a call threshold."""

    train: list[Question]
    feedback: list[Question]
    test: list[Question]
    validation: list[Question] = []
    calibration: list[Question] = []


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
    counts, parts = [], [(entry, _divided(recipe, entry)) for entry in recipe.data]
    tests = [row for _, part in parts for row in part.test]
    tested = set(map(text_key, tests))
    held_out = _others([row for _, part in parts for row in part.validation], tested, "validation")
    calibration = _others([row for _, part in parts for row in part.calibration], tested, "calibration")
    judged = tested.union(map(text_key, [*held_out, *calibration]))
    if recipe.clones and recipe.label.teacher == "annotations":
        _check_annotated([row for _, part in parts for row in part.train])
    for entry, part in parts:
        train = _others(part.train, judged, f"{entry.dataset}, train")
        feedback = _others(part.feedback, judged, f"{entry.dataset}, feedback")
        for name, given, left in (("train", part.train, train), ("feedback", part.feedback, feedback)):
            if given and not left:
                raise InputError(
                    f"data set '{entry.dataset}', {name}: all questions are held out or tested elsewhere in this recipe"
                )
        if part.train:
            write_rows(paths.train(entry.dataset), map(raw_row, train))
        if part.feedback:
            write_rows(paths.feedback(entry.dataset), map(raw_row, feedback))
        more = f" (+ {len(feedback)} of answers alone)" if feedback else ""
        counts.append(f"{entry.dataset} {len(train)}{more} + {len(part.test)}")

    def asked(rows: list[Question]) -> list[Question]:
        return [with_instruction(question, tasks.of(question)) for question in rows]

    write_rows(paths.tests, asked(tests))
    if recipe.validates:
        write_rows(paths.validation, asked(held_out))
    if recipe.calibrate.questions:
        write_rows(paths.calibration_questions, asked(calibration))
    return "questions to train + test: " + ", ".join(counts)


def _divided(recipe: Recipe, entry: DataSet) -> Part:
    """The questions of an entry of `data`, with the last training questions held out."""
    part = load_questions(recipe, entry)
    if entry.file:
        by = f"split by seed {recipe.seed}"
        notice(f"{entry.file}: {len(part.train)} questions to train on, {len(part.test)} to test ({by})")
    count, calibrated = recipe.validation, recipe.calibrate.questions
    if count and part.train:
        validation = part.train[-count:]
        part = part._replace(train=part.train[:-count])
        part = part._replace(**{"validation" if recipe.validates else "test": validation})
    if calibrated and part.train:
        part = part._replace(train=part.train[:-calibrated], calibration=part.train[-calibrated:])
    return part


def _check_annotated(rows: list[Question]) -> None:
    """Raise InputError if no question has a call for the teacher `annotations` to give."""
    given = ("messages", "expected_calls", "gold_calls")
    if rows and not any(annotated_call(row) or any(getattr(row, name) for name in given) for row in rows):
        raise InputError(
            f"{rows[0].where or rows[0].dataset}: neither this question nor another has the field 'expression', which "
            "the teacher 'annotations' takes its calls from; add it, or choose label.teacher=rule"
        )


def _others(rows: list[Question], judged: Container[str], name: str) -> list[Question]:
    """The rows whose `text_key` is not among those that a model is judged by, here or in another data set."""
    others = [row for row in rows if text_key(row) not in judged]
    if len(others) < len(rows):
        notice(
            f"{name}: {len(rows) - len(others)} questions are left out, because they are held out or tested"
        )
    return others
