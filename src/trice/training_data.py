"""The records that are trained on: labeled questions in stage 1, and candidates with rewards in stage 2.

Their fields are those of questions and responses (`trice.types`), which explain them. Files of the published forms are
read by `trice.datasets.published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trice.messages import Execution, Messages, ToolCall, ToolList
from trice.types import (
    Count,
    Expected,
    Number,
    Outcome,
    Question,
    Response,
    Row,
    dataset_of,
    with_last_question,
)


class LabeledQuestion(Row):
    """A question and its target: what stage 1 trains on. Published files hold only the first three fields."""

    instruction: str
    """as in questions"""
    input: str
    """as in questions"""
    output: str = Field(min_length=1)
    """the target: a call, or a direct answer"""
    id: str = ""
    """as in questions"""
    dataset: str = ""
    """as in questions"""
    task: str | None = None
    """as in questions"""
    answer: str | list[str] | None = None
    """as in questions"""
    result: str | None = None
    """what the call in `output` returned when it was labeled"""
    messages: Messages | None = None
    """as in questions"""
    tools: ToolList | None = None
    """as in questions"""
    expected_calls: Expected | None = None
    """as in questions"""
    completion: Messages | None = None
    """in the format `chat`: the target as messages, with the results of its calls; `output` shows it as text"""
    turn: Count | None = None
    """as in questions"""
    first_turn: str | None = None
    """as in questions"""

    @property
    def key(self) -> tuple[str | int, ...] | None:
        return (self.dataset or dataset_of(self.id), self.id) if self.id else None

    @model_validator(mode="before")
    @classmethod
    def _of_a_conversation(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("messages") is None:
            return value
        return {"instruction": "", **with_last_question(value)}

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not (self.instruction.strip() or self.input.strip()):
            raise ValueError("field 'input': the question is empty")
        if not self.output.strip():
            raise ValueError("field 'output': the response is empty")
        return self


class Candidate(BaseModel):
    """One of several responses to a question, executed and rewarded."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    response: str
    """what the model, the teacher or the data set wrote"""
    reward: Number
    """the number by which candidates are ranked"""
    target: bool = False
    """whether this response is the target of stage 1; at most one candidate is"""
    origin: str = ""
    """where the response comes from: the name of a model, or `gold`"""
    outcome: Outcome | None = None
    """`answered`, `called` or `malformed`"""
    call: ToolCall | None = None
    """the call that was executed"""
    execution: Execution | None = None
    """the result of that call"""
    prediction: str | None = None
    """the answer that was judged; missing if the response has none"""
    correct: bool | None = None
    """whether the prediction is right"""
    tokens: list[Count] | None = None
    """as in responses"""
    truncated: bool | None = None
    """as in responses; in the format `paper`, `grpo` and `reinforce` then train no end token"""
    completion: Messages | None = None
    """as in responses"""
    loss: list[bool] | None = None
    """as in responses"""
    count: Annotated[int, Field(strict=True, ge=1)] | None = None
    """how often this response was sampled, if more than once; the objectives `grpo` and `reinforce` use it"""


class Candidates(Row):
    """A question and several responses to it with their rewards: what stage 2 trains on. Published files hold this
    in another form, which `trice.datasets.published` reads."""

    id: str = ""
    """as in questions"""
    dataset: str = ""
    """as in questions"""
    task: str | None = None
    """as in questions"""
    instruction: str = ""
    """as in questions"""
    input: str = ""
    """as in questions"""
    messages: Messages | None = None
    """as in questions"""
    tools: ToolList | None = None
    """as in questions"""
    answer: str | list[str] | None = None
    """as in questions"""
    expected_calls: Expected | None = None
    """as in questions"""
    candidates: list[Candidate]
    """the responses, each a record of its own; none for a question that has only the values of both decisions"""
    call_value: Number | None = None
    """the mean reward of the policy's responses that called a tool, if it was sampled in rounds"""
    answer_value: Number | None = None
    """the mean reward of those that did not"""

    @classmethod
    def of(
        cls,
        question: Question,
        responses: Sequence[Response],
        rewards: Sequence[float],
        target: Response | None = None,
        *,
        call_value: float | None = None,
        answer_value: float | None = None,
    ) -> Self:
        """The judged responses to a question with their rewards; `target` is one of them, or None."""
        candidates = [
            Candidate(
                response=row.response,
                reward=reward,
                target=row is target,
                origin=row.origin,
                outcome=row.outcome,
                call=row.call,
                execution=row.execution,
                prediction=row.prediction,
                correct=row.correct,
                tokens=row.tokens,
                truncated=row.truncated,
                completion=row.completion,
                loss=row.loss,
            )
            for row, reward in zip(responses, rewards, strict=True)
        ]
        fields = question.model_dump(include=set(cls.model_fields) & set(Question.model_fields))
        return cls(**fields, candidates=candidates, call_value=call_value, answer_value=answer_value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.instruction.strip() or self.input.strip()):
            raise ValueError("field 'input': the question is empty")
        if not self.candidates and (self.call_value is None or self.answer_value is None):
            raise ValueError(
                "field 'candidates': the question has no response, and not the values of both decisions either"
            )
        if sum(each.target for each in self.candidates) > 1:
            raise ValueError("field 'candidates': more than one of them is the target")
        return self

    @property
    def target(self) -> Candidate | None:
        """The candidate that stage 1 trains on, if it is among them."""
        return next((each for each in self.candidates if each.target), None)
