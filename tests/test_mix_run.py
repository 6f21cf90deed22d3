"""One model for several tasks, from one recipe: own files of two tasks and an unseen one, second turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tiny import read, says, write
from trice.errors import InputError
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run
from trice.tasks import MIX
from trice.tools.passage_index import Passage, build_index

pytestmark = pytest.mark.usefixtures("undrawn")
LANDS = ["Zembla", "Ruritania", "Gondal", "Angria", "Freedonia", "Sylvania"]
PASSAGES = [Passage(land, f"{land} has {i} castles.") for i, land in enumerate(LANDS, 5)]
DATA = [
    "{dataset: sums, task: math, train_file: sums.jsonl, test_file: sums_test.jsonl}",
    "{dataset: lands, task: qa, train_file: lands.jsonl, test_file: lands_test.jsonl}",
    "{dataset: unseen, task: hotpot, train: 0, train_file: lands.jsonl, test_file: unseen.jsonl}",
]
RECIPE = f"""
name: small-mix
task: mix
data: [{", ".join(DATA)}]
tools: {{WikiSearch: index, retriever: index}}
label: {{teacher: rule, reading: true}}
clone: {{max_steps: 2, batch_size: 4, learning_rate: 1e-2, lora: {{r: 2}}}}
collect:
  - {{origin: forced, from: base, few_shot: calls, tool_choice: required}}
score: {{second_turn: true}}
rlef: {{max_steps: 1, batch_size: 4}}
evaluate: {{conditions: [zero-shot, tool-100, stage-1, both]}}
max_new_tokens: 4
device: cpu
dtype: float32
"""


def sums(numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"id": f"s-{i}", "question": f"{i} and 3?", "answer": str(i + 3), "expression": f"{i}+3"}
        for i in numbers
    ]


def castles(numbers: Sequence[int], **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"c-{i}", "question": f"how many castles has {LANDS[i]}?", "answer": str(i + 5)} | fields
        for i in numbers
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]) -> Path:
    """A working folder with questions, an index, a model that says 5, and the recipe."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sums.jsonl", sums(range(4)))
    write(tmp_path / "sums_test.jsonl", sums((2, 9)))
    write(tmp_path / "lands.jsonl", castles(range(4)))
    write(tmp_path / "lands_test.jsonl", castles((0, 4)))
    given = [{"title": passage.title, "text": passage.text} for passage in PASSAGES[:2]]
    write(tmp_path / "unseen.jsonl", castles((0, 5), passages=given))
    build_index(PASSAGES, tmp_path / "index")
    model = says(tiny_model("llama"), tmp_path / "five", "5")
    (tmp_path / "mix.yaml").write_text(f"{RECIPE}model: {model}\n")
    return tmp_path


def test_a_mix_goes_through_the_whole_loop(folder: Path) -> None:
    out = run(load_recipe("mix.yaml"))
    data = out / "data"
    assert {row["task"] for row in read(data / "raw/mix/sums.json")} == {"math"}
    assert not (data / "raw/mix/unseen.json").exists()
    tests = read(data / "dev/mix/mix.json")
    assert [row["task"] for row in tests] == ["math", "math", "qa", "qa", "hotpot", "hotpot"]
    assert {row["instruction"] for row in tests[:4]} == {MIX}
    assert "retriever" in tests[4]["instruction"]

    # c-0 is tested too; the base model says 5: right on s-2 (tested too, left out) and on none that is left
    asked = {row["id"]: row for row in read(data / "stage1/mix/questions.json")}
    assert {name: row["output"] for name, row in asked.items()} == {
        **{f"s-{i}": f"calculator({i}+3)" for i in (0, 1, 3)},
        **{f"c-{i}": f"WikiSearch(castles {LANDS[i]})" for i in (1, 2, 3)},
    }
    rows = read(data / "stage1/mix/mix.json")
    readings = [row for row in rows if row.get("task") == "second-turn"]
    assert len(rows) == len(asked) + len(readings)
    assert {row["id"].partition("/")[0] for row in readings} == {"c-1", "c-2", "c-3"}
    for row in readings:
        assert row["output"] in row["input"].partition("\nQuestion: ")[0]

    ranked = {row["id"]: row for row in read(data / "stage2/mix/mix.json")}
    assert set(ranked) == set(asked)
    forced = {row["id"]: row["response"] for row in read(data / "stage2/mix/mix_forced_response.json")}
    assert all(
        text.startswith("calculator(" if name[0] == "s" else "WikiSearch(") for name, text in forced.items()
    )

    results = json.loads((out / "results.json").read_text())
    assert list(results["conditions"]["both"]) == ["sums", "lands", "unseen", "total"]
    assert results["conditions"]["zero-shot"]["lands"]["accuracy"]["count"] == 1
    assert set(results["yields"]) == {"sums", "lands"}
    assert not list(out.rglob("*.calls*")) + list(out.rglob(".*_turn*")) + list(out.rglob(".*.new"))
    assert run(load_recipe("mix.yaml")) == out


def test_split_s_answers_are_candidates_without_another_question(folder: Path) -> None:
    settings = "evaluate.conditions=[both]"
    out = run(load_recipe("mix.yaml", ["collect=[{origin: direct, from: split}]", settings]))
    asked = {row["id"] for row in read(out / "data/stage1/mix/questions.json")}
    rows = read(out / "data/stage2/mix/mix_direct_response.json")
    assert {row["id"]: row["response"] for row in rows} == dict.fromkeys(asked, "5")
    assert {row["origin"] for row in rows} == {"direct"}
    ranked = read(out / "data/stage2/mix/mix.json")
    assert all([each["origin"] for each in row["candidates"]] == ["gold", "direct"] for row in ranked)
    assert run(load_recipe("mix.yaml", ["collect=[{origin: direct, from: split}]", settings])) == out
    with pytest.raises(InputError, match="from 'split' generates nothing"):
        load_recipe("mix.yaml", ["collect=[{origin: direct, from: split, samples: 2}]"])


def test_one_model_for_each_task(folder: Path) -> None:
    out = run(load_recipe("mix.yaml", ["per_task=true", "evaluate.conditions=[zero-shot, stage-1]"]))
    assert sorted(path.name for path in (out / "models").iterdir()) == ["math", "qa"]
    for task, data in (("math", "sums"), ("qa", "lands")):
        assert (out / "models" / task / "stage-1" / "adapter_model.safetensors").is_file()
        assert {row["dataset"] for row in read(out / f"data/dev/{task}/{task}.json")} == {data}
    (instruction,) = {row["instruction"] for row in read(out / "data/dev/qa/qa.json")}
    assert instruction == "Given a question, please answer it and you can use a WikiSearch for help."
    steps = [step["name"] for step in json.loads((out / "run.json").read_text())["steps"]]
    assert {"math: data", "qa: data", "math: train stage-1", "qa: train stage-1"} <= set(steps)
    results = json.loads((out / "results.json").read_text())
    assert set(results["conditions"]["stage-1"]) == {"sums", "lands", "total"}


def test_need_is_what_the_base_model_gets_wrong_with_tools_withheld_or_what_requires_a_tool(
    folder: Path,
) -> None:
    """The model says 5, which is right for one of each data set's two questions."""
    required = DATA[1].replace("}", ", tool: required}")
    settings = "evaluate.conditions=[zero-shot]"
    out = run(load_recipe("mix.yaml", [settings, f"data=[{DATA[0]}, {required}]", "split.few_shot=direct"]))
    results = json.loads((out / "results.json").read_text())
    need = {name: part["need"]["count"] for name, part in results["conditions"]["zero-shot"].items()}
    assert need == {"sums": 1, "lands": 2, "total": 3}
    assert results["need"]["qa"]["count"] == 2
    assert {row["tool"] for row in read(out / "data/raw/mix/lands.json")} == {"required"}
    asked = [json.loads(path.read_text().splitlines()[0]) for path in out.rglob(".*zero-shot*.journal")]
    (header,) = (each["settings"] for each in asked if "tool_choice" in each["settings"])
    assert (header["tool_choice"], len(header["examples"]["math"]) > 0) == ("none", True)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (f"data=[{DATA[0].replace('task: math, ', '')}]", "data set 'sums': the key 'task' is missing; in a mix"),
        ("task=qa", "data set 'sums': belongs to task 'math', not to 'qa'"),
        (f"data=[{DATA[2]}]", "key 'data': every data set has train: 0; give one"),
        ("tools={WikiFind: index}", "unknown tool 'WikiFind'"),
        ("tools={WikiSearch: nowhere}", "nowhere: there is no index in this folder"),
        ("tools={calculator: index}", "tool 'calculator': takes no source"),
        (f"data=[{DATA[0].replace('math', 'cooking')}]", "unknown task 'cooking'"),
        (f"data=[{DATA[1].replace('qa', 'math').replace('lands.', 'words.')}]", "words.jsonl:1: field 'answer'"),
        ("collect=[{origin: a, from: model}]", "the key 'model' belongs to from 'model'; give both"),
        ("collect=[{origin: a, from: base, model: x}]", "the key 'model' belongs to from 'model'; give both"),
        ("collect=[{origin: a, from: base, adapter: x}]", "'format' and 'template' apply to from 'model' only"),
        ("collect=[{origin: a, from: model, model: no/such}]", "model 'no/such' is neither"),
        ("collect=[{origin: a, from: base, few_shot: many}]", "few-shot 'many' is not valid; choose direct"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_runs(folder: Path, override: str, complaint: str) -> None:
    write(folder / "words.jsonl", [{"id": "w-1", "question": "q", "answer": "five"}])
    with pytest.raises(InputError) as caught:
        run(load_recipe("mix.yaml", [override]))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "runs").exists()


def test_one_model_for_each_task_goes_with_a_mix(folder: Path) -> None:
    with pytest.raises(InputError, match="key 'per_task': applies to task mix only"):
        load_recipe("mix.yaml", ["task=math", "per_task=true", f"data=[{DATA[0]}]"])
