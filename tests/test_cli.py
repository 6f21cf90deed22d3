"""The command line: each stage is a command, and each mistake is one clear line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from stand_in_server import StandIn

from tiny import command, forked, read, says, sums, tree, write
from trice.cli import app, main
from trice.datasets import NAMES, NOT_READ

Run = Callable[..., tuple[int, str, list[str]]]
FAST = ("--device", "cpu", "--dtype", "float32")
LORA = ("lora.r=2", "max_steps=2", "batch_size=4", "--lora.target-modules", "all-linear")


@pytest.fixture
def trice(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: command(capsys, *words)


@pytest.fixture(scope="module")
def five(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers 5."""
    return says(tiny_model("llama"), tmp_path_factory.mktemp("model") / "five", "5")


def complaint(lines: Sequence[str]) -> str:
    """The one line that says what is wrong; there is no other but notices, and no traceback."""
    ours = [line for line in lines if line.startswith("trice: ")]
    assert len(ours) == 1, lines
    assert lines[-1] == ours[0]
    assert not any("Traceback" in line for line in lines)
    return ours[0].removeprefix("trice: ")


def test_a_tool_prints_its_output_alone(trice: Run) -> None:
    assert trice("tool", "calculator", "(12/60)*50") == (0, "10\n", [])
    assert trice("tool", "calculator", "-5+3") == (0, "-2\n", [])


def test_a_tool_that_cannot_do_it_says_so(trice: Run) -> None:
    code, out, lines = trice("tool", "calculator", "1/0")
    assert (code, out, complaint(lines)) == (1, "", "calculator: division by zero")
    code, out, lines = trice("tool", "calculator", "__import__('os')")
    assert (code, out) == (2, "")
    assert complaint(lines).startswith("calculator: ")
    code, _, lines = trice("tool", "abacus", "1+1")
    assert (code, complaint(lines)) == (
        2,
        "unknown tool 'abacus'; choose calculator, WikiSearch, QA, translator, retriever, "
        "or write your own as module:name",
    )


def test_data_sets_are_listed(trice: Run) -> None:
    code, out, lines = trice("data", "list")
    assert (code, lines) == (0, [])
    *data_sets, last = out.splitlines()
    assert last.startswith("Passages for WikiSearch")
    listed = [line.split()[0] for line in data_sets]
    assert sorted(listed) == sorted([*NAMES, *NOT_READ])
    assert listed[:4] == ["starter", "starter-qa", "starter-lama", "starter-mlqa"]
    assert trice("data")[1] == out


def commands() -> list[list[str]]:
    found: list[list[str]] = [[]]
    for name, each in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [[name], *([name, inner] for inner in getattr(each, "commands", {}))]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help(trice: Run, words: list[str]) -> None:
    code, out, lines = trice(*words, "--help")
    assert (code, lines) == (0, [])
    assert " ".join(["trice", *words]) in out


def test_the_commands_are_those_of_the_design() -> None:
    names = {" ".join(words) for words in commands()}
    assert names - {"", "train"} == {
        "demo", "run", "split", "label", "mix", "collect", "score", "train clone", "train rlef", "generate",
        "evaluate", "calibrate", "report", "data", "export", "import", "push", "merge", "tool", "chat",
        "serve",
    }  # fmt: skip


def test_the_version_is_printed(trice: Run) -> None:
    import trice as package

    assert trice("--version") == (0, f"trice {package.__version__}\n", [])


def test_every_stage_is_a_command(trice: Run, five: Path, tmp_path: Path) -> None:
    """The whole loop, command by command, as a user would type it."""

    def done(*words: object) -> str:
        code, out, lines = trice(*words)
        assert code == 0, lines
        return out

    raw, stage1, stage2, models = (tmp_path / name for name in ("raw", "stage1", "stage2", "models"))
    data = sums(raw / "S.json", 6, lambda i: "5" if i % 2 else str(i + 7))
    model = ("--model", five, *FAST)
    assert "3 of 6 right" in done(
        "split", *model, "--data", data, "--few-shot", "direct", "--generation-batch-size", 4
    )
    wrong = stage1 / "S_wrong.json"
    assert "kept 3 of 3" in done("label", "--data", raw / "S_wrong.json", "--output", wrong)
    mixed = stage1 / "math.json"
    told = done("mix", "--labelled", wrong, "--right", raw / "S_right.json", "--output", mixed)
    assert told == f"6 questions in {mixed}\n"
    done("train", "clone", *model, "--data", mixed, "--output", models / "stage-1", *LORA)
    collect = ("collect", *model, "--data", mixed, "--output", stage2)
    done("collect", "--data", mixed, "--output", stage2, "--origin", "gold")
    done(*collect, "--origin", "forced", "--tool-choice", "required", "--max-new-tokens", 4)
    told = done(
        *collect, "--origin", "drawn", "--adapter", models / "stage-1", "--samples", 2, "--temperature", 1,
        "--top-k", 50, "--top-p", 0.9, "--seed", 3, "--max-new-tokens", 4,
    )  # fmt: skip
    assert told == f"12 responses in {stage2 / 'math_drawn_response.json'}\n"
    assert "of 6 questions" in done("score", "--data", stage2, "--output", stage2 / "math.json")
    adapter = ("--adapter", models / "stage-1")
    ranked = ("--data", stage2 / "math.json", "--output", models / "both", "--alpha", 0.1)
    done("train", "rlef", *model, *adapter, *ranked, *LORA)
    answered, judged = tmp_path / "response.json", tmp_path / "result.json"
    asked = ("--data", data, "--output", answered, "--adapter", models / "both", "--max-new-tokens", 4)
    assert done("generate", *model, *asked) == f"6 responses in {answered}\n"
    assert "total (6): accuracy " in done("evaluate", "--data", answered, "--output", judged)
    assert len(read(judged)) == 6
    assert "alpha" in (models / "both" / "README.md").read_text()


def test_a_run_and_its_report(trice: Run, five: Path, tmp_path: Path) -> None:
    words = ["run", "demo", f"model={five}", "data=[{dataset: starter, train: 4, test: 2}]"]
    words += ["evaluate.conditions=[zero-shot]", f"output={tmp_path / 'run'}", "device=cpu", "dtype=float32"]
    code, out, _ = trice(*words)
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert out.splitlines()[1].split()[:3] == ["zero-shot", "starter", "2"]
    assert trice("report", tmp_path / "run")[:2] == (0, out)
    code, _, lines = trice(*words, "seed=9")
    assert code == 2
    assert "seed was 0, is now 9" in complaint(lines)


@pytest.fixture
def inputs(tmp_path: Path, five: Path) -> dict[str, Any]:
    """Files that fit, and files that do not, by the names the cases use."""
    good = {"id": "A_1", "question": "q", "answer": "4"}
    rows: dict[str, list[dict[str, Any]]] = {
        "good": [good],
        "missing": [good, {"id": "A_2", "answer": "4"}],
        "empty": [],
        "goldless": [good | {"answer": ""}],
        "word": [good, good | {"id": "A_2", "answer": "a few"}],
        "labelled": [{"id": "A_1", "instruction": "i", "input": "q", "output": "4", "answer": "4"}],
        "ranked": [{"query": "i\nq", "responses": ["4", "5"], "scores": [20, 5]}],
        "uneven": [{"query": "i\nq", "responses": ["4", "5"], "scores": [20]}],
        "answered": [good | {"response": "4"}],
    }
    found: dict[str, Any] = {name: write(tmp_path / f"{name}.json", each) for name, each in rows.items()}
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps(good) + '\n{"id": "A_2", "question"\n')
    (tmp_path / "latin.json").write_bytes(b'{"id": "caf\xe9"}')
    other = tmp_path / "other-base"
    write(other / "adapter_config.json", [{"base_model_name_or_path": "google/gemma-2b"}])
    (other / "adapter_model.safetensors").touch()
    (tmp_path / "steps.py").write_text("def reward(question, response):\n    return 1 / 0\n")
    write(tmp_path / "stage2" / "math_gold_response.json", rows["labelled"])
    (tmp_path / "old.json").write_text("old")
    return found | {
        "model": five, "torn": torn, "latin": tmp_path / "latin.json", "other": other, "dir": tmp_path,
        "out": tmp_path / "old.json", "stage2": tmp_path / "stage2", "none": tmp_path / "none",
    }  # fmt: skip


GENERATE = "generate --model {model} --output {out} --device cpu --dtype float32"
CLONE = "train clone --model {model} --output {none} --device cpu --dtype float32"
RLEF = "train rlef --model {model} --output {none} --device cpu --dtype float32"
GOLD = "collect --data {labelled} --output {dir} --origin gold"
LABEL = "label --data {good} --output {out}"
WRONG_INPUT = [
    # files
    (f"{GENERATE} --data {{missing}}", "missing.json:2: field 'question': Field required"),
    (f"{GENERATE} --data {{torn}}", "torn.json:2: not a JSON object ("),
    (f"{GENERATE} --data {{empty}}", "empty.json: holds no rows"),
    (f"{GENERATE} --data {{latin}}", "latin.json: not UTF-8 (byte 11)"),
    (f"{GENERATE} --data {{none}}", "none: no such file"),
    (f"{GENERATE} --data {{dir}}", ": cannot be read (Is a directory)"),
    (f"{GENERATE} --data {{goldless}}", "goldless.json:1: field 'answer': there is no gold answer"),
    ("split --model {model} --data {word}", "word.json:2: field 'answer': 'a few' is not a number"),
    ("label --data {word} --output {out}", "word.json:2: field 'answer': 'a few' is not a number"),
    ("label --data {good} --output {good}", "good.json: would be overwritten"),
    ("evaluate --data {good} --output {out}", "good.json:1: field 'response': Field required"),
    ("evaluate --data {answered} --base {answered} --output {out}", "is not graded; run `trice evaluate` first"),
    (f"{CLONE} --data {{good}}", "good.json:1: field 'instruction': Field required"),
    (f"{RLEF} --data {{uneven}}", "uneven.json:1: field 'scores': 1 scores for 2 responses"),
    ("score --data {good} --output {out}", "no gold responses here"),
    ("mix --labelled {none} --output {out}", "none: no such file"),
    ("mix --output {out}", "nothing to mix"),
    ("report {none}", "none: no such run folder"),
    ("report {none} {none}", "a report of several runs needs its own folder; give --output"),
    # names
    (f"{GENERATE} --data {{good}} --task maths", "unknown task 'maths'; there is: math"),
    (f"{GENERATE} --data {{good}} --task maths --few-shot calls", "unknown task 'maths'; there is: math"),
    (f"{GENERATE} --data {{good}} --template plian", "template 'plian' is not valid; choose alpaca, "),
    (f"{GENERATE} --data {{good}} --template {{torn}}", "torn.json is not JSON"),
    (f"{GENERATE} --data {{good}} --template chat", "this model's tokenizer has no chat template"),
    (f"{GENERATE} --data {{good}} --few-shot many", "few-shot 'many' is not valid; choose direct, calls, mixed"),
    (f"{GENERATE} --data {{good}} --tool-choice tool", "--tool-choice tool is not valid: input should be 'auto', "),
    (f"{GENERATE} --data {{good}} --adapter {{none}}", "none is not an adapter"),
    (f"{GENERATE} --data {{good}} --task math --adapter {{other}}", "was trained on base model 'google/gemma-2b'"),
    (f"{GENERATE} --data {{good}} --device gpu", "--device gpu: "),
    (f"{GENERATE} --data {{good}} --dtype float8", "dtype 'float8' is not valid; choose auto, float32"),
    ("generate --model no/such --data {good} --output {out}", "model 'no/such' is neither a folder with a model"),
    ("split --model gemma-3-27m --data {good}", "there is no model 'gemma-3-27m'; did you mean 'gemma-3-270m'?"),
    ("generate --model {stage2} --data {good} --output {out}", "stage2' is neither a folder with a model"),
    (f"{LABEL} --teacher me", "--teacher me is not valid: input should be 'annotations', 'rule' or 'endpoint'"),
    (f"{LABEL} --teacher endpoint", "teacher 'endpoint' needs the key 'endpoint' with url and model"),
    (f"{LABEL} --teacher endpoint --model m --endpoint here", "server 'here' is not a URL"),
    (f"{LABEL} --teacher endpoint --model m --endpoint http://h --keys-file {{none}}", "none: can"),
    ("mix --labelled {labelled} --output {out} --kind all", "--kind all is not valid: input should be 'selective'"),
    ("collect --model {model} --data {labelled} --output {dir} --origin a_b", "origin 'a_b' is not valid; use letters"),
    ("score --data {stage2} --output {out} --reward papers", "reward 'papers' is not valid; choose paper"),
    ("score --data {stage2} --output {out} --reward none:f", "reward 'none:f': there is no module none"),
    ("data SVMP --output {dir}", "unknown data set 'SVMP'; did you mean 'SVAMP'?"),
    ("data SVAMP --output {dir}", "SVAMP: no folder of data files; set TRICE_DATA"),
    ("data starter --test 999999 --output {dir}", "starter: 999999 test questions wanted"),
    ("run demo modle=x", "demo: unknown key 'modle'; did you mean 'model'?"),
    ("run demo clone.lora.rr=1", "demo: unknown key 'clone.lora.rr'; did you mean 'r'?"),
    ("run demo clone.num_train_epochs=many", "demo: key 'clone.num_train_epochs': Input should be a valid number"),
    ("run demo scale", "'scale' is not an override; write key=value"),
    ("run {none}", "none: neither a file nor a shipped recipe; choose one of demo, demo-chat,"),
    ("run {torn}", "torn.json: not YAML"),
    ("run demo data=[{{dataset:SVMP}}]", "demo: "),
    (f"{CLONE} --data {{labelled}} epcohs=1", "unknown key 'epcohs'; did you mean 'num_train_epochs'?"),
    (f"{CLONE} --data {{labelled}} --epcohs 1", "unknown option --epcohs; did you mean '--num-train-epochs'?"),
    (f"{CLONE} --data {{labelled}} lora.rr=1", "unknown key 'lora.rr'; did you mean 'lora.r'?"),
    (f"{CLONE} --data {{labelled}} num_train_epochs=0", "--num-train-epochs 0 is not valid: input should be"),
    (f"{CLONE} --data {{labelled}} --early-stopping-patience 2", "'early_stopping_patience' counts validations"),
    (f"{CLONE} --data {{labelled}} epochs", "'epochs' is not an override; write key=value"),
    (f"{CLONE} --data {{labelled}} lora.target_modules=[none]", "lora.target_modules ['none']"),
    # options that have no effect
    (f"{CLONE} --data {{labelled}} --tool QA=x", "--tool does not apply without --validation; leave it out"),
    (f"{GOLD} --samples 2", "--samples does not apply to --origin gold"),
    (f"{GOLD} dtype=float32", "--dtype does not apply to --origin gold"),
    (f"{GOLD} --endpoint http://h --model m", "--endpoint does not apply"),
    (f"{GENERATE} --data {{good}} --endpoint http://h", "--device does not apply to --endpoint, "),
    ("label --data {good} --output {out} --retries 3", "--retries does not apply to --teacher annotations; leave"),
    (f"{LABEL} --teacher rule --endpoint http://h --model m", "--endpoint does not apply to"),
    ("evaluate --data {answered} --output {out} --few-shot calls", "--few-shot does not apply without a model"),
    ("score --data {stage2} --output {out} --device cpu", "--device does not apply without a model"),
    (f"{GENERATE} --data {{good}} --top-k 5", "--top-k does not apply at temperature 0; set --temperature, or leave"),
    (f"{GENERATE} --data {{good}} --samples 3", "--samples does not apply at temperature 0"),
    (f"{GENERATE} --data {{good}} --workers 3", "--workers does not apply to --engine transformers; leave it out"),
    ("split --model {model} --data {good} --samples 1 --known 0.5", "temperature and known do not apply to samples=1"),
    ("mix --labelled {labelled} --output {out} --questions {good}", "--questions does not apply to --kind selective"),
    ("evaluate --data {answered} --output {out} --any-passage", "--any-passage does not apply without a model"),
    ("data list --train 3", "--train does not apply to 'trice data list'; leave it out"),
    ("run demo --dtype float32", "--dtype is not valid here, because a recipe has keys; use dtype=float32"),
    ("run demo --output x", "use output=x"),
    ("run demo --learning-rate=1 --status", "use clone.learning_rate=1 or rlef.learning_rate=1"),
    ("demo --dry-run", "--dry-run is not an option of a recipe's run; choose one of name, title, task, judge,"),
    ("demo --outptu x", "--outptu is not an option of a recipe's run; did you mean 'output'?"),
    ("tool calculator 1 + 1", "tool takes one text, not 3; quote it: trice tool calculator '1, +, 1'"),
    (f"{RLEF} --data {{ranked}} --adapter {{none}}", "none is not an adapter"),
    (f"{RLEF} --data {{ranked}} --adapter {{other}}", "was trained on base model 'google/gemma-2b'"),
    ("chat --model {model} --template plian", "template 'plian' is not valid"),
    # the command line itself
    ("", "missing command"),
    ("train", "missing command"),
    ("trian", "No such command 'trian'"),
    ("generate --model m --data {good}", "missing option --output"),
    ("generate --modle m", "unknown option --modle; did you mean '--model'?"),
    ("evaluate --data {good} --output {out} --limit 0", "--limit 0 is not valid: input should be greater"),
    ("evaluate --data {good} --output {out} --limit few", "--limit few is not valid: input should be a"),
    ("tool calculator", "missing argument; write trice tool NAME ARGUMENTS"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG_INPUT, ids=[words for words, _ in WRONG_INPUT])
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    trice: Run, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.delenv("TRICE_DATA", raising=False)
    monkeypatch.chdir(inputs["dir"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = tree(inputs["dir"])
    code, _, lines = trice(*(word.format(**inputs) for word in words.split()))
    assert said in complaint(lines)
    assert code == 2
    after = tree(inputs["dir"])
    assert {name: after.get(name) for name in before} == before


def test_a_reward_that_fails_is_one_clear_line_and_exit_code_1(
    trice: Run, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs["dir"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    code, _, lines = trice("score", "--data", "stage2", "--output", "old.json", "--reward", "steps:reward")
    assert code == 1
    assert (
        complaint(lines)
        == "reward 'steps:reward' failed on question 'A_1': ZeroDivisionError: division by zero"
    )
    assert inputs["out"].read_text() == "old"


def test_a_server_that_takes_no_key_is_one_clear_line_and_exit_code_1(
    trice: Run, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("TRICE_API_KEYS", key)
    words = [
        "label",
        "--data",
        inputs["good"],
        "--output",
        inputs["out"],
        "--teacher",
        "endpoint",
        "--model",
        "m",
    ]
    with StandIn(refused={key: 401}) as server:
        code, _, lines = trice(*words, "--endpoint", server.url)
    assert code == 1
    assert complaint(lines).startswith(f"{server.url}: ")
    assert key not in str(lines)


def test_no_character_out_of_a_file_steers_the_terminal(trice: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "x.json", [{"id": "a", "question": "q", "answer": "\x1b[Jten\r\nthousand"}])
    code, _, lines = trice("label", "--data", data, "--output", tmp_path / "out.json")
    assert (code, "\x1b" in complaint(lines)) == (2, False)
    assert "[Jten thousand" in complaint(lines)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(trice: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, _, lines = trice("data", "starter", "--output", tmp_path / "x")
    assert code == 1
    assert "Permission denied" in complaint(lines)


def test_an_output_under_a_file_is_named(trice: Run, inputs: dict[str, Any]) -> None:
    code, _, lines = trice("data", "starter", "--output", inputs["out"])
    assert code == 1
    assert "old.json" in complaint(lines)
    code, _, lines = trice("evaluate", "--data", inputs["answered"], "--output", inputs["out"] / "x.json")
    assert (code, complaint(lines)) == (1, f"{inputs['out']}/x.json: cannot be written (File exists)")
    code, _, lines = trice(
        *GENERATE.format(model=inputs["model"], out=inputs["dir"]).split(), "--data", inputs["good"]
    )
    assert (code, complaint(lines)) == (2, f"{inputs['dir']}: is a folder; the output has to be a file")


def on_a_full_disk(room: int, words: Sequence[str], error: Path) -> None:
    """`trice words` in a process that may write files of `room` bytes, its stderr in a file."""
    sys.stderr = error.open("w")
    sys.argv = ["trice", *words]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    main()


def test_a_full_disk_is_one_clear_line(inputs: dict[str, Any], tmp_path: Path) -> None:
    error = tmp_path / "stderr"
    output = tmp_path / "old.json"
    for room, words in (
        (100, f"evaluate --data {inputs['answered']} --output {output}"),
        (100, f"score --data {inputs['stage2']} --output {output}"),
        (100, f"{GENERATE} --data {inputs['good']}".format(model=inputs["model"], out=output)),
        (3000, f"{CLONE} --data {inputs['labelled']} {' '.join(LORA)}".format(**inputs)),
    ):
        assert forked(on_a_full_disk, room, words.split(), error) == 1, error.read_text()
        assert complaint(error.read_text().splitlines()), words
        assert output.read_text() == "old"


def test_ctrl_c_keeps_what_is_done(trice: Run, five: Path, tmp_path: Path) -> None:
    data, output = sums(tmp_path / "in.json", 200), tmp_path / "out.json"
    words = [
        "generate",
        "--model",
        five,
        "--data",
        data,
        "--output",
        output,
        "--generation-batch-size",
        1,
        "--temperature",
        1,
        *FAST,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "trice", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    partial = output.with_name(".out.json.journal")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and (not partial.exists() or partial.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1, error
    assert complaint([line for line in error.splitlines() if line]).startswith(
        "stopped; finished work is kept"
    )
    assert not output.exists()
    finished = partial.read_bytes().count(b"\n") - 1
    assert 4 <= finished < 200
    code, _, lines = trice(*words)
    assert (code, lines[0]) == (0, f"{output}: resuming after {finished} finished rows")
    assert len(read(output)) == 200


def test_what_nobody_expected_is_one_line_too(trice: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from trice.tools.calculator import Calculator

    def broken(self: Calculator, text: str) -> dict[str, Any]:
        raise RuntimeError("a mistake\nof ours")

    monkeypatch.setattr(Calculator, "parse", broken)
    monkeypatch.delenv("TRICE_DEBUG", raising=False)
    code, _, lines = trice("tool", "calculator", "1+1")
    assert (code, complaint(lines)) == (
        1,
        "RuntimeError: a mistake of ours (TRICE_DEBUG=1 shows the traceback)",
    )
    monkeypatch.setenv("TRICE_DEBUG", "1")
    with pytest.raises(RuntimeError):
        trice("tool", "calculator", "1+1")


def test_an_adapter_knows_its_base_task_and_template(trice: Run, five: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Given a question, please answer it and you can use a WikiSearch for help.",
         "input": f"Who is {name}?", "output": f"WikiSearch({name})"}
        for name in ("Ada", "Bo", "Cy", "Di")
    ]  # fmt: skip
    data, adapter = write(tmp_path / "stage1.json", rows), tmp_path / "adapter"
    taught = ("--data", data, "--model", five, "--output", adapter, "--template", "alpaca", *LORA, *FAST)
    assert trice("train", "clone", *taught)[0] == 0
    assert json.loads((adapter / "trice.json").read_text())["task"] == "qa"

    questions = write(tmp_path / "q.json", [{"id": "q-1", "question": "Who is Ed?", "answer": "Ed"}])
    out = tmp_path / "responses.json"
    asked = ("--data", questions, "--output", out, "--adapter", adapter, "--max-new-tokens", "4", *FAST)
    assert trice("generate", *asked)[0] == 0
    (row,) = read(out)
    assert row["instruction"] == rows[0]["instruction"]
    settings = json.loads((tmp_path / ".responses.json.journal").read_text().splitlines()[0])["settings"]
    assert (settings["model"], settings["task"], settings["template"]) == (str(five), "qa", "alpaca")

    other = ("--task", "math", "--template", "plain", "--output", tmp_path / "math.json")
    assert trice("generate", *asked, *other)[0] == 0
    assert "calculator" in read(tmp_path / "math.json")[0]["instruction"]


def test_a_task_that_nobody_names_is_asked_for(trice: Run, five: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "Do it.", "input": f"{i}", "output": "5"} for i in range(4)]
    data, adapter = write(tmp_path / "stage1.json", rows), tmp_path / "adapter"
    taught = ("--data", data, "--model", five, "--output", adapter, *LORA, *FAST)
    assert trice("train", "clone", *taught)[0] == 0
    code, _, lines = trice("chat", "--adapter", adapter, *FAST)
    assert (code, complaint(lines)) == (2, f"--task is missing: {adapter} does not record its task; name it")
    assert trice("train", "clone", *taught, "--task", "mix")[0] == 0  # no other training
    code, _, lines = trice("generate", "--data", data, "--output", tmp_path / "x.json")
    assert (code, complaint(lines)) == (
        2, "missing option --model; name a model, or an --adapter, which records its base model",
    )  # fmt: skip
