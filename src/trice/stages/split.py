"""Split: the base model answers every training question without tools; what it does not know needs one.

A lucky guess is not knowledge: a question that was answered right is asked again, with sampled answers, and is
known only if the share of right answers (the first one included) is high enough. If only a tool can know the answer
(`tool: required`), the question is never known. Known and unknown questions go to `<dataset>_right.json` and
`<dataset>_wrong.json` next to the data, with the first, greedy answer as the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from trice.errors import InputError
from trice.models.sampling import KNOWN, SPLIT_SAMPLES, SPLIT_TEMPERATURE
from trice.stages.generate import Resample, generate
from trice.stages.grading import judge_response, with_execution
from trice.stages.model_spec import ModelSpec
from trice.storage.files import read_rows, write_or_remove
from trice.tasks import Tasks, check_questions
from trice.tasks.outcome import parse
from trice.tools.executor import sidecar
from trice.types import Outcome, Question, Response


class SplitFiles(NamedTuple):
    """The two files of a split, and how many questions each holds. A file without questions does not exist."""

    known: Path
    unknown: Path
    known_count: int
    unknown_count: int

    def __str__(self) -> str:
        total = self.known_count + self.unknown_count
        return f"{self.known_count} of {total} right without a tool ({self.known_count / max(1, total):.1%})"


def split(
    data: Path,
    tasks: Tasks,
    spec: ModelSpec,
    *,
    samples: int = SPLIT_SAMPLES,
    temperature: float = SPLIT_TEMPERATURE,
    known: float = KNOWN,
    limit: int | None = None,
    retry: bool = False,
) -> SplitFiles:
    """Split `data` (rows of id, question, answer) by what the model knows.

    Each question is answered as `spec` says, without tools. A response with a call counts as wrong, and the call is
    not executed. If that answer is right, `samples - 1` more are drawn at `temperature`, and the question is known if
    at least the share `known` of all answers is right. `retry` asks questions again that got no response; until then
    they are in neither file.
    """
    if samples > 1 and (temperature <= 0 or not 0 < known <= 1):
        raise InputError(
            f"{samples} samples need a temperature above 0 and a known share of 0 to 1, "
            f"not temperature {temperature:g} and known {known:g}"
        )
    questions = read_rows(data, Question)
    check_questions(tasks, questions[:limit])
    _check_overwritten(data, questions)

    def passes(row: Response) -> bool:
        return bool(_judged(tasks, row).correct) and not tasks.requires_tool(row)

    sampling = replace(spec.sampling, samples=samples, temperature=temperature)
    rows = generate(
        data, answers_path(data), tasks, _without_tools(spec), origin="base", limit=limit, retry=retry,
        execute_calls=False, resample=Resample(sampling, passes) if samples > 1 else None,
    )  # fmt: skip
    right, wrong = _known_and_unknown(tasks, [_judged(tasks, row) for row in rows], samples, known)
    files = SplitFiles(_path(data, "right"), _path(data, "wrong"), len(right), len(wrong))
    write_or_remove(files.known, right)
    write_or_remove(files.unknown, wrong)
    return files


def _path(data: Path, half: str) -> Path:
    return data.with_name(f"{data.stem}_{half}.json")


def _check_overwritten(data: Path, questions: list[Question]) -> None:
    """Raise InputError if an output holds other questions: data sets may be called `x` and `x_right`."""
    ids = {row.id for row in questions}
    for path in (_path(data, "right"), _path(data, "wrong")):
        present = read_rows(path, Question) if path.is_file() and path.stat().st_size else []
        for other in present:
            if other.id not in ids:
                raise InputError(
                    f"{other.where}: question '{other.id}' is not in {data}, and {path.name} would be overwritten; "
                    "move that file, or rename the data"
                )


def _without_tools(spec: ModelSpec) -> ModelSpec:
    """The same without tools, unless the endpoint cannot prevent calls."""
    client = spec.client
    if client is not None and client.api == "completions" and client.tokenizer is None:
        return spec
    return replace(spec, tool_choice="none" if spec.tool_choice == "auto" else spec.tool_choice)


def answers_path(data: Path) -> Path:
    """The file of all answers while `data` is being split."""
    return sidecar(data, "answers")


def _known_and_unknown(
    tasks: Tasks, rows: Sequence[Response], samples: int, known: float
) -> tuple[list[Response], list[Response]]:
    """The first answers to known questions, and to the others. A question that lacks some of its sampled answers
    is in neither list."""
    right, wrong = [], []
    answers: dict[tuple[str, str], dict[int, Response]] = {}
    for row in rows:
        answers.setdefault((row.dataset, row.id), {})[row.sample] = row
    for by_sample in answers.values():
        first = by_sample[0]
        if not first.correct or tasks.requires_tool(first):
            wrong.append(first)
        elif samples == 1:
            right.append(first)
        elif len(by_sample) == samples:
            share = sum(bool(row.correct) for row in by_sample.values()) / samples
            row = first.model_copy(update={"known_share": round(share, 6)})
            (right if share >= known else wrong).append(row)
    return right, wrong


def _judged(tasks: Tasks, row: Response) -> Response:
    """The response with its verdict. One with a call is wrong, whatever it says."""
    parsed = parse(tasks, row)
    row = with_execution(row, parsed, None, None)
    correct = row.outcome is Outcome.ANSWERED and judge_response(row, parsed).correct
    return row.model_copy(update={"correct": correct})
