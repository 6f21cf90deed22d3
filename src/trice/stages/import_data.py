"""Import: data in the forms of TRL, ours and others', as labelled questions or ranked candidates.

Read are `prompt` with `completion` and `messages`, which become labelled questions, and `prompt` with `chosen`
and `rejected` (or these with the prompt in them), all pairs of one prompt together, which become ranked
candidates. Each may be of messages or of plain text. Calls may be of the task's own tools only, since
everything that is trained on can be executed. Images and conversations of several questions are not covered, nor
answers that are not wanted (`label` false): such rows are left out, with the reason and where the first stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.stages.conversations import LeftOut, Message, Unfit, check_messages, exchange, question, reading
from trice.stages.export_data import LISTS, PLACE, TAKEN
from trice.storage.files import check_output, read_rows, validate, write_rows
from trice.tasks import Sources, TaskLike, Tasks
from trice.types import Labelled, Ranked, Row

SIDES = ("chosen", "rejected")
BESIDE = {f"{column}_{side}" for column in (*LISTS.values(), PLACE) for side in SIDES}


class Pair(NamedTuple):
    """Two responses to one question, and what is known of each."""

    query: str
    texts: tuple[str, str]
    fields: dict[str, Any]
    where: str


def import_(data: Path, output: Path, task: str, *, tools: Sources | None = None) -> int:
    """Write `data` to `output` as rows of stage 1 or, where it holds preferences, of stage 2; returns how many.

    A row without a system message gets the task's instruction. Ranked candidates keep the scores that stand under
    `score_chosen` and `score_rejected`; where there are none, a candidate's is the length of the longest chain of
    pairs below it. Raises InputError for rows of another form, and where no row is left."""
    check_output(output, data)
    rows, tasks, left = read_rows(data, Row), Tasks(task, tools), LeftOut()
    made: Sequence[Labelled] | Sequence[Ranked]
    made = _ranked(tasks, rows, left) if "chosen" in _fields(rows[0]) else _labelled(tasks, rows, left)
    left.tell()
    if not made:
        raise InputError(f"{data}: no row can be expressed")
    write_rows(output, (row.model_dump(mode="json", exclude_unset=True) for row in made))
    return len(made)


def _fields(row: Row) -> dict[str, Any]:
    """A row's fields without those that are null, as in a table where other rows have them."""
    return {
        name: value for name, value in (row.model_extra or {}).items() if value is not None or name in BESIDE
    }


def _labelled(tasks: Tasks, rows: Sequence[Row], left: LeftOut) -> list[Labelled]:
    made = []
    for row in rows:
        prompt, completion = _conversation(row)
        try:
            made += _taught(tasks, row, prompt, completion, left)
        except Unfit as reason:
            left.add(str(reason), row.where)
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
    instruction, input = question(prompt)
    task = tasks.of_row(_fields(row).get("task"), instruction, row.where)
    return task, instruction or task.instruction, input


def _taught(
    tasks: Tasks, row: Row, prompt: list[Message], completion: list[Message], left: LeftOut
) -> list[Labelled]:
    """The labelled question, and its second turn where it has one."""
    if not isinstance(wanted := _fields(row).get("label", True), bool):
        raise InputError(f"{row.where}: field 'label': neither true nor false")
    if not wanted:
        raise Unfit("an answer that is not wanted (label false)")
    task, instruction, input = _asked(tasks, row, prompt)
    text, tool, output, answer = exchange(task.tools, completion)
    if not text.strip():
        raise Unfit("an empty answer")
    kept = {name: value for name, value in _fields(row).items() if name not in TAKEN}
    texts = {"instruction": instruction, "input": input, "output": text}
    made = validate(Labelled, kept | texts, row.where)
    if tool is None or not answer:
        return [made]
    turn = _fields(row).get("reading_turn", 1)
    if type(turn) is not int:
        raise InputError(f"{row.where}: field 'reading_turn': not a whole number")
    second = reading(made, tool, output, answer, turn)
    if second is None:
        left.add(f"only its answer over the output of {tool.name}, which is the answer itself", row.where)
    return [made, second] if second else [made]


def _ranked(tasks: Tasks, rows: Sequence[Row], left: LeftOut) -> list[Ranked]:
    groups: dict[tuple[str, str], list[Pair]] = {}
    for row in rows:
        try:
            pair = _pair(tasks, row)
        except Unfit as reason:
            left.add(str(reason), row.where)
        else:
            groups.setdefault((str(pair.fields.get("id", "")), pair.query), []).append(pair)
    made = []
    for pairs in groups.values():
        try:
            made.append(_joined(pairs))
        except Unfit as reason:
            left.add(str(reason), pairs[0].where)
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
    chosen, rejected = (exchange(task.tools, messages)[0] for messages in sides)
    if chosen == rejected and f"{PLACE}_chosen" not in _fields(row):
        raise Unfit("a pair of twice the same answer")
    return Pair(f"{' '.join(instruction.split())}\n{input}", (chosen, rejected), _fields(row), row.where)


def _check_columns(row: Row) -> None:
    """Raise InputError where a score is no number or a place no whole one, or only one side has a place."""
    fields = _fields(row)
    for side in SIDES:
        tokens = fields.get(column := f"{LISTS['tokens']}_{side}")
        if tokens is not None and not (
            isinstance(tokens, list) and all(type(token) is int and token >= 0 for token in tokens)
        ):
            raise InputError(f"{row.where}: field '{column}': not a list of token ids")
    for column, kind in ((LISTS["scores"], int | float), (PLACE, int)):
        for side in SIDES:
            value = fields.get(f"{column}_{side}")
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise InputError(f"{row.where}: field '{column}_{side}': not a number")
    if (fields.get(f"{PLACE}_chosen") is None) != (fields.get(f"{PLACE}_rejected") is None):
        raise InputError(f"{row.where}: field '{PLACE}_rejected': both sides have a place, or neither")


def _joined(pairs: Sequence[Pair]) -> Ranked:
    """The candidates of one question. They stand where they stood, or the best first."""
    found: dict[tuple[Any, str], dict[str, Any]] = {}
    below: dict[tuple[Any, str], set[tuple[Any, str]]] = {}
    for pair in pairs:
        keys = []
        for side, text in zip(SIDES, pair.texts, strict=True):
            keys.append(key := (pair.fields.get(f"{PLACE}_{side}"), text))
            told = {name: pair.fields.get(f"{column}_{side}") for name, column in LISTS.items()}
            found.setdefault(key, told)
        below.setdefault(keys[0], set()).add(keys[1])
    scores = {key: told["scores"] for key, told in found.items()}
    if None in scores.values():
        scores = _chains(list(found), below)
    order = sorted(found, key=lambda key: (key[0] if key[0] is not None else 0, -scores[key]))
    columns = {name for name, column in LISTS.items() if f"{column}_chosen" in pairs[0].fields}
    lists = {name: [found[key][name] for key in order] for name in columns}
    kept = {name: value for name, value in pairs[0].fields.items() if name not in TAKEN | BESIDE}
    value = kept | {"query": pairs[0].query, "responses": [key[1] for key in order]} | lists
    return validate(Ranked, value | {"scores": [scores[key] for key in order]}, pairs[0].where)


def _chains(
    keys: Sequence[tuple[Any, str]], below: dict[tuple[Any, str], set[tuple[Any, str]]]
) -> dict[tuple[Any, str], float]:
    """How many pairs the longest chain below each has. Raises Unfit where pairs go round in a circle."""
    scores = dict.fromkeys(keys, 0.0)
    for _ in keys:
        raised = {key: 1 + max((scores[low] for low in below.get(key, ())), default=-1.0) for key in keys}
        if raised == scores:
            return scores
        scores = raised
    raise Unfit("pairs of one question that contradict each other")
