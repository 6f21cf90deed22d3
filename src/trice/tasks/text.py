"""The tasks whose answer is a name, a date, a few words: open questions, cloze sentences, other languages.

Right when a gold answer stands, ignoring case, within the first 20 words of the prediction, as in the paper;
`exact_match` and `f1` are stricter. The instructions are constants of the format: the published checkpoints
were trained on these sentences (evaluate/generate.py of github.com/zjunlp/TRICE), except those of `mix` and
`hotpot`, which are ours. Does not cover other spellings of a name, dates and numbers: those have to be among
the gold answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trice.tools import Tool
from trice.tools.turns import plain

WORDS = 20  # of a prediction that are read
QA = "Given a question, please answer it and you can use a WikiSearch for help."
LAMA = "Given a question, please answer it and you can use a QA model for help."
MLQA = "Given a context, please answer the question in English and you can use a translator for help."
HOTPOT = "Given a question, please answer it and you can use a retriever for help."


@dataclass(frozen=True)
class TextTask:
    """A task of this kind: what differs is how it is asked, and the tools."""

    name: str
    instruction: str
    tools: tuple[Tool, ...]
    tool: str | None = None  # REQUIRED where only a tool can know the answers

    def predict(self, text: str) -> str | None:
        """The text itself, None where it is empty."""
        return text.strip() or None

    def judge(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether a gold answer is within the prediction's first words."""
        if prediction is None:
            return False
        read = plain(" ".join(prediction.split()[:WORDS]))
        return any(plain(answer) in read for answer in answers)

    def check(self, answers: Sequence[str]) -> None:
        """Raise ValueError where no gold answer could ever be matched."""
        written = [answer for answer in answers if any(character.isalnum() for character in answer)]
        if not written:
            raise ValueError(f"'{answers[0][:40]}' has no letter and no digit")
        if all(len(answer.split()) > WORDS for answer in written):
            raise ValueError(f"'{written[0][:40]} …' is longer than {WORDS} words")


def tokens(text: str) -> list[str]:
    """The words of an answer without punctuation and articles, as SQuAD's official evaluation compares them
    (Rajpurkar and others, EMNLP 2016)."""
    words = re.findall(r"\w+", re.sub(r"(?<=\w)['’](?=\w)", "", plain(text)))
    return [word for word in words if word not in ("a", "an", "the")]


def exact_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction is one of the gold answers, word for word."""
    return prediction is not None and any(tokens(prediction) == tokens(answer) for answer in answers)


def f1(prediction: str | None, answers: Sequence[str]) -> float:
    """The best overlap of words with a gold answer, between 0 and 1: the harmonic mean of precision and recall over
    the words, each counted as often as it stands in both."""
    return max((_f1(tokens(prediction or ""), tokens(answer)) for answer in answers), default=0.0)


def _f1(words: list[str], gold: list[str]) -> float:
    common = (Counter(words) & Counter(gold)).total()
    return 2 * common / (len(words) + len(gold)) if common else 0.0
