"""Rewards: the number that each response to a question gets after it is executed and judged.

`paper` and `released` are the two scorers of TRICE, which compare a response with the target; `execution` needs no
target. A user's own reward is a function of (question, response). A response is *aligned* if it uses a tool exactly
when the target does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

from trice.errors import InputError, TriceError
from trice.plugins import load_own
from trice.types import Outcome, Question, Response

RewardFunction = Callable[[Sequence[Response], Response | None], list[float]]
"""From the judged responses to one question, and the one among them that is the target, to their rewards."""


def paper(responses: Sequence[Response], target: Response | None) -> list[float]:
    """The five levels of the paper: target 20; correct and aligned 15; correct and not aligned 10; wrong and aligned
    5; else 0. A malformed call is wrong and not aligned."""
    target = _required(target, "paper")
    return [20.0 if row is target else _level(row, target) for row in responses]


def _level(response: Response, target: Response) -> float:
    if response.outcome is Outcome.MALFORMED:
        return 0.0
    aligned = (response.outcome is Outcome.CALLED) == (target.outcome is Outcome.CALLED)
    if response.correct:
        return 15.0 if aligned else 10.0
    return 5.0 if aligned else 0.0


def released(responses: Sequence[Response], target: Response | None) -> list[float]:
    """The scorer published with the paper, for five responses or any other number.

    A correct and aligned response gets 20 like the target, a correct one that is not aligned 15. Wrong responses
    rank below: if the answer is a number, each gets a level of its own by its distance to that number. Otherwise
    they share the next level (15 if no correct response has it, else 10), and one without a prediction gets 0. The
    first response after the target is not judged: it gets 20 if the target calls a tool, else 15.
    """
    target = _required(target, "released")
    calls = target.outcome is Outcome.CALLED
    unjudged, *rest = [number for number, row in enumerate(responses) if row is not target] or [-1]
    rewards = dict.fromkeys(range(len(responses)), 20.0)
    if unjudged >= 0 and not calls:
        rewards[unjudged] = 15.0
    for number in rest:
        row = responses[number]
        if row.correct and (row.outcome is not Outcome.ANSWERED) != calls:
            rewards[number] = 15.0
    level = 10.0 if any(rewards[number] == 15.0 for number in rest) else 15.0
    wrong = [number for number in rest if not responses[number].correct]
    gold = _number(target.answers[0]) if target.answers else None
    if gold is None:
        rewards |= {number: level if responses[number].prediction is not None else 0.0 for number in wrong}
    else:
        # The published scorer reads a missing prediction as 0. Sorting is stable, so ties keep their order.
        wrong.sort(key=lambda number: abs((_number(responses[number].prediction) or 0.0) - gold))
        rewards |= {number: max(0.0, level - 5.0 * rank) for rank, number in enumerate(wrong)}
    return list(rewards.values())


def _required(target: Response | None, name: str) -> Response:
    if target is None:
        raise InputError(f"reward '{name}' compares responses with the target, and there is none")
    return target


def correctness(question: Question, response: Response) -> float:
    """1 for a correct response and 0 for a wrong one: `reward: trice.rewards:correctness`.

    `paper` ranks the target above other correct responses. Here they have the same reward, so that ranking does not
    push a model away from a sound call that is written otherwise than the target."""
    return float(bool(response.correct))


def execution(cost: float = 0.1) -> RewardFunction:
    """1 for a correct response, minus `cost` for each call; a malformed response gets minus `cost`."""

    def reward(response: Response) -> float:
        if response.outcome is Outcome.MALFORMED:
            return -cost
        return float(bool(response.correct)) - cost * len(response.calls)

    return lambda responses, target: list(map(reward, responses))


def load_reward(name: str) -> RewardFunction:
    """The reward `paper`, `released`, `execution` with its default cost, or `module:function` from the working folder,
    a function `(question, response) -> float`. Raises InputError if there is no such function."""
    builtin = {"paper": paper, "released": released, "execution": execution()}
    if name in builtin:
        return builtin[name]
    if ":" not in name:
        raise InputError(
            f"reward '{name}' is not valid; choose {', '.join(builtin)}, or your own as module:function"
        )
    return from_function(load_own("reward", name), name)


def check_function(function: object, name: str) -> None:
    """Raise InputError unless a function can be called with a question and a response."""
    if not callable(function):
        raise InputError(f"reward: expected a function of a question and a response, not {function!r}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise InputError(
            f"reward '{name}': expected a function of two arguments, a question and a response"
        ) from None
    except ValueError:  # a function of C has no signature
        return


def from_function(function: Callable[[Question, Response], float], name: str) -> RewardFunction:
    """A user's function as a reward. If it fails, or returns something other than a finite number, the reward raises
    TriceError."""

    def reward(responses: Sequence[Response], target: Response | None) -> list[float]:
        try:
            return [_finite(function(response, response)) for response in responses]
        except Exception as error:
            raise TriceError(
                f"reward '{name}' failed on question '{responses[0].id}': {type(error).__name__}: {error}"
            ) from error

    return reward


def _number(text: str | None) -> float | None:
    try:
        return round(float((text or "").replace(",", "")), 2)
    except (ValueError, OverflowError):
        return None


def _finite(value: object) -> float:
    """A reward as a number; a number of numpy or torch is accepted too."""
    if value is None or isinstance(value, str | bytes):
        raise TypeError(f"it returned {value!r}; expected a number")
    reward = float(value)  # type: ignore[arg-type]
    if not math.isfinite(reward):
        raise ValueError(f"it returned {reward}; expected a finite number")
    return reward
