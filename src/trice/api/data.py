"""Questions from files, rows, pandas frames and Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trice.errors import InputError
from trice.storage.files import refuse_repeated, validate, write_rows
from trice.storage.row_reader import records, without_nulls
from trice.types import Question

if TYPE_CHECKING:
    from trice.tasks import TaskLike

Source = str | Path | Iterable[Any]
"""A file, or rows: mappings, `Question`s, a pandas frame, a Hugging Face data set."""


def questions(source: Source, *, dataset: str = "") -> list[Question]:
    """Read questions from a file or from rows.

    Args:
        source: A file of JSON lines, JSON, CSV or Parquet (also compressed with gzip); or mappings, `Question`s, a
            pandas frame or a Hugging Face data set. Each row has `question`, and `answer` with the gold answer or a
            list of accepted ones; or it is a conversation with `messages` and `tools`, or in the form of TRL or
            ShareGPT (docs/how-to/conversation-data.md). `id`, `dataset`, `expression` (what a call should be given)
            and `tool` (`required`) are optional.
        dataset: The name that results are counted under.

    Returns:
        `Question` records, in order. Rows without an `id` get one from their number.

    Raises:
        InputError: If a row does not fit, naming its place and field, or two rows have the same id.

    Example:
        >>> import trice
        >>> rows = trice.questions([{"question": "How many is a dozen?", "answer": "12"}], dataset="shop")
        >>> rows[0].id, rows[0].answers
        ('shop-1', ['12'])
    """
    made = []
    for number, (where, row) in enumerate(_rows(source), start=1):
        if isinstance(row, Question):
            value: Any = row.model_dump()
        elif isinstance(row, Mapping):
            name = f"{dataset or 'question'}-{number}"
            value = _read_chat(where, name, dataset, row) if _is_chat(row) else {"id": name, **row}
        else:
            value = row
        if dataset and isinstance(value, dict):
            value["dataset"] = dataset
        made.append(validate(Question, value, where))
    refuse_repeated(made)
    return made


def _is_chat(row: Mapping[str, Any]) -> bool:
    """Whether a row is a conversation in the form of TRL or ShareGPT, or one with its answer."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list | tuple) and messages else None
    answered = isinstance(last, Mapping) and last.get("role") == "assistant"
    texts = row.get("question") is not None or row.get("input") is not None
    return answered or (not texts and bool(row.get("prompt") or row.get("conversations")))


def _read_chat(where: str, name: str, dataset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    from trice.datasets.benchmark import Record
    from trice.datasets.conversations import Unreadable, read_conversation

    try:
        read = read_conversation(Record(where, name, row), dataset)
    except Unreadable as reason:
        raise InputError(f"{where}: {reason}") from None
    return read.question.model_dump(exclude_none=True)


def _rows(source: Source) -> Iterator[tuple[str, Any]]:
    if isinstance(source, str | Path):
        yield from records(Path(source))
        return
    frame: Any = source
    if hasattr(frame, "to_dict") and hasattr(frame, "columns"):  # of pandas
        source = frame.astype(object).where(frame.notna(), None).to_dict("records")
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise InputError(f"questions: expected a file or rows, not {type(source).__name__}")
    is_table = hasattr(source, "features")  # a data set of Hugging Face
    for number, row in enumerate(source, start=1):
        yield f"row {number}", without_nulls(row) if is_table else row


def require_questions(source: Source) -> list[Question]:
    """Read at least one question. Raises InputError if there is none."""
    rows = questions(source)
    if not rows:
        raise InputError("questions: there are no rows")
    return rows


def write_questions(folder: Path, source: Source, task: str | TaskLike | None = None) -> Path:
    """Write the questions as a stage's input file, and return its path. With a task, raises InputError for a gold
    answer that is missing or could never be matched."""
    rows = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else None
    # A Response is a Question too, and keeps its fields.
    given = rows if rows and all(isinstance(row, Question) for row in rows) else require_questions(source)
    if task is not None:
        from trice.tasks import Tasks, check_questions

        check_questions(Tasks(task), given)
    path = folder / "questions.json"
    write_rows(path, given)
    return path


@contextmanager
def working_folder(output: str | Path | None) -> Iterator[Path]:
    """The folder `output`, or a temporary one."""
    if output is None:
        with TemporaryDirectory(prefix="trice-") as made:
            yield Path(made)
    else:
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"output {output}: is no folder and cannot become one ({error.strerror})"
            ) from None
        yield Path(output)
