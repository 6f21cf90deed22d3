"""The label stage and its two teachers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import trice
from trice.errors import InputError, TriceError
from trice.models.endpoint import Endpoint
from trice.stages.grading import grade
from trice.stages.label import Yield, label
from trice.stages.teachers import Annotations, EndpointTeacher, load_teacher_prompts
from trice.storage.row_state import journal_path
from trice.tasks import MIXED, Tasks, load_task
from trice.tasks.outcome import parse
from trice.training_data import LabeledQuestion
from trice.types import Response

sys.path.append(str(Path(__file__).parents[1] / "models"))
from stand_in_server import StandIn

KEY = "sk-label-0123456789abcdef"
INSTRUCTION = load_task("math").instruction


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sums(path: Path, count: int) -> Path:
    """Questions the stand-in server can answer by `add`."""
    rows = [{"id": f"S_{i}", "question": f"What is {i} plus 7?", "answer": str(i + 7)} for i in range(count)]
    return write(path, rows)


def add(message: str) -> str:
    return "calculator({}+{})".format(*re.findall(r"What is (\d+) plus (\d+)", message)[-1])


def teacher(server: StandIn, retries: int = 0, **options: Any) -> EndpointTeacher:
    endpoint = Endpoint(server.url, "m", [KEY], **options)
    return EndpointTeacher(endpoint, load_teacher_prompts(Tasks("math")), retries)


def test_annotations_are_executed_and_kept_only_if_right(tmp_path: Path) -> None:
    base = {
        "response": "5",
        "origin": "base",
        "sample": 0,
        "outcome": "answered",
        "prediction": "5",
        "correct": False,
    }
    data = write(
        tmp_path / "in.json",
        [
            {
                "id": "A_1",
                "question": "Two and three, times 4?",
                "answer": "20",
                "expression": "(2+3)*4",
                "grade": 3,
            }
            | base,
            {"id": "A_2", "question": "wrong", "answer": "7", "expression": "3*3"},
            {"id": "A_3", "question": "fails", "answer": "7", "expression": "7/0"},
            {"id": "A_4", "question": "malformed", "answer": "7", "expression": "7+*"},
            {"id": "A_5", "question": "bare", "answer": "7"} | base,
            {"id": "A_6", "question": "never closes", "answer": "7", "expression": "(3+4"},
            {"id": "B_7", "question": "Third of 10?", "answer": ["3.33", "3"], "expression": "10 / 3"},
        ],
    )
    output = tmp_path / "out" / "A_wrong.json"
    result = label(data, output, Tasks("math"), Annotations())
    reasons = {"malformed": 2, "wrong answer": 1, "execution error": 1, "no field 'expression'": 1}
    detail = "execution error: division by zero"
    assert result == Yield(2, 7, reasons, detail)
    assert str(result).endswith(f" (for example {detail})")
    assert str(result).startswith("kept 2 of 7 labels (28.6%); rejected: malformed 2, ")
    assert read(output) == [
        {
            "instruction": INSTRUCTION,
            "input": "Two and three, times 4?",
            "output": "calculator((2+3)*4)",
            "result": "20",
            "id": "A_1",
            "dataset": "A",
            "answer": "20",
            "expression": "(2+3)*4",
            "grade": 3,
        },
        {
            "instruction": INSTRUCTION,
            "input": "Third of 10?",
            "output": "calculator(10 / 3)",
            "result": "3.3333333333",
            "id": "B_7",
            "dataset": "B",
            "answer": ["3.33", "3"],
            "expression": "10 / 3",
        },
    ]
    rejected = read(tmp_path / "out" / "A_wrong_rejected.json")
    assert [row["id"] for row in rejected] == ["A_2", "A_3", "A_4", "A_5", "A_6"]
    assert rejected[0]["rejected"] == "wrong answer: 9"
    assert rejected[0]["label"] == "calculator(3*3)"
    assert rejected[1]["rejected"].startswith("execution error: ")
    assert rejected[2]["rejected"].startswith("malformed: ")
    assert rejected[3] == {
        "id": "A_5",
        "dataset": "A",
        "instruction": "",
        "input": "bare",
        "answer": "7",
        "rejected": "no field 'expression'",
    }
    assert rejected[4]["rejected"] == "malformed: the parenthesis never closes"
    written = {"kept": 2, "total": 7, "reasons": reasons, "detail": detail}
    assert read(tmp_path / "out" / "A_wrong_yield.json") == [written]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"A_wrong{end}.json" for end in ("", "_rejected", "_yield")} | {".A_wrong.json.journal"}


def test_without_rejections_there_is_no_file_of_them(tmp_path: Path) -> None:
    rows = [
        {"id": "A_1", "question": "a", "answer": "3", "expression": "1+2"},
        {"id": "A_2", "question": "b", "answer": "3"},
    ]
    output, stale = tmp_path / "x.json", tmp_path / "x_rejected.json"
    label(write(tmp_path / "in.json", rows), output, Tasks("math"), Annotations())
    assert stale.exists()
    assert label(tmp_path / "in.json", output, Tasks("math"), Annotations(), limit=1) == Yield(1, 1, {})
    assert not stale.exists()


def test_thousands_of_annotations_take_a_second(tmp_path: Path) -> None:
    rows = [
        {"id": f"A_{i}", "question": f"q{i}", "answer": str(i * 3 + 1), "expression": f"{i}*3+1"}
        for i in range(4000)
    ]
    data = write(tmp_path / "in.json", rows)
    start = time.process_time()
    assert label(data, tmp_path / "out.json", Tasks("math"), Annotations()).kept == 4000
    assert time.process_time() - start < 4  # a thousand a second even on a busy machine


def test_the_endpoint_is_shown_question_and_gold_answer_and_its_call_alone_is_kept(tmp_path: Path) -> None:
    with StandIn(answer=lambda message: f"Sure! {add(message)} gives it.\nDone.") as server:
        result = label(sums(tmp_path / "in.json", 3), tmp_path / "out.json", Tasks("math"), teacher(server))
    assert result == Yield(3, 3, {})
    assert [row["output"] for row in read(tmp_path / "out.json")] == [f"calculator({i}+7)" for i in range(3)]
    messages = server.seen[0].body["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 5, "user"]
    asked = {seen.question for seen in server.seen}
    assert asked == {f"Question: What is {i} plus 7?\nGold answer: {i + 7}" for i in range(3)}


def test_rejected_labels_are_asked_for_again(tmp_path: Path) -> None:
    replies = {
        0: ["calculator(0+7)"],
        1: ["I do not know", "calculator(1+7)"],
        2: ["calculator(2+8)", "calculator(2+", "calculator(2+7)"],
        3: ["7", "calculator(3/0)", "calculator(3+8)", "calculator(3+7)"],
    }
    waiting = {i: list(texts) for i, texts in replies.items()}
    data = sums(tmp_path / "in.json", 4)
    with StandIn(answer=lambda message: waiting[int(message.split()[3])].pop(0)) as server:
        result = label(data, tmp_path / "out.json", Tasks("math"), teacher(server, retries=2))
    assert result == Yield(3, 4, {"wrong answer": 1})
    assert [row["id"] for row in read(tmp_path / "out.json")] == ["S_0", "S_1", "S_2"]
    [rejected] = read(tmp_path / "out_rejected.json")
    assert (rejected["id"], rejected["label"]) == ("S_3", "calculator(3+8)")
    assert [seen.body["temperature"] for seen in server.seen] == [0.0] * 4 + [0.7] * 3 + [0.7] * 2


def test_a_question_the_endpoint_does_not_answer_is_rejected_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StandIn(add, script={"What is 1 plus": ["echo-500"] * 4}) as server:
        result = label(
            sums(tmp_path / "in.json", 3),
            tmp_path / "out.json",
            Tasks("math"),
            teacher(server, 1, attempts=2),
        )
    assert result == Yield(2, 3, {"endpoint failure": 1})
    [rejected] = read(tmp_path / "out_rejected.json")
    assert rejected["rejected"] == "endpoint failure: HTTP 500: (message withheld: it shows a part of a key)"
    assert "label" not in rejected
    assert "1 questions got no reply" in capsys.readouterr().err
    # What was rejected can be labelled by itself.
    with StandIn(add) as server:
        again = label(tmp_path / "out_rejected.json", tmp_path / "again.json", Tasks("math"), teacher(server))
    assert again == Yield(1, 1, {})
    [row] = read(tmp_path / "again.json")
    assert row["output"] == "calculator(1+7)"
    assert not {"rejected", "label"} & set(row)


def journalled(output: Path) -> set[int]:
    """The questions whose label is safe in the journal."""
    path = journal_path(output)
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return {entry["row"]["number"] for entry in map(json.loads, lines) if "row" in entry}


RUN = """
import sys
from pathlib import Path
from trice.models.endpoint import Endpoint
from trice.models.api_keys import api_keys
from trice.stages.label import label
from trice.stages.teachers import EndpointTeacher, load_teacher_prompts
from trice.tasks import Tasks
url, data, output = sys.argv[1:]
teacher = EndpointTeacher(Endpoint(url, "m", api_keys()), load_teacher_prompts(Tasks("math")))
print(label(Path(data), Path(output), Tasks("math"), teacher))
"""


def start(server: StandIn, data: Path, output: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(trice.__file__).parents[1]), "TRICE_API_KEYS": KEY}
    command = [sys.executable, "-c", RUN, server.url, str(data), str(output)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_kill_loses_no_label_and_pays_for_none_twice(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "in.json", 60), tmp_path / "killed.json"
    with StandIn(add, delay=0.03) as server:
        safe: set[int] = set()
        for count in (1, 25):
            process = start(server, data, output)
            deadline = time.monotonic() + 60
            while len(journalled(output)) < count and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.communicate()[0] == ""
            assert not output.exists()
            assert journalled(output) >= safe
            safe = journalled(output)
            assert len(safe) >= count
        last = start(server, data, output)
        out, error = last.communicate(timeout=60)
        assert last.returncode == 0, error
        assert out == "kept 60 of 60 labels (100.0%)\n"
        assert f"resuming after {len(safe)} finished rows" in error
        paid = {i: server.paid[f"Question: What is {i} plus 7?\nGold answer: {i + 7}"] for i in range(60)}
        assert {paid[i] for i in range(60)} <= {1, 2, 3}
        # At each of the two kills at most one request in each place is under way, and one reply is not stored yet.
        assert sum(paid.values()) - 60 <= 2 * 2 * server.most_under_way
        again = label(data, tmp_path / "whole.json", Tasks("math"), teacher(server))
    assert again == Yield(60, 60, {})
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    for file in tmp_path.iterdir():
        assert KEY not in file.read_text(), file


def test_what_reached_the_journal_is_never_asked_for_again(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "in.json", 40), tmp_path / "out.json"
    with StandIn(add, script={"What is 39 plus": ["hang"]}) as server:
        process = start(server, data, output)
        while len(journalled(output)) < 39 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        torn = journal_path(output)
        torn.write_bytes(torn.read_bytes()[:-5])  # the kill came while the last label was being written
        safe = journalled(output)
        assert len(safe) == 38
        assert label(data, output, Tasks("math"), teacher(server)) == Yield(40, 40, {})
    asked = [int(seen.question.split()[3]) for seen in server.seen]
    assert {i for i in range(40) if asked.count(i) > 1} == set(range(40)) - safe


def test_later_turns_are_resumed_too(tmp_path: Path) -> None:
    replies = {0: ["calculator(0+7)"], 1: ["no", "nor now", "calculator(1+7)"]}
    data, output = sums(tmp_path / "in.json", 2), tmp_path / "out.json"
    with StandIn(lambda message: replies[int(message.split()[3])].pop(0)) as server:
        server.script = {"What is 1 plus": ["answer", "answer", "404"]}
        with pytest.raises(TriceError, match="HTTP 404"):
            label(data, output, Tasks("math"), teacher(server, retries=2))
        assert label(data, output, Tasks("math"), teacher(server, retries=2)) == Yield(2, 2, {})
    assert not any(replies.values())
    assert len(server.seen) == 5


def test_going_on_with_another_teacher_is_refused(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "in.json", 9), tmp_path / "out.json"
    with StandIn(add, script={"What is 8": ["404"]}) as server:
        with pytest.raises(TriceError, match="HTTP 404"):
            label(data, output, Tasks("math"), teacher(server))
        with pytest.raises(InputError, match="retries was 0, is now 3"):
            label(data, output, Tasks("math"), teacher(server, retries=3))
        assert KEY not in journal_path(output).read_text()


def test_wrong_input_is_one_clear_line(tmp_path: Path) -> None:
    data = write(tmp_path / "in.json", [{"id": "A_1", "question": "a", "answer": "a few", "expression": "1"}])
    with pytest.raises(InputError, match=r"in\.json:1: field 'answer'"):
        label(data, tmp_path / "out.json", Tasks("math"), Annotations())
    sums(data, 1)
    with pytest.raises(InputError, match="limit: 0 is less than 1"):
        label(data, tmp_path / "out.json", Tasks("math"), Annotations(), limit=0)
    with pytest.raises(InputError, match="would be overwritten"):
        label(data, data, Tasks("math"), Annotations())
    with pytest.raises(InputError, match="would be overwritten"):
        label(tmp_path / "x_rejected.json", tmp_path / "x.json", Tasks("math"), Annotations())
    with pytest.raises(InputError, match="unknown task 'cooking'"):
        load_teacher_prompts(Tasks("cooking"))
    with pytest.raises(InputError, match="no teacher's prompt for task 'hotpot'"):
        load_teacher_prompts(Tasks("hotpot"))


def test_the_prompt_s_own_examples_are_right() -> None:
    (prompt,) = load_teacher_prompts(Tasks("math")).values()
    for example in prompt.examples:
        row = Response(id="E_1", input=example.question, answer=example.answer, response=example.call)
        assert grade(Tasks("math"), [row])[0].correct, example.call
    assert len(prompt.examples) >= 4


def test_every_task_of_a_mix_has_a_prompt_whose_examples_are_calls_of_its_tool() -> None:
    prompts, tasks = load_teacher_prompts(Tasks("mix")), Tasks("mix")
    assert tuple(prompts) == MIXED
    for name, prompt in prompts.items():
        for example in prompt.examples:
            row = Response(
                id="E", input=example.question, answer=example.answer, response=example.call, task=name
            )
            found = parse(tasks, row)
            assert found.tool in tasks.own_tools(tasks.of(row)), example.call
            assert example.answer.lower() not in example.call.lower()


def test_labelled_rows_are_read_back(tmp_path: Path) -> None:
    with StandIn(add) as server:
        label(sums(tmp_path / "in.json", 2), tmp_path / "out.json", Tasks("math"), teacher(server), limit=1)
    [row] = [LabeledQuestion.model_validate(row) for row in read(tmp_path / "out.json")]
    assert (row.id, row.output) == ("S_0", "calculator(0+7)")


def test_what_is_finished_is_asked_for_again_only_where_it_failed_and_only_if_told(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "in.json", 5), tmp_path / "out.json"
    with StandIn(add, script={"What is 4 plus": ["brief", "400"]}) as server:
        first = label(data, output, Tasks("math"), teacher(server))
        assert first == Yield(4, 5, {"endpoint failure": 1})
        asked, before = len(server.seen), output.read_bytes()
        assert label(data, output, Tasks("math"), teacher(server)) == first
        assert (len(server.seen), output.read_bytes()) == (asked, before)
        for _ in range(2):
            assert label(data, output, Tasks("math"), teacher(server), retry=True) == Yield(5, 5, {})
        assert len(server.seen) == asked + 1
    assert [row["id"] for row in read(output)] == [f"S_{i}" for i in range(5)]
    assert not (tmp_path / "out_rejected.json").exists()


OWN = '''
def length(text: str) -> int:
    """Counts the characters of a text."""
    return len(text)
'''
COUNTING = "name: counting\ninstruction: Count.\ntools: [counting_tools:length]\nanswers: numbers\n"


def test_what_is_stored_is_what_was_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting_tools.py").write_text(OWN)
    (tmp_path / "counting.yaml").write_text(COUNTING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    texts = {
        '"a  b"': ("4", 'length("a  b")'),  # two blanks
        "a   b": ("5", "length(a   b)"),
        "a\n\tb": ("4", r'length("a\n\tb")'),  # a line break, on one line
        '"a \n b"': ("5", r'length("a \n b")'),
        r'"a\nb"': ("3", r'length("a\nb")'),
        '":-) x"': ("5", 'length(":-) x")'),
    }
    rows = [
        {"id": f"C_{i}", "question": f"q{i}", "answer": gold, "expression": text}
        for i, (text, (gold, _)) in enumerate(texts.items())
    ]
    data, output = write(tmp_path / "in.json", rows), tmp_path / "out.json"
    assert label(data, output, Tasks("counting.yaml"), Annotations()) == Yield(6, 6, {})
    stored = read(output)
    assert [row["output"] for row in stored] == [call for _, call in texts.values()]
    tasks = Tasks("counting.yaml")
    for row in stored:
        again = grade(tasks, [Response.model_validate(row | {"response": row["output"]})])[0]
        assert again.correct, row["output"]


def test_an_expression_over_two_lines_is_stored_on_one(tmp_path: Path) -> None:
    with StandIn(answer=lambda message: "<think>calculator(0)</think>\ncalculator(0 +\n  7)") as server:
        result = label(sums(tmp_path / "in.json", 1), tmp_path / "out.json", Tasks("math"), teacher(server))
    assert result == Yield(1, 1, {})
    [row] = read(tmp_path / "out.json")
    assert row["output"] == "calculator(0 + 7)"
