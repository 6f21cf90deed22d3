"""Conversations with tools as questions: what is refused, how they are judged, and the loop in the format chat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datasets
import trice
from tiny import command, for_tool_calls, read, write
from trice.rewards import execution
from trice.stages.grading import grade
from trice.stages.label import label
from trice.stages.teachers import Annotations, Rule
from trice.tasks import Tasks, check_questions
from trice.training_data import LabeledQuestion
from trice.types import Outcome, Question, Response

REAL = os.environ.get("TRICE_DATA", "")
PARAMETERS = {"type": "object", "properties": {"shelf": {"type": "string"}}, "required": ["shelf"]}
STOCK = {
    "type": "function",
    "function": {"name": "stock", "description": "Pieces.", "parameters": PARAMETERS},
}
SETTINGS = [
    "num_train_epochs=120",
    "batch_size=6",
    "learning_rate=1e-2",
    "lr_scheduler_type=constant",
    "lora.r=16",
    "lora.target_modules=all-linear",
]


def asked(number: int, *shelves: str, **fields: Any) -> dict[str, Any]:
    """A question about shelves, whose right calls are one for each."""
    calls = [{"name": "stock", "arguments": {"shelf": [shelf]}} for shelf in shelves]
    text = f"How many on shelf {' and '.join(shelves)}?" if shelves else f"Hello {number}"
    messages = [{"role": "user", "content": text}]
    return {"id": f"S_{number}", "messages": messages, "tools": [STOCK], "expected_calls": calls} | fields


ROWS = [*(asked(number, str(number)) for number in range(2, 6)), asked(6), asked(7)]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    return str(for_tool_calls(tiny_model("llama"), folder, "", [STOCK]))


def test_the_whole_loop_by_commands(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        code, out, error = command(capsys, *words)
        assert code == 0, (words, error)
        return out

    machine = ["--device", "cpu", "--dtype", "float32"]
    asks = ["--model", model, "--format", "chat", "--task", "conversation", *machine]
    data, train = write(tmp_path / "data" / "shop.jsonl", ROWS), tmp_path / "train.json"
    run("split", "--data", data, "--samples", 1, "--max-new-tokens", 8, *asks)
    known, unknown = (read(tmp_path / "data" / f"shop_{half}.json") for half in ("right", "wrong"))
    assert [row["id"] for row in known] == ["S_6", "S_7"]  # no call is right, and none was made
    assert [row["id"] for row in unknown] == ["S_2", "S_3", "S_4", "S_5"]

    labels = tmp_path / "labels.json"
    task = ["--task", "conversation"]
    run(
        "label",
        "--data",
        tmp_path / "data" / "shop_wrong.json",
        "--output",
        labels,
        "--teacher",
        "annotations",
        *task,
    )
    call = {"name": "stock", "arguments": {"shelf": "2"}}
    assert read(labels)[0]["output"] == 'stock(shelf="2")'
    assert read(labels)[0]["completion"] == [{"role": "assistant", "content": "", "tool_calls": [call]}]
    run(
        "mix",
        "--labelled",
        labels,
        "--right",
        tmp_path / "data" / "shop_right.json",
        "--output",
        train,
        *task,
    )

    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    trains = ["--model", model, "--format", "chat", *machine]
    run("train", "clone", "--data", train, "--output", stage1, *trains, *SETTINGS)
    assert json.loads((stage1 / "trice.json").read_text())["task"] == "conversation"
    candidates, ranked = tmp_path / "candidates", tmp_path / "ranked.json"
    run("collect", "--origin", "gold", "--data", train, "--output", candidates, *task)
    sampled = ["--samples", 2, "--temperature", 1, "--max-new-tokens", 40]
    run(
        "collect",
        "--origin",
        "policy",
        "--adapter",
        stage1,
        "--data",
        train,
        "--output",
        candidates,
        *sampled,
        *asks,
    )
    run("score", "--data", candidates, "--output", ranked, "--reward", "execution", *task)
    for row in read(ranked):
        gold = next(each for each in row["candidates"] if each.get("target"))
        assert gold["correct"]
        assert gold["reward"] == (0.9 if row["expected_calls"] else 1.0)
        assert (row["messages"], row["tools"]) == (row["messages"], [STOCK])
    run(
        "train",
        "rlef",
        "--adapter",
        stage1,
        "--data",
        ranked,
        "--output",
        stage2,
        *trains,
        "max_steps=2",
        "batch_size=6",
    )

    written, judged = tmp_path / "written.json", tmp_path / "judged.json"
    run("generate", "--adapter", stage1, "--data", data, "--output", written, "--max-new-tokens", 40, *asks)
    assert "accuracy 100.0%" in run("evaluate", "--data", written, "--output", judged, *task)
    calls = [row["completion"][0]["tool_calls"] for row in read(judged)]
    assert calls[0] == [call]
    assert calls[4:] == [[], []]
    assert [row["outcome"] for row in read(judged)] == ["called"] * 4 + ["answered"] * 2
    assert all(
        len(row["completion"]) == 1 and "execution" not in row for row in read(judged)
    )  # none is executed


def test_tools_that_the_task_has_are_executed(model: str) -> None:
    @trice.tool
    def stock(shelf: str) -> int:
        """Pieces."""
        return 10 * int(shelf)

    task = trice.Task("shop", "Answer.", tools=[stock], answers="numbers")
    rows = [asked(1, "2", "3", answer="50"), asked(2, "4", answer="40")]
    labels = trice.label(trice.questions(rows), task, "annotations")
    roles = [[message.role for message in each.completion or ()] for each in labels]
    assert roles == [["assistant", "tool", "tool", "assistant"], ["assistant", "tool", "assistant"]]
    assert [message.content for message in labels[0].completion or ()] == ["", "20", "30", "50"]
    policy = trice.load(model, format="chat", device="cpu", dtype="float32")
    settings = {
        "num_train_epochs": 80,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
    }
    trained = trice.clone(policy, labels, task, lora={"r": 16, "target_modules": "all-linear"}, **settings)
    (both, one) = trice.generate(trained, rows, task, max_new_tokens=60)
    assert [message.content for message in both.completion or ()] == ["", "20", "30", "50"]
    found = trice.evaluate(trained, rows, task, max_new_tokens=60)
    assert found.measures["model"]["total"]["accuracy"].count == 2
    assert one.prediction == "40"
    withheld = trice.generate(trained, rows, task, tool_choice="none", max_new_tokens=20)
    assert all(len(row.completion or ()) == 1 for row in withheld)


def response(question: dict[str, Any], *messages: dict[str, Any], **fields: Any) -> Response:
    called = any(message.get("tool_calls") for message in messages)
    verdict = {"outcome": "called" if called else "answered", "completion": list(messages), "response": "…"}
    return Response.model_validate(question | verdict | fields)


def says(text: str, *shelves: object) -> dict[str, Any]:
    calls = [{"name": "stock", "arguments": {"shelf": shelf}} for shelf in shelves]
    return {"role": "assistant", "content": text, "tool_calls": calls}


JUDGED = [
    (asked(1, "2"), [says("", "2")], True, None),
    (asked(1, "2"), [says("", "3")], False, "argument 'shelf': '3' is not an accepted value ('2')"),
    (asked(1, "2"), [says("", 2)], False, "argument 'shelf': 2 is not of type string"),
    (asked(1, "2"), [says("2")], False, "no call, but 1 is expected"),
    (asked(1, "2", "3"), [says("", "3", "2")], True, None),  # in any order
    (asked(1, "2", "3"), [says("", "3"), {"role": "tool", "content": "1"}, says("", "2")], True, None),
    (asked(1, "2", "3"), [says("", "2")], False, "1 call, but 2 are expected"),
    (asked(1), [says("Hi.")], True, None),
    (asked(1), [says("", "2")], False, "a call, although no tool can help"),
    (asked(1, answer="never judged"), [says("Hi.")], True, None),
    (asked(1, expected_calls="any"), [says("", "9")], True, None),
    (asked(1, expected_calls="any"), [says("9")], False, "no call, although a tool is needed"),
    (asked(1, expected_calls=None, answer="9"), [says("It is 9.")], True, None),
    (asked(1, expected_calls=None, answer="9"), [says("It is 8.")], False, None),
]  # fmt: skip


@pytest.mark.parametrize(("question", "messages", "correct", "reason"), JUDGED)
def test_what_a_question_carries_is_judged(
    question: dict[str, Any], messages: list[dict[str, Any]], correct: bool, reason: str | None
) -> None:
    row = response(question, *messages, prediction=messages[-1]["content"] or None)
    (judged,) = grade(Tasks("conversation"), [row])
    assert (judged.correct, judged.reason) == (correct, reason)
    calls = sum(len(message.get("tool_calls", ())) for message in messages)
    assert execution(0.1)([judged], None) == [pytest.approx(float(correct) - 0.1 * calls)]
    malformed = row.model_copy(update={"outcome": Outcome.MALFORMED, "reason": "not JSON"})
    (judged,) = grade(Tasks("conversation"), [malformed])
    assert judged.reason == "not JSON"
    assert not judged.correct or question["expected_calls"] is None


def test_a_class_or_a_function_may_judge_the_whole_response() -> None:
    class Polite:
        name, instruction, tools = "polite", "", ()

        def predict(self, text: str) -> str | None:
            return text

        def judge(self, prediction: str | None, answers: Any) -> bool:
            raise AssertionError

        def check(self, answers: Any) -> None:
            raise AssertionError

        def judge_response(self, response: Response) -> bool:
            return "please" in (response.completion or [])[-1].content and not response.calls

    question = asked(1) | {"expected_calls": None}
    rows = [response(question, says("Wait, please.")), response(question | {"id": "S_2"}, says("Wait."))]
    function = trice.Task("polite", "", judge_response=Polite().judge_response)
    for task in (Polite(), function):
        check_questions(Tasks(task), rows)
        assert [row.correct for row in grade(Tasks(task), rows)] == [True, False]


def test_labels_that_cannot_be_made_are_rejected_with_a_reason(tmp_path: Path) -> None:
    never_right = [{"name": "stock", "arguments": {}}]  # lacks the required argument
    rows = [
        asked(1, expected_calls="any"),
        asked(2, expected_calls=never_right),
        asked(3),
        asked(4, answer="Hello to you"),
        asked(5, "2", "3"),
    ]
    data = write(tmp_path / "in.json", rows)
    result = label(data, tmp_path / "out.json", Tasks("conversation"), Annotations())
    assert (result.kept, result.total) == (2, 5)
    kept = [LabeledQuestion.model_validate(row) for row in read(tmp_path / "out.json")]
    assert [row.output for row in kept] == ["Hello to you", 'stock(shelf="2")\nstock(shelf="3")']
    assert [len(row.completion or ()) for row in kept] == [0, 1]
    reasons = {row["id"]: row["rejected"] for row in read(tmp_path / "out_rejected.json")}
    assert reasons["S_2"] == "wrong calls: the required argument 'shelf' is missing"
    assert (reasons["S_1"], reasons["S_3"]) == ("no call is known to be right", "no field 'answer'")


@pytest.mark.parametrize("teacher", [Annotations, Rule])
def test_an_answer_that_is_wrong_is_not_rejected_for_having_no_call(teacher: Any, tmp_path: Path) -> None:
    """No call is wanted, and the gold answer is refused by the task's own judge, or calls a tool, as text."""

    @trice.tool
    def stock(shelf: str) -> int:
        """Pieces."""
        return 10 * int(shelf)

    def polite(response: Response) -> bool:
        return "please" in response.response

    rows = [asked(1, answer="Wait."), asked(2, answer="Wait, please."), asked(3, answer='stock(shelf="2")')]
    data = write(tmp_path / "in.json", rows)
    judged = trice.Task("polite", "", tools=[stock], judge_response=polite)
    label(data, tmp_path / "judged.json", Tasks(judged), teacher())
    assert [row["output"] for row in read(tmp_path / "judged.json")] == ["Wait, please."]
    reasons = {row["id"]: row["rejected"] for row in read(tmp_path / "judged_rejected.json")}
    assert reasons["S_1"] == "wrong answer: Wait."
    label(data, tmp_path / "calls.json", Tasks(trice.Task("shop", "", tools=[stock])), teacher())
    reasons = {row["id"]: row["rejected"] for row in read(tmp_path / "calls_rejected.json")}
    assert reasons == {"S_3": "wrong calls: a call, although no tool can help"}


REFUSED = [
    ({"messages": []}, "field 'messages': the last message has to be of the user or a tool"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "field 'messages': the last message has to be"),
    ({"messages": [{"role": "system", "content": "x"}, {"role": "user"}]}, "there is no question of the user"),
    ({"messages": "Hi"}, "field 'messages': expected a list of messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "field 'messages': a message is not text"),
    ({"question": "Another?"}, "field 'question': is another question than the last one of 'messages'"),
    ({"instruction": "Be brief."}, "field 'instruction': a conversation has a system message"),
    ({"tools": [{"description": "x"}]}, "field 'tools': a tool has no name"),
    ({"tools": [STOCK, STOCK]}, "field 'tools': two tools have the same name"),
    ({"expected_calls": [{"name": "stock"}]}, r"field 'expected_calls.0.arguments': Field required"),
    ({"expected_calls": [{"name": "stock", "arguments": {"shelf": "2"}}]}, "expected_calls.0.arguments.shelf': Input"),
    ({"expected_calls": "none"}, "field 'expected_calls': Input should be a valid list, or: Input should be 'any'"),
    ({"expected_calls": [{"name": "price", "arguments": {}}]}, "field 'expected_calls': 'price' is not among the"),
    ({"expected_calls": None}, "field 'answer': is missing, and field 'expected_calls' too"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "complaint"), REFUSED)
def test_a_row_that_does_not_fit_is_refused_with_file_line_and_field(
    fields: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "in.jsonl", [asked(1, "2"), asked(2, "2") | fields])
    words = ["label", "--data", data, "--output", tmp_path / "out.json", "--teacher", "annotations"]
    code, _, error = command(capsys, *words, "--task", "conversation")
    assert code == 2
    assert error[-1].startswith(f"trice: {data}:2: field ")
    assert complaint.replace(r"\.", ".") in error[-1]


def test_the_format_paper_refuses_conversations(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    cannot = "the format paper, in which calls are text, cannot express it; choose --format chat"
    commands = [
        ["generate", "--data", data, "--task", "conversation"],
        ["split", "--data", data, "--task", "conversation"],
    ]
    for words in commands:
        more = [] if words[0] == "split" else ["--output", output]
        code, _, error = command(capsys, *words, *more, "--model", model)
        assert (code, error[-1]) == (2, f"trice: {data}:1: field 'messages': {cannot}")
    labeled = [row | {"instruction": "", "output": "stock(2)"} for row in ROWS]
    data = write(tmp_path / "labeled.jsonl", labeled)
    code, _, error = command(capsys, "train", "clone", "--data", data, "--output", output, "--model", model)
    assert (code, error[-1]) == (2, f"trice: {data}:1: field 'messages': {cannot}")


def test_import_makes_questions_of_other_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"type": "function", "function": {"name": "stock", "arguments": '{"shelf": "2"}'}}
    rows = [
        {"messages": [{"role": "user", "content": "Shelf 2?"}, {"role": "assistant", "tool_calls": [call]}],
         "tools": [STOCK]},
        {"conversations": [{"from": "human", "value": "Shelf?"}, {"from": "gpt", "value": "Which one?"}],
         "tools": json.dumps([STOCK])},
        {"prompt": "2 + 2?", "completion": "4"},
        {"messages": [{"role": "user", "content": "Shelf 2?"}]},
    ]  # fmt: skip
    data, output = write(tmp_path / "chats.jsonl", rows), tmp_path / "questions.jsonl"
    words = [
        "import",
        "--form",
        "conversations",
        "--task",
        "conversation",
        "--data",
        data,
        "--output",
        output,
    ]
    code, out, error = command(capsys, *words)
    assert code == 0, error
    assert out == f"3 rows in {output}, from 4 (1 left out)\n"
    assert "1 rows left out: no answer after the last question (the first: chats-4)" in error[-1]
    first, second, third = trice.questions(output)
    assert [each.gold_texts for each in (first, second, third)] == [['stock(shelf="2")'], ["no call"], ["4"]]
    assert trice.questions(data.with_name("questions.jsonl")) == [first, second, third]
    direct = trice.questions(rows[:3], dataset="chats")  # the same without a file
    assert [row.model_dump() for row in direct] == [row.model_dump() for row in (first, second, third)]
    with pytest.raises(trice.InputError, match=r"chats.jsonl:1: a call of a tool that is not offered"):
        trice.questions(write(data, [rows[0] | {"tools": []}]))


@pytest.mark.skipif(not REAL or not Path(REAL).is_dir(), reason="the data files are not under TRICE_DATA")
def test_bfcl_and_toolrl_come_with_one_command_and_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, part, count in (("bfcl", "dev", 1514), ("toolrl", "raw", 388)):
        code, out, error = command(capsys, "data", name, "--output", tmp_path, "--source", REAL)
        assert code == 0, error
        (path,) = (tmp_path / part / "conversation").iterdir()
        assert f"{count} " in out
        rows = trice.questions(path)
        check_questions(Tasks("conversation"), rows)
        right = [row for row in rows if isinstance(row.expected_calls, list)]
        answers = []
        for row in right:
            calls = [each.call().model_dump() for each in row.expected_calls or ()]
            answers.append(response(row.model_dump(), {"role": "assistant", "tool_calls": calls}))
        wrong = sum(not row.correct for row in grade(Tasks("conversation"), answers))
        assert wrong == {"bfcl": 4, "toolrl": 0}[name]  # BFCL has four questions without a right response
    assert len({row.dataset for row in trice.questions(tmp_path / "dev/conversation/BFCL.json")}) == 7


def test_a_question_of_the_task_may_have_expected_calls_in_the_format_paper() -> None:
    fields = {
        "question": "What is 2 * 3?",
        "expected_calls": [{"name": "calculator", "arguments": {"expression": ["2*3", "3*2"]}}],
    }
    rows = trice.questions([fields])
    (labeled,) = trice.label(rows, "math", "annotations")
    assert (labeled.output, labeled.result) == ("calculator(2*3)", "6")
    texts = {"calculator(3*2)": True, "calculator(6)": False, "6": False}
    answers = [Response.model_validate(rows[0].model_dump() | {"response": text}) for text in texts]
    assert [row.correct for row in grade(Tasks("math"), answers)] == list(texts.values())


def test_a_conversation_is_exported_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, labels, output = tmp_path / "in.json", tmp_path / "labels.json", tmp_path / "sft.jsonl"
    label(write(data, ROWS[:1]), labels, Tasks("conversation"), Annotations())
    code, _, error = command(capsys, "export", "--task", "conversation", "--data", labels, "--output", output)
    assert code == 0, error
    (row,) = read(output)
    function = {"name": "stock", "arguments": {"shelf": "2"}}
    assert (row["prompt"], row["tools"]) == (ROWS[0]["messages"], [STOCK])
    assert row["completion"] == [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    ]


def test_a_question_may_end_with_a_tools_result() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "stock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Shelf 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ]
    question = Question.model_validate({"id": "S_1", "messages": messages, "answer": "7"})
    assert (question.input, (question.messages or [])[-1].name) == ("Shelf 2?", "stock")


def test_the_how_to_is_read_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "conversation-data.md").read_text(
        encoding="utf-8"
    )
    rows, code = (page.split(f"```{language}")[1].split("```")[0] for language in ("json", "python"))
    monkeypatch.chdir(tmp_path)
    Path("shop.jsonl").write_text(rows.partition("\n")[2], encoding="utf-8")
    check_questions(Tasks("conversation"), trice.questions("shop.jsonl"))
    exec(compile(code, "conversation-data.md", "exec"), {})
    assert capsys.readouterr().out == "Verdict(correct=True, reason='')\n"


def test_a_recipe_takes_conversations(model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "shop.jsonl", ROWS)
    (tmp_path / "recipe.yaml").write_text(f"""
name: shop
task: conversation
model: {model}
format: chat
device: cpu
dtype: float32
max_new_tokens: 8
output: {tmp_path / "run"}
data: [{{file: {data}, test: 2}}]
split: {{samples: 1}}
clone: {{max_steps: 2, batch_size: 2}}
evaluate: {{conditions: [zero-shot, stage-1]}}
""")
    run = trice.run(tmp_path / "recipe.yaml")
    assert "stock(" in (run / "report.html").read_text(encoding="utf-8")
    judged = read(run / "data" / "dev" / "conversation" / "conversation_stage-1_result.json")
    assert [row["tools"] for row in judged] == [[STOCK]] * 2


def test_a_table_gives_no_question_the_fields_of_others(tmp_path: Path) -> None:
    zone = {"type": "object", "properties": {"zone": {"type": "string", "default": "UTC"}}}
    clock = {
        "type": "function",
        "function": {"name": "clock", "description": "The time.", "parameters": zone},
    }
    right = [{"name": "clock", "arguments": {"zone": ["CET", "Europe/Berlin"]}}]
    rows = [asked(1, "2"), asked(2) | {"tools": [clock], "expected_calls": right}]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    for source in (table, tmp_path / "rows.parquet"):
        assert trice.questions(source) == trice.questions(rows)
