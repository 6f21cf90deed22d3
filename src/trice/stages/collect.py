"""Collect: candidate responses to the labelled questions, from one named origin at a time.

Each origin has a file of its own, `<task>_<origin>_response.json`, beside `<task>_gold_response.json`;
`score` joins them. An origin is a local model with or without an adapter, free or compelled to call, or an
endpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.errors import InputError
from trice.journal import Journal, digest, notice, read_rows, write_rows
from trice.models.engine import Compel
from trice.progress import Progress
from trice.records import Labelled, Question, Response
from trice.sampling import Sampling
from trice.stages.generate import GRADED, Asking, find_examples, generate
from trice.tasks import Sources, Tasks

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint, Request


def origin_path(folder: Path, task: str, origin: str) -> Path:
    """Where an origin's responses live. Raises InputError for an unknown task or a name that is no file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", origin):
        raise InputError(f"origin '{origin}': use letters, digits, '-' and '.'")
    return folder / f"{Tasks(task).name}_{origin}_response.json"


def collect_gold(data: Path, folder: Path, task: str, limit: int | None = None) -> Path:
    """The stage-1 rows as the gold candidates; rows without an id cannot be joined and are refused."""
    rows = read_rows(data, Labelled)[:limit]
    for row in rows:
        if not row.id:
            raise InputError(f"{row.where}: field 'id': is missing")
    path = origin_path(folder, task, "gold")
    write_rows(path, rows)
    return path


def collect(
    data: Path,
    folder: Path,
    task: str,
    origin: str,
    asking: Asking,
    *,
    tools: Sources | None = None,
    limit: int | None = None,
) -> list[Response]:
    """Candidates for the questions of `data` from a local model."""
    output = origin_path(folder, task, origin)
    return generate(data, output, task, asking, origin=origin, tools=tools, limit=limit)


def collect_endpoint(
    data: Path,
    folder: Path,
    task: str,
    origin: str,
    endpoint: Endpoint,
    *,
    examples: str | None = None,
    compel: Compel | None = None,
    sampling: Sampling | None = None,
    limit: int | None = None,
) -> list[Response]:
    """Candidates from an endpoint, asked in the form of a chat; every reply is stored as it comes.

    `examples` names worked ones; `compel` asks for a call, or for none. A question the endpoint fails on has no
    candidates from it, and is named in a notice.
    """
    tasks, drawn = Tasks(task), sampling or Sampling()
    questions = read_rows(data, Question)[:limit]
    chats = [_messages(tasks, question, examples, compel) for question in questions]
    settings: dict[str, Any] = {"data": digest(data), "task": task, "origin": origin, "limit": limit}
    settings |= {"endpoint": endpoint.url, "model": endpoint.model, "compel": compel}
    settings["chats"] = hashlib.sha256(json.dumps(chats).encode()).hexdigest()
    output = origin_path(folder, task, origin)
    with Journal(output, settings | vars(drawn), len(questions) * drawn.samples) as journal:
        if journal.finished:
            return read_rows(output, Response)
        _ask(endpoint, questions, chats, drawn, origin, journal)
        rows = [Response.model_validate(row) for row in journal.rows.values()]
        order = {(question.dataset, question.id): number for number, question in enumerate(questions)}
        rows.sort(key=lambda row: (order[row.dataset, row.id], row.sample))
        journal.finish(rows)
    return rows


def _ask(
    endpoint: Endpoint,
    questions: Sequence[Question],
    chats: Sequence[Request],
    sampling: Sampling,
    origin: str,
    journal: Journal,
) -> None:
    waiting = [number for number in range(len(questions)) if f"{number}:0" not in journal]
    with Progress(f"collect {origin}", len(questions), len(questions) - len(waiting)) as progress:

        def done(index: int, texts: list[str]) -> None:
            rows: list[Any] = [
                questions[waiting[index]].model_dump(exclude=GRADED)
                | {"response": text.strip(), "origin": origin, "sample": sample}
                for sample, text in enumerate(texts)
            ]
            # Backwards, so that where the first is there the others are.
            journal.add({f"{waiting[index]}:{row['sample']}": row for row in reversed(rows)})
            progress.advance(1)

        failures = endpoint.complete(
            [chats[number] for number in waiting],
            done,
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            samples=sampling.samples,
            seed=sampling.seed,
        )
    for index, reason in failures:
        notice(f"{origin}: no response to {questions[waiting[index]].id}: {reason}")


def _messages(tasks: Tasks, question: Question, examples: str | None, compel: Compel | None) -> Request:
    """The chat that asks one question, worked examples first."""
    task = tasks.of(question)
    tools = tasks.own_tools(task) if compel == "call" else task.tools
    forms = " or ".join(f"{tool.name}(...)" for tool in tools)
    rule = {
        "call": f"Reply with one call and nothing else: {forms}.",
        "answer": "Reply with the answer alone, without any call.",
        None: f"Reply with the answer alone, or with one call: {forms}.",
    }[compel]
    messages = [{"role": "system", "content": f"{question.instruction or task.instruction} {rule}"}]
    for example in find_examples(task.name, examples):
        messages += [
            {"role": "user", "content": example.input},
            {"role": "assistant", "content": example.output},
        ]
    return [*messages, {"role": "user", "content": question.input}]
