"""A full-text index: what is found, what a kill leaves, and what is refused."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trice.errors import InputError, ToolError
from trice.stages.prepare_data import index
from trice.tools.passage_index import MANIFEST, Passage, PassageIndex, build_index, read_passages
from trice.tools.sentence_ranking import bonus, split_sentences

PASSAGES = [
    Passage("Kestrel", "The kestrel hovers over fields and eats voles."),
    Passage("Red kite", "Kites are birds of prey with forked tails."),
    Passage("", "Beyoncé sang at the festival of São Paulo."),
    Passage("The Who", "A rock band from London."),
]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    assert build_index(PASSAGES, tmp_path / "birds", len(PASSAGES)) == 4
    return tmp_path / "birds"


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("hovering KESTRELS", 0),
        ("red", 1),
        ("what has a forked tail?", 1),
        ("beyonce sao paulo", 2),
        ("the who", 3),
        ("band AND (London OR", 3),
        ("title:Kestrel^9", 0),
    ],
)
def test_words_are_found_whatever_their_form(birds: Path, query: str, best: int) -> None:
    assert PassageIndex(birds).search(query, 1) == [PASSAGES[best]]


def test_the_best_come_first_and_no_more_than_wanted(birds: Path) -> None:
    found = PassageIndex(birds).search("birds of prey over fields", 2)
    assert found == [PASSAGES[1], PASSAGES[0]]
    assert PassageIndex(birds).search("xylophone", 2) == []
    with pytest.raises(ToolError, match="no words"):
        PassageIndex(birds).search("?!", 2)
    assert PassageIndex(birds).search("kestrel " * 100_000, 1) == [PASSAGES[0]]


def bm25(texts: list[list[str]], query: list[str]) -> list[float]:
    """Robertson's formula with k1 = 1.2 and b = 0.75; the engine keeps lengths below 40 words exactly."""
    mean, scores = sum(map(len, texts)) / len(texts), [0.0] * len(texts)
    for word in query:
        times = [text.count(word) for text in texts]
        count = sum(map(bool, times))
        idf = math.log(1 + (len(texts) - count + 0.5) / (count + 0.5))
        for at, n in enumerate(times):
            scores[at] += idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * len(texts[at]) / mean))
    return scores


def test_the_best_are_those_of_bm25_however_common_the_words(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = [a + b for a in "bcdfgh" for b in "bcdfgh"]  # too short to be stemmed
    weights = [
        1 / (1 + rank) ** 1.3 for rank in range(len(words))
    ]  # the first is in most passages, the last in few
    texts = [[str(at), *rng.choices(words, weights, k=rng.randrange(5, 38))] for at in range(400)]
    build_index((Passage(text[0], " ".join(text[1:])) for text in texts), tmp_path / "out")
    index = PassageIndex(tmp_path / "out")
    for k in [1, 3, 30] * 50:
        query = rng.sample(words, rng.randrange(1, 9))
        scores = bm25(texts, query)
        expected = [score for score in sorted(scores, reverse=True)[:k] if score]
        found = [scores[int(index.passage(n).title)] for n in index.numbers(" ".join(query), k)]
        assert found == pytest.approx(expected, rel=1e-5)


def test_words_in_one_sentence_count_more_than_words_in_several(tmp_path: Path) -> None:
    # Equal lengths and counts, so equal by BM25: what differs is whether a sentence has both words.
    apart = Passage("", "The owl is small. A hole is deep. It sleeps there.")
    together = Passage("", "The owl is deep. A hole is small. It sleeps there.")
    build_index([apart, together], tmp_path / "out")
    index = PassageIndex(tmp_path / "out")
    assert index.numbers("deep owl", 2) == [0, 1]  # a tie, in the order of the index
    assert index.search("deep owl", 2) == [together, apart]
    assert index.search("who is the deep owl?", 2) == [together, apart]


def test_a_title_that_the_query_names_counts_more(tmp_path: Path) -> None:
    # The words, lengths and sentences are the same; only one title occurs in the query in this order.
    inner = Passage("Mongolia Inner", "It has a capital.")
    whole = Passage("Inner Mongolia (region)", "It has a capital.")
    build_index([inner, whole], tmp_path / "out")
    index = PassageIndex(tmp_path / "out")
    assert index.search("the capital of Inner Mongolia", 1) == [whole]
    assert index.search("the capital of Mongolia Inner", 1) == [inner]


def test_the_bonus_by_hand() -> None:
    # "a" and "b" weigh 2 and 3. The sentences with the title have a and b (5), b (3) and b (3): 1.5 × 5 + 0.5 × 3.
    def analyse(text: str) -> list[str]:
        return text.lower().replace(".", " ").split()

    weights = {"a": 2.0, "b": 3.0}
    text = "An x has A. It is big. It is old."
    assert bonus("B", text, ["x"], weights, analyse) == pytest.approx(9)
    assert bonus("B (letter)", text, ["x", "b"], weights, analyse) == pytest.approx(9 + 0.5 * 3)
    assert bonus("B", "", ["b"], weights, analyse) == pytest.approx(0.5 * 3)
    assert bonus("", "One c.", ["a"], weights, analyse) == 0


def test_a_text_is_split_into_sentences() -> None:
    text = 'J. K. Rowling wrote it. It costs 2.50 dollars! "Is it read?" Yes.'
    assert split_sentences(text) == [
        "J. K. Rowling wrote it.", "It costs 2.50 dollars!", '"Is it read?"', "Yes.",
    ]  # fmt: skip
    assert split_sentences(" ") == []


def test_a_word_counts_once_and_signs_are_no_words(birds: Path) -> None:
    once = PassageIndex(birds).search("kite voles", 2)
    assert PassageIndex(birds).search("kite kites KITE voles", 2) == once
    assert PassageIndex(birds).search("kite_voles", 2) == once
    with pytest.raises(ToolError, match="no words"):
        PassageIndex(birds).search("_", 2)


def corpus(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_a_corpus_becomes_an_index(tmp_path: Path) -> None:
    rows = [json.dumps(passage._asdict() | {"id": 3}) for passage in PASSAGES]
    source = corpus(tmp_path / "birds.jsonl", rows[0], "", *rows[1:], '{"text": "no title"}')
    assert list(read_passages(source)) == [*PASSAGES, Passage("", "no title")]
    assert index(source, tmp_path / "out") == f"5 passages in {tmp_path / 'out'}"
    assert PassageIndex(tmp_path / "out").search("titles", 1) == [Passage("", "no title")]
    with pytest.raises(InputError, match="out: already exists"):
        index(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{torn", r"birds\.jsonl:2: not a JSON object"),
        ('{"title": "x"}', r"birds\.jsonl:2: field 'text': Field required"),
        ("7", r"birds\.jsonl:2: Input should be a valid dictionary"),
        ('{"text": "\\ud800"}', r"birds\.jsonl:2: not a JSON object"),
        ("[" * 100_000, r"birds\.jsonl:2: not a JSON object"),
    ],
)
def test_a_line_that_does_not_fit_is_named_before_anything_is_made(
    tmp_path: Path, line: str, complaint: str
) -> None:
    source = corpus(tmp_path / "birds.jsonl", '{"text": "good"}', line)
    with pytest.raises(InputError, match=complaint):
        index(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["birds.jsonl"]


def test_the_texts_of_a_squad_file_become_an_index(tmp_path: Path) -> None:
    source = tmp_path / "birds.json"
    paragraphs = [{"context": each.text, "qas": []} for each in PASSAGES[:2]] + [{"context": " "}]
    source.write_text(json.dumps({"data": [{"title": "Birds_of_prey", "paragraphs": paragraphs}]}))
    assert index(source, tmp_path / "out").startswith("2 passages")
    assert PassageIndex(tmp_path / "out").search("voles", 1) == [Passage("Birds of prey", PASSAGES[0].text)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"data": [', r"birds\.json: not a JSON object"),
        ('{"version": "1.1", "data": 3}', r"birds\.json: field 'data'"),
        ('{"data": [{"title": "x"}]}', r"birds\.json: field 'data\.0\.paragraphs': Field required"),
        ('{"data": []}', "no passages to index"),
    ],
)
def test_a_file_that_is_not_in_the_form_of_squad_is_refused(
    tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "birds.json").write_text(content)
    with pytest.raises(InputError, match=problem):
        index(tmp_path / "birds.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("start", "between", "end"), [("", "\n", "\n"), ("[", ",\n", "]")])
def test_a_json_file_of_rows_is_no_squad_file(tmp_path: Path, start: str, between: str, end: str) -> None:
    source = tmp_path / "birds.json"
    source.write_text(start + between.join(json.dumps(each._asdict()) for each in PASSAGES) + end)
    assert list(read_passages(source)) == PASSAGES


def test_passages_without_text_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"text": "an owl"}', '{"title": "x", "text": " "}', '{"text": null}', '{"text": "a kite"}']
    source = corpus(tmp_path / "birds.jsonl", *rows)
    assert index(source, tmp_path / "out").startswith("2 passages")
    assert capsys.readouterr().err.count(f"skipped 2 passages without text, the first at {source}:2") == 1
    assert [found.text for found in PassageIndex(tmp_path / "out").search("kite", 3)] == ["a kite"]


def test_no_file_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nosuch\.jsonl: no such file"):
        index(tmp_path / "nosuch.jsonl", tmp_path / "out")
    with pytest.raises(InputError, match="no passages"):
        index(corpus(tmp_path / "empty.jsonl"), tmp_path / "out")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"bytes\.jsonl: not UTF-8"):
        index(tmp_path / "bytes.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_build_leaves_no_index_and_the_next_one_is_whole(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from trice.tools.passage_index import Passage, build_index
def passages():
    yield from [Passage("Kestrel", "hovers")] * 1000
    os.kill(os.getpid(), signal.SIGKILL)
build_index(passages(), Path({str(tmp_path / "birds")!r}))
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "birds").exists()
    build_index(PASSAGES, tmp_path / "birds")
    assert PassageIndex(tmp_path / "birds").passages == 4
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_damaged_index_is_refused_in_one_line(birds: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch: there is no index in this folder"):
        PassageIndex(tmp_path / "nosuch")
    whole = {path.name: path.read_bytes() for path in birds.iterdir()}
    for name in whole:
        if name.endswith(".lock"):
            continue
        cut(birds / name)
        with pytest.raises(InputError, match="the index is damaged") as caught:
            PassageIndex(birds)
        assert "\n" not in str(caught.value)
        (birds / name).write_bytes(whole[name])
    assert PassageIndex(birds).search("kestrel", 1) == [PASSAGES[0]]
    manifest = json.loads(whole[MANIFEST])
    (birds / MANIFEST).write_text(json.dumps(manifest | {"form": 99}))
    with pytest.raises(InputError, match="the index has format 99"):
        PassageIndex(birds)
