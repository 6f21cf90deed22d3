"""Answers a request in the format `chat`: a conversation that the model continues, as in `trice.stages.rollouts`.

Calls of the server's tools are executed, and the model reads their results. A message with a call of a tool of the
client ends the response, because only the client can execute it. The server's calls in such a message are not executed,
since their results could not be returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from trice.errors import InputError
from trice.models.batching import EncodedPrompt
from trice.models.call_threshold import CallThreshold
from trice.models.continuous_batch import BatchRow, ContinuousBatch, DecodingSettings
from trice.models.engine import ToolChoice
from trice.models.kv_cache import CachedRow
from trice.server.events import (
    CallProbability,
    Started,
    TextSoFar,
    TurnExecuted,
    TurnStarted,
    TurnWritten,
)
from trice.server.jobs import Job
from trice.server.schema import Refused
from trice.server.worker import Worker
from trice.stages.chat_responses import offered_tools, to_response
from trice.stages.generate import content_key, with_instruction
from trice.stages.rollouts import MAX_TURNS, Rollout, refused_call
from trice.types import Execution, Message, Question, ToolCall


class RowOwner(NamedTuple):
    """What a row of a batch belongs to. `keeps_cache` says whether its keys and values are kept while its calls run."""

    job: Job
    keeps_cache: bool


class ChatResponder:
    """Answers one request. Its methods run in the worker's thread."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self.worker, self.job, self.request = worker, job, job.request
        self.model, conversation = job.request.model, job.request.conversation
        assert self.model.chat is not None
        assert conversation is not None
        self.chat, self.conversation = self.model.chat, conversation
        self.task = worker.registry.tasks.of(self.request.question)
        self.question = with_instruction(self.request.question, self.task)
        self.messages = with_system_message(conversation.messages, self.task.instruction)
        self._offer(self.request.tool_choice)
        self.key = conversation_key(self.question, conversation.messages, conversation.tools)
        self.rollouts: dict[int, Rollout] = {}  # by sample
        self.results: dict[int, dict[int, Execution]] = {}  # of the calls of each sample's latest message
        self.caches: dict[int, CachedRow | None] = {}  # of samples whose calls run

    def _offer(self, tool_choice: ToolChoice) -> None:
        """Offer the server's and the client's tools, unless calls are forbidden."""
        self.tool_choice = tool_choice
        offered = () if tool_choice == "none" else self.task.tools
        self.tools = {tool.name: tool.for_question(self.question) for tool in offered}
        clients = () if tool_choice == "none" else self.conversation.tools
        self.schemas = [*offered_tools(self.question, tuple(self.tools.values())), *clients]
        self.names = tuple(schema["function"]["name"] for schema in self.schemas)
        self.client_tools = {tool["function"]["name"] for tool in clients}

    @property
    def decoding(self) -> DecodingSettings:
        """How tokens are chosen, and the texts that end a message."""
        return DecodingSettings(self.request.sampling, partial(before_stop, self.request.stops))

    @property
    def _owner(self) -> RowOwner:
        return RowOwner(self.job, keeps_cache=bool(self.tools))

    def start(self) -> None:
        """Add the conversation to its batch. Raises InputError if it is too long, or if the chat template cannot
        express it, and Refused if the template cannot begin a call that is required."""
        job, request, prompt = self.job, self.request, self.chat.prompt(self.messages, self.schemas)
        ids = [*prompt, *self._opening()]
        job.check_length(ids, self.worker.limits.max_prompt_tokens)
        job.emit(Started(self.names))
        batch = self._batch(ids)
        if self.names and request.tool_choice == "auto":
            if request.probability:
                self._report_probability(batch, ids)
            if request.call_threshold:
                self._decide(request.call_threshold, batch, ids)
                prompt = self.chat.prompt(self.messages, self.schemas)
                ids = [*prompt, *self._opening()]
                job.check_length(ids, self.worker.limits.max_prompt_tokens)
                batch = self._batch(ids)
        samples = tuple(range(request.sampling.samples))
        self.rollouts = {sample: Rollout(prompt) for sample in samples}
        self._announce(samples, prompt)
        job.prompt_tokens += len(ids)
        batch.add(self._owner, EncodedPrompt(ids, self.key, samples), self.decoding)

    def _opening(self) -> list[int]:
        """The token ids that a required call begins with."""
        if self.tool_choice != "required":
            return []
        try:
            return self.chat.call_opening(self.conversation.called_tool)
        except InputError as error:
            raise Refused(400, str(error), "tool_choice") from None

    def _decide(self, threshold: CallThreshold, batch: ContinuousBatch, ids: list[int]) -> None:
        """Require or forbid a call, by P(call) of the prompt."""
        try:
            openings = [self.chat.call_opening()]
        except InputError as error:
            raise Refused(400, f"trice.call_threshold: {error}", "trice.call_threshold") from None
        (probability,), states = batch.signals(ids, openings, threshold.layers)
        self._offer("required" if threshold.calls(probability, states) else "none")

    def _report_probability(self, batch: ContinuousBatch, ids: list[int]) -> None:
        try:
            openings = [self.chat.call_opening(name) for name in self.names]
        except InputError:  # this template does not begin a call with the name
            return
        probabilities: list[float] = []
        size = self.worker.limits.batch_size  # a client may have more tools than there is memory for rows
        for start in range(0, len(openings), size):
            probabilities += batch.signals(ids, openings[start : start + size])[0]
        self.job.emit(CallProbability(dict(zip(self.names, probabilities, strict=True))))

    def _announce(self, samples: Sequence[int], prompt: Sequence[int]) -> None:
        """Report that messages begin after a prompt."""
        text = self._decode(prompt)
        for sample in samples:
            self.job.emit(TurnStarted(sample, text))

    def _batch(self, ids: list[int]) -> ContinuousBatch:
        system = [message for message in self.messages[:1] if message.role in ("system", "developer")]

        def encode(text: str) -> list[int]:
            return self.chat.prompt([*system, Message(role="user", content=text)], self.schemas)

        return self.worker.batches.batch_for(self.model, encode, ids)

    def row_changed(self, row: BatchRow) -> None:
        """Take a token or the end of a message."""
        rollout = self.rollouts[row.sample]
        # The prompt of a first message may end with the message's opening.
        start = len(rollout.prompt) + len(rollout.ids)
        if row.text is None:
            if self.request.stream:
                self.job.emit(TextSoFar(row.sample, self._decode([*row.prompt[start:], *row.ids])))
            return
        parsed = rollout.add_message(row, self.chat, self.schemas)
        message, calls = parsed.message, parsed.message.tool_calls if self.schemas else []
        message.content = self._before_stop(message.content)
        written = self._before_stop(self._decode([*row.prompt[start:], *row.ids]))
        counted = calls[: self.conversation.max_calls]
        returned = tuple(call for call in counted if call.name in self.client_tools)
        self.job.emit(
            TurnWritten(
                row.sample, written, message, rollout.outcome, rollout.reason, row.at_length_limit, returned
            )
        )  # fmt: skip
        if calls and not returned:
            self.caches[row.sample] = row.cache
            self._execute(row.sample, calls)
        else:
            self._done(row.sample)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.chat.tokenizer.decode(ids)
        return text

    def _before_stop(self, text: str) -> str:
        cut = before_stop(self.request.stops, text)
        return text if cut is None else cut

    def _execute(self, sample: int, calls: Sequence[ToolCall]) -> None:
        """Run all calls of a message at the same time."""
        self.results[sample] = {}
        for index, call in enumerate(calls):
            then = partial(self._returned, sample, index)
            if refused := refused_call(call, index, self.names, self.conversation.max_calls):
                then(refused)
            else:
                self.worker.run_call(self.job, self.tools[call.name], call, then)

    def _returned(self, sample: int, index: int, execution: Execution) -> None:
        rollout, results = self.rollouts[sample], self.results[sample]
        results[index] = execution
        count = len(rollout.messages[-1].tool_calls)
        if len(results) < count:
            return
        executions = [results[number] for number in range(count)]
        continues = rollout.add_results(executions, self.chat, MAX_TURNS, self.model.context)
        self.job.emit(TurnExecuted(sample, rollout.messages[-count:], executions))
        if not continues:
            self._done(sample)
            return
        context = [*rollout.prompt, *rollout.ids]
        self._announce([sample], context)
        self.job.prompt_tokens += len(context)
        settings = self.decoding._replace(sampling=replace(self.request.sampling, samples=1))
        entry = EncodedPrompt(context, f"{self.key} {rollout.turns}", (sample,))
        self._batch(context).add(self._owner, entry, settings, self.caches.pop(sample, None))

    def _done(self, sample: int) -> None:
        rollout = self.rollouts[sample]
        self.worker.response_done(
            self.job, to_response(self.question, self.task, rollout, self.chat, sample=sample)
        )


def with_system_message(messages: Sequence[Message], instruction: str) -> list[Message]:
    """A conversation with the task's instruction as system message, unless it has a system message."""
    if not instruction or any(message.role in ("system", "developer") for message in messages):
        return list(messages)
    return [Message(role="system", content=instruction), *messages]


def conversation_key(question: Question, messages: Sequence[Message], tools: Sequence[object]) -> str:
    """What seeds the samples: for a single question the same as in `trice generate`."""
    single = [message.role for message in messages] in (["user"], ["system", "user"], ["developer", "user"])
    if tools or not single:
        fields = {"messages": list(messages), "tools": list(tools)}
        question = question.model_copy(update=fields)
    return content_key(question)


def before_stop(stops: Sequence[str], text: str, checked: int = 0) -> str | None:
    """The text before the first of the `stops`; None if none occurs. `checked` characters are known to have none."""
    found = [at for stop in stops if (at := text.find(stop, max(0, checked - len(stop) + 1))) >= 0]
    return text[: min(found)] if found else None
