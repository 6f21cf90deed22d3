"""A thousand questions through a server that fails a fifth of the time, and a client that is killed twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from stand_in_server import FAULTS, StandIn

import trice
from tiny import read, sums
from trice.models.server_pool import MAX_CONCURRENCY
from trice.storage.row_state import read_state

COUNT = 1000
KILLS = (250, 600)  # after so many rows


def add(message: str) -> str:
    return "calculator({}+{})".format(*re.findall(r"(\d+) and (\d+)\?", message)[-1])


def start(server: StandIn, data: Path, folder: Path) -> subprocess.Popen[str]:
    words = ["--origin", "gpt", "--data", data, "--output", folder, "--endpoint", server.url, "--model", "m"]
    command = [sys.executable, "-m", "trice", "collect", *words, "endpoint.timeout=5"]
    environment = os.environ | {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
    return subprocess.Popen(
        list(map(str, command)), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stored(output: Path) -> set[str]:
    """The questions whose response is safe in the journal."""
    state = read_state(output)
    return {row["input"] for row in state.rows.values()} if state else set()


def killed(process: subprocess.Popen[str], output: Path, count: int) -> set[str]:
    """Kill the client when so many responses are stored; gives those that were."""
    while len(stored(output)) < count and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return stored(output)


def test_none_is_lost_none_is_there_twice_and_none_is_paid_twice_but_those_under_way_at_a_kill(
    tmp_path: Path,
) -> None:
    data, output = sums(tmp_path / "S.json", COUNT), tmp_path / "math_gpt_response.json"
    hanging = {f"{i} and": ["hang"] for i in (100, 500, 900)}
    with StandIn(add, hanging, faults=0.2) as server:
        before = []
        for count in KILLS:
            safe = killed(start(server, data, tmp_path), output, count)
            before.append({question: server.paid[question] for question in safe})
        out, error = (last := start(server, data, tmp_path)).communicate(timeout=300)
        assert last.returncode == 0, error
        assert out == f"{COUNT} responses in {output}\n"
        paid, asked = server.paid.copy(), len(server.seen)
        again = start(server, data, tmp_path)
        assert (again.wait(300), len(server.seen)) == (0, asked)  # it is finished: nothing is asked
    rows = read(output)
    assert [row["id"] for row in rows] == [f"S_{i}" for i in range(COUNT)]
    assert [row["response"] for row in rows] == [f"calculator({i}+7)" for i in range(COUNT)]
    assert set(server.failed) == set(FAULTS)
    assert 0.16 < server.failed.total() / asked < 0.24
    print(
        f"{asked} requests, of which failed {dict(server.failed)}; {paid.total() - COUNT} answers paid twice"
    )
    # What was stored was never asked for again; what was under way at a kill was.
    assert all(paid[question] == times for safe in before for question, times in safe.items())
    assert paid.total() - COUNT <= len(KILLS) * MAX_CONCURRENCY
