"""Import: data in the forms of TRL, ours and others', as labeled questions, candidates or questions.

`prompt` with `completion`, and `messages`, become labeled questions. `prompt` with `chosen` and `rejected` (or
these with the prompt in them) become candidates, all pairs of one prompt together. With the form `questions` a
conversation becomes a question: its last answer is the gold answer, and the arguments of its call are the
`expression`. With the form `conversations` it becomes a question that keeps its messages, tools and expected calls,
for the model's chat template. Each field may hold messages or plain text. Apart from the form `conversations`, a
call must be of a tool of the task, since everything that is trained on can be executed, and conversations of
several questions are left out. So are images and answers that are not wanted (`label` false). A notice gives the
reason and the place of the first row that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trice.datasets.conversations import Unreadable, read_conversations, without_names
from trice.errors import InputError
from trice.formats.paper import parse
from trice.progress import notice
from trice.stages.conversations import (
    LeftOut,
    Message,
    check_messages,
    read_exchange,
    read_question,
    second_turn_row,
)
from trice.stages.export_data import COLUMNS, INDEX, TAKEN
from trice.storage.files import check_output, read_rows, refuse_repeated, validate, write_rows
from trice.tasks import TaskLike, Tasks, check_questions
from trice.training_data import Candidates, LabeledQuestion
from trice.types import Question, Row

SIDES = ("chosen", "rejected")
PAIR_COLUMNS = {f"{column}_{side}" for column in (*COLUMNS.values(), INDEX) for side in SIDES}
Key = tuple[int | None, str]
"""A candidate among those of one question: its place, if the file has places, and its text."""


class Pair(NamedTuple):
    """Two responses to one question, and the row's fields."""

    instruction: str
    input: str
    texts: tuple[str, str]
    fields: dict[str, Any]
    where: str


def import_(data: Path, output: Path, tasks: Tasks, *, form: str | None = None) -> str:
    """Write `data` to `output` as labeled questions or, if it holds preferences, as candidates; with the form
    `questions` as questions, and with `conversations` as questions that keep their messages and tools. Returns a line
    that counts the rows.

    A row without a system message gets the task's instruction. `score_chosen` and `score_rejected` become the
    candidates' rewards; without them, a reward is the length of the longest chain of pairs below the candidate.
    Raises InputError for rows of another form, and if no row is left."""
    check_output(output, data)
    if form not in (None, "questions", "conversations"):
        raise InputError(f"--form '{form}' is not valid; choose questions or conversations, or leave it out")
    if form == "conversations":
        return _import_conversations(data, output, tasks)
    rows, left = read_rows(data, Row), LeftOut()
    made: Sequence[LabeledQuestion] | Sequence[Candidates] | Sequence[Question]
    if form:
        made = _questions(tasks, rows, left, data.stem)
    else:
        made = _candidates(tasks, rows, left) if "chosen" in _fields(rows[0]) else _labeled(tasks, rows, left)
    left.notify()
    if not made:
        raise InputError(f"{data}: no row can be expressed")
    write_rows(output, (row.model_dump(mode="json", exclude_unset=True) for row in made))
    return f"{len(made)} rows in {output}, from {len(rows)} ({left.count} left out)"


def _import_conversations(data: Path, output: Path, tasks: Tasks) -> str:
    """Write the questions that keep their messages, tools and expected calls."""
    found = read_conversations(data)
    if not found.rows:
        raise InputError(f"{data}: no row can be read: {', '.join(found.reasons)}")
    questions = [row.question for row in found.rows]
    check_questions(tasks, questions)
    refuse_repeated(questions)
    for reason, count in found.reasons.most_common():
        first = next(each.id for each in found.dropped if without_names(each.reason) == reason)
        notice(f"{count} rows left out: {reason} (the first: {first})")
    write_rows(output, questions)
    left = len(found.dropped)
    return f"{len(questions)} rows in {output}, from {len(questions) + left} ({left} left out)"


def _fields(row: Row) -> dict[str, Any]:
    """A row's fields without those that are null, as in a table where other rows have them."""
    return {
        name: value
        for name, value in (row.model_extra or {}).items()
        if value is not None or name in PAIR_COLUMNS
    }


def _labeled(tasks: Tasks, rows: Sequence[Row], left: LeftOut) -> list[LabeledQuestion]:
    made = []
    for row in rows:
        with left.unreadable(row.where):
            made += _taught(tasks, row, *_conversation(row))
    return made


def _questions(tasks: Tasks, rows: Sequence[Row], left: LeftOut, name: str) -> list[Question]:
    """The question of each conversation. A missing `id` is made from the file's name and the row's number."""
    made = []
    for number, row in enumerate(rows, start=1):
        with left.unreadable(row.where):
            prompt, completion = _conversation(row)
            task, instruction, input = _asked(tasks, row, prompt)
            text, tool, output, answer = read_exchange(task.tools, completion)
            value = {"instruction": instruction, "input": input, "answer": answer or output or text}
            if tool and not output:
                raise Unreadable("a call without its result, so that the answer is not known")
            if tool and (written := parse(text, {tool.name: tool.parse}).written):
                value["expression"] = written[written.index("(") + 1 : -1]
            fields = {"id": f"{name}-{number}", **_fields(row)}
            kept = {key: each for key, each in fields.items() if key not in TAKEN}
            made.append(validate(Question, value | kept, row.where))
    return made


def _conversation(row: Row) -> tuple[list[Message], list[Message]]:
    """What was asked, and all from the first answer on."""
    fields = _fields(row)
    if "completion" in fields:
        return _messages(row, "prompt", "user"), _messages(row, "completion", "assistant")
    if "messages" not in fields:
        raise InputError(
            f"{row.where}: neither 'messages' nor 'prompt' with 'completion', or 'chosen' and 'rejected'"
        )
    return _cut(check_messages(fields["messages"], "messages", row.where))


def _cut(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    roles = [message["role"] for message in messages]
    place = roles.index("assistant") if "assistant" in roles else len(roles)
    return messages[:place], messages[place:]


def _messages(row: Row, field: str, role: str) -> list[Message]:
    """A field's messages; a plain text is one of `role`."""
    value = _fields(row).get(field)
    if isinstance(value, str):
        return [{"role": role, "content": value.strip()}]
    return check_messages(value, field, row.where)


def _asked(tasks: Tasks, row: Row, prompt: Sequence[Message]) -> tuple[TaskLike, str, str]:
    """The task of a row, its instruction and input."""
    instruction, input = read_question(prompt)
    task = tasks.of_row(_fields(row).get("task"), instruction, row.where)
    return task, instruction or task.instruction, input


def _taught(
    tasks: Tasks, row: Row, prompt: list[Message], completion: list[Message]
) -> list[LabeledQuestion]:
    """The labeled question, and its second turn if it has one."""
    if not isinstance(wanted := _fields(row).get("label", True), bool):
        raise InputError(f"{row.where}: field 'label': neither true nor false")
    if not wanted:
        raise Unreadable("an answer that is not wanted (label false)")
    task, instruction, input = _asked(tasks, row, prompt)
    text, tool, output, answer = read_exchange(task.tools, completion)
    if not text.strip():
        raise Unreadable("an empty answer")
    kept = {name: value for name, value in _fields(row).items() if name not in TAKEN}
    texts = {"instruction": instruction, "input": input, "output": text}
    made = validate(LabeledQuestion, kept | texts, row.where)
    if tool is None or not answer:
        return [made]
    turn = _fields(row).get("reading_turn", 1)
    if type(turn) is not int:
        raise InputError(f"{row.where}: field 'reading_turn': not a whole number")
    second = second_turn_row(made, tool, output, answer, turn)
    if second is None:
        notice(
            f"{row.where}: the output of {tool.name} is the answer, so the answer after it is not trained on"
        )
    return [made, second] if second else [made]


def _candidates(tasks: Tasks, rows: Sequence[Row], left: LeftOut) -> list[Candidates]:
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for row in rows:
        with left.unreadable(row.where):
            pair = _pair(tasks, row)
            key = (str(pair.fields.get("id", "")), pair.instruction, pair.input)
            groups.setdefault(key, []).append(pair)
    made = []
    for pairs in groups.values():
        with left.unreadable(pairs[0].where):
            made.append(_joined(pairs))
    return made


def _pair(tasks: Tasks, row: Row) -> Pair:
    for side in SIDES:
        if side not in _fields(row):
            raise InputError(f"{row.where}: field '{side}': is missing")
    sides = [_messages(row, side, "assistant") for side in SIDES]
    if "prompt" in _fields(row):
        prompt = _messages(row, "prompt", "user")
    else:
        (prompt, sides[0]), (other, sides[1]) = map(_cut, sides)
        if prompt != other or not prompt:
            raise InputError(f"{row.where}: field 'prompt': is missing, and both sides do not begin with one")
    _check_columns(row)
    task, instruction, input = _asked(tasks, row, prompt)
    chosen, rejected = (read_exchange(task.tools, messages)[0] for messages in sides)
    if chosen == rejected and f"{INDEX}_chosen" not in _fields(row):
        raise Unreadable("a pair of twice the same answer")
    return Pair(instruction, input, (chosen, rejected), _fields(row), row.where)


def _check_columns(row: Row) -> None:
    """Raise InputError if a score is not a number, an index not a whole number, or only one side has an index."""
    fields = _fields(row)
    for column, kind in ((COLUMNS["reward"], int | float), (INDEX, int)):
        for side in SIDES:
            value = fields.get(f"{column}_{side}")
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise InputError(f"{row.where}: field '{column}_{side}': not a number")
    if (fields.get(f"{INDEX}_chosen") is None) != (fields.get(f"{INDEX}_rejected") is None):
        raise InputError(f"{row.where}: field '{INDEX}_rejected': both sides need an index, or neither")


def _joined(pairs: Sequence[Pair]) -> Candidates:
    """The candidates of one question in their recorded order, or the best first."""
    found: dict[Key, dict[str, Any]] = {}
    below: dict[Key, set[Key]] = {}
    for pair in pairs:
        better, worse = (
            (pair.fields.get(f"{INDEX}_{side}"), text) for side, text in zip(SIDES, pair.texts, strict=True)
        )
        for side, key in zip(SIDES, (better, worse), strict=True):
            columns = {name: f"{column}_{side}" for name, column in COLUMNS.items()}
            known = {name: pair.fields[column] for name, column in columns.items() if column in pair.fields}
            found.setdefault(key, known)
        below.setdefault(better, set()).add(worse)
    rewards = {key: known.get("reward") for key, known in found.items()}
    if None in rewards.values():
        rewards = dict(_chains(list(found), below))
    order = sorted(found, key=lambda key: (key[0] or 0, -(rewards[key] or 0)))
    candidates = [found[key] | {"response": key[1], "reward": rewards[key]} for key in order]
    kept = {name: value for name, value in pairs[0].fields.items() if name not in TAKEN | PAIR_COLUMNS}
    question = {"instruction": pairs[0].instruction, "input": pairs[0].input}
    return validate(Candidates, kept | question | {"candidates": candidates}, pairs[0].where)


def _chains(keys: Sequence[Key], below: dict[Key, set[Key]]) -> dict[Key, float]:
    """The length of the longest chain of pairs below each candidate. Raises Unreadable if pairs form a circle."""
    scores = dict.fromkeys(keys, 0.0)
    for _ in keys:
        raised = {key: 1 + max((scores[low] for low in below.get(key, ())), default=-1.0) for key in keys}
        if raised == scores:
            return scores
        scores = raised
    raise Unreadable("pairs of one question that contradict each other")
