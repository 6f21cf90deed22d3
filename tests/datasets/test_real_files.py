"""The official files under TRICE_DATA, where they are: counts, and how many gold expressions are right."""

import pytest

from trice import datasets, tools
from trice.tools.calculator import Calculator

COUNTS = {"ASDiv": (952, 266), "SVAMP": (800, 200), "GSM8K": (7473, 1319)}
YIELDS = {"ASDiv": 0.999, "SVAMP": 0.998, "GSM8K": 0.955}


def is_right(question: datasets.Question) -> bool:
    """Whether the gold expression executes to the gold answer after rounding to 2 decimals."""
    expression = (question.model_extra or {}).get("expression")
    if not expression:
        return False
    calculator = Calculator()
    call = tools.Call(name="calculator", arguments=calculator.parse(expression))
    output = tools.run(calculator, call).output
    return output is not None and round(float(output), 2) == round(float(str(question.answer)), 2)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_yields(name: str) -> None:
    present = {entry.name: entry.present for entry in datasets.catalogue()}
    if not present[name]:
        pytest.skip(f"the official files of {name} are not under TRICE_DATA")
    split = datasets.load(name, train=7473 if name == "GSM8K" else None)
    assert (len(split.train), len(split.test)) == COUNTS[name]
    questions = [*split.train, *split.test]
    assert sum(map(is_right, questions)) / len(questions) >= YIELDS[name]
