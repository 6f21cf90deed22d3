"""Authentication: API keys, protection against requests of other web pages, and security headers.

Any page in a browser can send requests to a server on the same machine. Two checks prevent that: the `Host` header must
be one of the server's names (against DNS rebinding), and an `Origin` header must be the server's. Encryption is left to
a proxy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from trice.server.schema import Refused

PUBLIC = ("/", "/health")  # paths without a key: the playground, which asks for one, and the health check
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Auth:
    """Checks requests. Without `keys` no key is needed; without `hosts` any host name is accepted."""

    def __init__(self, keys: Sequence[str], hosts: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self._hosts = tuple(_normalized(host) for host in hosts)

    def check(
        self, path: str, host: str, origin: str | None, authorization: str | None, address: str = ""
    ) -> None:
        """Raise Refused for a request that is not allowed. `address` is the one at which the request arrived, which is
        always accepted as the host name: DNS rebinding needs a name."""
        if self._hosts and _host_name(host) not in (*self._hosts, _normalized(address)):
            raise Refused(403, "the host name is not one of the server's; --allow-host NAME adds it")
        if origin is not None and _origin(origin) != host.lower():
            raise Refused(403, "requests from the pages of other sites are not allowed")
        if self._digests and path not in PUBLIC and not self._has_key(authorization):
            raise Refused(
                401, "the API key is missing or not valid; send Authorization: Bearer KEY", None, "invalid_api_key",
                WWW_Authenticate="Bearer",
            )  # fmt: skip

    def _has_key(self, authorization: str | None) -> bool:
        kind, _, key = (authorization or "").partition(" ")
        # compares every key, as digests of equal length, so that the time reveals nothing
        same = [hmac.compare_digest(_digest(key.strip()), digest) for digest in self._digests]
        return kind.lower() == "bearer" and any(same)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _normalized(name: str) -> str:
    """A host name or address in the form in which they are compared."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return name.lower()
    mapped = getattr(address, "ipv4_mapped", None)  # how a dual-stack socket reports an IPv4 address
    return str(mapped or address)


def _host_name(host: str) -> str:
    """The host in a Host header, without its port; empty if the header is malformed."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]*)(:[0-9]*)?", host)
    return _normalized(found[1]) if found else ""


def _origin(origin: str) -> str | None:
    """The host and port in an Origin header; None if the header is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page. It allows its inline scripts and styles, by digest, and its server."""
    scripts, styles = (
        " ".join(
            f"'sha256-{_base64(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {scripts or chr(39) + 'none' + chr(39)}; "
        f"style-src {styles or chr(39) + 'none' + chr(39)}; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _base64(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()
