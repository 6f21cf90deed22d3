"""How far a run is, told from its files while it goes on, and failed rows that are asked for again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test_imports import loaded
from tiny import command, read, says, sums, tree, write
from trice.errors import TriceError
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run, status, table
from trice.storage.row_state import RowState, journal_path, read_state, to_lines
from trice.storage.row_store import RowStore
from trice.storage.run_store import RunStore, Step

sys.path.append(str(Path(__file__).parent / "models"))
from stand_in_server import StandIn

pytestmark = pytest.mark.usefixtures("undrawn")
RECIPE = """
name: small
data: [{dataset: sums, task: math, train_file: sums.jsonl, test_file: tests.jsonl}]
collect:
  - {origin: gpt, from: endpoint, endpoint: {url: URL, model: m}}
score: {reward: "reward_of_tests:reward"}
clone: {max_steps: 1, batch_size: 4, lora: {r: 2}}
rlef: {max_steps: 1, batch_size: 4, lora: {r: 2}}
evaluate: {conditions: [stage-2-alone]}
max_new_tokens: 4
device: cpu
dtype: float32
"""
REWARD = """
from pathlib import Path
def reward(question, response):
    if Path("broken").exists():
        raise ValueError("broken")
    return len(response.response)
"""


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with questions, a reward and a model that says 5."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = read(sums(tmp_path / "sums.jsonl", 10))
    write(tmp_path / "sums.jsonl", rows[:8])
    write(tmp_path / "tests.jsonl", rows[8:])
    (tmp_path / "reward_of_tests.py").write_text(REWARD)
    model = says(tiny_model("llama"), tmp_path / "five", "5")
    (tmp_path / "small.yaml").write_text(f"{RECIPE}model: {model}\n")
    return tmp_path


def told(output: Path, *entries: dict[str, Any], total: int = 10) -> RowState:
    """What a journal of `entries` says, begun at 100 s."""
    header = {"at": 100.0, "settings": {}, "total": total}
    journal_path(output).write_text(to_lines([header, *entries]))
    state = read_state(output)
    assert state is not None
    return state


def row(at: float, key: str) -> dict[str, Any]:
    return {"at": at, "key": key, "row": {}}


def test_the_rate_counts_from_the_first_rows_and_the_time_left_follows(tmp_path: Path) -> None:
    # 80 s of loading, then a row at once and four in 2 s
    rows = [row(180.0, "a"), row(181.0, "b"), row(181.0, "c"), row(182.0, "d")]
    state = told(tmp_path / "x", *rows, {"at": 182.0, "key": "e", "failed": "no reply"})
    assert (state.done_count, state.failed_count, state.remaining_count) == (4, 1, 5)
    assert state.rate == 4 / 2
    assert state.seconds == 82


def test_the_rate_is_that_of_the_last_go_and_the_night_between_does_not_count(tmp_path: Path) -> None:
    rows = [row(110.0, "a"), row(120.0, "b")]
    again = {"at": 90_000.0, "resumed": True, "retry": False}
    state = told(tmp_path / "x", *rows, again, row(90_001.0, "c"), row(90_002.0, "d"), row(90_003.0, "e"))
    assert state.rate == 1
    assert state.seconds == 20 + 3
    assert told(tmp_path / "x", *rows, again).rate is None
    assert told(tmp_path / "x", row(104.0, "a")).rate == 1 / 4


def test_a_row_that_failed_and_came_is_no_failed_one(tmp_path: Path) -> None:
    failed = {"at": 101.0, "key": "a", "failed": "no reply"}
    again = {"at": 102.0, "resumed": True, "retry": True}
    assert told(tmp_path / "x", failed).failed_count == 1
    assert told(tmp_path / "x", failed, again).failed_count == 0
    state = told(tmp_path / "x", failed, row(103.0, "a"))
    assert (state.done_count, state.failed_count) == (1, 0)


def test_what_was_finished_is_told_by_the_last_line(tmp_path: Path) -> None:
    with RowStore(tmp_path / "x", {}, 3) as store:
        store.add({"a": {}, "b": {}})
        store.fail("c", "no reply")
        store.finish(store.rows.values())
    state = read_state(tmp_path / "x")
    assert state is not None
    assert (state.done_count, state.failed_count, state.remaining_count) == (2, 1, 0)
    assert read_state(tmp_path / "none") is None


def test_each_step_has_a_line(tmp_path: Path) -> None:
    rows, training = tmp_path / "rows.json", tmp_path / "model"
    told(rows, row(101.0, "a"), row(102.0, "b"), row(104.0, "c"), {"at": 104.0, "key": "d", "failed": "no"})
    for number, state in enumerate(('{"global_step": 10, "max_steps": 40}', '{"glob')):
        write(training / f"checkpoint-{number}" / "x", [])
        (training / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    plan = [
        Step("data", "data", print),
        Step("collect a", "collect", print, progress=rows),
        Step("train both", "train", print, progress=training),
        Step("score", "score", print),
    ]
    store = RunStore(tmp_path, {}, {})
    store.run(plan[0])
    store.finished[0]["seconds"] = 75
    head, *shown, last = table(plan, store.finished_steps(plan))
    assert head.split() == ["step", "done", "failed", "remaining", "rate"]
    assert shown[0].split(maxsplit=1) == ["data", "finished in 1 min 15 s"]
    assert shown[1].split()[:6] == ["collect", "a", "3", "1", "6", "1/s"]
    assert "6.0 s left, last row " in shown[1]
    assert shown[2].endswith("step 10 of 40 at the last checkpoint")
    assert shown[3] == "score"
    assert last == "1 of 4 steps finished"


def test_looking_takes_no_lock_changes_nothing_and_loads_no_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("small.yaml")
    assert status(recipe)[-1].startswith("0 of 1")
    assert not (folder / "runs").exists()
    output = recipe.folder / "data/raw/math/.sums.json.answers"
    output.parent.mkdir(parents=True)
    with RowStore(output, {}, 8) as store:
        store.add({"a": {}, "b": {}})
        before = tree(folder), store.path.read_bytes()
        code, out, _ = command(capsys, "run", "small.yaml", "--status")
        assert code == 0
        assert next(line.split()[:5] for line in out.splitlines() if "split" in line) == [
            "split", "sums", "2", "0", "6",
        ]  # fmt: skip
        assert (tree(folder), store.path.read_bytes()) == before
    words = ["trice", "run", "small.yaml", "--status"]
    assert loaded(f"import sys\nsys.argv = {words}\nfrom trice.cli import main\nmain()") == set()


def test_failed_rows_are_asked_for_again_until_a_model_is_trained_on_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def collected() -> list[str]:
        return sorted(each["id"] for each in read(recipe.folder / "data/stage2/math/math_gpt_response.json"))

    def line(step: str) -> list[str]:
        return next(each for each in status(recipe) if each.startswith(step)).removeprefix(step).split()

    refused = ["brief", "400"]  # refused when others have been answered, it is the question's own fault
    failing = {"7 and 7?": refused * 1, "6 and 7?": refused * 2}
    with StandIn(lambda message: "calculator(1+7)", script=failing) as server:
        (folder / "small.yaml").write_text((folder / "small.yaml").read_text().replace("URL", server.url))
        recipe = load_recipe("small.yaml")
        (folder / "broken").touch()
        with pytest.raises(TriceError, match="reward 'reward_of_tests:reward' failed"):
            run(recipe)
        assert collected() == [f"S_{i}" for i in range(6)]
        assert line("collect gpt")[:3] == ["6", "2", "0"]
        asked = len(server.seen)
        with pytest.raises(TriceError, match="reward"):  # nothing is asked again unless told
            run(recipe)
        assert len(server.seen) == asked
        (folder / "broken").unlink()
        run(recipe, retry=True)
        assert len(server.seen) == asked + 1 + 2
        assert collected() == [f"S_{i}" for i in (0, 1, 2, 3, 4, 5, 7)]
        assert line("collect gpt")[:3] == ["7", "1", "0"]
        assert sorted(server.paid.values()) == [1] * 7
        before = tree(recipe.folder / "data")
        capsys.readouterr()
        run(recipe, retry=True)
        said = "collect gpt: 1 failed rows are not tried again: 'train stage-2-alone' has used the others"
        assert said in capsys.readouterr().err
        assert (tree(recipe.folder / "data"), len(server.seen)) == (before, asked + 3)
    assert line("train stage-2-alone")[0] == "finished"
