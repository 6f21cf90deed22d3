"""A journal has one process at a time, on a disk that may be full, in a folder that may be closed; a short soak."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trice
from tiny import forked, tree
from trice.errors import TriceError
from trice.storage.row_state import journal_path
from trice.storage.row_store import RowStore

SOAK = Path(__file__).parents[1] / "benchmarks" / "journal_soak.py"
HOLD = """
import sys, time
from pathlib import Path
from trice.storage.row_store import RowStore
with RowStore(Path(sys.argv[1]), {"seed": 1}) as store:
    store.add({"a": {"text": "theirs"}})
    print("there", flush=True)
    time.sleep(60)
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(trice.__file__).parents[1])}


def test_a_second_process_is_refused_until_the_first_has_ended_however_it_ended(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    words = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        before = journal_path(output).read_bytes()
        for settings in ({"seed": 1}, {"seed": 2}):
            with pytest.raises(
                TriceError, match=rf"^{output}: another process is writing it; wait until it ends$"
            ):
                RowStore(output, settings)
        assert journal_path(output).read_bytes() == before
        process.send_signal(signal.SIGKILL)
    with RowStore(output, {"seed": 1}) as store:
        assert store.rows == {"a": {"text": "theirs"}}
        with pytest.raises(TriceError, match="another process"):
            RowStore(output, {"seed": 1})
        store.finish(store.rows.values())
    with RowStore(output, {"seed": 1}) as store:
        assert store.is_finished


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with RowStore(tmp_path / "out.json", {}) as store:
        store.add({"a": {"text": "mine"}})
        store.finish(store.rows.values())
    assert "has no locks; start no second process" in capsys.readouterr().err
    assert (tmp_path / "out.json").read_text() == '{"text": "mine"}\n'


def until_full(output: Path) -> None:
    """Add rows until this process may write no more, then smaller ones."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    said = rf"{journal_path(output)}: cannot be written \(File too large\); the rows it holds are kept$"
    with RowStore(output, {"seed": 1}) as store:
        for number in range(3):
            store.add({str(number): {"text": "x" * 500}})
        with pytest.raises(TriceError, match=said):
            store.add({"3": {"text": "x" * 500}})
        assert list(store.rows) == ["0", "1", "2"]
        whole = store.path.read_bytes()
        assert whole.endswith(b"}\n")  # nothing stays of the row that did not fit
        with pytest.raises(TriceError, match=said):
            store.add({"many": {"text": "x" * 1500}, "others": {"text": "y"}})
        assert store.path.read_bytes() == whole
        store.add({"small": {"text": "fits"}})
        with pytest.raises(TriceError, match=r"out\.json: cannot be written \(File too large\)"):
            store.finish({"text": "z" * 1000} for _ in range(4))


def test_a_full_disk_loses_no_finished_row_and_leaves_no_half_one(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    output.write_text("old")
    assert forked(until_full, output) == 0
    assert tree(tmp_path) == {"out.json": b"old"}
    with RowStore(output, {"seed": 1}) as store:
        assert list(store.rows) == ["0", "1", "2", "small"]
        store.finish(store.rows.values())
    assert [len(json.loads(line)["text"]) for line in output.read_text().splitlines()] == [500, 500, 500, 4]


def none_at_all(output: Path) -> None:
    """Begin on a disk that takes nothing."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    with pytest.raises(TriceError, match="cannot be written"):
        RowStore(output, {"seed": 1})


def test_a_journal_that_could_not_begin_is_no_obstacle(tmp_path: Path) -> None:
    assert forked(none_at_all, tmp_path / "out.json") == 0
    assert journal_path(tmp_path / "out.json").read_bytes() == b""
    with RowStore(tmp_path / "out.json", {"seed": 2}) as store:
        assert not store.rows


def closed(folder: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.mkdir(mode=0o555)
    return folder


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (lambda folder: Path("/proc/no-such-folder"), "No such file or directory"),
        (lambda folder: Path("/proc"), "No such file or directory"),
        (closed, "Permission denied"),
    ],
    ids=["no folder can be made", "no file can be made", "read-only"],
)
def test_where_nothing_can_be_written_one_line_says_so(
    tmp_path: Path, where: Callable[[Path], Path], why: str
) -> None:
    output = where(tmp_path / "closed") / "out.json"
    with pytest.raises(TriceError, match=rf"^{journal_path(output)}: cannot be written \({why}\)") as caught:
        RowStore(output, {})
    assert "\n" not in str(caught.value)


def test_a_soak_with_kills_loses_no_row_and_has_none_twice() -> None:
    words = [sys.executable, str(SOAK), "1000"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    processes = re.search(r"rows 1000, processes (\d+), lost 0, ", done.stdout)
    assert processes
    assert int(processes[1]) > 5
    assert "twice in the file 0, missing in the end 0" in done.stdout
