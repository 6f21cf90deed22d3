"""What a server bears: too much, too long, too many, clients that go away, tools that hang, being stopped."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import serving_tools
from serving import ask, client, eventually, running, streamed, tool_task, writes
from serving_tools import held as held

from trice.server.limits import Limits
from trice.server.startup import Server


@pytest.fixture
def waiter(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """A server whose model calls the tool `wait` for every question."""
    model = writes(tiny_model("llama"), tmp_path, "wait(now)")

    def make(**limits: Any) -> Any:
        return running(model, task=tool_task(tmp_path, "serving_tools:wait"), limits=Limits(**limits))

    return make


def post(server: Server, body: bytes, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **headers})
    return connection.getresponse()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{" + b" " * 64_000, 413),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b"[" * 50_000, 400),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"model": "m", "temperature": NaN, "messages": []}', 400),
        (b'{"model": 5, "messages": []}', 400),
        (b'{"model": "' + b"1" * 5_000 + b'", "messages": [{"role": "user", "content": "a"}]}', 404),
    ],
)
def test_a_body_that_does_not_fit_is_refused(
    tiny_model: Callable[[str], Path], body: bytes, status: int
) -> None:
    with running(tiny_model("llama")) as server:
        reply = post(server, body)
        error = json.loads(reply.read())["error"]
        assert reply.status == status
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 300


def test_a_body_without_a_length_is_cut_off(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama")) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        parts = (b" " * 10_000 for _ in range(7))
        connection.request("POST", "/v1/chat/completions", parts, encode_chunked=True)
        assert connection.getresponse().status == 413


def test_one_too_many_is_told_to_come_back(waiter: Callable[..., Any]) -> None:
    with waiter(batch_size=1, max_waiting=1) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server)
        eventually(lambda: serving_tools.runs)
        second = pool.submit(ask, server)
        eventually(lambda: server.state.worker.jobs.waiting)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(server)
        assert caught.value.response.headers["retry-after"] == "1"
        serving_tools.go_on.set()
        assert [each.result().choices[0].message.content for each in (first, second)] == ["NOW", "NOW"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_ends_at_its_time_limit(waiter: Callable[..., Any], stream: bool) -> None:
    with waiter(timeout=0.5) as server:
        if stream:
            with pytest.raises(openai.APIError, match=r"within 0\.5 seconds"):
                streamed(ask(server, stream=True))
        else:
            with pytest.raises(openai.InternalServerError) as caught:
                ask(server)
            assert caught.value.status_code == 504
        serving_tools.go_on.set()
        eventually(lambda: server.state.worker.idle)


def test_a_call_keeps_the_place_of_a_request_that_is_over(waiter: Callable[..., Any]) -> None:
    with waiter() as server:
        worker = server.state.worker
        chunks = ask(server, stream=True)
        eventually(lambda: serving_tools.runs)
        chunks.close()
        eventually(lambda: all(job.ended for job in worker.jobs.running))
        assert not worker.idle
        serving_tools.go_on.set()
        eventually(lambda: worker.idle)


def test_a_request_for_which_there_is_a_place_does_not_wait(waiter: Callable[..., Any]) -> None:
    with waiter(batch_size=8, max_waiting=1) as server, ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            serving_tools.go_on.clear()
            serving_tools.runs.clear()
            asked = [pool.submit(ask, server) for _ in range(8)]  # at once, at an idle server
            eventually(lambda: len(serving_tools.runs) == 8)
            ninth = pool.submit(ask, server)
            eventually(lambda: server.state.worker.jobs.waiting)
            with pytest.raises(openai.RateLimitError):
                ask(server)
            serving_tools.go_on.set()
            assert {each.result().choices[0].message.content for each in (*asked, ninth)} == {"NOW"}


def test_second_turns_take_no_more_places_than_there_are(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = writes(tiny_model("llama"), tmp_path, "look(Paris)", for_ever=True)
    task = tool_task(tmp_path, "serving_tools:look")
    limits = Limits(max_new_tokens=200, batch_size=1)
    with running(model, task=task, limits=limits) as server, ThreadPoolExecutor(1) as pool:
        asked, most = pool.submit(ask, server, max_tokens=200), 0
        while not asked.done():  # two turns of 200 tokens each
            # Another thread moves a row between batches: only a number that is read twice counts.
            batches = server.state.worker.batches._batches
            most = max(most, min(sum(map(len, list(batches.values()))) for _ in range(2)))
        assert len(asked.result().choices[0].message.trice["turns"]) == 2
        assert most == 1


def test_a_tool_that_ends_its_program_does_not_end_the_server(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = writes(tiny_model("llama"), tmp_path, "leave(now)")
    with running(model, task=tool_task(tmp_path, "serving_tools:leave")) as server:
        for _ in range(2):
            assert ask(server).choices[0].message.content == "The tool could not be called: now."


def test_a_server_that_answers_no_more_says_so(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = writes(tiny_model("llama"), tmp_path, "die(now)")
    with running(model, task=tool_task(tmp_path, "serving_tools:die")) as server:
        for _ in range(2):  # the one that meets it, and one after it
            with pytest.raises(openai.InternalServerError) as caught:
                ask(server)
            assert (caught.value.status_code, caught.value.code) == (503, "failed")
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        connection.request("GET", "/health")
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["status"]) == (503, "failed")


@pytest.mark.parametrize(
    "fields",
    [
        {"k" * 50_000: 1},
        {"trice": {"k" * 50_000: 1}},
        {"stream_options": {"k" * 50_000: 1}},
        {"messages": [{"role": "user", "content": "a", "k" * 50_000: 1}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "k" * 50_000: 1}]}]},
        {"messages": [{"role": "r" * 50_000, "content": "a"}]},
        {"model": "m" * 50_000},
        {"tool_choice": "t" * 50_000},
        {"trice": {"task": "t" * 50_000}},
        {"stop": ["s" * 50_000]},
    ],
    ids=range(10),
)
def test_an_error_repeats_little_of_what_was_sent(
    tiny_model: Callable[[str], Path], fields: dict[str, Any]
) -> None:
    with running(tiny_model("llama")) as server:
        sent = {"model": "tiny-llama", "messages": [{"role": "user", "content": "a"}]} | fields
        reply = post(server, json.dumps(sent).encode())
        told = reply.read()
        assert reply.status in (400, 404)
        assert len(told) < 1500
        assert set(json.loads(told)["error"]) == {"message", "type", "param", "code"}


def test_rows_of_a_client_that_goes_away_leave(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = writes(tiny_model("llama"), tmp_path, "and on ", for_ever=True)
    limits = Limits(max_new_tokens=50_000, timeout=600)
    with running(model, limits=limits) as server:
        worker = server.state.worker
        for stream in (True, False):
            body = {
                "model": "writer",
                "messages": [{"role": "user", "content": "Who?"}],
                "max_tokens": 50_000,
                "stream": stream,
            }
            connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            if stream:
                assert connection.getresponse().readline().startswith(b"data: ")
            eventually(lambda: worker.batches.busy)
            connection.close()
            eventually(lambda: worker.idle and not worker.batches.busy)
        assert ask(server, max_tokens=2).choices[0].message.content == "and on and on"
        assert 'trice_tokens_total{kind="completion"} 2.0' in metrics(
            server
        )  # the others were never finished


def metrics(server: Server) -> str:
    text: str = client(server).with_options(base_url=server.url).get("/metrics", cast_to=str)
    return text


def test_a_time_limit_takes_rows_out(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = writes(tiny_model("llama"), tmp_path, "and on ", for_ever=True)
    with running(model, limits=Limits(max_new_tokens=50_000, timeout=0.5)) as server:
        with pytest.raises(openai.InternalServerError):
            ask(server, max_tokens=50_000, n=4)
        eventually(lambda: server.state.worker.idle and not server.state.worker.batches.busy)


def test_stopping_finishes_what_is_under_way_and_refuses_what_is_new(waiter: Callable[..., Any]) -> None:
    with waiter() as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server)
        eventually(lambda: serving_tools.runs)
        other = client(server)  # a connection that is open already
        server.close()
        with pytest.raises(openai.InternalServerError) as caught:
            other.chat.completions.create(model="writer", messages=[{"role": "user", "content": "a"}])
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"]
        assert other.with_options(base_url=server.url).get("/metrics", cast_to=str)
        serving_tools.go_on.set()
        assert first.result().choices[0].message.content == "NOW"


def test_the_thread_of_the_models_ends_before_the_server_does(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """What it does takes longer than the server waits for anything else."""
    model = writes(tiny_model("llama"), tmp_path, "slow(now)")
    with ThreadPoolExecutor(1) as pool:
        with running(model, task=tool_task(tmp_path, "serving_tools:slow")) as server:
            asked = pool.submit(ask, server)
            eventually(lambda: serving_tools.runs)
            threading.Timer(13.5, serving_tools.go_on.set).start()
        assert not server.state.worker.alive
        assert asked.exception()


def test_health_and_metrics(waiter: Callable[..., Any]) -> None:
    serving_tools.go_on.set()
    with waiter() as server:
        ask(server)
        with pytest.raises(openai.NotFoundError):
            ask(server, model="other")
        health = client(server).with_options(base_url=server.url).get("/health", cast_to=object)
        assert health == {"status": "ok", "waiting": 0, "under_way": 0}
        text = metrics(server)
        assert 'trice_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert 'trice_requests_total{route="/v1/chat/completions",status="404"} 1.0' in text
        assert 'trice_tool_calls_total{outcome="output",tool="wait"} 1.0' in text
        assert "trice_request_seconds_count 2.0" in text
        assert "trice_waiting 0.0" in text


def test_hundreds_of_requests_leave_nothing_behind(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("gemma3"), template="alpaca") as server, ThreadPoolExecutor(10) as pool:
        worker = server.state.worker

        def one(number: int) -> None:
            instruction = {"role": "system", "content": f"Be of kind {number % 25}."}
            question = {"role": "user", "content": f"What is {number}?"}
            choice = "none" if number % 3 == 0 else "auto"
            made.chat.completions.create(
                model="tiny-gemma3", messages=[instruction, question], max_tokens=4, tool_choice=choice
            )

        made = client(server)
        list(pool.map(one, range(40)))
        threads = threading.active_count()
        list(pool.map(one, range(200)))
        eventually(lambda: worker.idle)
        assert threading.active_count() <= threads
        assert len(worker.batches) <= 8
        assert worker.batches.allocated_rows() == 0
