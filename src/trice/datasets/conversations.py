"""Conversations with tools as questions: readers of the forms of OpenAI, TRL and ShareGPT.

A row is a conversation up to the point where the model responds, with its tools (`messages`, `tools`), and the
response of the data set. `read_conversations` reads JSON or JSON lines with `messages`, with `prompt` and
optionally `completion`, or with `conversations` of `from` and `value`; `tools` may be JSON text.
`read_conversation` reads one row, also from the Hugging Face hub. `trice.datasets.toolrl` and `trice.datasets.bfcl`
read their data sets.

Of a conversation with several questions of the user, the last one is the question. Preferences, images and tools that
are described in the system prompt are not read. Rows that cannot be read are dropped, with a reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trice.datasets.benchmark import Dropped, Record, as_list, read_jsonl
from trice.errors import InputError
from trice.messages import (
    ExpectedCall,
    Message,
    ToolCall,
    read_call,
    read_messages,
    read_text,
    read_tools,
    tool_names,
)
from trice.storage import files
from trice.storage.row_reader import records, without_nulls
from trice.types import Question

# The fields that make the conversation.
FIELDS = ("messages", "conversations", "prompt", "completion", "tools", "system")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_REASONING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_TAGGED_CALLS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)\s*", re.DOTALL)


class ConversationRow(NamedTuple):
    """A question, and the response of the data set: assistant messages, with tool messages between them; empty if
    it has none."""

    question: Question
    completion: list[Message]


class Conversations(NamedTuple):
    """The rows of a data set, and the rows that were dropped."""

    rows: list[ConversationRow]
    dropped: list[Dropped]

    @property
    def reasons(self) -> Counter[str]:
        """How many rows were dropped for each reason; names in a reason do not count."""
        return Counter(without_names(each.reason) for each in self.dropped)


def without_names(reason: str) -> str:
    """A reason without what it quotes of a row."""
    return re.sub(r"'[^']*'", "'…'", reason)


class Unreadable(Exception):
    """A row cannot be read; the message is the reason."""


def read_conversations(path: Path, dataset: str = "") -> Conversations:
    """Read a file of conversations.

    Args:
        path: JSON lines, or a JSON list. Each row is in the form of OpenAI, TRL or ShareGPT.
        dataset: The name of the data set; the file's name by default.

    Raises:
        InputError: The file is missing, is not JSON, or its rows are not objects.
    """
    name = dataset or path.stem
    return read_records(_records(path, name), lambda record: read_conversation(record, name))


def holds_conversations(path: Path) -> bool:
    """Whether the rows of a file are conversations, by the fields of the first one."""
    _, first = next(records(path), ("", {}))
    return isinstance(first, Mapping) and "output" not in first and is_conversation(first)


def is_conversation(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a row are those of a conversation."""
    return any(fields.get(name) is not None for name in ("messages", "conversations", "prompt"))


def _records(path: Path, name: str) -> list[Record]:
    """The rows of a JSON list or of JSON lines as records with a `name` and their number."""
    text = files.read_text(path)
    if not text.lstrip().startswith("["):
        return read_jsonl(path, name)
    try:
        return as_list(json.loads(text), str(path), name)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def read_records(records: Iterable[Record], read: Callable[[Record], ConversationRow]) -> Conversations:
    """Each record as `read` reads it; a record that is Unreadable is dropped."""
    rows, dropped = [], []
    for record in records:
        try:
            rows.append(read(record))
        except Unreadable as reason:
            dropped.append(Dropped(record.name, str(reason)))
    return Conversations(rows, dropped)


def read_conversation(record: Record, dataset: str) -> ConversationRow:
    """A row in the form of OpenAI, TRL or ShareGPT.

    Its fields `expected_calls` and `answer` are those of its response, unless it has them itself. A row without a
    response needs one of them, except a `prompt` alone. Other fields are kept. Fields that are null are missing
    ones, also among the arguments of calls, since a table gives each row the fields of all other rows.

    Raises:
        Unreadable: The row has another form.
        InputError: `expected_calls` or `answer` has another form.

    Example:
        >>> asked = {"role": "user", "content": "2 + 2?"}
        >>> row = {"prompt": [asked], "completion": [{"role": "assistant", "content": "4"}]}
        >>> read_conversation(Record("data.jsonl:1", "data-1", row), "sums").question.answer
        '4'
    """
    fields = without_nulls(record.fields)
    if any(fields.get(name) for name in ("image", "images", "videos", "audios")):
        raise Unreadable("images, videos or sound")
    if "chosen" in fields:
        raise Unreadable("a preference")
    if fields.get("label") is False:
        raise Unreadable("an answer that is not wanted")
    try:
        prompt, completion = _prompt_and_completion(fields)
        tools = read_tools(fields["tools"]) if "tools" in fields else None
    except ValueError as error:
        raise Unreadable(str(error)) from None
    given = {name: value for name, value in fields.items() if name not in FIELDS}
    if not completion and not given.keys() & {"expected_calls", "answer"} and "prompt" not in fields:
        raise Unreadable("no answer after the last question")
    return make_row(record, {"id": record.name, "dataset": dataset} | given, prompt, tools, completion)


def make_row(
    record: Record,
    fields: Mapping[str, Any],
    prompt: Sequence[Message],
    tools: list[dict[str, Any]] | None,
    completion: list[Message],
) -> ConversationRow:
    """A row with the expected calls and the answer of its completion, unless `fields` have one of them. Without
    tools only the answer is judged; if `tools` is None, the question is asked with those of its task. Raises
    Unreadable for messages that are no prompt and response, and for a call that is not of one of the tools."""
    if not prompt:
        raise Unreadable("no question")
    if prompt[-1].role not in ("user", "tool"):
        raise Unreadable("a prompt that ends with an answer")
    whole = [*prompt, *completion]
    if any(message.role not in ("assistant", "tool") for message in completion):
        raise Unreadable("an answer that holds another question")
    if any(each.role == "assistant" and not each.content and not each.tool_calls for each in whole):
        raise Unreadable("an empty answer")
    if not {call.name for call in _calls(whole)} <= set(tool_names(tools or [])):
        raise Unreadable("a call of a tool that is not offered")
    own: dict[str, Any] = {}
    if completion and not fields.keys() & {"expected_calls", "answer"}:
        last = completion[-1]
        own["expected_calls"] = [ExpectedCall.of(call) for call in _calls(completion)] if tools else None
        own["answer"] = last.content if last.role == "assistant" and not last.tool_calls else None
    messages = {"messages": list(prompt), "tools": tools}
    return ConversationRow(files.validate(Question, messages | own | dict(fields), record.where), completion)


def _calls(messages: Sequence[Message]) -> list[ToolCall]:
    return [call for message in messages for call in message.tool_calls]


def _prompt_and_completion(fields: Mapping[str, Any]) -> tuple[list[Message], list[Message]]:
    """The messages up to the last question, and the response to it."""
    if "conversations" in fields:
        return split_messages(_sharegpt_messages(fields["conversations"], fields.get("system")))
    if "prompt" in fields:
        prompt = _chat(fields["prompt"], "user")
        whole = read_messages([*prompt, *_chat(fields.get("completion", []), "assistant")])
        whole = [untag(message) for message in whole]
        return whole[: len(prompt)], whole[len(prompt) :]
    if "messages" in fields:
        return split_messages([untag(message) for message in read_messages(fields["messages"])])
    raise Unreadable("no field messages, conversations or prompt")


def _chat(value: Any, role: str) -> list[Any]:
    """TRL's messages; a plain text is one message of `role`."""
    if isinstance(value, list):
        return value
    return [{"role": role, "content": read_text(value)}]


def split_messages(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """The messages up to the last one of the user, and the others."""
    end = max((place for place, each in enumerate(messages, start=1) if each.role == "user"), default=0)
    return messages[:end], messages[end:]


def split_tagged_calls(text: str) -> tuple[str, list[ToolCall]]:
    """A text without the calls in it, which stand as JSON between tags as models of the Hermes family write them,
    and these calls. Raises ValueError for a call that is not JSON."""
    calls = [call for inside in _TAGGED_CALLS.findall(text) for call in read_calls(inside)]
    return _TAGGED_CALLS.sub("", text), calls


def untag(message: Message) -> Message:
    """An assistant's message whose text holds reasoning or calls between tags, with these in their fields. Raises
    ValueError for a call that is not JSON."""
    if message.role != "assistant":
        return message
    content, reasoning = message.content, message.reasoning_content
    if found := _REASONING.match(content):
        content, reasoning = content[found.end() :], reasoning or found[1].strip()
    content, tagged = split_tagged_calls(content)
    calls = [*message.tool_calls, *(call for call in tagged if call not in message.tool_calls)]
    fields = {"content": content.strip(), "reasoning_content": reasoning or None, "tool_calls": calls}
    return message.model_copy(update=fields)


def read_calls(text: str) -> list[ToolCall]:
    """The calls in a text that consists of JSON objects, one after the other or in a list. Raises ValueError if it
    has anything else."""
    decoder, calls, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            raise ValueError("a tool call is not JSON") from None
        calls += [read_call(each) for each in (value if isinstance(value, list) else [value])]
        rest = rest[end:].lstrip()
    return calls


def _sharegpt_messages(turns: Any, system: Any) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unreadable("no list of messages")
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        role = _SHAREGPT_ROLES.get(str(turn.get("from")))
        message = untag(Message(role=role or "user", content=read_text(turn.get("value"))))
        if role is None:
            raise Unreadable(f"a message has the role '{turn.get('from')}'")
        if turn.get("from") == "function_call":
            message = message.model_copy(update={"content": "", "tool_calls": read_calls(message.content)})
        messages.append(message if role != "tool" else {"role": role, "content": message.content})
    return read_messages(messages)
