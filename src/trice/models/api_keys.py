"""The API keys of an endpoint: where they are read from, which one is used next, and how they are kept secret.

Keys come from the environment or from a file that only its user can read. Keyrings and tokens that expire and are
renewed are not covered.
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

MAX_WAIT = 300.0  # seconds; a run stops if a server asks to wait longer
PIECE = 6  # consecutive characters of a key that must not be shown
NO_KEY = "none"  # sent to a local server that needs no key


def api_keys(file: Path | None = None) -> list[str]:
    """The keys in `file`, one a line; without it those of TRICE_API_KEYS (comma-separated) or OPENAI_API_KEY.

    Empty if none is set, as for a local server that needs no key. Raises InputError if the file cannot be read,
    contains no key, or can be read by other users."""
    if file is None:
        words = (os.environ.get("TRICE_API_KEYS") or os.environ.get("OPENAI_API_KEY") or "").split(",")
    else:
        words = _private_text(file).splitlines()
    keys = [word.strip() for word in words if word.strip()]
    if file is not None and not keys:
        raise InputError(f"{file}: contains no key; write one key per line")
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
    """A key, the time (monotonic clock) from which it may be used, and how often it was used."""

    secret: str = field(repr=False)
    ready: float = 0.0
    used: int = 0


class NoKey(TriceError):
    """No key may be used now or soon."""


class KeyRing:
    """Keys in rotation for one server. Raises InputError for a key with invalid characters."""

    def __init__(self, keys: Sequence[str], server: str) -> None:
        for number, key in enumerate(keys, start=1):
            # The client library's error would show the key.
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(
                    f"key {number} of {len(keys)} contains a space or a character that no key has"
                )
        self.server, self.refusal = server, ""
        self._secrets = tuple(dict.fromkeys(keys))
        self.keys = [Key(secret) for secret in self._secrets or (NO_KEY,)]

    @property
    def ready(self) -> float:
        """When (monotonic clock) the first key may be used; infinity if none is left."""
        return min((key.ready for key in self.keys), default=math.inf)

    async def next(self) -> Key:
        """Wait until a key may be used, and return it, in rotation. Raises NoKey if none is left, or if the
        server asks to wait for more than MAX_WAIT seconds."""
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
        refusal = f" ({self.refusal})" if self.refusal else ""
        raise NoKey(f"{self.server}: no key was accepted; {advice} TRICE_API_KEYS or the key file{refusal}")

    def wait(self, seconds: float, only: Key | None = None) -> None:
        """Do not use any key, or `only` this one, for so long."""
        for key in [only] if only else self.keys:
            key.ready = max(key.ready, time.monotonic() + seconds)

    def remove(self, key: Key, refusal: str) -> None:
        """Stop using a refused key. `refusal` is the server's reply, such as `HTTP 401: …`."""
        if key in self.keys:  # several running requests may have used it
            self.keys, self.refusal = [other for other in self.keys if other is not key], refusal
            status = refusal.partition(":")[0]
            notice(
                f"{self.server}: a key was refused ({status}) and is not used again; {len(self.keys)} left"
            )

    def hide(self, text: str) -> str:
        """A reply without keys, in case the server echoes the request's headers."""
        for secret in self._secrets:
            if len(secret) >= PIECE:
                text = text.replace(secret, "[key]")
        return text

    def message(self, text: str) -> str:
        """A server's message as one short printable line, withheld if it contains part of a key."""
        folded = text.casefold()
        for secret in self._secrets:
            starts = range(max(1, len(secret) - PIECE + 1))
            if any(secret[start : start + PIECE].casefold() in folded for start in starts):
                return "(message withheld: it shows a part of a key)"
        text = re.sub(r"\S*\*{2}\S*", "[key]", text)  # a key of which the server shows only the ends
        printable = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(printable.split())[:200]
