"""Recipes whose stage 2 works in rounds: their steps and files, their questions, and whatever stops them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from test_run import five as five
from test_run import kept, loop, results, steps, svamp
from tiny import command, killed, read, tree, write
from trice.errors import InputError
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run
from trice.storage.row_state import read_state

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = "max_steps: 2, batch_size: 4, learning_rate: 1e-4, save_steps: 1"
COMMON = f"""
device: cpu
dtype: float32
max_new_tokens: 8
clone: {{{SMALL}, lora: {{r: 2, target_modules: all-linear}}}}
rlef: {{rounds: 2, samples: 2, max_samples: 4, {SMALL}}}
"""
RECIPE = f"""
name: rounds
data: [{{dataset: SVAMP, train: 5, feedback: 7, test: 3}}]
split: {{max_new_tokens: 4}}
evaluate: {{conditions: [zero-shot, stage-1, stage-2-alone, both], seeds: [0, 1]}}
{COMMON}"""
ALL = ("stage-2-alone", "both", "both.seed1")
ONE_SEED = "evaluate={conditions: [zero-shot, both]}"


@pytest.fixture(scope="module")
def recipe(five: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe, and a small SVAMP in the same folder: the answer to every other question is 5."""
    folder = tmp_path_factory.mktemp("recipe")
    svamp(folder, lambda i: 5 if i % 2 else 40)
    (folder / "rounds.yaml").write_text(f"{RECIPE}model: {five}\n")
    return folder / "rounds.yaml"


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return loop(tmp_path_factory.mktemp("run") / "whole", recipe)


def round_of(run: Path, variant: str, number: int, task: str = "math") -> Path:
    return run / f"data/stage2/{task}/{variant}/round-{number}"


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read(path)]


def test_each_variant_samples_and_trains_in_turn(whole: Path) -> None:
    rounds = [f"{step} {name} round {n}" for name in ALL for n in (1, 2) for step in ("sample", "train")]
    tested = ("zero-shot", "stage-1", "stage-1.seed1", *ALL)
    assert steps(whole) == [
        "data", "split SVAMP", "label SVAMP wrong", "label SVAMP right", "mix", "train stage-1", "train stage-1.seed1",
        *rounds, *(f"{step} {name}" for name in tested for step in ("generate", "evaluate")),
    ]  # fmt: skip
    assert list(results(whole)["conditions"]) == ["zero-shot", "stage-1", "stage-2-alone", "both"]
    assert list(results(whole)["seeds"]) == ["stage-1", "both"]
    assert {name: len(found) for name, found in results(whole)["rounds"].items()} == dict.fromkeys(ALL, 2)
    assert "In 2 rounds of stage 2, the policy 'both' gave" in (whole / "report.md").read_text()


def test_the_rounds_ask_other_questions_than_those_of_stage_1(whole: Path) -> None:
    raw = whole / "data/raw/math"
    train, feedback, tests = (
        set(ids(path))
        for path in (raw / "SVAMP.json", raw / "SVAMP_feedback.json", whole / "data/dev/math/math.json")
    )
    assert (len(train), len(feedback), len(tests)) == (5, 7, 3)
    assert len(train | feedback | tests) == 15
    assert set(ids(whole / "data/stage1/math/math.json")) == train
    for name in ALL:
        for number in (1, 2):
            assert set(ids(round_of(whole, name, number) / "questions-1.json")) == feedback


def test_solved_questions_are_trained_on_with_the_labels_of_the_others(whole: Path) -> None:
    labels = ids(whole / "data/stage1/math/math.json")
    right = {row["id"] for row in read(whole / "data/raw/math/SVAMP_feedback.json") if row["answer"] == "5"}
    assert 2 <= len(right) < 7
    for name in ALL:
        for number in (1, 2):
            folder = round_of(whole, name, number)
            rows = read(folder / "ranked.json")
            policy = [row for row in rows if row["candidates"][0]["origin"] == "policy"]
            assert {row["id"] for row in policy} == right
            assert {row["candidates"][0]["response"] for row in policy} == {"5"}
            replayed = [row["id"] for row in rows if row not in policy]
            assert replayed == [] if name == "stage-2-alone" else sorted(replayed) == sorted(labels)
            found = json.loads((folder / "round.json").read_text())
            assert (found["questions"], found["solved"]) == (7, len(right))
            assert found["new"] == (len(right) if number == 1 else 0)
            assert [each["questions"] for each in found["passes"]] == [7, 7 - len(right)]


def test_the_last_policy_is_the_variant_and_earlier_ones_are_kept(whole: Path) -> None:
    models = whole / "models"
    names = {path.name for path in models.iterdir()}
    assert names == {"stage-1", "stage-1.seed1", *ALL, *(f"{name}.round1" for name in ALL)}
    finals = ("stage-1", "stage-1.seed1", *ALL)
    assert len({(models / name / "adapter_model.safetensors").read_bytes() for name in finals}) == len(finals)
    card = (models / "both/README.md").read_text()
    assert "Data: `ranked.json`" in card
    assert "Not evaluated yet" not in card


def test_a_second_seed_samples_for_itself(whole: Path) -> None:
    states = [read_state(round_of(whole, name, 1) / "samples-1.json") for name in ("both", "both.seed1")]
    assert [state.settings["sampling"]["seed"] for state in states if state] == [1001, 1001001]
    records = [
        json.loads((whole / f"models/{name}/trice.json").read_text()) for name in ("both", "both.seed1")
    ]
    assert [record["seed"] for record in records] == [0, 1]


@pytest.mark.drawn
def test_a_finished_run_does_nothing_again(whole: Path, recipe: Path) -> None:
    before = tree(whole)
    loop(whole, recipe)
    assert tree(whole) == before


def test_status_has_a_line_for_each_step_of_a_round(
    whole: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(capsys, "run", recipe, "--status", f"output={whole}")
    assert code == 0
    for name in ALL:
        for number in (1, 2):
            line = next(
                line for line in out.splitlines() if line.startswith(f"sample {name} round {number} ")
            )
            assert line.split()[4:7] == ["14", "0", "0"]  # rows done, failed and remaining
            assert f"train {name} round {number} " in out
    assert out.splitlines()[-1].split()[0] == str(len(steps(whole)))


def test_killed_at_several_moments_a_run_ends_in_the_same_bytes(
    whole: Path, recipe: Path, tmp_path: Path
) -> None:
    folder, stopped_at = tmp_path / "killed", []
    for point in cycle((60, 85)):
        if not killed(point, folder, loop, folder, recipe, ONE_SEED):
            break
        stopped_at.append(steps(folder)[-1] if (folder / "run.json").exists() else "")
    assert sum("both round" in step for step in stopped_at) >= 2
    ours, theirs = kept(folder), kept(whole)
    cards = {"models/both/README.md", "models/stage-1/README.md"}  # these hold the measures of all seeds
    assert [name for name in ours if ours[name] != theirs[name] and name not in cards] == []
    assert {name for name in theirs if "/both/" in name or "/both.round1/" in name} <= ours.keys()
    assert not list(folder.rglob(".*.new"))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["rlef={}"], "data set 'SVAMP': key 'feedback': is for the rounds of stage 2; set rlef.rounds"),
        (["rlef.rounds=0"], "key 'rlef': 'samples' applies to rounds only; set 'rounds', or leave 'samples' out"),
        (["data=[{dataset: SVAMP, feedback: 3}]"], "'feedback' takes the questions after those of 'train'; set"),
        (["data=[{dataset: SVAMP, train: 9, feedback: 4}]"], "SVAMP, train: 13 questions wanted, there are 12"),
        (["data=[{dataset: SVAMP, train: 9, feedback: 0}]"], "key 'data.0.feedback': Input should be greater"),
        (["data=[{dataset: a, feedback_file: b.jsonl}]"], "'feedback_file' comes with 'train_file' and 'test_file'"),
        (["rlef.max_samples=1"], "key 'rlef': max_samples=1 is less than samples=2; raise it"),
        (["rlef.rounds=-1"], "key 'rlef.rounds': Input should be greater than or equal to 0"),
        (["rlef.budget=1"], "key 'rlef': budget=1 is less than samples=2; raise it"),
        (["collect=[{origin: a, from: base}]"], "key 'collect': rounds sample their own candidates; leave it out"),
        (["score.reward=released"], "key 'score.reward': does not apply to rounds, which take a reward function"),
        (["score.distinct=false"], "key 'score.distinct': does not apply to rounds, which take a reward function"),
        (["rlef.sampels=3"], "unknown key 'rlef.sampels'; did you mean 'samples'?"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_written(
    recipe: Path, tmp_path: Path, overrides: list[str], complaint: str
) -> None:
    with pytest.raises(InputError) as caught:
        loop(tmp_path / "run", recipe, *overrides)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# Own files, without any label

OWN = f"""
name: own
data: [{{dataset: sums, task: math, train_file: sums.jsonl, test_file: tests.jsonl}}]
score: {{reward: "reward_of_rounds:reward"}}
evaluate: {{conditions: [zero-shot, stage-2-alone]}}
{COMMON}"""
REWARD = """
def reward(question, response):
    return 2 if question.answer != "5" else -1
"""


@pytest.fixture
def folder(five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with questions without expressions, a reward, and a recipe."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sums.jsonl", asked(range(5)))
    write(tmp_path / "tests.jsonl", asked((7, 8)))
    (tmp_path / "reward_of_rounds.py").write_text(REWARD)
    (tmp_path / "own.yaml").write_text(f"{OWN}model: {five}\n")
    return tmp_path


def asked(numbers: Any, answer: Callable[[int], int] = lambda i: i + 3) -> list[dict[str, str]]:
    return [{"question": f"What are {i} and 3?", "answer": str(answer(i))} for i in numbers]


def test_stage_2_alone_needs_no_labels_and_a_reward_of_the_user_is_used(folder: Path) -> None:
    """The reward is above 0 for all questions but the one that the policy answers correctly."""
    out = run(load_recipe("own.yaml", ["rlef.rounds=1"]))
    assert steps(out)[:3] == ["data", "sample stage-2-alone round 1", "train stage-2-alone round 1"]
    assert [path.name for path in (out / "models").iterdir()] == ["stage-2-alone"]
    asked = ids(out / "data/raw/math/sums.json")
    assert ids(round_of(out, "stage-2-alone", 1) / "questions-1.json") == asked
    rows = read(round_of(out, "stage-2-alone", 1) / "ranked.json")
    assert [row["id"] for row in rows] == [name for name in asked if name != "sums-3"]
    assert {row["candidates"][0]["reward"] for row in rows} == {2}


def test_without_feedback_the_training_questions_are_asked(folder: Path) -> None:
    """A solved question is trained on once, with the policy's response instead of its label."""
    write(folder / "sums.jsonl", [row | {"expression": f"{i}+3"} for i, row in enumerate(asked(range(5)))])
    out = run(load_recipe("own.yaml", ["rlef.rounds=1", "score={}", "evaluate.conditions=[both]"]))
    rows = read(round_of(out, "both", 1) / "ranked.json")
    assert [row["id"] for row in rows if row["candidates"][0]["origin"] == "policy"] == ["sums-3"]
    assert sorted(row["id"] for row in rows) == sorted(ids(out / "data/raw/math/sums.json"))


def test_each_task_of_a_mix_may_have_its_model_and_its_rounds(folder: Path) -> None:
    """Both files number their questions from 1, and `more` has feedback of its own."""
    for name, numbers in (("more", (2, 6)), ("back", (2, 4))):
        write(folder / f"{name}.jsonl", [row | {"id": str(n)} for n, row in enumerate(asked(numbers))])
    data = (
        "data=[{dataset: sums, task: math, train_file: sums.jsonl, test_file: tests.jsonl}, "
        "{dataset: more, task: lama, train_file: more.jsonl, test_file: tests.jsonl, feedback_file: back.jsonl}]"
    )
    out = run(load_recipe("own.yaml", ["task=mix", "per_task=true", "score={}", data]))
    assert [step for step in steps(out) if "sample" in step] == [
        f"{task}: sample stage-2-alone round {number}" for task in ("math", "lama") for number in (1, 2)
    ]
    assert {path.relative_to(out / "models").as_posix() for path in (out / "models").glob("*/*")} == {
        f"{task}/stage-2-alone{end}" for task in ("math", "lama") for end in ("", ".round1")
    }
    assert ids(round_of(out, "stage-2-alone", 1, "lama") / "questions-1.json") == ["0", "1"]
    assert ids(round_of(out, "stage-2-alone", 2, "lama") / "ranked.json") == ["0"]
    assert ids(round_of(out, "stage-2-alone", 2) / "ranked.json") == ["sums-3"]


def test_held_out_questions_choose_the_checkpoint_of_each_round(folder: Path) -> None:
    """`back` is only asked in the rounds."""
    write(folder / "back.jsonl", [row | {"id": str(n)} for n, row in enumerate(asked((2, 9)))])
    data = (
        "data=[{dataset: sums, train_file: sums.jsonl, test_file: tests.jsonl}, "
        "{dataset: back, train: 0, train_file: sums.jsonl, test_file: tests.jsonl, feedback_file: back.jsonl}]"
    )
    out = run(load_recipe("own.yaml", ["score={}", "validation=2", "rlef.eval_steps=1", data]))
    for number, name in ((1, "stage-2-alone.round1"), (2, "stage-2-alone")):
        assert ids(round_of(out, "stage-2-alone", number) / "questions-1.json") == [
            "sums-1",
            "sums-2",
            "sums-3",
            "0",
            "1",
        ]
        log = read(out / "models" / name / "log.jsonl")
        assert [row["step"] for row in log if "accuracy" in row] == [1, 2]
    assert len(read(out / "data/dev/math/math_validation.json")) == 2
    assert not (out / "data/raw/math/back.json").exists()
