"""Score: parse, execute and judge every candidate response, and give it its reward.

Reads `<task>_gold_response.json` and every other `<task>_<origin>_response.json` of a folder and writes the
ranked candidates of each question, gold first. Questions with few candidates are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from trice.errors import InputError
from trice.journal import read_rows, write_rows
from trice.records import Labelled, Question, Ranked, Response
from trice.rewards import load_reward
from trice.tasks import Task, grade, load_task


def score(
    data: Path, output: Path, task: str, *, reward: str = "paper", distinct: bool = True
) -> list[Ranked]:
    """Rank the candidates in folder `data` and write them to `output`.

    `reward` is `paper`, `released`, or a user's `module:function` of (question, response). `distinct` keeps
    one of several candidates with the same text. Raises InputError for a folder without gold responses.
    """
    chosen, rewarder = load_task(task), load_reward(reward)
    gold_path = data / f"{task}_gold_response.json"
    if not gold_path.is_file():
        raise InputError(f"{data}: no gold responses here ({gold_path.name} is missing)")
    others = [path for path in sorted(data.glob(f"{task}_*_response.json")) if path != gold_path]
    candidates = defaultdict(list)
    for path in others:
        origin = path.name.removeprefix(f"{task}_").removesuffix("_response.json")
        for row in read_rows(path, Response):
            candidates[row.id].append((origin, row.response))
    ranked = []
    for number, gold in enumerate(read_rows(gold_path, Labelled), start=1):
        if not gold.id:
            raise InputError(f"{gold_path}:{number}: field 'id': is missing")
        texts = [("gold", gold.output), *candidates[gold.id]]
        responses = list(_graded(chosen, gold, _distinct(texts) if distinct else texts))
        ranked.append(_rank(gold, responses, rewarder(responses)))
    write_rows(output, ranked)
    return ranked


def _distinct(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first of several candidates with the same text."""
    first: dict[str, str] = {}
    for origin, text in texts:
        first.setdefault(text.strip(), origin)
    return [(origin, text) for text, origin in first.items()]


def _graded(task: Task, gold: Labelled, texts: Sequence[tuple[str, str]]) -> Iterable[Response]:
    question = Question.model_validate(gold.model_dump(exclude={"output"}))
    for sample, (origin, text) in enumerate(texts):
        yield grade(task, question, text, origin, sample)


def _rank(gold: Labelled, responses: Sequence[Response], rewards: Sequence[float]) -> Ranked:
    return Ranked(
        id=gold.id,
        query=f"{gold.instruction}\n{gold.input}",
        responses=[response.response for response in responses],
        origin=[response.origin for response in responses],
        scores=list(rewards),
        answer=[response.pred for response in responses],
    )
