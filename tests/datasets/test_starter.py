"""The starter set: determinism, the cut by template, gold answers that are right."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

from trice.datasets import starter_math
from trice.errors import InputError
from trice.storage.files import dump_row
from trice.tools.calculator import Calculator
from trice.types import Question

PRINT_DIGEST = """
import hashlib
from trice.datasets import starter_math
from trice.storage.files import dump_row
train, test = starter_math.STARTER.make(200, 100, seed=7)
print(hashlib.sha256("".join(map(dump_row, train + test)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def many() -> tuple[list[Question], list[Question]]:
    return starter_math.STARTER.make(4000, 1000, seed=3)


def field(question: Question, name: str) -> str:
    return str((question.model_extra or {})[name])


def form(expression: str) -> str:
    """An expression with its letters renamed in the order they appear: `c-a` and `a-b` have one form."""
    names: dict[str, str] = {}
    return re.sub("[a-z]", lambda found: names.setdefault(found[0], "abcdefgh"[len(names)]), expression)


def test_the_same_seed_gives_the_same_bytes_in_any_process() -> None:
    train, test = starter_math.STARTER.make(200, 100, seed=7)
    here = hashlib.sha256("".join(map(dump_row, train + test)).encode()).hexdigest()
    runs = [
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for hash_seed in ("1", "2")
    ]
    assert [run.stdout.strip() for run in runs] == [here, here]


def test_another_seed_gives_other_questions() -> None:
    assert starter_math.STARTER.make(20, 20, seed=1) != starter_math.STARTER.make(20, 20, seed=2)


def test_fewer_are_the_beginning_of_more(many: tuple[list[Question], list[Question]]) -> None:
    train, test = starter_math.STARTER.make(150, 40, seed=3)
    assert (train, test) == (many[0][:150], many[1][:40])


def test_five_thousand_are_distinct(many: tuple[list[Question], list[Question]]) -> None:
    assert len({question.input for part in many for question in part}) == 5000
    assert len({question.id for part in many for question in part}) == 5000


def test_every_gold_expression_executes_to_its_answer(many: tuple[list[Question], list[Question]]) -> None:
    calculator = Calculator()
    for question in [*many[0], *many[1]]:
        arguments = calculator.parse(field(question, "expression"))
        answer = str(question.answer)
        assert Fraction(calculator.execute(**arguments)) == Fraction(answer), question
        assert re.fullmatch(r"[0-9]+(\.[0-9]{1,2})?", answer), question
        assert Fraction(answer) > 0, question


def test_the_numbers_of_the_expression_stand_in_the_text(
    many: tuple[list[Question], list[Question]],
) -> None:
    known = {"3", "60", "100", "1000"}  # of averages, percent and units
    for question in [*many[0], *many[1]]:
        used = set(re.findall(r"[0-9.]+", field(question, "expression")))
        assert used - known <= set(re.findall(r"[0-9]+(?:\.[0-9]+)?", question.input)), question
        assert "{" not in question.input, question


def test_templates_are_disjoint_and_every_one_is_used(many: tuple[list[Question], list[Question]]) -> None:
    train, test = ({field(question, "template") for question in part} for part in many)
    assert train == {each.name for each in starter_math.templates() if not each.test}
    assert test == {each.name for each in starter_math.templates() if each.test}
    assert len(train) + len(test) == len(starter_math.templates()) >= 60


def test_every_form_in_the_test_part_is_learnt_from_another_template() -> None:
    train, test = (
        {form(each.solve) for each in starter_math.templates() if each.test is held_out}
        for held_out in (False, True)
    )
    assert test <= train


def test_levels_run_from_single_figures_to_large_numbers(
    many: tuple[list[Question], list[Question]],
) -> None:
    for part in many:
        assert set(Counter(field(question, "level") for question in part)) == set("12345")
    numbers: dict[str, list[Fraction]] = {level: [] for level in "12345"}
    for question in many[0]:
        numbers[field(question, "level")] += map(
            Fraction, re.findall(r"[0-9.]+", field(question, "expression"))
        )
    assert max(numbers["1"]) <= 10
    assert max(numbers["2"]) < 1000
    assert max(numbers["4"]) >= 100_000


@pytest.mark.parametrize(
    ("train", "test"), [(starter_math.MAX_ROWS + 1, 1), (1, starter_math.MAX_ROWS + 1), (-1, 1)]
)
def test_more_than_it_can_make_is_refused(train: int, test: int) -> None:
    with pytest.raises(InputError, match="questions wanted; it makes 0 to"):
        starter_math.STARTER.make(train, test)
