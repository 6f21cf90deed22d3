"""Score: every candidate graded and rewarded, gold first, no question dropped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tiny import killed, read, tree, write
from trice.datasets.published import read_candidates
from trice.errors import InputError, TriceError
from trice.rewards import load_reward, released
from trice.stages.score import score
from trice.tasks import Tasks
from trice.training_data import Candidates


def texts(row: Candidates) -> list[str]:
    return [each.response for each in row.candidates]


def rewards(row: Candidates) -> list[float]:
    return [each.reward for each in row.candidates]


def tokens(row: Candidates) -> list[list[int] | None]:
    return [each.tokens for each in row.candidates]


def gold(number: int, output: str, **fields: Any) -> dict[str, Any]:
    row = {
        "id": f"S_{number}",
        "instruction": "Solve.",
        "input": f"{number} and 7?",
        "answer": str(number + 7),
    }
    return row | {"output": output} | fields


def candidate(number: int, response: str, sample: int = 0) -> dict[str, Any]:
    row = {"id": f"S_{number}", "input": f"{number} and 7?", "answer": str(number + 7)}
    return row | {"response": response, "sample": sample}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two questions, gold a call and gold an answer; three origins; an unused question among them."""
    stage2 = tmp_path / "stage2"
    write(stage2 / "math_gold_response.json", [gold(1, "calculator(1+7)"), gold(3, "10")])
    write(
        stage2 / "math_early_response.json",
        [candidate(1, "calculator(1*7)"), candidate(3, "calculator(3+7)")],
    )
    sampled = ["8", " calculator(1+7)", "9", "calculator(1+"]
    rows = [candidate(1, text, sample) for sample, text in enumerate(sampled)]
    write(stage2 / "math_sampled_response.json", [*rows, candidate(3, "10"), candidate(99, "x")])
    write(stage2 / "other_sampled_response.json", [{"not": "ours"}])
    return stage2


def test_candidates_are_rewarded_and_equal_texts_kept_once(folder: Path) -> None:
    first, second = score(folder, folder / "math.json", Tasks("math"))
    assert texts(first) == ["calculator(1+7)", "calculator(1*7)", "8", "9", "calculator(1+"]
    assert [each.origin for each in first.candidates] == ["gold", "early", "sampled", "sampled", "sampled"]
    assert rewards(first) == [20, 5, 10, 0, 0]
    assert [each.prediction for each in first.candidates] == ["8", "7", "8", "9", None]
    assert [each.target for each in first.candidates] == [True, False, False, False, False]
    assert (texts(second), rewards(second)) == (["10", "calculator(3+7)"], [20, 10])
    written = read(folder / "math.json")[0]
    candidates = written.pop("candidates")
    assert written == {
        "id": "S_1", "dataset": "S", "instruction": "Solve.", "input": "1 and 7?", "answer": "8",
    }  # fmt: skip
    assert candidates[1] == {
        "response": "calculator(1*7)",
        "reward": 5.0,
        "target": False,
        "origin": "early",
        "outcome": "called",
        "call": {"name": "calculator", "arguments": {"expression": "1*7"}},
        "execution": {"output": "7"},
        "prediction": "7",
        "correct": False,
    }


def test_an_instruction_may_hold_line_breaks(folder: Path) -> None:
    write(
        folder / "math_gold_response.json", [gold(1, "calculator(1+7)") | {"instruction": "Solve.\nBriefly."}]
    )
    (row,) = score(folder, folder / "math.json", Tasks("math"))
    assert (row.instruction, row.input) == ("Solve.\nBriefly.", "1 and 7?")


def test_where_a_tool_is_required_an_answer_without_a_call_earns_nothing(folder: Path) -> None:
    write(
        folder / "math_gold_response.json", [gold(1, "calculator(1+7)") | {"tool": "required"}, gold(3, "10")]
    )
    first, second = score(
        folder, folder / "math.json", Tasks("math"), reward=load_reward("trice.rewards:correctness")
    )
    assert texts(first) == ["calculator(1+7)", "calculator(1*7)", "8", "9", "calculator(1+"]
    assert rewards(first) == [1, 0, 0, 0, 0]
    assert rewards(second) == [1, 1]


def test_candidates_keep_the_ids_they_were_written_in(folder: Path) -> None:
    rows = [candidate(1, "9") | {"tokens": [4, 5]}, candidate(1, "8", 1) | {"tokens": [6]}]
    again = candidate(1, " 9 ", 2) | {"tokens": [7, 5]}
    spaced = candidate(1, "7\n", 3) | {"tokens": [8, 5]}  # ids of another text than the one that is judged
    write(folder / "math_own_response.json", [*rows, again, spaced])
    first, second = score(folder, folder / "math.json", Tasks("math"))
    assert texts(first) == ["calculator(1+7)", "calculator(1*7)", "9", "8", "7", "calculator(1+"]
    assert tokens(first) == [None, None, [4, 5], [6], None, None]
    assert tokens(second) == [None, None]
    every, _ = score(folder, folder / "math.json", Tasks("math"), distinct=False)
    assert tokens(every) == [None, None, [4, 5], [6], [7, 5], [8, 5], None, None, None, None]


def test_a_question_with_gold_alone_is_kept(folder: Path) -> None:
    write(folder / "math_gold_response.json", [gold(5, "12")])
    assert [(texts(row), rewards(row)) for row in score(folder, folder / "math.json", Tasks("math"))] == [
        (["12"], [20])
    ]


def test_released_with_duplicates_kept(folder: Path) -> None:
    first, second = score(folder, folder / "math.json", Tasks("math"), reward=released, distinct=False)
    assert [text.strip() for text in texts(first)] == [
        "calculator(1+7)", "calculator(1*7)", "8", "calculator(1+7)", "9", "calculator(1+",
    ]  # fmt: skip
    # gold; the first after it ungraded; right without a tool; right with it; 1 off, and 8 off (none is 0)
    assert rewards(first) == [20, 20, 15, 20, 10, 5]
    assert (texts(second), rewards(second)) == (["10", "calculator(3+7)", "10"], [20, 15, 20])


def test_origins_are_taken_in_the_order_of_their_names(folder: Path) -> None:
    write(folder / "math_a.b-1_response.json", [candidate(1, "1")])
    (row, _) = score(folder, folder / "math.json", Tasks("math"))
    assert [each.origin for each in row.candidates] == [
        "gold",
        "a.b-1",
        "early",
        "sampled",
        "sampled",
        "sampled",
    ]


def test_data_sets_may_share_their_ids(folder: Path) -> None:
    def of(name: str, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"id": "1", "dataset": name}

    for path in folder.iterdir():
        path.unlink()
    write(folder / "math_gold_response.json", [of("a", gold(1, "8")), of("b", gold(1, "8"))])
    write(folder / "math_x_response.json", [of("a", candidate(1, "3")), of("b", candidate(1, "4"))])
    assert [texts(row) for row in score(folder, folder / "math.json", Tasks("math"))] == [
        ["8", "3"],
        ["8", "4"],
    ]


def test_published_responses_open_with_a_summary_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "math_early_response.json"
    path.write_text("acc: 0.5, tool_rate: 1.0\n" + path.read_text())
    assert len(score(folder, folder / "math.json", Tasks("math"))[0].candidates) == 5
    assert "skipped the summary line" in capsys.readouterr().err


def test_a_users_own_reward(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    (folder / "thrift.py").write_text(
        "def pay(question, response):\n"
        "    return 3 * response.correct - (response.outcome == 'called') + int(question.answer) / 8\n"
    )
    first, _ = score(folder, folder / "math.json", Tasks("math"), reward=load_reward("thrift:pay"))
    assert rewards(first) == [3, 0, 4, 1, 1]


def test_the_same_files_give_the_same_bytes_and_a_kill_leaves_the_old_ones(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "math.json"
    score(folder, output, Tasks("math"))
    before = tree(output.parent)
    for point in (1, 2, 3):
        assert killed(point, output.parent, score, folder, output, Tasks("math"))
        assert output.read_bytes() == before["math.json"]
    score(folder, output, Tasks("math"))
    assert tree(output.parent) == before


def test_a_failing_reward_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    (folder / "broken.py").write_text("def pay(question, response):\n    return response.nothing\n")
    score(folder, folder / "math.json", Tasks("math"))
    before = tree(folder)
    with pytest.raises(TriceError, match="reward 'broken:pay' failed on question 'S_1': AttributeError"):
        score(folder, folder / "math.json", Tasks("math"), reward=load_reward("broken:pay"))
    assert {key: value for key, value in tree(folder).items() if "pyc" not in key} == before


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([gold(1, "8"), gold(2, "9") | {"id": ""}], r":2: field 'id'"),
        ([gold(1, "8"), gold(1, "8")], r":2: field 'id': 'S_1' of data set 'S' is in .*:1 too"),
        ([gold(1, "8", answer="")], r":1: field 'answer': there is no gold answer"),
        ([gold(1, "8"), gold(2, "9", answer="nine")], r":2: field 'answer': 'nine' is not a number"),
        ([gold(1, "")], r":1: field 'output'"),
    ],
)
def test_gold_rows_that_do_not_fit_are_named(
    folder: Path, rows: list[dict[str, Any]], complaint: str
) -> None:
    path = write(folder / "math_gold_response.json", rows)
    with pytest.raises(InputError, match=rf"^{path}{complaint}"):
        score(folder, folder / "math.json", Tasks("math"))
    assert not (folder / "math.json").exists()


def test_a_folder_without_gold_or_with_a_bad_candidate_is_named(folder: Path) -> None:
    with (folder / "math_sampled_response.json").open("a") as file:
        file.write('{"id": "S_1"\n')
    with pytest.raises(InputError, match=r"math_sampled_response\.json:7: not a JSON object"):
        score(folder, folder / "math.json", Tasks("math"))
    with pytest.raises(
        InputError, match=r"no gold responses here \(qa_gold_response\.json|unknown task 'qa'"
    ):
        score(folder, folder / "math.json", Tasks("qa"))
    (folder / "math_gold_response.json").unlink()
    with pytest.raises(InputError, match=r"no gold responses here \(math_gold_response\.json is missing\)"):
        score(folder, folder / "math.json", Tasks("math"))


def test_what_is_written_is_read_by_training(folder: Path) -> None:
    score(folder, folder / "math.json", Tasks("math"))
    assert [row.target and row.target.reward for row in read_candidates(folder / "math.json")] == [20, 20]
