"""An endpoint as an engine: questions as chats, or as prompts in the form the model was trained on.

In form `chat` the server's own chat template is used: the instruction, with a word on whether to call, is the
system message, worked examples are turns. In form `completions`, for one's own model, the prompt is written in the
training template; where the model's tokenizer is named it is sent as token ids, and ids are asked for in return
(`return_token_ids`, which vLLM from 0.10.2 and SGLang know), so that nothing is detokenised and tokenised again on
the way.

A server stops at the template's first stop text, a leading one too. Log-probabilities are the server's: vLLM's are
those before temperature and top-k. Does not cover beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from trice.errors import InputError
from trice.formats.prompt import CHAT, decode
from trice.models.budget import Request
from trice.models.detokenizer import Detokenizer
from trice.models.endpoint import Endpoint
from trice.models.engine import Done, Failure, Manner, Prompt, Written, reach
from trice.models.http import Reply
from trice.types import ToolCall

NEVER = -100.0  # added to the logit of a token that may not be chosen: the lowest that servers take


def check_manner(endpoint: Endpoint, manner: Manner) -> None:
    """Raise InputError for what this endpoint cannot be asked."""
    if manner.sampling.beams > 1:
        raise InputError(f"beams={manner.sampling.beams}: an endpoint samples, and searches no beams")
    if endpoint.form == "completions" and endpoint.tokenizer is None:
        needs = "form 'completions' of an endpoint needs its tokenizer's name, for"
        if manner.tool_choice == "none":
            raise InputError(f"{needs} tool_choice 'answer'")
        if manner.template.name == CHAT:
            raise InputError(f"{needs} template 'chat'")


class EndpointEngine:
    """The model behind `endpoint`. Raises InputError where its tokenizer cannot be loaded."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._tokenizer: Any = None if endpoint.tokenizer is None else _load_tokenizer(endpoint.tokenizer)

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt, each reply handed on as it comes; a prompt fails where the endpoint gives it up.

        Raises TriceError where every prompt would fail alike, or the budget is spent."""
        check_manner(self.endpoint, manner)

        def deliver(index: int, replies: dict[int, Reply]) -> None:
            done(index, {sample: self._written(reply, manner) for sample, reply in replies.items()})

        return self.endpoint.complete(
            [self._request(prompt, manner) for prompt in prompts],
            deliver,
            temperature=manner.sampling.temperature,
            max_tokens=manner.sampling.max_new_tokens,
            stop=manner.template.stop,
            samples=[prompt.samples for prompt in prompts],
            seed=manner.sampling.seed,
            fields=self._fields(manner),
            write_call=lambda _, call: write_offered(manner.write, call),
        )

    def _request(self, prompt: Prompt, manner: Manner) -> Request:
        if self.endpoint.form == "chat":
            return messages(prompt, manner)
        if self._tokenizer is not None:
            return manner.ids(self._tokenizer, prompt)
        begun = manner.template.response_prefix + manner.opening if manner.opening else ""
        return manner.template.text(prompt.instruction, prompt.input, manner.examples) + begun

    def _fields(self, manner: Manner) -> dict[str, Any]:
        """What is unlike a server's default; not every server knows all of it."""
        sampling, chat = manner.sampling, self.endpoint.form == "chat"
        fields: dict[str, Any] = {
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "top_k": sampling.top_k or None,
            "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
            "logprobs": (chat or 1) if sampling.logprobs else None,
            "chat_template_kwargs": (chat and manner.template.chat_template_kwargs) or None,
        }
        if self._tokenizer is not None:
            fields["return_token_ids"] = True
            if manner.template.name == CHAT:
                fields["stop_token_ids"] = [manner.template.end(self._tokenizer)]
            # A server takes one list for the whole response.
            barred = manner.bar(self._tokenizer).anywhere
            fields["logit_bias"] = dict.fromkeys(map(str, barred), NEVER) or None
        return {name: value for name, value in fields.items() if value is not None}

    def _written(self, reply: Reply, manner: Manner) -> Written:
        if self._tokenizer is not None and reply.tokens is not None:
            ids = reply.tokens
            if ids and ids[-1] in self._tokenizer.all_special_ids:
                ids = ids[:-1]
            written_so_far = Detokenizer(self._tokenizer)
            texts = ((written_so_far.add(token), written_so_far.kept) for token in ids)
            text, count = _over(manner, texts)
            if text != decode(self._tokenizer, ids[:count]):  # it was cut
                count = reach(self._tokenizer, ids[:count], text)
            written = Written(text, ids[:count], _sum(reply.logprobs, count))
            return manner.kept(self._tokenizer, written)
        text = manner.cut(reply.text)
        if reply.pieces is None:
            return Written(text)
        whole = "".join(reply.pieces)
        if not whole.startswith(reply.text):  # bytes of a character, or marks of a tokenizer
            return Written(text)
        ends = [0, *accumulate(map(len, reply.pieces))]
        needed = next(count for count, end in enumerate(ends) if end >= len(reply.text))
        _, count = _over(manner, ((whole[:end], seen) for seen, end in pairwise(ends[: needed + 1])))
        return Written(text, None, _sum(reply.logprobs, count))


def write_offered(writers: Mapping[str, Callable[[dict[str, Any]], str]], call: ToolCall) -> str:
    """The text of a call that came as `tool_calls`. Raises ValueError where its tool was not offered, or no text is
    read as these arguments."""
    if call.name not in writers:
        raise ValueError(f"{call.name[:100]!r} is no tool of this task")
    return writers[call.name](call.arguments)


def messages(prompt: Prompt, manner: Manner) -> list[dict[str, str]]:
    """The chat that asks one question, worked examples first."""
    offered = manner.own if manner.tool_choice == "required" else tuple(manner.parsers)
    forms = " or ".join(f"{name}(...)" for name in offered)
    rule = "Reply with the answer alone"
    if manner.tool_choice == "required":
        rule = f"Reply with one call and nothing else: {forms}"
    elif manner.tool_choice == "none":
        rule += ", without any call"
    elif offered:
        rule += f", or with one call: {forms}"
    chat = [{"role": "system", "content": f"{prompt.instruction} {rule}."}]
    for example in manner.examples:
        chat += [
            {"role": "user", "content": example.input},
            {"role": "assistant", "content": example.output},
        ]
    return [*chat, {"role": "user", "content": prompt.input}]


def _over(manner: Manner, texts: Iterable[tuple[str, int]]) -> tuple[str, int]:
    """The response, and after how many tokens it is over, of the text after each token and how many characters of
    it are not new."""
    text, count = "", 0
    for text, seen in texts:
        count += 1
        over = manner.finish(text, seen)
        if over is not None:
            return over, count
    return text, count


def _sum(logprobs: Sequence[float] | None, count: int) -> float | None:
    """The sum of the first so many; None where there are fewer."""
    return sum(logprobs[:count]) if logprobs is not None and len(logprobs) >= count else None


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from trice.models.local import UNLOADABLE, find_model, quiet

    quiet()
    try:
        return AutoTokenizer.from_pretrained(find_model(name), trust_remote_code=False)
    except UNLOADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"tokenizer '{name}': cannot be loaded ({reason})") from None
