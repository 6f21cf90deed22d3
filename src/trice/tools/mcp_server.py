"""How an MCP server is reached: its command or URL, its limits, and the names of its secrets."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trice.errors import InputError
from trice.tools import TIME_LIMIT

CONNECT_LIMIT = 60.0  # seconds; `uvx` and `npx` may have to download the server first
SHORTEST_SECRET = 6  # characters; a shorter value is not replaced in texts


class McpServer(BaseModel):
    """How an MCP server is reached. Secrets are named here, and their values stay in the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mcp: str
    """the command that starts a server on stdio, or the URL of a server on streamable HTTP"""
    env: tuple[str, ...] = ()
    """for a command: the names of further environment variables that the server gets"""
    token_env: str | None = None
    """for a URL: the name of the environment variable that holds the bearer token"""
    time_limit: float = Field(TIME_LIMIT, gt=0)
    """seconds for one call"""
    connect_limit: float = Field(CONNECT_LIMIT, gt=0)
    """seconds for starting the server, or for connecting to it"""

    @model_validator(mode="after")
    def _options_fit(self) -> McpServer:
        if self.is_url and re.match(r"https?://[^/?#]*@", self.mcp):
            raise ValueError(
                "the URL contains a password; put it into an environment variable for 'token_env'"
            )
        if self.is_url and self.env:
            raise ValueError("'env' is for a command; name the variable of a URL's token with 'token_env'")
        if not self.is_url and self.token_env:
            raise ValueError("'token_env' is for a URL; name the variables of a command with 'env'")
        if not self.is_url and not self.words:
            raise ValueError("the command is empty")
        return self

    @property
    def is_url(self) -> bool:
        return self.mcp.startswith(("http://", "https://"))

    @property
    def words(self) -> list[str]:
        """The words of the command. Raises ValueError for an open quote."""
        try:
            return shlex.split(self.mcp)
        except ValueError:
            raise ValueError("the command has an open quote") from None

    @property
    def name(self) -> str:
        """The server in messages and hashes: the command, or the URL without its query."""
        return f"MCP server '{self.mcp.partition('?')[0] if self.is_url else self.mcp}'"

    @property
    def _named(self) -> Sequence[str]:
        return [self.token_env] if self.token_env else self.env

    def secrets(self) -> list[tuple[str, str]]:
        """The names and values of the named environment variables. Raises InputError if one is not set."""
        found = []
        for name in self._named:
            value = os.environ.get(name, "")
            # A text that does not look like a name may be the secret itself, and is not shown.
            shown = name if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else "that is named"
            if not value:
                raise InputError(f"the environment variable {shown} is not set")
            if self.token_env and not re.fullmatch(r"[!-~]+", value):
                raise InputError(f"the environment variable {shown} does not hold a token")
            found.append((name, value))
        return found

    def hide(self, text: str) -> str:
        """A text of the server without the values of the named environment variables."""
        for name in self._named:
            value = os.environ.get(name, "")
            text = text.replace(value, f"[{name}]") if len(value) >= SHORTEST_SECRET else text
        return text
