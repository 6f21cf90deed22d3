"""Reads the samples in a reply of an OpenAI-compatible server, field by field.

The client library accepts replies of any shape, so they are validated here. A complete reply without usable text is
final, since another attempt would get the same. Where a call is written as text, only the first of
several counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, BaseModel, Field, ValidationError, WrapValidator

from trice.formats.paper import MAX_RESPONSE
from trice.messages import read_call
from trice.models.api_keys import KeyRing
from trice.models.budget import Spent
from trice.models.http import (
    Body,
    Fault,
    describe_body,
    embedded_fault,
    parse_json,
    proxy_hint,
    read_error_object,
)
from trice.types import ToolCall

MAX_CALLS_TEXT = 100_000  # characters of a reply's tool calls as JSON


class Reply(NamedTuple):
    """One sample.

    Attributes:
        text: The text that the model wrote.
        tokens: Its token ids, if the server reports them.
        calls: The tool calls that the server parsed and removed from the text.
        unreadable: Why the calls cannot be read; the text then holds them as JSON.
        complete: Whether the model came to an end by itself.
    """

    text: str
    tokens: list[int] | None = None
    calls: Sequence[ToolCall] = ()
    unreadable: str | None = None
    complete: bool = True


class Answer(NamedTuple):
    """A whole reply: the samples that the server sent, the fault of those without usable text, and the cost if the
    server reports its usage."""

    replies: list[Reply]
    fault: Fault | None
    spent: Spent | None


def _valid_or_none(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


# An optional field that is missing or invalid does not make a paid reply unusable.
_Optional = WrapValidator(_valid_or_none)


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Part(BaseModel):
    """One entry of a content that is a list, such as `{"type": "text", "text": …}`."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: Annotated[str | None, _Optional] = None
    reasoning: Annotated[str | list[Any] | None, _Optional] = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    tool_calls: Annotated[list[Any] | None, _Optional] = None


class _Choice(BaseModel):
    message: _Message = Field(default_factory=_Message)
    text: str | None = None
    finish_reason: Annotated[str | None, _Optional] = None
    error: Any = None
    token_ids: Annotated[list[int] | None, _Optional] = None

    def reply(self, ring: KeyRing, retry_after: float, *, keep_calls: bool) -> Reply | Fault:
        """The sample, or why there is none. With `keep_calls` a message may be empty."""
        if self.error and (error := read_error_object({"error": self.error})):
            return embedded_fault(error, ring, retry_after)
        if self.finish_reason == "content_filter":
            return _unusable("the server's content filter ended the reply")
        text, message, complete = self._text(), self.message, self.finish_reason != "length"
        if message.tool_calls:
            written = ring.hide(json.dumps(message.tool_calls, ensure_ascii=False))
            text = ring.hide(text or "")
            try:
                if len(written) > MAX_CALLS_TEXT:
                    raise ValueError(
                        f"the tool calls in the reply have more than {MAX_CALLS_TEXT} characters"
                    )
                calls = [_call(each) for each in json.loads(written)]
            except ValueError as error:
                text = f"{text}\n{written}".strip()
                return Reply(text[:MAX_RESPONSE], unreadable=str(error), complete=complete)
            return Reply(text[:MAX_RESPONSE], calls=calls, complete=complete)
        if not text and (refusal := self._refusal()):
            return _unusable(f"the model refused: {ring.message(refusal)}")
        ended = f"finish_reason {ring.message(str(self.finish_reason))}"
        if not text and message.reasoning:
            advice = "allow more new tokens, or turn off its thinking"
            return _unusable(f"the model wrote reasoning and no answer ({ended}); {advice}")
        if text is None and not keep_calls:
            return _unusable(f"the reply holds no text ({ended})")
        return Reply(ring.hide(text or "")[:MAX_RESPONSE], self.token_ids, complete=complete)

    def _text(self) -> str | None:
        content = self.message.content
        if not isinstance(content, list):
            return self.text if content is None else content
        texts = [
            part.text for part in content if part.text is not None and part.type in ("text", "output_text")
        ]
        return "".join(texts) if texts else None

    def _refusal(self) -> str | None:
        content = self.message.content
        parts = content if isinstance(content, list) else []
        return self.message.refusal or next((part.refusal for part in parts if part.refusal), None)


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: Annotated[_Usage | None, _Optional] = None


def read_reply(body: Body, ring: KeyRing, *, keep_calls: bool = False) -> Answer | Fault:
    """What a reply with status 200 holds. With `keep_calls` an assistant message may have no text."""
    content, retry_after = body
    try:
        value = parse_json(content)
    except ValueError as error:
        if "EOF" in str(error):
            return Fault(f"the reply ends too early{proxy_hint(ring.server)}")
        shown = ring.message(describe_body(content[:MAX_RESPONSE].decode(errors="replace")))
        return Fault(
            f"the reply is {shown}, and not JSON; check the URL{proxy_hint(ring.server)}", final=True
        )
    choices = value.get("choices") if isinstance(value, dict) else None
    if not choices and (error_object := read_error_object(value)):
        return embedded_fault(error_object, ring, retry_after)
    if choices is None:
        shown = ring.message(json.dumps(value)[:MAX_RESPONSE])
        return Fault(f"the reply is not a completion, but {shown}; check the URL", final=True)
    try:
        completion = _Completion.model_validate(value)
    except ValidationError as error:
        field = ring.message(".".join(map(str, error.errors()[0]["loc"])))
        return Fault(f"the reply is not a completion (field {field})", final=True)
    found = [choice.reply(ring, retry_after, keep_calls=keep_calls) for choice in completion.choices]
    faults = [each for each in found if isinstance(each, Fault)]
    if not found:
        faults = [_unusable("the reply has no choices")]
    usage = completion.usage
    spent = Spent(1, usage.prompt_tokens, usage.completion_tokens) if usage else None
    return Answer([each for each in found if isinstance(each, Reply)], faults[0] if faults else None, spent)


def write_calls(
    answer: Answer, write_call: Callable[[ToolCall], str] | None
) -> tuple[list[Reply], Fault | None]:
    """The samples of an answer with their calls written into the text, and the fault of the others."""
    replies: list[Reply] = []
    fault = answer.fault
    for reply in answer.replies:
        if reply.unreadable:
            fault = fault or _unusable(reply.unreadable)
            continue
        try:
            replies.append(_write_call(reply, write_call))
        except ValueError as error:
            reason = f"the reply holds a tool call that cannot be read: {error}"
            fault = fault or _unusable(reason)
    return replies, fault


def _write_call(reply: Reply, write_call: Callable[[ToolCall], str] | None) -> Reply:
    if not reply.calls or (write_call is None and reply.text):
        return reply
    if write_call is None:
        raise ValueError("no tool was offered")
    separator = "\n" if reply.text and not reply.text[-1].isspace() else ""
    return Reply(f"{reply.text}{separator}{write_call(reply.calls[0])}")


def _unusable(reason: str) -> Fault:
    """A complete reply without text, because of the model or a filter."""
    return Fault(reason, final=True, of_request=True)


def _call(entry: Any) -> ToolCall:
    """One of a reply's `tool_calls`, whose arguments are an object or its JSON. Raises ValueError for another form, and
    for arguments that no file can hold."""
    function = entry.get("function") if isinstance(entry, dict) else None
    name, arguments = map(function.get, ("name", "arguments")) if isinstance(function, dict) else ("", None)
    if isinstance(arguments, str):
        with suppress(ValueError):  # else it stays a text
            arguments = parse_json(arguments.encode())
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError(
            "the reply holds a tool call without a name, or whose arguments are not a JSON object"
        )
    return read_call({"name": name, "arguments": arguments})
