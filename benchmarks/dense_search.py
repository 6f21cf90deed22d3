"""Search by words, by meaning and by both on the 10,033 summaries: how often an answer is found, and how fast.

The questions are the first 1,000 of WebQuestions' test set. A hit is a gold answer as whole words in one of the
first k passages, with titles, in the form that the model reads. A time is that of one query for 20 passages with
its vector, on one core, and the faster of two measurements. Missing vectors are computed first, in about ten
minutes on one core.

    pip install 'trice-rlef[dense]'
    TRICE_DATA=… python benchmarks/dense_search.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from trice.tools.answer_matching import contains_answer
from trice.tools.dense_retrieval import DenseRetriever
from trice.tools.passage_index import PassageIndex
from trice.tools.wikisearch import format_passage, summaries_index

QUESTIONS = 1000
DEPTHS = (1, 2, 5, 20)
ROUNDS = 2  # of each query; its fastest counts


def questions() -> list[tuple[str, list[str]]]:
    """Questions with their gold answers."""
    if not os.environ.get("TRICE_DATA"):
        sys.exit("set TRICE_DATA to the folder of the benchmarks' files")
    path = Path(os.environ["TRICE_DATA"], "webquestions", "test.json")
    rows = json.loads(path.read_text(encoding="utf-8"))[:QUESTIONS]
    return [(row["qText"], row["answers"]) for row in rows]


def measured(search: PassageIndex | DenseRetriever, asked: str, answers: list[str]) -> tuple[float, float]:
    """The rank of the first passage with an answer, from 1, and the milliseconds it took to search."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        found = search.search(asked, max(DEPTHS))
        times.append(time.perf_counter() - start)
    hits = (
        rank
        for rank, passage in enumerate(found, start=1)
        if contains_answer(format_passage(passage), answers)
    )
    return next(hits, np.inf), min(times) * 1000


def main() -> None:
    import torch

    torch.set_num_threads(1)
    index, rows = summaries_index(), questions()
    searches = {"BM25": index, "dense": DenseRetriever(index), "hybrid": DenseRetriever(index, hybrid=True)}
    print(
        f"| {len(rows)} questions | " + " | ".join(f"hit@{k}, %" for k in DEPTHS) + " | p50, ms | p99, ms |"
    )
    print("|---" * (len(DEPTHS) + 3) + "|")
    for name, search in searches.items():
        ranks, times = np.array([measured(search, *row) for row in rows]).T
        hits = " | ".join(f"{100 * np.mean(ranks <= k):.1f}" for k in DEPTHS)
        print(f"| {name} | {hits} | {np.quantile(times, 0.5):.2f} | {np.quantile(times, 0.99):.2f} |")


if __name__ == "__main__":
    main()
