"""What an endpoint may cost, and what it has cost so far.

Tokens are counted by the server's `usage`, else estimated from the text. A request is charged in advance with
its maximum cost, so nothing is sent that could exceed the budget. An attempt without a complete reply keeps
that charge, because its cost is unknown. Prices are the user's, in any currency.

Different prices for cached or batched tokens and the limits of an account are not covered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trice.errors import InputError, TriceError

BYTES_PER_TOKEN = 3  # of UTF-8; most texts have more, so an estimate is an upper bound
MESSAGE_TOKENS = 8  # tokens that a chat template adds to a message


@dataclass(frozen=True)
class ToolChat:
    """A chat whose replies keep their tool calls, and the tools that the model may call. `tool_choice` is that of the
    OpenAI API; with None the server's default applies."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | None = None


Request = ToolChat | Sequence[Mapping[str, str]] | str | Sequence[int]
"""A chat with tools or without, or a prompt as text or as token ids."""


@dataclass(frozen=True)
class Spent:
    """Requests sent, and tokens read and written."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __neg__(self) -> Spent:
        return Spent(-self.requests, -self.prompt_tokens, -self.completion_tokens)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Budget:
    """What may be spent; None is no limit. Prices are per million tokens. Raises InputError for a maximum cost
    without prices."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self.priced:
            raise InputError("max_cost needs prompt_price and completion_price, per million tokens")

    @property
    def priced(self) -> bool:
        """Whether tokens have a price."""
        return self.prompt_price > 0 or self.completion_price > 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit depends on tokens."""
        return self.max_tokens is not None or self.max_cost is not None

    def cost(self, spent: Spent) -> float:
        """The cost, in the currency of the prices."""
        paid = spent.prompt_tokens * self.prompt_price + spent.completion_tokens * self.completion_price
        return paid / 1e6

    def exceeded(self, spent: Spent) -> str | None:
        """The first limit that is exceeded, such as `max_tokens 1000`."""
        limits = [
            ("max_requests", self.max_requests, spent.requests),
            ("max_tokens", self.max_tokens, spent.tokens),
            ("max_cost", self.max_cost, self.cost(spent)),
        ]
        return next(
            (f"{name} {limit:g}" for name, limit, now in limits if limit is not None and now > limit), None
        )


class OutOfBudget(TriceError):
    """The next request could cost more than is left."""


class Account:
    """What has been spent, and what the running requests were charged in advance."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = Spent()
        self._charged = Spent()
        self._save: Callable[[dict[str, int]], None] | None = None

    def can_decide(self, charge: Spent) -> bool:
        """Whether `charge` would decide now: the budget covers the request, or no request is running that could
        turn out cheaper."""
        return not self._charged.requests or not self._exceeded(charge)

    def charge(self, charge: Spent) -> None:
        """Charge a request in advance. Raises OutOfBudget if the budget may not cover it."""
        if limit := self._exceeded(charge):
            raise OutOfBudget(
                f"the budget is spent ({limit}; so far {self.spent.requests:,} requests, {self.tokens})"
            )
        self._charged += charge

    def settle(self, charge: Spent, cost: Spent) -> None:
        """Replace the charge of a request by what it cost."""
        self._charged += -charge
        self.spent += cost
        if self._save and cost.requests:
            self._save(asdict(self.spent))

    def resume(self, spent: Mapping[str, int], save: Callable[[dict[str, int]], None]) -> None:
        """Continue from what a journal records as spent on the same work. `save` records what has been spent when a
        request ends, with a reply or without one."""
        self.spent, self._save = Spent(**spent), save

    def _exceeded(self, charge: Spent) -> str | None:
        return self.budget.exceeded(self.spent + self._charged + charge)

    @property
    def tokens(self) -> str:
        """`3,456 tokens, cost 0.0078`."""
        cost = f", cost {self.budget.cost(self.spent):.4g}" if self.budget.priced else ""
        return f"{self.spent.tokens:,} tokens{cost}"


def estimate_tokens(text: str) -> int:
    """An upper estimate of the number of tokens in a text."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def maximum_cost(request: Request, samples: int, max_tokens: int) -> Spent:
    """The maximum cost of one attempt at a request."""
    if isinstance(request, str):
        prompt = estimate_tokens(request)
    elif isinstance(request, ToolChat):
        parts = [json.dumps(part, ensure_ascii=False) for part in (*request.messages, *request.tools)]
        prompt = sum(MESSAGE_TOKENS + estimate_tokens(part) for part in parts)
    else:
        prompt = sum(
            1 if isinstance(part, int) else MESSAGE_TOKENS + sum(map(estimate_tokens, part.values()))
            for part in request
        )
    return Spent(1, prompt, samples * max_tokens)
