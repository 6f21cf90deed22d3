"""The questions that two data sets share, so that a model is not tested on what it was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from trice.tools.answer_matching import words
from trice.types import Question


class Overlap(NamedTuple):
    """The questions that two data sets share, as pairs of ids: of the training row and of the test row.

    Attributes:
        exact: The same text.
        near: The same words, apart from case, punctuation and spaces; not the same text.
    """

    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]


def check_overlap(train: Sequence[Question], test: Sequence[Question]) -> Overlap:
    """The pairs of rows that share a question.

    Every user message of a conversation is compared with every one of the other. Other wordings of a question are not
    found.
    """
    by_text, by_words = _by_question(train, str), _by_question(train, _as_words)
    exact, near = [], []
    for row in test:
        same = _pairs(row, by_text, str)
        exact += same
        near += [pair for pair in _pairs(row, by_words, _as_words) if pair not in same]
    return Overlap(exact, near)


def _as_words(text: str) -> str:
    return " ".join(words(text))


def _questions(row: Question, normalise: Callable[[str], str]) -> list[str]:
    texts = [normalise(text) for text in row.user_texts]
    return [text for text in dict.fromkeys(texts) if text]


def _by_question(rows: Iterable[Question], normalise: Callable[[str], str]) -> Mapping[str, list[Question]]:
    found = defaultdict(list)
    for row in rows:
        for text in _questions(row, normalise):
            found[text].append(row)
    return found


def _pairs(
    row: Question, found: Mapping[str, list[Question]], normalise: Callable[[str], str]
) -> list[tuple[str, str]]:
    return [(other.id, row.id) for text in _questions(row, normalise) for other in found.get(text, ())]
