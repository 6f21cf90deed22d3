"""Several real HTTP servers behind one endpoint, some of them sick."""

from __future__ import annotations

import re

import pytest
from stand_in_server import StandIn
from test_endpoint import KEYS, ask

from trice.errors import InputError, TriceError
from trice.models import server_pool
from trice.models.endpoint import Endpoint

QUESTIONS = [f"q{i}" for i in range(40)]


def paid_once(*used: StandIn) -> bool:
    return sorted(question for server in used for question in server.paid.elements()) == sorted(QUESTIONS)


def test_servers_take_turns() -> None:
    with StandIn(delay=0.01) as one, StandIn(delay=0.01) as other:
        texts, failures = ask(Endpoint([one.url, other.url], "m"), QUESTIONS)
    assert not failures
    assert len(texts) == 40
    assert paid_once(one, other)
    assert 10 <= one.paid.total() <= 30


def test_a_sick_server_is_taken_out(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(script={"q": ["500"] * 99}) as sick, StandIn() as well:
        texts, failures = ask(Endpoint([sick.url, well.url], "m"), QUESTIONS)
    assert not failures
    assert len(texts) == 40
    assert paid_once(well)
    assert 3 <= len(sick.seen) <= 6  # those that were under way at the third fault
    line = f"{sick.url}: HTTP 500: the model said no (500); it is paused for 15 s, 1 left\n"
    assert capsys.readouterr().err == line


def test_a_server_that_is_not_there_is_taken_out(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn() as gone:
        pass
    with StandIn() as well:
        texts, failures = ask(Endpoint([gone.url, well.url], "m", attempts=2), QUESTIONS)
    assert not failures
    assert len(texts) == 40
    shown = capsys.readouterr().err
    assert shown == f"{gone.url}: the server cannot be reached; it is paused for 15 s, 1 left\n"


def test_a_server_that_recovers_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PAUSE", 0.05)
    with StandIn(script={"q": ["500"] * 3}, delay=0.01) as sick, StandIn(delay=0.05) as well:
        _, failures = ask(Endpoint([sick.url, well.url], "m"), QUESTIONS)
    assert not failures
    assert paid_once(sick, well)
    assert sick.paid.total() > 3


def test_where_no_server_is_there_the_run_stops() -> None:
    with StandIn() as one, StandIn() as other:
        pass
    pattern = f"^({re.escape(one.url)}|{re.escape(other.url)}): the server cannot be reached$"
    with pytest.raises(TriceError, match=pattern):
        ask(Endpoint([one.url, other.url], "m", attempts=3), QUESTIONS)


def test_one_server_may_refuse_keys_that_another_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(refused=dict.fromkeys(KEYS, 401)) as one, StandIn(refused={KEYS[0]: 403}) as other:
        _, failures = ask(Endpoint([one.url, other.url], "m", KEYS), QUESTIONS)
    assert not failures
    assert paid_once(other)
    assert f"{one.url}: a key was refused (HTTP 401) and is not used again; 0 left" in capsys.readouterr().err


def test_a_server_that_wants_a_long_wait_is_left_alone() -> None:
    # All its replies say so: a request that were answered first would make room for another.
    with StandIn(script={"q": ["far"] * 99}) as busy, StandIn() as well:
        _, failures = ask(Endpoint([busy.url, well.url], "m"), QUESTIONS)
    assert not failures
    assert paid_once(well)
    assert 1 <= len(busy.seen) <= 4  # those that were under way


@pytest.mark.parametrize("urls", [[], ["http://h/v1", "http://h/v1"]])
def test_servers_that_cannot_be_meant_are_refused(urls: list[str]) -> None:
    with pytest.raises(InputError, match="one URL, or several different ones"):
        Endpoint(urls, "m")
