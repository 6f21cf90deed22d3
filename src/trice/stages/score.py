"""Score: parse, execute and judge every candidate response, and give it its reward.

Reads `<task>_gold_response.json` and every other `<task>_<origin>_response.json` of a folder and writes the
ranked candidates of each question, gold first. Questions with few candidates are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from trice.errors import InputError
from trice.rewards import load_reward
from trice.stages.generate import GRADED, ModelSpec
from trice.stages.grading import Model, grade
from trice.storage.files import check_output, read_rows, refuse_repeated, validate, write_rows
from trice.tasks import Sources, Tasks, check_questions
from trice.tools.executor import Runner, remove_sidecars
from trice.types import Labelled, Outcome, Question, Ranked, Response


class Candidate(NamedTuple):
    """A response's text, where it comes from, and the token ids it was written in, where they are known."""

    origin: str
    text: str
    tokens: list[int] | None = None


def score(
    data: Path,
    output: Path,
    task: str,
    *,
    reward: str = "paper",
    distinct: bool = True,
    spec: ModelSpec | None = None,
    tools: Sources | None = None,
    runner: Runner | None = None,
) -> list[Ranked]:
    """Rank the candidates in folder `data` and write them to `output`.

    `reward` is `paper`, `released`, or a user's `module:function` of (question, response). `distinct` keeps
    one of several candidates with the same text. A tool's output that is no answer, such as a passage, is
    read by the model of `spec`; without one, a call is right where its output supports a gold answer. `runner` is
    what runs the calls.
    Raises InputError for a folder without gold responses.
    """
    tasks, rewarder = Tasks(task, tools), load_reward(reward)
    gold_path = data / f"{tasks.name}_gold_response.json"
    if not gold_path.is_file():
        raise InputError(f"{data}: no gold responses here ({gold_path.name} is missing)")
    paths = _paths(data, tasks.name)
    check_output(output, gold_path, *paths)
    golds = read_rows(gold_path, Labelled)
    questions = _questions(golds, tasks)
    candidates = _candidates(data, tasks.name)
    written = []
    for gold, question in zip(golds, questions, strict=True):
        texts = [Candidate("gold", gold.output), *candidates.get((question.dataset, question.id), ())]
        written.append(_responses(question, _distinct(texts) if distinct else texts))
    model = Model(task, spec, output, tools) if spec else None
    every = [row for rows in written for row in rows]
    graded = iter(grade(tasks, every, model, output=output, runner=runner, earlier=paths))
    ranked = []
    for gold, rows in zip(golds, written, strict=True):
        responses = [_earned(tasks, next(graded)) for _ in rows]
        ranked.append(_rank(gold, responses, rewarder(responses)))
    write_rows(output, ranked)
    remove_sidecars(output)
    for path in paths:
        remove_sidecars(path, "calls")
    return ranked


def _questions(golds: Sequence[Labelled], tasks: Tasks) -> list[Question]:
    """The questions of the gold responses. Raises InputError for one without an id of its own, or with a gold
    answer that could never be matched."""
    questions = []
    for gold in golds:
        question = validate(Question, gold.model_dump(exclude={"output"}), gold.where)
        if "\n" in gold.instruction:
            raise InputError(f"{gold.where}: field 'instruction': holds a line break")
        questions.append(question)
    refuse_repeated(questions)
    check_questions(tasks, questions)
    return questions


def _paths(data: Path, task: str) -> list[Path]:
    return sorted(data.glob(f"{task}_*_response.json"))


def _candidates(data: Path, task: str) -> dict[tuple[str, str], list[Candidate]]:
    """Every candidate but the gold ones, by its question's data set and id."""
    found = defaultdict(list)
    for path in _paths(data, task):
        origin = path.name.removeprefix(f"{task}_").removesuffix("_response.json")
        if origin != "gold":
            for row in read_rows(path, Response, repeated=True):
                found[row.dataset, row.id].append(Candidate(origin, row.response, row.tokens))
    return found


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of several candidates with the same text. Token ids of a text with other white space around it are
    dropped, since they are not those of the text that is judged."""
    first: dict[str, Candidate] = {}
    for each in candidates:
        text = each.text.strip()
        first.setdefault(text, each if text == each.text else each._replace(text=text, tokens=None))
    return list(first.values())


def _responses(question: Question, candidates: Sequence[Candidate]) -> list[Response]:
    fields = question.model_dump(exclude=GRADED)
    rows = [
        Response.model_validate(
            fields | {"response": text, "origin": origin, "sample": sample, "tokens": tokens}
        )
        for sample, (origin, text, tokens) in enumerate(candidates)
    ]
    for row in rows:
        row._where = question.where
    return rows


def _earned(tasks: Tasks, row: Response) -> Response:
    """Where only a tool can know the answer, one without a call is a guess: it earns nothing."""
    guessed = row.outcome is Outcome.ANSWERED and tasks.requires_tool(row)
    return row.model_copy(update={"correct": False}) if guessed else row


def _rank(gold: Labelled, responses: Sequence[Response], rewards: Sequence[float]) -> Ranked:
    tokens = [response.tokens for response in responses]
    return Ranked(
        id=gold.id,
        query=f"{gold.instruction}\n{gold.input}",
        responses=[response.response for response in responses],
        origin=[response.origin for response in responses],
        scores=list(rewards),
        answer=[response.pred for response in responses],
        tokens=tokens if any(each is not None for each in tokens) else None,
    )
