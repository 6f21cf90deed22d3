"""The rows: the published fields, what is refused, and what travels on."""

import pytest
from pydantic import ValidationError

from trice.datasets.published import from_candidates, to_candidates
from trice.errors import InputError
from trice.storage.files import dump_row
from trice.training_data import Candidates, LabeledQuestion
from trice.types import Execution, Outcome, Question, Response


def test_text_stands_under_question_or_input() -> None:
    raw = Question.model_validate({"id": "ASDiv_12", "question": "2+2?", "answer": "4"})
    dev = Question.model_validate({"id": "ASDiv_12", "input": "2+2?", "answer": "4"})
    assert raw == dev
    assert raw.input == "2+2?"


def test_an_id_that_names_no_data_set_leaves_it_unnamed() -> None:
    rows = [Question.model_validate({"id": id, "input": "q", "answer": "4"}) for id in (17, "q18", "_19")]
    assert {row.dataset for row in rows} == {"unnamed"}


@pytest.mark.parametrize("name", ["GSM8K_3", "GSM8K-3", "GSM8K:3", "GSM8K/3"])
def test_the_data_set_is_read_from_the_id_unless_it_is_given(name: str) -> None:
    row = {"id": name, "question": "q", "answer": "4"}
    assert Question.model_validate(row).dataset == "GSM8K"
    assert Question.model_validate(row | {"dataset": "own"}).dataset == "own"


def test_numbers_are_taken_as_text_and_answers_may_be_several() -> None:
    row = Question.model_validate({"id": 7, "question": "q", "answer": 2.5})
    assert (row.id, row.answers) == ("7", ["2.5"])
    assert Question(id="7", input="q", answer=["a", "b"]).answers == ["a", "b"]


@pytest.mark.parametrize("answer", ["", " ", [], ["4", ""]])
def test_an_empty_gold_answer_is_none(answer: object) -> None:
    with pytest.raises(ValidationError):
        Question.model_validate({"id": "a", "question": "q", "answer": answer})


def test_a_question_to_be_answered_alone_needs_no_gold_answer() -> None:
    """Files are refused without one, except by `generate` (test_rowfiles, test_api)."""
    assert Question.model_validate({"id": "a", "question": "q"}).answers == []


def test_extra_fields_travel_on_and_empty_ones_and_seconds_are_not_written() -> None:
    row = Response.model_validate(
        {"id": "a_1", "question": "q", "answer": "4", "grade": {"level": 3}, "response": "5"}
    )
    row.execution, row.outcome = Execution(output="5", seconds=0.25), Outcome.CALLED
    assert dump_row(row) == (
        '{"id": "a_1", "dataset": "a", "instruction": "", "input": "q", "answer": "4", "response": "5", '
        '"origin": "", "sample": 0, "outcome": "called", "execution": {"output": "5"}, "grade": {"level": 3}}'
    )


def test_a_published_stage_1_row_has_three_fields() -> None:
    row = LabeledQuestion.model_validate({"instruction": "i", "input": "q", "output": "4"})
    assert (row.id, row.answer) == ("", None)
    with pytest.raises(ValidationError, match="output"):
        LabeledQuestion.model_validate({"instruction": "i", "input": "q", "output": ""})


PUBLISHED = {"query": "Do this.\nTwo\nlines", "responses": ["a", "b"], "scores": [20, 0]}


def test_published_candidates_become_records() -> None:
    columns = {"origin": ["gold", "m"], "answer": ["1", None], "tokens": [None, [5]], "id": "x_1", "level": 3}
    row = to_candidates(PUBLISHED | columns, "file:1")
    assert (row.id, row.instruction, row.input, row.model_extra) == (
        "x_1",
        "Do this.",
        "Two\nlines",
        {"level": 3},
    )
    first, second = row.candidates
    assert (first.response, first.reward, first.origin, first.prediction, first.tokens) == (
        "a",
        20,
        "gold",
        "1",
        None,
    )
    assert (second.response, second.reward, second.prediction, second.tokens) == ("b", 0, None, [5])
    assert row.target is first
    assert from_candidates(row) == PUBLISHED | {
        name: columns[name] for name in ("origin", "answer", "tokens", "id")
    }


def test_the_target_is_a_field_and_published_rows_have_it_first() -> None:
    row = Candidates.model_validate(
        {
            "instruction": "Do this.",
            "input": "q",
            "candidates": [{"response": "b", "reward": 0}, {"response": "a", "reward": 20, "target": True}],
        }
    )
    assert row.target == row.candidates[1]
    assert from_candidates(row)["responses"] == ["a", "b"]
    with pytest.raises(InputError, match="holds a line break"):
        from_candidates(row.model_copy(update={"instruction": "two\nlines"}))
    with pytest.raises(ValidationError, match="more than one of them is the target"):
        Candidates.model_validate(
            {"input": "q", "candidates": [{"response": "a", "reward": 1, "target": True}] * 2}
        )


def test_imported_candidates_in_published_form_have_no_target() -> None:
    assert to_candidates(PUBLISHED | {"origin": ["m", "n"]}, "file:1").target is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scores": [20]}, "field 'scores': 1 scores for 2 responses"),
        ({"tokens": [None]}, "field 'tokens': 1 lists for 2 responses"),
        ({"origin": ["gold"]}, "field 'origin': 1 entries for 2 responses"),
        ({"query": " "}, "field 'query': the question is empty"),
        ({"responses": []}, "field 'responses'"),
        ({"scores": [20, float("inf")]}, "field 'scores.1'"),
    ],
)
def test_published_lists_that_do_not_fit_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=f"^file:1: {complaint}"):
        to_candidates(PUBLISHED | change, "file:1")


@pytest.mark.parametrize("empty", [{}, {"input": ""}, {"question": ""}])
def test_a_published_question_may_stand_under_instruction(empty: dict[str, str]) -> None:
    row = Question.model_validate(
        {"id": "TREx_1", "instruction": "Lima lies in ?", "answer": ["Peru"], **empty}
    )
    assert (row.instruction, row.input) == ("", "Lima lies in ?")


@pytest.mark.parametrize(
    ("published", "pred"), [(["a", "b"], "a"), ([], None), ("a", "a"), (7.0, "7.0"), (None, None)]
)
def test_published_predictions_may_be_several(published: object, pred: str | None) -> None:
    row = {"id": "a_1", "input": "q", "answer": "a", "response": "WikiSearch(q)", "prediction": published}
    assert Response.model_validate(row).prediction == pred
