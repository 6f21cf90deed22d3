"""Rewards: the number each candidate response gets, gold response first.

`paper` and `released` are the two scorers of TRICE; a user's own is a function of (question, response).
A response is *aligned* when it uses a tool exactly when the gold response does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trice.errors import InputError, TriceError
from trice.plugins import load_own
from trice.types import Outcome, Question, Response

Rewarder = Callable[[Sequence[Response]], list[float]]
"""From the graded responses of one question, the gold one first, to their rewards."""


def paper(responses: Sequence[Response]) -> list[float]:
    """The five levels of the paper's reward: gold 20; correct and aligned 15, correct and not aligned 10,
    wrong and aligned 5, wrong and not aligned 0. A malformed call is wrong and not aligned."""
    gold = responses[0]
    return [20.0, *(_level(response, gold, (15, 10, 5, 0)) for response in responses[1:])]


def _level(response: Response, gold: Response, levels: tuple[float, float, float, float]) -> float:
    if response.outcome is Outcome.MALFORMED:
        return levels[3]
    aligned = (response.outcome is Outcome.CALLED) == (gold.outcome is Outcome.CALLED)
    return levels[(0 if response.correct else 2) + (0 if aligned else 1)]


def released(responses: Sequence[Response]) -> list[float]:
    """The scorer published beside the paper, for five responses or any other number.

    Correct and aligned ties gold at 20, correct and not aligned gets 15. Wrong ones come below: on numbers
    each gets a level of its own by its distance to the gold one, else they share the next level (15 where no
    correct response took it, else 10); one without a prediction gets 0 there. The first response after gold
    is not graded: 20 where gold calls a tool, else 15.
    """
    gold = responses[0]
    calls = gold.outcome is Outcome.CALLED
    scores = [20.0, *([20.0 if calls else 15.0] if len(responses) > 1 else [])]
    rest = responses[2:]
    right = [
        (20.0 if (response.outcome is not Outcome.ANSWERED) == calls else 15.0) if response.correct else None
        for response in rest
    ]
    level = 10.0 if 15.0 in right else 15.0
    gold_number = _number(gold.answers[0])
    wrong = [index for index, score in enumerate(right) if score is None]
    if gold_number is None:
        levels = {index: level if rest[index].pred is not None else 0.0 for index in wrong}
    else:
        # The published scorer reads a missing prediction as 0; sorting is stable, so ties keep their order.
        wrong.sort(key=lambda index: abs((_number(rest[index].pred) or 0.0) - gold_number))
        levels = {index: max(0.0, level - 5.0 * place) for place, index in enumerate(wrong)}
    return scores + [levels[index] if score is None else score for index, score in enumerate(right)]


def correctness(question: Question, response: Response) -> float:
    """1 for a correct response and 0 for a wrong one, whatever its form: `reward: trice.rewards:correctness`.

    Under `paper` the gold response outranks others that are right too; here two right ones tie, so ranking
    does not push a model away from a sound call that is written otherwise than the label."""
    return float(bool(response.correct))


def execution(cost: float = 0.1) -> Rewarder:
    """1 for a correct response, minus `cost` for a call; a malformed response gets minus `cost`. Needs no gold
    response: any of several right ones is as good as the others."""

    def reward(response: Response) -> float:
        if response.outcome is Outcome.MALFORMED:
            return -cost
        return float(bool(response.correct)) - cost * (response.outcome is Outcome.CALLED)

    return lambda responses: list(map(reward, responses))


def _number(text: str | None) -> float | None:
    try:
        return round(float((text or "").replace(",", "")), 2)
    except (ValueError, OverflowError):
        return None


def load_reward(name: str) -> Rewarder:
    """`paper`, `released`, or `module:function` of the user's own, `(question, response) -> float`, found from
    the working folder. Raises InputError where there is no such function."""
    builtin: dict[str, Rewarder] = {"paper": paper, "released": released}
    if name in builtin:
        return builtin[name]
    if ":" not in name:
        raise InputError(f"reward '{name}': there is {', '.join(builtin)}, or your own as module:function")
    own = load_own("reward", name)

    return rewarder_of(own, name)


def rewarder_of(function: Callable[[Question, Response], float], name: str) -> Rewarder:
    """A user's function as a rewarder. Its failure, or a value that is no finite number, is a TriceError."""

    def rewarder(responses: Sequence[Response]) -> list[float]:
        try:
            return [_finite(function(response, response)) for response in responses]
        except Exception as error:
            raise TriceError(
                f"reward '{name}' failed on question '{responses[0].id}': {type(error).__name__}: {error}"
            ) from error

    return rewarder


def _finite(value: object) -> float:
    """A reward as a number; one from numpy or torch is one too."""
    if value is None or isinstance(value, str | bytes):
        raise TypeError(f"it gave {value!r}; expected a number")
    reward = float(value)  # type: ignore[arg-type]
    if not math.isfinite(reward):
        raise ValueError(f"it gave {reward}; expected a finite number")
    return reward
