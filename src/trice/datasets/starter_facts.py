"""The starter sets of facts (`facts.yaml`): open questions (`starter-qa`) and cloze sentences (`starter-lama`).

A fact is in the training part of both sets or in the test part of both, whatever the seed, so no test question is
about a fact that was trained on in either form. Facts are popular or obscure, since a small model knows only some
of them and WikiSearch finds only some.

Facts that change within years (officeholders, populations, records) are not included.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from trice.datasets.starter_common import Parts, read_yaml, take_questions
from trice.types import Question

TEST_SHARE = 4  # one fact in so many is a test fact


class Fact(NamedTuple):
    """A subject with its relation, the accepted answers, and the texts of its questions."""

    relation: str
    subject: str
    answers: list[str]
    level: str
    texts: list[str]

    @property
    def test(self) -> bool:
        """Whether it belongs to the test parts: by a hash, so that a new fact does not change the part of
        others."""
        digest = hashlib.sha256(f"{self.relation}:{self.subject}".encode()).digest()
        return digest[0] % TEST_SHARE == 0

    def row(self, text: str) -> dict[str, Any]:
        """The fields of a question that asks for it with one of its texts."""
        words = text.replace("{}", self.subject)
        return {
            "input": words[0].upper() + words[1:],
            "answer": self.answers,
            "relation": self.relation,
            "subject": self.subject,
            "level": self.level,
            "language": "en",
        }


_file = partial(read_yaml, __file__)


@dataclass(frozen=True)
class FactSet:
    """A data set made from the facts, with the texts under `form`."""

    name: str
    task: str
    form: str

    def facts(self) -> list[Fact]:
        """All its facts, in the file's order."""
        return [
            Fact(
                relation, subject, [answers] if isinstance(answers, str) else answers, level, about[self.form]
            )
            for relation, about in _file().items()
            for level in ("popular", "obscure")
            for subject, answers in about[level].items()
        ]

    def make(self, train: int | None = None, test: int | None = None, seed: int = 0) -> Parts:
        """Training and test questions with `relation`, `subject`, `level`, `language`; by default each fact once.

        Raises InputError if more are requested than there are facts times texts."""
        return self._part("train", False, train, seed), self._part("test", True, test, seed)

    def _part(self, part: str, held_out: bool, size: int | None, seed: int) -> list[Question]:
        facts = [fact for fact in self.facts() if fact.test is held_out]
        most = sum(len(fact.texts) for fact in facts)
        rows = fact_rows(facts, random.Random(f"{seed}:{self.name}:{part}"))
        return take_questions(self.name, part, rows, len(facts) if size is None else size, most)


def fact_rows(facts: list[Fact], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Every fact once in random order, then again with another of its texts, until all texts are used."""
    left = [(fact, rng.sample(fact.texts, len(fact.texts))) for fact in rng.sample(facts, len(facts))]
    while left:
        for fact, texts in left:
            yield fact.row(texts.pop())
        left = [(fact, texts) for fact, texts in left if texts]


QA = FactSet("starter-qa", "qa", "ask")
LAMA = FactSet("starter-lama", "lama", "cloze")
