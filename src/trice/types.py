"""The records of questions and responses. Messages are in `trice.messages`, and what is trained on in
`trice.training_data`.

Each is one JSON object in a file. Unknown fields are kept, so a row can carry what its data set knows beyond the
question (the gold expression, the grade) through every stage. This module does not read or write files: that is
`trice.storage.files`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from trice.messages import Execution as Execution
from trice.messages import ExpectedCall as ExpectedCall
from trice.messages import Message as Message
from trice.messages import Messages, ToolList, calls_text, read_messages
from trice.messages import ToolCall as ToolCall

ALL = "total"  # the name of all data sets together, in metrics and reports
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Outcome(StrEnum):
    """What a response turned out to be. A malformed call is never counted as an abstention."""

    ANSWERED = "answered"
    CALLED = "called"
    MALFORMED = "malformed"


class Row(BaseModel):
    """A JSON object on one line of a file; unknown fields are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, use_attribute_docstrings=True)
    _where: str = ""

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, value: Any) -> Any:
        if not isinstance(value, dict) or None not in value.values():
            return value
        names = set(cls.model_fields)
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                names |= {name for name in field.validation_alias.choices if isinstance(name, str)}
        return {name: each for name, each in value.items() if each is not None or name not in names}

    @property
    def key(self) -> tuple[str | int, ...] | None:
        """What no other row of the file may share, beginning with data set and id; None if rows may be equal."""
        return None

    @property
    def where(self) -> str:
        """The file and line that the row was read from, for messages; empty if it was not read from a file."""
        return self._where

    def __eq__(self, other: object) -> bool:
        # pydantic's comparison includes private attributes, such as the line in a file.
        return (
            isinstance(other, Row) and type(self) is type(other) and self.model_dump() == other.model_dump()
        )


def dataset_of(id: str) -> str:
    """The data set that a published id names: the part before its first `_`, `-`, `:` or `/`."""
    prefix = re.match(r"[^_\-:/]+(?=[_\-:/])", id)
    return prefix[0] if prefix and prefix[0] != ALL else "unnamed"


REQUIRED = "required"  # the value of the field `tool` of a question or a task
Expected = list[ExpectedCall] | Literal["any"]


def _without_question(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in ("input", "question")}


def with_last_question(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a conversation, with the text of the last user message as `input`."""
    try:
        messages = read_messages(value["messages"])
    except ValueError as error:
        raise ValueError(f"field 'messages': {error}") from None
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ValueError(
            "field 'messages': the last message has to be of the user or a tool; `trice import --form conversations` "
            "makes questions of conversations that hold their answers"
        )
    asked = [message.content for message in messages if message.role == "user"]
    if not asked or not asked[-1].strip():
        raise ValueError("field 'messages': there is no question of the user")
    for name in ("input", "question"):
        if value.get(name) not in (None, "", asked[-1]):
            raise ValueError(
                f"field '{name}': is another question than the last one of 'messages'; leave it out"
            )
    if value.get("instruction"):
        raise ValueError(
            "field 'instruction': a conversation has a system message in 'messages' instead; leave it out"
        )
    return _without_question(value) | {"messages": messages, "input": asked[-1]}


class Question(Row):
    """A problem with one or more accepted answers. Its text may be in the field `question` or `input`."""

    id: str = Field(min_length=1)
    """unique in its data set; rows of different files are joined by data set and id"""
    dataset: str = ""
    """the data set, by which the report groups questions; by default the part of the id before `_`, `-`, `:` or `/`,
    else `unnamed`"""
    task: str | None = None
    """the task of this question, which every row of a mix needs (recipes fill it in); `second-turn` if the question
    is asked over a tool's output"""
    instruction: str = ""
    """the instruction; by default the task's"""
    # an error names a missing field by its first name; only one of the two reaches the check
    input: str = Field(validation_alias=AliasChoices("question", "input"))
    """the text of the question; of a conversation the last message of the user, which is filled in"""
    messages: Messages | None = None
    """in place of a text: the conversation so far, in the form of the OpenAI API, ending with a message of the user
    or a tool. It is rendered as it is, by the model's chat template, without the task's instruction"""
    tools: ToolList | None = None
    """the tools that the model is offered, as JSON schemas in the form of the OpenAI API; by default the task's.
    Those that the task has too, by name, are executed; a response ends with a call of another one"""
    answer: str | list[str] | None = None
    """the gold answer, or a list of accepted ones. For math each must contain a number, and the last number counts.
    Only `generate` accepts questions with neither an answer nor expected calls"""
    expected_calls: Expected | None = None
    """the calls of a right response, in any order, each with `name` and the accepted values of each of its
    `arguments`; an empty list if no call is right, `any` if any call is. They are judged instead of the answer"""
    tool: Literal["required"] | None = None
    """`required` if only a tool can know the answer (stock, prices, time): the question always needs a tool and is
    never known"""
    gold_calls: list[Annotated[list[ToolCall], Field(min_length=1)]] | None = Field(
        default=None, min_length=1
    )
    """the calls that answer the question, by turn: those of one turn do not need each other's results. The teachers
    `annotations` and `rule` make a label of them, which needs native tool calls"""
    turn: Count | None = None
    """for a second turn: its number among the questions over one output, from 1"""
    first_turn: str | None = None
    """for a second turn: the id of the question whose call returned the output"""

    @model_validator(mode="before")
    @classmethod
    def _published_form(cls, value: Any) -> Any:
        # Published rows of qa and lama have their question under `instruction`, and no input or an empty one.
        if not isinstance(value, dict):
            return value
        if value.get("messages") is not None:
            return with_last_question(value)
        given = {name: value[name] for name in ("input", "question") if value.get(name) is not None}
        if not given and ("prompt" in value or "conversations" in value):
            raise ValueError(
                "is a chat row, not a question; `trice import --form conversations` converts such rows"
            )
        texts = {name: text for name, text in given.items() if str(text).strip()}
        if len(texts) == 2 and len(set(map(str, texts.values()))) == 2:
            raise ValueError("fields 'input' and 'question' are two different questions; keep one of them")
        if not texts and str(value.get("instruction") or "").strip():
            return _without_question(value) | {"input": value["instruction"], "instruction": ""}
        if given and not texts:
            raise ValueError(f"field '{next(iter(given))}': the question is empty")
        # Only one of two equal fields is kept. The other would be passed on as an unknown field.
        return _without_question(value) | {"input": next(iter(texts.values()))} if len(given) == 2 else value

    @model_validator(mode="after")
    def _name_the_dataset(self) -> Self:
        # Published rows name their data set only in the id ("ASDiv_12", "GSM8K-3").
        if not self.dataset:
            self.dataset = dataset_of(self.id)
        if self.dataset == ALL:
            raise ValueError(f"field 'dataset': the name '{ALL}' is reserved for all data sets together")
        if self.answer is not None and not (self.answer and all(answer.strip() for answer in self.answers)):
            raise ValueError("field 'answer': there is no gold answer")
        return self

    @property
    def key(self) -> tuple[str | int, ...] | None:
        return self.dataset, self.id

    @property
    def answers(self) -> list[str]:
        """The gold answers, any of which is accepted; empty if they are not known."""
        if self.answer is None:
            return []
        return self.answer if isinstance(self.answer, list) else [self.answer]

    @property
    def is_judgeable(self) -> bool:
        """Whether a response can be judged: by gold answers, by expected calls, or, if it is a conversation,
        perhaps by a task that judges whole responses (`trice.tasks.check_questions` knows)."""
        return any(each is not None for each in (self.answer, self.expected_calls, self.messages))

    @property
    def user_texts(self) -> list[str]:
        """The text of the question, or those of all messages of the user."""
        if self.messages is None:
            return [self.input]
        return [message.content for message in self.messages if message.role == "user"]

    @property
    def gold_texts(self) -> list[str]:
        """What is right, as texts for people: the expected calls, else the gold answers."""
        if self.expected_calls is None:
            return self.answers
        if isinstance(self.expected_calls, str):
            return ["any call"]
        return [calls_text([expected.call() for expected in self.expected_calls]) or "no call"]


class Response(Question):
    """A question and what a model wrote. `score` and `evaluate` fill the fields from `outcome` on; in the format
    `chat`, `generate` fills all of them except the verdict."""

    response: str
    """what the model wrote"""
    origin: str = ""
    """the name that was given to the model"""
    sample: Count = 0
    """the number of this response among those of one origin to the question, from 0"""
    tokens: list[Count] | None = None
    """the sampled token ids without the end token, if the engine reports them and tokenizing the text gives others;
    without them, training tokenizes the text. In the format `chat`: all ids after the prompt, with those of tool
    results"""
    truncated: bool | None = None
    """true if a limit of tokens, turns or the context ended it, so that stage 2 does not imitate it"""
    outcome: Outcome | None = None
    """`answered`, `called` or `malformed`"""
    reason: str | None = None
    """why a call is malformed, or why the calls are not the expected ones"""
    call: ToolCall | None = None
    """the first call that can be parsed: its `name` and `arguments`"""
    execution: Execution | None = None
    """the result of that call: `output` or `error`"""
    completion: Messages | None = None
    """in the format `chat`: what the model wrote, with its tool calls, and the results that it read"""
    loss: list[bool] | None = None
    """in the format `chat`: for each of `tokens`, whether the model wrote it"""
    turns: list[str] | None = None
    """the model's answers in second turns over the output, such as all passages of a search; one answer, unless a
    user's tool asks several questions"""
    any_passage: bool | None = None
    """whether the answer over any one passage alone is right, if `evaluate` is given `any_passage`; the same as
    `correct` for a response that read no passages"""
    prediction: str | None = Field(default=None, validation_alias=AliasChoices("prediction", "pred"))
    """the answer that is judged: the first second turn that is not empty, else the output of the call, else the
    task's reading of the text (for math the last number, for other tasks the text); missing if there is none"""
    known_share: float | None = None
    """the share of right answers, if `split` asks several times"""
    correct: bool | None = None
    """whether the prediction is right. For math it must equal a gold answer after rounding to 2 decimals. Otherwise a
    gold answer must occur as whole words within its first 20 words, regardless of case and punctuation, or be an
    exact match"""
    exact: bool | None = None
    """for answers in words: whether the prediction is a gold answer word for word"""
    f1: Annotated[Number, Field(ge=0, le=1)] | None = None
    """for answers in words: the largest overlap of words with a gold answer, 0 to 1"""

    @property
    def key(self) -> tuple[str | int, ...] | None:
        return self.dataset, self.id, self.origin, self.sample

    @property
    def calls(self) -> list[ToolCall]:
        """All tool calls, in order."""
        if self.completion is None:
            return [] if self.call is None else [self.call]
        return [call for message in self.completion for call in message.tool_calls]

    @property
    def results(self) -> list[str]:
        """What the calls returned, in order; that of a failed call begins with `Error: `."""
        if self.completion is not None:
            return [message.content for message in self.completion if message.role == "tool"]
        if self.execution is None:
            return []
        error = self.execution.error
        return [(self.execution.output or "") if error is None else f"Error: {error}"]

    @field_validator("prediction", mode="before")
    @classmethod
    def _first_prediction(cls, value: Any) -> Any:
        # Published result files of qa list one prediction for each passage, or none.
        return next(iter(value), None) if isinstance(value, list) else value


# The fields that a response adds to its question. A user's question may have fields of these names.
GRADED = set(Response.model_fields) - set(Question.model_fields)
