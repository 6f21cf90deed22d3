"""The tasks of text: how answers are judged, and the stricter measures beside it."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trice.errors import InputError
from trice.recipes.recipe import load_recipe
from trice.tasks import Tasks, load_task
from trice.tasks.task import Task
from trice.tasks.word_judge import exact_match, f1
from trice.types import Question

task = load_task("qa")


@pytest.mark.parametrize(
    ("name", "instruction", "tool"),
    [
        ("qa", "Given a question, please answer it and you can use a WikiSearch for help.", "WikiSearch"),
        ("lama", "Given a question, please answer it and you can use a QA model for help.", "QA"),
        (
            "mlqa",
            "Given a context, please answer the question in English and you can use a translator for help.",
            "translator",
        ),
        ("hotpot", "Given a question, please answer it and you can use a retriever for help.", "retriever"),
    ],
)
def test_each_is_asked_in_its_own_words_and_offers_its_tool(name: str, instruction: str, tool: str) -> None:
    found = load_task(name)
    assert (found.name, found.instruction) == (name, instruction)
    assert [each.name for each in found.tools] == [tool]
    assert Tasks(name).own_tools(found) == found.tools


def test_a_prediction_is_the_text_itself() -> None:
    assert task.predict("  It is Paris. \n") == "It is Paris."
    assert task.predict(" \n") is None


DECOMPOSED = unicodedata.normalize("NFD", "Antonín Dvořák")


@pytest.mark.parametrize(
    ("prediction", "answers"),
    [
        ("Paris", ["Paris"]),
        ("it was in PARIS, France", ["paris"]),
        ("JFK", ["John F. Kennedy", "JFK"]),
        ("the composer Antonín Dvořák", [DECOMPOSED]),
        (f"by {DECOMPOSED}", ["antonín dvořák"]),
        ("GROẞE STRASSE", ["große Straße"]),
        ("ΑΘΉΝΑ", ["Αθήνα"]),
        ("in the ﬁnal", ["final"]),  # one sign for two letters
        ("on 4 March 1921.", ["March 4, 1921", "4 March 1921"]),
        ("about 1,234 metres", ["1,234"]),
        ("New \n York", ["New  York"]),
        ("an apple a day", ["apple"]),
        ("It was Eugene O'Neill.", ["O’Neill"]),
        ("O´Neill or OʼNeill", ["O‘Neill"]),
        ("It was J. R. R. Tolkien.", ["J.R.R. Tolkien"]),
        ("Jean‑Paul Sartre", ["Jean Paul"]),
        ("It is written in C++.", ["C++"]),
        ("We use .NET here", [".NET"]),
        ("Yahoo bought it", ["Yahoo!"]),
        ("St Petersburg", ["St. Petersburg"]),
        ("“Paris”", ["Paris"]),
        ("It is _Paris_, **really**", ["Paris"]),
        ("Paris’s best", ["Paris"]),
        ("dell'Italia", ["Italia"]),
        ("it has 1234 metres", ["1,234"]),
        ("between 1990–1995", ["1995"]),
        ("it is −5.", ["-5"]),
        ("答案是北京。", ["北京"]),
        ("首都は東京です", ["東京"]),
        ("เมืองหลวงคือกรุงเทพ", ["กรุงเทพ"]),
        ("수도는 서울입니다", ["서울"]),
        ("17把椅子", ["17"]),
        ("Nile", ["the Nile"]),  # an exact match, as SQuAD compares
        ("so " * 21 + "it is", ["so " * 21 + "it is"]),
    ],
)
def test_right(prediction: str, answers: list[str]) -> None:
    assert task.judge(prediction, answers)


@pytest.mark.parametrize(
    ("prediction", "answers"),
    [
        (None, ["Paris"]),
        ("Rome", ["Paris"]),
        ("Par is", ["Paris"]),
        ("Dvorak", ["Dvořák"]),  # another spelling has to be among the answers
        ("4 March 1921", ["March 4, 1921"]),
        ("I do not know", ["no"]),
        ("Romania", ["Oman"]),
        ("17 chairs", ["7"]),
        ("10", ["0"]),
        ("1200", ["12"]),
        ("12.5", ["12"]),
        ("12.5kg", ["12"]),
        ("1,200", ["12", "1", "200"]),
        ("-5 degrees", ["5"]),
        ("Written in C++ and C#.", ["C"]),
        ("I'd say so", ["D"]),
        ("!?", ["…", "Paris"]),
        ("Who knows", ["The Who"]),
        ("\u0915\u093f", ["\u0915\u0940"]),  # Devanagari ki and kii differ in a combining mark alone
        ("17把椅子", ["7"]),
    ],
)
def test_wrong(prediction: str | None, answers: list[str]) -> None:
    assert not task.judge(prediction, answers)


def test_the_first_twenty_words_are_read_and_no_more() -> None:
    words = "so " * 19
    assert task.judge(f"{words}Paris", ["Paris"])
    assert not task.judge(f"{words}so Paris", ["Paris"])
    assert task.judge(f"{'so ' * 18}New York", ["New York"])
    assert not task.judge(f"{words}New York", ["New York"])


def test_a_huge_text_is_judged() -> None:
    assert not task.judge("x" * 10**6 + " Paris" * 10**5, ["Paris, France"])


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("Paris", ["Rome", "paris."], True, 1),
        ("The Beatles!", ["beatles"], True, 1),
        ("an Owl", ["the owl"], True, 1),
        ("Rock'n'Roll", ["rock’n’roll"], True, 1),
        (unicodedata.normalize("NFD", "Curaçao"), ["CURAÇAO"], True, 1),
        # 2 words in common of 3 and of 3: precision 2/3, recall 2/3
        ("the red big house", ["big red barn"], False, 2 / 3),
        # 1 in common of 4 and of 1: precision 1/4, recall 1
        ("it is in Paris", ["Paris"], False, 2 / 5),
        # a word counts as often as it stands in both: 1 of 3 and of 2
        ("new new new", ["New York"], False, 2 / 5),
        # the better of two answers: 1 of 2 and of 1
        ("King George", ["George Washington Carver", "George"], False, 2 / 3),
        ("Rome", ["Paris"], False, 0),
        ("the", ["Paris"], False, 0),
        ("", ["Paris"], False, 0),
        (None, ["Paris"], False, 0),
    ],
)
def test_stricter_measures(prediction: str | None, answers: list[str], exact: bool, overlap: float) -> None:
    assert exact_match(prediction, answers) is exact
    assert f1(prediction, answers) == pytest.approx(overlap)


def test_answers_that_could_never_be_matched_are_refused() -> None:
    task.check(["Paris"])
    task.check(["…", "東京"])
    task.check(["word " * 20])
    task.check(["word " * 21, "word"])
    with pytest.raises(ValueError, match=r"^'\?!' has no letter and no digit$"):
        task.check(["?!", "…"])
    with pytest.raises(ValueError, match=r"^'(word ){8} …' is longer than 20 words$"):
        task.check(["word " * 21])


def test_a_checked_answer_is_accepted_by_the_judge() -> None:
    for answer in ("x", " Ünïcödé ", "word " * 20, "3.5 %", "(b)"):
        assert isinstance(task, Task)
        task.check([answer])
        assert task.judge(answer, [answer])


TASK = "name: stock\ninstruction: Answer.\ntools: [calculator]\nanswers: {}\n"


def own_task(folder: Path, answers: str) -> str:
    (folder / "stock.yaml").write_text(TASK.format(answers))
    return str(folder / "stock.yaml")


@pytest.mark.parametrize(
    ("prediction", "answers", "verdict"),
    [
        ("10", ["0"], False),
        ("17 chairs", ["7"], False),
        ("There are 7 chairs", ["7"], True),
        ("$9,500.00", ["9500"], True),
        ("0.5", ["1/2"], True),
        ("0.50", ["½"], True),
        ("1000", ["1000.0"], True),
        ("7 of 12", ["7"], False),  # the last number counts
        ("none", ["7"], False),
        ("It has 7 chairs in the hall", ["7 chairs"], True),  # no number, a text that holds one
        ("the north hall, shelf 12", ["north"], True),
        ("seven", ["7", "seven"], True),
        ("I do not know", ["no"], False),
        (None, ["7"], False),
    ],
)
def test_auto_compares_each_gold_answer_as_what_it_is(
    tmp_path: Path, prediction: str | None, answers: list[str], verdict: bool
) -> None:
    auto = load_task(own_task(tmp_path, "auto"))
    auto.check(answers)
    assert auto.judge(prediction, answers) is verdict
    assert auto.predict(" There are 7 chairs. ") == "There are 7 chairs."


def test_the_published_rule_can_be_chosen(tmp_path: Path) -> None:
    row = Question(id="q_1", input="?", answer="no", task="qa")
    chosen = [
        Tasks("qa@words-published"),
        Tasks("mix@words-published"),
        Tasks(load_recipe("demo", ["judge=words-published"]).tasks),
        Tasks(own_task(tmp_path, "words-published")),
        Tasks(own_task(tmp_path, "words") + "@words-published"),
    ]
    for tasks in chosen:
        assert tasks.of(row).judge("I do not know", ["no"])
        assert not tasks.of(row).judge(f"{'so ' * 20}no", ["no"])
    assert (Tasks("qa@words-published").name, Tasks("mix@words-published").name) == ("qa", "mix")
    assert not Tasks(load_recipe("demo").tasks).of(row).judge("I do not know", ["no"])
    with pytest.raises(InputError, match="task 'math' does not judge answers in words"):
        Tasks("math@words-published")
    with pytest.raises(InputError, match="judge"):
        load_recipe("demo", ["judge=letters"])


@given(st.text(), st.text())
def test_an_exact_match_is_correct_and_nothing_raises(prediction: str, answer: str) -> None:
    for gold in (answer, prediction):
        verdict = task.judge(prediction, [gold])
        assert verdict or not exact_match(prediction, [gold])
        assert 0 <= f1(prediction, [gold]) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "1," * 500_000,
        "1" * 10**6,
        "a'" * 500_000,
        "+#" * 500_000,
        "漢" * 10**6,
        "\u0301" * 10**6,
        "C+" * 500_000,
    ],
)
def test_a_megabyte_without_blanks_takes_linear_time(text: str) -> None:
    start = time.process_time()
    task.judge(text, ["Paris"])
    assert time.process_time() - start < 2
