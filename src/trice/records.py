"""The rows that travel between stages, one class per file form of `data/`.

Field names are those of the published files. Extra fields are kept and passed on, so a row can carry what a
data set knows beyond the question (its gold expression, its grade) through every stage.
Nothing here reads or writes files: that is `trice.journal`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator


class Outcome(StrEnum):
    """What a response turned out to be. A malformed call is never counted as an abstention."""

    ANSWERED = "answered"
    CALLED = "called"
    MALFORMED = "malformed"


class Call(BaseModel):
    """A tool invocation as written by a model, the same record whatever form it was written in."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: dict[str, Any]


class Execution(BaseModel):
    """What running a call gave: an output or an error, never both. Seconds are not written to files,
    so that the same run gives the same bytes twice."""

    output: str | None = None
    error: str | None = None
    seconds: float = Field(default=0.0, exclude=True)


class Row(BaseModel):
    """A JSON object on one line of a file; unknown fields are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    _where: str = ""

    @property
    def where(self) -> str:
        """The file and line it was read from, for messages; empty for a row made here."""
        return self._where

    def __eq__(self, other: object) -> bool:
        # pydantic's own would compare where they were read as well
        return (
            isinstance(other, Row) and type(self) is type(other) and self.model_dump() == other.model_dump()
        )


def dataset_of(id: str) -> str:
    """The data set that an id names: what stands before its first `_`, `-`, `:` or `/`."""
    prefix = re.match(r"[^_\-:/]+(?=[_\-:/])", id)
    return prefix[0] if prefix else "unnamed"


class Question(Row):
    """One problem with its gold answer(s): `data/raw` (text under `question`) and `data/dev` (under `input`).

    `task` is there where a file mixes questions of several tasks."""

    id: str = Field(min_length=1)
    dataset: str = ""
    task: str | None = None
    instruction: str = ""
    input: str = Field(validation_alias=AliasChoices("input", "question"))
    answer: str | list[str]

    @model_validator(mode="before")
    @classmethod
    def _published_form(cls, value: Any) -> Any:
        # Published rows of qa and lama have their question under `instruction`, and no input or an empty one.
        if isinstance(value, dict) and value.get("instruction"):
            texts = [value[name] for name in ("input", "question") if name in value]
            if all(text == "" for text in texts):
                return {**value, "input": value["instruction"], "instruction": ""}
        return value

    @model_validator(mode="after")
    def _name_the_dataset(self) -> Self:
        # Published rows carry the data set only inside the id ("ASDiv_12", "GSM8K-3").
        if not self.dataset:
            self.dataset = dataset_of(self.id)
        if not self.answers or not all(answer.strip() for answer in self.answers):
            raise ValueError("field 'answer': there is no gold answer")
        return self

    @property
    def answers(self) -> list[str]:
        """The gold answers, any of which is accepted."""
        return self.answer if isinstance(self.answer, list) else [self.answer]


class Response(Question):
    """A question and what a model wrote: `data/stage2/*_response.json` and `data/dev`.

    `sample` numbers the responses one origin gave to one question. `tokens` are the ids it was written in, where
    they are known and the model's tokenizer would cut the text into others; `logprob` is the sum of the natural
    log-probabilities of the ids the model chose for it. The fields after them are filled by `score` and
    `evaluate`: `turns` is what the model answered when it was asked again with a tool's output, `pred` the
    prediction, None where none could be read. `exact` and `f1` compare it more strictly, where it is words."""

    response: str
    origin: str = ""
    sample: int = 0
    tokens: list[int] | None = None
    logprob: float | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    call: Call | None = None
    execution: Execution | None = None
    turns: list[str] | None = None
    pred: str | None = None
    correct: bool | None = None
    exact: bool | None = None
    f1: float | None = None

    @field_validator("pred", mode="before")
    @classmethod
    def _first_prediction(cls, value: Any) -> Any:
        # Published result files of qa list one prediction for each passage, or none.
        return next(iter(value), None) if isinstance(value, list) else value


class Labelled(Row):
    """A question and its gold response: `data/stage1`. Published files hold only the first three fields."""

    instruction: str
    input: str
    output: str = Field(min_length=1)
    id: str = ""
    dataset: str = ""
    task: str | None = None
    answer: str | list[str] = ""


class Ranked(Row):
    """A question, its candidate responses and their rewards: `data/stage2/<task>/<task>.json`.

    `query` is the instruction and the input, joined by a line break; `answer` holds the prediction read
    from each response, `tokens` a response's own, where it has them."""

    query: str
    responses: list[str] = Field(min_length=1)
    origin: list[str] = []
    scores: list[float]
    answer: list[str | None] = []
    tokens: list[list[int] | None] | None = None
    id: str = ""

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        if len(self.scores) != len(self.responses):
            raise ValueError(f"field 'scores': {len(self.scores)} scores for {len(self.responses)} responses")
        if self.tokens is not None and len(self.tokens) != len(self.responses):
            raise ValueError(f"field 'tokens': {len(self.tokens)} lists for {len(self.responses)} responses")
        return self

    @property
    def instruction(self) -> str:
        return self.query.partition("\n")[0]

    @property
    def input(self) -> str:
        return self.query.partition("\n")[2]
