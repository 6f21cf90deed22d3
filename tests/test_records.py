"""The rows: the published fields, what is refused, and what travels on."""

import pytest
from pydantic import ValidationError

from trice.storage.files import dump_row
from trice.types import Execution, Labelled, Outcome, Question, Ranked, Response


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
    row = Labelled.model_validate({"instruction": "i", "input": "q", "output": "4"})
    assert (row.id, row.answer) == ("", "")
    with pytest.raises(ValidationError, match="output"):
        Labelled.model_validate({"instruction": "i", "input": "q", "output": ""})


def test_a_ranked_row_knows_its_instruction_and_input() -> None:
    row = Ranked(query="Do this.\nTwo\nlines", responses=["a", "b"], scores=[20, 0])
    assert (row.instruction, row.input) == ("Do this.", "Two\nlines")


def test_every_ranked_response_has_a_score() -> None:
    with pytest.raises(ValidationError, match="field 'scores': 1 scores for 2 responses"):
        Ranked(query="q", responses=["a", "b"], scores=[20])
    with pytest.raises(ValidationError, match="field 'tokens': 1 lists for 2 responses"):
        Ranked(query="q", responses=["a", "b"], scores=[20, 0], tokens=[None])


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
    row = {"id": "a_1", "input": "q", "answer": "a", "response": "WikiSearch(q)", "pred": published}
    assert Response.model_validate(row).pred == pred
