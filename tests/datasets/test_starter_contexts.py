"""The starter set for mlqa: disjoint contexts, answers that stand in the text, three languages."""

import re
from collections import Counter

import pytest

from trice import datasets
from trice.datasets import starter_contexts
from trice.errors import InputError
from trice.types import Question


@pytest.fixture(scope="module")
def many() -> tuple[list[Question], list[Question]]:
    return starter_contexts.CONTEXTS.make(1500, 600, seed=3)


def field(question: Question, name: str) -> str:
    return str((question.model_extra or {})[name])


def test_the_form_is_that_of_mlqa(many: tuple[list[Question], list[Question]]) -> None:
    for row in [*many[0], *many[1]]:
        assert re.fullmatch(r"Context: [^\n{}]+\.\nQuestion: [^\n{}]+\?", row.input), row
        text = row.input.partition("\n")[0]
        assert 2 <= len(re.findall(r"\.(?: |$)", text)) <= 4, row


def test_every_answer_stands_in_the_context(many: tuple[list[Question], list[Question]]) -> None:
    for row in [*many[0], *many[1]]:
        text = row.input.partition("\n")[0]
        assert re.search(rf"(?<!\w){re.escape(row.answers[0])}(?!\w)", text), row
        assert row.answers[0] not in row.input.partition("\n")[2], row


def test_contexts_are_disjoint_and_every_test_relation_is_learnt(
    many: tuple[list[Question], list[Question]],
) -> None:
    train, test = ({field(row, "template") for row in part} for part in many)
    assert not train & test
    assert (len(train), len(test)) == (22, 12)
    learnt, tested = ({field(row, "relation") for row in part} for part in many)
    assert len(learnt) == 36
    assert tested <= learnt


def test_most_questions_are_spanish(many: tuple[list[Question], list[Question]]) -> None:
    for part in many:
        languages = Counter(field(row, "language") for row in part)
        assert set(languages) == {"es", "fr", "de"}
        assert 0.7 < languages["es"] / len(part) < 0.8  # 6 of 8
    assert all(("Question: ¿" in row.input) is (field(row, "language") == "es") for row in many[0])


def test_a_question_worked_out_by_hand() -> None:
    """Of two museums, the one that is asked for."""
    rows = [
        row for row in starter_contexts.CONTEXTS.make(1500, 0)[0] if field(row, "template") == "museum-two"
    ]
    (row, *_) = [
        row for row in rows if (field(row, "relation"), field(row, "language")) == ("museum-year", "es")
    ]
    town = re.search(r"el museo de (\w+)\?", row.input)
    assert town
    year = re.search(rf"The one in {town[1]}, opened in (\d+)", row.input)
    assert year
    assert row.answers == [year[1]]


def test_the_seed_decides_and_fewer_are_the_beginning_of_more(
    many: tuple[list[Question], list[Question]],
) -> None:
    assert starter_contexts.CONTEXTS.make(150, 40, seed=3) == (many[0][:150], many[1][:40])
    assert starter_contexts.CONTEXTS.make(20, 20, seed=1) != starter_contexts.CONTEXTS.make(20, 20, seed=2)


def test_all_it_promises_are_distinct() -> None:
    parts = starter_contexts.CONTEXTS.make(starter_contexts.MAX_ROWS, starter_contexts.MAX_ROWS)
    assert all(len({row.input for row in part}) == starter_contexts.MAX_ROWS for part in parts)


def test_loaded_by_name_and_in_the_catalogue() -> None:
    split = datasets.load("starter-mlqa", train=12, test=3, seed=1)
    assert (split.train, split.test) == starter_contexts.CONTEXTS.make(12, 3, 1)
    assert (split.train[11].id, split.test[2].id) == ("starter-mlqa_train-12", "starter-mlqa_test-3")
    (entry,) = [entry for entry in datasets.catalogue() if entry.name == "starter-mlqa"]
    assert (entry.task, entry.present) == ("mlqa", True)


@pytest.mark.parametrize(
    ("train", "test"), [(starter_contexts.MAX_ROWS + 1, 1), (1, starter_contexts.MAX_ROWS + 1), (-1, 1)]
)
def test_more_than_it_can_make_is_refused(train: int, test: int) -> None:
    with pytest.raises(InputError, match=r"starter-mlqa: .* questions wanted; it makes 0 to 5000"):
        starter_contexts.CONTEXTS.make(train, test)
