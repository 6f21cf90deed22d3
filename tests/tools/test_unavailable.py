"""A tool that cannot run stops the stage and is never a result; one that runs and fails is data."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tiny import command, read, says, write
from trice.errors import ToolUnavailable, TriceError
from trice.tools import BatchTool
from trice.tools.executor import run_all
from trice.tools.function_tool import FunctionTool
from trice.tools.passage_index import Passage, build_index
from trice.tools.worker_pool import run_in_pool
from trice.types import ToolCall

TOOLS = '''
from trice.errors import ToolUnavailable

def broken(text: str) -> str:
    """Cannot run, or fails at the argument."""
    if text == "down":
        raise ToolUnavailable("the warehouse is closed")
    if text == "memory":
        raise MemoryError
    raise ValueError(f"no {text}")
'''


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(path: Path, *responses: str) -> Path:
    return write(
        path,
        [
            {"id": f"a_{n}", "input": f"Is it {n}?", "answer": "7", "response": text}
            for n, text in enumerate(responses)
        ],
    )


def test_a_model_that_does_not_load_stops_evaluation_and_after_mending_the_results_are_right(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = says(tiny_model("llama"), tmp_path / "model", "7")
    weights = model / "model.safetensors"
    shutil.copy(weights, tmp_path / "whole")
    weights.write_bytes(b"torn")
    build_index([Passage("Seven", "It is 7.")], tmp_path / "index")
    data = rows(tmp_path / "in.json", "QA(is it 7)", "QA(is it 8)", "7")
    words = ["evaluate", "--task", "lama", "--tool", f"QA={model}#{tmp_path / 'index'}"]
    words += ["--data", str(data), "--output", str(tmp_path / "out" / "x.json")]
    for _ in range(2):
        code, _, told = command(capsys, *words)
        assert code == 2
        assert "cannot be loaded" in told[-1]
        assert not (tmp_path / "out" / "x.json").exists()
    shutil.copy(tmp_path / "whole", weights)
    assert command(capsys, *words)[0] == 0
    graded = read(tmp_path / "out" / "x.json")
    assert [row["correct"] for row in graded] == [True, True, True]
    assert [row["execution"]["output"] for row in graded[:2]] == ["7", "7"]


@pytest.mark.parametrize(
    ("argument", "line"), [("down", "the warehouse is closed"), ("memory", "broken: out of memory")]
)
def test_a_users_tool_that_cannot_run_stops_the_stage(
    argument: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"closed_{argument}.py").write_text(TOOLS)
    write_task(tmp_path, f"closed_{argument}:broken")
    data = rows(tmp_path / "in.json", "broken(x)", f"broken({argument})")
    words = ["evaluate", "--task", "own.yaml", "--data", str(data), "--output", "out/x.json"]
    code, _, told = command(capsys, *words)
    assert (code, line in told[-1]) == (1, True)
    assert not (tmp_path / "out" / "x.json").exists()
    rows(tmp_path / "in.json", "broken(x)")  # an ordinary exception is data
    assert command(capsys, *words)[0] == 0
    assert read(tmp_path / "out" / "x.json")[0]["execution"]["error"] == "broken failed: no x (ValueError)"


def write_task(folder: Path, tool: str) -> None:
    (folder / "own.yaml").write_text(f"name: own\ninstruction: Answer.\ntools: [{tool}]\n")


def test_label_stops_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed_both.py").write_text(TOOLS)
    write_task(tmp_path, "closed_both:broken")
    write(tmp_path / "q.json", [{"id": "a_1", "input": "Is it?", "answer": "7", "expression": "down"}])
    label = ["label", "--task", "own.yaml", "--data", "q.json", "--output", "l.json", "--teacher", "rule"]
    code, _, told = command(capsys, *label)
    assert (code, "the warehouse is closed" in told[-1]) == (1, True)
    assert not (tmp_path / "l.json").exists()


def test_an_error_that_an_older_version_kept_is_not_believed(tmp_path: Path) -> None:
    def shout(text: str) -> str:
        """Says it loudly."""
        return text.upper()

    pairs = [(FunctionTool(shout), ToolCall(name="shout", arguments={"text": text})) for text in "ab"]
    output = tmp_path / "x.json"
    run_all(pairs, output)
    beside = sqlite3.connect(tmp_path / ".x.json.calls", isolation_level=None)
    keys = [key for (key,) in beside.execute("SELECT key FROM executions ORDER BY key")]
    old = [{"error": "NotImplementedError: Cannot copy out of meta tensor"}, {"output": "paid for"}]
    for key, execution in zip(keys, old, strict=True):
        beside.execute("UPDATE executions SET execution = ? WHERE key = ?", (json.dumps(execution), key))
    beside.close()
    assert [execution.output for execution in run_all(pairs, output)] == ["A", "paid for"]


def test_a_batch_that_is_too_much_for_the_memory_is_tried_in_pieces() -> None:
    class Big(BatchTool):
        name, description = "big", "Takes much."

        def parse(self, text: str) -> dict[str, Any]:
            return {"text": text}

        def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
            if len(calls) > 1 or calls[0]["text"] == "huge":
                raise MemoryError
            return [calls[0]["text"].upper()]

    def run(*texts: str) -> dict[str, str | None]:
        tool = Big()
        pending = {text: (tool, ToolCall(name="big", arguments={"text": text})) for text in texts}
        return {key: execution.output for key, execution in run_in_pool(pending)}

    assert run("a", "b") == {"a": "A", "b": "B"}
    with pytest.raises(ToolUnavailable, match="big: out of memory"):
        run("a", "huge")


def test_models_are_loaded_by_threads_at_the_same_time(tiny_model: Callable[[str], Path]) -> None:
    from trice.models.local import load

    folders = [str(tiny_model("llama")), str(tiny_model("qwen2"))]
    for _ in range(4):
        barrier = threading.Barrier(4)
        found: list[object] = []

        def work(folder: str, barrier: threading.Barrier = barrier, found: list[object] = found) -> None:
            barrier.wait(20)
            try:
                loaded = load(folder, device="cpu", dtype="float32")
                found.append(next(loaded.model.parameters()).device.type)
            except Exception as failure:
                found.append(failure)

        threads = [threading.Thread(target=work, args=(folder,)) for folder in folders * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == ["cpu"] * 4


def test_a_tools_model_is_loaded_once_and_used_by_several_threads(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    from trice.tools.text_models import ModelSource, open_writer

    source = str(says(tiny_model("llama"), tmp_path / "model", "7"))
    barrier, found = threading.Barrier(4), []

    def work() -> None:
        barrier.wait(20)
        writer = open_writer(ModelSource.parse(source)[0])
        found.append((id(writer), writer.write(["a", "longer text"], 3)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len({owner for owner, _ in found}) == 1
    assert [texts for _, texts in found] == [["7", "7"]] * 4


def test_a_tool_that_hangs_is_refused_at_once_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from queue import Queue

    from trice.tools import worker_pool
    from trice.tools.live_executor import LiveExecutor
    from trice.types import Execution

    over, started = threading.Event(), []

    def hangs(text: str) -> str:
        """Hangs."""
        started.append(text)
        over.wait(60)
        return text

    def shout(text: str) -> str:
        """Says it loudly."""
        return text.upper()

    monkeypatch.setattr(worker_pool, "MAX_HUNG", 3)
    bad, good = FunctionTool(hangs, 0.05), FunctionTool(shout)
    found: Queue[Execution | TriceError] = Queue()

    def ask(tool: FunctionTool, text: str) -> Execution | TriceError:
        calls.run(tool, ToolCall(name=tool.name, arguments={"text": text}), found.put)
        return found.get(timeout=10)

    with LiveExecutor() as calls:
        for text in "abc":
            result = ask(bad, text)
            assert isinstance(result, Execution)
            assert result.error == "no result within 0.05 seconds"
        for _ in range(10):
            refused, other = ask(bad, "d"), ask(good, "e")
            assert isinstance(refused, ToolUnavailable)
            assert isinstance(other, Execution)
            assert other.output == "E"
        assert started == ["a", "b", "c"]  # no further thread
        over.set()
        until = time.monotonic() + 10
        while isinstance(result := ask(bad, "f"), TriceError):  # until the threads have come to their ends
            assert time.monotonic() < until
            time.sleep(0.01)
        assert result.output == "f"
