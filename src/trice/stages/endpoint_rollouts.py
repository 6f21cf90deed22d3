"""Rollouts of a model behind a chat endpoint: its tool calls are executed here, and it reads their results.

Each conversation sends its next request as soon as the results of its calls are there. The result is that of
`trice.stages.rollouts`, without token ids. The server applies the model's chat template and parses the calls. A rollout
is kept after every reply and after every result, so that neither is paid for again after an interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from trice.errors import TriceError
from trice.formats.chat import ParsedTurn, ToolSchema
from trice.models.budget import ToolChat
from trice.models.endpoint_engine import EndpointEngine
from trice.models.engine import Failure, GenerationSettings
from trice.models.replies import Reply
from trice.stages.rollouts import MAX_TURNS, Rollout, are_executed
from trice.tools import Tool
from trice.tools.live_executor import LiveExecutor
from trice.types import Execution, Message, Outcome

# The result of a call in a worked example, since servers require one for each call.
NOT_SHOWN = "(The result is not shown.)"
_ROLLOUT = TypeAdapter(Rollout)


class Conversation(NamedTuple):
    """A conversation that the model continues, and the tools that are executed. `unfinished` are rollouts of some of
    the samples as `endpoint_rollouts` kept them. `offered` are the tools in the requests."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    samples: Sequence[int] = (0,)
    unfinished: dict[int, Any] = {}
    offered: Sequence[ToolSchema] = ()


Receive = Callable[[int, int, Rollout], None]
"""Receives a finished rollout with the numbers of its conversation and sample."""
Keep = Callable[[int, int, object], None]
"""Receives an unfinished rollout as JSON values."""


def endpoint_rollouts(
    engine: EndpointEngine,
    conversations: Sequence[Conversation],
    settings: GenerationSettings,
    receive: Receive,
    keep: Keep,
    output: Path | None = None,
) -> list[Failure]:
    """Continue conversations until the model answers without a call.

    With tool choice `required`, the first request of a conversation requires a call.

    Args:
        engine: The endpoint.
        conversations: What the model continues.
        settings: How each message is sampled.
        receive: Receives rollouts in the order in which they finish.
        keep: Receives those that continue, after each reply and after the results of its calls.
        output: The file that is being made. Calls are stored next to it.

    Returns:
        The conversations of which some sample failed.

    Raises:
        TriceError: If a tool cannot run, if every request would fail for the same reason, or if the budget is spent.
    """
    with LiveExecutor(output) as executor:
        run = _Run(conversations, settings, receive, keep, executor)
        for number, each in enumerate(conversations):
            if fresh := [sample for sample in each.samples if sample not in each.unfinished]:
                run.entries.append((number, fresh, run.request(number, [], settings.tool_choice)))
            for sample, kept in each.unfinished.items():
                run.rollouts[number, sample] = _ROLLOUT.validate_python(kept)
                run.entries.append((number, [sample], None))
        failures = engine.endpoint.complete(
            [request for _, _, request in run.entries],
            run.deliver,
            temperature=settings.sampling.temperature,
            max_tokens=settings.sampling.max_new_tokens,
            samples=[samples for _, samples, _ in run.entries],
            seed=settings.sampling.seed,
            fields=engine.fields(settings),
            follow_up=run.follow_up,
        )
    return [each._replace(request=run.entries[each.request][0]) for each in failures]


@dataclass
class _Run:
    """The state of one call of `endpoint_rollouts`. An entry is what one request of `Endpoint.complete` stands for: a
    conversation, some of its samples, and their first request."""

    conversations: Sequence[Conversation]
    settings: GenerationSettings
    receive: Receive
    keep: Keep
    executor: LiveExecutor
    entries: list[tuple[int, list[int], ToolChat | None]] = field(default_factory=list)
    rollouts: dict[tuple[int, int], Rollout] = field(default_factory=dict)  # that are not finished

    def request(self, number: int, written: Sequence[Message], tool_choice: str = "auto") -> ToolChat:
        conversation = self.conversations[number]
        return ToolChat(
            api_messages([*conversation.messages, *written]),
            conversation.offered,
            tool_choice if tool_choice == "required" else None,
        )

    def deliver(self, entry: int, replies: dict[int, Reply]) -> None:
        """Append the model's messages, and finish the rollouts that do not continue."""
        number = self.entries[entry][0]
        for sample, reply in replies.items():
            rollout = self.rollouts.setdefault((number, sample), Rollout([]))
            parsed = parsed_reply(reply)
            rollout.add_turn(parsed, complete=reply.complete)
            asked = self.conversations[number]
            called = parsed.outcome is Outcome.CALLED
            if called and are_executed(parsed.message.tool_calls, asked.tools, asked.offered):
                self._keep(number, sample)
            else:
                rollout.complete &= not called or bool(asked.offered)  # without tools, a call leads nowhere
                self._finish(number, sample)

    def _keep(self, number: int, sample: int) -> None:
        rollout = self.rollouts[number, sample]
        self.keep(number, sample, _ROLLOUT.dump_python(rollout, mode="json", exclude_defaults=True))

    def _finish(self, number: int, sample: int) -> None:
        self.receive(number, sample, self.rollouts.pop((number, sample)))

    async def follow_up(self, entry: int, sample: int) -> ToolChat | None:
        """The request with the results of the latest calls; None if the rollout is finished, or has failed."""
        number = self.entries[entry][0]
        rollout = self.rollouts.get((number, sample))
        if rollout is None:
            return None
        if rollout.messages[-1].role == "assistant":
            rollout.add_tool_messages(await self._execute(number, rollout))
            if not rollout.complete or rollout.turns >= MAX_TURNS:
                rollout.complete = False
                self._finish(number, sample)
                return None
            self._keep(number, sample)
        return self.request(number, rollout.messages)

    async def _execute(self, number: int, rollout: Rollout) -> list[Execution]:
        """The results of the calls of the last message, which run in parallel."""
        loop = asyncio.get_running_loop()
        tools = {tool.name: tool for tool in self.conversations[number].tools}
        results: list[asyncio.Future[Execution | TriceError]] = [
            loop.create_future() for _ in rollout.messages[-1].tool_calls
        ]

        def arrived(index: int, result: Execution | TriceError) -> None:
            if not results[index].done():
                results[index].set_result(result)

        def returned(index: int, result: Execution | TriceError) -> None:  # in another thread
            with contextlib.suppress(RuntimeError):  # the loop is closed after an error elsewhere
                loop.call_soon_threadsafe(arrived, index, result)

        rollout.start_calls(tools, self.executor, returned)
        executions = []
        for result in await asyncio.gather(*results):
            if isinstance(result, TriceError):
                raise result
            executions.append(result)
        return executions


def parsed_reply(reply: Reply) -> ParsedTurn:
    """The assistant message of a reply."""
    message = Message(role="assistant", content=reply.text, tool_calls=list(reply.calls))
    if reply.unreadable:
        return ParsedTurn(message, Outcome.MALFORMED, reply.unreadable)
    return ParsedTurn(message, Outcome.CALLED if reply.calls else Outcome.ANSWERED)


def api_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form of the OpenAI API: calls have ids, and their arguments are JSON text."""
    found: list[dict[str, Any]] = []
    waiting: list[str] = []  # the ids of calls without a result
    count = 0
    for message in messages:
        fields: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "tool":
            fields["tool_call_id"] = waiting.pop(0) if waiting else "call00000"
        else:
            found += [{"role": "tool", "content": NOT_SHOWN, "tool_call_id": id} for id in waiting]
            waiting = [f"call{count + index:05}" for index in range(len(message.tool_calls))]
            count += len(waiting)
        if message.tool_calls:
            fields["tool_calls"] = [
                {"id": id, "type": "function", "function": {
                    "name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False),
                }}
                for id, call in zip(waiting, message.tool_calls, strict=True)
            ]  # fmt: skip
        found.append(fields)
    return found
