"""Many rows into one journal, its process killed at random moments until all are there: none lost, none twice.

The process that writes says after each `add` how many rows it stored: they must be there after the kill, and only
what it was at work on may be done again. Rows go in by batches of different sizes. Prints the counts, and how fast
one process writes without kills; ends with an error where a count is wrong. It kills its own child alone, in the
folder of temporary files (TMPDIR): a kill is survived on any file system, a power cut is not tried here.

    python benchmarks/journal_soak.py [rows, default 100000]
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trice.storage.row_state import journal_path, read_state
from trice.storage.row_store import RowStore

SETTINGS = {"soak": 1}


def row(number: int) -> dict[str, Any]:
    """A row of the size and kind of a response."""
    return {
        "id": f"S_{number}",
        "input": "Wie viele Äpfel? " * (number % 20),
        "response": f"calculator({number}+7)",
    }


def write(output: Path, rows: int) -> int:
    """Store what is missing, saying so; gives how many rows that were."""
    with RowStore(output, SETTINGS, rows) as store:
        keys = {store.key(number): number for number in range(rows)}
        left = [key for key in keys if key not in store]
        sizes = random.Random(len(left))
        done = 0
        while done < len(left):
            batch = left[done : done + sizes.randint(1, 64)]
            os.write(1, f"begun {len(batch)}\n".encode())
            time.sleep(0.002)  # what answers takes its time too
            store.add({key: row(keys[key]) for key in batch})
            os.write(1, f"stored {len(batch)}\n".encode())
            done += len(batch)
    return len(left)


def counts(told: Iterable[str]) -> Counter[str]:
    """How many rows a process said that it had begun, and stored."""
    sums: Counter[str] = Counter()
    for line in told:
        what, number = line.split()
        sums[what] += int(number)
    return sums


def killed_again_and_again(output: Path, rows: int, chance: random.Random) -> Iterator[Counter[str]]:
    """What each process said before it was killed, the last one when it was done."""
    code: int | None = None
    while code != 0:
        command = [sys.executable, __file__, str(rows), str(output)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        lines: list[str] = []
        if chance.random() < 0.2:  # while it starts, or reads what there is
            time.sleep(chance.uniform(0, 0.3))
        else:
            lines += itertools.islice(process.stdout, 2 * chance.randint(1, max(4, rows // 640)))
            time.sleep(chance.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        yield counts([*lines, *process.stdout])
        code = process.wait()
        assert code in (0, -signal.SIGKILL), code


def soak(output: Path, rows: int) -> dict[str, int]:
    """The counts of one soak."""
    result = Counter(rows=rows)
    before = 0
    for told in killed_again_and_again(output, rows, random.Random(2)):
        state = read_state(output)
        there = len(state.rows) if state else 0
        result["processes"] += 1
        result["lost"] += max(0, before + told["stored"] - there)
        result["not stored when killed"] += told["begun"] - told["stored"]
        result["begun twice or more"] += before + told["begun"] - there
        before = there
    keys = [
        json.loads(line)["key"] for line in journal_path(output).read_bytes().splitlines() if b'"key"' in line
    ]
    result["twice in the file"] = len(keys) - len(set(keys))
    result["missing in the end"] = rows - len(set(keys))
    return dict(result)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if len(sys.argv) > 2:
        write(Path(sys.argv[2]), rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.json"
        start = time.perf_counter()
        found = soak(output, rows)
        print(
            f"{time.perf_counter() - start:.1f} s with kills:",
            ", ".join(f"{k} {v}" for k, v in found.items()),
        )
        with RowStore(output, SETTINGS, rows) as store:
            store.finish(store.rows[store.key(number)] for number in range(rows))
        whole = "".join(json.dumps(row(number), ensure_ascii=False) + "\n" for number in range(rows))
        assert output.read_text(encoding="utf-8") == whole
        assert found["lost"] == found["twice in the file"] == found["missing in the end"] == 0
        for size in (1, 64):
            speed = _speed(Path(folder) / str(size), min(rows, 2000 * size), size)
            print(f"without: {speed:.0f} rows/s, {size} at a time")


def _speed(output: Path, rows: int, size: int) -> float:
    """Rows a second into a new journal, so many at a time."""
    with RowStore(output, {"size": size}, rows) as store:
        batches = [
            {store.key(n): row(n) for n in range(i, min(rows, i + size))} for i in range(0, rows, size)
        ]
        start = time.perf_counter()
        for batch in batches:
            store.add(batch)
        took = time.perf_counter() - start
    return rows / took


if __name__ == "__main__":
    main()
