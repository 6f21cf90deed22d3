"""The whole loop in the format `chat`: native calls, their results read, both stages, evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

import trice
from tiny import command, for_tool_calls, read, write
from trice.formats.prompt import Example
from trice.stages.chat_responses import prompt_messages, target_messages
from trice.stages.mix import known_target
from trice.tasks import Tasks
from trice.tasks.final_answer import final_text, unread_result
from trice.tasks.instructions import MATH as INSTRUCTION
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema
from trice.training_data import LabeledQuestion
from trice.types import Outcome, Question, Response

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "tool-calls.md"
QUESTIONS = [
    {"id": f"S_{i}", "question": f"What is {i} * 3?", "answer": str(3 * i), "expression": f"{i}*3"}
    for i in range(2, 7)
]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> trice.Model:
    folder, tools = tmp_path_factory.mktemp("policy"), [function_schema(Calculator())]
    for_tool_calls(tiny_model("llama"), folder, INSTRUCTION, tools)
    return trice.load(str(folder), format="chat", device="cpu", dtype="float32")


def test_both_stages_train_on_conversations_that_were_executed(model: trice.Model, tmp_path: Path) -> None:
    known, unknown = trice.split(model, QUESTIONS, "math", samples=1, max_new_tokens=8)
    assert (known, len(unknown)) == ([], 5)
    labels = trice.label(unknown, "math")
    assert (labels[0].output, labels[0].result) == ("calculator(2*3)", "6")
    settings = {
        "num_train_epochs": 120,
        "batch_size": 5,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_steps": 200,
    }
    stage1 = trice.clone(model, labels, "math", lora={"r": 16, "target_modules": "all-linear"}, **settings)
    rows = trice.generate(stage1, QUESTIONS, "math", max_new_tokens=60)
    for row, question in zip(rows, QUESTIONS, strict=True):
        assert row.completion is not None
        assert [message.role for message in row.completion] == ["assistant", "tool", "assistant"]
        assert row.outcome is Outcome.CALLED
        assert row.calls[0].arguments == {"expression": question["expression"]}
        assert row.execution
        assert row.execution.output == question["answer"]
        assert row.completion[1].content == question["answer"]
        assert len(row.tokens or []) == len(row.loss or [])
    found = trice.evaluate({"base": model, "stage 1": stage1}, QUESTIONS, "math", max_new_tokens=60)
    assert found.measures["stage 1"]["total"]["tool_use"].count == 5
    assert found.measures["stage 1"]["total"]["accuracy"].count == sum(
        row.prediction == row.answers[0] for row in rows
    )
    answer = stage1.ask("What is 4 * 3?", "math", max_new_tokens=60)
    assert [message["role"] for message in answer.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert answer.text == rows[2].prediction
    none = trice.generate(stage1, QUESTIONS[:1], "math", tool_choice="none", max_new_tokens=8)
    assert none[0].execution is None or none[0].execution.output is None
    forced = trice.generate(model, QUESTIONS, "math", tool_choice="required", max_new_tokens=4)
    assert all(row.response.startswith("<tool_call>") for row in forced)

    both = trice.rlef(
        stage1, QUESTIONS, "math", samples=3, max_new_tokens=60, num_train_epochs=1, batch_size=5
    )
    assert both.adapter is not None


@trice.tool
def double(value: int) -> int:
    """Double a number."""
    return 2 * value


def test_the_script_of_the_documentation_answers_as_trice(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = trice.Task("double", "Double the number.", tools=[double], answers="numbers")
    base = for_tool_calls(tiny_model("llama"), tmp_path / "base", task.instruction, [function_schema(double)])
    rows = [
        {"instruction": task.instruction, "input": f"What is twice {i}?", "output": f"double({i})"}
        | {"result": f"{2 * i}", "answer": f"{2 * i}"}
        for i in range(2, 7)
    ]
    model = trice.load(base, format="chat", device="cpu", dtype="float32")
    trained = trice.clone(
        model, rows, task, output=tmp_path / "runs" / "double", num_train_epochs=120, batch_size=5, save_steps=200,
        learning_rate=1e-2, lr_scheduler_type="constant", lora={"r": 16, "target_modules": "all-linear"},
    )  # fmt: skip
    answer = trained.ask("What is twice 4?", task)
    assert (answer.call and answer.call.arguments, answer.text) == ({"value": 4}, "8")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r'^```python title="native.py"\n(.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    capsys.readouterr()
    exec(compile(code, "native.py", "exec"), {})
    assert capsys.readouterr().out == "8\n"

    merged = trained.merge(tmp_path / "merged")
    ends = GenerationConfig.from_pretrained(merged).eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} <= set(ends)
    assert tokenizer.response_template
    again = trice.load(merged, format="chat", device="cpu", dtype="float32").ask("What is twice 4?", task)
    assert again.messages == answer.messages


def test_the_commands_take_the_format(
    model: trice.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, name = write(tmp_path / "sums.json", QUESTIONS), model.name
    words = ["--model", name, "--format", "chat", "--device", "cpu", "--dtype", "float32"]
    written, judged = tmp_path / "written.json", tmp_path / "judged.json"
    code, _, error = command(
        capsys, "generate", "--data", data, "--output", written, "--max-new-tokens", 8, *words
    )
    assert code == 0, error
    assert {"completion", "loss", "tokens", "outcome"} <= set(read(written)[0])
    assert command(capsys, "evaluate", "--data", written, "--output", judged)[0] == 0
    assert [row["completion"] for row in read(judged)] == [row["completion"] for row in read(written)]
    code, _, error = command(
        capsys, "generate", "--data", data, "--output", tmp_path / "x", "--beams", 2, *words
    )
    assert (code, error[-1]) == (2, "trice: format 'chat' does not support beam search; leave beams out")


def test_stage_1_trains_on_a_file_of_conversations(
    model: trice.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "stock", "arguments": {"product": "chair"}}}
    tools = [{"type": "function", "function": {"name": "stock", "description": "Pieces.", "parameters": {}}}]
    rows = [
        {"messages": [
            {"role": "user", "content": f"{number} chairs?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "stock", "content": "7"}, {"role": "assistant", "content": "There are 7."},
        ], "tools": tools}
        for number in range(3)
    ]  # fmt: skip
    unanswered = {"messages": [{"role": "user", "content": "chairs?"}], "tools": tools}
    data = write(tmp_path / "talks.jsonl", [*rows, unanswered])
    words = [
        "train",
        "clone",
        "--data",
        data,
        "--model",
        model.name,
        "--format",
        "chat",
        "--device",
        "cpu",
    ]
    options = ["max_steps=2", "batch_size=3", "max_length=1000"]
    code, _, error = command(capsys, *words, "--output", tmp_path / "run", *options)
    assert code == 0, error
    assert trice.load(tmp_path / "run", device="cpu").template.format == "chat"
    ranked = write(tmp_path / "ranked.json", [{"query": "q", "responses": ["a", "b"], "scores": [1, 0]}])
    stage2 = ["train", "rlef", "--data", ranked, "--model", model.name, "--adapter", tmp_path / "run"]
    code, _, error = command(capsys, *stage2, "--output", tmp_path / "both", "--device", "cpu")
    assert code == 2
    assert "format 'chat' needs candidates that were generated with it" in error[-1]  # the adapter's format
    lonely = write(tmp_path / "lonely.jsonl", [unanswered])
    words[3] = lonely
    code, _, error = command(capsys, *words, "--output", tmp_path / "none", *options)
    assert (code, error[-1]) == (2, f"trice: {lonely}: no conversation ends with a message of the assistant")


def test_a_recipe_with_the_default_candidates_goes_through_all_steps(
    model: trice.Model, tmp_path: Path
) -> None:
    data = write(tmp_path / "sums.jsonl", QUESTIONS)
    (tmp_path / "recipe.yaml").write_text(f"""
name: native
task: math
model: {model.name}
format: chat
device: cpu
dtype: float32
max_new_tokens: 12
output: {tmp_path / "run"}
data: [{{file: {data}, test: 2}}]
split: {{samples: 1}}
clone: {{max_steps: 2, batch_size: 2, max_length: 1000}}
rlef: {{max_steps: 2, batch_size: 2, max_length: 1000}}
evaluate: {{conditions: [zero-shot, few-shot, stage-1, both, never, always]}}
""")
    run = trice.run(tmp_path / "recipe.yaml")
    assert (run / "report.html").is_file()
    ranked = read(run / "data" / "stage2" / "math" / "math.json")
    assert all(each["completion"] for row in ranked for each in row["candidates"])
    assert {each["origin"] for row in ranked for each in row["candidates"]} > {"gold"}
    never = read(next((run / "data" / "dev").rglob("*never_response.json")))
    assert all("execution" not in row for row in never)  # tools were withheld


def test_the_models_own_conversation_is_a_target(model: trice.Model) -> None:
    fields = QUESTIONS[0] | {
        "response": "<tool_call>…", "outcome": "called", "correct": True, "prediction": "6",
        "completion": [
            {"role": "assistant", "tool_calls": [{"name": "calculator", "arguments": {"expression": "2*3"}}]},
            {"role": "tool", "name": "calculator", "content": "6"},
            {"role": "assistant", "content": "It is 6."},
        ],
    }  # fmt: skip
    target = known_target(Tasks("math"), Response.model_validate(fields))
    assert [message.role for message in target_messages(target, ())] == ["assistant", "tool", "assistant"]
    label = LabeledQuestion(
        instruction="Solve.", input="2*3?", output="calculator(2*3)", id="S_2", answer="6"
    )
    with pytest.raises(trice.InputError, match="S_2: field 'result': is missing"):
        target_messages(label, Tasks("math").of(Question(id="x", input="?")).tools)
    done = target_messages(label.model_copy(update={"result": "6"}), [Calculator()])
    assert [message.content for message in done] == ["", "6", "6"]


def test_a_few_shot_example_with_a_call_is_a_native_call() -> None:
    examples = [Example("What is 2*3?", "calculator(2*3)"), Example("Hello", "Hi")]
    messages = prompt_messages(Question(id="x", instruction="Solve.", input="5*5?"), examples, [Calculator()])
    assert [message.role for message in messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert messages[2].tool_calls[0].arguments == {"expression": "2*3"}
    assert messages[4].content == "Hi"


def test_the_answer_that_is_shown_is_the_one_that_is_judged() -> None:
    calls = [{"name": "calculator", "arguments": {"expression": text}} for text in ("3+4", "4+5")]
    results = [{"role": "tool", "name": "calculator", "content": text} for text in ("7", "9")]
    silent = [*results, {"role": "assistant", "content": ""}]
    for rest in (results, silent):
        messages = [{"role": "assistant", "tool_calls": calls}, *rest]
        row = Response.model_validate(
            QUESTIONS[0] | {"response": "…", "outcome": "called", "completion": messages}
        )
        assert final_text(row, Tasks("math").of(row)) == "9"
        assert unread_result(row.completion or []) == "9"
