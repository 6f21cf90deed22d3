"""Cloze sentences as questions that name the kind of the masked word, derived from the sentence's relation.

The sentence alone often leaves the kind open ("a [MASK] poet": Hindi, famous, dead), and a small model then guesses
the wrong one. The relations are those of T-REx in LAMA (Petroni and others, EMNLP 2019), by their Wikidata ids.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MASK = "[MASK]"
KINDS = {
    "P17": "country", "P19": "city", "P20": "city", "P27": "country", "P30": "continent", "P31": "kind of thing",
    "P36": "capital", "P37": "language", "P39": "position", "P47": "neighbour", "P101": "field", "P103": "language",
    "P106": "profession", "P108": "company", "P127": "company", "P131": "place", "P136": "genre", "P138": "name",
    "P140": "religion", "P159": "city", "P176": "company", "P178": "company", "P190": "city",
    "P264": "record label", "P276": "place", "P279": "kind of thing", "P361": "whole", "P364": "language",
    "P407": "language", "P413": "position", "P449": "television network", "P463": "organization",
    "P495": "country", "P527": "part", "P530": "country", "P740": "city", "P937": "city", "P1001": "country",
    "P1303": "instrument", "P1376": "country", "P1412": "language",
}  # fmt: skip
CLOZE_QUESTION = re.compile(r"Which (.{1,40}?) is missing: (.+)", re.DOTALL)


class Cloze(NamedTuple):
    """A sentence split at its mask, and the kind of the masked word if it is known."""

    kind: str | None
    before: str
    after: str


def cloze_question(sentence: str, relation: str | None) -> str:
    """A cloze sentence as a question for the masked word, by the Wikidata id (`P19`) of the relation; unchanged if
    the relation is not known."""
    kind = KINDS.get(relation or "")
    return f"Which {kind} is missing: {sentence}" if kind else sentence


def parse_cloze(question: str) -> Cloze | None:
    """The cloze in a question, with or without its kind; None if the question has no mask."""
    found = CLOZE_QUESTION.fullmatch(question)
    kind, sentence = found.groups() if found else (None, question)
    before, mask, after = sentence.partition(MASK)
    return Cloze(kind, before, after) if mask else None
