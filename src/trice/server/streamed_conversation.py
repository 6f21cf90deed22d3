"""A response of the format `chat`: what a client can receive while it is being written, and the complete message.

The texts of all messages that the model writes are the content, one on each line. Calls and reasoning are not part of
it. A stream never takes text back. Calls of the client's tools, and text after a call, are sent when their message is
complete, since only then it is known that the calls are well formed and where they end. `</think>` ends a reasoning
that the message or its prompt has begun, and is text elsewhere. Messages are parsed by `trice.formats.chat`; the parser
of transformers finds the text in an incomplete message.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from transformers.utils.chat_parsing import ResponseParser

from trice.formats.chat import ChatFormat
from trice.formats.paper import REASONING_OPENINGS, visible
from trice.server.events import (
    ResponseDone,
    ResponseEvent,
    TextSoFar,
    TurnExecuted,
    TurnStarted,
    TurnWritten,
)
from trice.server.streamed_text import INCOMPLETE, execution_fields, partial_match, remainder
from trice.types import Execution, Message, Outcome, ToolCall


class TurnText:
    """The text in a message that is being written, without calls and reasoning."""

    def __init__(self, template: dict[str, Any], prompt: str, stops: Sequence[str]) -> None:
        self._parser = ResponseParser(template, prefix=prompt)
        self._stops = stops
        self._written, self._text = "", ""
        self._call_start: int | None = None  # in the text
        self._add(self._parser.initial_events)  # a reasoning that the prompt has begun

    def take(self, written: str) -> None:
        """Take the message as far as it is written."""
        written = written.rstrip(INCOMPLETE)
        if written.startswith(self._written):  # else the tokenizer has decoded earlier tokens in another way
            self._add(self._parser.feed(written[len(self._written) :]))
            self._written = written

    def take_all(self, written: str) -> None:
        """Take a complete message."""
        self._add(self._parser.feed(written))
        self._add(self._parser.finalize()[1])

    def _add(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            kind = event["type"], event["field"]
            if kind == ("region_chunk", "content"):
                self._text += event["text"]
            elif kind == ("region_open", "tool_calls") and self._call_start is None:
                self._call_start = len(self._text)

    @property
    def stable_text(self) -> str:
        """The text that will not change any more."""
        text = self._before(self._text[: self._call_start], (*self._stops, *REASONING_OPENINGS))
        return visible(text, from_first_mark=True)

    @property
    def text(self) -> str:
        """The text of the whole message."""
        return visible(self._text, from_first_mark=True).strip()

    @property
    def stable_written(self) -> str:
        """What is written, with calls, and will not change any more."""
        return self._before(self._written, self._stops)

    def _before(self, text: str, held: Sequence[str]) -> str:
        """The text before anything that could become one of the `held` texts, and before a stop text."""
        text = text[: partial_match(text, held, word=False)]
        return text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)].strip()


class StreamedConversation:
    """One response as far as it is known."""

    def __init__(self, chat: ChatFormat, stops: Sequence[str]) -> None:
        self.probability: dict[str, Any] | None = None
        self._template = _text_template(chat.tokenizer.response_template)
        self._stops = stops
        self._texts: list[str] = []  # of complete messages
        self._written: list[str] = []
        self._prompt = ""
        self._turn: TurnText | None = None
        self._sent, self._sent_written = "", ""
        self._completion: list[Message] = []
        self._executions: list[Execution] = []
        self._outcome, self._truncated = Outcome.ANSWERED, False
        self._reason: str | None = None
        self._tool_calls: list[dict[str, Any]] = []

    def update(self, one: ResponseEvent) -> None:
        """Apply an event of the worker."""
        if isinstance(one, TurnStarted):
            self._prompt, self._turn = one.prompt, TurnText(self._template, one.prompt, self._stops)
        elif isinstance(one, TextSoFar):
            assert self._turn is not None
            self._turn.take(one.text)
        elif isinstance(one, TurnWritten):
            self._take_turn(one)
        elif isinstance(one, TurnExecuted):
            self._completion += one.results
            self._executions += one.executions
        elif isinstance(one, ResponseDone) and not self._tool_calls:
            last = self._completion[-1]
            read = last.role == "assistant" and last.content and self._outcome is not Outcome.MALFORMED
            if not read:  # the answer is a result that the model did not comment, or says what is malformed
                self._texts.append(one.answer)

    def _take_turn(self, one: TurnWritten) -> None:
        # Parsed from its beginning, because a stop text may have shortened what was written.
        whole = TurnText(self._template, self._prompt, self._stops)
        whole.take_all(one.text)
        self._texts.append(whole.text)
        self._written.append(one.text.strip())
        self._turn = None
        self._completion.append(one.message)
        self._outcome, self._reason, self._truncated = one.outcome, one.reason, one.truncated
        self._tool_calls = list(map(_tool_call, one.returned))

    def deltas(self, one: ResponseEvent) -> list[dict[str, Any]]:
        """What an event that has been applied adds to a stream."""
        deltas: list[dict[str, Any]] = []
        written, self._sent_written = remainder(self._response(), self._sent_written)
        if written:
            deltas.append({"trice": {"text": written}})
        if isinstance(one, TurnWritten):
            deltas.append({"trice": self._decision() | {"completion": [one.message.for_template()]}})
        elif isinstance(one, TurnExecuted):
            results = {"completion": [message.for_template() for message in one.results]}
            deltas.append({"trice": {"execution": self._first_execution()} | results})
        content, self._sent = remainder(self._content(), self._sent)
        if content:
            deltas.append({"content": content})
        if isinstance(one, TurnWritten):
            deltas += _call_deltas(self._tool_calls)
        return deltas

    def message(self) -> dict[str, Any]:
        """The complete message, with the extension `trice`."""
        content = self._content()
        extension = {"response": self._response()} | self._decision()
        extension |= {"execution": self._first_execution(), "turns": None, "probability": self.probability}
        extension |= {"completion": [message.for_template() for message in self._completion]}
        if not self._tool_calls:
            return {"content": content, "trice": extension}
        return {"content": content or None, "tool_calls": self._tool_calls, "trice": extension}

    def finish_reason(self) -> str:
        """`tool_calls` if the client has calls to execute; `length` if the last message reached its length limit
        without a call; else `stop`."""
        if self._tool_calls:
            return "tool_calls"
        last = next(message for message in reversed(self._completion) if message.role == "assistant")
        return "length" if self._truncated and not last.tool_calls else "stop"

    def _content(self) -> str:
        texts = [*self._texts, *([self._turn.stable_text] if self._turn else [])]
        return "\n".join(filter(None, texts))

    def _response(self) -> str:
        texts = [*self._written, *([self._turn.stable_written] if self._turn else [])]
        return "\n".join(filter(None, texts))

    def _decision(self) -> dict[str, Any]:
        calls = [call for message in self._completion for call in message.tool_calls]
        call = calls[0].model_dump() if calls else None
        return {"decision": self._outcome.value, "call": call, "reason": self._reason}

    def _first_execution(self) -> dict[str, Any] | None:
        return execution_fields(self._executions[0] if self._executions else None)


def _text_template(template: dict[str, Any]) -> dict[str, Any]:
    """The template of a parser that takes the text of every field as it is, so that no incomplete call is an error."""
    kept = ("open", "open_pattern", "close", "close_pattern", "repeats")
    # The parser accepts a pattern with named groups, such as that of Llama's calls, only with a transform.
    plain = {"content": "text", "transform": "{content}"}
    fields = {
        name: {key: value for key, value in field.items() if key in kept} | plain
        for name, field in template["fields"].items()
    }
    return {**template, "fields": fields}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """A call in OpenAI's form, with an id."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _call_deltas(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls as OpenAI streams them: the id and the name, and then the arguments."""
    deltas: list[dict[str, Any]] = []
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opened = call | {"index": index, "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [opened]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
    return deltas
