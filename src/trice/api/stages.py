"""Split, label, generate and evaluate as functions on objects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trice.api.data import Source, require_questions, working_folder, write_questions
from trice.api.models import FewShot, Model, Threshold, require_model
from trice.errors import InputError, check_number
from trice.models.engine import ToolChoice
from trice.models.sampling import KNOWN, SPLIT_SAMPLES, SPLIT_TEMPERATURE
from trice.progress import notice
from trice.storage.files import read_rows, write_rows
from trice.training_data import LabeledQuestion
from trice.types import Question, Response

if TYPE_CHECKING:
    from trice.api.evaluation import Evaluation
    from trice.stages.grading import SecondTurnModel
    from trice.stages.model_spec import ModelSpec
    from trice.tasks import TaskLike, Tasks


class Split(NamedTuple):
    """The result of `trice.split`, which unpacks into its two lists.

    Attributes:
        known: The model's responses to the questions that it knows; they are targets for stage 1.
        unknown: Its responses to the questions that it does not know; `trice.label` takes them.
    """

    known: list[Response]
    unknown: list[Response]


def split(
    model: Model,
    questions: Source,
    task: str | TaskLike,
    *,
    few_shot: FewShot = None,
    samples: int = SPLIT_SAMPLES,
    temperature: float = SPLIT_TEMPERATURE,
    known: float = KNOWN,
    max_new_tokens: int = 64,
    seed: int = 0,
    output: str | Path | None = None,
) -> Split:
    """Ask a model every question with tools withheld, and split them by whether it knows the answer.

    Args:
        model: Usually the base model.
        questions: As for `trice.questions`.
        task: A `trice.Task` or the name of one that ships.
        few_shot: Worked examples without calls, for a base model that does not follow the form otherwise.
        samples: How often a question is asked whose first, greedy answer is correct; the other answers are sampled.
        temperature: The temperature of the sampled answers.
        known: A question counts as known if at least this share of its answers is correct.
        max_new_tokens: The length limit of an answer, in tokens.
        seed: The seed of the sampled answers.
        output: A folder that keeps the answers and lets a killed call resume.

    Returns:
        `known` and `unknown`, each a list of `Response` with the model's first answer.

    Raises:
        InputError: If a gold answer could never be matched, or an argument does not fit.

    Example:
        >>> import trice
        >>> model = trice.load("gemma-3-270m")
        >>> rows = trice.questions([{"question": "What is 271 * 828?", "answer": "224388"}])
        >>> known, unknown = trice.split(model, rows, "math", few_shot="direct", samples=1)
        >>> len(known), len(unknown)
        (0, 1)
    """
    from trice.stages import split as stage
    from trice.tasks import Tasks

    spec = require_model(model).spec(few_shot, max_new_tokens=max_new_tokens, seed=seed)
    check_number("samples", samples, int, least=1)
    check_number("temperature", temperature, float, least=0)
    check_number("known", known, float, least=0, most=1)
    with working_folder(output) as folder:
        data = write_questions(folder, questions, task)
        files = stage.split(data, Tasks(task), spec, samples=samples, temperature=temperature, known=known)
        notice(f"split: {files}")
        right, wrong = (
            read_rows(path, Response) if count else []
            for path, count in ((files.known, files.known_count), (files.unknown, files.unknown_count))
        )
        return Split(right, wrong)


def label(
    questions: Source,
    task: str | TaskLike,
    teacher: str = "rule",
    *,
    endpoint: Model | None = None,
    retries: int = 0,
    reading: float = 0,
    output: str | Path | None = None,
) -> list[LabeledQuestion]:
    """Give questions a tool call as their target. Every call is executed, and kept if its result is the gold
    answer.

    Args:
        questions: Usually `unknown` of `trice.split`.
        task: A `trice.Task` or the name of one that ships.
        teacher: `rule` (what the task's tool suggests, such as the question's `expression`), `annotations` (the
            field `expression` alone) or `endpoint`.
        endpoint: The model that teaches, for the teacher `endpoint`.
        retries: How often that model is asked again after a label that was rejected.
        reading: The share of calls, 0 to 1, for which the answer over the tool's output becomes a target as well.
        output: A folder that keeps the labels and the rejected questions.

    Returns:
        `LabeledQuestion` records, the target in `output`. Questions without an accepted call are left out; a notice
        counts them and gives the reasons.

    Raises:
        InputError: If the teacher is not known, or an argument does not fit.
        TriceError: If the endpoint cannot be reached.

    Example:
        >>> import trice
        >>> rows = [{"question": "What is 271 * 828?", "answer": "224388", "expression": "271*828"}]
        >>> trice.label(rows, "math")[0].output
        'calculator(271*828)'
    """
    from trice.stages import label as stage
    from trice.stages.teachers import load_teacher
    from trice.tasks import Tasks

    tasks = Tasks(task)
    check_number("retries", retries, int, least=0)
    check_number("reading", reading, float, least=0, most=1)
    client = None if endpoint is None else require_model(endpoint, "endpoint").client
    chosen = load_teacher(teacher, tasks, client, retries)
    with working_folder(output) as folder:
        target = folder / "labels.json"
        result = stage.label(write_questions(folder, questions, task), target, tasks, chosen, reading=reading)
        notice(f"label: {result}")
        paths = (target, stage.reading_path(target))
        filled = (path for path in paths if path.is_file() and path.stat().st_size)
        return [row for path in filled for row in read_rows(path, LabeledQuestion)]


def generate(
    model: Model,
    questions: Source,
    task: str | TaskLike,
    *,
    tool_choice: ToolChoice = "auto",
    call_threshold: Threshold = None,
    few_shot: FewShot = None,
    output: str | Path | None = None,
    **sampling: Any,
) -> list[Response]:
    """Answer questions, and execute the calls in the responses. Gold answers are not needed.

    Args:
        model: Of `trice.load`, `trice.endpoint` or a training.
        questions: As for `trice.questions`.
        task: A `trice.Task` or the name of one that ships.
        tool_choice: `auto`, `none` or `required`.
        call_threshold: With tool choice `auto`, a call is made if P(call) exceeds it: a number from 0 (always) to 1
            (never), or the result of `trice.calibrate`. By default the one that is saved with the adapter, if it was
            calibrated; `off` lets the model write what it will.
        few_shot: Worked examples to put before each question.
        output: A folder that keeps the responses.
        sampling: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `samples`, `seed`, `beams`,
            `repetition_penalty`. Greedy without them.

    Returns:
        `Response` records with `response`, `outcome`, `call`, `execution` and `prediction`; several for a
        question with `samples`.

    Raises:
        InputError: If an argument does not fit, before the model is loaded.

    Example:
        >>> import trice
        >>> model = trice.load("gemma-3-270m")
        >>> rows = trice.generate(model, [{"question": "What is 3 * 19?"}], "math", few_shot="calls")
        >>> rows[0].outcome
        <Outcome.CALLED: 'called'>
    """
    from trice.stages.grading import execute
    from trice.tasks import Tasks

    rows = require_questions(questions)
    threshold = require_model(model).threshold(call_threshold, tool_choice)
    spec = model.spec(few_shot, tool_choice, call_threshold=threshold, **sampling)
    with working_folder(output) as folder:
        tasks = Tasks(task)
        written, read_output = _respond(rows, tasks, spec, folder / "responses.json")
        return [each.response for each in execute(tasks, written, read_output)]


def evaluate(
    models: Model | Mapping[str, Model],
    questions: Source,
    task: str | TaskLike,
    *,
    base: str | None = None,
    few_shot: FewShot = None,
    tool_choice: ToolChoice = "auto",
    call_threshold: Threshold = None,
    output: str | Path | None = None,
    **sampling: Any,
) -> Evaluation:
    """Answer questions with one model or several, execute and judge the responses, and compare them.

    Args:
        models: One model, or several by the names they are shown under.
        questions: As for `trice.questions`, with gold answers.
        task: A `trice.Task` or the name of one that ships.
        base: The name of the base model. It is asked with tools withheld, which says for every question whether it
            needs a tool. Without it, the first model without an adapter.
        few_shot: Worked examples for the base model, or for a single model; give the same as to `trice.split`.
        tool_choice: Of the other models: `auto`, `none` or `required`.
        call_threshold: Of the other models, as in `trice.generate`.
        output: A folder that keeps the responses.
        sampling: As for `trice.generate`. Greedy without it.

    Returns:
        An `Evaluation`: printed, it is a table; `.frame`, `.difference(a, b)`, `.figure()` and `.to_html(path)`.

    Raises:
        InputError: If a gold answer could never be matched, or an argument does not fit.

    Example:
        >>> import trice
        >>> model = trice.load("gemma-3-270m")
        >>> rows = [{"question": "What is 271 * 828?", "answer": "224388"}]
        >>> result = trice.evaluate({"base": model}, rows, "math", few_shot="direct")
        >>> result.measures["base"]["total"]["accuracy"].total
        1
    """
    from trice.api.evaluation import Evaluation
    from trice.tasks import Tasks, check_questions

    named = dict(models) if isinstance(models, Mapping) else {"model": require_model(models, "models")}
    for name, model in named.items():
        require_model(model, f"models[{name!r}]")
    if not named:
        raise InputError("models: there are none")
    if base is not None and base not in named:
        raise InputError(f"base '{base}': is not among the models {', '.join(named)}")
    rows, tasks = require_questions(questions), Tasks(task)
    check_questions(tasks, rows)
    if base is None and len(named) > 1:
        local = (name for name, model in named.items() if model.adapter is None and model.client is None)
        base = next(local, None)
    with working_folder(output) as folder:
        found = {}
        for name, model in named.items():
            how: dict[str, Any] = {"few_shot": few_shot if name == base or len(named) == 1 else None}
            others = {"tool_choice": tool_choice, "call_threshold": call_threshold}
            how |= {"tool_choice": "none"} if name == base else others
            loaded, responses = model.loaded, folder / _folder_name(name) / "responses.json"
            found[name] = graded(model, rows, tasks, responses, **how, **sampling)
            if len(named) > 1 and not loaded:  # together they may not fit into memory
                model.unload()
        return Evaluation(found, base, tasks.name)


def _respond(
    rows: Sequence[Question], tasks: Tasks, spec: ModelSpec, output: Path
) -> tuple[list[Response], SecondTurnModel]:
    """Write the responses. Returns them with the function that reads tool outputs with the same model."""
    from trice.stages import generate as stage
    from trice.stages import grading

    written = stage.generate(write_questions(output.parent, rows), output, tasks, spec)
    return written, grading.SecondTurnModel(tasks, spec, output.with_name("results.json"))


def graded(
    model: Model, rows: Sequence[Question], tasks: Tasks, output: Path, few_shot: FewShot = None,
    tool_choice: ToolChoice = "auto", call_threshold: Threshold = None, **sampling: Any,
) -> list[Response]:  # fmt: skip
    """Write, execute and judge one model's responses, and store them in `output`."""
    from trice.stages.grading import grade
    from trice.tools.executor import remove_sidecars

    threshold = model.threshold(call_threshold, tool_choice)
    spec = model.spec(few_shot, tool_choice, call_threshold=threshold, **sampling)
    written, read_output = _respond(rows, tasks, spec, output)
    results = read_output.output
    judged = grade(tasks, written, read_output, output=results, earlier=[output])
    write_rows(results, judged)
    remove_sidecars(results)
    return judged


def _folder_name(name: str) -> str:
    """A folder name for a model's name; different names give different folders."""
    plain = re.sub(r"[^A-Za-z0-9-]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
