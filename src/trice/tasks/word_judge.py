"""Judges answers in words: a name, a date, a few words.

A prediction is correct if a gold answer occurs as whole words (`trice.tools.answer_matching.words`) within its first 20
words, or if it is an exact match. The rule `words-published` is that of the paper: the answer occurs as a
substring, ignoring case. `auto` compares with a gold answer that is a number as numbers, with the others as words.
Other spellings of names, dates and numbers are not covered: they have to be among the gold answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trice.tasks.number_judge import is_number, same_number
from trice.tools.answer_matching import contains_answer, normalise, words

WORDS = 20  # words of a prediction that are compared
READ = 20_000  # characters of a text that are compared, more than any answer has


def matches(prediction: str, answers: Sequence[str], rule: str = "words") -> bool:
    """Whether the prediction matches a gold answer under a rule: `words`, `auto` or `words-published`."""
    read = " ".join(prediction.split()[:WORDS])
    if rule == "words-published":
        published = normalise(read)
        return any(normalise(answer) in published for answer in answers)
    if exact_match(prediction, answers):
        return True
    numbers = [answer for answer in answers if rule == "auto" and is_number(answer)]
    if any(same_number(prediction, answer) for answer in numbers):
        return True
    return contains_answer(read[:READ], [answer for answer in answers if answer not in numbers])


def check(answers: Sequence[str]) -> None:
    """Raise ValueError if no gold answer could ever be matched."""
    written = [answer for answer in answers if words(answer)]
    if not written:
        raise ValueError(f"'{answers[0][:40]}' has no letter and no digit")
    if all(len(answer.split()) > WORDS for answer in written):
        raise ValueError(f"'{written[0][:40]} …' is longer than {WORDS} words")


def tokens(text: str) -> list[str]:
    """The words of an answer without articles, as SQuAD's official evaluation compares them (Rajpurkar and others,
    EMNLP 2016). An answer of articles alone keeps them."""
    found = words(text[:READ])
    return [word for word in found if word not in ("a", "an", "the")] or found


def exact_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction is one of the gold answers, word for word."""
    found = tokens(prediction or "")
    return bool(found) and any(found == tokens(answer) for answer in answers)


def f1(prediction: str | None, answers: Sequence[str]) -> float:
    """The best overlap of words with a gold answer, between 0 and 1: the harmonic mean of precision and recall over
    the words, each counted as often as it occurs in both."""
    return max((_f1(tokens(prediction or ""), tokens(answer)) for answer in answers), default=0.0)


def _f1(found: list[str], gold: list[str]) -> float:
    common = (Counter(found) & Counter(gold)).total()
    return 2 * common / (len(found) + len(gold)) if common else 0.0
