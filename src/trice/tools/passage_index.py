"""A full-text index of passages, searched by BM25 over English word stems with tantivy.

An index is built once into a folder and searched in milliseconds, or built in memory for a few passages. Title and
text are searched as one field; accents and case are ignored, and a query is a list of words, not a query language.
The best passages by BM25 are ranked again by their sentences (`sentence_ranking`). Stems of other languages, phrases,
and additions to an existing index are not supported.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

from trice.errors import InputError, ToolError
from trice.progress import Progress, notice
from trice.storage.cache import make_once
from trice.storage.files import read_object, read_text, validate, write_text
from trice.storage.row_reader import records
from trice.tools import wikipedia_dump
from trice.tools.key_terms import key_terms
from trice.tools.sentence_ranking import CANDIDATES, RANKING_VERSION, bonus
from trice.types import Row

SQUAD = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:')
MANIFEST = "trice-index.json"  # written last, so that a folder with it is complete
INDEX_VERSION = 1  # version of the index format; others are refused
MAX_WORDS = 64  # of a query
HEAP = 256_000_000  # bytes that the writer buffers before it writes to disk
SMALL_HEAP = 15_000_000  # the least that tantivy accepts, for an index in memory
K1 = 1.2  # tantivy's BM25 constant
SEEK = 4  # entries of a posting list that are read in the time of one lookup; measured
# The k-th best score, relative to the rarest word's share in a passage of mean length; measured.
EXPECTED = 1.6


class Passage(NamedTuple):
    """A passage with an optional title."""

    title: str
    text: str

    @property
    def searched(self) -> str:
        """Title and text as one string, which is indexed."""
        return f"{self.title}. {self.text}" if self.title else self.text


class PassageRow(Row):
    """One line of a corpus: `{"title", "text"}`, the form of most published corpora."""

    title: str = ""
    text: str = ""


class Paragraph(BaseModel):
    context: str


class Article(BaseModel):
    title: str = ""
    paragraphs: list[Paragraph]


class Articles(BaseModel):
    """A file in SQuAD's form, of which only the texts are read."""

    data: list[Article]


def read_passages(path: Path, *, notify: bool = True) -> Iterator[Passage]:
    """The passages of a JSONL file or a Wikipedia dump (`*.xml.bz2`, `*.xml`), read as a stream, or the texts of a
    file in SQuAD's form (`*.json`), each with the title of its article.

    Args:
        path: The file.
        notify: Whether a notice says how many rows without text were skipped.

    Raises:
        InputError: If a line is not a passage, or a dump is damaged.
    """
    if is_dump(path):
        yield from itertools.starmap(Passage, wikipedia_dump.read_dump(path))
        return
    if _is_squad(path):
        for article in validate(Articles, read_object(path), str(path)).data:
            title = article.title.replace("_", " ")  # as in the addresses of Wikipedia
            yield from (Passage(title, each.context) for each in article.paragraphs if each.context.strip())
        return
    empty, first = 0, ""
    for where, value in records(path):
        if isinstance(value, dict) and "text" not in value:
            raise InputError(f"{where}: field 'text': Field required")
        row = validate(PassageRow, value, where)
        if row.text.strip():
            yield Passage(row.title, row.text)
        else:
            empty, first = empty + 1, first or where
    if empty and notify:
        notice(f"{path}: skipped {empty} passages without text, the first at {first}")


def _is_squad(path: Path) -> bool:
    """Whether a `.json` file begins as SQuAD's form does; else it has rows, as the files of `trice data` do."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return SQUAD.match(file.read(1000)) is not None


def is_dump(path: Path) -> bool:
    """Whether the file name is that of a Wikipedia dump."""
    return path.name.endswith(wikipedia_dump.SUFFIXES)


def build_index(passages: Iterable[Passage], folder: Path, total: int = 0) -> int:
    """Index passages into a new folder. A killed build leaves no folder of this name.

    Args:
        passages: The passages.
        folder: The folder to make.
        total: The number of passages if known, for the progress line.

    Returns:
        The number of passages.

    Raises:
        InputError: If the folder exists, or there are no passages.
    """
    if folder.exists() or not make_once(folder, partial(write_index, passages, total)):
        raise InputError(f"{folder}: already exists; remove it, or choose another folder")
    return _check(folder)


def write_index(passages: Iterable[Passage], total: int, folder: Path) -> None:
    """Make the index in `folder`, which must not exist. Raises InputError if there are no passages."""
    folder.mkdir()
    with Progress(f"index {folder.name}, passages", total) as progress:
        count = _add(_open(folder), _counted(passages, progress), HEAP)
    if not count:
        raise InputError(f"{folder.name}: no passages to index")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if _is_index_file(path)}
    manifest = {"form": INDEX_VERSION, "passages": count, "files": sizes}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _counted(passages: Iterable[Passage], progress: Progress) -> Iterator[Passage]:
    for passage in passages:
        yield passage
        progress.advance(1)


def _add(engine: Any, passages: Iterable[Passage], heap: int) -> int:
    """Write passages into an empty tantivy index; the number of passages."""
    tantivy = _tantivy()
    writer = engine.writer(heap_size=heap, num_threads=1)  # several threads would reorder equal scores
    count = 0
    for passage in passages:
        document = tantivy.Document(searched=passage.searched)
        document.add_bytes("title", passage.title.encode())
        document.add_bytes("text", passage.text.encode())
        writer.add_document(document)
        count += 1
    writer.commit()
    writer.wait_merging_threads()
    return count


class PassageIndex:
    """The index in `folder`, or one in memory (`in_memory`). Raises InputError if the folder holds no index, or a
    damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passages = _check(folder)
        try:
            self._use(_open(folder))
        except (ValueError, OSError) as error:
            raise _damaged(folder, str(error)) from None

    @classmethod
    def in_memory(cls, passages: Sequence[Passage]) -> Self:
        """An index of a few passages, which is not stored."""
        index = cls.__new__(cls)
        index.folder, index.passages = Path("memory"), len(passages)
        engine = _open(None)
        _add(engine, passages, SMALL_HEAP)
        engine.reload()
        index._use(engine)
        return index

    def _use(self, engine: Any) -> None:
        tantivy = _tantivy()
        self._engine, self._searcher = engine, engine.searcher()
        self._analyse, self._query, self._occur = analyser().analyze, tantivy.Query, tantivy.Occur
        self._address = tantivy.DocAddress

    @property
    def version(self) -> str:
        """Identifies the content of the index, even if another one replaces it in the same folder, and the ranking."""
        return f"{self.content} {RANKING_VERSION}"

    @property
    def content(self) -> str:
        """Identifies the content alone."""
        return hashlib.sha256(read_text(self.folder / MANIFEST).encode()).hexdigest()

    def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages for the words of `query`, best first; none if no passage has any of the words.

        A repeated word counts once. Raises ToolError for a query without words."""
        words, weights = self._analyse(query), self._weights(key_terms(query) or query)

        def score(hit: tuple[float, Passage]) -> float:
            by_bm25, (title, text) = hit
            return by_bm25 + bonus(title, text, words, weights, self._analyse)

        hits = self._found(query, max(k, CANDIDATES))
        found = [(by_bm25, self._passage(address)) for by_bm25, address in hits]
        return [passage for _, passage in sorted(found, key=score, reverse=True)[:k]]

    def numbers(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` best passages by BM25 alone, counted from 0 in the order of the index."""
        return [self._first[address.segment_ord] + address.doc for _, address in self._found(query, k)]

    def _weights(self, text: str) -> dict[str, float]:
        """The words of a text that the index has, with their inverse document frequencies."""
        counts = {word: self._searcher.doc_freq("searched", word) for word in self._analyse(text)[:MAX_WORDS]}
        return {word: _idf(count, self.passages) for word, count in counts.items() if count}

    def passage(self, number: int) -> Passage:
        """The passage with a number."""
        segment = bisect.bisect(self._first, number) - 1
        return self._passage(self._address(segment, number - self._first[segment]))

    @cached_property
    def _first(self) -> list[int]:
        """The number of each segment's first passage. tantivy reports no sizes of segments, so they are counted."""
        everything = self._searcher.search(self._query.all_query(), self.passages, count=False).hits
        sizes = Counter(address.segment_ord for _, address in everything)
        return [0, *itertools.accumulate(sizes[segment] for segment in range(len(sizes) - 1))]

    def _passage(self, address: Any) -> Passage:
        try:
            document = self._searcher.doc(address)
        except (ValueError, OSError) as error:
            raise _damaged(self.folder, str(error)) from None
        return Passage(*(_text(document, field) for field in Passage._fields))

    def _found(self, query: str, k: int) -> list[tuple[float, Any]]:
        """Scores and addresses of the best passages by BM25."""
        words = dict.fromkeys(self._analyse(query)[:MAX_WORDS])
        if not words:
            raise ToolError("the query has no words")
        try:
            return self._best(words, k)
        except (ValueError, OSError) as error:  # a list of words is always a valid query
            raise _damaged(self.folder, str(error)) from None

    def _best(self, words: Iterable[str], k: int) -> list[tuple[float, Any]]:
        """Scores and addresses of the `k` best passages.

        Reading the long posting lists of words such as `the` would take most of the time. So passages with a rarer
        word are scored first. They suffice if the k-th of them scores higher than the common words alone can
        (the idea of MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", 1995)."""
        counts = {word: self._searcher.doc_freq("searched", word) for word in words}
        known = sorted(filter(counts.get, counts), key=lambda word: -counts[word])
        common, most = _split([counts[word] for word in known], self.passages, k)
        found = self._ranked(known, common, k)
        if common and (len(found) < k or found[-1][0] <= most):
            found = self._ranked(known, 0, k)
        return found

    def _ranked(self, words: list[str], common: int, k: int) -> list[tuple[float, Any]]:
        """The best passages with a word beyond the first `common` of `words`, by their scores for all words."""
        if not words:
            return []
        query, occur, schema = self._query, self._occur, self._engine.schema
        terms = [query.term_query(schema, "searched", word, "freq") for word in words]
        whole = query.boolean_query([(occur.Should, term) for term in terms[common:]])
        for term in terms[:common]:  # one at a time, since tantivy would read a group of them completely
            whole = query.boolean_query([(occur.Must, whole), (occur.Should, term)])
        hits: list[tuple[float, Any]] = self._searcher.search(whole, k, count=False).hits
        return hits


def _split(counts: list[int], passages: int, k: int) -> tuple[int, float]:
    """How many of the most frequent words are better looked up than read, and the most they can add to a score
    (BM25's bound: (k1 + 1) · idf). `counts` are the words' frequencies in falling order.

    The result is the cheapest split of those whose `k` best passages are expected to score higher than that."""
    idf = [_idf(count, passages) for count in counts]
    expected = EXPECTED * max(
        (value for value, count in zip(idf, counts, strict=True) if count >= k), default=0.0
    )
    rest, most, best = sum(counts), 0.0, (float(sum(counts)), 0, 0.0)
    for common, (count, value) in enumerate(zip(counts, idf, strict=True), start=1):
        rest, most = rest - count, most + (K1 + 1) * value
        if rest and most < expected:
            best = min(best, (rest * (1 + SEEK * common), common, most))
    return best[1], best[2]


def _idf(count: int, passages: int) -> float:
    """The inverse document frequency of BM25, of a word that `count` of the passages have."""
    return math.log(1 + (passages - count + 0.5) / (count + 0.5))


def _text(document: Any, field: str) -> str:
    return bytes(document.get_first(field)).decode()


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError:
        raise InputError("searching needs the extra 'search': pip install 'trice-rlef[search]'") from None
    return tantivy


def _open(folder: Path | None) -> Any:
    """tantivy's index in a folder, created if the folder is empty; without a folder, one in memory."""
    tantivy = _tantivy()
    schema = tantivy.SchemaBuilder()
    for stored in ("title", "text"):  # as bytes, since tantivy indexes every stored text
        schema.add_bytes_field(stored, stored=True)
    schema.add_text_field("searched", tokenizer_name="words", index_option="freq")
    engine = tantivy.Index(schema.build(), path=str(folder)) if folder else tantivy.Index(schema.build())
    engine.register_tokenizer("words", analyser())
    return engine


def analyser() -> Any:
    """The analyser that turns a text into searched words: lower case, without accents, English stems."""
    tantivy = _tantivy()
    words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    return words.filter(tantivy.Filter.ascii_fold()).filter(tantivy.Filter.stemmer("english")).build()


def _is_index_file(path: Path) -> bool:
    return path.is_file() and not path.name.endswith(".lock")


def _check(folder: Path) -> int:
    """The number of passages by the manifest of an index. Raises InputError unless all its files are there."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: there is no index in this folder; make one with `trice data index`")
    try:
        manifest = json.loads(read_text(path))
        form, count, files = manifest["form"], int(manifest["passages"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(folder, f"{MANIFEST} is not valid") from None
    if form != INDEX_VERSION:
        raise InputError(
            f"{folder}: the index has format {form}, but this version reads {INDEX_VERSION}; build it again"
        )
    for name, size in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise _damaged(folder, f"{name} is missing or has another size")
    return count


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder}: the index is damaged ({reason}); remove the folder and build it again")
