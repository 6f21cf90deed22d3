"""Running calls on a Ray cluster.

A tool is sent as its attributes, and each worker opens the index, model or program itself, so it must exist on
every machine. Calls to servers (tools with several `workers`, or a `rate`) run on this machine, since more machines
would exceed the number of simultaneous requests that the tool allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from trice import ray_cluster
from trice.tools import Tool
from trice.tools.executor import Runner
from trice.tools.worker_pool import run_in_pool
from trice.types import Execution, ToolCall

PORTION = 64  # calls per task; they run again if their worker dies

Keyed = tuple[str, tuple[Tool, ToolCall]]


def runner(engine: str, workers: int | None = None) -> Runner | None:
    """The cluster's runner if the engine generates on Ray; None for this machine."""
    return (lambda pending: spread(pending, workers)) if engine.startswith("ray") else None


def spread(
    pending: Mapping[str, tuple[Tool, ToolCall]], workers: int | None = None
) -> Iterator[tuple[str, Execution]]:
    """Yield each execution when its portion is done. Raises InputError if a tool cannot be sent."""
    local = {key: pair for key, pair in pending.items() if _runs_here(pair[0])}
    remote = [(key, pair) for key, pair in pending.items() if key not in local]
    if remote:
        ray_cluster.connect()
        pool = ray_cluster.pool(workers)
        for done in ray_cluster.spread(
            _portion_runner, ray_cluster.split(remote, pool.workers, PORTION), pool
        ):
            yield from done
    yield from run_in_pool(local)


def _runs_here(tool: Tool) -> bool:
    return tool.cheap or tool.workers > 1 or tool.rate is not None


def _portion_runner() -> Callable[[Sequence[Keyed]], list[tuple[str, Execution]]]:
    """A function that runs a portion of calls, made on each worker."""
    return lambda portion: list(run_in_pool(dict(portion)))
