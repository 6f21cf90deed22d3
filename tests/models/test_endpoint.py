"""The endpoint client against a real HTTP server that misbehaves."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Sequence
from typing import Any

import pytest
from stand_in_server import StandIn

from trice.errors import InputError, TriceError
from trice.formats.paper import MAX_RESPONSE
from trice.models.endpoint import Endpoint
from trice.models.replies import Reply

KEYS = ("sk-first-0123456789abcdef", "sk-other-fedcba9876543210")


def chats(questions: Sequence[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": question}] for question in questions]


def ask(
    endpoint: Endpoint, questions: list[str], samples: int = 1, **options: Any
) -> tuple[dict[int, list[str]], list[tuple[int, str]]]:
    """The texts by index, in order of their samples, and the reasons of the failures."""
    found: dict[int, dict[int, str]] = {}

    def done(index: int, new: dict[int, Reply]) -> None:
        assert not found.setdefault(index, {}).keys() & new.keys()
        found[index] |= {sample: reply.text for sample, reply in new.items()}

    wanted = [range(samples)] * len(questions)
    failures = endpoint.complete(chats(questions), done, samples=wanted, **options)
    told = [(failure.request, failure.reason) for failure in failures]
    return {index: [text for _, text in sorted(texts.items())] for index, texts in found.items()}, told


def pieces(secret: str, length: int = 6) -> list[str]:
    return [secret[i : i + length] for i in range(len(secret) - length + 1)]


def everything(error: BaseException | None) -> str:
    """All that an exception shows or holds, with those it came from."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + repr(error.args) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return text


def test_every_request_is_answered_once() -> None:
    questions = [f"question {i}" for i in range(30)]
    with StandIn() as server:
        texts, failures = ask(
            Endpoint(server.url, "m"), questions, temperature=0.5, max_tokens=7, stop=["\n"]
        )
    assert not failures
    assert texts == {i: [question.upper()] for i, question in enumerate(questions)}
    assert set(server.paid.values()) == {1}
    body = server.seen[0].body
    assert (body["model"], body["temperature"], body["max_tokens"], body["stop"]) == ("m", 0.5, 7, ["\n"])
    assert "n" not in body
    assert "seed" not in body


def test_passing_troubles_lose_no_question_and_pay_for_none_twice() -> None:
    steps = ["500", "429-bare", "drop", "torn", "half"]
    with StandIn(script={f"<{step}>": [step] for step in steps}) as server:
        texts, failures = ask(Endpoint(server.url, "m"), [f"<{step}>" for step in steps])
    assert not failures
    assert texts == {i: [f"<{step.upper()}>"] for i, step in enumerate(steps)}
    assert set(server.paid.values()) == {1}
    assert {step: len(server.times(f"<{step}>")) for step in steps} == dict.fromkeys(steps, 2)


@pytest.mark.parametrize("step", ["429", "503"])
def test_retry_after_is_honoured_by_every_request(step: str) -> None:
    with StandIn(script={"slow down": [step]}) as server:
        endpoint = Endpoint(server.url, "m")
        texts, failures = ask(endpoint, ["slow down"])
        first, second = server.times("slow down")
    assert not failures
    assert texts == {0: ["SLOW DOWN"]}
    assert second - first >= 1.0


def test_a_long_wait_ends_the_run() -> None:
    with (
        StandIn(script={"a": ["far"]}) as server,
        pytest.raises(TriceError, match=r"asks to wait 3[56]\d\d s"),
    ):
        ask(Endpoint(server.url, "m"), ["a"])
    assert len(server.seen) == 1


def test_a_rate_limited_key_rests_while_the_other_works() -> None:
    with StandIn(script={"a": ["far"]}) as server:
        texts, failures = ask(Endpoint(server.url, "m", KEYS), ["a", *"bcdefgh"])
    assert not failures
    assert len(texts) == 8
    assert server.by_key[server.seen[-1].key] >= 5


def test_a_hanging_server_costs_the_time_limit_only() -> None:
    with StandIn(script={"a": ["hang"]}) as server:
        texts, failures = ask(Endpoint(server.url, "m", timeout=0.3), ["a", "b"])
    assert not failures
    assert texts == {0: ["A"], 1: ["B"]}


def test_the_time_limit_is_that_of_the_whole_reply() -> None:
    with StandIn(script={"a": ["drip"]}) as server:
        _, failures = ask(Endpoint(server.url, "m", timeout=0.3, attempts=1), ["a"])
    assert failures == [(0, "no answer within 0.3 s")]


def test_exhausted_attempts_are_a_failure_and_others_go_on() -> None:
    script = {"bad": ["500"] * 9, "mute": ["hang"] * 9, "void": ["half"] * 9}
    with StandIn(script=script) as server:
        endpoint = Endpoint(server.url, "m", timeout=0.3, attempts=2)
        texts, failures = ask(endpoint, ["bad", "a", "mute", "b", "void"])
    assert texts == {1: ["A"], 3: ["B"]}
    assert [index for index, _ in failures] == [0, 2, 4]
    assert failures[0][1] == "HTTP 500: the model said no (500)"
    assert failures[1][1] == "no answer within 0.3 s"
    assert failures[2][1] == "the reply ends too early"
    assert [len(server.times(text)) for text in script] == [2, 2, 2]


@pytest.mark.parametrize("status", ["400", "404", "422"])
def test_what_fails_for_every_request_stops_at_once(status: str) -> None:
    with (
        StandIn(script={"q": [status] * 99}) as server,
        pytest.raises(TriceError, match=f"HTTP {status}: the mod"),
    ):
        ask(Endpoint(server.url, "m"), [f"q{i}" for i in range(50)])
    assert len(server.seen) <= 4


def test_a_request_refused_after_others_were_answered_fails_alone() -> None:
    with StandIn(script={"too long": ["400"], "gone": ["404"]}) as server:
        endpoint = Endpoint(server.url, "m")
        ask(endpoint, ["a"])
        texts, failures = ask(endpoint, ["too long", "b"])
        assert texts == {1: ["B"]}
        assert failures == [(0, "HTTP 400: the model said no (400)")]
        with pytest.raises(TriceError, match="HTTP 404"):
            ask(endpoint, ["gone"])


def test_no_server_is_one_clear_line() -> None:
    with StandIn() as server:
        url = server.url
    with pytest.raises(TriceError, match=f"^{url}: the server cannot be reached$"):
        ask(Endpoint(url, "m", attempts=2), ["a", "b"])


def test_concurrency_grows_while_all_is_well() -> None:
    with StandIn(delay=0.1) as server:  # longer than a busy machine takes to start a request
        ask(Endpoint(server.url, "m"), [f"q{i}" for i in range(60)])
    assert 4 < server.most_under_way <= 16


def test_concurrency_is_halved_once_by_a_burst_of_timeouts() -> None:
    questions = [f"q{i}" for i in range(8)]
    with StandIn(script={question: ["hang"] for question in questions[:4]}, delay=0.1) as server:
        _, failures = ask(Endpoint(server.url, "m", timeout=0.4), questions)
        later = sorted(server.seen, key=lambda seen: seen.time)[4:]
    assert not failures
    assert later[1].time < later[0].replied  # two at a time, so not halved twice
    assert later[2].time >= min(later[0].replied, later[1].replied)  # and not three


def test_keys_take_turns_and_a_refused_one_is_taken_out(capsys: pytest.CaptureFixture[str]) -> None:
    questions = [f"q{i}" for i in range(12)]
    with StandIn() as server:
        ask(Endpoint(server.url, "m", KEYS), questions)
    assert [server.by_key[key] for key in KEYS] == [6, 6]
    for status in (401, 403):
        with StandIn(refused={KEYS[0]: status}) as server:
            endpoint = Endpoint(server.url, "m", KEYS)
            texts, failures = ask(endpoint, questions)
            refusals = server.by_key[KEYS[0]]
            ask(endpoint, ["again"])
            assert server.by_key[KEYS[0]] == refusals
        assert not failures
        assert len(texts) == 12
        assert set(server.paid.values()) == {1}
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert f"a key was refused (HTTP {status}) and is not used again; 1 left" in shown
        assert not [piece for piece in pieces(KEYS[0], 4) if piece in shown]


def test_no_key_left_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(refused=dict.fromkeys((*KEYS, "none"), 401)) as server:
        with pytest.raises(TriceError, match="no key was accepted; check TRICE_API_KEYS") as caught:
            ask(Endpoint(server.url, "m", KEYS), ["a", "b"])
        with pytest.raises(TriceError, match="wants a key: set TRICE_API_KEYS"):
            ask(Endpoint(server.url, "m"), ["a", "b"])
    shown = everything(caught.value) + capsys.readouterr().err
    assert not [piece for key in KEYS for piece in pieces(key) if piece in shown]


@pytest.mark.parametrize("step", ["echo-400", "echo-500"])
def test_a_server_that_echoes_the_key_does_not_reveal_it(
    step: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with StandIn(script={"a": [step] * 9}) as server:
        endpoint = Endpoint(server.url, "m", KEYS[:1], attempts=2)
        shown = repr(endpoint) + repr(vars(endpoint))
        try:
            texts, failures = ask(endpoint, ["a", "b"])
            shown += repr(texts) + repr(failures)
        except TriceError as error:
            shown += everything(error)
    assert server.by_key[KEYS[0]] >= 1
    assert "message withheld" in shown
    output = capsys.readouterr()
    shown += caplog.text + output.out + output.err
    assert not [piece for piece in pieces(KEYS[0]) if piece in shown]


def test_a_reply_that_echoes_the_key_is_kept_without_it() -> None:
    with StandIn(script={"a": ["echo-200"]}) as server:
        texts, _ = ask(Endpoint(server.url, "m", KEYS[:1]), ["a"])
    assert texts == {0: ["you sent Bearer [key]"]}


def test_samples_are_asked_for_together_or_one_by_one() -> None:
    with StandIn(script={"lazy": ["one", "one"]}) as server:
        texts, failures = ask(Endpoint(server.url, "m"), ["good", "lazy"], samples=3, seed=10)
        asked = {seen.body["messages"][0]["content"]: [] for seen in server.seen}
        for seen in server.seen:
            asked[seen.question].append((seen.body.get("n"), seen.body["seed"]))
    assert not failures
    assert texts == {0: ["GOOD"] * 3, 1: ["LAZY"] * 3}
    assert asked == {"good": [(3, 10)], "lazy": [(3, 10), (2, 11), (None, 12)]}


def test_samples_that_were_paid_for_are_kept_where_the_rest_fails() -> None:
    with StandIn(script={"lazy": ["one", "500", "500"]}) as server:
        texts, failures = ask(Endpoint(server.url, "m", attempts=2), ["lazy"], samples=2)
    assert failures == [(0, "HTTP 500: the model said no (500)")]
    assert texts == {0: ["LAZY"]}


def test_a_reply_is_cut() -> None:
    with StandIn(answer=lambda _: "x" * (MAX_RESPONSE + 5)) as server:
        texts, _ = ask(Endpoint(server.url, "m"), ["a"])
    assert texts == {0: ["x" * MAX_RESPONSE]}


def test_ctrl_c_leaves_what_was_delivered() -> None:
    texts: list[str] = []

    def done(index: int, new: dict[int, Reply]) -> None:
        texts.extend(reply.text for reply in new.values())
        if len(texts) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    requests = chats(("a", "b", "c", "stuck", "stuck"))
    with StandIn(script={"stuck": ["hang"] * 9}) as server:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Endpoint(server.url, "m").complete(requests, done)
        assert time.monotonic() - start < 5  # far below the time limit of the stuck ones
    assert sorted(texts) == ["A", "B", "C"]


def test_an_error_of_the_caller_comes_through_as_it_is() -> None:
    def done(index: int, new: dict[int, Reply]) -> None:
        raise OSError(28, "No space left on device")

    with StandIn() as server, pytest.raises(OSError, match="No space left"):
        Endpoint(server.url, "m").complete(chats("a" * 9), done)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/v1", "https://host/v1?key=secret", "localhost:8000", "", "ftp://host"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        Endpoint(url, "m")
    assert "secret" not in str(caught.value)
