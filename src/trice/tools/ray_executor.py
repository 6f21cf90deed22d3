"""Calls on the machines of a Ray cluster, each of which makes the tools anew from what says what they are.

A tool travels as its attributes, that is its source: an index, a model or a program behind it is opened where it
arrives, so that it has to be there on every machine. Calls to servers (tools with several `workers`, or a
`rate`) stay here: more machines would only ask a server more at a time than the tool says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from trice import ray_cluster
from trice.tools import Tool
from trice.tools.executor import Runner
from trice.tools.worker_pool import run_in_pool
from trice.types import Execution, ToolCall

PORTION = 64  # calls that a worker takes at a time, and that are run again where it dies

Keyed = tuple[str, tuple[Tool, ToolCall]]


def runner(engine: str, workers: int | None = None) -> Runner | None:
    """What runs calls where responses are written by `engine`: the cluster, or None for this machine."""
    return (lambda pending: spread(pending, workers)) if engine.startswith("ray") else None


def spread(
    pending: Mapping[str, tuple[Tool, ToolCall]], workers: int | None = None
) -> Iterator[tuple[str, Execution]]:
    """Each call's execution as soon as its portion is done. Raises InputError where a tool cannot be sent."""
    here = {key: pair for key, pair in pending.items() if _stays(pair[0])}
    there = [(key, pair) for key, pair in pending.items() if key not in here]
    if there:
        ray_cluster.connect()
        pool = ray_cluster.pool(workers)
        for done in ray_cluster.spread(_caller, ray_cluster.split(there, pool.workers, PORTION), pool):
            yield from done
    yield from run_in_pool(here)


def _stays(tool: Tool) -> bool:
    return tool.cheap or tool.workers > 1 or tool.rate is not None


def _caller() -> Callable[[Sequence[Keyed]], list[tuple[str, Execution]]]:
    """On a worker: what runs a portion of calls."""
    return lambda portion: list(run_in_pool(dict(portion)))
