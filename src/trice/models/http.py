"""One attempt at one request: what goes over the wire to an OpenAI-compatible server, and what came back.

Chats go to `/chat/completions`, prompts to `/completions`. The server is a stranger: its reply is checked field by
field (`trice.models.replies`), and a fault is returned, not raised, so that no exception of the client library,
which holds the request and its headers, stays attached to ours.

Does not cover streaming.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from trice.models.api_keys import KeyRing
from trice.models.budget import Request
from trice.models.replies import Answer, Fault, Reply, read_error, read_reply
from trice.models.server_errors import proxied

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Answer", "Fault", "Reply", "send"]


async def send(
    client: AsyncOpenAI, ring: KeyRing, request: Request, fields: Mapping[str, Any], timeout: float
) -> Answer | Fault:
    """Send one request with the `fields` of its body, and wait at most `timeout` seconds for the whole reply."""
    import openai

    try:
        async with asyncio.timeout(timeout):
            body, headers = await _post(client, request, fields)
    except openai.APIStatusError as error:
        response = error.response
        return read_error(error.status_code, response.content, ring, _retry_after(response.headers))
    except (openai.APIConnectionError, TimeoutError) as error:
        # By name: the library's HTTP package is not the same in all its releases.
        cause = type(error.__cause__).__name__
        if cause in ("ConnectError", "ConnectTimeout", "ProxyError"):
            return Fault(f"the server cannot be reached{proxied(ring.server)}", unreachable=True)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return Fault(f"no answer within {timeout:g} s{proxied(ring.server)}", slow=True)
        return Fault(f"the connection broke{proxied(ring.server)}")
    except openai.OpenAIError:
        return Fault("the reply cannot be read", final=True)
    return read_reply(body, ring, _retry_after(headers))


async def _post(
    client: AsyncOpenAI, request: Request, fields: Mapping[str, Any]
) -> tuple[bytes, Mapping[str, str]]:
    """The body of the reply and its headers. Fields go as they are: the client library does not know every
    server's."""
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
    return raw.content, raw.headers


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
