"""The official files under TRICE_DATA, where they are: counts, drops, how many gold expressions are right.

What is dropped for which reason was counted once over the raw files without this package."""

from collections import Counter
from functools import cache

import pytest

from trice import datasets
from trice.tasks import load_task
from trice.tools.calculator import Calculator
from trice.tools.worker_pool import run
from trice.types import ToolCall

COUNTS = {"ASDiv": (952, 266), "SVAMP": (800, 200), "GSM8K": (7473, 1319), "MultiArith": (0, 600)}
YIELDS = {"ASDiv": 0.999, "SVAMP": 0.998, "GSM8K": 0.955, "MultiArith": 1}
LONG, BLANK, BOTH = "longer than 20 words", "no letter and no digit", "the same question is in the test part"
MASKS, FORM, LEAK = "hold exactly one mask", "the masked text is not", "occurs elsewhere in the sentence"
XQUAD = (1190, 758, 429, {LONG: 3})
# Official rows, training questions, test questions, and how many rows are dropped for which reason.
TEXTS = {
    "WebQuestions": (3778 + 2032, 3767, 2022, {LONG: 21}),
    "NaturalQuestions": (8757 + 3610, 8755, 3608, {BLANK: 4}),
    "TriviaQA": (4000 + 4000, 3999, 3999, {LONG: 2}),
    "T-REx": (22881, 12210, 3154, {FORM: 3657, LEAK: 3677, BOTH: 183}),
    **{f"XQuAD-{language}": XQUAD for language in ("es", "de", "vi", "zh", "hi", "ar", "en")},
    "SQuAD": (305, 0, 302, {MASKS: 3}),
    "HotpotQA": (100, 0, 100, {}),
}


@cache
def whole(name: str) -> datasets.Split:
    """All questions of a text data set."""
    _, train, test, _ = TEXTS[name]
    return datasets.load(name, train=train, test=test)


def needs(name: str) -> None:
    """Skip the test where the official files are not there."""
    if not next(entry for entry in datasets.catalogue() if entry.name == name).present:
        pytest.skip(f"the official files of {name} are not under TRICE_DATA")


def is_right(question: datasets.Question) -> bool:
    """Whether the gold expression executes to the gold answer after rounding to 2 decimals."""
    expression = (question.model_extra or {}).get("expression")
    if not expression:
        return False
    calculator = Calculator()
    call = ToolCall(name="calculator", arguments=calculator.parse(expression))
    output = run(calculator, call).output
    return output is not None and round(float(output), 2) == round(float(str(question.answer)), 2)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_yields(name: str) -> None:
    needs(name)
    split = datasets.load(name, train=7473 if name == "GSM8K" else None)
    assert (len(split.train), len(split.test)) == COUNTS[name]
    questions = [*split.train, *split.test]
    assert sum(map(is_right, questions)) / len(questions) >= YIELDS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_every_row_is_a_question_or_is_dropped_for_a_known_reason(name: str) -> None:
    needs(name)
    rows, train, test, reasons = TEXTS[name]
    split = whole(name)
    assert (len(split.train), len(split.test)) == (train, test)
    found = Counter(next(each for each in reasons if each in dropped.reason) for dropped in split.dropped)
    assert found == reasons
    assert len(split.train) + len(split.test) + len(split.dropped) == rows


@pytest.mark.parametrize("name", TEXTS)
def test_every_gold_answer_is_right_for_the_tasks_own_judge(name: str) -> None:
    needs(name)
    task = load_task(next(entry.task for entry in datasets.catalogue() if entry.name == name))
    for question in [*whole(name).train, *whole(name).test][::25]:
        assert all(task.judge(answer, question.answers) for answer in question.answers)


def test_the_papers_sizes_are_the_default_and_begin_the_whole() -> None:
    needs("WebQuestions")
    split = datasets.load("WebQuestions")
    assert (len(split.train), len(split.test)) == (2000, 1000)
    assert split.train == whole("WebQuestions").train[:2000]


def test_no_text_of_xquad_is_in_both_parts_in_any_language() -> None:
    needs("XQuAD-es")
    texts: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in ("XQuAD-es", "XQuAD-de"):
        for part in texts:
            texts[part] |= {row.input.partition("\nQuestion: ")[0] for row in getattr(whole(name), part)}
    assert not texts["train"] & texts["test"]
    assert len(texts["train"] | texts["test"]) == 240
