"""What an endpoint may cost, against a real HTTP server: each of its answers costs 10 + 3 tokens."""

from __future__ import annotations

from typing import Any

import pytest
from stand_in_server import StandIn

from trice.errors import InputError, TriceError
from trice.models.budget import Budget, Spent
from trice.models.endpoint import Endpoint
from trice.models.replies import Reply

# Each question below may cost 11 + 5: a message's frame 8, "user" 2 and "q1" 1 tokens, and the length limit.
MOST = Spent(1, 11, 5)


def ask(endpoint: Endpoint, count: int) -> dict[int, str]:
    """The texts that came, whatever ended it but the budget."""
    texts: dict[int, str] = {}

    def done(index: int, replies: dict[int, Reply]) -> None:
        texts[index] = replies[0].text

    requests = [[{"role": "user", "content": f"q{i}"}] for i in range(count)]
    endpoint.complete(requests, done, max_tokens=5)
    return texts


@pytest.mark.parametrize(
    ("budget", "sent", "line"),
    [
        ({"max_requests": 7}, 7, "max_requests 7; so far 7 requests, 91 tokens"),
        # After 7 answers 91 are spent, and 91 + 16 is too much.
        ({"max_tokens": 100}, 7, "max_tokens 100; so far 7 requests, 91 tokens"),
        # In millionths: an answer costs 10 * 2 + 3 * 10 = 50, and may cost 11 * 2 + 5 * 10 = 72; 200 + 72 fit.
        (
            {"max_cost": 300e-6, "prompt_price": 2, "completion_price": 10},
            5,
            r"max_cost 0\.0003; so far 5 requests, 65 tokens, cost 0\.00025",
        ),
    ],
)
def test_a_budget_stops_before_it_is_overspent(budget: dict[str, Any], sent: int, line: str) -> None:
    with StandIn(delay=0.01) as server:
        endpoint = Endpoint(server.url, "m", budget=Budget(**budget))
        kept = (
            rf"; {sent} of 20 requests were answered and are saved: run again with a higher one to continue$"
        )
        with pytest.raises(TriceError, match=rf"^the budget is spent \({line}\){kept}"):
            ask(endpoint, 20)
    assert len(server.seen) == sent
    assert server.most_under_way > 1


def test_what_an_earlier_run_spent_counts() -> None:
    with StandIn() as server:
        endpoint = Endpoint(server.url, "m", budget=Budget(max_requests=7))
        endpoint.account.spent = Spent(5, 50, 15)
        with pytest.raises(TriceError, match="so far 7 requests, 91 tokens"):
            ask(endpoint, 20)
    assert len(server.seen) == 2


def test_a_budget_that_suffices_is_not_noticed() -> None:
    with StandIn() as server:
        assert len(ask(Endpoint(server.url, "m", budget=Budget(max_requests=5, max_tokens=68)), 5)) == 5


@pytest.mark.parametrize(
    ("step", "spent"),
    [
        ("answer", Spent(1, 10, 3)),
        ("500", Spent(1)),
        ("hang", MOST),
        ("torn", MOST),
        ("mute", Spent(1, 11, 1)),
    ],
)
def test_what_an_attempt_costs(step: str, spent: Spent) -> None:
    with StandIn(script={"q0": [step]}) as server:
        endpoint = Endpoint(server.url, "m", timeout=0.4, attempts=1)
        ask(endpoint, 1)
    assert endpoint.account.spent == spent


def test_a_server_that_was_not_reached_costs_nothing() -> None:
    with StandIn() as server:
        endpoint = Endpoint(server.url, "m", attempts=1)
    with pytest.raises(TriceError, match="cannot be reached"):
        ask(endpoint, 1)
    assert endpoint.account.spent == Spent()


def test_estimates_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(script={"q": ["mute"] * 9}) as server:
        ask(Endpoint(server.url, "m", budget=Budget(max_tokens=999)), 5)
    assert capsys.readouterr().err == (
        "m: the server reports no usage; tokens are estimated from the texts' lengths\n"
    )


def test_figures_for_a_progress_line() -> None:
    with StandIn() as server:
        endpoint = Endpoint(server.url, "m", budget=Budget(prompt_price=100, completion_price=200))
        ask(endpoint, 100)
    rate, _, rest = endpoint.figures.partition(" ")
    assert float(rate) > 1
    assert rest == "requests/s, 1,300 tokens, cost 0.16"


def test_a_cost_needs_prices() -> None:
    with pytest.raises(InputError, match=r"^max_cost needs prompt_price and completion_price"):
        Budget(max_cost=1)
