"""What a server says where it gives no completion: its own message, and what that means for another attempt.

Servers report errors in several forms: `{"error": {"message", "type", "param", "code"}}`, `{"error": "text"}`,
`{"message", "code"}` and `{"detail"}`, with an HTTP status or inside a reply of status 200. This module also names
the proxy variable of the environment that a connection depends on. Does not cover streaming.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from pydantic_core import from_json

STATUSES = {
    "rate_limit": 429,
    "too_many_requests": 429,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "model_not_found": 404,
}
"""What codes and types mean, by a part of their text; no further attempt mends an exhausted quota."""

SUBSTITUTES = {"max_tokens": "max_completion_tokens", "temperature": None}
"""What is sent in the place of a field that a server refuses; None is nothing."""

UNPAIRED = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")  # the last is no text
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


class Refusal(NamedTuple):
    """An error object, which may show a key. `status`: the HTTP status that it amounts to, None where it names
    none; `of_request`: whether it concerns this request alone; `fields`: those of SUBSTITUTES that the server
    refuses."""

    message: str
    status: int | None = None
    of_request: bool = False
    fields: tuple[str, ...] = ()


def parse(body: bytes) -> Any:
    """The JSON of a body, half surrogate pairs replaced by U+FFFD. Raises ValueError where it is none."""

    def whole(found: re.Match[str]) -> str:
        return found[0] if len(found[0]) != 6 else r"\ufffd"

    return from_json(UNPAIRED.sub(whole, body.decode("utf-8-sig", "replace")))


def read_refusal(value: Any) -> Refusal | None:
    """The error object in the JSON of a reply; None where there is none."""
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
    names = " ".join([str(message), *kinds, str(error.get("param") or "")])
    named = [field for field in SUBSTITUTES if re.search(rf"(?<![a-z_]){field}(?![a-z_])", names)]
    fields = tuple(named) if UNSUPPORTED.search(names) else ()
    return Refusal(str(message), _status(kinds), bool(OF_REQUEST.search(names)), fields)


def page(text: str) -> str:
    """A body that is no JSON, in short: a web page's title, else how it begins."""
    title = TITLE.search(text)
    if title or re.match(r"\s*<", text):
        return f"a web page, {title[1].strip()!r}" if title else "a web page"
    return f"text, {text.strip()[:80]!r}"


def proxy_of(url: str) -> str | None:
    """The environment variable that sends requests for `url` to a proxy; None where they go to the server."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    if proxy_bypass(parts.netloc):
        return None
    scheme = next((scheme for scheme in (parts.scheme, "all") if proxies.get(scheme)), None)
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), None)


def proxied(url: str) -> str:
    """A word on the proxy that may be in the way of requests for `url`; nothing where there is none."""
    name = proxy_of(url)
    host = urlsplit(url).hostname
    return f" (through the proxy of {name}; NO_PROXY={host} connects without it)" if name else ""


def _status(kinds: list[str]) -> int | None:
    for kind in kinds:
        if re.fullmatch(r"[45]\d\d", kind):
            return int(kind)
        for part, status in STATUSES.items():
            if part in kind.casefold():
                return status
    return None
