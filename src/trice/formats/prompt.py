"""Prompt templates: an instruction, an input and few-shot examples as the text that a model continues.

Templates are JSON files in `trice/formats/templates` (`alpaca` and `vicuna` as the published checkpoints were
trained, and `plain`), a user's file with the same fields, or `chat`, the tokenizer's chat template. They belong to the
format `paper`, in which calls are text. In the format `chat`, the tokenizer's chat template writes prompts, calls and
results, which is covered by `trice.formats.chat`. Arguments of a chat template follow its name:
`chat:enable_thinking=false`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from trice.errors import InputError
from trice.storage.files import read_text, validate
from trice.types import Row

PAPER = "paper"
CHAT = "chat"  # a format, and a template of the format `paper`


class Example(NamedTuple):
    """A few-shot example, shown before the question."""

    input: str
    output: str


class Template(BaseModel):
    """The format of prompts and calls, and in the format `paper` how a prompt is laid out. Fields without a default are
    those of the published files.

    `response_prefix` is inserted between the prompt and every response, `example_end` after each few-shot
    example. A response ends before the first of the `stop` texts. `chat_template_kwargs` are passed to the chat
    template. `source` is what the user gave: the template's name or file, or the format `chat` with its arguments.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    prompt_input: str
    prompt_no_input: str
    response_prefix: str = ""
    example_end: str = "\n\n"
    stop: tuple[str, ...] = ()
    chat_template_kwargs: dict[str, Any] = {}
    format: Literal["paper", "chat"] = Field("paper", exclude=True)
    source: str = Field("", exclude=True)

    @property
    def sha256(self) -> str:
        """A checksum of the fields, since a template file can change while its name does not."""
        unused = set() if self.chat_template_kwargs else {"chat_template_kwargs"}
        fields = self.model_dump_json(exclude=unused) + ("" if self.format == PAPER else self.format)
        return hashlib.sha256(fields.encode()).hexdigest()

    @property
    def record(self) -> dict[str, str]:
        """The key and value with which an adapter records it: `format: chat`, or the `template` of the format paper."""
        return {"template": self.source} if self.format == PAPER else {"format": self.source}

    def text(
        self, instruction: str, input: str, examples: Sequence[Example] = (), tokenizer: Any = None
    ) -> str:
        """The whole prompt, few-shot examples first."""
        if self.format == CHAT:
            raise InputError("format 'chat' needs a local model and the engine transformers")
        if self.name == CHAT:
            return _chat(tokenizer, instruction, input, examples, self.chat_template_kwargs)
        shown = [
            self._one(instruction, example.input) + self.response_prefix + example.output + self.example_end
            for example in examples
        ]
        return "".join(shown) + self._one(instruction, input)

    def _one(self, instruction: str, input: str) -> str:
        # str.replace, not str.format, because the instruction and the input may contain braces.
        prompt = self.prompt_input if input else self.prompt_no_input
        before, _, after = prompt.partition("{input}")
        return before.replace("{instruction}", instruction) + (
            input + after.replace("{instruction}", instruction) if "{input}" in prompt else ""
        )

    def encode(
        self, tokenizer: Any, instruction: str, input: str, examples: Sequence[Example] = ()
    ) -> list[int]:
        """Token ids of the prompt, with the tokenizer's start token."""
        text = self.text(instruction, input, examples, tokenizer)
        ids: list[int] = tokenizer(text, add_special_tokens=self.name != CHAT)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers append it to every text
            ids = ids[:-1]
        return ids

    def encode_response(
        self, tokenizer: Any, response: str, *, end: bool = True, tokens: Sequence[int] | None = None
    ) -> list[int]:
        """Token ids of a response after the prompt, with the end token if `end` is true.

        `tokens` are the ids that the model generated. They are used if this tokenizer decodes them to the response;
        otherwise the response is tokenised.
        """
        if tokens is not None and _decodes_to(tokenizer, tokens, response):
            ids = list(tokens)
        else:
            ids = tokenizer(self.response_prefix + response, add_special_tokens=False)["input_ids"]
        return [*ids, self.end(tokenizer)] if end else ids

    def end(self, tokenizer: Any) -> int:
        """The token that ends a response: the chat template's end of turn, else the tokenizer's end token."""
        turn_end = end_of_turn(tokenizer) if self.name == CHAT else None
        return int(tokenizer.eos_token_id if turn_end is None else turn_end)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the tokenizer's chat template writes after an assistant message, such as
    `<end_of_turn>`, or None if there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return _end_of_turn(tokenizer, str(template)) if template else None


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: Any, template: str) -> int | None:
    answer = "ANSWER"
    messages = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": answer}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template is code from the model's files and may raise anything
        return None
    after = text.rpartition(answer)[2].lstrip()
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    first = next((token for token in ids if tokenizer.decode([token]).strip()), None)
    return first if first in tokenizer.added_tokens_decoder else None


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


def _decodes_to(tokenizer: Any, ids: Sequence[int], response: str) -> bool:
    """Whether the tokenizer decodes `ids` to the response, apart from surrounding white space. The tokenizer of
    another model family decodes them to another text."""
    if not all(0 <= token < len(tokenizer) for token in ids):
        return False
    return decode(tokenizer, ids).strip() == response.strip()


def _chat(
    tokenizer: Any, instruction: str, input: str, examples: Sequence[Example], options: dict[str, Any]
) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("this model's tokenizer has no chat template; choose plain or another template")
    messages = []
    for example in examples:
        messages += [
            {"role": "user", "content": f"{instruction}\n{example.input}"},
            {"role": "assistant", "content": example.output},
        ]
    content = f"{instruction}\n{input}" if input else instruction
    messages.append({"role": "user", "content": content})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    return text


def _chat_template(text: str, where: str) -> Template:
    """The chat template with the arguments in `chat:enable_thinking=false,effort=low`: JSON values, or text if a value
    is not JSON."""
    found: dict[str, Any] = {}
    _, colon, arguments = text.partition(":")
    for argument in arguments.split(",") if colon else ():
        name, equals, value = argument.strip().partition("=")
        if not (name.isidentifier() and equals):
            raise InputError(
                f"{where} '{text}': '{argument}' is not an argument; write chat:enable_thinking=false"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return Template(name=CHAT, prompt_input="", prompt_no_input="", chat_template_kwargs=found, source=text)


def check_expressible(rows: Iterable[Row], template: Template) -> None:
    """Raise InputError for the first question or label that only the format `chat` can express, in another format."""
    for row in rows if template.format != CHAT else ():
        for field in ("messages", "tools"):
            if getattr(row, field, None) is not None:
                raise InputError(
                    f"{row.where}: field '{field}': the format paper, in which calls are text, cannot express it; "
                    "choose --format chat"
                )


def prompt_template(format: str | None = None, template: str | None = None) -> Template:
    """The template of a format: `chat`, whose arguments may follow (`chat:enable_thinking=false`), or `paper`, the
    default, with the template called `template` (`load_template`).

    Raises InputError for an unknown format, and for a template with the format `chat`."""
    format = format or PAPER
    if format.partition(":")[0] == CHAT:
        if template is not None:
            raise InputError(
                f"template '{template}' does not apply to format '{format}', in which the model's chat template writes "
                "the prompts; leave it out, or choose format paper"
            )
        return _chat_template(format, "format").model_copy(update={"format": CHAT})
    if format != PAPER:
        raise InputError(f"format '{format}' is not valid; choose paper or chat")
    return load_template(template or "plain")


def load_template(name: str = "plain") -> Template:
    """The template called `name` of the format `paper`, or read from the JSON file `name`. Raises InputError if there
    is none."""
    if name.partition(":")[0] == CHAT:
        return _chat_template(name, "template")
    folder = resources.files("trice") / "formats" / "templates"
    known = sorted(
        item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")
    )
    if name in known:
        text = (folder / f"{name}.json").read_text(encoding="utf-8")
    elif name.endswith(".json"):
        text = read_text(Path(name))
    else:
        raise InputError(
            f"template '{name}' is not valid; choose {', '.join([*known, CHAT])}, or a .json file"
        )
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"template {name} is not JSON ({error})") from None
    fixed = {"format": PAPER, "source": name}
    named = {"name": Path(name).stem} | value | fixed if isinstance(value, dict) else value
    return validate(Template, named, f"template {name}")
