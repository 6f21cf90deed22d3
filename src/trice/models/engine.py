"""The interface that every text generator implements: transformers, vLLM, an endpoint, or a Ray cluster of these.

An engine gets a batch of prompts and delivers the responses to each prompt as soon as they are finished, in any
order. The random numbers of a response depend only on the seed, its question and its sample number, so neither an
interruption nor the number of machines changes it. This module does not load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from trice.formats import paper
from trice.formats.prompt import Example, Template, decode
from trice.models.call_blocker import CallBlocker, call_blocker
from trice.models.detokenizer import Detokenizer
from trice.models.sampling import Sampling
from trice.types import Outcome, Response

ToolChoice = Literal["auto", "none", "required"]
EngineName = Literal["transformers", "vllm", "ray", "ray:vllm"]
"""Engines for local models; `ray` and `ray:vllm` run on the workers of a Ray cluster."""


def base_engine(name: str) -> str:
    """The engine that generates the responses, on this machine or on workers."""
    return "transformers" if name == "ray" else name.removeprefix("ray:")


class Prompt(NamedTuple):
    """A question to answer. `key` identifies its content and seeds its random numbers. `samples` are the numbers of
    the wanted responses, which may be only some of them when a run is resumed."""

    key: str
    instruction: str
    input: str
    samples: tuple[int, ...] = (0,)


class Generated(NamedTuple):
    """A response: its text up to the stop condition, and its token ids without the end token. `tokens` is None if
    the engine does not report them. `truncated` says that the length limit ended it."""

    text: str
    tokens: list[int] | None = None
    truncated: bool = False


class Failure(NamedTuple):
    """A prompt, by its number, that got no response, and the reason. `down` is true if the server caused it."""

    request: int
    reason: str
    down: bool = False


TOO_LONG = "the prompt is too long"  # the beginning of such a failure's reason


def too_long(request: int, length: int, limit: int) -> Failure:
    """The failure of a prompt that leaves no token of the context for a response."""
    return Failure(request, f"{TOO_LONG}: it has {length} tokens, and the model reads at most {limit}")


Deliver = Callable[[int, dict[int, Generated]], None]
"""Receives a prompt's number and finished responses to it by their sample numbers."""

Finish = Callable[[str, int], str | None]
"""Given the text so far and the number of characters that were already checked, returns the finished response, or
None if generation must continue."""

RECENT = 2000  # characters at the end of a response that are searched for a complete call
SUPPRESSED = -100.0  # added to the logit of a token that may not be chosen: the minimum that servers accept


@dataclass(frozen=True)
class GenerationSettings:
    """How the questions of one task are prompted, sampled and stopped.

    Args:
        template: Format of the prompts.
        sampling: Sampling parameters.
        examples: Few-shot examples.
        parsers: Argument parsers of the offered tools, by the tools' names.
        task_tools: Names of the tools that belong to the task; the first one is called if a call is required.
        tool_choice: `auto`, `none` or `required`.
        can_prefill: Whether the prompt can contain the beginning of the response. Chat endpoints do not allow it;
            there the instruction asks for a call.
        call_writers: Functions that write a call as text from its arguments, by the tools' names.
    """

    template: Template
    sampling: Sampling = field(default_factory=Sampling)
    examples: tuple[Example, ...] = ()
    parsers: Mapping[str, paper.Parser] = field(default_factory=dict)
    task_tools: tuple[str, ...] = ()
    tool_choice: ToolChoice = "auto"
    can_prefill: bool = True
    call_writers: Mapping[str, Callable[[dict[str, Any]], str]] = field(default_factory=dict)

    @property
    def prefill(self) -> str:
        """The text that every response begins with: the opening of a call if one is required, else nothing."""
        return f"{self.task_tools[0]}(" if self.tool_choice == "required" and self.can_prefill else ""

    @property
    def forbidden_tools(self) -> tuple[str, ...]:
        """The tools that may not be called."""
        return tuple(self.parsers) if self.tool_choice == "none" else ()

    def encode_prompt(self, tokenizer: Any, prompt: Prompt) -> list[int]:
        """Token ids of the prompt, followed by those of the prefill."""
        ids = self.template.encode(tokenizer, prompt.instruction, prompt.input, self.examples)
        return ids + self._prefill_ids(tokenizer)

    def _prefill_ids(self, tokenizer: Any) -> list[int]:
        return self.template.encode_response(tokenizer, self.prefill, end=False) if self.prefill else []

    def call_blocker(self, tokenizer: Any) -> CallBlocker:
        """Blocks the tokens that would begin a call of a forbidden tool."""
        return call_blocker(tokenizer, self.forbidden_tools)

    def finish(self, text: str, checked: int = 0) -> str | None:
        """The finished response if `text` contains a complete call or a stop text of the template, else None.

        Args:
            text: What the model has generated after the prefill.
            checked: Number of leading characters that are known to contain no finished response.
        """
        start = len(self.prefill)  # stop texts do not apply to the prefill
        whole, new = self.prefill + text, start + checked
        limit = len(whole)
        if any(whole.find(stop, max(start, new - len(stop) + 1)) >= 0 for stop in self.template.stop):
            stripped = whole.lstrip()
            if stops := [at for stop in self.template.stop if (at := stripped.find(stop, start)) >= 0]:
                limit = len(whole) - len(stripped) + min(stops)
        end = whole.find(")", new, limit) + 1
        while end:
            if self._ends_with_call(whole[:end]):
                return whole[len(self.prefill) : end]
            end = whole.find(")", end, limit) + 1
        return None if limit == len(whole) else whole[:limit].lstrip().removeprefix(self.prefill)

    def _ends_with_call(self, text: str) -> bool:
        """Whether a call has just closed. The whole text is parsed only if its recent part contains a call, so a
        call with longer arguments does not end the response early."""
        parts = (text[-RECENT:], text) if len(text) > RECENT else (text,)
        return all(
            paper.parse(part, self.parsers, complete=False).outcome is Outcome.CALLED for part in parts
        )

    def truncate(self, text: str) -> str:
        """A text that was generated without `finish`, up to the point where the response is finished."""
        # The prompt may have begun the reasoning, in which case the text has no opening mark.
        finished = self.finish(text, paper.reasoning_end(text) or 0)
        return text if finished is None else finished

    def unchanged_by_tool_choice(self, tokenizer: Any, row: Response) -> bool:
        """Whether a greedy response generated with tool choice `auto` is the same with this tool choice. It is if a
        call is forbidden and nothing in it is blocked, or if it is a call that begins with exactly the tokens of the
        prefill."""
        ids = row.tokens or self.template.encode_response(tokenizer, row.response, end=False)
        if self.tool_choice == "none":
            if not self.forbidden_tools:
                return True
            first = next((token for token in ids if decode(tokenizer, [token]).strip()), None)
            begins_with_name = first in self.call_blocker(tokenizer)("")
            return not (begins_with_name or paper.call_opening(self.forbidden_tools).search(row.response))
        if not self.prefill or paper.parse(row.response, self.parsers).outcome is not Outcome.CALLED:
            return False
        start = self._prefill_ids(tokenizer)
        return list(ids[: len(start)]) == start

    def full_response(self, text: str) -> str:
        """The response including the prefill, given the generated text."""
        return (self.prefill + text).strip()

    def drop_redundant_tokens(self, tokenizer: Any, generated: Generated) -> Generated:
        """Replace the generated tokens by those of the full response, or by None if tokenising the response's text
        gives the same ids, since training then gets them from the text."""
        if generated.tokens is None:
            return generated
        ids = [*self._prefill_ids(tokenizer), *generated.tokens]
        retokenised = self.template.encode_response(tokenizer, self.full_response(generated.text), end=False)
        return generated._replace(tokens=None if ids == retokenised else ids)


def tokens_needed(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """The number of leading `ids` that produce `text`; the ids after them only showed that it was finished."""
    count = len(ids)
    while count and text in decode(tokenizer, ids[: count - 1]):
        count -= 1
    return count


def truncate_ids(tokenizer: Any, ids: Sequence[int], finish: Finish, *, truncated: bool = False) -> Generated:
    """The response in generated ids, up to where `finish` ends it. If it does not, `truncated` says whether the length
    limit did."""
    detokenizer = Detokenizer(tokenizer)
    for token in ids:
        text = finish(detokenizer.add(token), detokenizer.unchanged)
        if text is not None:
            return Generated(text, detokenizer.ids[: tokens_needed(tokenizer, detokenizer.ids, text)])
    return Generated(detokenizer.text, detokenizer.ids, truncated)


class Engine(Protocol):
    """Anything that generates responses."""

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        """Answer every prompt, passing responses to `deliver` as they finish. Returns the prompts without one."""
        ...
