"""Label: a teacher writes a tool call for each question that the base model does not know.

Every label is executed, and kept only if it is a call whose result is the gold answer, or, for a passage, contains
it. Next to the output `x.json`, `x_rejected.json` has the questions without an accepted label, each with the
reason, and `x_yield.json` the counts. With `reading`, `x_reading.json` has the second turns of accepted calls with
their gold answers. Direct answers to known questions are not labels: `trice.stages.mix` adds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.messages import Message
from trice.progress import notice
from trice.stages.generate import with_instruction
from trice.stages.gold_calls import MAX_SHOWN, gold_conversations, gold_turns
from trice.stages.grading import Executed, execute, judge
from trice.stages.teachers import FAILURE, Labels, Teacher
from trice.storage import files
from trice.storage.row_store import RowStore
from trice.tasks import Tasks, check_questions
from trice.tasks.outcome import Parsed
from trice.tools import Tool
from trice.tools.answer_matching import contains_answer
from trice.tools.call_text import first_call_is, is_one_line, write_call
from trice.tools.executor import remove_sidecars
from trice.tools.second_turn import split_context
from trice.training_data import LabeledQuestion
from trice.types import GRADED, Outcome, Question, Response

# Fields of the base model's response or of an earlier label, which are not the question's.
LEFT_OUT = {*Response.model_fields, "rejected", "label"} - set(Question.model_fields)
READING_FIELDS = {"id", "dataset", "task", "answer", "turn", "first_turn"}


@dataclass(frozen=True)
class Yield:
    """How many of `total` questions have an accepted label, and how many were rejected for each kind of reason: the
    part before the colon in the rejected rows. `detail` is one such row's whole reason, if it says more than its kind.
    """

    kept: int
    total: int
    reasons: dict[str, int]
    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        share = f"kept {self.kept} of {self.total} labels ({self.kept / self.total:.1%})"
        rejected = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        example = f" (for example {self.detail})" if self.detail else ""
        return f"{share}; rejected: {rejected}{example}" if rejected else share


class _Verdict(NamedTuple):
    """The result for one question: the accepted call with its output and tool, or the reason for the rejection and the
    label's text. `completion` are the messages of a label of several calls, or of a conversation."""

    reason: str
    text: str | None = None
    call: str | None = None
    output: str | None = None
    tool: Tool | None = None
    completion: list[Message] | None = None


def label(
    data: Path,
    output: Path,
    tasks: Tasks,
    teacher: Teacher,
    *,
    reading: float = 0,
    limit: int | None = None,
    retry: bool = False,
) -> Yield:
    """Label the questions in `data` (rows of `<dataset>_wrong.json`).

    Args:
        data: Questions with gold answers.
        output: Where the labeled questions go. If it is finished already, nothing is done.
        tasks: What the questions belong to.
        teacher: Writes the calls.
        reading: The share of the accepted calls, spread evenly, for which the second turn becomes a target as well.
        limit: Only the first `limit` questions.
        retry: Whether the teacher is asked again for labels to which no reply came.

    A killed run resumes, and no label that arrived is requested twice.

    Raises:
        InputError: If a row does not fit.
        TriceError: If the teacher cannot be reached at all.
    """
    rejected_file, counts = (_next_to(output, part) for part in ("rejected", "yield"))
    if data.resolve() in (path.resolve() for path in (output, rejected_file, reading_path(output))):
        raise InputError(f"{data}: would be overwritten; choose another output than {output}")
    questions = _questions(data, tasks, limit)
    for question in questions if teacher.endpoint is not None else ():
        if question.messages is not None or question.expected_calls is not None:
            raise InputError(
                f"{question.where}: the teacher 'endpoint' labels neither conversations nor questions with expected "
                "calls; choose --teacher annotations"
            )
    settings = {"task": tasks.identity, **teacher.description, "data": files.digest(data), "limit": limit}
    with RowStore(
        output, settings | {"reading": reading, "tools": tasks.sources or None}, len(questions), retry=retry
    ) as finished:
        if finished.is_finished and counts.is_file():
            return Yield(**json.loads(files.read_text(counts)))
        verdicts = _teach(finished, tasks, questions, teacher)
        pairs = list(zip(questions, verdicts, strict=True))
        rejected = [_rejected(question, verdict) for question, verdict in pairs if not verdict.call]
        result = _summary(verdicts)
        files.write_or_remove(rejected_file, rejected)
        files.write_text(counts, json.dumps(asdict(result)) + "\n")
        if unanswered := result.reasons.get(FAILURE):
            notice(
                f"{unanswered} questions got no reply; they are in {rejected_file}, which label accepts as data"
            )
        taught = _spread([_reading(*each) for each in pairs if each[1].call], reading) if reading else []
        files.write_or_remove(reading_path(output), [row for rows in taught for row in rows])
        finished.finish(_labeled(tasks, question, verdict) for question, verdict in pairs if verdict.call)
    remove_sidecars(output, "calls")
    return result


def _questions(data: Path, tasks: Tasks, limit: int | None) -> list[Question]:
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} is less than 1")
    questions = files.read_rows(data, Question)
    check_questions(tasks, questions)
    return questions[:limit]


def _teach(
    finished: RowStore, tasks: Tasks, questions: Sequence[Question], teacher: Teacher
) -> list[_Verdict]:
    """The verdict on every question, after all turns of the teacher. Each reply is stored when it arrives, and those
    of an earlier, killed run are reused."""
    client = teacher.endpoint
    if client is not None:
        client.account.resume(finished.spent, finished.spend)
    replies = {(row["turn"], row["number"]): row["label"] for row in finished.rows.values()}
    verdicts: dict[int, _Verdict] = {}
    for turn in range(teacher.turns):
        rejected = {i: q for i, q in enumerate(questions) if i not in verdicts or not verdicts[i].call}
        unasked = {i: question for i, question in rejected.items() if (turn, i) not in replies}

        def store(labels: Labels, turn: int = turn) -> None:
            rows = [{"turn": turn, "number": i, "label": text} for i, text in labels.items()]
            finished.add({f"{turn}:{row['number']}": row for row in rows})
            replies.update({(turn, i): text for i, text in labels.items()})

        missing = teacher.teach(tasks, unasked, turn, store) if unasked else {}
        labels = {i: replies[turn, i] for i in rejected if (turn, i) in replies}
        # The reply of a model is judged, not the data's own calls.
        native = {i for i in labels if client is None and gold_turns(rejected[i])}
        verdicts |= _judge(tasks, rejected, labels, native, finished.output)
        for i in rejected.keys() - labels.keys():  # the label of an earlier turn says more than a missing one
            verdicts.setdefault(i, _Verdict(missing[i]))
    for i, verdict in verdicts.items():
        if verdict.reason.startswith(FAILURE):
            finished.fail(f"0:{i}", verdict.reason)  # under the key of the first turn, which a reply clears
    return [verdicts[i] for i in range(len(questions))]


def _judge(
    tasks: Tasks, questions: Mapping[int, Question], labels: Labels, native: Collection[int], output: Path
) -> dict[int, _Verdict]:
    """Execute labels, and judge their results by what the questions carry. Those of `native` questions become
    conversations."""
    several = {i: questions[i] for i in labels if i in native}
    found = gold_conversations(tasks, several, output) if several else {}
    verdicts = {
        i: _Verdict("", labels[i], labels[i], completion=messages)
        if not reason
        else _Verdict(reason, labels[i])
        for i, (messages, reason) in found.items()
    }
    single = {i: text for i, text in labels.items() if i not in several}
    rows = [
        Response.model_validate(questions[i].model_dump(exclude=GRADED) | {"response": text})
        for i, text in single.items()
    ]
    executed = execute(tasks, rows, output=output)
    return verdicts | {i: _verdict(tasks, each) for i, each in zip(single, executed, strict=True)}


def _verdict(tasks: Tasks, executed: Executed) -> _Verdict:
    response = judge(tasks, executed)
    text = response.response
    if response.outcome is Outcome.MALFORMED:
        return _Verdict(f"malformed: {response.reason}", text)
    if response.expected_calls == []:  # no call is wanted: the answer itself is the label
        return _Verdict("", text, text) if response.correct else _Verdict(_what_is_wrong(response), text)
    if response.outcome is not Outcome.CALLED or response.execution is None:
        return _Verdict("no call", text)
    if response.execution.error:
        return _Verdict(f"execution error: {response.execution.error}", text)
    if not response.correct:
        return _Verdict(_what_is_wrong(response), text)
    try:
        call = _call_alone(executed.parsed)
    except ValueError as error:
        return _Verdict(f"cannot be stored: {error}", text)
    return _Verdict("", text, call, response.execution.output or "", executed.parsed.tool)


def _what_is_wrong(response: Response) -> str:
    """The calls, if the question says which are expected and they are others, else the answer."""
    if response.reason:
        return f"wrong calls: {response.reason}"
    return f"wrong answer: {(response.prediction or '')[:MAX_SHOWN]}"


def _call_alone(parsed: Parsed) -> str:
    """The call as it was written, without the text around it; a call over several lines is written on one. Raises
    ValueError if the result would be parsed as another call."""
    task, (_, call, _, written), tool, _ = parsed
    if tool is None or call is None or written is None:
        raise ValueError("there is no call")
    if not is_one_line(written):
        collapsed = " ".join(written.split())  # in most arguments, white space has no meaning
        written = collapsed if first_call_is([tool], collapsed, call) else write_call(tool, call.arguments)
    if not first_call_is(task.tools, written, call):
        raise ValueError("without the text around it, it is parsed as another call")
    return written


def _spread(turns: Sequence[list[LabeledQuestion]], share: float) -> list[list[LabeledQuestion]]:
    """This share of the calls' second turns, spread evenly over the calls that have any."""
    present = [rows for rows in turns if rows]
    return [rows for i, rows in enumerate(present) if int((i + 1) * share) > int(i * share)]


def _reading(question: Question, verdict: _Verdict) -> list[LabeledQuestion]:
    """The second turns of an accepted call whose context contains a gold answer, with that answer as the target."""
    rows = []
    for asked in (
        verdict.tool.second_turn(question, verdict.output) if verdict.tool and verdict.output else []
    ):
        context = split_context(asked.input)[0]
        gold = [answer for answer in question.answers if contains_answer(context, [answer])]
        if gold:
            fields = {"instruction": asked.instruction, "input": asked.input, "output": gold[0]}
            rows.append(LabeledQuestion.model_validate(asked.model_dump(include=READING_FIELDS) | fields))
    return rows


def _question_fields(question: Question) -> dict[str, Any]:
    return question.model_dump(exclude=LEFT_OUT, exclude_none=True)


def _labeled(tasks: Tasks, question: Question, verdict: _Verdict) -> LabeledQuestion:
    """The stage-1 row: the accepted call alone is the target, without the text around it."""
    fields = {
        "instruction": with_instruction(question, tasks.of(question)).instruction,
        "input": question.input,
        "output": verdict.call,
        "result": None if verdict.completion else verdict.output,
        "completion": verdict.completion,
    }
    return LabeledQuestion.model_validate(_question_fields(question) | fields)


def reading_path(output: Path) -> Path:
    """The file of the second turns of the labels in `output`."""
    return _next_to(output, "reading")


def _next_to(output: Path, part: str) -> Path:
    return output.with_name(f"{output.stem}_{part}.json")


def _rejected(question: Question, verdict: _Verdict) -> dict[str, Any]:
    text = {} if verdict.text is None else {"label": verdict.text}
    return _question_fields(question) | {"rejected": verdict.reason} | text


def _summary(verdicts: Sequence[_Verdict]) -> Yield:
    reasons = [verdict.reason for verdict in verdicts if not verdict.call]
    kinds = Counter(reason.partition(":")[0] for reason in reasons)
    detail = next((each for each in reasons if ":" in each and not each.startswith("wrong answer")), "")
    detail = " ".join(detail.split())[:200]
    return Yield(len(verdicts) - kinds.total(), len(verdicts), dict(kinds.most_common()), detail)
