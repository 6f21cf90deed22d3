"""Export: labelled questions and ranked candidates in the forms of TRL, for other trainers.

- `completion`: `prompt` and `completion`, lists of messages; of ranked candidates the best one.
- `messages`: the same as one list.
- `preference`: `prompt`, `chosen` and `rejected`, one row for every two candidates of different rewards. These
  are the pairs of our own ranking losses, and all that the file knows can be read back from them.

Every row has the tools it was offered as JSON schemas under `tools`; all other fields stay. A call whose second
turn stands in the same file too goes with it: the call, the tool's output, the answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from trice.errors import InputError
from trice.stages.conversations import LeftOut, asked, reading, said
from trice.storage.files import check_output, read_rows, validate, write_rows
from trice.tasks import Sources, TaskLike, Tasks
from trice.tools.call_text import function_schema
from trice.tools.second_turn import SECOND_TURN, split_context
from trice.types import Labelled, Ranked, Row

Form = Literal["completion", "messages", "preference"]
TAKEN = {"prompt", "completion", "messages", "chosen", "rejected", "tools", "reading_turn"}
# The lists of ranked candidates, and what a pair's columns are called after: `score_chosen`, `score_rejected`.
LISTS = {"scores": "score", "origin": "origin", "answer": "answer", "tokens": "tokens"}
PLACE = "place"


def export(
    data: Path, output: Path, task: str, *, form: str | None = None, tools: Sources | None = None
) -> int:
    """Write `data` (stage 1 or stage 2) to `output` in a `form`; returns the number of rows.

    Without a form labelled questions become `completion`, ranked candidates `preference`. Ranked questions
    without two candidates of different rewards have no pair, and are left out with a notice. Raises InputError
    for rows that do not fit, and for a field that has the name of one of TRL's."""
    check_output(output, data)
    rows = read_rows(data, Row)
    ranked = "responses" in (rows[0].model_extra or {})
    chosen = form or ("preference" if ranked else "completion")
    if chosen not in get_args(Form):
        raise InputError(f"--form {chosen}: there is {', '.join(get_args(Form))}")
    if chosen == "preference" and not ranked:
        raise InputError(f"{data}: holds no candidates; --form preference is for ranked ones")
    tasks, left = Tasks(task, tools), LeftOut()
    written: list[dict[str, Any]] = []
    if ranked:
        for candidates in _as(Ranked, rows):
            written += (
                _pairs(tasks, candidates, left) if chosen == "preference" else [_best(tasks, candidates)]
            )
    else:
        written = list(_labelled(tasks, _as(Labelled, rows)))
    if not written:
        raise InputError(f"{data}: no two candidates of one question have different rewards")
    if chosen == "messages":
        written = [{"messages": row.pop("prompt") + row.pop("completion")} | row for row in written]
    write_rows(output, written)
    left.tell()
    return len(written)


def _as(kind: type[Any], rows: Sequence[Row]) -> list[Any]:
    for row in rows:
        for name in sorted(TAKEN & set(row.model_extra or {})):
            raise InputError(f"{row.where}: field '{name}': the name is one of TRL's; call it otherwise")
    return [validate(kind, row.model_dump(), row.where) for row in rows]


def _task(tasks: Tasks, row: Labelled | Ranked) -> TaskLike:
    named = row.task if isinstance(row, Labelled) else (row.model_extra or {}).get("task")
    return tasks.of_row(named, row.instruction, row.where)


def _prompt(task: TaskLike, instruction: str, input: str) -> dict[str, Any]:
    """The prompt, and what is offered: nothing where there is no tool, as some templates announce an empty list."""
    offered = [function_schema(tool) for tool in task.tools]
    return {"prompt": asked(instruction, input)} | ({"tools": offered} if offered else {})


def _labelled(tasks: Tasks, rows: Sequence[Labelled]) -> Iterator[dict[str, Any]]:
    """Each row as prompt and completion, second turns with the calls they belong to."""
    turns = defaultdict(list)
    for row in rows:
        if row.task == SECOND_TURN:
            turns[row.dataset, row.id.rpartition("/")[0]].append(row)
    made = []
    joined = set()
    for row in rows:
        task = _task(tasks, row)
        completion, turn = [said(task.tools, row.output)], {}
        for second in turns[row.dataset, row.id] if row.id else ():
            over = _over(task, row, second)
            if over is not None and id(second) not in joined:
                name = completion[0]["tool_calls"][0]["function"]["name"]
                completion += [
                    {"role": "tool", "name": name, "content": over},
                    {"role": "assistant", "content": second.output},
                ]
                turn = {"reading_turn": int(second.id.rpartition("/")[2])}
                joined.add(id(second))
                break
        fields = row.model_dump(mode="json", exclude={"instruction", "input", "output"}, exclude_unset=True)
        made.append(
            (row, _prompt(task, row.instruction, row.input) | {"completion": completion} | fields | turn)
        )
    return (line for row, line in made if id(row) not in joined)


def _over(task: TaskLike, row: Labelled, second: Labelled) -> str | None:
    """The tool's output over which a second turn asks, where nothing of that row would be lost; else None."""
    call = said(task.tools, row.output).get("tool_calls", [{}])[0].get("function", {"name": None})["name"]
    tool = next((tool for tool in task.tools if tool.name == call), None)
    turn = second.id.rpartition("/")[2]
    if tool is None or not turn.isdecimal():
        return None
    outputs = split_context(
        second.input
    )  # a passage stands in the context's place, a translation in the question's
    return next((out for out in outputs if reading(row, tool, out, second.output, int(turn)) == second), None)


def _pairs(tasks: Tasks, row: Ranked, left: LeftOut) -> list[dict[str, Any]]:
    lists: dict[str, list[Any]] = {name: getattr(row, name) for name in LISTS if getattr(row, name)}
    for name, values in lists.items():
        if len(values) != len(row.responses):
            raise InputError(
                f"{row.where}: field '{name}': {len(values)} entries for {len(row.responses)} responses"
            )
    task = _task(tasks, row)
    messages = [said(task.tools, text) for text in row.responses]
    kept = _kept(row)
    pairs = []
    for better, high in enumerate(row.scores):
        for worse, low in enumerate(row.scores):
            if high > low:
                sides = {"chosen": better, "rejected": worse}
                told = {
                    f"{column}_{side}": lists[name][place]
                    for name, column in LISTS.items()
                    for side, place in sides.items()
                    if name in lists
                }
                both = {side: [messages[place]] for side, place in sides.items()}
                places = {f"{PLACE}_{side}": place for side, place in sides.items()}
                pairs.append(_prompt(task, row.instruction, row.input) | both | kept | told | places)
    if not pairs:
        left.add("no two candidates have different rewards", row.where)
    return pairs


def _best(tasks: Tasks, row: Ranked) -> dict[str, Any]:
    task = _task(tasks, row)
    place = max(range(len(row.scores)), key=lambda place: row.scores[place])  # the first of equals: gold
    completion = [said(task.tools, row.responses[place])]
    return (
        _prompt(task, row.instruction, row.input)
        | {"completion": completion}
        | _kept(row)
        | {"score": row.scores[place]}
    )


def _kept(row: Ranked) -> dict[str, Any]:
    """What a ranked question says besides its candidates."""
    return row.model_dump(mode="json", exclude={"query", "responses", *LISTS}, exclude_unset=True)
