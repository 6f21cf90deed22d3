"""Replies without a usable text, and refusals: each is asked for once, and the server's own message is quoted."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from stand_in_server import StandIn
from test_endpoint import KEYS, ask

from tiny import command, read, sums
from trice.errors import InputError, TriceError
from trice.models.endpoint import Endpoint

LONG = "too rude \n" * 200


def reply(finish: str = "stop", **message: Any) -> str:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | message}
    return json.dumps({"id": "x", "choices": [choice]})


def calls(name: str, arguments: object) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


UNUSABLE = {
    "the server's content filter ended the reply": reply("content_filter", content=""),
    "the model wrote reasoning and no answer (finish_reason length); "
    "allow more new tokens, or turn off its thinking": reply("length", content=None, reasoning_content="Hm"),
    "the model refused: I cannot do that.": reply(content=None, refusal="I cannot\ndo that."),
    "the reply holds no text (finish_reason stop)": reply(content=None),
    "the reply has no choices": '{"choices": []}',
    "the reply holds a tool call that cannot be read: no tool was offered": reply(
        "tool_calls", **calls("calculator", '{"expression": "1+2"}')
    ),
    "the reply holds a tool call without a name, or whose arguments are not a JSON object": reply(
        "tool_calls", **calls("calculator", '{"expression": ')
    ),
    "error 400 in a reply with HTTP status 200: This model's maximum context length is 8": json.dumps(
        {"error": {"message": "This model's maximum context length is 8", "code": 400}}
    ),
    "HTTP 400: flagged": '400 {"error": {"message": "flagged", "code": "content_filter"}}',
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_reply_without_usable_text_is_asked_for_once_and_fails_alone(reason: str) -> None:
    with StandIn(script={"q": [UNUSABLE[reason]] * 9}) as server:
        texts, failures = ask(Endpoint(server.url, "m"), ["q", "a"])
    assert failures == [(0, reason)]
    assert texts == {1: ["A"]}
    assert len(server.times("q")) == 1


STOPPING = {
    "an error in a reply with HTTP status 200: the model is not loaded": '{"error": "the model is not loaded"}',
    "an error in a reply with HTTP status 200: " + " ".join(LONG.split())[:200]: json.dumps(
        {"error": {"message": LONG}}
    ),
    "the reply is a web page, 'Sign in', and not JSON; check the URL": "<html><title>Sign in</title></html>",
    'the reply is not a completion, but {"response": "4"}; check the URL': '{"response": "4"}',
    "HTTP 400: a web page, 'Bad'": "400 <html><title>Bad</title></html>",
    "HTTP 404: The model `m` does not exist": '404 {"error": {"message": "The model `m` does not exist"}}',
    "HTTP 400: no such model": '400 {"error": {"message": "no such model", "code": "model_not_found"}}',
    "no key was accepted; the server wants a key: set TRICE_API_KEYS or the key file "
    "(HTTP 401: Incorrect key [key])": '401 {"error": {"message": "Incorrect key sk-ab**cd."}}',
    "no key was accepted; the server wants a key: set TRICE_API_KEYS or the key file "
    "(HTTP 403: Not for you)": '403 {"error": {"message": "Not for you"}}',
    "no key was accepted; the server wants a key: set TRICE_API_KEYS or the key file "
    "(HTTP 429: You exceeded your quota)": (
        '429 {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    ),
}


@pytest.mark.parametrize("reason", STOPPING)
def test_what_would_fail_for_every_request_stops_the_run_and_quotes_the_server(reason: str) -> None:
    with StandIn(script={"q": [STOPPING[reason]] * 99}) as server, pytest.raises(TriceError) as caught:
        ask(Endpoint(server.url, "m"), ["q"] * 50)
    assert str(caught.value) == f"{server.url}: {reason}"
    assert len(server.seen) <= 4  # those that were under way at the first


@pytest.mark.parametrize(
    "status",
    ['{"error": {"message": "busy", "code": 429}}', '{"error": {"type": "rate_limit_error"}}', "half"],
)
def test_what_a_retry_can_mend_is_tried_again(status: str) -> None:
    with StandIn(script={"q": [status]}) as server:
        texts, failures = ask(Endpoint(server.url, "m"), ["q"])
    assert not failures
    assert texts == {0: ["Q"]}
    assert len(server.seen) == 2


def test_an_embedded_rate_limit_waits_as_the_server_asks() -> None:
    body = '{"error": {"message": "busy", "type": "rate_limit_exceeded"}}'
    with StandIn(script={"q": [f"200 {body}"]}) as server:
        texts, _ = ask(Endpoint(server.url, "m"), ["q"])
    first, second = server.times("q")
    assert texts == {0: ["Q"]}
    assert second - first >= 0.05


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (reply(content=[{"type": "text", "text": "a "}, {"type": "text", "text": "list"}]), "a list"),
        (reply(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "4"}]), "4"),
        (reply(content="half \ud800 a pair, \U0001f600"), "half \ufffd a pair, \U0001f600"),
        (reply(content=""), ""),
        (reply(content="4", refusal="", reasoning_content="2+2"), "4"),
    ],
)
def test_texts_of_every_form_are_read(body: str, text: str) -> None:
    with StandIn(script={"q": [body]}) as server:
        assert ask(Endpoint(server.url, "m"), ["q"]) == ({0: [text]}, [])
    assert len(server.seen) == 1


def test_of_several_samples_the_usable_ones_are_kept() -> None:
    whole = json.loads(reply(content="yes"))
    whole["choices"].append(json.loads(reply("content_filter", content=None))["choices"][0])
    with StandIn(script={"q": [json.dumps(whole)]}) as server:
        texts, failures = ask(Endpoint(server.url, "m"), ["q"], samples=2)
    assert texts == {0: ["yes"]}
    assert failures == [(0, "the server's content filter ended the reply")]
    assert len(server.seen) == 1


def test_fields_that_a_server_refuses_are_replaced_once(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(unsupported=["max_tokens", "temperature"]) as server:
        endpoint = Endpoint(server.url, "m")
        texts, failures = ask(endpoint, ["a"], max_tokens=7)
        assert len(server.seen) == 3
        ask(endpoint, ["b", "c"], max_tokens=7)
    assert not failures
    assert texts == {0: ["A"]}
    assert len(server.seen) == 5
    assert all(seen.body["max_completion_tokens"] == 7 for seen in server.seen[1:])
    assert not {"max_tokens", "temperature"} & server.seen[-1].body.keys()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        f"{server.url}: refuses max_tokens; trice sends max_completion_tokens instead",
        f"{server.url}: refuses temperature; trice omits it",
    ]


def test_a_setting_leaves_out_the_temperature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = sums(tmp_path / "S.json", 1)
    with StandIn() as server:
        words = ["collect", "--origin", "gpt", "--data", data, "--output", tmp_path, "--endpoint", server.url]
        words += ["--model", "m", "endpoint.send_temperature=false"]
        code, *_ = command(capsys, *words)
    assert code == 0
    assert "temperature" not in server.seen[0].body


def test_a_call_of_an_offered_tool_is_written_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = sums(tmp_path / "S.json", 3), tmp_path / "math_gpt_response.json"
    script = {
        "0 and": [reply("tool_calls", **calls("calculator", '{"expression": "0+7"}'))],
        "1 and": [reply("tool_calls", **calls("browser", {"url": "x"}))],
        "2 and": [
            reply("tool_calls", **calls("calculator", {"expression": "2+7"}) | {"content": "Let me see:"})
        ],
    }
    with StandIn(script=script) as server:
        words = ["collect", "--origin", "gpt", "--data", data, "--output", tmp_path, "--endpoint", server.url]
        _, _, lines = command(capsys, *words, "--model", "m")
        label = ["label", "--teacher", "endpoint", "--endpoint", server.url, "--model", "m", "--data", data]
        server.script["0 and"] = [reply("tool_calls", **calls("calculator", {"expression": "0+7"}))]
        assert command(capsys, *label, "--output", tmp_path / "labels.json", "--retries", "0")[0] == 0
    assert [row["response"] for row in read(output)] == ["calculator(0+7)", "Let me see:\ncalculator(2+7)"]
    assert "no response: the reply holds a tool call that cannot be read: 'browser' is not a tool" in "".join(
        lines
    )
    assert [row["output"] for row in read(tmp_path / "labels.json")] == ["calculator(0+7)"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_a_proxy_in_the_way_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, proxy)
    with StandIn() as server:
        line = (
            "the server cannot be reached (through the proxy of {}; NO_PROXY=127.0.0.1 connects without it)"
        )
        with pytest.raises(TriceError) as caught:
            ask(Endpoint(server.url, "m", attempts=2), ["a"])
        assert str(caught.value) == f"{server.url}: {line.format(variable)}"
        assert not server.seen
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask(Endpoint(server.url, "m"), ["a"]) == ({0: ["A"]}, [])
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv(variable, "nonsense://me:secret@proxy:1")
        with pytest.raises(InputError, match=f"^{variable} is not a proxy that can be used") as refused:
            ask(Endpoint(server.url, "m"), ["a"])
    assert "secret" not in f"{caught.value}{refused.value}"


def test_a_page_of_the_proxy_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with StandIn(script={"q": ["400 <html><title>Not allowed</title></html>"] * 9}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        with pytest.raises(
            TriceError, match=r"HTTP 400: a web page, 'Not allowed' \(through the proxy of http_p"
        ):
            ask(Endpoint("http://nowhere.invalid/v1", "m", KEYS), ["q"])
    assert len(proxy.seen) == 1
