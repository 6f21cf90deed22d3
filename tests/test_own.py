"""A user's own questions, tool and task, through the whole loop from one recipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trice.errors import InputError
from trice.recipes.paths import RunPaths
from trice.recipes.questions import load_questions, write_questions
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run
from trice.storage.files import read_rows
from trice.tasks import Tasks
from trice.types import Question

pytestmark = pytest.mark.usefixtures("undrawn")
OWN = '''
from trice.tools.function_tool import FunctionTool

def plus(first: int, second: int) -> int:
    """Adds two numbers."""
    return first + second

class Sums:
    name = "sums"
    instruction = "Add, or let plus add."
    tools = (FunctionTool(plus),)

    def predict(self, text):
        return text

    def judge(self, prediction, answers):
        return prediction in answers

    def check(self, answers):
        if not answers[0].isdigit():
            raise ValueError("no whole number")

class NoSums:
    name = "nosums"

class Bare(Sums):
    tools = (plus,)

class Single(Sums):
    tools = FunctionTool(plus)

class Long(Sums):
    instruction = "Two\\nlines."
'''


def test_a_question_that_is_held_out_is_trained_on_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last two questions of `a` are held out; `b` trains on one of them, and has another one for its rounds."""

    def file(name: str, *numbers: int) -> Path:
        rows = [
            {"id": f"{name}-{place}", "question": f"What is {n} and 1?", "answer": str(n + 1)}
            for place, n in enumerate(numbers)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    tests, rounds = file("tests", 90, 91), file("rounds", 3, 7, 90)
    data = [
        {"dataset": "a", "train_file": str(file("a", 1, 2, 3, 4)), "test_file": str(tests)},
        {"dataset": "b", "train_file": str(file("b", 4, 5, 6, 8, 9)), "test_file": str(file("tests-b", 92)),
         "feedback_file": str(rounds)},
    ]  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": "x",
                "task": "math",
                "model": "none",
                "data": data,
                "validation": 2,
                "label": {"teacher": "rule"},
            }
        )
    )
    chosen = load_recipe(str(recipe), ["clone.eval_steps=1", "rlef.rounds=1", f"output={tmp_path / 'run'}"])
    paths = RunPaths(chosen.folder, "math", rounds=1)
    write_questions(chosen, Tasks("math"), paths)

    def numbers(path: Path) -> list[int]:
        return [int(row.input.split()[2]) for row in read_rows(path, Question)]

    assert numbers(paths.validation) == [3, 4, 8, 9]
    assert (numbers(paths.train("a")), numbers(paths.train("b"))) == ([1, 2], [5, 6])
    assert (numbers(paths.feedback("b")), numbers(paths.tests)) == ([7], [90, 91, 92])
    notices = capfd.readouterr().err
    assert "b, train: 1 questions are left out, because they are held out or tested" in notices
    assert "b, feedback: 2 questions are left out" in notices
    assert "validation:" not in notices

    everything = {"dataset": "d", "train_file": str(file("d", 9)), "test_file": str(file("all", 1, 2, 3, 4))}
    again = {"name": "x", "task": "math", "model": "none", "data": [data[0], everything]}
    recipe.write_text(json.dumps(again | {"label": {"teacher": "rule"}}))
    chosen = load_recipe(str(recipe), [f"output={tmp_path / 'other'}"])
    with pytest.raises(
        InputError, match="data set 'a', train: all questions are held out or tested elsewhere"
    ):
        write_questions(chosen, Tasks("math"), RunPaths(chosen.folder, "math"))


def test_questions_without_a_call_for_the_teacher_are_refused_before_the_model_is_loaded(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    rows = [{"id": str(n), "question": f"What is {n} and 1?", "answer": str(n + 1)} for n in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"expresion": "1+1"}) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    data = [{"dataset": "mine", "file": str(path)}]
    recipe.write_text(
        json.dumps({"name": "x", "task": "math", "model": str(tiny_model("llama")), "data": data})
    )
    with pytest.raises(
        InputError, match=r"rows\.jsonl:\d: neither this question .* has the field 'expression'"
    ):
        run(load_recipe(str(recipe), ["label.teacher=annotations", f"output={tmp_path / 'run'}"]))


FILES = "dataset: mine, train_file: train.jsonl, test_file: test.jsonl"
RECIPE = f"""
name: sums
task: own_sums:Sums
data: [{{{FILES}}}]
clone: {{max_steps: 2, batch_size: 4}}
rlef: {{max_steps: 1, batch_size: 4}}
collect:
  - {{origin: sampled, from: stage-1, samples: 2, temperature: 1.0}}
evaluate: {{conditions: [zero-shot, stage-1, both]}}
max_new_tokens: 8
device: cpu
dtype: float32
"""


def rows(numbers: range, **changes: Any) -> str:
    """Sums of a number and 3, each with its gold call's arguments."""
    fields = [
        {"id": f"m-{i}", "question": f"{i} and 3?", "answer": str(i + 3), "expression": f"{i}, second=3"}
        for i in numbers
    ]
    return "".join(json.dumps(row | changes) + "\n" for row in fields)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]) -> Path:
    """A working folder with the user's module, questions and recipe."""
    (tmp_path / "own_sums.py").write_text(OWN)
    (tmp_path / "sums.yaml").write_text(f"{RECIPE}model: {tiny_model('llama')}\n")
    (tmp_path / "train.jsonl").write_text(rows(range(8)))
    (tmp_path / "test.jsonl").write_text(rows(range(20, 23)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_sums", raising=False)
    return tmp_path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_own_questions_task_and_tool_go_through_the_whole_loop(folder: Path) -> None:
    out = run(load_recipe("sums.yaml", [f"data=[{{{FILES}, train: 6}}]"]))
    labels = read(out / "data/stage1/sums/sums.json")
    assert sorted(row["output"] for row in labels) == [f"plus({i}, second=3)" for i in range(6)]
    assert {row["instruction"] for row in labels} == {"Add, or let plus add."}
    ranked = read(out / "data/stage2/sums/sums.json")
    assert [row["answer"][0] for row in ranked] == [row["answer"] for row in labels]
    results = json.loads((out / "results.json").read_text())
    assert set(results["conditions"]) == {"zero-shot", "stage-1", "both"}
    assert set(results["conditions"]["both"]) == {"mine", "total"}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("task=own_sums:NoSums", "task 'own_sums:NoSums': has no instruction and no tools and no predict"),
        ("task=own_sums:Bare", "its tools are no tuple of tools; a function becomes a tool as FunctionTool"),
        ("task=own_sums:Single", "its tools are no tuple of tools"),
        ("task=own_sums:Long", "its instruction holds a line break"),
        (
            f"data=[{{{FILES.replace('mine', 'SVAMP')}}}]",
            "'SVAMP' names files: choose another name than trice's",
        ),
        (
            "label={teacher: endpoint, endpoint: {url: 'http://127.0.0.1:9/v1', model: m}}",
            "no teacher's prompt for task 'sums'",
        ),
        ("task=own_sums:nosuch", "task 'own_sums:nosuch': the module own_sums has no 'nosuch'"),
        ("evaluate.conditions=[few-shot]", "few-shot 'mixed': task 'sums' ships no examples"),
        (
            "split.few_shot=direct",
            "key 'split.few_shot': few-shot 'direct': task 'sums' ships no examples.*split.few_shot=null",
        ),
        ("data=[{dataset: mine, train_file: train.jsonl}]", "one of 'train_file' and 'test_file' is missing"),
        (
            "data=[{dataset: mine, file: train.jsonl, test_file: test.jsonl}]",
            "one of 'train_file' and 'test_file' is missing",
        ),
        ("data=one.jsonl", r"^one\.jsonl: 1 questions are too few to train and to test"),
        ("data=nosuch.jsonl", r"^nosuch\.jsonl: no such file"),
        ("data=starter-quiz", "unknown data set 'starter-quiz'"),
        (f"data=[{{{FILES.replace('mine', 'a/b')}}}]", "'a/b' is not valid; use letters"),
        (f"data=[{{{FILES.replace('train.', 'nosuch.')}}}]", r"^nosuch\.jsonl: no such file"),
        (f"data=[{{{FILES.replace('train.', 'twice.')}}}]", r"^twice\.jsonl:2: field 'id': 'm-1'"),
        (f"data=[{{{FILES.replace('train.', 'words.')}}}]", r"^words\.jsonl:2: field 'answer': no whole"),
        (f"data=[{{{FILES}, train: 9}}]", "9 questions wanted, there are 8"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(folder: Path, override: str, complaint: str) -> None:
    (folder / "twice.jsonl").write_text(rows(range(1, 2)) * 2)
    (folder / "one.jsonl").write_text(rows(range(1)))
    (folder / "words.jsonl").write_text(rows(range(1)) + rows(range(1, 2), answer="four"))
    with pytest.raises(InputError, match=complaint) as caught:
        run(load_recipe("sums.yaml", [override]))
    assert "\n" not in str(caught.value)
    assert not (folder / "runs").exists()


def test_a_file_that_changed_is_not_mixed_into_a_run(folder: Path) -> None:
    only = "evaluate.conditions=[zero-shot]"
    run(load_recipe("sums.yaml", [only]))
    run(load_recipe("sums.yaml", [only]))
    (folder / "train.jsonl").write_text(rows(range(9)))
    with pytest.raises(
        InputError,
        match=r"^train\.jsonl: has changed since a step of runs/sums used it; restore it, or use another",
    ):
        run(load_recipe("sums.yaml", [only]))


def test_fields_that_graded_rows_have_do_no_harm(folder: Path) -> None:
    changed = rows(range(20, 23), call="a phone call", prediction=7, outcome="none")
    (folder / "test.jsonl").write_text(changed)
    out = run(load_recipe("sums.yaml", ["evaluate.conditions=[zero-shot]"]))
    assert len(read(out / "data/dev/sums/sums_zero-shot_result.json")) == 3


def test_a_training_question_that_is_tested_too_is_left_out(folder: Path) -> None:
    (folder / "test.jsonl").write_text(rows(range(4, 8)))
    out = run(load_recipe("sums.yaml", ["evaluate.conditions=[zero-shot]"]))
    assert [row["id"] for row in read(out / "data/raw/sums/mine.json")] == ["m-0", "m-1", "m-2", "m-3"]
    assert [row["id"] for row in read(out / "data/dev/sums/sums.json")] == ["m-4", "m-5", "m-6", "m-7"]


TASK_FILE = """
name: sums-of-mine
instruction: Add, or let plus add.
tools: [own_sums:plus, calculator]
answers: numbers
"""


def test_a_task_may_be_a_few_lines_of_yaml(folder: Path) -> None:
    (folder / "mine.yaml").write_text(TASK_FILE)
    recipe = load_recipe(
        "sums.yaml", ["task=mine.yaml", "collect=[]", "evaluate.conditions=[zero-shot, stage-1]"]
    )
    out = run(recipe)
    labels = read(out / "data/stage1/sums-of-mine/sums-of-mine.json")
    assert sorted(row["output"] for row in labels) == [f"plus({i}, second=3)" for i in range(8)]
    result = read(out / "data/dev/sums-of-mine/sums-of-mine_stage-1_result.json")
    assert {row["instruction"] for row in result} == {"Add, or let plus add."}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            ("answers: numbers", "answers: colours"),
            "mine.yaml: field 'answers': Input should be 'words', 'words-published', 'auto' or 'numbers'",
        ),
        (("answers:", "judged:"), "mine.yaml: field 'judged': Extra inputs are not permitted"),
        (("own_sums:plus", "own_sums:minus"), "tool 'own_sums:minus': the module own_sums has no 'minus'"),
        (("sums-of-mine", "Sums of mine"), "its name 'Sums of mine' is not of small letters"),
        (("[own_sums:plus, calculator]", "["), "mine.yaml: not YAML"),
        (
            ("own_sums:plus, calc", "own_sums:plus, own_sums:plus, calc"),
            "task 'mine.yaml': two of its tools are named 'plus'; rename or remove one",
        ),
    ],
)
def test_a_task_file_that_does_not_fit_is_refused(
    folder: Path, change: tuple[str, str], complaint: str
) -> None:
    (folder / "mine.yaml").write_text(TASK_FILE.replace(*change))
    with pytest.raises(InputError, match=re.escape(complaint)):
        run(load_recipe("sums.yaml", ["task=mine.yaml"]))


def test_two_models_of_different_families_give_candidates_in_one_recipe(
    folder: Path, tiny_model: Callable[[str], Path]
) -> None:
    other = tiny_model("qwen2")
    how = "from: model, template: alpaca, beams: 2"
    origins = f"[{{origin: own, from: base}}, {{origin: other, model: {other}, {how}}}]"
    out = run(load_recipe("sums.yaml", [f"collect={origins}", "evaluate.conditions=[both]"]))
    ranked = read(out / "data/stage2/sums/sums.json")
    assert {origin for row in ranked for each in row["candidates"] for origin in [each["origin"]]} == {
        "gold",
        "own",
        "other",
    }


def test_one_file_of_questions_is_enough(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is split by the recipe's seed, ids are made, and the default conditions need no worked examples."""
    given = [json.loads(row) for row in rows(range(10)).splitlines()]
    for row in given:
        del row["id"]
    (folder / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    (folder / "shop.yaml").write_text(
        f"name: shop\ntask: own_sums:Sums\ndata: shop.jsonl\nmodel: {model_of(folder)}\nmax_new_tokens: 4\n"
        "clone: {max_steps: 1}\nrlef: {max_steps: 1}\ndevice: cpu\ndtype: float32\n"
    )
    recipe = load_recipe("shop.yaml")
    assert "few-shot" not in recipe.evaluate.conditions
    assert {"stage-2-alone", "both"} <= set(recipe.evaluate.conditions)
    out = run(load_recipe("shop.yaml", ["evaluate.conditions=[stage-2-alone]"]))
    assert "shop.jsonl: 8 questions to train on, 2 to test (split by seed 0)" in capsys.readouterr().err
    train = {row["id"] for row in read(out / "data/raw/sums/shop.json")}
    test = {row["id"] for row in read(out / "data/dev/sums/sums.json")}
    assert train | test == {f"shop-{number}" for number in range(1, 11)}
    assert not train & test
    candidates = [each for row in read(out / "data/stage2/sums/sums.json") for each in row["candidates"]]
    assert {each["origin"] for each in candidates} >= {"gold", "direct"}
    again = load_recipe("shop.yaml", ["data=[shop.jsonl]", "seed=1", "output=other"])
    assert {row.id for row in load_questions(again, again.data[0]).test} != test


def model_of(folder: Path) -> str:
    return (folder / "sums.yaml").read_text().rpartition("model: ")[2].strip()
