"""Ray: work that is spread over the machines of a cluster, or over the cores of one.

Work goes out in portions, and what a portion gave comes back as one. A portion whose worker dies, with its machine
or alone, is done again by another. Nothing here knows what is done: `trice.models.ray_engine` writes responses in this
way, `trice.tools.ray_executor` runs calls. Does not cover starting a cluster (docs/how-to/cluster.md), nor a model that
is cut up among machines. Importing this loads no Ray.
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

from trice.errors import InputError, TriceError

PORTIONS = 4  # for each worker at least, so that none waits long for the last one
WHERE = "on a worker of the cluster"
RETRIES = 5  # of a portion whose worker dies: it may be what kills it
Portion = TypeVar("Portion")
Result = TypeVar("Result")


class Pool(NamedTuple):
    """How many workers, and the cores and GPUs that each has for itself."""

    workers: int
    cpus: float
    gpus: float = 0


def check() -> None:
    """Raise InputError where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine 'ray' needs Ray: pip install 'trice-rlef[ray]'")


def connect() -> None:
    """Join the cluster at RAY_ADDRESS, the one this machine belongs to, or else one made of this machine alone."""
    check()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # advice to developers
    import ray
    from ray.data import DataContext

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is told below, in one line


def shared(nodes: Sequence[dict[str, float]], workers: int | None = None) -> Pool:
    """The pool for `nodes`, each told by its resources, which are taken to be alike. Without a number of workers
    there is one for each GPU, or for each machine where there are none; a machine's are shared out among those
    that it gets."""
    kind = "GPU" if any(node.get("GPU") for node in nodes) else "CPU"
    amounts = [node[kind] for node in nodes if node.get(kind, 0) >= 1]
    if not amounts:
        raise InputError("engine 'ray': the cluster has no cores to work with")
    count = workers or (int(sum(amounts)) if kind == "GPU" else len(amounts))
    each = min(amounts) / math.ceil(count / len(amounts))
    each = math.floor(each) if each > 1 else each
    return Pool(count, 1, each) if kind == "GPU" else Pool(count, each)


def pool(workers: int | None = None) -> Pool:
    """The pool on the cluster that is joined."""
    import ray

    return shared([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)


def split(items: Sequence[Portion], workers: int, most: int) -> list[Sequence[Portion]]:
    """`items` in pieces of `most`, or smaller ones where that leaves some workers without."""
    size = min(most, math.ceil(len(items) / (workers * PORTIONS))) or 1
    return [items[start : start + size] for start in range(0, len(items), size)]


def spread(
    work: Callable[[], Callable[[Portion], Result]], pieces: Sequence[Portion], pool: Pool
) -> Iterator[Result]:
    """The result for each piece, in the order they are finished. `work` is called once on every worker, and what it
    returns with one piece after the other; it and the pieces are pickled.

    Raises InputError for what cannot be sent, and what a worker raises."""
    import ray
    from ray import cloudpickle

    try:
        packed = cloudpickle.dumps(work)
    except Exception as error:  # of all kinds: it runs the pickling of users' objects
        raise InputError(f"engine 'ray': cannot be sent to the workers: {_line(error)}") from None
    rows = [{"piece": cloudpickle.dumps(piece)} for piece in pieces]
    size = min(pool.workers, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one way there is to bound retries is to go
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(packed,),
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            batch_size=1,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_task_retries=RETRIES,
        )
    try:
        for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
            for told in batch["result"]:
                failure, result = pickle.loads(told)
                if failure is not None:
                    raise failure
                yield result
    except ray.exceptions.RayError as error:
        raise TriceError(f"engine 'ray': {_line(error)}; what is done is kept") from error


class _Worker:
    """What runs in a worker's process. A failure comes back as a result: Ray would call it a broken worker's."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._do: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [self._told(piece) for piece in batch["piece"]]}

    def _told(self, piece: bytes) -> bytes:
        from ray import cloudpickle

        try:
            do = self._do = self._do or cloudpickle.loads(self._packed)()
            told: tuple[Exception | None, Any] = (None, do(cloudpickle.loads(piece)))
        except TriceError as failure:
            told = (type(failure)(f"{WHERE}: {failure}"), None)
        except Exception as failure:
            told = (TriceError(f"{WHERE}: {type(failure).__name__}: {_line(failure)}"), None)
        packed: bytes = cloudpickle.dumps(told)
        return packed


def _line(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
