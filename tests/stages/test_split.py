"""Split: by the base model's own correctness, nothing lost on either side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tiny import read, same_after_kills, says, sums, tree, write
from trice.errors import InputError
from trice.models.endpoint import Endpoint
from trice.models.sampling import Sampling
from trice.stages.model_spec import ModelSpec
from trice.stages.split import split
from trice.tasks import Tasks

sys.path.append(str(Path(__file__).parents[1] / "models"))
from stand_in_server import StandIn


@pytest.fixture
def five(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A base model that answers 5."""
    model = says(tiny_model("llama"), tmp_path_factory.mktemp("model") / "five", "5")
    sampling = Sampling(max_new_tokens=4)
    return ModelSpec(str(model), sampling=sampling, batch_size=2, device="cpu", dtype="float32")


def half(i: int) -> str:
    return "5" if i % 2 else "6"


def work(folder: Path, spec: ModelSpec) -> None:
    split(sums(folder / "S.json", answer=half), Tasks("math"), spec, samples=1)


def sampled(folder: Path, spec: ModelSpec) -> None:
    split(sums(folder / "S.json", answer=half), Tasks("math"), spec, samples=3, temperature=2)


def test_right_and_wrong_stand_beside_the_data_with_the_response(tmp_path: Path, five: ModelSpec) -> None:
    files = split(sums(tmp_path / "S.json", answer=half), Tasks("math"), five, samples=1)
    assert str(files) == "2 of 5 right without a tool (40.0%)"
    assert sorted(tree(tmp_path)) == [".S.json.answers", "S.json", "S_right.json", "S_wrong.json"]
    right, wrong = read(files.known), read(files.unknown)
    assert [row["id"] for row in right] == ["S_1", "S_3"]
    assert [row["id"] for row in wrong] == ["S_0", "S_2", "S_4"]
    assert {(row["response"], row["prediction"], row["outcome"]) for row in right + wrong} == {
        ("5", "5", "answered")
    }
    assert {row["correct"] for row in right} == {True}
    assert {row["correct"] for row in wrong} == {False}
    assert wrong[0]["expression"] == "0+7"


def test_a_finished_split_asks_nothing_again(
    tmp_path: Path, five: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sums(tmp_path / "S.json", answer=half)
    files = split(data, Tasks("math"), five, samples=1)
    before = files.known.read_bytes()
    files.known.unlink()
    monkeypatch.setattr("trice.models.local.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert split(data, Tasks("math"), five, samples=1) == files
    assert files.known.read_bytes() == before


@pytest.mark.parametrize(("answer", "there", "gone"), [("5", "right", "wrong"), ("6", "wrong", "right")])
def test_an_empty_half_has_no_file(
    tmp_path: Path, five: ModelSpec, answer: str, there: str, gone: str
) -> None:
    (tmp_path / f"S_{gone}.json").write_text('{"id": "S_1", "input": "of an earlier split", "answer": "1"}')
    split(sums(tmp_path / "S.json", answer=lambda i: answer), Tasks("math"), five, samples=1)
    assert sorted(tree(tmp_path)) == [".S.json.answers", "S.json", f"S_{there}.json"]


def test_a_call_is_no_knowledge_even_where_its_result_is_right(tmp_path: Path, five: ModelSpec) -> None:
    calling = replace(five, tool_choice="required")
    (tmp_path / "S.json").parent.mkdir(exist_ok=True)
    files = split(sums(tmp_path / "S.json", answer=lambda i: "5"), Tasks("math"), calling, samples=1)
    assert (files.known_count, files.unknown_count) == (0, 5)
    assert all(row["response"].startswith("calculator(5") for row in read(files.unknown))


def test_questions_with_the_same_id_are_refused(tmp_path: Path, five: ModelSpec) -> None:
    data = sums(tmp_path / "S.json", answer=half)
    data.write_text(data.read_text().replace("S_1", "S_0"))
    with pytest.raises(InputError, match=rf"^{data}:2: field 'id': 'S_0' of data set 'S' is in {data}:1 too"):
        split(data, Tasks("math"), five)


def test_questions_of_another_data_set_are_not_overwritten_by_a_half(tmp_path: Path, five: ModelSpec) -> None:
    other = sums(tmp_path / "S_right.json")
    other.write_text(before := other.read_text().replace("S_", "T_"))
    with pytest.raises(
        InputError, match=rf"^{other}:1: question 'T_0' is not in .*S_right.json would be over"
    ):
        split(sums(tmp_path / "S.json"), Tasks("math"), five)
    assert other.read_text() == before


def test_a_file_of_the_users_that_is_called_answers_is_left_alone(tmp_path: Path, five: ModelSpec) -> None:
    (tmp_path / "S_answers.json").write_text("mine")
    split(sums(tmp_path / "S.json"), Tasks("math"), five, samples=1)
    assert (tmp_path / "S_answers.json").read_text() == "mine"


def test_killed_at_any_act_and_run_again_the_files_are_the_same(tmp_path: Path, five: ModelSpec) -> None:
    # the questions; journal, header, folder; five answers; their file, its folder; the journal's end; right; wrong;
    # the answers' end
    assert same_after_kills(tmp_path, work, five) == 1 + 3 + 5 + 4 + 3 + 3 + 3


def test_an_answer_that_is_not_a_number_is_named_before_the_model_is_loaded(
    tmp_path: Path, five: ModelSpec
) -> None:
    data = sums(tmp_path / "S.json", answer=lambda i: "a few" if i == 2 else "5")
    data.write_text("\n" + data.read_text())  # blank lines count
    with pytest.raises(InputError, match=rf"^{data}:4: field 'answer': 'a few' is not a number$"):
        split(data, Tasks("math"), replace(five, device="gpu"))
    assert sorted(tree(tmp_path)) == ["S.json"]


def test_an_endpoints_answers_are_not_paid_for_twice(tmp_path: Path) -> None:
    data = sums(tmp_path / "S.json", answer=half)
    with StandIn(lambda question: "5") as server:
        spec = ModelSpec("m", client=Endpoint(server.url, "m", []))
        first = split(data, Tasks("math"), spec)
        asked = len(server.seen)
        assert asked == 5 + 2  # two are right, and asked for two more answers each
        assert sorted(seen.body["temperature"] for seen in server.seen) == [0] * 5 + [0.7] * 2
        assert split(data, Tasks("math"), spec) == first
        assert first[2:] == (2, 3)
        assert len(server.seen) == asked


def test_an_answer_is_read_after_the_reasoning(tmp_path: Path) -> None:
    with StandIn(lambda message: "<think>Is it 9?</think>It is 5. <think>Or 8?</think>") as server:
        spec = ModelSpec("m", client=Endpoint(server.url, "m"), sampling=Sampling(max_new_tokens=4))
        files = split(sums(tmp_path / "S.json", answer=half), Tasks("math"), spec, samples=1)
    assert (files.known_count, files.unknown_count) == (2, 3)
    assert {row["prediction"] for row in (*read(files.known), *read(files.unknown))} == {"5"}


def five_at_times(i: int) -> str:
    return "5" if i == 3 else str(20 + i)


def test_a_lucky_guess_is_not_known(tmp_path: Path, five: ModelSpec) -> None:
    """The model answers every question with 5, which is right once; drawn at random it says other things."""
    data = sums(tmp_path / "S.json", answer=five_at_times)
    assert split(data, Tasks("math"), five, samples=1)[2:] == (1, 4)
    files = split(data, Tasks("math"), five, samples=4, temperature=10)
    assert files[2:] == (0, 5)
    lucky = next(row for row in read(files.unknown) if row["id"] == "S_3")
    assert (lucky["response"], lucky["correct"]) == ("5", True)
    assert lucky["known_share"] < 1
    assert not any("known_share" in row for row in read(files.unknown) if row["id"] != "S_3")
    files = split(data, Tasks("math"), five, samples=4, temperature=10, known=0.25)
    assert [(row["id"], row["response"]) for row in read(files.known)] == [("S_3", "5")]
    assert split(data, Tasks("math"), five, samples=4, temperature=0.01)[2:] == (
        1,
        4,
    )  # it is sure of what it says


def test_where_a_tool_is_required_nothing_is_known(tmp_path: Path, five: ModelSpec) -> None:
    data = sums(tmp_path / "S.json", answer=half)
    rows = read(data)
    rows[3]["tool"] = "required"
    write(data, rows)
    files = split(data, Tasks("math"), five, samples=1)
    assert [row["id"] for row in read(files.known)] == ["S_1"]
    assert next(row for row in read(files.unknown) if row["id"] == "S_3")["tool"] == "required"
    task = tmp_path / "stock.yaml"
    task.write_text("name: stock\ninstruction: Ask.\ntools: [calculator]\nanswers: numbers\ntool: required\n")
    assert split(data, Tasks(str(task)), five)[2:] == (0, 5)
    assert not files.known.exists()


def test_killed_while_answers_are_sampled_and_run_again_the_files_are_the_same(
    tmp_path: Path, five: ModelSpec
) -> None:
    # 1 act is for the questions, 3 for the journal, 5 for the first answers; then 2 questions are sampled
    assert same_after_kills(tmp_path, sampled, five, points=(9, 10, 11)) == 3


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"known": 0.0}, {"known": 1.5}])
def test_samples_that_could_say_nothing_are_refused(
    tmp_path: Path, five: ModelSpec, how: dict[str, float]
) -> None:
    with pytest.raises(
        InputError, match=r"^3 samples need a temperature above 0 and a known share of 0 to 1"
    ):
        split(sums(tmp_path / "S.json"), Tasks("math"), five, **how)
