"""Ray: work that is distributed over the machines of a cluster, or over the cores of one machine.

Work is sent to the workers in pieces, and the result of a piece returns as a whole. If a worker dies, another
one repeats its piece. This module does not know what the work is: `trice.models.ray_engine` generates responses
with it, and `trice.tools.ray_executor` runs calls. Starting a cluster (docs/how-to/cluster.md) and models that
are divided among machines are not covered. This module does not load Ray when it is imported.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from trice.errors import InputError, TriceError, error_line

PIECES_PER_WORKER = 4  # at least, so that no worker waits long for the last one
WHERE = "on a worker of the cluster"
RETRIES = 5  # of a piece whose worker dies, since the piece may be the cause
Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Pool(NamedTuple):
    """The number of workers, and the cores and GPUs of each."""

    workers: int
    cpus: float
    gpus: float = 0


def check() -> None:
    """Raise InputError if Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine 'ray' needs Ray: pip install 'trice-rlef[ray]'")


def connect() -> None:
    """Join the cluster at RAY_ADDRESS or the one this machine belongs to, else start one on this machine alone."""
    check()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # no advice to developers
    import ray
    from ray.data import DataContext

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are reported below, in one line


def divide(nodes: Sequence[dict[str, float]], workers: int | None = None) -> Pool:
    """The pool on `nodes`, given by their resources, which are assumed to be equal.

    The default is one worker for each GPU, or for each machine if there is no GPU. The resources of a machine are
    divided among its workers.
    """
    kind = "GPU" if any(node.get("GPU") for node in nodes) else "CPU"
    amounts = [node[kind] for node in nodes if node.get(kind, 0) >= 1]
    if not amounts:
        raise InputError("engine 'ray': the cluster has no cores to work with")
    count = workers or (int(sum(amounts)) if kind == "GPU" else len(amounts))
    share = min(amounts) / math.ceil(count / len(amounts))
    share = math.floor(share) if share > 1 else share
    return Pool(count, 1, share) if kind == "GPU" else Pool(count, share)


def pool(workers: int | None = None) -> Pool:
    """The pool on the cluster that was joined."""
    import ray

    return divide([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)


def split(items: Sequence[Piece], workers: int, max_size: int) -> list[Sequence[Piece]]:
    """`items` in pieces of at most `max_size`, or smaller ones so that every worker gets some."""
    size = min(max_size, math.ceil(len(items) / (workers * PIECES_PER_WORKER))) or 1
    return [items[start : start + size] for start in range(0, len(items), size)]


def spread(
    make_work: Callable[[], Callable[[Piece], Result]], pieces: Sequence[Piece], pool: Pool
) -> Iterator[Result]:
    """Yield the result of each piece as it finishes.

    Args:
        make_work: Called once on every worker; returns the function that is called with each piece. It is pickled.
        pieces: The work, which is pickled.
        pool: The workers.

    Raises:
        InputError: The work cannot be pickled.
        TriceError: A worker failed.
    """
    import ray
    from ray import cloudpickle

    try:
        pickled = cloudpickle.dumps(make_work)
    except Exception as error:  # pickling runs code of users' objects, which may raise anything
        raise InputError(f"engine 'ray': cannot be sent to the workers: {error_line(error)}") from None
    rows = [{"piece": cloudpickle.dumps(piece)} for piece in pieces]
    size = min(pool.workers, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_task_retries is deprecated, but nothing else limits retries
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(pickled,),
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            batch_size=1,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_task_retries=RETRIES,
        )
    try:
        for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
            for pickled_result in batch["result"]:
                failure, result = pickle.loads(pickled_result)
                if failure is not None:
                    raise failure
                yield result
    except ray.exceptions.RayError as error:
        raise TriceError(f"engine 'ray': {error_line(error)}; finished results are saved") from error


class _Worker:
    """Runs in a worker's process. A failure is returned as a result, because Ray would treat it as a broken
    worker."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [self._run(piece) for piece in batch["piece"]]}

    def _run(self, piece: bytes) -> bytes:
        """The pickled pair of failure and result."""
        from ray import cloudpickle

        try:
            work = self._work = self._work or cloudpickle.loads(self._pickled)()
            outcome: tuple[Exception | None, Any] = (None, work(cloudpickle.loads(piece)))
        except TriceError as failure:
            outcome = (type(failure)(f"{WHERE}: {failure}"), None)
        except Exception as failure:
            outcome = (TriceError(f"{WHERE}: {type(failure).__name__}: {error_line(failure)}"), None)
        pickled: bytes = cloudpickle.dumps(outcome)
        return pickled
