"""The `chat` format: messages and tool calls as a model's own chat template writes them.

A conversation is rendered to token ids with a loss mask, and generated ids are parsed to a message. Templates come with
the tokenizer. Variants for training, and parsers, come with TRL and transformers. A template without tools is replaced
by `templates/chatml_tools.jinja`, which is saved with an adapter and by `trice merge`. This module does not generate or
execute anything.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import takewhile
from typing import Any, NamedTuple

from trice.errors import InputError, error_line
from trice.formats.prompt import end_of_turn
from trice.messages import Execution, Message, ToolCall, read_call
from trice.types import Outcome

ToolSchema = dict[str, Any]
"""A tool in the form of the OpenAI API: `{"type": "function", "function": {name, description, parameters}}`."""

MAX_RESULT = 2000  # characters of a tool's result that the model reads
TURN_END = "<|im_end|>"  # of the template for models that have none with tools
_PARSER_ERROR = re.compile(r"^Error: (.*)$", re.MULTILINE)


class Rendered(NamedTuple):
    """A conversation as T token ids; `loss[t]` is true if the assistant writes token t."""

    ids: list[int]
    loss: list[bool]


class ParsedTurn(NamedTuple):
    """A parsed assistant message. If it is malformed, `reason` says why, and `message` holds its text."""

    message: Message
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """Renders conversations for one tokenizer, and parses what its model writes. `chat_format` makes it.

    Attributes:
        tokenizer: A copy of the model's tokenizer with a template that supports tools, and with the parser for it.
        training_template: The template that marks the assistant's tokens; None if `tokenizer`'s does so, or if there
            is none, in which case the marks are found by rendering every beginning of the conversation.
        kwargs: Arguments of the template, such as `enable_thinking`.
    """

    tokenizer: Any
    training_template: str | None
    kwargs: dict[str, Any]

    @cached_property
    def _marks_loss(self) -> bool:
        from trl.chat_template_utils import has_generation_markers

        return has_generation_markers(self.training_template or self.tokenizer.chat_template)

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        """Token ids of a conversation up to where the assistant begins to write."""
        ids: list[int] = self._apply(messages, tools, return_dict=False, add_generation_prompt=True)
        return ids

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> Rendered:
        """Token ids of a whole conversation with the loss mask.

        Raises:
            InputError: If the template cannot express the conversation, or changes earlier messages when later ones
                follow, so that the assistant's tokens cannot be found.
        """
        for message in messages:
            if len(message.tool_calls) > 1:
                self._check_parallel(message, tools)
        if self._marks_loss:
            options = {"return_dict": True, "return_assistant_tokens_mask": True}
            found = self._apply(messages, tools, **options)
            return Rendered(list(found["input_ids"]), [bool(mark) for mark in found["assistant_masks"]])
        return self._render_by_turns(messages, tools)

    def _check_parallel(self, message: Message, tools: Sequence[ToolSchema]) -> None:
        """Raise InputError if the template leaves out all but one of several calls, as that of gpt-oss does."""
        user = Message(role="user", content="-")
        before = self._text([user], tools, add_generation_prompt=True)
        written = self._text([user, message], tools)[len(before) :]
        if len(self.parse(self._tokenize(written), self._tokenize(before), tools).message.tool_calls) < 2:
            raise InputError("the chat template writes only one tool call in a message, not several")

    def _render_by_turns(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> Rendered:
        """Render every beginning of the conversation. Each turn is tokenized apart from its prompt, as it is when the
        model writes it."""
        rendered, text = Rendered([], []), ""

        def extend(whole: str, loss: bool) -> str:
            if not whole.startswith(text):
                raise InputError(
                    "the chat template rewrites earlier messages when later ones follow; no training template for it "
                    "is known"
                )
            ids = self._tokenize(whole[len(text) :])
            rendered.ids.extend(ids)
            rendered.loss.extend([loss] * len(ids))
            return whole

        for number, message in enumerate(messages):
            if message.role == "assistant":
                text = extend(self._text(messages[:number], tools, add_generation_prompt=True), False)
                text = extend(self._text(messages[: number + 1], tools).rstrip(), True)
        extend(self._text(messages, tools), False)
        return rendered

    def results(self, call: Message, results: Sequence[Message], end: int) -> list[int]:
        """Token ids of tool results and of the header of the assistant's next message.

        They follow a turn that the model itself wrote, whose tokens are kept as they were sampled.

        Args:
            call: The assistant's message with the calls.
            results: One tool message for each call.
            end: The token with which the model ended that turn.
        """
        user = Message(role="user", content="-")
        before = self._text([user, call], ())
        whole = self._text([user, call, *results], (), add_generation_prompt=True)
        stop = self.tokenizer.decode([end])
        turn = before.rstrip()
        if not whole.startswith(turn):
            raise InputError("the chat template cannot continue a turn with tool results")
        # Most templates write the end token after the turn, and some as the header of the tool message. Of another end
        # token that the model may write, the template knows nothing, so its own is left out.
        start = len(turn) + (
            len(stop) if not turn.endswith(stop) and whole[len(turn) :].startswith(stop) else 0
        )
        return self._tokenize(whole[start:])

    @cached_property
    def end_ids(self) -> set[int]:
        """The tokens that end a turn: the tokenizer's end token, and that of the template."""
        return {
            token for token in (self.tokenizer.eos_token_id, end_of_turn(self.tokenizer)) if token is not None
        }

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids with the tags of calls, without the end tokens of turns."""
        parts: list[list[int]] = [[]]
        for token in ids:
            if token in self.end_ids:
                parts.append([])
            else:
                parts[-1].append(token)
        texts = [self.tokenizer.decode(part).strip() for part in parts]
        return "\n".join(filter(None, texts))

    def call_opening(self, name: str | None = None) -> list[int]:
        """Token ids with which a message that calls a tool begins, or one that calls the tool `name`. Raises InputError
        if the format has no such tokens."""
        if name is not None:
            return self._named_opening(name)
        opening = self.tokenizer.response_template["fields"]["tool_calls"].get("open")
        if not isinstance(opening, str):
            raise InputError("tool choice 'required': this chat template has no text that opens a call")
        return self._tokenize(opening)

    def _named_opening(self, name: str) -> list[int]:
        """The tokens that two calls of the tool with different arguments begin with."""
        user = Message(role="user", content="-")
        before = self._text([user], (), add_generation_prompt=True)
        calls = [ToolCall(name=name, arguments=arguments) for arguments in ({}, {"a": 1})]
        texts = [self._text([user, Message(role="assistant", tool_calls=[call])], ()) for call in calls]
        one, other = (self._tokenize(text.removeprefix(before)) for text in texts)
        opening = [
            token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        ]
        if not all(text.startswith(before) for text in texts) or name not in self.tokenizer.decode(opening):
            raise InputError(
                f"tool choice '{name}': this chat template has no text that opens a call of one tool"
            )
        return opening

    def parse(
        self, ids: Sequence[int], prompt: Sequence[int], tools: Sequence[ToolSchema] = ()
    ) -> ParsedTurn:
        """Parse the token ids of an assistant's message, end token included, which follow those of `prompt`.

        A message is malformed if the parser cannot read its calls, and if a call has no name or its arguments are not
        an object. Nothing is evaluated."""
        text = self._without_end(self.tokenizer.decode(ids))
        try:
            # A parser may look at the beginning of the message that the prompt contains.
            found = self.tokenizer.parse_response(list(ids), prefix=list(prompt), tools=list(tools) or None)
            calls = [read_call(each) for each in found.get("tool_calls") or []]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            parser = _PARSER_ERROR.search(str(error))
            reason = f"the tool call is not valid JSON: {parser[1]}" if parser else error_line(error)
            return ParsedTurn(Message(role="assistant", content=text), Outcome.MALFORMED, reason)
        content = self._without_end(str(found.get("content") or ""))
        message = Message(role="assistant", content=content, tool_calls=calls)
        return ParsedTurn(message, Outcome.CALLED if calls else Outcome.ANSWERED)

    def _without_end(self, text: str) -> str:
        for token in self.tokenizer.all_special_tokens:
            text = text.removesuffix(token)
        return text.strip()

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, messages: Sequence[Message], tools: Sequence[ToolSchema], **options: Any) -> str:
        text: str = self._apply(messages, tools, tokenize=False, **options)
        return text

    @cached_property
    def _special_texts(self) -> list[str]:
        return [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def _for_template(self, message: Message) -> dict[str, Any]:
        """A message for the template. The result of a tool cannot end its message or begin another one: a blank
        separates the first character of a special token in its text from the others."""
        fields = message.for_template()
        if message.role == "tool":
            for text in self._special_texts:
                fields["content"] = fields["content"].replace(text, f"{text[0]} {text[1:]}")
        return fields

    def _apply(self, messages: Sequence[Message], tools: Sequence[ToolSchema], **options: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                [self._for_template(message) for message in messages], tools=[*map(_in_prompt, tools)] or None,
                chat_template=self.training_template, **options, **self.kwargs,
            )  # fmt: skip
        except (TemplateError, TypeError) as error:
            raise InputError(
                f"the chat template cannot express the conversation: {error_line(error)}"
            ) from None


def chat_format(tokenizer: Any, **kwargs: Any) -> ChatFormat:
    """The chat format of a tokenizer, which stays as it is.

    Args:
        tokenizer: A tokenizer of transformers.
        kwargs: Arguments of the template, such as `enable_thinking=False`.

    Raises:
        InputError: If the template supports tools but no parser for it is known.

    Example:
        >>> from transformers import AutoTokenizer
        >>> format = chat_format(AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B"))      # doctest: +SKIP
        >>> format.prompt([Message(role="user", content="What is 3 * 19?")])            # doctest: +SKIP
    """
    from trl import chat_template_utils as trl

    copied = copy.copy(tokenizer)
    if isinstance(copied.chat_template, dict):  # named variants
        copied.chat_template = copied.chat_template.get("tool_use", copied.chat_template["default"])
    if not trl.supports_tool_calling(copied):
        _use_own_template(copied)
        return ChatFormat(copied, None, kwargs)
    if getattr(copied, "response_template", None) is None:
        try:
            trl.add_response_schema(copied)
        except ValueError:
            raise InputError(
                "no parser is known for this model's chat template; set `response_template` in its tokenizer"
            ) from None
    try:
        training = trl.get_training_chat_template(copied)
    except ValueError:  # its tokens are marked by rendering the beginnings of a conversation
        training = None
    return ChatFormat(copied, training, kwargs)


def _in_prompt(tool: ToolSchema) -> ToolSchema:
    """A tool as the model reads it. `strict` is left out: it tells an API how to decode, and nothing to the model."""
    shown = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {**tool, "function": shown}


def result_text(execution: Execution) -> str:
    """An execution as the content of a tool message."""
    text = (execution.output if execution.error is None else f"Error: {execution.error}") or ""
    return text if len(text) <= MAX_RESULT else f"{text[: MAX_RESULT - 1]}…"


def result_message(call: ToolCall, execution: Execution) -> Message:
    """The tool message with the result of a call."""
    return Message(role="tool", name=call.name, content=result_text(execution))


def _use_own_template(tokenizer: Any) -> None:
    """Give a tokenizer the template with tools, and the parser for it."""
    end = TURN_END if TURN_END in tokenizer.get_vocab() else tokenizer.eos_token
    template = resources.files("trice") / "formats" / "templates" / "chatml_tools.jinja"
    text = template.read_text(encoding="utf-8").replace(TURN_END, end)
    first: list[int] = tokenizer("a")["input_ids"][:1]
    bos = (
        "{{- bos_token }}" if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""
    )
    call = {"type": "function", "function": "{content}"}
    thinks = "</think>" in str(tokenizer.chat_template)
    # A model whose template began the reasoning may end one that it has not begun.
    reasoning = {"open_pattern": r"(?=[\s\S]*?</think>)", "close_pattern": r"</think>\s*", "content": "text"}
    tokenizer.chat_template = bos + text
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": ({"reasoning_content": reasoning} if thinks else {}) | {
            "tool_calls": {
                "open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True, "content": "json",
                "transform": call,
            },
            "content": {"close_pattern": rf"{re.escape(end)}\s*", "content": "text"},
        },
    }  # fmt: skip
