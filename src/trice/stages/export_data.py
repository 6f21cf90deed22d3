"""Export: labeled questions and candidates in the forms of TRL, for other trainers, and in the published form.

- `completion`: `prompt` and `completion`, lists of messages. Of several candidates it is the best one.
- `messages`: the same as one list.
- `preference`: `prompt`, `chosen` and `rejected`, one row for every two candidates of different rewards. These
  are the pairs of our own ranking losses, and import makes the same candidates of them.
- `published`: stage-2 data in the layout of the original repository (`trice.datasets.published`).

In the forms of TRL every row has the tools that it offers as JSON schemas under `tools`, and keeps its other fields.
If the file holds the second turn of a call, the tool's output and the answer over it follow the call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from trice.datasets.published import from_candidates, is_published, to_candidates
from trice.errors import InputError
from trice.stages.chat_responses import offered_tools, prompt_messages
from trice.stages.conversations import LeftOut, Message, assistant_message, second_turn_row
from trice.storage.files import check_output, read_rows, validate, write_rows
from trice.tasks import TaskLike, Tasks
from trice.tools.second_turn import split_context
from trice.training_data import Candidate, Candidates, LabeledQuestion
from trice.types import Row

Form = Literal["completion", "messages", "preference", "published"]
TAKEN = {"prompt", "completion", "messages", "chosen", "rejected", "tools", "reading_turn"}
NATIVE = {"messages", "tools", "completion"}  # fields of our records, which become fields of TRL
COLUMNS = {
    "reward": "score",
    "target": "target",
    "origin": "origin",
    "outcome": "outcome",
    "prediction": "prediction",
    "correct": "correct",
    "tokens": "tokens",
}
"""The fields of a candidate that become columns of a pair, and the columns' names: `score_chosen`,
`score_rejected`."""
INDEX = "index"
"""The column with a candidate's place in the row."""


def export(data: Path, output: Path, tasks: Tasks, *, form: str | None = None) -> int:
    """Write `data` (stage 1 or stage 2) to `output` in a `form`; returns the number of rows.

    By default labeled questions become `completion` and candidates `preference`. A question without two candidates
    of different rewards has no pair; a notice counts those. Raises InputError for rows that do not fit, and for a
    field that has the name of one of TRL's."""
    check_output(output, data)
    rows = read_rows(data, Row)
    fields = rows[0].model_extra or {}
    rewarded = "candidates" in fields or is_published(fields)
    chosen = form or ("preference" if rewarded else "completion")
    if chosen not in get_args(Form):
        raise InputError(f"--form '{chosen}' is not valid; choose {', '.join(get_args(Form))}")
    if chosen in ("preference", "published") and not rewarded:
        raise InputError(f"{data}: holds no candidates; --form {chosen} is for the output of `trice score`")
    left = LeftOut()
    if chosen == "published":
        written = [from_candidates(row) for row in _candidates(rows)]
    elif chosen == "preference":
        written = [pair for row in _candidates(rows) for pair in _pairs(tasks, row, left)]
    elif rewarded:
        written = [_best(tasks, row) for row in _candidates(rows)]
    else:
        _refuse_names(rows)
        written = list(
            _labeled(tasks, [validate(LabeledQuestion, row.model_dump(), row.where) for row in rows])
        )
    if not written:
        raise InputError(f"{data}: no two candidates of one question have different rewards")
    if chosen == "messages":
        written = [{"messages": row.pop("prompt") + row.pop("completion")} | row for row in written]
    write_rows(output, written)
    left.notify()
    return len(written)


def _candidates(rows: Sequence[Row]) -> list[Candidates]:
    """The rows as candidates, without those that teach only a decision."""
    _refuse_names(rows)
    found = (to_candidates(row.model_dump(), row.where) for row in rows)
    return [row for row in found if row.candidates]


def _refuse_names(rows: Sequence[Row]) -> None:
    for row in rows:
        for name in sorted(TAKEN - NATIVE & set(row.model_extra or {})):
            raise InputError(f"{row.where}: field '{name}': TRL has a field of this name; rename yours")


def _task(tasks: Tasks, row: LabeledQuestion | Candidates) -> TaskLike:
    return tasks.of_row(row.task, row.instruction, row.where)


def _prompt(task: TaskLike, row: LabeledQuestion | Candidates) -> dict[str, Any]:
    """The prompt and the tools. Without tools the field is left out, because some templates announce an empty
    list."""
    asked, offered = prompt_messages(row), offered_tools(row, task.tools)
    tools = {"tools": offered} if offered else {}
    return {"prompt": [message.for_template() for message in asked]} | tools


def _labeled(tasks: Tasks, rows: Sequence[LabeledQuestion]) -> Iterator[dict[str, Any]]:
    """Each row as prompt and completion. A second turn becomes a part of the conversation that it belongs to."""
    turns = defaultdict(list)
    for row in rows:
        if row.first_turn is not None:
            turns[row.dataset, row.first_turn].append(row)
    made = []
    joined = set()
    for row in rows:
        task = _task(tasks, row)
        first = assistant_message(task.tools, row.output)
        completion, turn = [first], {}
        for second in turns[row.dataset, row.id] if row.id else ():
            result = _tool_result(task, row, first, second)
            if result is not None and id(second) not in joined:
                completion += [result, {"role": "assistant", "content": second.output}]
                turn = {"reading_turn": second.turn}
                joined.add(id(second))
                break
        if row.completion is not None:
            completion = [message.for_template() for message in row.completion]
        left_out = {"instruction", "input", "output", *NATIVE}
        fields = row.model_dump(mode="json", exclude=left_out, exclude_unset=True)
        prompt = _prompt(task, row)
        made.append((row, prompt | {"completion": completion} | fields | turn))
    return (line for row, line in made if id(row) not in joined)


def _tool_result(
    task: TaskLike, row: LabeledQuestion, first: Message, second: LabeledQuestion
) -> Message | None:
    """The tool's message before a second turn, if import can make the same second turn of it; else None."""
    called = [call["function"]["name"] for call in first.get("tool_calls", ())]
    tool = next((tool for tool in task.tools if tool.name in called), None)
    if tool is None or second.turn is None:
        return None
    # A passage is the context of the second turn, a translation its question.
    for output in split_context(second.input):
        if second_turn_row(row, tool, output, second.output, second.turn) == second:
            return {"role": "tool", "name": tool.name, "content": output}
    return None


def _pairs(tasks: Tasks, row: Candidates, left: LeftOut) -> list[dict[str, Any]]:
    task = _task(tasks, row)
    prompt, question = _prompt(task, row), _question_fields(row)
    messages = [_messages(task, each) for each in row.candidates]
    pairs = []
    for better, chosen in enumerate(row.candidates):
        for worse, rejected in enumerate(row.candidates):
            if chosen.reward > rejected.reward:
                both = {"chosen": messages[better], "rejected": messages[worse]}
                columns = _columns("chosen", better, chosen) | _columns("rejected", worse, rejected)
                pairs.append(prompt | both | question | columns)
    if not pairs:
        left.add("no two candidates have different rewards", row.where)
    return pairs


def _messages(task: TaskLike, candidate: Candidate) -> list[Message]:
    """A candidate as messages: those of its conversation, or its text as one."""
    if candidate.completion is None:
        return [assistant_message(task.tools, candidate.response)]
    return [message.for_template() for message in candidate.completion]


def _columns(side: str, index: int, candidate: Candidate) -> dict[str, Any]:
    """What a pair holds of one candidate in addition to its message."""
    fields = candidate.model_dump(mode="json", include=set(COLUMNS), exclude_unset=True)
    columns = {f"{column}_{side}": fields[name] for name, column in COLUMNS.items() if name in fields}
    return columns | {f"{INDEX}_{side}": index}


def _best(tasks: Tasks, row: Candidates) -> dict[str, Any]:
    task = _task(tasks, row)
    best = max(row.candidates, key=lambda each: each.reward)  # the first of equals
    completion = {"completion": _messages(task, best)}
    return _prompt(task, row) | completion | _question_fields(row) | {"score": best.reward}


def _question_fields(row: Candidates) -> dict[str, Any]:
    """The fields of the question that are not in its messages."""
    return row.model_dump(
        mode="json", exclude={"instruction", "input", "candidates", *NATIVE}, exclude_unset=True
    )
