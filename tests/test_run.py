"""A whole run of a miniature recipe on a tiny model: from questions to the report, whatever stops it."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import killed, read, says, tree
from trice.errors import InputError, TriceError
from trice.recipes.conditions import DEFAULT
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = "{max_steps: 2, batch_size: 6, learning_rate: 1e-2, save_steps: 1, lora: {r: 2, target_modules: all-linear}}"
RECIPE = f"""
name: miniature
title: "A miniature"
device: cpu
dtype: float32
generation_batch_size: 8
max_new_tokens: 8
data:
  - {{dataset: starter, train: 6, test: 3}}
  - {{dataset: SVAMP, train: 6, test: 3}}
split: {{few_shot: direct, max_new_tokens: 4}}
clone: {SMALL}
collect:
  - {{origin: few-shot, from: base, few_shot: calls, tool_choice: required}}
  - {{origin: early, from: early}}
  - {{origin: sampled, from: stage-1, samples: 2, temperature: 1.0, top_k: 50}}
rlef: {SMALL}
evaluate: {{seeds: [0, 1]}}
"""


def svamp(folder: Path, answer: Callable[[int], int], equation: str = "( {}.0 + {}.0 )") -> Path:
    """A folder of official files: SVAMP in small, its Nth problem being answered by `answer(N)`."""
    rows = [
        {
            "ID": f"chal-{i}",
            "Body": f"Tom has {i} {'big ' * (i % 3)}apples.",
            "Question": "How many are there in the end?",
            "Equation": equation.format(i, answer(i) - i),
            "Answer": float(answer(i)),
            "Type": "Addition",
        }
        for i in range(1, 16)
    ]
    (folder / "svamp").mkdir(parents=True, exist_ok=True)
    (folder / "svamp" / "SVAMP.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def five(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that answers 5."""
    return says(tiny_model("llama"), tmp_path_factory.mktemp("model") / "five", "5")


@pytest.fixture(scope="module")
def recipe(five: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature; its SVAMP beside it, every other answer being 5."""
    folder = tmp_path_factory.mktemp("recipe")
    svamp(folder, lambda i: 5 if i % 2 else 40)
    path = folder / "miniature.yaml"
    path.write_text(f"{RECIPE}model: {five}\n")
    return path


def loop(output: Path, recipe: Path, *overrides: str) -> Path:
    gc.freeze()  # what is there already; a run collects garbage after each step
    before, threads = os.environ.get("TRICE_DATA"), torch.get_num_threads()
    os.environ["TRICE_DATA"] = str(recipe.parent)
    torch.set_num_threads(1)  # as in the processes that are killed: other threads round otherwise
    try:
        return run(load_recipe(str(recipe), [*overrides, f"output={output}"]))
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("TRICE_DATA")
        os.environ.update({"TRICE_DATA": before} if before else {})


def steps(folder: Path) -> list[str]:
    return [step["name"] for step in json.loads((folder / "run.json").read_text())["steps"]]


def asked_and_judged(*settings: str) -> list[str]:
    return [f"{step} {setting}" for setting in settings for step in ("generate", "evaluate")]


FIRST_STEPS = [
    "data", "split starter", "split SVAMP", "label starter wrong", "label SVAMP wrong", "label SVAMP right",
    "mix", "train stage-1", *asked_and_judged("zero-shot", "stage-1"),
]  # fmt: skip
LATER_STEPS = [
    "train stage-1.seed1", "train tool-0", "train tool-100", "collect gold", "collect few-shot",
    "collect early", "collect sampled", "score", "train stage-2-alone", "train both", "train both.seed1",
    *asked_and_judged("few-shot", "tool-0", "tool-100", "stage-1.seed1", "stage-2-alone", "both", "both.seed1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, begun with two settings and one seed, the others added afterwards."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    loop(folder, recipe, "evaluate={conditions: [zero-shot, stage-1]}", "title=first")
    assert steps(folder) == FIRST_STEPS
    assert list(results(folder)["conditions"]) == ["zero-shot", "stage-1"]
    loop(folder, recipe)
    return folder


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def kept(folder: Path) -> dict[str, bytes]:
    """What has to be the same in every run: the data, and the models without their checkpoints."""
    kinds = ("adapter_model.safetensors", "log.jsonl", "trice.json", "README.md")
    return {
        name: content
        for name, content in tree(folder).items()
        if name.startswith("data/") or (name.endswith(kinds) and "checkpoint" not in name)
    }


def test_conditions_and_seeds_can_be_added_and_only_missing_steps_run(whole: Path) -> None:
    assert steps(whole) == FIRST_STEPS + LATER_STEPS


def test_the_data_stand_in_the_published_layout(whole: Path) -> None:
    names = {name for name in tree(whole) if name.startswith("data/") and "/." not in name}
    results = [f"data/dev/math/math_{name}" for name in (*DEFAULT, "stage-1.seed1", "both.seed1")]
    assert names == {
        "data/raw/math/starter.json",
        "data/raw/math/starter_wrong.json",
        "data/raw/math/SVAMP.json",
        "data/raw/math/SVAMP_right.json",
        "data/raw/math/SVAMP_wrong.json",
        *(f"data/stage1/math/{name}.json" for name in ("math", "answers", "calls")),
        *(
            f"data/stage1/math/{name}{end}.json"
            for name in ("starter_wrong", "SVAMP_wrong", "SVAMP_right")
            for end in ("", "_yield")
        ),
        "data/stage2/math/math.json",
        *(f"data/stage2/math/math_{o}_response.json" for o in ("gold", "few-shot", "early", "sampled")),
        "data/dev/math/math.json",
        *(f"{name}_response.json" for name in results),
        *(f"{name}_result.json" for name in results),
    }


def test_targets_are_the_models_own_answers_where_right_and_calls_where_wrong(whole: Path) -> None:
    right = {row["id"] for row in read(whole / "data/raw/math/SVAMP_right.json")}
    assert 0 < len(right) < 6
    stage1 = whole / "data/stage1/math"
    rows = {row["id"]: row["output"] for row in read(stage1 / "math.json")}
    assert len(rows) == 12
    assert {name for name, output in rows.items() if output == "5"} == right
    assert all(output.startswith("calculator(") for name, output in rows.items() if name not in right)
    assert all(row["output"].startswith("calculator(") for row in read(stage1 / "calls.json"))
    assert not any("calculator" in row["output"] for row in read(stage1 / "answers.json"))
    assert len(read(stage1 / "calls.json")) == len(read(stage1 / "answers.json")) == 12


def test_every_question_is_ranked_with_candidates_of_every_origin(whole: Path) -> None:
    rows = read(whole / "data/stage2/math/math.json")
    assert len(rows) == 12
    every = [each for row in rows for each in row["candidates"]]
    targets = [each for each in every if each["target"]]
    assert [(each["origin"], each["reward"]) for each in targets] == [("gold", 20)] * 12
    assert {each["origin"] for each in every} >= {"gold", "few-shot"}
    assert len(read(whole / "data/stage2/math/math_sampled_response.json")) == 24
    forced = read(whole / "data/stage2/math/math_few-shot_response.json")
    assert all(row["response"].startswith("calculator(") for row in forced)


def test_the_report_holds_every_setting_and_seed(whole: Path) -> None:
    found = results(whole)
    assert list(found["conditions"]) == list(DEFAULT)
    assert list(found["seeds"]) == ["stage-1", "both"]
    for measures in found["conditions"].values():
        assert list(measures) == ["starter", "SVAMP", "total"]
        total = measures["total"]
        outcomes = [total[name]["count"] for name in ("tool_use", "malformed", "answered")]
        assert sum(outcomes) == pytest.approx(6)
    page, text = ((whole / f"report.{kind}").read_text() for kind in ("html", "md"))
    for name in DEFAULT:
        assert name in page
        assert name in text
    assert "<script src" not in page
    assert "miniature" in page


def test_what_was_run_is_kept_with_it(whole: Path, recipe: Path) -> None:
    again = load_recipe(str(whole / "recipe.yaml"))
    assert again == load_recipe(str(recipe), [f"output={whole}"])
    about = json.loads((whole / "run.json").read_text())
    assert {"python", "torch", "transformers", "peft"} <= set(about["versions"])
    assert about["licences"] == {"starter": "MIT", "SVAMP": "MIT"}
    assert all(step["seconds"] >= 0 and step["peak_memory_mb"] > 0 for step in about["steps"])


def test_model_cards_say_data_base_model_and_measures(whole: Path) -> None:
    shares = results(whole)["conditions"]
    for name, data in {
        "tool-0": "answers",
        "tool-100": "calls",
        "stage-2-alone": "math",
        "both": "math",
    }.items():
        card = (whole / "models" / name / "README.md").read_text()
        assert "Not evaluated yet" not in card
        assert f"Data: `{data}.json`" in card
        assert "/five" in card
        accuracy = 100 * shares[name]["total"]["accuracy"]["value"]
        assert f"| total, accuracy | {accuracy:.1f}% (" in card


def test_adapters_are_there_and_differ_by_setting_and_seed(whole: Path) -> None:
    weights = [path.read_bytes() for path in sorted(whole.glob("models/*/adapter_model.safetensors"))]
    assert len(weights) == len(set(weights)) == 7


@pytest.mark.drawn
def test_a_finished_run_does_nothing_again_but_its_report(whole: Path, recipe: Path) -> None:
    before = tree(whole)
    loop(whole, recipe, "title=Another title")
    after = tree(whole)
    assert {name for name in after if after[name] != before.get(name)} <= {
        "recipe.yaml", "report.html", "report.md", "results.json",
    }  # fmt: skip
    assert set(after) == set(before)
    loop(whole, recipe)


def test_killed_again_and_again_a_run_ends_in_the_same_bytes(
    whole: Path, recipe: Path, tmp_path: Path
) -> None:
    folder, kills, stopped_at = tmp_path / "killed", 0, set()
    for point in cycle((31, 52, 73)):
        if not killed(point, folder, loop, folder, recipe):
            break
        kills += 1
        stopped_at.add(steps(folder)[-1] if (folder / "run.json").exists() else "")
    assert kills > 5
    assert len(stopped_at) > 4
    assert sorted(steps(folder)) == sorted(steps(whole))
    ours, theirs = kept(folder), kept(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not list(folder.rglob(".*.new"))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("clone.lora.r=3", "clone.lora.r was 2, is now 3"),
        ("data=[{dataset: starter, train: 6, test: 3}]", "data was "),
        ("seed=9", "seed was 0, is now 9"),
        ("evaluate.seeds=[1, 0]", "evaluate.first seed was 0, is now 1"),
        ("evaluate.few_shot=calls", "evaluate.few_shot was 'mixed', is now 'calls'"),
        ("collect=[{origin: few-shot, from: base}]", "collect was "),
    ],
)
def test_another_recipe_is_refused_naming_the_key(
    whole: Path, recipe: Path, override: str, complaint: str
) -> None:
    before = tree(whole)
    with pytest.raises(InputError) as caught:
        loop(whole, recipe, override)
    assert f"{whole}: was begun with other settings ({complaint}" in str(caught.value)
    assert tree(whole) == before


def test_a_step_whose_file_is_gone_is_done_again_and_the_machine_may_change(
    whole: Path, recipe: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    dev = folder / "data" / "dev" / "math"
    gone = [dev / "math_zero-shot_result.json", folder / "models" / "tool-0" / "adapter_config.json"]
    before, names = [path.read_bytes() for path in gone], steps(folder)
    for path in gone:
        path.unlink()
    loop(folder, recipe, "generation_batch_size=3", "clone.token_budget=512", "title=other")
    assert [path.read_bytes() for path in gone] == before
    assert steps(folder) == names


def test_a_run_is_one_process_s(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TriceError, match="another process is working there"):
            loop(folder, recipe)


def test_seeds_and_settings_are_given_once(recipe: Path) -> None:
    for override, said in (
        ("evaluate.seeds=[0, 0]", "'seeds' holds 0 twice"),
        ("evaluate.conditions=[both, both]", "'conditions' holds 'both' twice"),
    ):
        with pytest.raises(InputError, match=said):
            load_recipe(str(recipe), [override])


def test_stage_2_may_be_decided_after_stage_1(tmp_path: Path, five: Path) -> None:
    folder = edges(tmp_path, five, ["stage-1"], answer=lambda i: i + 5)
    adapter = (folder / "models/stage-1/adapter_model.safetensors").read_bytes()
    edge, only = tmp_path / "source/edge.yaml", "data=[{dataset: SVAMP, train: 6, test: 3}]"
    both = "evaluate={conditions: [stage-1, both]}"
    loop(folder, edge, only, both, "rlef.alpha=0.5")
    assert (folder / "models/stage-1/adapter_model.safetensors").read_bytes() == adapter
    assert json.loads((folder / "models/both/trice.json").read_text())["alpha"] == 0.5
    loop(folder, edge, only, "evaluate={conditions: [stage-1]}", "rlef.alpha=0.5")
    for conditions in (both, "evaluate={conditions: [stage-1]}"):
        with pytest.raises(InputError, match=r"rlef.alpha was 0.5, is now 0.25"):
            loop(folder, edge, only, conditions, "rlef.alpha=0.25")


@pytest.mark.drawn
def test_a_run_may_be_moved(whole: Path, recipe: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    whole.rename(moved)
    try:
        loop(moved, recipe)
    finally:
        moved.rename(whole)
    loop(whole, recipe)
    assert steps(whole) == FIRST_STEPS + LATER_STEPS


def edges(tmp_path: Path, five: Path, settings: Sequence[str], **how: Any) -> Path:
    """A run on SVAMP alone."""
    source = svamp(tmp_path / "source", **how)
    (source / "edge.yaml").write_text(f"{RECIPE}model: {five}\n")
    only = ["data=[{dataset: SVAMP, train: 6, test: 3}]", "collect=[{origin: early, from: early}]"]
    wanted = f"evaluate={{conditions: [{', '.join(settings)}]}}"
    return loop(tmp_path / "run", source / "edge.yaml", *only, wanted)


def test_held_out_questions_choose_the_checkpoint_and_the_tests_stay_tests(
    recipe: Path, tmp_path: Path
) -> None:
    """Two of the six training questions of each data set are held out, both stages are validated on them."""
    often = ["validation=2", "clone.eval_steps=1", "rlef.eval_steps=2", "rlef.early_stopping_patience=1"]
    folder = loop(tmp_path / "run", recipe, *often, "evaluate.conditions=[both]", "evaluate.seeds=[0]")
    plain = loop(tmp_path / "plain", recipe, "evaluate.conditions=[zero-shot]")
    assert (folder / "data/dev/math/math.json").read_bytes() == (
        plain / "data/dev/math/math.json"
    ).read_bytes()
    held = read(folder / "data/dev/math/math_validation.json")
    trained = [row for name in ("starter", "SVAMP") for row in read(folder / f"data/raw/math/{name}.json")]
    assert (len(held), len(trained)) == (4, 8)
    assert {row["id"] for row in held}.isdisjoint(row["id"] for row in trained)
    for name, steps_taken in (("stage-1", [1, 2]), ("both", [0, 2])):
        model = folder / "models" / name
        assert [row["step"] for row in read(model / "log.jsonl") if "accuracy" in row] == steps_taken
        told = json.loads((model / "trice.json").read_text())["validation"]
        assert (told["task"], told["max_new_tokens"]) == ("math", 8)
        assert "was the best on the held-out questions" in (model / "README.md").read_text()
    assert results(folder)["conditions"]["both"]["total"]["accuracy"]["total"] == 6
    # What was tested on would otherwise be chosen by, or the other way round.
    tuned = loop(tmp_path / "tuned", recipe, "validation=2", "evaluate.conditions=[zero-shot]")
    assert not (tuned / "data/dev/math/math_validation.json").exists()
    with pytest.raises(InputError, match=r"checkpoints chosen by validation was False, is now True"):
        loop(tuned, recipe, "validation=2", "rlef.eval_steps=2", "evaluate.conditions=[zero-shot]")


def test_a_base_model_right_on_everything(tmp_path: Path, five: Path) -> None:
    folder = edges(tmp_path, five, ["zero-shot", "stage-1", "tool-100", "both"], answer=lambda i: 5)
    assert not (folder / "data/raw/math/SVAMP_wrong.json").exists()
    assert {row["output"] for row in read(folder / "data/stage1/math/math.json")} == {"5"}
    assert all(row["output"].startswith("calc") for row in read(folder / "data/stage1/math/calls.json"))
    assert results(folder)["conditions"]["zero-shot"]["total"]["accuracy"]["value"] == 1
    assert results(folder)["need"]["math"]["value"] == 0


def test_a_base_model_wrong_on_everything(tmp_path: Path, five: Path) -> None:
    folder = edges(tmp_path, five, ["zero-shot", "stage-1"], answer=lambda i: 40)
    assert not (folder / "data/raw/math/SVAMP_right.json").exists()
    assert all(row["output"].startswith("calc") for row in read(folder / "data/stage1/math/math.json"))
    assert results(folder)["need"]["math"]["value"] == 1


def test_labels_that_are_all_rejected_stop_nothing_but_what_needs_them(tmp_path: Path, five: Path) -> None:
    folder = edges(
        tmp_path, five, ["stage-1"], answer=lambda i: 5 if i % 2 else 40, equation="( {}.0 + {}.0 + 1.0 )"
    )
    assert (folder / "data/stage1/math/SVAMP_wrong.json").read_bytes() == b""
    assert {row["output"] for row in read(folder / "data/stage1/math/math.json")} == {"5"}
    assert not (folder / "data/stage1/math/calls.json").exists()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("task=cooking", "unknown task 'cooking'; there is: math"),
        ("template=plian", "template 'plian' is not valid"),
        ("format=chats", "format 'chats' is not valid; choose paper or chat"),
        ("model=no/such-model", "model 'no/such-model' is neither a folder with a model"),
        ("data=[{dataset: SVMP}]", "unknown data set 'SVMP'; did you mean 'SVAMP'?"),
        ("data=[{dataset: GSM8K}]", "gsm8k/train.jsonl: no such file"),
        ("data=[{dataset: SVAMP, train: 13}]", "SVAMP, train: 13 questions wanted, there are 12"),
        ("validation=6", "validation=6: starter has 6 training questions; hold"),
        ("clone.eval_steps=2", "miniature.yaml: key 'clone.eval_steps': needs held-out"),
        ("rlef.eval_steps=2", "key 'rlef.eval_steps': needs held-out questions; set"),
        ("score.reward=none:such", "reward 'none:such': there is no module none"),
        ("split.few_shot=many", "few-shot 'many' is not valid; choose direct, calls, mixed"),
        ("evaluate.few_shot=own.jsonl", "own.jsonl: no such file"),
        ("collect=[]", "stage 2 needs candidates"),
        ("collect=[{origin: a_b, from: base}]", "origin 'a_b' is not valid; use letters"),
        ("collect=[{origin: a, from: endpoint, endpoint: {url: here, model: m}}]", "server 'here' is not a URL"),
        ("label={teacher: endpoint, endpoint: {url: 'http://h', model: m, keys_file: no.txt}}", "no.txt: cannot"),
        ("device=gpu", "--device gpu"),
        ("dtype=float8", "dtype 'float8'"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_before_anything_is_written(
    recipe: Path, tmp_path: Path, override: str, complaint: str
) -> None:
    with pytest.raises(InputError) as caught:
        loop(tmp_path / "run", recipe, override)
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_file_is_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=rf"^{tmp_path}/run\.json: not a JSON object"):
        loop(tmp_path, recipe)
