"""Mix: what the model knows and what it needs a tool for, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiny import killed, read, tree, write
from trice.errors import InputError, TriceError
from trice.stages.mix import mix
from trice.tasks import Tasks, load_task

INSTRUCTION = load_task("math").instruction


def labelled(*numbers: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"A_{i}",
            "instruction": "own",
            "input": f"q{i}",
            "output": f"calculator({i}+1)",
            "answer": f"{i + 1}",
        }
        for i in numbers
    ]


def known(*numbers: int) -> list[dict[str, Any]]:
    graded = {"origin": "base", "sample": 0, "outcome": "answered", "prediction": "x", "correct": True}
    return [
        {"id": f"A_{i}", "input": f"q{i}", "answer": f"{i + 1}", "response": f"It is {i + 1}.", "grade": 2} | graded
        for i in numbers
    ]  # fmt: skip


def outputs(path: Path) -> dict[str, str]:
    return {row["id"]: row["output"] for row in read(path)}


def test_selective_joins_the_models_own_answers_and_the_calls(tmp_path: Path) -> None:
    wrong, right = write(tmp_path / "w.json", labelled(1, 2)), write(tmp_path / "r.json", known(3))
    assert mix([wrong], tmp_path / "math.json", Tasks("math"), right=[right]) == 3
    assert outputs(tmp_path / "math.json") == {
        "A_1": "calculator(1+1)",
        "A_2": "calculator(2+1)",
        "A_3": "It is 4.",
    }
    rows = {row["id"]: row for row in read(tmp_path / "math.json")}
    assert rows["A_1"]["instruction"] == "own"
    assert rows["A_3"] == {
        "instruction": INSTRUCTION,
        "input": "q3",
        "output": "It is 4.",
        "id": "A_3",
        "dataset": "A",
        "answer": "4",
        "grade": 2,
    }


def test_a_question_both_labelled_and_known_keeps_the_models_own_answer(tmp_path: Path) -> None:
    every, right = write(tmp_path / "w.json", labelled(1, 2, 3)), write(tmp_path / "r.json", known(2))
    mix([every], tmp_path / "math.json", Tasks("math"), right=[right])
    assert outputs(tmp_path / "math.json")["A_2"] == "It is 3."
    assert len(read(tmp_path / "math.json")) == 3


def test_questions_of_two_data_sets_may_have_the_same_id(tmp_path: Path) -> None:
    wrong = write(tmp_path / "w.json", [row | {"dataset": "B", "id": "1"} for row in labelled(1)])
    right = write(tmp_path / "r.json", [row | {"dataset": "A", "id": "1"} for row in known(1)])
    assert mix([wrong], tmp_path / "math.json", Tasks("math"), right=[right]) == 2


def test_calls_takes_no_direct_answer(tmp_path: Path) -> None:
    files = [write(tmp_path / "w.json", labelled(1)), write(tmp_path / "r.json", labelled(2))]
    mix(files, tmp_path / "calls.json", Tasks("math"), kind="calls", right=[tmp_path / "not read"])
    assert set(outputs(tmp_path / "calls.json").values()) == {"calculator(1+1)", "calculator(2+1)"}


def test_where_a_tool_is_required_no_answer_is_taught(tmp_path: Path) -> None:
    rows = known(3, 4)
    rows[0]["tool"] = "required"
    wrong, right = write(tmp_path / "w.json", labelled(1)), write(tmp_path / "r.json", rows)
    mix([wrong], tmp_path / "math.json", Tasks("math"), right=[right])
    assert outputs(tmp_path / "math.json") == {"A_1": "calculator(1+1)", "A_4": "It is 5."}


def test_answers_turns_every_question_into_its_first_gold_answer(tmp_path: Path) -> None:
    rows = [
        {"id": "A_1", "question": "q1", "answer": ["4", "four"]},
        {"id": "A_2", "question": "q2", "answer": 5},
    ]
    questions = write(tmp_path / "q.json", rows)
    assert mix([], tmp_path / "answers.json", Tasks("math"), kind="answers", questions=[questions]) == 2
    assert outputs(tmp_path / "answers.json") == {"A_1": "4", "A_2": "5"}
    assert {row["instruction"] for row in read(tmp_path / "answers.json")} == {INSTRUCTION}


def test_the_gold_answer_replaces_a_conversation_of_the_model(tmp_path: Path) -> None:
    row = {"id": "A_1", "question": "q1", "answer": "4", "response": "no", "outcome": "answered"}
    questions = write(tmp_path / "q.json", [row | {"completion": [{"role": "assistant", "content": "no"}]}])
    mix([], tmp_path / "answers.json", Tasks("math"), kind="answers", questions=[questions])
    (written,) = read(tmp_path / "answers.json")
    assert written["output"] == "4"
    assert "completion" not in written


def test_published_rows_of_several_files_join(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{name}.json", [{"instruction": name, "input": "q", "output": "o"}] * 2)
        for name in ("math", "qa")
    ]
    assert mix(files, tmp_path / "mix.json", Tasks("math")) == 4
    assert sorted(row["instruction"] for row in read(tmp_path / "mix.json")) == ["math", "math", "qa", "qa"]


def test_the_seed_says_the_order(tmp_path: Path) -> None:
    data = write(tmp_path / "w.json", labelled(*range(20)))
    orders = []
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        mix([data], tmp_path / name, Tasks("math"), seed=seed)
        orders.append(list(outputs(tmp_path / name)))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_kill_leaves_the_old_file_whole(tmp_path: Path) -> None:
    data, output = write(tmp_path / "w.json", labelled(1, 2)), tmp_path / "out" / "math.json"
    mix([data], output, Tasks("math"), seed=1)
    before = tree(output.parent)
    write(data, labelled(3, 4, 5))
    assert killed(3, output.parent, mix, [data], output, Tasks("math"))
    assert output.read_bytes() == before["math.json"]
    assert mix([data], output, Tasks("math")) == 3
    assert list(tree(output.parent)) == ["math.json"]


def test_wrong_input_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    output, good = tmp_path / "out.json", write(tmp_path / "w.json", labelled(1))
    empty, bad = (
        write(tmp_path / "e.json", []),
        write(tmp_path / "b.json", [{"instruction": "", "input": "q"}]),
    )
    with pytest.raises(InputError, match=r"typo\.json: no such file"):
        mix([good, tmp_path / "typo.json"], output, Tasks("math"))
    with pytest.raises(InputError, match=r"typo\.json: no such file"):
        mix([good], output, Tasks("math"), right=[tmp_path / "typo.json"])
    with pytest.raises(InputError, match=r"e\.json: holds no rows"):
        mix([good, empty], output, Tasks("math"))
    with pytest.raises(InputError, match=r"b\.json:1: field 'output': Field required"):
        mix([bad], output, Tasks("math"))
    with pytest.raises(InputError, match="nothing to mix: kind 'answers'"):
        mix([good], output, Tasks("math"), kind="answers")
    assert not output.exists()
    with pytest.raises(TriceError, match=r"w\.json/out\.json: cannot be written"):
        mix([good], good / "out.json", Tasks("math"))
