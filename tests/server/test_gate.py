"""Who is let in: keys, names and origins; what browsers are told; what is refused before it begins."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from serving import ask, client, lora, running, writes

from tiny import command
from trice.server.auth import Auth, is_loopback, page_policy
from trice.server.schema import Refused
from trice.server.startup import Access


def get(url: str, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_a_key_is_asked_for(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama"), keys=["first-key", "second-key"]) as server:
        for key in ("first-key", "second-key"):
            assert ask(server, key=key, max_tokens=2).choices
        for key in ("first-ke", "none"):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask(server, key=key)
            assert caught.value.code == "invalid_api_key"
        for path, status in (
            ("/", 200),
            ("/health", 200),
            ("/metrics", 401),
            ("/v1/models", 401),
            ("/x", 401),
        ):
            assert get(server.url, path).status == status
        assert get(server.url, "/v1/models", authorization="Bearer second-key").status == 200
        assert get(server.url, "/v1/models", authorization="Basic second-key").status == 401


def test_pages_of_others_cannot_use_it(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama")) as server:
        port = urlsplit(server.url).port
        host = f"127.0.0.1:{port}"
        assert get(server.url, "/v1/models", origin=f"http://{host}").status == 200
        for origin in ("http://evil.example", f"http://localhost:{port}", "null", "http://127.0.0.1"):
            assert get(server.url, "/v1/models", origin=origin).status == 403
        assert get(server.url, "/v1/models", host=f"localhost:{port}").status == 200
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::", ""):
            assert get(server.url, "/v1/models", host=name).status in (400, 403)  # 400: no name at all
        reply = get(server.url, "/v1/models")
        assert reply.getheader("access-control-allow-origin") is None
        assert reply.getheader("x-content-type-options") == "nosniff"


@pytest.mark.parametrize(
    ("access", "url", "allowed"),
    [
        (Access("127.0.0.2", 0), "http://127.0.0.2", ()),
        (
            Access("127.0.0.1", 0, hosts=("tools.example",)),
            "http://127.0.0.1",
            ("tools.example", "LOCALHOST"),
        ),
        (Access("0.0.0.0", 0, hosts=("Tools.example",)), "http://127.0.0.3", ("tools.example",)),
        (Access("::1", 0, hosts=("tools.example",)), "http://[::1]", ("[0:0::1]", "tools.example")),
    ],
)
def test_the_servers_own_address_is_always_allowed(
    tiny_model: Callable[[str], Path], access: Access, url: str, allowed: tuple[str, ...]
) -> None:
    with running(tiny_model("llama"), access=access, keys=["k"]) as server:
        at = f"{url}:{urlsplit(server.url).port}"
        assert get(at, "/health").status == 200
        assert get(at, "/health", origin=at).status == 200
        for name in allowed:
            assert get(at, "/health", host=name).status == 200
        for name in ("evil.example", "10.1.2.3", f"{url[7:]}.evil.example", f"evil@{url[7:]}"):
            assert get(at, "/health", host=name).status in (400, 403)


def test_other_names_can_be_allowed() -> None:
    auth = Auth((), ("localhost", "tools.example"))
    auth.check("/v1/models", "Tools.example", "https://tools.example", None)
    with pytest.raises(Refused):
        auth.check("/v1/models", "other.example", None, None)
    Auth((), ()).check("/v1/models", "any.example", None, None)


def test_the_page_may_run_its_own_scripts_alone(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama")) as server:
        reply = get(server.url, "/")
        policy = reply.getheader("content-security-policy") or ""
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    # the digest of the script `1`: printf 1 | openssl dgst -sha256 -binary | base64
    digest = "a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s="
    assert f"script-src 'sha256-{digest}';" in page_policy("<script>1</script>")
    assert "style-src 'none'" in page_policy("<script>1</script>")


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com", "")))


def test_what_does_not_fit_is_one_line(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    monkeypatch.delenv("TRICE_SERVE_KEYS", raising=False)

    def line(*words: object) -> str:
        code, _, lines = command(capsys, "serve", "--model", model, *words)
        assert (code, len(lines)) == (2, 1), lines
        return lines[0]

    assert "set TRICE_SERVE_KEYS, give --keys-file, or allow it with --allow-anyone" in line(
        "--host", "0.0.0.0"
    )
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    keys.chmod(0o644)
    assert "others can read these keys" in line("--keys-file", keys)
    keys.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = line("--port", port, "--keys-file", keys)
        assert f"--port {port}: cannot be used (Address already in use)" in told
        assert "secret" not in told
    for name in ("a/same", "b/same"):
        lora(model, tmp_path / name, 0)
    told = line("--task", "math", "--adapter", tmp_path / "a/same", "--adapter", tmp_path / "b/same")
    assert "a/same and " in told
    assert "b/same: both would be served as 'same'" in told
    assert "unknown task 'maths'" in line("--task", "maths", "--port", 0)


def test_it_says_where_it_is_and_stops_at_a_signal(tiny_model: Callable[[str], Path]) -> None:
    words = ["serve", "--model", str(tiny_model("llama")), "--port", "0", "--device", "cpu"]
    environment = os.environ | {"TRICE_SERVE_KEYS": "a-secret-key"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trice", *words],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert "tiny-llama at http://127.0.0.1:" in lines[0]
        assert lines[1] == "keys: 1 from TRICE_SERVE_KEYS\n"
        url = lines[0].split(" at ")[1].split("/v1")[0]
        end = time.monotonic() + 30
        while True:
            try:
                reply = get(url, "/v1/models", authorization="Bearer a-secret-key")
                break
            except OSError:
                assert time.monotonic() < end
        assert reply.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        rest = process.stderr.read()
        assert rest.startswith("stopping")
        assert "secret" not in "".join(lines) + rest
    finally:
        process.kill()


def test_a_second_signal_stops_it_at_once_and_without_a_traceback(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = writes(tiny_model("llama"), tmp_path, "and on ", for_ever=True)
    words = ["serve", "--model", str(model), "--port", "0", "--device", "cpu", "--max-new-tokens", "90000"]
    process = subprocess.Popen([sys.executable, "-m", "trice", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("serving"), line
        url = line.split(" at ")[1].split("/v1")[0]
        body = {"model": "writer", "messages": [{"role": "user", "content": "a"}], "max_tokens": 90000}
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}))
        assert connection.getresponse().status == 200
        said = iter(process.stderr.readline, "")
        process.send_signal(signal.SIGINT)
        assert next(line for line in said if line.startswith("stopping")).endswith("again to stop now\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(25) == 0  # running requests would have 30 seconds
        rest = "".join(said)
        assert rest.startswith("stopped\n")
        assert "Traceback" not in rest
    finally:
        process.kill()


@pytest.mark.parametrize("task", [None, "conversation"])
def test_it_says_which_tools_are_not_the_clients(
    tiny_model: Callable[[str], Path], tmp_path: Path, task: str | None
) -> None:
    """An adapter of the format chat brings its task, and with it the task's tools."""
    model = tiny_model("llama")
    adapter = lora(model, tmp_path / "adapter", 0)
    record = {"stage": "clone", "model": str(model), "format": "chat", "task": "math"}
    (adapter / "trice.json").write_text(json.dumps(record), encoding="utf-8")
    words = ["serve", "--adapter", str(adapter), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trice", *words, *(["--task", task] if task else [])],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split(" at ")[1].split("/v1")[0]
        end = time.monotonic() + 60
        while True:
            try:
                (served,) = json.loads(get(url, "/v1/tasks").read())["data"]
                break
            except OSError:  # it is not there yet, or still loads the model
                assert time.monotonic() < end
                time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()  # `communicate` would leave out what `readline` has buffered
    finally:
        process.kill()
    tools = [tool["name"] for tool in served["tools"]]
    assert tools == ([] if task else ["calculator"])
    line = "tools: calculator of task math and those of the clients; with --task conversation those of the "
    assert (line in rest) is bool(tools)


def test_a_client_has_no_other_way_in(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama"), keys=["k"]) as server, pytest.raises(openai.AuthenticationError):
        client(server).models.list()
