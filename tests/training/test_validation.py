"""Validation while training: what it measures, which checkpoint it keeps, when it stops, whatever kills it."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tiny import command, read, read_settings, same_after_kills, says, training, tree, write
from trice.errors import InputError
from trice.formats.prompt import load_template
from trice.models.local import load
from trice.models.sampling import Sampling
from trice.rewards import RewardFunction
from trice.stages.evaluate import evaluate
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.tools.passage_index import Passage, build_index
from trice.tools.second_turn import with_context
from trice.training.clone import clone
from trice.training.rlef import rlef
from trice.training.settings import Clone, Lora, Rlef
from trice.training.validation import evaluation_mode, load_validation
from trice.types import Response

LORA = Lora(r=4, lora_dropout=0.1, target_modules="all-linear")
CLONE = Clone(
    max_steps=11, batch_size=3, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=100, eval_steps=2,
    lora=LORA,
)  # fmt: skip
PATIENT = CLONE.model_copy(update={"max_steps": 30, "early_stopping_patience": 2})
CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As in the processes that are killed: other threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lessons(folder: Path, output: str) -> Path:
    """Training questions that are all answered with `output`."""
    rows = [
        {"instruction": "Solve.", "input": f"What is {i} and {7 - i}?", "output": output} for i in range(6)
    ]
    return write(folder / "math.json", rows)


def exam(folder: Path, *answers: str) -> Path:
    """Held-out questions with these gold answers."""
    rows = [
        {"id": f"V_{i}", "question": f"What is {i + 1} and {6 - i}?", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    return write(folder / "validation.json", rows)


def train(folder: Path, model: str, settings: Clone = CLONE, output: str = "7", gold: str = "7") -> Path:
    """A run of stage 1 in `folder/run`, which learns to say `output` and is asked for `gold`."""
    data, validation = lessons(folder, output), exam(folder, *[gold] * 6)
    length = len(output) + 3  # tokens
    return clone(
        data, folder / "run", model, settings=settings, validation=validation, max_new_tokens=length, **CPU
    )


def log(run: Path) -> list[dict[str, Any]]:
    return read(run / "log.jsonl")


def validated(run: Path) -> dict[int, float]:
    """The accuracy at each step that was validated."""
    return {entry["step"]: entry["accuracy"] for entry in log(run) if "accuracy" in entry}


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def learned(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 11 steps in which every question is answered right from step 6 on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = train(tmp_path_factory.mktemp("learned"), llama)
    torch.set_num_threads(threads)
    return run


def test_the_earliest_of_the_best_checkpoints_becomes_the_adapter(learned: Path, llama: str) -> None:
    assert list(validated(learned)) == [2, 4, 6, 8, 10, 11]
    assert [accuracy == 1 for accuracy in validated(learned).values()] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert weights(learned) == weights(learned / "checkpoint-6") != weights(learned / "checkpoint-11")
    at_six = next(entry for entry in log(learned) if entry["step"] == 6 and "accuracy" in entry)
    # Wilson's interval of 6 of 6 is 1 / (1 + z²/6) to 1, that of 0 of 6 its mirror image.
    assert at_six == {
        "step": 6, "reward": 1, "accuracy": 1, "accuracy_low": 0.609666, "accuracy_high": 1,
        "tool_use": 0, "tool_use_low": 0, "tool_use_high": 0.390334,
    }  # fmt: skip
    card = (learned / "README.md").read_text()
    assert "Step 6 of 11 was the best on the held-out questions: accuracy 100.0% (61.0% to 100.0%)" in card


def test_it_measures_what_generate_and_evaluate_do(llama: str, tmp_path: Path) -> None:
    settings = CLONE.model_copy(update={"max_steps": 3, "eval_steps": 3, "learning_rate": 2e-2})
    run = train(tmp_path, llama, settings, gold="7")
    spec = ModelSpec(llama, run, sampling=Sampling(max_new_tokens=4), **CPU)
    generate(tmp_path / "validation.json", tmp_path / "response.json", Tasks("math"), spec)
    measures = evaluate(tmp_path / "response.json", tmp_path / "result.json", Tasks("math"))["total"]
    assert validated(run) == {3: round(measures["accuracy"].value or 0, 6)}


def test_a_model_that_gets_worse_is_kept_as_it_was(llama: str, tmp_path: Path) -> None:
    five = says(Path(llama), tmp_path / "five", "5")
    settings = CLONE.model_copy(update={"learning_rate": 1e-3, "max_steps": 10})
    run = train(tmp_path, str(five), settings, gold="5")
    assert list(validated(run).values()) == [1, 1, 0, 0, 0]
    assert weights(run) == weights(run / "checkpoint-2")
    patient = CLONE.model_copy(update={"learning_rate": 1e-3, "max_steps": 10, "early_stopping_patience": 1})
    shutil.rmtree(run)
    assert validated(train(tmp_path, str(five), patient, gold="5")) == {2: 1, 4: 1}
    assert log(run)[-1]["step"] == 4


def test_training_stops_when_patience_is_at_its_end(learned: Path, llama: str, tmp_path: Path) -> None:
    run = train(tmp_path, llama, PATIENT)
    assert list(validated(run)) == [2, 4, 6, 8, 10]
    assert log(run)[-1]["step"] == 10
    assert weights(run) == weights(learned)
    assert not (run / "checkpoint-12").exists()


def test_validating_does_not_disturb_the_training(learned: Path, llama: str, tmp_path: Path) -> None:
    """LoRA's dropout draws from torch's random numbers, and is off while questions are answered."""
    settings = CLONE.model_copy(update={"eval_steps": 0})
    plain = clone(lessons(tmp_path, "7"), tmp_path / "plain", llama, settings=settings, **CPU)
    assert log(plain) == [entry for entry in log(learned) if "loss" in entry]
    assert weights(plain) == weights(learned / "checkpoint-11")


def test_whatever_draws_random_numbers_meanwhile_leaves_no_trace(llama: str) -> None:
    loaded = load(llama, **CPU)
    loaded.model.train()
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    with evaluation_mode(loaded):
        assert not loaded.model.training
        random.random(), numpy.random.rand(), torch.rand(1)
    after = random.random(), numpy.random.rand(), float(torch.rand(1))
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    assert after == (random.random(), numpy.random.rand(), float(torch.rand(1)))
    assert loaded.model.training


def test_calls_are_run(llama: str, tmp_path: Path) -> None:
    run = train(tmp_path, llama, CLONE.model_copy(update={"max_steps": 20}), "calculator(12+30)", gold="42")
    last = [entry for entry in log(run) if "accuracy" in entry][-1]
    assert (last["accuracy"], last["tool_use"]) == (1, 1)


TOOL = """
def price(item: int) -> int:
    "What an item costs."
    with open({counted!r}, "a") as file:
        file.write("x")
    return 2 * item
"""
TASK = "name: shop\ninstruction: Answer.\ntools: [own_shop:price]\nanswers: numbers\n"


def test_a_call_of_ones_own_tool_is_run_once_in_the_whole_training(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_shop.py").write_text(TOOL.format(counted=str(tmp_path / "counted")))
    (tmp_path / "shop.yaml").write_text(TASK)
    settings = CLONE.model_copy(update={"max_steps": 20})
    run = clone(
        lessons(tmp_path, "price(12)"), tmp_path / "run", llama, settings=settings,
        validation=exam(tmp_path, "24", "25"), tasks=Tasks("shop.yaml"), max_new_tokens=16, **CPU,
    )  # fmt: skip
    assert list(validated(run).values())[-3:] == [0.5, 0.5, 0.5]
    assert (tmp_path / "counted").read_text() == "x"
    assert not list(run.glob(".validation*"))


def test_what_a_search_finds_is_read_by_the_policy(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    build_index([Passage("Ruritania", "Ruritania has 5 castles.")], tmp_path / "index")
    searched = read(lessons(tmp_path, "WikiSearch(castles)"))
    turned = [
        row | {"input": with_context("Ruritania: Ruritania has 5 castles.", row["input"])} for row in searched
    ]
    data = write(tmp_path / "qa.json", [*searched, *(row | {"output": "5"} for row in turned)])
    exams = exam(tmp_path, "5", "nothing")
    settings = CLONE.model_copy(update={"max_steps": 60, "eval_steps": 60})
    how: dict[str, Any] = {
        "tasks": Tasks("qa", {"WikiSearch": str(tmp_path / "index")}), "max_new_tokens": 24
    }  # fmt: skip
    run = clone(data, tmp_path / "run", llama, settings=settings, validation=exams, **how, **CPU)
    assert validated(run) == {60: 0.5}
    validation = load_validation(settings, exams, **how)
    assert validation
    model, template = load(llama, run, **CPU), load_template("plain")
    rows = validation.responses(model, template, run)
    assert [(row.turns, row.correct) for row in rows] == [(["5"], True), (["5"], False)]
    halves = [validation.counts(model, template, run, part, 2) for part in (0, 1)]
    assert halves == [[1, 1, 1, 1], [1, 0, 1, 0]]
    assert validation.counts(model, template, run, 2, 3) == [0, 0, 0, 0]  # a process too many


def train_further(
    folder: Path, model: str, start: Path, gold: str, patience: int = 0, reward: RewardFunction | None = None
) -> Path:
    """A run of stage 2 in `folder/run`, which starts from an adapter that says 7 and learns to say 5."""
    rows = [
        {"query": f"Solve.\nWhat is {i} and {7 - i}?", "responses": ["5", "7"], "scores": [20, 0]}
        for i in range(6)
    ]
    settings = Rlef(
        max_steps=12, batch_size=3, learning_rate=5e-3, lr_scheduler_type="constant", save_steps=100, eval_steps=2,
        early_stopping_patience=patience, lora=LORA,
    )  # fmt: skip
    return rlef(
        write(folder / "ranked.json", rows), folder / "run", model, start, settings=settings,
        validation=exam(folder, *[gold] * 6), reward=reward, max_new_tokens=4, **CPU,
    )  # fmt: skip


def test_stage_2_keeps_the_best_checkpoint(learned: Path, llama: str, tmp_path: Path) -> None:
    run = train_further(tmp_path, llama, learned, "5")
    found = validated(run)
    assert (list(found), found[0], found[12]) == ([0, 2, 4, 6, 8, 10, 12], 0, 1)
    best = max(found, key=lambda step: found[step])
    assert weights(run) == weights(run / f"checkpoint-{best}") != weights(learned)


def test_stage_2_that_makes_nothing_better_keeps_what_it_started_from(
    learned: Path, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_further(tmp_path, llama, learned, "7", patience=2)
    assert list(validated(run)) == [0, 2, 4]  # two without a better one
    assert validated(run)[0] == 1
    assert weights(run) == weights(learned) != weights(run / "checkpoint-2")
    told = f"training made nothing better on the held-out questions, so the adapter is that of {learned}"
    assert told in capsys.readouterr().err
    card = (run / "README.md").read_text()
    assert "Step 0 (what training started from) of 4 was the best on the held-out questions" in card


def test_a_reward_chooses_instead_of_the_accuracy(learned: Path, llama: str, tmp_path: Path) -> None:
    def fives(responses: Sequence[Response], target: Response | None) -> list[float]:
        return [float(each.prediction == "5") for each in responses]

    run = train_further(tmp_path, llama, learned, "7", reward=fives)
    rewards = {row["step"]: row["reward"] for row in log(run) if "reward" in row}
    assert (validated(run)[0], rewards[0], rewards[12]) == (1, 0, 1)
    best = max(rewards, key=lambda step: rewards[step])
    assert weights(run) == weights(run / f"checkpoint-{best}")


# Kills


def outcome(folder: Path) -> dict[str, bytes]:
    """What a run leaves besides its checkpoints, which hold the folder's own path."""
    return {name: content for name, content in tree(folder).items() if "checkpoint-" not in name}


@pytest.mark.parametrize(("settings", "step"), [(CLONE, 3), (PATIENT, 5)], ids=["keep-best", "early-stop"])
def test_killed_anywhere_and_run_again_it_ends_in_the_same_bytes(
    llama: str, tmp_path: Path, settings: Clone, step: int
) -> None:
    """Every `step`-th act of the run, from its first file to the last one of the adapter."""
    short = settings.model_copy(update={"eval_steps": 3})
    kills = same_after_kills(tmp_path, train, llama, short, points=range(1, 200, step), kept=outcome)
    assert kills > 30 / step


def test_stage_2_killed_anywhere_still_knows_what_it_started_from(
    learned: Path, llama: str, tmp_path: Path
) -> None:
    kills = same_after_kills(
        tmp_path, train_further, llama, learned, "7", points=range(1, 200, 9), kept=outcome
    )
    assert kills > 3


def test_a_run_killed_after_it_stopped_takes_no_other_step(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint says that training was over; the trainer alone would go on to step 30."""
    run = train(tmp_path, llama, PATIENT)
    expected = outcome(run)
    for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl", "README.md"):
        (run / name).unlink()
    capsys.readouterr()
    train(tmp_path, llama, PATIENT)
    assert outcome(run) == expected
    assert (
        capsys.readouterr().err
        == f"{run}: the adapter is that of step 6, the best on the held-out questions\n"
    )
    assert not (run / "checkpoint-12").exists()


def test_patience_is_remembered_over_a_kill(llama: str, tmp_path: Path) -> None:
    """After step 8, one validation without a better one: one more, not two, and it is over."""
    run = train(tmp_path, llama, PATIENT)
    expected = outcome(run)
    for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl", "README.md"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoint-10")
    train(tmp_path, llama, PATIENT)
    assert outcome(run) == expected
    assert not (run / "checkpoint-12").exists()


# What does not fit


def test_another_validation_is_another_run(learned: Path, llama: str, tmp_path: Path) -> None:
    run = shutil.copytree(learned, tmp_path / "run")
    with pytest.raises(
        InputError, match=r"begun with other settings \(validation\.data was '\w+', is now '\w+'\)"
    ):
        train(tmp_path, llama, gold="8")
    assert weights(run) == weights(learned)


@pytest.mark.parametrize(
    ("settings", "options", "complaint"),
    [
        (CLONE, {}, "^eval_steps=2: there are no held-out questions; give them as 'validation'$"),
        (
            Clone(),
            {"validation": "math"},
            "^validation: the steps between validations are missing; add eval_steps=10$",
        ),
        (CLONE, {"validation": "none"}, r"none\.json: no such file"),
        (CLONE, {"validation": "empty"}, r"empty\.json: holds no rows"),
        (CLONE, {"validation": "word"}, r"word\.json:2: field 'answer': 'a few' is not a number"),
        (CLONE, {"validation": "math", "tasks": ["maths"]}, "unknown task 'maths'; there is: math"),
        (CLONE, {"validation": "math", "tasks": ["mix"]}, r"math\.json:1: field 'task': is missing"),
        (CLONE, {"validation": "math", "tasks": ["qa", {"WikiSearch": "no/index"}]}, "no/index"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_model(
    settings: Clone,
    options: dict[str, Any],
    complaint: str,
    llama: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trice.models.local.AutoModelForCausalLM", None)
    write(tmp_path / "empty.json", [])
    rows = [
        {"id": f"Q_{i}", "question": "How many?", "answer": answer} for i, answer in enumerate(("7", "a few"))
    ]
    write(tmp_path / "word.json", rows)
    exam(tmp_path, "7").rename(tmp_path / "math.json")
    data = write(tmp_path / "data.json", [{"instruction": "", "input": "1?", "output": "1"}])
    if "validation" in options:
        options = options | {"validation": tmp_path / f"{options['validation']}.json"}

    def train_with(tasks: Sequence[Any] = (), **more: Any) -> None:
        more |= {"tasks": Tasks(*tasks)} if tasks else {}
        clone(data, tmp_path / "run", llama, settings=settings, **more, **CPU)

    with pytest.raises(InputError, match=complaint) as caught:
        train_with(**options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_patience_without_validations_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^settings: 'early_stopping_patience' counts validations; set 'eval_steps' too$"
    ):
        read_settings(Rlef, ["early_stopping_patience=3"])


def test_the_command_line_takes_held_out_questions(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exams, data = exam(tmp_path, "7"), lessons(tmp_path, "7")
    words = training("clone", llama, data, tmp_path / "run")
    words += ["max_steps=2", "eval_steps=1", "--max-new-tokens", 4]
    assert command(capsys, *words)[0] == 2
    code, out, _ = command(capsys, *words, "--validation", exams, "--task", "math")
    assert (code, out) == (0, f"{tmp_path / 'run'}\n")
    assert list(validated(tmp_path / "run")) == [1, 2]
