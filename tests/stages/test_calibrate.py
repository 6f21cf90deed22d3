"""Calibrate: the threshold that is chosen gives, when it is applied, exactly what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import trice
from tiny import command, for_tool_calls, read, taught, write
from trice.formats.chat import chat_format
from trice.formats.prompt import load_template
from trice.messages import Message, ToolCall
from trice.models.call_threshold import CALIBRATION, Calibration, CallThreshold, read_calibration
from trice.stages.need_probe import fit_probe
from trice.tasks import load_task
from trice.tools.call_text import function_schema
from trice.types import Outcome

KNOWN, UNKNOWN = range(4), range(4, 8)
LENGTH = {"max_new_tokens": 16}


def question(number: int) -> str:
    return f"What is {number} and 7?"


ROWS = [{"question": question(number), "answer": str(number + 7)} for number in (*KNOWN, *UNKNOWN)]


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows four sums by heart, and calls the calculator for four others."""
    source, template, task = tiny_model("llama"), load_template("plain"), load_task("math")
    tokenizer = AutoTokenizer.from_pretrained(source)
    written = {number: str(number + 7) for number in KNOWN} | {n: f"calculator({n}+7)" for n in UNKNOWN}
    examples = [
        (
            template.encode(tokenizer, task.instruction, question(number)),
            template.encode_response(tokenizer, text),
        )
        for number, text in written.items()
    ]
    return taught(source, tmp_path_factory.mktemp("taught") / "sums", examples)


@pytest.fixture
def model(folder: Path) -> trice.Model:
    return trice.load(folder, device="cpu", dtype="float32")


@pytest.fixture
def trained(model: trice.Model, tmp_path: Path) -> trice.Model:
    """The same with an adapter that changes next to nothing."""
    example = {"instruction": "Answer.", "input": "Who?", "output": "Me."}
    options = {"max_steps": 1, "learning_rate": 1e-9, "batch_size": 1, "lora": {"r": 1}}
    return trice.clone(model, [example], "math", output=tmp_path / "adapter", **options)


def outcomes(model: trice.Model, **options: Any) -> list[str]:
    rows = trice.generate(model, ROWS, "math", **LENGTH, **options)
    return "".join("c" if row.outcome is Outcome.CALLED else "-" for row in rows)


def test_a_threshold_decides_each_question(model: trice.Model) -> None:
    assert outcomes(model) == outcomes(model, call_threshold=0.5) == "----cccc"
    assert outcomes(model, call_threshold=1) == outcomes(model, tool_choice="none") == "--------"
    assert outcomes(model, call_threshold=0) == outcomes(model, tool_choice="required") == "cccccccc"


def test_the_chosen_threshold_loses_nothing_and_is_applied_from_then_on(
    trained: trice.Model, tmp_path: Path
) -> None:
    found = trice.calibrate(trained, ROWS, "math", **LENGTH)
    assert found.questions == 8
    settings = {
        "never": (0.5, 0),
        "always": (0.5, 1),
        "oracle": (1, 0.5),
        "chosen": (1, 0.5),
        "expected": (1, 0.5),
    }
    for name, (accuracy, calls) in settings.items():
        setting = getattr(found, name)
        assert (setting.accuracy.value, setting.calls.value) == (accuracy, calls), name
    assert found.area == 0.75  # from 0.5 up to 1 and down to 0.5
    assert found.auroc["p-call"].value == 1
    assert "for the fewest calls without a loss, from 8 questions" in str(found)

    assert trained.adapter is not None
    assert read_calibration(trained.adapter) == found
    assert outcomes(trained) == "----cccc"
    fewer = trice.calibrate(trained, ROWS, "math", max_calls=0.25, **LENGTH)
    assert fewer.chosen.calls.value <= 0.25
    result = trice.evaluate(trained, ROWS, "math", **LENGTH).measures["model"]["total"]
    assert result["accuracy"].value == fewer.chosen.accuracy.value
    assert result["tool_use"].value == fewer.chosen.calls.value
    assert outcomes(trained, call_threshold="off") == outcomes(trained, call_threshold=found) == "----cccc"
    assert trained.ask(question(0), "math", call_threshold=0).outcome is Outcome.CALLED
    assert trained.ask(question(5), "math", call_threshold=1).outcome is not Outcome.CALLED
    assert (tmp_path / "adapter" / "calibration" / "called.json").is_file()


def test_a_calibration_of_other_weights_or_prompts_is_not_applied(
    trained: trice.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    trice.calibrate(trained, ROWS, "math", max_calls=0, **LENGTH)
    assert outcomes(trained) == "--------"
    assert trained.adapter is not None
    other = trice.load(trained.name, trained.adapter, template="vicuna", device="cpu", dtype="float32")
    capsys.readouterr()
    assert other.threshold(None) is None
    assert "belongs to prompts of plain, so it is not applied" in capsys.readouterr().err
    path = trained.adapter / CALIBRATION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"adapter": "0" * 64}))
    assert outcomes(trained) == "----cccc"
    assert "belongs to other weights of the adapter" in capsys.readouterr().err


def test_questions_that_were_trained_on_are_noticed(
    model: trice.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": "Answer.", "input": question(0), "output": "7"}]
    options = {"max_steps": 1, "learning_rate": 1e-9, "batch_size": 1, "lora": {"r": 1}}
    trained = trice.clone(model, rows, "math", output=tmp_path / "adapter", **options)
    trice.calibrate(trained, ROWS, "math", **LENGTH)
    assert "1 of 8 questions are among those that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"min_accuracy": 0.5, "cost": 0.1}, "min_accuracy and cost: a threshold has one aim"),
        ({"signal": "proba"}, "signal 'proba' is not valid; choose p-call or probe"),
        ({"signal": "probe"}, "signal 'probe' needs at least 5 questions that need a tool"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    model: trice.Model, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(trice.InputError, match=complaint):
        trice.calibrate(model, ROWS, "math", **LENGTH, **options)


def test_an_aim_out_of_reach_names_the_best(model: trice.Model) -> None:
    rows = [*ROWS, {"question": question(9), "answer": "no number 0"}]
    with pytest.raises(trice.InputError, match=r"min_accuracy 0\.95 cannot be reached.* accuracy 0\.889"):
        trice.calibrate(model, rows, "math", min_accuracy=0.95, **LENGTH)


def test_an_endpoint_and_another_engine_are_refused_before_any_work() -> None:
    model = trice.endpoint("http://localhost:1/v1", "x")
    for work in (
        lambda: trice.calibrate(model, ROWS, "math"),
        lambda: trice.generate(model, ROWS, "math", call_threshold=0.5),
    ):
        with pytest.raises(trice.InputError, match=r"needs P\(call\), which an endpoint does not give"):
            work()


@pytest.mark.parametrize("value", ["often", "1.5", -0.1, "nan"])
def test_an_invalid_threshold_is_refused(model: trice.Model, value: Any) -> None:
    with pytest.raises(trice.InputError, match=r"from 0 \(always call\) to 1 \(never\), or off"):
        trice.generate(model, ROWS, "math", call_threshold=value)


def test_a_threshold_is_for_tool_choice_auto(model: trice.Model) -> None:
    with pytest.raises(trice.InputError, match="call_threshold does not apply to tool choice 'none'"):
        trice.generate(model, ROWS, "math", tool_choice="none", call_threshold=0.5)


def test_a_threshold_is_part_of_the_inputs(model: trice.Model) -> None:
    def settings(**options: Any) -> dict[str, Any]:
        return model.spec(**options).settings()

    half = CallThreshold(value=0.5)
    assert settings(call_threshold=half) == settings() | {"call_threshold": {"value": 0.5}}
    assert settings(call_threshold=half, tool_choice="none") == settings(tool_choice="none")


# The command line


def test_the_commands_calibrate_and_generate(
    trained: trice.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"s-{number}", **row} for number, row in enumerate(ROWS)]
    data = write(tmp_path / "held-out.jsonl", rows)
    common = ["--adapter", trained.adapter, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 16]
    code, out, _ = command(capsys, "calibrate", *common, "--data", data, "--max-calls", 0.4)
    assert code == 0
    assert "for max_calls=0.4, from 8 questions" in out
    assert trained.adapter is not None
    saved = read_calibration(trained.adapter)
    assert saved is not None
    assert saved.chosen.calls.value <= 0.4

    def called(*words: object) -> float:
        output = tmp_path / f"{len(list(tmp_path.glob('*.json')))}.json"
        assert command(capsys, "generate", *common, "--data", data, "--output", output, *words)[0] == 0
        return sum(row["response"].startswith("calculator(") for row in read(output)) / 8

    assert called() == saved.chosen.calls.value
    assert called("--call-threshold", "off") == 0.5
    assert called("--call-threshold", 0) == 1
    code, _, told = command(
        capsys, "generate", *common, "--data", data, "--output", tmp_path / "x.json",
        "--tool-choice", "none", "--call-threshold", 0.5,
    )  # fmt: skip
    assert code == 2
    assert "--call-threshold does not apply to --tool-choice none" in told[-1]


def test_calibrate_without_an_adapter_needs_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "q.jsonl", [{"id": "s-1", **ROWS[0]}])
    code, _, told = command(capsys, "calibrate", "--model", folder, "--data", data)
    assert code == 2
    assert "missing option --output: without an adapter" in told[-1]


# Format chat


def test_native_calls_are_decided_by_their_opening(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    task = trice.Task("sums", "Add.", [load_task("math").tools[0]], "numbers")
    schemas = [function_schema(tool) for tool in task.tools]
    source = for_tool_calls(tiny_model("llama"), tmp_path / "tokens", task.instruction, schemas)
    chat, examples = chat_format(AutoTokenizer.from_pretrained(source)), []
    for number in range(4):
        asked = [Message(role="system", content="Add."), Message(role="user", content=question(number))]
        call = ToolCall(name="calculator", arguments={"expression": f"{number}+7"})
        said = Message(
            role="assistant", tool_calls=[call] if number % 2 else [], content="" if number % 2 else "7"
        )
        rendered = chat.render([*asked, said], schemas)
        start = rendered.loss.index(True)
        examples.append((rendered.ids[:start], rendered.ids[start:]))
    folder = taught(source, tmp_path / "chat", examples)
    model = trice.load(folder, format="chat", device="cpu", dtype="float32")
    rows = [{"question": question(number), "answer": "7"} for number in range(4)]

    def called(**options: Any) -> list[bool]:
        found = trice.generate(model, rows, task, max_new_tokens=4, **options)
        return [row.response.startswith("<tool_call>") for row in found]

    assert called() == called(call_threshold=0.5) == [False, True, False, True]
    assert called(call_threshold=0) == [True] * 4
    assert called(call_threshold=1) == [False] * 4
    assert trice.calibrate(model, rows, task, max_new_tokens=4).auroc.keys() <= {"p-call"}


# The probe


def test_the_probe_finds_the_direction_of_need() -> None:
    generator = np.random.default_rng(3)
    needed = [bool(number % 3) for number in range(60)]
    noise, signal = generator.normal(size=(2, 60, 40))
    signal[:, 7] += 6 * np.asarray(needed)
    scores, probe = fit_probe(np.stack([noise, signal], 1), [2, 5], needed)
    assert probe.layer == 5
    assert int(np.abs(probe.weights).argmax()) == 7
    right = sum((score > 0.5) == need for score, need in zip(scores, needed, strict=True))
    assert right >= 54
    assert all(0 < score < 1 for score in scores)
    assert probe.score(signal[0]) < 0.5 < probe.score(signal[1])


def test_a_calibration_is_read_as_it_was_written() -> None:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    setting = {"accuracy": estimate, "calls": estimate}
    value: dict[str, Any] = dict.fromkeys(("expected", "chosen", "never", "always", "oracle"), setting)
    value |= {
        "threshold": {"value": 0.5},
        "aim": "cost=0.1",
        "task": "math",
        "prompts": {"template": "plain"},
    }
    found = Calibration.model_validate(
        value | {"adapter": None, "questions": 9, "area": 0.5, "auroc": {"probe": estimate}}
    )
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    assert "AUROC of probe for need: 0.50 (0.25 to 0.75)" in str(found)
