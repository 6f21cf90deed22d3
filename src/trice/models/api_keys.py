"""The keys of an endpoint: where they come from, whose turn it is, and that nobody sees them.

Covers keys from the environment and from a file that only its user can read. Does not cover keyrings or
tokens that expire and are renewed.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trice.errors import InputError, TriceError
from trice.progress import notice

MAX_WAIT = 300.0  # seconds a server may ask us to wait before the run is given up
PIECE = 6  # so many characters of a key in a row are a part that must not be shown
NO_KEY = "none"  # what a keyless local server is sent


def api_keys(file: Path | None = None) -> list[str]:
    """The keys in `file`, one a line; without it those of TRICE_API_KEYS (comma-separated) or OPENAI_API_KEY.

    Empty where none is set, as for a keyless local server. Raises InputError where the file cannot be read,
    holds no key, or can be read by others."""
    if file is None:
        words = (os.environ.get("TRICE_API_KEYS") or os.environ.get("OPENAI_API_KEY") or "").split(",")
    else:
        words = _private_text(file).splitlines()
    keys = [word.strip() for word in words if word.strip()]
    if file is not None and not keys:
        raise InputError(f"{file}: holds no key (one a line)")
    return keys


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise InputError(
                    f"{path}: others can read these keys; run: chmod 600 {shlex.quote(str(path))}"
                )
            # A decoding error would carry the file's text, and so the keys, in the exception.
            return file.read().decode("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@dataclass
class Key:
    """A key, the time (monotonic clock) before which the server does not want to see it, and how often it
    was used."""

    secret: str = field(repr=False)
    ready: float = 0.0
    used: int = 0


class NoKey(TriceError):
    """No key may be used now, or soon."""


class KeyRing:
    """Keys in rotation for the server called `server`. Raises InputError for a key that cannot be meant."""

    def __init__(self, keys: Sequence[str], server: str) -> None:
        for number, key in enumerate(keys, start=1):
            # The client library's own complaint would show the key.
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(f"key {number} of {len(keys)} holds a space or a character that no key has")
        self.server, self.refusal = server, ""
        self._secrets = tuple(dict.fromkeys(keys))
        self.keys = [Key(secret) for secret in self._secrets or (NO_KEY,)]

    @property
    def ready(self) -> float:
        """When (monotonic clock) the first key may be used; infinity where none is left."""
        return min((key.ready for key in self.keys), default=math.inf)

    async def next(self) -> Key:
        """The key that may be used first, in rotation; waits until then. Raises NoKey where none is left, or
        the server asks for a wait of over MAX_WAIT seconds."""
        while self.keys:
            now = time.monotonic()
            key = min(self.keys, key=lambda key: (max(key.ready, now), key.used))
            if key.ready <= now:
                key.used += 1
                return key
            if key.ready - now > MAX_WAIT:
                raise NoKey(f"{self.server}: asks to wait {key.ready - now:.0f} s; try again then")
            await asyncio.sleep(key.ready - now)
        advice = "check" if self._secrets else "the server wants a key: set"
        said = f" ({self.refusal})" if self.refusal else ""
        raise NoKey(f"{self.server}: no key was accepted; {advice} TRICE_API_KEYS or the key file{said}")

    def wait(self, seconds: float, only: Key | None = None) -> None:
        """Do not use `only` this key (by default: any) for so long."""
        for key in [only] if only else self.keys:
            key.ready = max(key.ready, time.monotonic() + seconds)

    def take_out(self, key: Key, refusal: str) -> None:
        """Use a refused key no more; `refusal` is what the server said, such as `HTTP 401: …`."""
        if key in self.keys:  # requests under way at the same time may tell of the same key
            self.keys, self.refusal = [other for other in self.keys if other is not key], refusal
            status = refusal.partition(":")[0]
            notice(f"{self.server}: a key was refused ({status}) and is taken out; {len(self.keys)} left")

    def hide(self, text: str) -> str:
        """A reply as it may be kept: a server that echoes the request's headers puts no key into a file."""
        for secret in self._secrets:
            if len(secret) >= PIECE:
                text = text.replace(secret, "[key]")
        return text

    def message(self, text: str) -> str:
        """A server's message as one short printable line, withheld where it shows a part of a key."""
        folded = text.casefold()
        for secret in self._secrets:
            starts = range(max(1, len(secret) - PIECE + 1))
            if any(secret[start : start + PIECE].casefold() in folded for start in starts):
                return "(message withheld: it shows a part of a key)"
        text = re.sub(r"\S*\*{2}\S*", "[key]", text)  # a key of which a server shows the ends
        printable = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(printable.split())[:200]
