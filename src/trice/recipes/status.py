"""How far a run is, step by step, and which of its finished steps have rows that can be tried again.

Everything is read from the run's files, without a lock and without a model, so a run can be looked at while another
process works on it. Steps without rows, such as mixing, have no progress to show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trice.progress import aligned, duration, notice
from trice.storage.row_state import RowState, read_state
from trice.storage.run_store import RunStore, Step

CHEAP = ("mix", "score", "evaluate")  # kinds of steps that run again when their input changes


class Line(NamedTuple):
    """A line of the table."""

    step: str
    done: str = ""
    failed: str = ""
    remaining: str = ""
    rate: str = ""
    state: str = ""


def table(steps: Sequence[Step], store: RunStore) -> list[str]:
    """A line for each step: rows done, failed and remaining, their rate, and how long it took or will take."""
    finished = {step.name for step in steps if store.is_finished(step)}
    lines = [Line("step", "done", "failed", "remaining", "rate", "")]
    for step in steps:
        lines.append(_line(step, store.seconds(step) if step.name in finished else None))
    figures = range(1, len(Line._fields) - 1)
    return [*aligned(lines, right=figures), f"{len(finished)} of {len(steps)} steps finished"]


def _line(step: Step, seconds: float | None) -> Line:
    rows = read_state(step.progress) if step.progress else None
    state = _unfinished(step, rows) if seconds is None else f"finished in {duration(seconds)}"
    if rows is None:
        return Line(step.name, state=state)
    rate = (f"{rows.rate:,.0f}/s" if rows.rate >= 100 else f"{rows.rate:.3g}/s") if rows.rate else ""
    done, failed, remaining = map(str, (rows.done_count, rows.failed_count, rows.remaining_count))
    return Line(step.name, done, failed, remaining, rate, state)


def _unfinished(step: Step, rows: RowState | None) -> str:
    """How far an unfinished step is."""
    if rows is None:
        at = _checkpoint(step.progress) if step.progress else None
        return f"step {at[0]} of {at[1]} at the last checkpoint" if at else ""
    if rows.summary:
        return "rows finished"
    left = f"{duration(rows.remaining_count / rows.rate)} left, " if rows.rate and rows.total else ""
    return f"{left}last row {duration(max(0.0, time.time() - rows.updated_at))} ago"


def _checkpoint(folder: Path) -> tuple[int, int] | None:
    """The training steps at the last whole checkpoint, and in total."""
    found = []
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_bytes())
            found.append((int(state["global_step"]), int(state["max_steps"])))
        except (OSError, ValueError, KeyError):  # it is being written or removed at this moment
            continue
    return max(found, default=None)


def to_retry(steps: Sequence[Step], store: RunStore) -> set[str]:
    """The finished steps whose failed rows are tried again, by name. Cheap steps after them run again because
    their input changes. A step is left as it is, with a notice, if a costly step has already used its rows."""
    names = set()
    for step in steps:
        rows = read_state(step.progress) if step.progress and store.is_finished(step) else None
        if rows is None or not rows.failed_count:
            continue
        users = [each for each in _costly_users(step, steps) if _has_begun(each, store)]
        if users:
            count = rows.failed_count
            notice(
                f"{step.name}: {count} failed rows are not tried again: '{users[0].name}' has used the others"
            )
        else:
            names.add(step.name)
    return names


def _costly_users(step: Step, steps: Sequence[Step]) -> list[Step]:
    """The steps that use the files of `step`, directly or through cheap steps, and are too costly to repeat."""
    files, users = set(step.outputs), []
    for each in steps[steps.index(step) + 1 :]:
        if not files.isdisjoint(each.inputs):
            if each.kind in CHEAP or each.progress is None:
                files.update(each.outputs)
            else:
                users.append(each)
    return users


def _has_begun(step: Step, store: RunStore) -> bool:
    progress = step.progress
    return progress is not None and (
        store.is_finished(step) or progress.exists() or read_state(progress) is not None
    )
