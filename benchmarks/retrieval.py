"""How often WikiSearch's passages hold an answer: today's default and every alternative that a user can get.

recall@k is the share of questions for which an accepted answer occurs as whole words in the first k passages, as the
tool returns them. `any` is the share whose answer occurs in any passage of the corpus, the ceiling. The questions are
500 each of WebQuestions, NQ-open and TriviaQA (the train part for tuning, the test part for reporting), and the starter
questions. Rows named `exact` are computed here in numpy, for settings that the index does not have. Dense rows need
`pip install 'trice-rlef[dense]'`; their vectors are computed on the first run, in about ten
minutes of one core.

    TRICE_DATA=… python benchmarks/retrieval.py --part train
    TRICE_DATA=… python benchmarks/retrieval.py --part test
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trice.datasets.starter_facts import QA
from trice.tools.answer_matching import contains_answer, words
from trice.tools.dense_retrieval import PACKAGE, DenseRetriever
from trice.tools.key_terms import COMMON, key_terms
from trice.tools.passage_index import Passage, PassageIndex, analyser
from trice.tools.wikisearch import format_passage, summaries_index

DEPTHS = (1, 2, 5, 20)
FILES = {
    "train": {
        "WebQuestions": "webquestions/trainmodel.json",
        "NQ-open": "nq_open/nq_train_part_dprdev.jsonl",
        "TriviaQA": "triviaqa/trivia_dev.sample4000.jsonl",
    },
    "test": {
        "WebQuestions": "webquestions/test.json",
        "NQ-open": "nq_open/NQ-open.dev.jsonl",
        "TriviaQA": "triviaqa/trivia_test.sample4000.jsonl",
    },
}
Search = Callable[[str, int], list[Passage]]


class Asked(NamedTuple):
    text: str
    answers: list[str]

    @property
    def terms(self) -> str:
        return key_terms(self.text) or self.text


def questions(part: str, count: int) -> dict[str, list[Asked]]:
    """The questions of each set, drawn with seed 0."""
    data, sets = Path(os.environ["TRICE_DATA"]), {}
    for name, file in FILES[part].items():
        text = (data / file).read_text(encoding="utf-8")
        rows = (
            json.loads(text)
            if file.endswith(".json")
            else [json.loads(line) for line in text.split("\n") if line]
        )
        found = [
            Asked(row.get("qText") or row["question"], row.get("answers") or row["answer"]) for row in rows
        ]
        sets[name] = random.Random(0).sample(found, min(count, len(found)))
    starter = QA.make()[part == "test"][:count]
    sets["starter-qa"] = [Asked(each.input, list(each.answers)) for each in starter]
    return sets


class Answers:
    """Which passages hold an answer, by an inverted index of words."""

    def __init__(self, corpus: Sequence[Passage]) -> None:
        self.shown = list(map(format_passage, corpus))
        self.with_word: dict[str, set[int]] = {}
        for number, text in enumerate(self.shown):
            for word in words(text):
                self.with_word.setdefault(word, set()).add(number)

    def any(self, asked: Asked) -> bool:
        for answer in filter(words, asked.answers):
            sets = [self.with_word.get(word, set()) for word in words(answer)]
            if any(contains_answer(self.shown[n], [answer]) for n in set.intersection(*sets)):
                return True
        return False


class Exact:
    """BM25 in numpy, with the settings that the index does not have."""

    def __init__(self, corpus: Sequence[Passage], stem: bool = True, title: float = 0) -> None:
        self.corpus, self.title_weight = corpus, title
        self.analyse: Callable[[str], list[str]] = analyser().analyze if stem else words
        texts = [self.analyse(passage.searched) for passage in corpus]
        self.text, self.title = _Postings(texts), _Postings([self.analyse(each.title) for each in corpus])
        self.pairs = _Postings([[f"{a} {b}" for a, b in pairwise(text)] for text in texts])
        self.texts = texts

    def search(
        self, query: str, k: int, k1: float = 1.2, b: float = 0.75, pairs: float = 0, feedback: int = 0
    ) -> list[Passage]:
        query_words = list(dict.fromkeys(self.analyse(query)))
        scores = self.text.scores(query_words, k1, b)
        if self.title_weight:
            scores += self.title_weight * self.title.scores(query_words, k1, b)
        if pairs:
            adjacent = [f"{x} {y}" for x, y in pairwise(query_words)]
            scores += pairs * self.pairs.scores(adjacent, k1, b)
        if feedback:  # the most typical words of the best passages, with a third of the weight
            counts = Counter(word for n in _best(scores, feedback) for word in self.texts[n])
            common = {stem for word in COMMON for stem in self.analyse(word)} | set(query_words)
            new = sorted(counts.keys() - common, key=lambda word: -counts[word] * self.text.idf(word))[:10]
            scores += self.text.scores(new, k1, b) / 3
        return [self.corpus[n] for n in _best(scores, k)]


class _Postings:
    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        entries: dict[str, list[tuple[int, int]]] = {}
        for number, text in enumerate(texts):
            for word, count in Counter(text).items():
                entries.setdefault(word, []).append((number, count))
        self.entries = {word: np.array(pairs).T for word, pairs in entries.items()}
        self.lengths = np.array([len(text) for text in texts])

    def idf(self, word: str) -> float:
        count = self.entries[word].shape[1]
        return math.log(1 + (len(self.lengths) - count + 0.5) / (count + 0.5))

    def scores(self, query_words: Sequence[str], k1: float, b: float) -> np.ndarray:
        scores = np.zeros(len(self.lengths))
        for word in query_words:
            if word in self.entries:
                numbers, counts = self.entries[word]
                lengths = self.lengths[numbers] / self.lengths.mean()
                scores[numbers] += self.idf(word) * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths))
        return scores


def _best(scores: np.ndarray, k: int) -> list[int]:
    return [int(n) for n in np.argsort(-scores, kind="stable")[:k] if scores[n] > 0]


def row(name: str, sets: dict[str, list[Asked]], search: Search, ask: Callable[[Asked], str]) -> None:
    """Print recall at each depth, and the median time of a query."""
    cells, times = [], []
    for asked in sets.values():
        ranks = []
        for each in asked:
            start = time.perf_counter()
            found = search(ask(each), max(DEPTHS))
            times.append(time.perf_counter() - start)
            hits = (n for n, p in enumerate(found, 1) if contains_answer(format_passage(p), each.answers))
            ranks.append(next(hits, math.inf))
        cells.append(" / ".join(f"{100 * np.mean(np.array(ranks) <= k):.1f}" for k in DEPTHS))
    print(f"| {name} | {' | '.join(cells)} | {1000 * np.median(times):.2f} |", flush=True)


def ceiling(name: str, sets: dict[str, list[Asked]], corpus: Sequence[Passage]) -> None:
    answers = Answers(corpus)
    cells = [f"{100 * np.mean([answers.any(each) for each in asked]):.1f}" for asked in sets.values()]
    print(f"| any of {name} | {' | '.join(cells)} | |", flush=True)


def numbered(index: PassageIndex) -> Search:
    """BM25 alone."""
    return lambda query, k: [index.passage(number) for number in index.numbers(query, k)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=FILES, default="test")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument(
        "--vectors", type=Path, help="an index whose vectors exist, instead of the summaries'"
    )
    options = parser.parse_args()
    sets = questions(options.part, options.questions)
    index = summaries_index()
    corpus = [index.passage(number) for number in range(index.passages)]
    # the first sentence is the description, without which the default was measured before
    bare = [Passage(p.title, p.text.partition(". ")[2] or p.text) for p in corpus]
    file = Path(os.environ["TRICE_DATA"], "passages", "2wikimultihopqa_corpus.jsonl")
    more = [Passage(**json.loads(line)) for line in file.open(encoding="utf-8")]
    asked, terms = (lambda each: each.text), (lambda each: each.terms)
    print(f"| recall@{'/'.join(map(str, DEPTHS))}, % | {' | '.join(sets)} | p50, ms |")
    print("|---" * (len(sets) + 2) + "|")
    before, both = PassageIndex.in_memory(bare), PassageIndex.in_memory(corpus + more)
    row("BM25, without descriptions (the default before)", sets, numbered(before), asked)
    row("… of key terms", sets, numbered(before), terms)
    row("BM25", sets, numbered(index), terms)
    row("BM25, ranked again by sentences (the default)", sets, index.search, terms)
    row("… of the question as asked", sets, index.search, asked)
    row("… with 2WikiMultihopQA's passages", sets, both.search, terms)
    for share in (10, 3):
        part = PassageIndex.in_memory(random.Random(0).sample(corpus, len(corpus) // share))
        row(f"… with a {'tenth' if share == 10 else 'third'} of the summaries", sets, part.search, terms)
    exact = Exact(corpus)
    row("exact BM25", sets, exact.search, terms)
    for k1, b in ((0.6, 0.75), (1.2, 0.4), (0.6, 0.4)):
        row(f"exact BM25, k1 {k1}, b {b}", sets, partial(exact.search, k1=k1, b=b), terms)
    row("exact BM25, word pairs × 0.25", sets, partial(exact.search, pairs=0.25), terms)
    row("exact BM25, feedback of 3 passages", sets, partial(exact.search, feedback=3), terms)
    row("exact BM25, title × 0.5 as a field", sets, Exact(corpus, title=0.5).search, terms)
    row("exact BM25, no stems", sets, Exact(corpus, stem=False).search, terms)
    if importlib.util.find_spec(PACKAGE):
        vectors = PassageIndex(options.vectors) if options.vectors else index
        row("dense", sets, DenseRetriever(vectors).search, asked)
        row("hybrid", sets, DenseRetriever(vectors, hybrid=True).search, asked)
    ceiling("the summaries", sets, corpus)
    ceiling("the summaries and 2WikiMultihopQA's passages", sets, corpus + more)
    if index.folder.is_dir():
        size = sum(path.stat().st_size for path in index.folder.iterdir())
        print(f"\nindex: {size / 1e6:.1f} MB, {index.passages} passages")


if __name__ == "__main__":
    main()
