"""The two scorers by hand, and a user's own. The gold answer is 10 throughout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trice import rewards
from trice.errors import InputError, TriceError
from trice.rewards import load_reward
from trice.stages.grading import grade
from trice.tasks import Tasks
from trice.types import Outcome, Response

CALL, ANSWER = "calculator(4+6)", "10"  # both right
WRONG_CALL, FAILED_CALL, WRONG, SILENT = "calculator(4*6)", "calculator(4/0)", "7", "I do not know"
UNCLOSED, EMPTY, GARBLED = "calculator(4+6", "calculator()", "calculator(4+*6)"


def graded(*texts: str, answer: str = "10") -> list[Response]:
    rows = [Response(id="A_1", input="4 and 6?", answer=answer, response=text) for text in texts]
    return grade(Tasks("math"), rows)


def paper(rows: list[Response]) -> list[float]:
    return rewards.paper(rows, rows[0])


def released(rows: list[Response]) -> list[float]:
    return rewards.released(rows, rows[0])


@pytest.mark.parametrize(
    ("gold", "text", "reward"),
    [
        (CALL, CALL, 15),
        (CALL, ANSWER, 10),
        (CALL, WRONG_CALL, 5),
        (CALL, FAILED_CALL, 5),
        (CALL, WRONG, 0),
        (CALL, SILENT, 0),
        (CALL, UNCLOSED, 0),
        (CALL, EMPTY, 0),
        (CALL, GARBLED, 0),
        (ANSWER, ANSWER, 15),
        (ANSWER, CALL, 10),
        (ANSWER, WRONG, 5),
        (ANSWER, SILENT, 5),
        (ANSWER, WRONG_CALL, 0),
        (ANSWER, FAILED_CALL, 0),
        (ANSWER, UNCLOSED, 0),
        (ANSWER, EMPTY, 0),
        (ANSWER, GARBLED, 0),
    ],
)
def test_paper_rewards_every_state(gold: str, text: str, reward: float) -> None:
    assert paper(graded(gold, text)) == [20, reward]


def test_paper_gives_the_same_state_the_same_reward() -> None:
    texts = [CALL, "calculator(20/2)", "It is calculator(10).", ANSWER, "ten: 10.00", WRONG, "8", UNCLOSED]
    assert paper(graded(CALL, *texts)) == [20, 15, 15, 15, 10, 10, 0, 0, 0]
    assert paper(graded(CALL)) == [20]


def test_paper_does_not_grade_the_gold_response() -> None:
    assert paper(graded(WRONG, ANSWER)) == [20, 15]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # right: aligned ties gold, not aligned is one level lower
        ([CALL, ANSWER, CALL], [20, 15, 20]),
        # wrong answers by distance from 10 (12: 2, 3: 7, 11: 1), below 20
        (["12", "3", "11"], [10, 5, 15]),
        # ... and below 15 once a right answer took that
        ([ANSWER, "3", "11"], [15, 5, 10]),
        ([ANSWER, "3", ANSWER], [15, 10, 15]),
        # a right call takes no level from the wrong ones
        ([CALL, "3", "11"], [20, 10, 15]),
        # how a wrong answer was found does not count, only how far off it is: 24 is 14 off
        ([WRONG_CALL, "3", "25"], [10, 15, 5]),
        # equally far: in their order
        (["11", "9", "11"], [15, 10, 5]),
        # no prediction is read as 0: 10 off
        ([UNCLOSED, "3", "40"], [10, 15, 5]),
        ([FAILED_CALL, SILENT, "1"], [10, 5, 15]),
        # more than five responses: the levels end at 0
        (["11", "12", "13", "14", "15"], [15, 10, 5, 0, 0]),
    ],
)
def test_released_ranks_wrong_numbers_by_distance(texts: list[str], expected: list[float]) -> None:
    assert released(graded(CALL, "first", *texts)) == [20, 20, *expected]


def test_released_turns_alignment_around_where_gold_answers() -> None:
    assert released(graded(ANSWER, "first", ANSWER, CALL, "3")) == [20, 15, 20, 15, 10]


@pytest.mark.parametrize("first", [CALL, ANSWER, WRONG, UNCLOSED])
def test_released_does_not_grade_the_first_response_after_gold(first: str) -> None:
    assert released(graded(CALL, first)) == [20, 20]
    assert released(graded(ANSWER, first)) == [20, 15]
    assert released(graded(CALL)) == [20]


def test_released_reads_a_gold_number_with_thousands_separators() -> None:
    assert released(graded("calculator(900+100)", "first", "999", "2", answer="1,000")) == [20, 20, 15, 10]


def test_correctness_rewards_nothing_else() -> None:
    correctness = load_reward("trice.rewards:correctness")
    assert correctness(graded(CALL, ANSWER, WRONG_CALL, WRONG, UNCLOSED), None) == [1, 1, 0, 0, 0]


def test_the_target_may_have_any_place_and_is_required() -> None:
    rows = graded(ANSWER, CALL)
    assert rewards.paper(rows, rows[1]) == [10, 20]
    for reward in (rewards.paper, rewards.released):
        with pytest.raises(InputError, match="compares responses with the target, and there is none"):
            reward(rows, None)


def test_released_lets_other_tasks_wrong_answers_tie() -> None:
    def named(pred: str | None, outcome: Outcome = Outcome.ANSWERED) -> Response:
        row = Response(id="Q_1", input="capital?", answer="Paris", response=pred or "")
        return row.model_copy(update={"prediction": pred, "outcome": outcome, "correct": pred == "Paris"})

    gold, first, called = named("Paris"), named("Rome"), Outcome.CALLED
    rest = [named("Rome"), named("Oslo"), named(None), named("Paris")]
    assert released([gold, first, *rest]) == [20, 15, 15, 15, 0, 20]
    assert released([gold, first, *rest[:3], named("Paris", called)]) == [20, 15, 10, 10, 0, 15]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_users_own_reward_is_found_in_the_working_folder(folder: Path) -> None:
    (folder / "brevity.py").write_text(
        "def short(question, response):\n    return question.id == 'A_1' and -len(response.response)\n"
    )
    assert load_reward("brevity:short")(graded(CALL, ANSWER, WRONG), None) == [-15, -2, -1]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return None", "TypeError: "),
        ("return float('nan')", "ValueError: it returned nan; expected a finite number"),
        ("return '1'", "TypeError: it returned '1'; expected a number"),
    ],
)
def test_one_that_fails_is_named_with_the_question(folder: Path, body: str, complaint: str) -> None:
    name = f"failing_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(f"def reward(question, response):\n    {body}\n")
    with pytest.raises(TriceError, match=rf"^reward '{name}:reward' failed on question 'A_1': {complaint}"):
        load_reward(f"{name}:reward")(graded(CALL, WRONG), None)


def test_one_that_is_not_there_is_refused(folder: Path) -> None:
    (folder / "unsound.py").write_text("def reward(:\n")
    (folder / "present.py").write_text("other = 1\n")
    for name, complaint in {
        "papers": " is not valid; choose paper, released, execution, or your own as module:function",
        "no_such_module:reward": ": there is no module no_such_module in the working folder",
        "present:reward": ": the module present has no 'reward'; it has other$",
        "unsound:reward": ": SyntaxError: ",
        ":reward": ": ValueError: Empty module name",
    }.items():
        with pytest.raises(InputError, match=rf"^reward '{name}'{complaint}"):
            load_reward(name)
