"""An endpoint as an engine: questions are sent as chats, or as prompts in the format the model was trained on.

With the API `chat` the server applies its own chat template. The instruction, with a sentence on whether to
call a tool, is the system message; few-shot examples are turns. With the API `completions`, for a model that was
trained by trice, the prompt is written in the training template. If the model's tokenizer is named, the prompt is
sent as token ids and ids are requested in return (`return_token_ids`, supported by vLLM from 0.10.2 and by SGLang),
so nothing is detokenised and re-tokenised.

A server stops at the template's first stop text, even at the beginning. Beam search is not covered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trice.errors import InputError, error_line
from trice.formats.prompt import CHAT
from trice.models.budget import Request
from trice.models.endpoint import Endpoint
from trice.models.engine import (
    SUPPRESSED,
    Deliver,
    Failure,
    Generated,
    GenerationSettings,
    Prompt,
    truncate_ids,
)
from trice.models.replies import Reply
from trice.types import ToolCall


def check_settings(endpoint: Endpoint, settings: GenerationSettings) -> None:
    """Raise InputError for settings that this endpoint does not support."""
    if settings.sampling.beams > 1:
        raise InputError(f"beams={settings.sampling.beams}: an endpoint does not support beam search")
    if endpoint.api == "completions" and endpoint.tokenizer is None:
        needs = "an endpoint with api 'completions' needs its tokenizer's name for"
        if settings.tool_choice == "none":
            raise InputError(f"{needs} tool choice 'none'")
        if settings.template.name == CHAT:
            raise InputError(f"{needs} template 'chat'")


class EndpointEngine:
    """The model of an endpoint. Raises InputError if its tokenizer cannot be loaded."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._tokenizer: Any = None if endpoint.tokenizer is None else _load_tokenizer(endpoint.tokenizer)

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        """Answer every prompt, delivering each reply as it arrives. A prompt fails if its request does.

        Raises:
            TriceError: Every request would fail for the same reason, or the budget is spent.
        """
        check_settings(self.endpoint, settings)

        def deliver_replies(index: int, replies: dict[int, Reply]) -> None:
            deliver(index, {sample: self._generated(reply, settings) for sample, reply in replies.items()})

        return self.endpoint.complete(
            [self._request(prompt, settings) for prompt in prompts],
            deliver_replies,
            temperature=settings.sampling.temperature,
            max_tokens=settings.sampling.max_new_tokens,
            stop=settings.template.stop,
            samples=[prompt.samples for prompt in prompts],
            seed=settings.sampling.seed,
            fields=self.fields(settings),
            write_call=lambda _, call: write_offered_call(settings.call_writers, call),
        )

    def _request(self, prompt: Prompt, settings: GenerationSettings) -> Request:
        if self.endpoint.api == "chat":
            return messages(prompt, settings)
        if self._tokenizer is not None:
            return settings.encode_prompt(self._tokenizer, prompt)
        template = settings.template
        prefill = template.response_prefix + settings.prefill if settings.prefill else ""
        return template.text(prompt.instruction, prompt.input, settings.examples) + prefill

    def fields(self, settings: GenerationSettings) -> dict[str, Any]:
        """Fields of a request that differ from the server's defaults, since not every server knows all of them."""
        sampling, template = settings.sampling, settings.template
        fields: dict[str, Any] = {
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "top_k": sampling.top_k or None,
            "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
            "chat_template_kwargs": (self.endpoint.api == "chat" and template.chat_template_kwargs) or None,
        }
        if self._tokenizer is not None:
            fields["return_token_ids"] = True
            if template.name == CHAT:
                fields["stop_token_ids"] = [template.end(self._tokenizer)]
            # A server takes one list for the whole response.
            suppressed = settings.call_blocker(self._tokenizer).anywhere
            fields["logit_bias"] = dict.fromkeys(map(str, suppressed), SUPPRESSED) or None
        return {name: value for name, value in fields.items() if value is not None}

    def _generated(self, reply: Reply, settings: GenerationSettings) -> Generated:
        """The response in a reply, truncated where it is finished."""
        if self._tokenizer is None or reply.tokens is None:
            text = settings.truncate(reply.text)
            return Generated(text, truncated=not reply.complete and text == reply.text)
        ids = reply.tokens
        if ids and ids[-1] in self._tokenizer.all_special_ids:
            ids = ids[:-1]
        generated = truncate_ids(self._tokenizer, ids, settings.finish, truncated=not reply.complete)
        return settings.drop_redundant_tokens(self._tokenizer, generated)


def write_offered_call(writers: Mapping[str, Callable[[dict[str, Any]], str]], call: ToolCall) -> str:
    """The text of a call that arrived as `tool_calls`. Raises ValueError if its tool was not offered or the
    arguments cannot be written as text."""
    if call.name not in writers:
        raise ValueError(f"{call.name[:100]!r} is not a tool of this task")
    return writers[call.name](call.arguments)


def messages(prompt: Prompt, settings: GenerationSettings) -> list[dict[str, str]]:
    """The chat that asks one question, few-shot examples first."""
    required = settings.tool_choice == "required"
    offered = settings.task_tools if required else tuple(settings.parsers)
    forms = " or ".join(f"{name}(...)" for name in offered)
    rule = "Reply with the answer alone"
    if required:
        rule = f"Reply with one call and nothing else: {forms}"
    elif settings.tool_choice == "none":
        rule += ", without any call"
    elif offered:
        rule += f", or with one call: {forms}"
    chat = [{"role": "system", "content": f"{prompt.instruction} {rule}."}]
    for example in settings.examples:
        chat += [
            {"role": "user", "content": example.input},
            {"role": "assistant", "content": example.output},
        ]
    return [*chat, {"role": "user", "content": prompt.input}]


def _load_tokenizer(name: str) -> Any:
    from trice.models.local import UNLOADABLE, load_tokenizer, quiet

    quiet()
    try:
        return load_tokenizer(name)
    except UNLOADABLE as error:
        raise InputError(f"tokenizer '{name}' cannot be loaded ({error_line(error)})") from None
