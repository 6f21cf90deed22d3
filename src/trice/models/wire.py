"""One attempt at one request: what goes over the wire to an OpenAI-compatible server, and what came back.

Chats go to `/chat/completions`, prompts to `/completions`. The server is a stranger: its reply is checked field by
field, and a fault is returned, not raised, so that no exception of the client library, which holds the request and
its headers, stays attached to ours.

Does not cover streaming, or the reply's `tool_calls`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError, WrapValidator

from trice.calls import MAX_RESPONSE
from trice.models.budget import Request, Spent
from trice.models.keys import KeyRing

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class Reply(NamedTuple):
    """One sample. Where the server tells them: `tokens`, the ids it chose, `pieces`, the text of each token, and
    `logprobs`, the natural log-probability of each."""

    text: str
    tokens: list[int] | None = None
    pieces: list[str] | None = None
    logprobs: list[float] | None = None


class Answer(NamedTuple):
    """A whole reply, of as many samples as the server liked; `spent` is None where it tells no usage."""

    replies: list[Reply]
    spent: Spent | None


@dataclass(eq=False)
class Fault(Exception):
    """Why one attempt failed. `after`: seconds the server asks us to wait; `slow`: the time limit ran out; `url`:
    the server's."""

    reason: str
    status: int | None = None
    after: float = 0.0
    slow: bool = False
    unreachable: bool = False
    url: str = ""

    def __str__(self) -> str:
        return self.reason

    @property
    def sick(self) -> bool:
        """Whether it speaks against the server, not the request, the key or the pace."""
        return self.status is None or self.status >= 500

    @property
    def passing(self) -> bool:
        """Whether another attempt may fare better."""
        return self.sick or self.status in (408, 409, 425, 429)

    @property
    def spent(self) -> Spent | None:
        """What it cost: no tokens where it was refused; None where nobody knows."""
        if self.unreachable:
            return Spent()
        return None if self.status is None else Spent(1)


def _or_none(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValidationError:
        return None


# What is extra must fit too, but its absence or disorder spoils no reply that is paid for.
_Optional = WrapValidator(_or_none)


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Token(BaseModel):
    token: str
    logprob: float


class _Choice(BaseModel):
    text: str = Field(validation_alias=AliasChoices(AliasPath("message", "content"), "text"))
    token_ids: Annotated[list[int] | None, _Optional] = None
    content: Annotated[list[_Token] | None, _Optional] = Field(
        None, validation_alias=AliasPath("logprobs", "content")
    )
    pieces: Annotated[list[str] | None, _Optional] = Field(
        None, validation_alias=AliasPath("logprobs", "tokens")
    )
    logprobs: Annotated[list[float] | None, _Optional] = Field(
        None, validation_alias=AliasPath("logprobs", "token_logprobs")
    )

    def reply(self, ring: KeyRing) -> Reply:
        pieces, logprobs = self.pieces, self.logprobs
        if self.content is not None:  # a chat's form
            pieces, logprobs = [each.token for each in self.content], [each.logprob for each in self.content]
        return Reply(ring.hide(self.text)[:MAX_RESPONSE], self.token_ids, pieces, logprobs)


class _Completion(BaseModel):
    """The part of a completion that is read. The client library would let any other shape pass."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, _Optional] = None


async def send(
    client: AsyncOpenAI, ring: KeyRing, request: Request, fields: Mapping[str, Any], timeout: float
) -> Answer | Fault:
    """Send one request with the `fields` of its body, and wait at most `timeout` seconds for the whole reply."""
    import openai

    try:
        async with asyncio.timeout(timeout):
            completion = _Completion.model_validate_json(await _post(client, request, fields))
    except openai.APIStatusError as error:
        body = error.body
        said = body.get("message", body) if isinstance(body, dict) else body
        message = ring.message(str(said)) if said else ""
        reason = f"HTTP {error.status_code}" + (f": {message}" if message else "")
        return Fault(reason, error.status_code, after=_retry_after(error.response.headers))
    except (openai.APIConnectionError, TimeoutError) as error:
        # By name: the library's HTTP package is not the same in all its releases.
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
            return Fault("the server cannot be reached", unreachable=True)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return Fault(f"no answer within {timeout:g} s", slow=True)
        return Fault("the connection broke")
    except (openai.OpenAIError, ValidationError):
        return Fault("the reply is no whole completion, or an empty one")
    told = completion.usage
    spent = Spent(1, told.prompt_tokens, told.completion_tokens) if told else None
    return Answer([choice.reply(ring) for choice in completion.choices], spent)


async def _post(client: AsyncOpenAI, request: Request, fields: Mapping[str, Any]) -> bytes:
    """The body of the reply. Fields go as they are: not every server's are known to the client library."""
    model, rest = fields["model"], {name: value for name, value in fields.items() if name != "model"}
    if isinstance(request, str) or (request and isinstance(request[0], int)):
        prompt: Any = request if isinstance(request, str) else list(request)
        raw: Any = await client.completions.with_raw_response.create(
            model=model, prompt=prompt, extra_body=rest
        )
    else:
        messages: Any = [dict(message) for message in request]  # type: ignore[arg-type]
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=messages, extra_body=rest
        )
    body: bytes = raw.content
    return body


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by the Retry-After header (a number or a date, RFC 9110 section 10.2.3), else 0."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
