"""Evaluate: graded rows in a file, and the measures of each data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import killed, read, tree, write
from trice.errors import InputError
from trice.metrics import Share
from trice.stages.evaluate import describe, evaluate
from trice.tasks import Tasks

RESPONSES = {
    "A_1": ("8", "8"),  # right without a tool
    "A_2": ("9", "calculator(2+7)"),  # right with one
    "A_3": ("10", "calculator(3*7)"),  # wrong with one
    "B_4": ("11", "calculator(4+"),  # malformed
    "B_5": ("12", "I do not know"),  # wrong without
}


def responses(path: Path, texts: dict[str, tuple[str, str]] = RESPONSES) -> Path:
    rows = [
        {"id": name, "input": f"{name}?", "answer": gold, "response": text, "origin": "x", "note": name}
        for name, (gold, text) in texts.items()
    ]
    return write(path, rows)


def test_rows_are_graded_and_counted_by_data_set(tmp_path: Path) -> None:
    found = evaluate(responses(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"))
    assert list(found) == ["A", "B", "total"]
    assert found["A"]["accuracy"] == Share(2, 3)
    assert found["B"]["accuracy"] == Share(0, 2)
    total = found["total"]
    assert total["accuracy"] == Share(2, 5)
    assert (total["tool_use"], total["answered"], total["malformed"]) == (
        Share(2, 5),
        Share(2, 5),
        Share(1, 5),
    )
    rows = {row["id"]: row for row in read(tmp_path / "out.json")}
    assert [row.get("prediction") for row in rows.values()] == ["8", "9", "21", None, None]
    assert [row["correct"] for row in rows.values()] == [True, True, False, False, False]
    assert rows["A_3"]["execution"] == {"output": "21"}
    assert rows["B_4"]["reason"] == "the parenthesis never closes"
    assert (rows["B_5"]["note"], rows["B_5"]["origin"]) == ("B_5", "x")


def test_against_the_base_model_need_and_misuse_are_counted(tmp_path: Path) -> None:
    base = {name: (gold, gold if name in ("A_1", "A_3") else "0") for name, (gold, _) in RESPONSES.items()}
    evaluate(responses(tmp_path / "base.json", base), tmp_path / "graded.json", Tasks("math"))
    found = evaluate(
        responses(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), base=tmp_path / "graded.json"
    )["total"]
    # needed: A_2, B_4, B_5; not needed: A_1, A_3, of which A_3 called, and was wrong
    assert (found["need"], found["over_use"], found["harmful_use"]) == (Share(3, 5), Share(1, 2), Share(1, 2))
    assert found["under_use"] == Share(1, 3)


def test_a_base_model_that_calls_does_not_know_and_a_required_tool_is_always_needed(tmp_path: Path) -> None:
    base = {"A_1": ("8", "8"), "A_2": ("9", "calculator(2+7)"), "A_3": ("10", "10")}
    data = responses(tmp_path / "base.json", base)
    rows = read(data)
    rows[2]["tool"] = "required"  # whatever the base model happens to say
    write(data, rows)
    evaluate(data, tmp_path / "graded.json", Tasks("math"))
    found = evaluate(data, tmp_path / "out.json", Tasks("math"), base=tmp_path / "graded.json")["total"]
    assert found["need"] == Share(2, 3)
    assert found["under_use"] == Share(0, 2)
    task = tmp_path / "live.yaml"
    task.write_text("name: live\ninstruction: Ask.\ntools: [calculator]\nanswers: numbers\ntool: required\n")
    evaluate(data, tmp_path / "graded.json", Tasks(str(task)))
    assert {row["tool"] for row in read(tmp_path / "graded.json")} == {"required"}
    found = evaluate(data, tmp_path / "out.json", Tasks(str(task)), base=tmp_path / "graded.json")["total"]
    assert found["need"] == Share(3, 3)
    rows[2]["tool"] = "maybe"
    write(data, rows)
    with pytest.raises(InputError, match=r":3: field 'tool': Input should be 'required'$"):
        evaluate(data, tmp_path / "out.json", Tasks("math"))


def test_the_measures_are_told_with_intervals(tmp_path: Path) -> None:
    lines = describe(
        evaluate(responses(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"))
    ).splitlines()
    # Wilson's interval for 2 of 5, by hand: (0.4 + 0.38415 ± 1.95996 √(0.048 + 0.03841)) / 1.76829 …
    assert lines[2].startswith("total (5): accuracy 40.0% (11.8% to 76.9%), tool use 40.0% (11.8% to 76.9%)")
    assert [line.split()[0] for line in lines] == ["A", "B", "total"]


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    found = evaluate(responses(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), limit=2)
    assert found["total"]["accuracy"] == Share(2, 2)
    assert len(read(tmp_path / "out.json")) == 2


def test_evaluating_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    evaluate(responses(tmp_path / "in.json"), tmp_path / "one.json", Tasks("math"))
    evaluate(tmp_path / "one.json", tmp_path / "two.json", Tasks("math"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_kill_leaves_the_old_file_whole(tmp_path: Path) -> None:
    output = tmp_path / "out" / "result.json"
    evaluate(responses(tmp_path / "in.json"), output, Tasks("math"))
    before = tree(output.parent)
    responses(tmp_path / "in.json", {"A_1": ("8", "7")})
    for point in (1, 2, 3):
        assert killed(point, output.parent, evaluate, tmp_path / "in.json", output, Tasks("math"))
        assert output.read_bytes() == before["result.json"]
    evaluate(tmp_path / "in.json", output, Tasks("math"))
    assert len(read(output)) == 1
    assert list(tree(output.parent)) == ["result.json"]


def test_wrong_input_is_named_and_the_old_result_stays(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    output.write_text("old")
    good = responses(tmp_path / "in.json")
    question = {"id": "A_1", "input": "q"}
    for row, complaint in (
        ({"answer": "4"}, r":1: field 'response': Field required"),
        ({"answer": "", "response": "4"}, r":1: field 'answer': there is no gold answer"),
        ({"answer": "a few", "response": "4"}, r":1: field 'answer': 'a few' is not a number"),
    ):
        path = write(tmp_path / "bad.json", [question | row])
        with pytest.raises(InputError, match=rf"^{path}{complaint}"):
            evaluate(path, output, Tasks("math"))
    with pytest.raises(InputError, match="unknown task 'cooking'"):
        evaluate(good, output, Tasks("cooking"))
    with pytest.raises(InputError, match="is not graded; run `trice evaluate` first"):
        evaluate(good, output, Tasks("math"), base=good)
    other = responses(tmp_path / "other.json", {"A_1": ("8", "8")})
    evaluate(other, tmp_path / "graded.json", Tasks("math"))
    with pytest.raises(InputError, match="question 'A_2' of 'A' has no response of the base model"):
        evaluate(good, output, Tasks("math"), base=tmp_path / "graded.json")
    assert output.read_text() == "old"


def test_an_output_that_is_an_input_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    data = responses(tmp_path / "in.json")
    journal = write(tmp_path / ".in.json.journal", [{"at": 0, "settings": {}, "total": 5}])
    neighbour = write(tmp_path / ".in.json.bak.journal", [{"at": 0}])
    before = data.read_bytes()
    with pytest.raises(InputError, match="is an input, which the output would replace"):
        evaluate(data, tmp_path / "." / "in.json", Tasks("math"))
    assert data.read_bytes() == before
    evaluate(data, tmp_path / "out.json", Tasks("math"))
    assert journal.exists()
    write(tmp_path / "in.json.bak", [])
    evaluate(
        responses(tmp_path / "second.json"), tmp_path / "in.json", Tasks("math")
    )  # replaces another evaluation
    assert neighbour.exists()
