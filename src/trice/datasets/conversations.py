"""Conversations with tools: one record for all data sets that have them, and readers of the general forms.

`read_conversations` reads JSON or JSON lines in the forms of TRL (`messages`, or `prompt` with or without
`completion`, and `tools`) and of ShareGPT (`conversations` with `from` and `value`, and `tools` as JSON text).
`conversation` reads one row of them, also from the Hugging Face hub. `trice.datasets.bfcl` and `trice.datasets.toolrl`
read their data sets into the same record. `check_overlap` finds questions that two data sets share.

A conversation of several questions becomes one row that ends with the last question. Preferences, images and tools
that are described in the system prompt are not read. Rows that cannot be read are dropped, with a reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from trice.datasets.benchmark import Dropped, Record, as_list, read_jsonl
from trice.errors import InputError
from trice.storage.files import read_text, validate
from trice.storage.row_reader import records
from trice.tasks.call_judge import ExpectedCall
from trice.tools.answer_matching import words
from trice.types import Row, ToolCall

Message = dict[str, Any]
"""`role` and `content`, of the assistant also `tool_calls` and `reasoning_content`, of a tool `name`"""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_REASONING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_TAGGED_CALLS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)\s*", re.DOTALL)


class ConversationRow(Row):
    """A conversation up to the point where the model responds, the tools it may call, and what is right."""

    id: str = Field(min_length=1)
    """names the row within its data set"""
    dataset: str = Field(min_length=1)
    """the data set, or its category"""
    messages: list[Message] = Field(min_length=1)
    """the prompt in OpenAI's form, with the arguments of calls as objects"""
    tools: list[dict[str, Any]] = []
    """the tools as OpenAI's JSON schemas: `type` and `function` with `name`, `description` and `parameters`"""
    target: list[Message] = []
    """the response in the data set: assistant messages, with tool messages between them; empty if it has none"""
    expected: list[ExpectedCall] | Literal["any"] | None = None
    """the right calls; an empty list if no call is right, `any` if any call is, None if calls are not judged"""
    answer: str | list[str] | None = None
    """the accepted answers; the text that ends the target by default, if it ends with one"""

    @property
    def key(self) -> tuple[str | int, ...] | None:
        return self.dataset, self.id


class Conversations(NamedTuple):
    """The rows of a data set, and the rows that were dropped."""

    rows: list[ConversationRow]
    dropped: list[Dropped]

    @property
    def reasons(self) -> Counter[str]:
        """How many rows were dropped for each reason."""
        return Counter(each.reason for each in self.dropped)


class Unreadable(Exception):
    """A row cannot be read; the message is the reason, in words that are the same for all such rows."""


def read_conversations(path: Path, dataset: str = "") -> Conversations:
    """Read a file of conversations.

    Args:
        path: JSON lines, or a JSON list. Each row is in TRL's or in ShareGPT's form.
        dataset: The name of the data set; the file's name by default.

    Raises:
        InputError: The file is missing, is not JSON, or its rows are not objects.
    """
    name = dataset or path.stem
    return read_records(_records(path, name), lambda record: conversation(record, name))


def holds_conversations(path: Path) -> bool:
    """Whether the rows of a file are conversations, by the fields of the first one."""
    _, first = next(records(path), ("", {}))
    return (
        isinstance(first, Mapping)
        and "output" not in first
        and any(name in first for name in ("messages", "conversations", "prompt"))
    )


def _records(path: Path, name: str) -> list[Record]:
    """The rows of a JSON list or of JSON lines as records with a `name` and their number."""
    text = read_text(path)
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


def conversation(record: Record, dataset: str) -> ConversationRow:
    """A row in TRL's or ShareGPT's form.

    Its fields `expected` and `answer` are taken over, if it has them; the defaults are those of its target. A row
    without a target needs one of them, except a `prompt` alone. Fields that are null are taken as missing, also among
    the arguments of calls.

    Raises:
        Unreadable: The row has another form.
        InputError: `expected` or `answer` has another form.

    Example:
        >>> question = {"role": "user", "content": "2 + 2?"}
        >>> row = {"prompt": [question], "completion": [{"role": "assistant", "content": "4"}]}
        >>> conversation(Record("data.jsonl:1", "data-1", row), "sums").answer
        '4'
    """
    fields = _without_nulls(record.fields)
    if any(fields.get(name) for name in ("image", "images", "videos", "audios")):
        raise Unreadable("images, videos or sound")
    if "chosen" in fields:
        raise Unreadable("a preference")
    if fields.get("label") is False:
        raise Unreadable("an answer that is not wanted")
    tools = read_tools(fields.get("tools"))
    given = {name: fields[name] for name in ("expected", "answer") if name in fields}
    if "conversations" in fields:
        messages = _sharegpt_messages(fields["conversations"], fields.get("system"))
        prompt, target = split_target(messages)
    elif "prompt" in fields:
        prompt = _messages(fields["prompt"], "user")
        target = _messages(fields.get("completion", []), "assistant")
    elif "messages" in fields:
        prompt, target = split_target(_messages(fields["messages"], "user"))
    else:
        raise Unreadable("neither 'messages' nor 'conversations' nor 'prompt'")
    if not target and not given and "prompt" not in fields:
        raise Unreadable("no answer after the last question")
    return make_row(record, dataset, str(fields.get("id") or record.name), prompt, tools, target, **given)


def make_row(
    record: Record,
    dataset: str,
    id: str,
    prompt: Sequence[Message],
    tools: list[dict[str, Any]],
    target: Sequence[Message],
    **given: Any,
) -> ConversationRow:
    """A row whose expected calls and answer are those of its target, unless they are `given`. Raises Unreadable for
    messages that are no prompt and response, and if a call is not of one of the tools."""
    if not prompt:
        raise Unreadable("no question")
    if any(message["role"] not in ("assistant", "tool") for message in target):
        raise Unreadable("an answer that holds another question")
    messages = _with_tool_names([*prompt, *target])
    offered = {tool["function"]["name"] for tool in tools}
    if any(call.name not in offered for message in messages for call in calls_of(message)):
        raise Unreadable("a call of a tool that is not offered")
    fields: dict[str, Any] = {
        "id": id,
        "dataset": dataset,
        "messages": messages[: len(prompt)],
        "tools": tools,
        "target": messages[len(prompt) :],
    }
    if target:
        last = target[-1]
        fields["expected"] = [ExpectedCall.of(call) for message in target for call in calls_of(message)]
        fields["answer"] = last["content"] if last["role"] == "assistant" and not calls_of(last) else None
    return validate(ConversationRow, fields | given, record.where)


def split_target(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The messages up to the last question, and the response to it."""
    end = max((place for place, each in enumerate(messages, start=1) if each["role"] == "user"), default=0)
    return list(messages[:end]), list(messages[end:])


def calls_of(message: Message) -> list[ToolCall]:
    """The calls of a message as this module reads it."""
    return [ToolCall(**call["function"]) for call in message.get("tool_calls", ())]


def assistant(content: str, calls: Sequence[ToolCall] = (), reasoning: str = "") -> Message:
    """An assistant message. Raises Unreadable if it is empty."""
    if not content and not calls:
        raise Unreadable("an empty answer")
    message: Message = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def read_calls(text: str) -> list[ToolCall]:
    """The calls in a text that consists of JSON objects, one after the other or in a list. Raises Unreadable if it has
    anything else."""
    decoder, calls, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            raise Unreadable("a call that is not JSON") from None
        calls += [_call(each) for each in (value if isinstance(value, list) else [value])]
        rest = rest[end:].lstrip()
    return calls


def _call(value: Any) -> ToolCall:
    """A call as an object of `name` and `arguments` (or `parameters`), directly or under `function`."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unreadable("a call without a name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise Unreadable("a call whose arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise Unreadable("a call whose arguments are not an object")
    return ToolCall(name=function["name"], arguments=arguments)


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Tools as OpenAI's JSON schemas, from a list of them or of their functions, or from JSON text. Raises Unreadable
    for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise Unreadable("tools that are not JSON") from None
    if not isinstance(value, list | None):
        raise Unreadable("tools that are not a list")
    functions = [each.get("function", each) if isinstance(each, dict) else each for each in value or []]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in functions):
        raise Unreadable("a tool without a name")
    return as_tools(functions)


def as_tools(functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Functions with a name as OpenAI's JSON schemas. Raises Unreadable if two have the same name."""
    if len({function["name"] for function in functions}) < len(functions):
        raise Unreadable("two tools of the same name")
    no_parameters = {"type": "object", "properties": {}}
    return [
        {
            "type": "function",
            "function": {**function, "parameters": function.get("parameters") or no_parameters},
        }
        for function in functions
    ]


def _messages(value: Any, role: str) -> list[Message]:
    """TRL's messages; a plain text is one message of `role`."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unreadable("no list of messages")
    return [_message(each) for each in value]


def _message(message: Message) -> Message:
    role, content = message.get("role"), _text(message.get("content"))
    if role not in _ROLES:
        raise Unreadable("a message of an unknown role")
    if role == "assistant":
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise Unreadable("tool_calls that are not a list")
        reasoning = message.get("reasoning_content") or message.get("thinking") or ""
        read = _assistant(content, [_call(call) for call in calls], _text(reasoning))
        for entry, call in zip(read.get("tool_calls", ()), calls, strict=False):
            entry |= {"id": call["id"]} if "id" in call else {}
        return read
    known = {name: message[name] for name in ("name", "tool_call_id") if name in message and role == "tool"}
    return {"role": role, "content": content} | known


def _assistant(content: str, calls: Sequence[ToolCall] = (), reasoning: str = "") -> Message:
    """An assistant message; reasoning and calls that are in its text are taken out of it."""
    if found := _REASONING.match(content):
        content, reasoning = content[found.end() :], reasoning or found[1].strip()
    tagged = [call for text in _TAGGED_CALLS.findall(content) for call in read_calls(text)]
    return assistant(_TAGGED_CALLS.sub("", content).strip(), [*calls, *tagged], reasoning)


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [content or ""]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise Unreadable("a message that is not text")
    return "".join(map(str, texts))


def _sharegpt_messages(turns: Any, system: Any) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unreadable("no list of messages")
    messages: list[Message] = [{"role": "system", "content": _text(system)}] if system else []
    for turn in turns:
        value = _text(turn.get("value"))
        if turn.get("from") == "function_call":
            thought = _REASONING.match(value)
            reasoning, calls = (thought[1].strip(), value[thought.end() :]) if thought else ("", value)
            messages.append(assistant("", read_calls(calls), reasoning))
        elif role := _SHAREGPT_ROLES.get(str(turn.get("from"))):
            messages.append(_assistant(value) if role == "assistant" else {"role": role, "content": value})
        else:
            raise Unreadable("a message of an unknown role")
    return messages


def _with_tool_names(messages: Sequence[Message]) -> list[Message]:
    """The messages, with each tool message named by its call: that of its `tool_call_id`, else the next in order."""
    named: list[Message] = []
    calls: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            calls = list(message.get("tool_calls", ()))
        elif not calls:
            raise Unreadable("a tool's result without a call")
        else:
            same_id = [call for call in calls if message.get("tool_call_id") in (call.get("id"), None)]
            call = (same_id or calls)[0]
            calls = [each for each in calls if each is not call] or [call]
            message = {**message, "name": message.get("name") or call["function"]["name"]}
        named.append(message)
    return named


def _without_nulls(value: Any) -> Any:
    """A value without fields that are null: a table gives each row the fields of all other rows, as nulls."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


class Overlap(NamedTuple):
    """The questions that two data sets share, as pairs of ids: of the training row and of the test row.

    Attributes:
        exact: The same text.
        near: The same words, apart from case, punctuation and spaces; not the same text.
    """

    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]


def check_overlap(train: Sequence[ConversationRow], test: Sequence[ConversationRow]) -> Overlap:
    """The pairs of rows that share a question.

    Every user message of a conversation is compared with every one of the other. Other wordings of a question are not
    found.
    """
    by_text, by_words = _by_question(train, str), _by_question(train, _as_words)
    exact, near = [], []
    for row in test:
        same = _pairs(row, by_text, str)
        exact += same
        near += [pair for pair in _pairs(row, by_words, _as_words) if pair not in same]
    return Overlap(exact, near)


def _as_words(text: str) -> str:
    return " ".join(words(text))


def _questions(row: ConversationRow, normalise: Callable[[str], str]) -> list[str]:
    texts = [normalise(message["content"]) for message in row.messages if message["role"] == "user"]
    return [text for text in dict.fromkeys(texts) if text]


def _by_question(
    rows: Iterable[ConversationRow], normalise: Callable[[str], str]
) -> Mapping[str, list[ConversationRow]]:
    found = defaultdict(list)
    for row in rows:
        for text in _questions(row, normalise):
            found[text].append(row)
    return found


def _pairs(
    row: ConversationRow, found: Mapping[str, list[ConversationRow]], normalise: Callable[[str], str]
) -> list[tuple[str, str]]:
    return [(other.id, row.id) for text in _questions(row, normalise) for other in found.get(text, ())]
