"""A mix: four tasks in one, every question read and judged by its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from trice.errors import InputError
from trice.storage.files import read_rows
from trice.tasks import MIX, MIXED, TaskLike, Tasks, check_questions
from trice.tools import Tool
from trice.tools.wikisearch import WikiSearch
from trice.types import Question

OWN = '''
from trice.tools.function_tool import FunctionTool

def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number

class Doubles:
    name = "doubles"
    instruction = "Double it."
    tools = (FunctionTool(double),)

    def predict(self, text):
        return text

    def judge(self, prediction, answers):
        return prediction in answers

    def check(self, answers):
        pass
'''
QUESTION = Question(id="x", input="q", answer="5")
TOOLS = ["calculator", "WikiSearch", "QA", "translator"]


def names(tools: Iterable[Tool]) -> list[str]:
    return [tool.name for tool in tools]


def of(tasks: Tasks, name: str | None) -> TaskLike:
    return tasks.of(Question(id="x", input="q", answer="5", task=name))


def test_every_task_of_a_mix_offers_all_tools_in_one_instruction() -> None:
    tasks = Tasks("mix")
    assert (tasks.name, tasks.mixed, MIXED) == ("mix", True, ("math", "qa", "lama", "mlqa"))
    for name, own in zip(MIXED, TOOLS, strict=True):
        task = of(tasks, name)
        assert (task.name, task.instruction) == (name, MIX)
        assert names(task.tools) == TOOLS
        assert names(tasks.own_tools(task)) == [own]
        assert names(tasks.all_tools(task)) == TOOLS
    for words in ("a calculator", "a WikiSearch", "a QA model", "a translator", "in English"):
        assert words in MIX


def test_each_question_is_read_and_judged_by_its_own_task() -> None:
    tasks = Tasks("mix")
    math, qa = of(tasks, "math"), of(tasks, "qa")
    assert (math.predict("It is 5 or 6."), qa.predict("It is 5 or 6.")) == ("6", "It is 5 or 6.")
    assert (math.judge("5.001", ["5"]), qa.judge("5 legs", ["5"]), math.judge("legs", ["legs"])) == (
        True, True, False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="is not a number"):
        math.check(["five"])
    qa.check(["five"])


def test_one_task_alone_heeds_no_task_of_a_row_but_the_second_turn() -> None:
    tasks = Tasks("qa")
    assert of(tasks, None).name == of(tasks, "math").name == "qa"
    turn = of(tasks, "second-turn")
    assert (turn.name, turn.tools) == ("second-turn", ())
    assert names(tasks.all_tools(turn)) == ["WikiSearch"]
    assert (
        of(Tasks("mix"), "second-turn").instruction
        == turn.instruction
        == ("Given a context, please answer the question.")
    )


def test_an_unseen_task_keeps_its_own_instruction_and_tool_in_a_mix() -> None:
    tasks = Tasks("mix")
    task = of(tasks, "hotpot")
    assert "retriever" in task.instruction
    assert names(task.tools) == ["retriever"]
    assert set(names(tasks.all_tools(task))) == {*TOOLS, "retriever"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("", "field 'task': is missing; in a mix, each row names its task"),
        (', "task": "cooking"', "field 'task': unknown task 'cooking'; there is: math, qa"),
    ],
)
def test_a_row_without_a_task_that_there_is_is_named_by_its_line(
    tmp_path: Path, row: str, complaint: str
) -> None:
    data = tmp_path / "x.json"
    fields = '"input": "q", "answer": "5"'
    data.write_text(f'{{"id": "A_1", {fields}, "task": "math"}}\n{{"id": "A_2", {fields}{row}}}\n')
    with pytest.raises(InputError) as caught:
        check_questions(Tasks("mix"), read_rows(data, Question))
    assert str(caught.value).startswith(f"{data}:2: {complaint}")


def test_a_gold_answer_is_checked_by_the_questions_own_task(tmp_path: Path) -> None:
    data = tmp_path / "x.json"
    fields = '"input": "q", "answer": "five", "task": '
    data.write_text(f'{{"id": "A_1", {fields}"qa"}}\n{{"id": "A_2", {fields}"math"}}\n')
    with pytest.raises(InputError, match=r"x\.json:2: field 'answer': 'five' is not a number"):
        check_questions(Tasks("mix"), read_rows(data, Question))


def test_an_own_task_in_a_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_doubles.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_doubles", raising=False)
    with pytest.raises(InputError, match="unknown task 'own_doubles:Doubles'"):
        of(Tasks("mix"), "own_doubles:Doubles")  # a row of data loads no code
    assert "own_doubles" not in sys.modules
    tasks = Tasks("mix,own_doubles:Doubles")
    task = of(tasks, "own_doubles:Doubles")
    assert (task.name, task.instruction) == ("doubles", "Double it.")
    assert names(tasks.own_tools(task)) == ["double"]
    assert sorted(names(tasks.all_tools(task))) == sorted(["double", *TOOLS])
    assert "double" in names(tasks.all_tools(of(tasks, "math")))


def test_a_source_goes_to_the_tool_it_names() -> None:
    tasks = Tasks("mix", {"WikiSearch": "http://127.0.0.1:9/search"})
    (tool,) = tasks.own_tools(of(tasks, "qa"))
    assert isinstance(tool, WikiSearch)
    assert (tool.source, tool.version) == ("http://127.0.0.1:9/search", None)
    with pytest.raises(InputError, match="must not contain a password or query"):
        Tasks("qa", {"WikiSearch": "http://127.0.0.1:9/?key=s"}).of(QUESTION).tools[0].check()
    with pytest.raises(InputError, match="tool 'calculator': takes no source"):
        Tasks("mix", {"calculator": "x"})
    with pytest.raises(InputError, match="unknown tool 'Wikisearcher'"):
        Tasks("qa", {"Wikisearcher": "x"})
