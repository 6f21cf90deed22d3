"""What writes responses: the one interface of a local model, vLLM, an endpoint, and a cluster of them.

Prompts go in by the batch and responses come back one question at a time, in whatever order they are finished.
Which random numbers a response is drawn with depends on the seed, its question and its number alone, so that
neither a kill nor the number of machines changes it. Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from trice.formats import calls
from trice.formats.prompt import Example, Template, decode
from trice.models.call_blocker import CallBar
from trice.models.sampling import Sampling
from trice.types import Outcome

ToolChoice = Literal["auto", "none", "required"]
Name = Literal["transformers", "vllm", "ray", "ray:vllm"]
"""Engines for models that are named; what stands behind `ray:` runs on the workers of a cluster."""


def writer(name: str) -> str:
    """The engine that writes the responses, be it here or on workers."""
    return "transformers" if name == "ray" else name.removeprefix("ray:")


class Prompt(NamedTuple):
    """A question to answer. `key` stands for its content; `samples` are the numbers of the responses wanted, which
    after a kill may not be all of them."""

    key: str
    instruction: str
    input: str
    samples: tuple[int, ...] = (0,)


class Written(NamedTuple):
    """A response: its text, cut where it is over; the ids that were chosen for it, without those that only ended
    it, where the engine tells them; the sum of their natural log-probabilities at temperature 1, where asked for
    and offered."""

    text: str
    tokens: list[int] | None = None
    logprob: float | None = None


class Failure(NamedTuple):
    """The number of a prompt that got no response, and why; `down` where the server is to blame, not the prompt."""

    request: int
    reason: str
    down: bool = False


TOO_LONG = "the prompt is too long"  # how such a failure's reason begins


def too_long(request: int, length: int, most: int) -> Failure:
    """That a prompt leaves the model no room for one token of a response."""
    return Failure(request, f"{TOO_LONG}: it has {length} tokens, and the model reads at most {most}")


Done = Callable[[int, dict[int, Written]], None]
"""Takes a prompt's number and responses to it, by their numbers, as soon as they are there."""

Finish = Callable[[str, int], str | None]
"""Given the text so far, and how many of its characters were looked at before, the finished response, or None while
it must go on."""

RECENT = 2000  # characters at the end of a response in which a call that has just closed is looked for

Parser = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Manner:
    """How the questions of one task are to be answered. `parsers` read the calls of the tools on offer; `own` names
    the task's own tools, the first of which is called where a call is compelled; where nothing can begin a response
    for the model (not `opens`), it is asked for a call. `write` gives the text of a tool's call from its
    arguments."""

    template: Template
    sampling: Sampling = field(default_factory=Sampling)
    examples: tuple[Example, ...] = ()
    parsers: Mapping[str, Parser] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    tool_choice: ToolChoice = "auto"
    opens: bool = True
    write: Mapping[str, Callable[[dict[str, Any]], str]] = field(default_factory=dict)

    @property
    def opening(self) -> str:
        """How every response begins, where a call is compelled."""
        return f"{self.own[0]}(" if self.tool_choice == "required" and self.opens else ""

    @property
    def silent(self) -> tuple[str, ...]:
        """The tools that may not be called."""
        return tuple(self.parsers) if self.tool_choice == "none" else ()

    def ids(self, tokenizer: Any, prompt: Prompt) -> list[int]:
        """The token ids that a response to the prompt follows, a compelled call's beginning among them."""
        ids = self.template.encode(tokenizer, prompt.instruction, prompt.input, self.examples)
        return ids + (
            self.template.encode_response(tokenizer, self.opening, end=False) if self.opening else []
        )

    def bar(self, tokenizer: Any) -> CallBar:
        """What keeps a response from calling a silent tool."""
        return CallBar(tokenizer, self.silent)

    def finish(self, text: str, seen: int = 0) -> str | None:
        """The response, where `text` is a whole one: its first call has closed, or the first of the template's stop
        texts has come. None while it must go on. The first `seen` characters are known to be no whole response."""
        start = len(self.opening)  # stop texts end what the model writes, not how it had to begin
        whole, new = self.opening + text, start + seen
        limit = len(whole)
        if any(whole.find(stop, max(start, new - len(stop) + 1)) >= 0 for stop in self.template.stop):
            begun = whole.lstrip()
            if stops := [place for stop in self.template.stop if (place := begun.find(stop, start)) >= 0]:
                limit = len(whole) - len(begun) + min(stops)
        end = whole.find(")", new, limit) + 1
        while end:
            if self._called(whole[:end]):
                return whole[len(self.opening) : end]
            end = whole.find(")", end, limit) + 1
        return None if limit == len(whole) else whole[:limit].lstrip().removeprefix(self.opening)

    def _called(self, text: str) -> bool:
        """Whether a call has just closed. Only the end of a long text is read at each parenthesis: a call with
        longer arguments does not end the response early."""
        parts = (text[-RECENT:], text) if len(text) > RECENT else (text,)
        return all(calls.read(part, self.parsers, over=False).outcome is Outcome.CALLED for part in parts)

    def cut(self, text: str) -> str:
        """A text written to some other end, up to where it was over."""
        begin = calls.reasoning_end(
            text
        )  # the prompt may have begun the reasoning, so that its mark is missing
        over = self.finish(text, begin or 0)
        return text if over is None else over

    def leaves(self, tokenizer: Any, response: str, tokens: Sequence[int] | None) -> bool:
        """Whether a greedy response that was written without a tool choice is the same with this one: an answer
        without the opening of a call, or a call that begins with the very tokens of the opening."""
        if self.tool_choice == "none":
            return not (self.silent and calls.opening(self.silent).search(response))
        if not self.opening or calls.read(response, self.parsers).outcome is not Outcome.CALLED:
            return False
        ids = tokens or self.template.encode_response(tokenizer, response, end=False)
        start = self.template.encode_response(tokenizer, self.opening, end=False)
        return list(ids[: len(start)]) == start

    def response(self, text: str) -> str:
        """The whole response, of a text that goes on from the opening."""
        return (self.opening + text).strip()

    def kept(self, tokenizer: Any, written: Written) -> Written:
        """`written` with the ids that are worth keeping: those of the whole response, its opening too, and none
        where the tokenizer cuts the response in the same way, as training then does again."""
        if written.tokens is None:
            return written
        start = self.template.encode_response(tokenizer, self.opening, end=False) if self.opening else []
        own = self.template.encode_response(tokenizer, self.response(written.text), end=False)
        ids = [*start, *written.tokens]
        return written._replace(tokens=None if ids == own else ids)


def reach(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """How many of `ids` it took to write `text`, with which a response is over: those after it only ended it."""
    count = len(ids)
    while count and text in decode(tokenizer, ids[: count - 1]):
        count -= 1
    return count


class Engine(Protocol):
    """Anything that writes responses."""

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt, handing responses to `done` as they come; returns the prompts that got none."""
        ...
