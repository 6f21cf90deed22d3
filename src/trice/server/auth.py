"""Who may come in: keys, the site a browser's request comes from, and what browsers are told.

A server on this machine is open to every page its user looks at unless it is told apart: a request must name the
server by one of its own names (so that no foreign name leads here, "DNS rebinding"), and one that a page has made
must come from the server's own page. Does not cover encryption: that is a proxy's.
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

OPEN = ("/", "/health")  # no key needed: a page that asks for one, and whether the server is well
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach what is bound to `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """`keys` are those that are let in, everybody without any; `hosts` the names the server may be called by, any
    name without them."""

    def __init__(self, keys: Sequence[str], hosts: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self._hosts = tuple(_plain(host) for host in hosts)

    def check(
        self, path: str, host: str, origin: str | None, authorization: str | None, address: str = ""
    ) -> None:
        """Raise Refused for a request that may not come in. `address` is the one at which the request arrived: the
        server may always be called by it, since no foreign name is an address."""
        if self._hosts and _name(host) not in (*self._hosts, _plain(address)):
            raise Refused(403, "the server is not called by this name; --allow-host adds one")
        if origin is not None and _origin(origin) != host.lower():
            raise Refused(403, "requests of other sites' pages are not answered")
        if self._digests and path not in OPEN and not self._known(authorization):
            raise Refused(
                401, "no key that is known here: Authorization: Bearer …", None, "invalid_api_key",
                WWW_Authenticate="Bearer",
            )  # fmt: skip

    def _known(self, authorization: str | None) -> bool:
        kind, _, key = (authorization or "").partition(" ")
        # all are compared, and digests of one length, so that the time tells nothing
        same = [hmac.compare_digest(_digest(key.strip()), digest) for digest in self._digests]
        return kind.lower() == "bearer" and any(same)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _plain(name: str) -> str:
    """A host's name or address in the one form in which names are compared."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return name.lower()
    mapped = getattr(address, "ipv4_mapped", None)  # how a socket for both kinds reports an IPv4 address
    return str(mapped or address)


def _name(host: str) -> str:
    """A Host header without its port; empty for a malformed one, which is no server's name."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]*)(:[0-9]*)?", host)
    return _plain(found[1]) if found else ""


def _origin(origin: str) -> str | None:
    """The host and port of an Origin header; None for a malformed one, which is no server's page."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own inline scripts and styles, by their digests, its own server,
    nothing else."""
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
