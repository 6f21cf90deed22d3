"""Responses from many machines: each worker of a Ray cluster has its own engine.

The output is the same as that of one process, because a response's random numbers depend only on its question.
Every worker loads the model itself, so the paths of models and adapters must exist on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from trice import ray_cluster
from trice.models.engine import Deliver, Engine, Failure, GenerationSettings, Prompt

MAX_PIECE = 256  # questions that a worker takes at a time, and that are repeated if the worker dies


class Piece(NamedTuple):
    """Consecutive prompts, and the number of the first one."""

    first: int
    prompts: Sequence[Any]


class Result(NamedTuple):
    """Responses by the numbers of prompt and sample, and the prompts that got none."""

    found: dict[int, dict[int, Any]]
    failures: list[Failure]


Answer = Callable[[Engine, Sequence[Any], Callable[[int, dict[int, Any]], None]], list[Failure]]
"""Answers prompts with an engine and delivers responses, as `Engine.generate` does."""


class RayEngine:
    """Engines on the workers of a cluster.

    Args:
        make: Makes a worker's engine when it gets its first prompts; it is pickled.
        workers: Number of workers; by default one for each GPU, or for each machine if there is none.
    """

    def __init__(self, make: Callable[[], Engine], workers: int | None = None) -> None:
        ray_cluster.connect()
        self._make, self._pool = make, ray_cluster.pool(workers)

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        """Answer every prompt, a piece at a time. Raises what an engine raises."""
        return self.answer(partial(_generate, settings), prompts, deliver)

    def answer(
        self, answer: Answer, prompts: Sequence[Any], deliver: Callable[[int, dict[int, Any]], None]
    ) -> list[Failure]:
        """Let `answer` answer prompts of any kind on the workers, to which both are sent."""
        parts = ray_cluster.split(list(enumerate(prompts)), self._pool.workers, MAX_PIECE)
        pieces = [Piece(part[0][0], [prompt for _, prompt in part]) for part in parts]
        failures: list[Failure] = []
        for result in ray_cluster.spread(partial(_worker, self._make, answer), pieces, self._pool):
            for number, found in result.found.items():
                deliver(number, found)
            failures += result.failures
        return sorted(failures)


def _generate(
    settings: GenerationSettings, engine: Engine, prompts: Sequence[Prompt], deliver: Deliver
) -> list[Failure]:
    return engine.generate(prompts, settings, deliver)


def _worker(make: Callable[[], Engine], answer: Answer) -> Callable[[Piece], Result]:
    """On a worker: the function that answers a piece."""
    engine = make()

    def answer_piece(piece: Piece) -> Result:
        found: dict[int, dict[int, Any]] = {}

        def deliver(index: int, samples: dict[int, Any]) -> None:
            found.setdefault(piece.first + index, {}).update(samples)

        failures = answer(engine, piece.prompts, deliver)
        return Result(found, [each._replace(request=piece.first + each.request) for each in failures])

    return answer_piece
