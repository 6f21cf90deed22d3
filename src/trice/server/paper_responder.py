"""Answers a request in the format `paper`: one question, at most one call, and second turns over its output."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from trice.models.batching import EncodedPrompt
from trice.models.call_blocker import CallBlocker
from trice.models.continuous_batch import BatchRow, ContinuousBatch, DecodingSettings
from trice.models.engine import GenerationSettings, Prompt, ToolChoice
from trice.server.events import (
    CallExecuted,
    CallProbability,
    ResponseParsed,
    SecondTurnDone,
    Started,
    TextSoFar,
)
from trice.server.jobs import Job
from trice.server.worker import Worker
from trice.stages.call_decision import call_openings, decided, to_signal
from trice.stages.generate import content_key, generation_settings, with_instruction
from trice.stages.grading import second_turn, with_execution
from trice.stages.model_spec import ModelSpec
from trice.tasks.outcome import Parsed, parse
from trice.types import Execution, Outcome, Question, Response


class RowOwner(NamedTuple):
    """What a row of a batch belongs to: a first response, or a second turn over the response `second_turn_of`."""

    job: Job
    settings: GenerationSettings
    second_turn_of: int | None = None
    keeps_cache: bool = False  # a second turn has a prompt of its own


class SecondTurn(NamedTuple):
    """A question over a call's result that the model has yet to answer."""

    question: Question
    settings: GenerationSettings
    ids: list[int]


@dataclass
class SecondTurns:
    """The second turns of one executed response."""

    response: Response
    waiting: deque[SecondTurn]
    answers: list[str] = field(default_factory=list)


class PaperResponder:
    """Answers one request. Its methods run in the worker's thread."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self.worker, self.job, self.request = worker, job, job.request
        self.tasks, self.model = worker.registry.tasks, job.request.model
        self.question = with_instruction(self.request.question, self.tasks.of(self.request.question))
        self.second_turns: dict[int, SecondTurns] = {}  # by the number of the response

    def start(self) -> None:
        """Add the prompt to its batch. Raises InputError if it is too long, or if a call is required and the task has
        no tool."""
        job, request, question = self.job, self.request, self.question
        how, ids = self._encode(question, request.tool_choice)
        job.check_length(ids, self.worker.limits.max_prompt_tokens)
        names, threshold = tuple(how.parsers), request.call_threshold
        job.emit(Started(names))
        batch = self._batch(question, how, ids)
        if names and request.tool_choice == "auto" and (request.probability or threshold):
            openings = call_openings(how.template, self.model.loaded.tokenizer, names)
            found, states = batch.signals(ids, openings, threshold.layers if threshold else ())
            if request.probability:
                job.emit(CallProbability(dict(zip(names, found, strict=True))))
            if threshold:
                how = decided(how, threshold, to_signal(found, names, states))
                ids = self._prompt(question, how)
                job.check_length(ids, self.worker.limits.max_prompt_tokens)
        job.prompt_tokens += len(ids)
        settings = DecodingSettings(request.sampling, how.finish, self._call_blocker(how))
        samples = tuple(range(request.sampling.samples))
        batch.add(RowOwner(job, how), EncodedPrompt(ids, content_key(question), samples), settings)

    def _encode(
        self, question: Question, tool_choice: ToolChoice = "auto"
    ) -> tuple[GenerationSettings, list[int]]:
        """How a question is answered, and the token ids of its prompt."""
        template = self.model.template
        template = template.model_copy(update={"stop": (*template.stop, *self.request.stops)})
        spec = ModelSpec(
            self.model.name, template=template, tool_choice=tool_choice, sampling=self.request.sampling
        )
        how = generation_settings(self.tasks, self.tasks.of(question), spec)
        return how, self._prompt(question, how)

    def _prompt(self, question: Question, how: GenerationSettings) -> list[int]:
        prompt = Prompt("", question.instruction, question.input)
        return how.encode_prompt(self.model.loaded.tokenizer, prompt)

    def _batch(self, question: Question, how: GenerationSettings, ids: list[int]) -> ContinuousBatch:
        encode = partial(how.template.encode, self.model.loaded.tokenizer, question.instruction)
        return self.worker.batches.batch_for(self.model, encode, ids)

    def _call_blocker(self, how: GenerationSettings) -> CallBlocker | None:
        """What prevents calls, if they are."""
        return how.call_blocker(self.model.loaded.tokenizer) if how.forbidden_tools else None

    def row_changed(self, row: BatchRow) -> None:
        """Take a token or the end of a response or a second turn."""
        owner: RowOwner = row.owner
        if row.text is None:
            if self.request.stream and owner.second_turn_of is None:
                self.job.emit(TextSoFar(row.sample, owner.settings.prefill + row.partial_text))
            return
        text = owner.settings.full_response(row.text)
        if owner.second_turn_of is None:
            self._response_written(row, text)
        else:
            self._second_turn_written(owner.second_turn_of, text)

    def _response_written(self, row: BatchRow, text: str) -> None:
        written = {"response": text, "sample": row.sample}
        response = Response.model_validate(self.question.model_dump() | written)
        found = parse(self.tasks, response)
        self.job.emit(ResponseParsed(row.sample, text, found.reading, row.at_length_limit))
        if found.reading.outcome is not Outcome.CALLED or not (found.tool and found.reading.call):
            self.worker.response_done(self.job, with_execution(response, found, None, None))
            return
        then = partial(self._call_returned, response, found)
        self.worker.run_call(self.job, found.tool, found.reading.call, then)

    def _call_returned(self, response: Response, found: Parsed, execution: Execution) -> None:
        questions = second_turn(response, found, execution)
        turns = [SecondTurn(question, *self._encode(question)) for question in questions]
        if any(len(turn.ids) > self.job.max_prompt_tokens for turn in turns):
            turns = []
            if found.tool and found.tool.needs_second_turn:  # else the output is an answer by itself
                execution = Execution(error="its output is too long for the model to read")
        self.job.emit(CallExecuted(response.sample, execution))
        response = with_execution(response, found, execution, None)
        if not turns:
            self.worker.response_done(self.job, response)
            return
        self.second_turns[response.sample] = SecondTurns(response, deque(turns))
        self._start_second_turn(response.sample)

    def _start_second_turn(self, sample: int) -> None:
        """Start the next second turn of a response. They run one after another in the place of the response, so that
        second turns count in the batch."""
        question, how, ids = self.second_turns[sample].waiting.popleft()
        batch = self._batch(question, how, ids)
        self.job.prompt_tokens += len(ids)
        sampling = replace(self.request.sampling, samples=1)
        settings = DecodingSettings(sampling, how.finish, self._call_blocker(how))
        batch.add(RowOwner(self.job, how, sample), EncodedPrompt(ids, content_key(question)), settings)

    def _second_turn_written(self, sample: int, text: str) -> None:
        turns = self.second_turns[sample]
        turns.answers.append(text)
        if turns.waiting:
            self._start_second_turn(sample)
            return
        self.job.emit(SecondTurnDone(sample, turns.answers))
        self.worker.response_done(self.job, turns.response.model_copy(update={"turns": turns.answers}))
