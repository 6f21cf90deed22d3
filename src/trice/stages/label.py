"""Label: the questions the base model got wrong receive a tool call from a teacher.

Every label is executed, and kept only if it is a call whose result is the gold answer. Beside the output
`x.json` stand `x_rejected.json`, the questions without an accepted label, each with the reason (only where
there are any; it can be labelled again), and `x_yield.json`, how many were kept and why the others were not.

Does not cover direct answers for the questions the base model got right: `trice.stages.mix` joins those.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trice import calls, journal
from trice.errors import InputError
from trice.journal import Journal, notice
from trice.records import Labelled, Outcome, Question, Response
from trice.stages.teachers import Labels, Teacher
from trice.tasks import Task, check_questions, grade, load_task

# What is known of the base model's response, or of an earlier label: not the question's own fields.
LEFT_OUT = {*Response.model_fields, "rejected", "label"} - set(Question.model_fields)


@dataclass(frozen=True)
class Yield:
    """How many of `total` questions got an accepted label, and how many were rejected for each reason (the
    reason's kind: what stands before the colon in the rejected rows)."""

    kept: int
    total: int
    reasons: dict[str, int]

    def __str__(self) -> str:
        share = f"kept {self.kept} of {self.total} labels ({self.kept / self.total:.1%})"
        rejected = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        return f"{share}; rejected: {rejected}" if rejected else share


class _Verdict(NamedTuple):
    """What became of a question: the accepted call as written, or why there is none, and the label's text."""

    reason: str
    text: str | None = None
    call: str | None = None


def label(data: Path, output: Path, task: str, teacher: Teacher, limit: int | None = None) -> Yield:
    """Label the questions in `data` (rows of `<dataset>_wrong.json`), the first `limit` of them if given.

    Can be killed and run again: no label that came back is asked for twice. Raises InputError for rows that
    do not fit, and TriceError where the teacher cannot be reached at all."""
    if data.resolve() in (output.resolve(), _rejected_path(output).resolve()):
        raise InputError(f"{data}: would be overwritten; choose another output than {output}")
    judge = load_task(task)
    questions = _questions(data, judge, limit)
    settings = {"task": task, **teacher.description, "data": journal.digest(data), "limit": limit}
    with Journal(output, settings) as finished:
        verdicts = _teach(finished, judge, questions, teacher)
        pairs = list(zip(questions, verdicts, strict=True))
        rejected = [_rejected(question, verdict) for question, verdict in pairs if not verdict.call]
        result = _summary(verdicts)
        _write_beside(output, rejected, result)
        finished.finish(
            _labelled(judge, question, verdict.call) for question, verdict in pairs if verdict.call
        )
    return result


def _questions(data: Path, task: Task, limit: int | None) -> list[Question]:
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} is less than 1")
    questions = journal.read_rows(data, Question)
    check_questions(task, questions)
    return questions[:limit]


def _teach(finished: Journal, task: Task, questions: Sequence[Question], teacher: Teacher) -> list[_Verdict]:
    """The verdict on every question, after as many turns as the teacher takes. Each reply is stored as it
    comes; those of an earlier, killed run are found in the journal."""
    replies = {(row["turn"], row["number"]): row["label"] for rows in finished.units.values() for row in rows}
    verdicts: dict[int, _Verdict] = {}
    for turn in range(teacher.turns):
        rejected = {i: q for i, q in enumerate(questions) if i not in verdicts or not verdicts[i].call}
        unasked = {i: question for i, question in rejected.items() if (turn, i) not in replies}

        def store(labels: Labels, turn: int = turn) -> None:
            rows = [{"turn": turn, "number": i, "label": text} for i, text in labels.items()]
            finished.add(f"{turn}:{min(labels)}", rows)
            replies.update({(turn, i): text for i, text in labels.items()})

        missing = teacher.teach(task, unasked, turn, store) if unasked else {}
        for i, question in rejected.items():
            if (turn, i) in replies:
                verdicts[i] = _judge(task, question, replies[turn, i])
            else:  # an earlier turn's label says more than this turn's silence
                verdicts.setdefault(i, _Verdict(missing[i]))
    return [verdicts[i] for i in range(len(questions))]


def _judge(task: Task, question: Question, text: str) -> _Verdict:
    """Execute a label and say whether its result is the gold answer."""
    response = grade(task, question, text)
    if response.outcome is Outcome.MALFORMED:
        return _Verdict(f"malformed: {response.reason}", text)
    if response.outcome is not Outcome.CALLED:
        return _Verdict("no call", text)
    if response.execution and response.execution.error:
        return _Verdict(f"execution error: {response.execution.error}", text)
    if not response.correct:
        return _Verdict(f"wrong answer: {response.pred}", text)
    return _Verdict("", text, calls.read(text, {task.tool.name: task.tool.parse}).written)


def _own_fields(question: Question) -> dict[str, Any]:
    return {key: value for key, value in question.model_dump().items() if key not in LEFT_OUT}


def _labelled(task: Task, question: Question, call: str) -> Labelled:
    """The stage-1 row: the accepted call alone is the target, on one line, whatever text stood around it."""
    instruction = question.instruction or task.instruction
    fields = {"instruction": instruction, "input": question.input, "output": " ".join(call.split())}
    return Labelled.model_validate(_own_fields(question) | fields)


def _rejected_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_rejected.json")


def _rejected(question: Question, verdict: _Verdict) -> dict[str, Any]:
    text = {} if verdict.text is None else {"label": verdict.text}
    return _own_fields(question) | {"rejected": verdict.reason} | text


def _summary(verdicts: Sequence[_Verdict]) -> Yield:
    kinds = Counter(verdict.reason.partition(":")[0] for verdict in verdicts if not verdict.call)
    return Yield(len(verdicts) - kinds.total(), len(verdicts), dict(kinds.most_common()))


def _write_beside(output: Path, rejected: Sequence[dict[str, Any]], result: Yield) -> None:
    path = _rejected_path(output)
    if rejected:
        journal.write_rows(path, rejected)
    else:
        path.unlink(missing_ok=True)
    journal.write_text(output.with_name(f"{output.stem}_yield.json"), json.dumps(asdict(result)) + "\n")
    if unanswered := result.reasons.get("endpoint failure"):
        notice(f"{unanswered} questions got no reply: they stand in {path}, which label takes as data too")
