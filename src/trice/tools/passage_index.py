"""A full-text index of passages on disk: built once, searched in milliseconds by BM25 over English word stems.

The engine is tantivy. Title and text are searched as one; accents and case do not count, and a query is words, not
a query language. Does not cover other languages' stems, phrases, or adding to an index that is there.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError, ToolError
from trice.progress import Progress, notice
from trice.storage.cache import make_once
from trice.storage.files import read_text, validate, write_text
from trice.storage.row_reader import records
from trice.tools import wikipedia_dump
from trice.types import Row

MANIFEST = "trice-index.json"  # written last: a folder with it is whole
FORM = 1  # of the index; another one is refused
MAX_WORDS = 64  # of a query
HEAP = 256_000_000  # bytes the writer may hold before it goes to disk
K1 = 1.2  # of the engine's BM25
SEEK = 4  # entries of a word's list that could be read while one passage is looked up in it; measured
HOPED = 1.6  # times what the rarest word gives a passage of mean length: the k-th best's score; measured


class Passage(NamedTuple):
    """One passage as it is found."""

    title: str
    text: str

    @property
    def searched(self) -> str:
        """Title and text as one."""
        return f"{self.title}. {self.text}" if self.title else self.text


class PassageRow(Row):
    """One line of a corpus: `{"title", "text"}`, as most published corpora have it."""

    title: str = ""
    text: str = ""


def read_passages(path: Path, *, told: bool = False) -> Iterator[Passage]:
    """The passages of a JSONL file or a Wikipedia dump (`*.xml.bz2`, `*.xml`), one at a time, however large it is.
    Rows without text are skipped, with a notice of how many unless that is `told` already.

    Raises InputError for a line that does not fit, and for a damaged dump."""
    if is_dump(path):
        yield from itertools.starmap(Passage, wikipedia_dump.read_dump(path))
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
    if empty and not told:
        notice(f"{path}: skipped {empty} passages without text, the first at {first}")


def is_dump(path: Path) -> bool:
    """Whether a file is a Wikipedia dump, by its name."""
    return path.name.endswith(wikipedia_dump.SUFFIXES)


def build_index(passages: Iterable[Passage], folder: Path, total: int = 0) -> int:
    """Index `passages` into `folder`, which must not be there yet; returns how many.

    What a kill leaves lies beside the folder under another name, and is cleared by the next try. `total`, if known,
    is for the progress line. Raises InputError where the folder is taken or there is nothing to index.
    """
    if folder.exists() or not make_once(folder, partial(write_index, passages, total)):
        raise InputError(f"{folder}: is there already; remove it, or choose another folder")
    return _check(folder)


def write_index(passages: Iterable[Passage], total: int, folder: Path) -> None:
    """Make the index in `folder`, a new one. Raises InputError where there is nothing to index."""
    tantivy = _tantivy()
    folder.mkdir()
    engine = _open(tantivy, folder)
    writer = engine.writer(heap_size=HEAP, num_threads=1)  # more would shuffle the passages, and so what ties
    with Progress(f"index {folder.name}, passages", total) as progress:
        for passage in passages:
            document = tantivy.Document(searched=passage.searched)
            document.add_bytes("title", passage.title.encode())
            document.add_bytes("text", passage.text.encode())
            writer.add_document(document)
            progress.advance(1)
    if not progress.done:
        raise InputError(f"{folder.name}: no passages to index")
    writer.commit()
    writer.wait_merging_threads()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if _lasting(path)}
    write_text(
        folder / MANIFEST,
        json.dumps({"form": FORM, "passages": progress.done, "files": sizes}, indent=1) + "\n",
    )


class PassageIndex:
    """The index in `folder`. Raises InputError where there is none, or a damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passages = _check(folder)
        tantivy = _tantivy()
        try:
            self._engine = _open(tantivy, folder)
            self._searcher = self._engine.searcher()
            self._analyse, self._query, self._occur = analyser().analyze, tantivy.Query, tantivy.Occur
            self._address = tantivy.DocAddress
        except (ValueError, OSError) as error:
            raise _damaged(folder, str(error)) from None

    @property
    def version(self) -> str:
        """What tells this index from another one, even in the same folder."""
        return hashlib.sha256(read_text(self.folder / MANIFEST).encode()).hexdigest()

    def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages for the words of `query`, best first; none where no word is found.

        A word counts once, however often it is asked for. Raises ToolError for a query without words."""
        return [self._passage(address) for address in self._found(query, k)]

    def numbers(self, query: str, k: int) -> list[int]:
        """The same passages as `search` gives, by their numbers from 0 in the index's own order."""
        return [self._first[address.segment_ord] + address.doc for address in self._found(query, k)]

    def passage(self, number: int) -> Passage:
        """The passage with a number."""
        segment = bisect.bisect(self._first, number) - 1
        return self._passage(self._address(segment, number - self._first[segment]))

    @cached_property
    def _first(self) -> list[int]:
        """The number of each segment's first passage. The engine tells segments' sizes only by their passages."""
        everything = self._searcher.search(self._query.all_query(), self.passages, count=False).hits
        sizes = Counter(address.segment_ord for _, address in everything)
        return [0, *itertools.accumulate(sizes[segment] for segment in range(len(sizes) - 1))]

    def _passage(self, address: Any) -> Passage:
        try:
            document = self._searcher.doc(address)
        except (ValueError, OSError) as error:
            raise _damaged(self.folder, str(error)) from None
        return Passage(*(_text(document, kept) for kept in Passage._fields))

    def _found(self, query: str, k: int) -> list[Any]:
        """Addresses of the best passages."""
        words = dict.fromkeys(self._analyse(query)[:MAX_WORDS])
        if not words:
            raise ToolError("the query has no words")
        try:
            return [address for _, address in self._best(words, k)]
        except (ValueError, OSError) as error:  # no query is an invalid one: words are looked up
            raise _damaged(self.folder, str(error)) from None

    def _best(self, words: Iterable[str], k: int) -> list[tuple[float, Any]]:
        """Scores and addresses of the `k` best passages.

        Reading the long lists of words such as `the` would take most of the time. So only passages with a rarer
        word are scored first; that suffices if the k-th of them has more than the common words alone can give
        (the idea of MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", 1995)."""
        counts = {word: self._searcher.doc_freq("searched", word) for word in words}
        known = sorted(filter(counts.get, counts), key=lambda word: -counts[word])
        common, most = _split([counts[word] for word in known], self.passages, k)
        found = self._ranked(known, common, k)
        if common and (len(found) < k or found[-1][0] <= most):
            found = self._ranked(known, 0, k)
        return found

    def _ranked(self, words: list[str], common: int, k: int) -> list[tuple[float, Any]]:
        """The best of the passages that have one of `words` beyond the first `common`, by their scores for all."""
        if not words:
            return []
        query, occur, schema = self._query, self._occur, self._engine.schema
        terms = [query.term_query(schema, "searched", word, "freq") for word in words]
        whole = query.boolean_query([(occur.Should, term) for term in terms[common:]])
        for term in terms[:common]:  # one by one: a group of them would be read through
            whole = query.boolean_query([(occur.Must, whole), (occur.Should, term)])
        hits: list[tuple[float, Any]] = self._searcher.search(whole, k, count=False).hits
        return hits


def _split(counts: list[int], passages: int, k: int) -> tuple[int, float]:
    """How many of the most frequent words, whose `counts` fall, are best left to be looked up, and the most they
    can add to a score (BM25's bound: (k1 + 1) · idf).

    The cheapest split wins, among those where the `k` best can be hoped to have more than that."""
    idf = [math.log(1 + (passages - count + 0.5) / (count + 0.5)) for count in counts]
    hoped = HOPED * max((value for value, count in zip(idf, counts, strict=True) if count >= k), default=0.0)
    rest, most, best = sum(counts), 0.0, (float(sum(counts)), 0, 0.0)
    for common, (count, value) in enumerate(zip(counts, idf, strict=True), start=1):
        rest, most = rest - count, most + (K1 + 1) * value
        if rest and most < hoped:
            best = min(best, (rest * (1 + SEEK * common), common, most))
    return best[1], best[2]


def _text(document: Any, field: str) -> str:
    return bytes(document.get_first(field)).decode()


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError:
        raise InputError("searching needs the extra 'search': pip install 'trice-rlef[search]'") from None
    return tantivy


def _open(tantivy: Any, folder: Path) -> Any:
    """The engine's index in a folder, made where it is empty, with our way to cut texts into words."""
    schema = tantivy.SchemaBuilder()
    for kept in ("title", "text"):  # as bytes, since whatever is kept as text is indexed too
        schema.add_bytes_field(kept, stored=True)
    schema.add_text_field("searched", tokenizer_name="words", index_option="freq")
    engine = tantivy.Index(schema.build(), path=str(folder))
    engine.register_tokenizer("words", analyser())
    return engine


def analyser() -> Any:
    """What cuts a text into the words that are searched: lower case, without accents, English stems."""
    tantivy = _tantivy()
    words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    return words.filter(tantivy.Filter.ascii_fold()).filter(tantivy.Filter.stemmer("english")).build()


def _lasting(path: Path) -> bool:
    return path.is_file() and not path.name.endswith(".lock")


def _check(folder: Path) -> int:
    """How many passages a whole index holds, by its manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no index is here; make one with `trice data index`")
    try:
        manifest = json.loads(read_text(path))
        form, count, files = manifest["form"], int(manifest["passages"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(folder, f"{MANIFEST} does not read") from None
    if form != FORM:
        raise InputError(
            f"{folder}: an index of form {form}, where this version reads {FORM}; build it again"
        )
    for name, size in files.items():
        there = folder / name
        if not there.is_file() or there.stat().st_size != size:
            raise _damaged(folder, f"{name} is missing or has another size")
    return count


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder}: the index is damaged ({reason}); remove the folder and build it again")
