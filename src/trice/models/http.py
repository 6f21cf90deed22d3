"""One attempt at one request to an OpenAI-compatible server, and what its errors mean.

Chats are sent to `/chat/completions`, prompts to `/completions`. A fault is returned, not raised, so that it has no
reference to an exception of the client library, which contains the request and its headers. Servers report
errors as `{"error": {"message", "type", "param", "code"}}`, `{"error": "text"}`, `{"message", "code"}` or
`{"detail"}`, with an HTTP status or inside a reply of status 200. Reading the samples of a reply is in
`trice.models.replies`. Streaming is not covered.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from pydantic_core import from_json

from trice.errors import InputError
from trice.formats.paper import MAX_RESPONSE
from trice.models.api_keys import NO_KEY, KeyRing
from trice.models.budget import Request, Spent, ToolChat

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_CONNECT = 10.0  # seconds after which a server that does not accept the connection is unreachable
REFUSED = (401, 402, 403, 404)  # the key, the account or the address is refused, whatever the request is
STATUSES = {
    "rate_limit": 429,
    "too_many_requests": 429,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "model_not_found": 404,
}
"""The status that an error code or type amounts to, by a part of its text. An exhausted quota is not retried."""

SUBSTITUTES = {"max_tokens": "max_completion_tokens", "temperature": None}
"""The field that is sent instead of one that a server refuses; None sends nothing."""

UNPAIRED = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")  # the last is not text
OF_REQUEST = re.compile(
    r"content_filter|content_policy|context_length|context (length|window|size)|maximum context|prompt is too long",
    re.IGNORECASE,
)
UNSUPPORTED = re.compile(
    r"unsupported|not supported|not support|unknown|unrecogni[sz]ed|unexpected|deprecated|not permitted"
    r"|not allowed",
    re.IGNORECASE,
)
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(eq=False)
class Fault(Exception):
    """Why one attempt failed, in one line for the user."""

    reason: str
    status: int | None = None  # the HTTP status, or the one that an embedded error amounts to
    retry_after: float = 0.0  # seconds that the server asks to wait
    timed_out: bool = False
    unreachable: bool = False
    final: bool = False  # the reply was complete, so another attempt would get the same
    of_request: bool = False  # it concerns this request alone
    fields: tuple[str, ...] = ()  # of the request, that the server refuses
    url: str = ""  # of the server

    def __str__(self) -> str:
        return self.reason

    @property
    def of_server(self) -> bool:
        """Whether it counts against the server, and not the request, the key or the rate of requests."""
        return not self.of_request and (self.status is None or self.status >= 500)

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed."""
        return not (self.final or self.of_request) and (self.of_server or self.status in (408, 409, 425, 429))

    @property
    def down(self) -> bool:
        """Whether the server or the access to it is the cause, not the request."""
        return self.of_server or self.transient or self.status in REFUSED

    @property
    def spent(self) -> Spent | None:
        """What the attempt cost: no tokens if it was refused, None if it is unknown."""
        if self.unreachable:
            return Spent()
        return None if self.status is None and not self.final else Spent(1)


class Body(NamedTuple):
    """The body of a reply with status 200, and the seconds that the server asks to wait."""

    content: bytes
    retry_after: float


def open_client(url: str, timeout: float) -> AsyncOpenAI:
    """A client for one server, to which a key is added later. Raises InputError if the environment's proxy
    cannot be used."""
    import openai

    limits = openai.Timeout(timeout, connect=min(timeout, MAX_CONNECT))
    try:
        return openai.AsyncOpenAI(api_key=NO_KEY, base_url=url, timeout=limits, max_retries=0)
    except (ImportError, ValueError) as error:  # its message may show the proxy's password
        name = proxy_variable(url) or "a proxy variable"
        raise InputError(f"{name} is not a proxy that can be used ({type(error).__name__})") from None


async def send(
    client: AsyncOpenAI, ring: KeyRing, request: Request, fields: Mapping[str, Any], timeout: float
) -> Body | Fault:
    """Send one request with the `fields` of its body, and wait at most `timeout` seconds for the whole reply."""
    import openai

    try:
        async with asyncio.timeout(timeout):
            return await _post(client, request, fields)
    except openai.APIStatusError as error:
        response = error.response
        return _read_error(error.status_code, response.content, ring, _retry_after(response.headers))
    except (openai.APIConnectionError, TimeoutError) as error:
        # By name, because the HTTP package of the client library differs between its releases.
        cause = type(error.__cause__).__name__
        if cause in ("ConnectError", "ConnectTimeout", "ProxyError"):
            return Fault(f"the server cannot be reached{proxy_hint(ring.server)}", unreachable=True)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return Fault(f"no answer within {timeout:g} s{proxy_hint(ring.server)}", timed_out=True)
        return Fault(f"the connection broke{proxy_hint(ring.server)}")
    except openai.OpenAIError:
        return Fault("the reply cannot be read", final=True)


async def _post(client: AsyncOpenAI, request: Request, fields: Mapping[str, Any]) -> Body:
    """Send a request. The fields are sent unchanged, because the client library does not know every server's."""
    rest = {name: value for name, value in fields.items() if name != "model"}
    api: Any = client.chat.completions
    if isinstance(request, ToolChat):
        given: dict[str, Any] = {"messages": list(request.messages)}
        rest |= {"tools": list(request.tools)} if request.tools else {}
        rest |= {"tool_choice": request.tool_choice} if request.tool_choice else {}
    elif isinstance(request, str) or (request and isinstance(request[0], int)):
        api, given = client.completions, {"prompt": request if isinstance(request, str) else list(request)}
    else:
        given = {"messages": list(request)}
    raw = await api.with_raw_response.create(model=fields["model"], **given, extra_body=rest)
    return Body(raw.content, _retry_after(raw.headers))


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


def _read_error(status: int, body: bytes, ring: KeyRing, retry_after: float) -> Fault:
    """The fault of a reply with an HTTP error status."""
    try:
        error = read_error_object(parse_json(body))
    except ValueError:
        error = None
    if error is None:
        text = body[:MAX_RESPONSE].decode(errors="replace").strip()
        shown = f": {ring.message(describe_body(text))}" if text else ""
        return Fault(f"HTTP {status}{shown}{proxy_hint(ring.server)}", status, retry_after=retry_after)
    reason = f"HTTP {status}: {ring.message(error.message)}"
    if status < 500 and error.status in (*REFUSED, 429):
        status = error.status
    return _fault(reason, status, error, retry_after)


def embedded_fault(error: ErrorObject, ring: KeyRing, retry_after: float) -> Fault:
    """The fault of an error object in a reply with status 200: the same as with the status that it amounts to."""
    named = f"error {error.status}" if error.status else "an error"
    reason = f"{named} in a reply with HTTP status 200: {ring.message(error.message)}"
    return _fault(reason, error.status or 400, error, retry_after)


def _fault(reason: str, status: int, error: ErrorObject, retry_after: float) -> Fault:
    of_request = error.of_request and status in (400, 413, 422)
    fields = error.fields if status in (400, 422) else ()
    return Fault(reason, status, retry_after=retry_after, of_request=of_request, fields=fields)


class ErrorObject(NamedTuple):
    """An error that a server reports. The message may contain a key. `status` is the HTTP status that it
    amounts to, if it names one; `of_request` whether it concerns this request alone; `fields` are those of
    SUBSTITUTES that the server refuses."""

    message: str
    status: int | None = None
    of_request: bool = False
    fields: tuple[str, ...] = ()


def read_error_object(value: Any) -> ErrorObject | None:
    """The error object in the JSON of a reply, if there is one."""
    if not isinstance(value, Mapping):
        return None
    error = value.get("error") or value
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, Mapping):
        return None
    message = error.get("message") or error.get("detail")
    if not message:
        if error is value:
            return None
        message = dict(error)
    kinds = [str(error[name]) for name in ("code", "type") if error.get(name) is not None]
    words = " ".join([str(message), *kinds, str(error.get("param") or "")])
    named = [field for field in SUBSTITUTES if re.search(rf"(?<![a-z_]){field}(?![a-z_])", words)]
    fields = tuple(named) if UNSUPPORTED.search(words) else ()
    return ErrorObject(str(message), _status(kinds), bool(OF_REQUEST.search(words)), fields)


def _status(kinds: list[str]) -> int | None:
    for kind in kinds:
        if re.fullmatch(r"[45]\d\d", kind):
            return int(kind)
        for part, status in STATUSES.items():
            if part in kind.casefold():
                return status
    return None


def parse_json(body: bytes) -> Any:
    """The JSON of a body, with unpaired surrogates replaced by U+FFFD. Raises ValueError if it is not JSON."""

    def replacement(match: re.Match[str]) -> str:
        return match[0] if len(match[0]) != 6 else r"\ufffd"

    return from_json(UNPAIRED.sub(replacement, body.decode("utf-8-sig", "replace")))


def describe_body(text: str) -> str:
    """A body that is not JSON, in short: the title of a web page, else how the text begins."""
    title = TITLE.search(text)
    if title or re.match(r"\s*<", text):
        return f"a web page, {title[1].strip()!r}" if title else "a web page"
    return f"text, {text.strip()[:80]!r}"


def proxy_variable(url: str) -> str | None:
    """The environment variable that sends requests for `url` to a proxy, if there is one."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    if proxy_bypass(parts.netloc):
        return None
    scheme = next((scheme for scheme in (parts.scheme, "all") if proxies.get(scheme)), None)
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), None)


def proxy_hint(url: str) -> str:
    """A hint at the proxy that requests for `url` go through; empty if there is none."""
    name = proxy_variable(url)
    host = urlsplit(url).hostname
    return f" (through the proxy of {name}; NO_PROXY={host} connects without it)" if name else ""
