"""Rollouts: a model continues conversations, and its tool calls are executed, until it answers without a call.

Token ids go in and come out: what is trained on are the ids that were sampled, and the ids of tool results, which carry
no loss. All conversations are one batch. The calls of a turn run in parallel and in the background; a conversation
leaves the batch while its calls run, and returns with their results. Its keys and values are kept meanwhile, so that
each token is computed once. Nothing is judged here, and only executions of calls are stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

import torch

from trice.errors import TriceError
from trice.formats.chat import ChatFormat, ParsedTurn, ToolSchema, result_message
from trice.messages import Execution, Message, ToolCall, tool_names
from trice.models.batching import EncodedPrompt
from trice.models.continuous_batch import BatchRow, ContinuousBatch, DecodingSettings
from trice.models.decoder_check import checked_decoder
from trice.models.kv_cache import CachedRow
from trice.models.local import LocalModel
from trice.models.sampling import Sampling
from trice.tools import Tool
from trice.tools.live_executor import LiveExecutor
from trice.types import Outcome

MAX_TURNS = 8  # assistant messages in one rollout
MAX_CALLS = 16  # in one message; further ones get an error as their result


class Conversation(NamedTuple):
    """A conversation that a model continues, as token ids (`ChatFormat.prompt`), and the tools that are executed.
    `key` and the sample numbers seed the samples. `offered` are the tools in the prompt; a rollout ends with a call of
    one that is not executed."""

    prompt: list[int]
    tools: Sequence[Tool] = ()
    key: str = ""
    samples: Sequence[int] = (0,)
    offered: Sequence[ToolSchema] = ()


@dataclass
class Rollout:
    """What a model made of a conversation.

    Attributes:
        prompt: Token ids of the conversation and the header of the first message.
        ids: Token ids after the prompt: messages of the model, end tokens included, and tool results between them.
        loss: For each of `ids`, whether the model wrote it.
        messages: The same as messages: assistant and tool messages in turn.
        executions: The results of all calls, in order.
        outcome: `malformed` if the last message is; else `called` if there was a call, else `answered`.
        reason: Why it is malformed.
        complete: Whether the model came to an end by itself: false if the limit of tokens, turns or the context
            ended the rollout.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    loss: list[bool] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    outcome: Outcome = Outcome.ANSWERED
    reason: str | None = None
    complete: bool = False

    @property
    def calls(self) -> list[ToolCall]:
        """All tool calls, in order."""
        return [call for message in self.messages for call in message.tool_calls]

    @property
    def answer(self) -> str | None:
        """The text of the last message if the model wrote it and it calls nothing; else None."""
        last = self.messages[-1] if self.messages else None
        if not last or last.role != "assistant" or last.tool_calls or self.outcome is Outcome.MALFORMED:
            return None
        return last.content or None

    def extend(self, ids: Sequence[int], *, loss: bool) -> None:
        """Append token ids, all with or all without loss."""
        self.ids += ids
        self.loss += [loss] * len(ids)

    def add_message(self, row: BatchRow, format: ChatFormat, tools: Sequence[ToolSchema]) -> ParsedTurn:
        """Parse the message that a finished row holds, and append it. A message includes its given opening."""
        context = [*self.prompt, *self.ids]
        ids = [*row.prompt[len(context) :], *row.ids, *([] if row.end is None else [row.end])]
        parsed = format.parse(ids, context, tools)
        self.extend(ids, loss=True)
        self.add_turn(parsed, complete=row.end is not None)
        return parsed

    def add_turn(self, parsed: ParsedTurn, *, complete: bool) -> None:
        """Append a parsed message."""
        self.messages.append(parsed.message)
        if parsed.outcome is not Outcome.ANSWERED:
            self.outcome, self.reason = parsed.outcome, parsed.reason
        self.complete = complete

    def add_results(
        self, executions: Sequence[Execution], format: ChatFormat, max_turns: int, context: int
    ) -> bool:
        """Append the results of the last message's calls as tool messages. Returns whether the model reads them, which
        it does not after a truncated message, after `max_turns` messages, or at the end of the context."""
        call = self.messages[-1]
        results = self.add_tool_messages(executions)
        if self.complete and self.turns < max_turns:  # a truncated message has no end to continue from
            ids = format.results(call, results, self.ids[-1])
            if len(self.prompt) + len(self.ids) + len(ids) < context:
                self.extend(ids, loss=False)
                return True
        self.complete = False
        return False

    def start_calls(
        self,
        tools: Mapping[str, Tool],
        executor: LiveExecutor,
        returned: Callable[[int, Execution | TriceError], None],
    ) -> None:
        """Execute the calls of the last message in parallel; `returned` receives each result with the number of its
        call, maybe in another thread."""
        calls = self.messages[-1].tool_calls
        before = len(self.calls) - len(calls)
        for index, call in enumerate(calls):
            if refused := refused_call(call, index, tools):
                returned(index, refused)
            else:
                earlier = self.calls[: before + index].count(call)
                executor.run(tools[call.name], call, partial(returned, index), earlier)

    def add_tool_messages(self, executions: Sequence[Execution]) -> list[Message]:
        """Append the results of the last message's calls as tool messages, and return them."""
        results = [
            result_message(call, execution)
            for call, execution in zip(self.messages[-1].tool_calls, executions, strict=True)
        ]
        self.executions += executions
        self.messages += results
        return results

    @property
    def turns(self) -> int:
        """The number of messages that the model wrote."""
        return sum(message.role == "assistant" for message in self.messages)


def are_executed(calls: Sequence[ToolCall], tools: Sequence[Tool], offered: Sequence[ToolSchema]) -> bool:
    """Whether the calls of a message are executed: there are some, and none is of a tool that is offered as a schema
    alone. A call of a tool that is not offered gets an error as its result."""
    executed = {tool.name for tool in tools}
    only_schemas = set(tool_names(offered)) - executed
    return bool(calls and executed) and not any(call.name in only_schemas for call in calls)


def refused_call(
    call: ToolCall, index: int, offered: Collection[str], max_calls: int = MAX_CALLS
) -> Execution | None:
    """The result of a call that is not executed; None for one that is. `index` is its place in the message, and
    `offered` has the names of the tools."""
    if index >= max_calls:
        limit = f"more than {max_calls} calls" if max_calls > 1 else "more than one call"
        return Execution(error=f"{limit} in one message")
    if call.name not in offered:
        return Execution(
            error=f"there is no tool '{call.name}'; the tools are: {', '.join(offered) or 'none'}"
        )
    return None


class _Owner(NamedTuple):
    """A rollout in the batch."""

    number: int
    sample: int


@torch.inference_mode()
def rollouts(
    loaded: LocalModel,
    format: ChatFormat,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    *,
    max_turns: int = MAX_TURNS,
    opening: Sequence[int] = (),
    batch_size: int = 128,
    output: Path | None = None,
) -> Iterator[tuple[int, int, Rollout]]:
    """Yield (number of the conversation, sample, rollout) in the order in which rollouts finish.

    Args:
        loaded: The policy.
        format: Its chat format.
        conversations: What it continues. They must fit into the model's context.
        sampling: How each message is sampled, of at most `max_new_tokens`. Its `samples` and `beams` are not used.
        max_turns: The number of assistant messages after which a rollout ends. With 1, calls are executed and their
            results are not read.
        opening: Token ids with which every first message begins.
        batch_size: Rollouts that are generated at the same time. The keys and values of at most half as many are kept
            while their calls run; those of others are computed again.
        output: The file that is being made of the rollouts. Calls are stored next to it, so that the same rollouts
            after a kill run no call again. Equal calls run once, except those that one conversation repeats of a
            tool without a version. The caller removes the stored calls with `remove_sidecars`.

    Raises:
        TriceError: If a tool cannot run. A tool that fails is a result that the model reads.
    """
    if conversations:
        yield from _Run(loaded, format, conversations, sampling, max_turns, opening).run(batch_size, output)


class _Run:
    """The state of one call of `rollouts`."""

    def __init__(
        self,
        loaded: LocalModel,
        format: ChatFormat,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        max_turns: int,
        opening: Sequence[int],
    ) -> None:
        self.loaded, self.format, self.conversations = loaded, format, conversations
        self.settings, self.max_turns, self.opening = DecodingSettings(sampling), max_turns, list(opening)
        self.rollouts: dict[_Owner, Rollout] = {}
        self.results: dict[_Owner, dict[int, Execution]] = {}  # of the calls of the latest message
        self.returned: Queue[tuple[_Owner, int, Execution | TriceError]] = Queue()
        self.waiting: deque[tuple[list[_Owner], EncodedPrompt]] = deque()
        self.finished: list[_Owner] = []
        self.caches: dict[_Owner, CachedRow] = {}  # of rollouts outside the batch

    def run(self, batch_size: int, output: Path | None) -> Iterator[tuple[int, int, Rollout]]:
        for number, each in enumerate(self.conversations):
            owners = [_Owner(number, sample) for sample in each.samples]
            self.rollouts |= {owner: Rollout(each.prompt) for owner in owners}
            entry = EncodedPrompt([*each.prompt, *self.opening], each.key, tuple(each.samples))
            self.waiting.append((owners, entry))
        prompts = [each.prompt for each in self.conversations]
        with checked_decoder(self.loaded, prompts) as decoder, LiveExecutor(output) as executor:
            batch = ContinuousBatch(self.loaded, decoder)
            batch.end_ids = self.loaded.eos_ids | self.format.end_ids
            while self.waiting or len(batch) or self.results:
                while self.waiting and (not len(batch) or len(batch) + len(self.waiting[0][0]) <= batch_size):
                    owners, entry = self.waiting.popleft()
                    batch.add(owners, entry, self.settings, self.caches.pop(owners[0], None))
                keep = batch_size // 2 - len(self.caches) if self.max_turns > 1 else 0
                for row in batch.step(keep):
                    if row.text is not None:
                        owner = next(each for each in row.owner if each.sample == row.sample)
                        self._turn_written(owner, row, executor)
                self._take_results(idle=not len(batch))
                for owner in self.finished:
                    self.caches.pop(owner, None)
                    yield owner.number, owner.sample, self.rollouts.pop(owner)
                self.finished = []

    def _turn_written(self, owner: _Owner, row: BatchRow, executor: LiveExecutor) -> None:
        """Parse a message, and start its calls or finish the rollout."""
        rollout, conversation = self.rollouts[owner], self.conversations[owner.number]
        offered = conversation.offered
        parsed = rollout.add_message(row, self.format, offered)
        if row.cache is not None:
            self.caches[owner] = row.cache
        if not are_executed(parsed.message.tool_calls, conversation.tools, offered):
            # Without tools, a call leads nowhere.
            rollout.complete &= parsed.outcome is not Outcome.CALLED or bool(offered)
            self.finished.append(owner)
            return
        tools = {tool.name: tool for tool in conversation.tools}
        self.results[owner] = {}
        rollout.start_calls(tools, executor, partial(self._returned, owner))

    def _returned(self, owner: _Owner, index: int, result: Execution | TriceError) -> None:
        self.returned.put((owner, index, result))  # from another thread

    def _take_results(self, *, idle: bool) -> None:
        """Take the executions that have arrived. If the batch is idle and nothing else is to do, wait for one."""
        while self.results:
            try:
                block = idle and not self.waiting and not self.finished
                owner, index, result = self.returned.get(block=block)
            except Empty:
                return
            if isinstance(result, TriceError):
                raise result
            executions = self.results[owner]
            executions[index] = result
            call = self.rollouts[owner].messages[-1]
            if len(executions) == len(call.tool_calls):
                del self.results[owner]
                self._turn_executed(owner, [executions[i] for i in range(len(executions))])

    def _turn_executed(self, owner: _Owner, executions: Sequence[Execution]) -> None:
        """Append tool messages, and put the conversation back into the queue unless it has reached a limit."""
        rollout = self.rollouts[owner]
        if not rollout.add_results(executions, self.format, self.max_turns, self.loaded.context):
            self.finished.append(owner)
            return
        context = [*rollout.prompt, *rollout.ids]
        key = f"{self.conversations[owner.number].key} {rollout.turns}"
        # Before the conversations that have not begun, so that a rollout is finished, and stored, early.
        self.waiting.appendleft(([owner], EncodedPrompt(context, key, (owner.sample,))))
