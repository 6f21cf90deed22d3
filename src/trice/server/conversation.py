"""A conversation and a client's tools, read from a request to a model of the format `chat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trice.formats.chat import ToolSchema
from trice.messages import Message, check_storable, read_message
from trice.messages import read_tools as read_schemas
from trice.server.events import ConversationRequest
from trice.server.schema import ChatRequest, NamedTool, Refused, clip
from trice.server.schema import Message as RequestMessage
from trice.stages.rollouts import MAX_CALLS
from trice.types import Question


def read(request: ChatRequest, server_tools: Sequence[str]) -> ConversationRequest:
    """The conversation and the client's tools. Raises Refused with the name of the invalid field."""
    tools = read_tools(request, server_tools)
    names = [*server_tools, *(tool["function"]["name"] for tool in tools)]
    max_calls = 1 if request.parallel_tool_calls is False else MAX_CALLS
    return ConversationRequest(
        tuple(read_messages(request.messages)), tuple(tools), _called_tool(request, names), max_calls
    )


def read_tools(request: ChatRequest, server_tools: Sequence[str]) -> list[ToolSchema]:
    """The client's tools as a chat template expects them. Raises Refused if two tools have the same name, or if the
    parameters of one are no JSON schema of an object or nested too deeply."""
    tools: list[ToolSchema] = []
    seen: set[str] = set()
    for number, tool in enumerate(request.tools or ()):
        name, field = tool.function.name, f"tools.{number}.function.name"
        if name in server_tools:
            raise Refused(
                400, f"{field}: the server has a tool named '{name}' itself; rename the client's tool", field
            )
        if name in seen:
            raise Refused(400, f"{field}: two tools are named '{name}'; rename one", field)
        seen.add(name)
        field = f"tools.{number}.function.parameters"
        try:
            check_storable(tool.function.parameters, "the parameters")
            tools += read_schemas([tool.model_dump(exclude_none=True)])
        except ValueError as error:
            raise Refused(400, f"{field}: {error}", field) from None
    return tools


def _called_tool(request: ChatRequest, names: Sequence[str]) -> str | None:
    """The tool that the tool choice names. Raises Refused if there is no such tool, or if a call is required and there
    is no tool at all."""
    choice = request.tool_choice
    if choice == "required" and not names:
        raise Refused(400, "tool_choice: 'required' needs a tool, so send tools", "tool_choice")
    if not isinstance(choice, NamedTool):
        return None
    if choice.function.name not in names:
        raise Refused(400, f"tool_choice: no tool is named '{clip(choice.function.name)}'", "tool_choice")
    return choice.function.name


def read_messages(given: Sequence[RequestMessage]) -> list[Message]:
    """The messages of a conversation that the assistant continues. The results of a message's calls are put in the
    order of the calls. Raises Refused for an invalid message, and for a call without a result."""
    found: list[Message] = []
    names: dict[str, str] = {}  # the tools of the latest assistant message's calls, by the calls' ids
    results: dict[str, Message] = {}  # of these calls
    for number, each in enumerate(given):
        field = f"messages.{number}"
        if each.role == "tool":
            id = each.tool_call_id or ""
            if id not in names:
                raise Refused(
                    400, f"{field}.tool_call_id: '{clip(id)}' is not the id of a call in the assistant message before",
                    f"{field}.tool_call_id",
                )  # fmt: skip
            if id in results:
                raise Refused(400, f"{field}.tool_call_id: the call '{clip(id)}' has two results", field)
            results[id] = Message(role="tool", name=names[id], content=each.text)
            if len(results) == len(names):
                found += [results[id] for id in names]
            continue
        _check_answered(names, results)
        message = _read_message(each, field)
        if each.role == "assistant" and each.trice and each.trice.completion:
            *earlier, last = _completion(each.trice.completion, f"{field}.trice.completion")
            found += earlier
            message.content = last.content
        found.append(message)
        names = {call.id: call.function.name for call in each.tool_calls or ()}
        results = {}
        if len(names) < len(message.tool_calls):
            raise Refused(400, f"{field}.tool_calls: two calls have the same id", f"{field}.tool_calls")
    _check_answered(names, results)
    if not found:
        raise Refused(400, "messages: is empty; send at least a user message", "messages")
    if found[-1].role == "assistant":
        raise Refused(
            400, "messages: the last one is the assistant's; send a user message or the result of a tool after it",
            "messages",
        )  # fmt: skip
    return found


def _check_answered(names: dict[str, str], results: dict[str, Message]) -> None:
    missing = next((id for id in names if id not in results), None)
    if missing is not None:
        raise Refused(
            400, f"messages: the call '{clip(missing)}' has no result; send it as a message with the role tool and "
            "this tool_call_id",
            "messages",
        )  # fmt: skip


def _read_message(each: RequestMessage, field: str) -> Message:
    if each.tool_call_id is not None or (each.tool_calls and each.role != "assistant"):
        name = f"{field}.tool_{'calls' if each.tool_call_id is None else 'call_id'}"
        raise Refused(400, f"{name}: does not belong to a message of the role {each.role}", name)
    if each.content is None and not each.tool_calls:
        raise Refused(400, f"{field}.content: is missing", f"{field}.content")
    calls = [call.function.model_dump() for call in each.tool_calls or ()]
    try:
        return read_message({"role": each.role, "content": each.text, "tool_calls": calls})
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"{field}.tool_calls: {error}", f"{field}.tool_calls") from None


def _completion(given: Sequence[dict[str, Any]], field: str) -> list[Message]:
    """All messages of a response of this server that the client sends back, so that the model sees the calls that the
    server has executed. The last one is an assistant message with the end of the answer."""
    invalid = Refused(400, f"{field}: is not a response of this server; leave it out", field)
    try:
        found = [read_message(each) for each in given]
    except (ValueError, RecursionError):
        raise invalid from None
    if found[-1].role == "tool":  # the model has not commented on the result, which is the answer
        found.append(Message(role="assistant", content=found[-1].content))
    calls = [call.name for message in found[:-1] for call in message.tool_calls]
    results = [message.name for message in found[:-1] if message.role == "tool"]
    if (
        calls != results
        or {message.role for message in found} - {"assistant", "tool"}
        or found[0].role == "tool"
    ):
        raise invalid
    return found


def question_of(messages: Sequence[Message], task: str | None) -> Question:
    """What a conversation asks, as a question of the task: its last user message, and its system message as the
    instruction."""
    asked = [message.content for message in messages if message.role == "user" and message.content.strip()]
    system = [message.content for message in messages if message.role in ("system", "developer")]
    return Question(
        id="chat", input=asked[-1] if asked else "-", instruction="\n\n".join(system), task=task
    )  # fmt: skip
