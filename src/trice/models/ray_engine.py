"""Responses from many machines: each worker of a Ray cluster has an engine of its own.

The output is that of one process, because what a response is drawn with hangs on its question alone. Every worker
loads the model itself, so that paths of models and adapters have to be there on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from trice import ray_cluster
from trice.models.engine import Done, Engine, Failure, Manner, Prompt, Written

PORTION = 256  # questions that a worker takes at a time, and that are asked again where it dies


class Piece(NamedTuple):
    """Prompts that stand side by side, and the number of the first."""

    first: int
    prompts: Sequence[Prompt]


class Answers(NamedTuple):
    """Responses by the prompt's number and the sample's, and the prompts that got none."""

    found: dict[int, dict[int, Written]]
    failures: list[Failure]


class RayEngine:
    """Engines made by `make` on the workers of a cluster: `workers` of them, or as many as it has GPUs, or machines
    where it has none. `make` is pickled, and the engine made when the worker gets its first prompts."""

    def __init__(self, make: Callable[[], Engine], workers: int | None = None) -> None:
        ray_cluster.connect()
        self._make, self._pool = make, ray_cluster.pool(workers)

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt, a portion at a time. Raises what an engine raises."""
        numbered = ray_cluster.portions(list(enumerate(prompts)), self._pool.workers, PORTION)
        pieces = [Piece(part[0][0], [prompt for _, prompt in part]) for part in numbered]
        failures: list[Failure] = []
        for answers in ray_cluster.spread(partial(_writer, self._make, manner), pieces, self._pool):
            for number, found in answers.found.items():
                done(number, found)
            failures += answers.failures
        return sorted(failures)


def _writer(make: Callable[[], Engine], manner: Manner) -> Callable[[Piece], Answers]:
    """On a worker: what answers a piece."""
    engine = make()

    def write(piece: Piece) -> Answers:
        found: dict[int, dict[int, Written]] = {}

        def done(index: int, samples: dict[int, Written]) -> None:
            found.setdefault(piece.first + index, {}).update(samples)

        failures = engine.write(piece.prompts, manner, done)
        return Answers(found, [each._replace(request=piece.first + each.request) for each in failures])

    return write
