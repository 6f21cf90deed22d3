"""How far a run is, step by step, and which of its finished steps have rows that may be tried again.

All of it is read from the run's files, without a lock and without a model: a run can be looked at while another
process is at work on it. What a step without rows is doing (mixing, scoring) is not told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trice.progress import notice
from trice.storage.run_store import Ledger, standing
from trice.storage.steps import Step, Steps

# Kinds of steps by what is made of their rows: by steps whose cost forbids to do it again, and by those that are
# done again with them.
MADE_OF: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "split": (("label", "collect", "train"), ()),
    "label": (("collect", "train"), ("mix", "collect gold", "score")),
    "collect": (("train stage-2", "train both"), ("score",)),
}


class Line(NamedTuple):
    """A line of the table."""

    step: str
    done: str = ""
    failed: str = ""
    remaining: str = ""
    rate: str = ""
    state: str = ""


def table(plan: Sequence[Step], steps: Steps) -> list[str]:
    """A line for each step: rows done, failed and remaining, their rate, and how long it took or will take."""
    lines = [Line("step", "done", "failed", "remaining", "rate", "")]
    lines += [_line(step, steps.find(step.name)) for step in plan]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, figures, widths[1:]), state]).rstrip()
        for name, *figures, state in lines
    ]
    finished = sum(steps.find(step.name) is not None for step in plan)
    return [*shown, f"{finished} of {len(plan)} steps finished"]


def _line(step: Step, finished: dict[str, Any] | None) -> Line:
    ledger = standing(step.output) if step.output else None
    state = f"finished in {_span(finished['seconds'])}" if finished else _state(step, ledger)
    if ledger is None:
        return Line(step.name, state=state)
    rate = (f"{ledger.rate:,.0f}/s" if ledger.rate >= 100 else f"{ledger.rate:.3g}/s") if ledger.rate else ""
    done, failed, remaining = (str(count) for count in (ledger.done, ledger.lost, ledger.remaining))
    return Line(step.name, done, failed, remaining, rate, state)


def _state(step: Step, ledger: Ledger | None) -> str:
    """How far a step is that is not finished."""
    if ledger is None:
        at = _checkpoint(step.output) if step.output else None
        return f"step {at[0]} of {at[1]} at the last checkpoint" if at else ""
    if ledger.finished:
        return "rows finished"
    left = f"{_span(ledger.remaining / ledger.rate)} left, " if ledger.rate and ledger.total else ""
    return f"{left}last row {_span(max(0.0, time.time() - ledger.last))} ago"


def _checkpoint(folder: Path) -> tuple[int, int] | None:
    """The steps that a training had taken at its last whole checkpoint, and all it takes."""
    found = []
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_bytes())
            found.append((int(state["global_step"]), int(state["max_steps"])))
        except (OSError, ValueError, KeyError):  # being written, or removed, at this moment
            continue
    return max(found, default=None)


def _span(seconds: float) -> str:
    """A time in words."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def to_retry(plan: Sequence[Step], steps: Steps, prefix: str) -> set[str]:
    """The finished steps with failed rows, and those that are done again with them. A step stays as it is where
    a model was trained on its rows, or other rows were asked for: that is told."""
    again: set[str] = set()
    names = {step.name.removeprefix(prefix): step for step in plan}
    for name, step in names.items():
        ledger = standing(step.output) if step.output and steps.find(step.name) else None
        if ledger is None or not ledger.lost:
            continue
        kind, _, rest = name.partition(" ")
        costly, cheap = MADE_OF.get(kind, ((), (f"evaluate {rest}",)))
        used = [each for each in names if each.startswith(costly) and _begun(names[each], steps)]
        if used:
            notice(
                f"{step.name}: {ledger.lost} failed rows stay as they are: '{used[0]}' has used the others"
            )
        else:
            again |= {step.name, *(prefix + each for each in cheap)}
    return again


def _begun(step: Step, steps: Steps) -> bool:
    """Whether a step with an output of its own has begun."""
    if step.output is None:
        return False
    return steps.find(step.name) is not None or step.output.exists() or standing(step.output) is not None
