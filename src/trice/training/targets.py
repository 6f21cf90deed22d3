"""What the policy's own responses to a question teach: the target, or all of them with their rewards.

The target has a reward above 0 and is well formed as a whole. It is of the decision (to call a tool or to answer) that
is worth more, and then the response with the highest reward and the most frequent one. Responses are executed and
judged already; this module draws none and trains nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from trice.formats.paper import visible
from trice.models.engine import ToolChoice
from trice.rewards import RewardFunction
from trice.tasks import Tasks
from trice.tasks.final_answer import unread_result
from trice.tasks.outcome import parse
from trice.tools import Tool
from trice.training_data import Candidates
from trice.types import Outcome, Question, Response

POLICY = "policy"  # the origin of its responses
CALL_MARKUP = re.compile(r"tool_call|\"(?:arguments|parameters)\"", re.IGNORECASE)
TRUSTED = 0.5  # the share of right direct answers, with a prior, from which they are knowledge and not luck


@dataclass
class Samples:
    """The policy's executed responses to one question in one round."""

    tasks: Tasks
    question: Question
    reward: RewardFunction
    rows: list[Response] = field(default_factory=list)
    free: list[Response] = field(default_factory=list)  # those whose decision was the policy's
    calling: list[bool] = field(default_factory=list)  # whether each row was to call a tool
    rewards: dict[str, float] = field(default_factory=dict)  # of each distinct response
    target: Response | None = None

    def add(self, row: Response, tool_choice: ToolChoice = "auto") -> None:
        """Add a response that was drawn with a tool choice, and compute the reward of its text unless it is known. With
        `auto`, a response that tries to call counts as a call; else the tool choice decides."""
        if row.response not in self.rewards:
            (self.rewards[row.response],) = self.reward([row], None)
        self.rows.append(row)
        self.calling.append(tries_call(row) if tool_choice == "auto" else tool_choice == "required")
        if tool_choice == "auto":
            self.free.append(row)

    @property
    def has_two_arms(self) -> bool:
        """Whether the question can be answered with its task's tools and without."""
        tools = self.tasks.own_tools(self.tasks.of(self.question))
        return bool(self._offered(tools)) and not self.tasks.requires_tool(self.question)

    def _offered(self, tools: Sequence[Tool]) -> Sequence[object]:
        return tools if self.question.tools is None else self.question.tools

    @property
    def distinct(self) -> list[Response]:
        """The first response of each text."""
        return _first_of_each_text(self.rows)

    @property
    def counts(self) -> Counter[str]:
        """How often each response was sampled."""
        return Counter(row.response for row in self.rows)

    def choose(self) -> Response | None:
        """Choose the target among the well-formed responses with a reward above 0, and return it.

        A direct answer is trusted only if most direct answers are right, because one among many is right by luck. A
        call whose result is right seldom is."""
        rewards, counts = self.rewards, self.counts
        right = [
            row for row in self.distinct if rewards[row.response] > 0 and is_well_formed(self.tasks, row)
        ]
        if self._offered(self.tasks.of(self.question).tools):
            trusted = _cautious_mean([reward > 0 for reward in self._rewards_of(calls=False)]) >= TRUSTED
            right = [row for row in right if trusted or tries_call(row)]
        value = {each: _cautious_mean(self._rewards_of(calls=each)) for each in (False, True)}

        def preference(row: Response) -> tuple[float, float, int, int]:
            return value[tries_call(row)], rewards[row.response], counts[row.response], -len(row.response)

        self.target = max(right, key=preference, default=None)
        return self.target

    def group(self) -> Candidates | None:
        """All responses that the policy decided on, with their counts, for a policy gradient; None if they have the
        same reward, because the gradient is then 0."""
        distinct = _first_of_each_text(self.free)
        if len({self.rewards[row.response] for row in distinct}) < 2:
            return None
        return self._candidates(distinct, Counter(row.response for row in self.free))

    def solution(self, earlier: Candidates | None) -> Candidates | None:
        """The target alone, for L_sft; without one `earlier`, which is from the rounds before. The earlier target stays
        if it is of the same decision and has a higher reward, or was sampled more often."""
        if self.target is None:
            return earlier
        found = self._candidates([self.target], self.counts)
        (target,), before = found.candidates, earlier.target if earlier else None
        if before is None or (before.call is None) != (target.call is None):
            return found
        if before.response == target.response:
            target = target.model_copy(update={"count": (target.count or 1) + (before.count or 1)})
        elif (before.reward, before.count or 1) > (target.reward, target.count or 1):
            target = before
        return found.model_copy(update={"candidates": [target]})

    def decision(self) -> Candidates | None:
        """What a question without a target teaches: how much a call and an answer are worth, if both were sampled and
        differ. None of its responses is imitated."""
        call, answer = self.values()
        if call is None or answer is None or call == answer:
            return None
        return self._candidates([], Counter())

    def values(self) -> tuple[float | None, float | None]:
        """The mean rewards of the responses that were to call a tool and of those that were to answer, None for a
        decision without one."""
        called, answered = (self._rewards_of(calls=each) for each in (True, False))
        return fmean(called) if called else None, fmean(answered) if answered else None

    def _candidates(self, rows: Sequence[Response], counts: Counter[str]) -> Candidates:
        """These responses with their rewards and counts, and the value of both decisions over all responses."""
        call_value, answer_value = self.values()
        target = self.target.response if self.target else None
        found = Candidates.of(
            self.question,
            rows,
            [self.rewards[row.response] for row in rows],
            next((row for row in rows if row.response == target), None),
            call_value=call_value,
            answer_value=answer_value,
        )
        for candidate in found.candidates:
            candidate.count = counts[candidate.response]
        return found

    def _rewards_of(self, *, calls: bool) -> list[float]:
        """The rewards of all responses that were to call a tool, or of all that were to answer."""
        rows = zip(self.rows, self.calling, strict=True)
        return [self.rewards[row.response] for row, calling in rows if calling == calls]


def _cautious_mean(values: Sequence[float]) -> float:
    """The mean with two more values of 0 as a prior, so that few samples count less."""
    return sum(values) / (len(values) + 2)


def _first_of_each_text(rows: Sequence[Response]) -> list[Response]:
    found: dict[str, Response] = {}
    for row in rows:
        found.setdefault(row.response, row)
    return list(found.values())


def is_sampled(row: Candidates) -> bool:
    """Whether the target of a question is the policy's own response, not a label."""
    return row.target is not None and row.target.origin == POLICY


def tries_call(row: Response) -> bool:
    """Whether a response tries to call a tool."""
    return row.outcome is not Outcome.ANSWERED


def is_well_formed(tasks: Tasks, row: Response) -> bool:
    """Whether a right response is sound as a whole, and so fit to be imitated: a call and nothing else, or an answer
    without a piece of a call, that no limit ended. A conversation has to end with words or calls of the model."""
    if row.outcome is Outcome.MALFORMED or row.truncated:
        return False
    if row.completion is not None:
        return unread_result(row.completion) is None and not CALL_MARKUP.search(row.completion[-1].content)
    parsed, text = parse(tasks, row), visible(row.response).strip()
    if parsed.reading.written is not None:
        return text == parsed.reading.written
    names = "|".join(re.escape(tool.name) for tool in parsed.task.tools)
    # A name within a word is none: `search` in "research".
    return not names or not re.search(rf"(?<![A-Za-z0-9_])({names})(?![a-z_])", text)
