"""A changed file that a finished step has used is named, and the run is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tiny import says, write
from trice.errors import InputError
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run, status

sys.path.append(str(Path(__file__).parent / "models"))
from stand_in_server import StandIn

MODULES = {
    "plus_tool.py": 'def plus(first: int, second: int) -> int:\n    """Adds."""\n    return first + second\n',
    "short_reward.py": "def reward(question, response):\n    return -len(response.response)\n",
}
TASK = "name: sums\ninstruction: Add, or let plus add.\ntools: [plus_tool:plus]\nanswers: numbers\n"
TEMPLATE = {"prompt_input": "{instruction}\n{input}\n", "prompt_no_input": "{instruction}\n"}
PROMPT = {"system": "Write the call.", "examples": []}
RECIPE = """
name: files
task: sums.yaml
template: template.json
data: [{dataset: mine, train_file: train.jsonl, test_file: test.jsonl}]
split: {few_shot: split.jsonl}
label: {teacher: endpoint, prompt: prompt.json, endpoint: {url: URL, model: m}}
collect: [{origin: own, from: base, few_shot: collect.jsonl}]
score: {reward: "short_reward:reward"}
clone: {max_steps: 1, batch_size: 4, lora: {r: 2}}
rlef: {max_steps: 1, batch_size: 4, lora: {r: 2}}
evaluate: {conditions: [few-shot, stage-2-alone], few_shot: evaluate.jsonl}
max_new_tokens: 4
device: cpu
dtype: float32
"""
EXAMPLES = ("split.jsonl", "collect.jsonl", "evaluate.jsonl")


@pytest.fixture(scope="module")
def finished(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a finished run that used every kind of file."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for name, text in MODULES.items():
            (folder / name).write_text(text)
            patch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        (folder / "sums.yaml").write_text(TASK)
        (folder / "template.json").write_text(json.dumps(TEMPLATE))
        (folder / "prompt.json").write_text(json.dumps(PROMPT))
        for name in EXAMPLES:
            write(folder / name, [{"input": "1 and 3?", "output": "4"}])
        rows = [{"id": f"m-{i}", "question": f"{i} and 3?", "answer": str(i + 3)} for i in range(12)]
        write(folder / "train.jsonl", rows[:8])
        write(folder / "test.jsonl", rows[8:])
        model = says(tiny_model("llama"), folder / "five", "5")
        with StandIn(lambda message: "plus(1, 3)") as server:
            (folder / "files.yaml").write_text(f"{RECIPE.replace('URL', server.url)}model: {model}\n")
            run(load_recipe("files.yaml"))
        yield folder


@pytest.mark.parametrize(
    ("name", "added"),
    [
        *((name, "# changed\n") for name in (*MODULES, "sums.yaml")),
        *((name, "\n") for name in ("template.json", "prompt.json")),
        *((name, '{"input": "2 and 3?", "output": "5"}\n') for name in EXAMPLES),
        ("train.jsonl", '{"id": "m-99", "question": "99 and 3?", "answer": "102"}\n'),
    ],
)
def test_a_changed_file_is_named(finished: Path, name: str, added: str) -> None:
    path = finished / name
    before = path.read_text()
    path.write_text(before + added)
    with pytest.raises(InputError) as caught:
        run(load_recipe("files.yaml"))
    path.write_text(before)
    assert str(caught.value) == (
        f"{name}: has changed since a step of runs/files used it; restore it, or use another output="
    )


def test_restored_files_are_the_same_run(finished: Path) -> None:
    assert all("finished in" in line for line in status(load_recipe("files.yaml"))[1:-1])
    (finished / "sums.yaml").touch()
    assert all("finished in" in line for line in status(load_recipe("files.yaml"))[1:-1])


def test_a_file_that_no_finished_step_has_used_may_change(finished: Path) -> None:
    """Evaluation alone does not depend on the reward."""
    only = ["evaluate.conditions=[zero-shot]", "output=runs/zero"]
    run(load_recipe("files.yaml", only))
    reward = finished / "short_reward.py"
    before = reward.read_text()
    reward.write_text(before + "# changed\n")
    run(load_recipe("files.yaml", only))
    reward.write_text(before)
