"""HotpotQA: questions over several Wikipedia paragraphs, a test set without training questions.

Only rows with their paragraphs (`passages`: `title`, `text`), which the retriever searches, are read: the official
distractor file, or a sample of the training file in the same form. The answers `yes` and `no` are judged like
others, although a response may contain them by chance. The supporting facts are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from trice.datasets.benchmark import (
    Benchmark,
    Dropped,
    HubRows,
    Parts,
    Record,
    hub_rows,
    read_list,
    tidy_text,
)
from trice.errors import InputError
from trice.types import Question

NAME = "HotpotQA"
FILE = "hotpotqa/hotpot_dev_distractor_v1.json or hotpotqa/hotpotqa_train_100_with_context.json"


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows, in the official form."""
    rows = hub_rows(splits, "validation", "test", "id")
    return {"test": [row.with_fields(context=_pairs(row.fields.get("context"))) for row in rows]}


def _pairs(context: Any) -> Any:
    """Titles and sentences as pairs, also if they are two columns."""
    if isinstance(context, Mapping):
        return [list(pair) for pair in zip(context["title"], context["sentences"], strict=True)]
    return context


def passages(record: Record) -> list[dict[str, str]]:
    """The paragraphs. Raises InputError if they are not pairs of a title and sentences."""
    found = []
    for position, pair in enumerate(record.items("context"), start=1):
        try:
            title, sentences = pair
            found.append({"title": tidy_text(title), "text": tidy_text("".join(sentences))})
        except (TypeError, ValueError):
            raise InputError(
                f"{record.where}: field 'context': paragraph {position} is not a pair of a title and sentences"
            ) from None
    return found


def question(record: Record) -> Question | Dropped:
    """A record as a question, with its passages, and its type and level if they are known."""
    known = {field: record.fields.get(field) for field in ("type", "level")}
    return record.question(
        NAME, tidy_text(record.text("question")), record.text("answer"), passages=passages(record), **known
    )


BENCHMARK = Benchmark(
    name=NAME,
    task="hotpot",
    licence="CC BY-SA 4.0",
    files={"test": [FILE]},
    home="hotpotqa/hotpot on GitHub",
    hub={"path": "hotpotqa/hotpot_qa", "name": "distractor"},
    test=7405,
    parse=partial(read_list, field="_id"),
    from_hub=from_hub,
    question=question,
)
