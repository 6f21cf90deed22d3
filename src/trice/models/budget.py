"""What spec an endpoint may cost, and what it has cost so far.

Tokens are those the server's `usage` tells, else estimated from the text. A request is charged in advance
with the most it can come to, so nothing is sent that the budget might not bear; an attempt whose reply never
came whole keeps that charge, as nobody knows what it cost. Prices are the user's, in any currency.

Does not cover prices that differ for cached or batched tokens, or an account's own limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from trice.errors import InputError, TriceError

BYTES_PER_TOKEN = 3  # of UTF-8; most texts have more, so that an estimate is rather too high
FRAME = 8  # tokens that a chat puts around a message

Request = Sequence[Mapping[str, str]] | str | Sequence[int]
"""A chat, or a prompt to be continued: its text, or its token ids."""


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
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Budget:
    """The most that may be spent; None is no limit. Prices are per million tokens. Raises InputError for a cost
    without prices."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self.priced:
            raise InputError("max_cost: needs prompt_price and completion_price, per million tokens")

    @property
    def priced(self) -> bool:
        """Whether tokens have a price."""
        return self.prompt_price > 0 or self.completion_price > 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit depends on tokens."""
        return self.max_tokens is not None or self.max_cost is not None

    def cost(self, spent: Spent) -> float:
        """In the currency of the prices."""
        paid = spent.prompt_tokens * self.prompt_price + spent.completion_tokens * self.completion_price
        return paid / 1e6

    def exceeded(self, spent: Spent) -> str | None:
        """The first limit that is below what is spent, as `max_tokens 1000`."""
        limits = [
            ("max_requests", self.max_requests, spent.requests),
            ("max_tokens", self.max_tokens, spent.tokens),
            ("max_cost", self.max_cost, self.cost(spent)),
        ]
        return next(
            (f"{name} {most:g}" for name, most, now in limits if most is not None and now > most), None
        )


class OutOfBudget(TriceError):
    """The next request could cost more than is left."""


class Account:
    """What is spent, and what the requests under way were charged in advance."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = Spent()
        self._charged = Spent()

    def bears(self, most: Spent) -> bool:
        """Whether a request may be sent now; or never, as nothing is under way that could turn out cheaper."""
        return not self._charged.requests or not self._exceeded(most)

    def charge(self, most: Spent) -> None:
        """Charge a request in advance. Raises OutOfBudget where the budget might not bear it."""
        if limit := self._exceeded(most):
            raise OutOfBudget(
                f"the budget is spent ({limit}; so far {self.spent.requests:,} requests, {self.tokens})"
            )
        self._charged += most

    def settle(self, most: Spent, actual: Spent) -> None:
        """Put what a request cost in the place of what it was charged."""
        self._charged += -most
        self.spent += actual

    def resume(self, spent: Mapping[str, int]) -> None:
        """Go on from what a journal says was spent on the same work."""
        self.spent = Spent(**spent)

    @property
    def so_far(self) -> dict[str, int]:
        """What is spent, for a journal."""
        return asdict(self.spent)

    def _exceeded(self, most: Spent) -> str | None:
        return self.budget.exceeded(self.spent + self._charged + most)

    @property
    def tokens(self) -> str:
        """`3,456 tokens, cost 0.0078`."""
        cost = f", cost {self.budget.cost(self.spent):.4g}" if self.budget.priced else ""
        return f"{self.spent.tokens:,} tokens{cost}"


def text_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def most(request: Request, samples: int, max_tokens: int) -> Spent:
    """The most that one attempt of a request can come to."""
    if isinstance(request, str):
        prompt = text_tokens(request)
    else:
        prompt = sum(
            1 if isinstance(part, int) else FRAME + sum(map(text_tokens, part.values())) for part in request
        )
    return Spent(1, prompt, samples * max_tokens)
