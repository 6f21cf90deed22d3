"""Measures of accuracy and of selective tool use, as shares with 95% intervals.

*Need* has one definition, `needs_tool`: a question needs a tool if the base model, asked as in evaluation but with
tools withheld and with the few-shot examples of `split`, is wrong, or if the question requires a tool. Questions are
matched by data set and id. The intervals cover the sampling of questions, not the training seed. This module counts
graded responses and does not grade them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from trice.errors import InputError
from trice.types import ALL, REQUIRED, Outcome, Response

Z = 1.959963984540054  # the 97.5% point of the standard normal distribution
Key = tuple[str, str]


@dataclass(frozen=True)
class Share:
    """`count` of `total`. `low` and `high` are the 95% Wilson score interval:

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n),  p = count/total, n = total

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). `value`,
    `low` and `high` are None if total is 0. `count` can have decimals if it is a mean over seeds (`mean`)."""

    count: float
    total: int

    @property
    def value(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def low(self) -> float | None:
        return self._end(-1)

    @property
    def high(self) -> float | None:
        return self._end(1)

    def _end(self, sign: int) -> float | None:
        if not self.total:
            return None
        p, n = self.count / self.total, self.total
        half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return min(1.0, max(0.0, (p + Z**2 / (2 * n) + sign * half) / (1 + Z**2 / n)))


class Difference(NamedTuple):
    """A difference of two accuracies and its 95% interval, each between -1 and 1."""

    delta: float
    low: float
    high: float

    def __str__(self) -> str:
        delta, low, high = (f"{100 * value:+.1f}" for value in self)
        return f"{delta} points ({low} to {high})"


def mean(shares: Sequence[Share]) -> Share:
    """The mean of the shares of several seeds on the same questions.

    Wilson's interval uses the number of questions, not questions times seeds: the answers of two seeds to one
    question are not independent. The variance of a question's mean over seeds is at most p(1-p), so the interval is
    conservative. If seeds cover different numbers of questions, the smallest is used.
    """
    total = min(share.total for share in shares)
    if total == max(share.total for share in shares):
        return Share(fmean(share.count for share in shares), total)
    return Share(fmean(share.count / share.total for share in shares) * total if total else 0, total)


def measure(rows: Sequence[Response], base: Sequence[Response] | None = None) -> dict[str, Share]:
    """The measures of one model's graded responses.

    Shares of all rows: `accuracy` (correct), and `tool_use`, `malformed` and `answered` (by outcome). With `base`,
    the base model's graded responses to the same questions with tools withheld, also:

    - `need`: questions that need a tool (`needs_tool`) / all questions
    - `over_use`: called and not needed / not needed
    - `under_use`: answered, wrong and needed / needed (a malformed call is not an abstention and not counted)
    - `harmful_use`: called, wrong and not needed / not needed

    For tasks whose answers are words, also `exact_match` and `f1` (the mean, with a conservative interval). If
    answers from each passage were generated, also `any_passage`, the paper's accuracy, which counts a response as
    right if any of these answers is.

    Raises:
        InputError: If a row is not graded, or a question is missing from `base`.
    """
    _check_graded(rows)
    shares = {
        "accuracy": _share(row.correct is True for row in rows),
        "tool_use": _share(row.outcome is Outcome.CALLED for row in rows),
        "malformed": _share(row.outcome is Outcome.MALFORMED for row in rows),
        "answered": _share(row.outcome is Outcome.ANSWERED for row in rows),
    }
    worded = [row.f1 for row in rows if row.f1 is not None]
    if worded:
        shares["exact_match"] = _share(row.exact is True for row in rows if row.f1 is not None)
        shares["f1"] = Share(sum(worded), len(worded))
    if any(row.any_passage is not None for row in rows):
        shares["any_passage"] = _share(row.any_passage is True for row in rows)
    return shares if base is None else shares | _against_need(rows, base)


def needs_tool(base: Response) -> bool:
    """Whether a question needs a tool, by the base model's graded response to it: the one definition of need. A
    response with a call does not count as knowledge, even if it is right."""
    return base.tool == REQUIRED or not base.correct or base.outcome is Outcome.CALLED


def by_dataset(
    rows: Sequence[Response], base: Sequence[Response] | None = None
) -> dict[str, dict[str, Share]]:
    """`measure` for each data set, in order of appearance, and then for all rows as `total`."""
    names = dict.fromkeys(row.dataset for row in rows)
    parts = {name: measure([row for row in rows if row.dataset == name], base) for name in names}
    return parts | {ALL: measure(rows, base)}


def difference(a: Sequence[Response], b: Sequence[Response]) -> Difference:
    """Accuracy of `a` minus accuracy of `b` on the same questions, with a paired 95% interval.

    With d_i the difference on question i: mean(d) ± z · s(d)/√n, the paired normal interval (for example Altman and
    others, "Statistics with Confidence", 2nd ed. 2000, chapter 4). Several rows of a question (seeds) are averaged
    first, so the unit is the question. If all d_i are equal, s is 0 but another question may differ by 1 + |d|: the
    half-width is then that, times Wilson's upper bound for 0 of n, z²/(n + z²).

    Raises:
        InputError: If there are no questions, or the questions of the two sides differ.
    """
    return paired_difference(_correctness(a), _correctness(b))


def paired_difference(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Difference:
    """`difference` of the shares of right responses by question."""
    for key in sorted(ours.keys() ^ theirs.keys()):
        raise InputError(f"question '{key[1]}' of '{key[0]}' is on one side of the comparison only")
    if not ours:
        raise InputError("there are no questions to compare on")
    deltas = [ours[key] - theirs[key] for key in ours]
    delta = fmean(deltas)
    count = len(deltas)
    half = Z * stdev(deltas) / math.sqrt(count) if max(deltas) - min(deltas) > 1e-9 else 0.0
    half = half or (1 + abs(delta)) * Z**2 / (count + Z**2)
    return Difference(delta, max(-1.0, delta - half), min(1.0, delta + half))


def _against_need(rows: Sequence[Response], base: Sequence[Response]) -> dict[str, Share]:
    """The measures relative to need."""
    check_base(rows, base)
    needs = {_key(row): needs_tool(row) for row in base}
    needed = [row for row in rows if needs[_key(row)]]
    others = [row for row in rows if not needs[_key(row)]]
    called = [row for row in others if row.outcome is Outcome.CALLED]
    missed = [row for row in needed if row.outcome is Outcome.ANSWERED and not row.correct]
    return {
        "need": Share(len(needed), len(rows)),
        "over_use": Share(len(called), len(others)),
        "under_use": Share(len(missed), len(needed)),
        "harmful_use": Share(sum(not row.correct for row in called), len(others)),
    }


def _correctness(rows: Sequence[Response]) -> dict[Key, float]:
    """The share of right responses to each question."""
    _check_graded(rows)
    verdicts: dict[Key, list[bool]] = {}
    for row in rows:
        verdicts.setdefault(_key(row), []).append(row.correct is True)
    return {key: fmean(values) for key, values in verdicts.items()}


def check_base(rows: Sequence[Response], base: Sequence[Response]) -> None:
    """Raise InputError if the base model's responses are not graded, or a question of `rows` has none."""
    _check_graded(base)
    known = {_key(row) for row in base}
    for row in rows:
        if _key(row) not in known:
            raise InputError(f"question '{row.id}' of '{row.dataset}' has no response of the base model")


def _check_graded(rows: Sequence[Response]) -> None:
    for row in rows:
        if row.correct is None or row.outcome is None:
            raise InputError(f"the response to question '{row.id}' is not graded; run `trice evaluate` first")


def _share(hits: Iterable[bool]) -> Share:
    values = list(hits)
    return Share(sum(values), len(values))


def _key(row: Response) -> Key:
    return row.dataset, row.id
