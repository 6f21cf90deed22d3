"""Stages that ask an endpoint: what it may cost, what is asked again, and what a model of one's own is sent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in_server import StandIn

import trice
from tiny import command, read, sums, write
from trice.errors import InputError, TriceError
from trice.formats.prompt import load_template
from trice.models.budget import Budget
from trice.models.endpoint import Endpoint
from trice.stages.evaluate import evaluate
from trice.stages.generate import generate
from trice.stages.label import label
from trice.stages.model_spec import ModelSpec
from trice.stages.teachers import EndpointTeacher, load_teacher_prompts
from trice.storage.row_state import read_state
from trice.tasks import Tasks
from trice.tools.passage_index import Passage, build_index


def add(message: str) -> str:
    return "calculator({}+{})".format(*re.findall(r"(\d+) and (\d+)\?", message)[-1])


def test_a_budget_ends_a_command_and_a_higher_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = sums(tmp_path / "S.json", 20), tmp_path / "math_gpt_response.json"
    with StandIn(add) as server:
        words = ["collect", "--origin", "gpt", "--data", data, "--output", tmp_path]
        words += ["--endpoint", server.url, "--model", "m"]
        code, _, lines = command(capsys, *words, "endpoint.max_requests=8")
        assert code == 1
        assert lines[-1] == (
            "trice: the budget is spent (max_requests 8; so far 8 requests, 104 tokens); "
            "8 of 20 requests were answered and are saved: run again with a higher one to continue"
        )
        code, _, lines = command(capsys, *words, "endpoint.max_requests=8")
        assert "so far 8 requests, 104 tokens); 0 of 12 requests were answered" in lines[-1]
        assert len(server.seen) == 8
        state = read_state(output)
        assert state is not None
        assert state.spent == {"requests": 8, "prompt_tokens": 80, "completion_tokens": 24}
        code, out, _ = command(capsys, *words, "endpoint.max_requests=20")
        assert (code, out) == (0, f"20 responses in {output}\n")
        assert set(server.paid.values()) == {1}
    assert [row["response"] for row in read(output)] == [f"calculator({i}+7)" for i in range(20)]
    assert "spent" not in output.read_text()


def test_labels_keep_a_budget_too(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "S.json", 9), tmp_path / "out.json"
    prompts = load_teacher_prompts(Tasks("math"))

    def teacher(requests: int) -> EndpointTeacher:
        return EndpointTeacher(Endpoint(server.url, "m", budget=Budget(max_requests=requests)), prompts)

    with StandIn(add) as server:
        with pytest.raises(TriceError, match="max_requests 4; so far 4 requests, 52 tokens"):
            label(data, output, Tasks("math"), teacher(4))
        assert label(data, output, Tasks("math"), teacher(9)).kept == 9
        assert label(data, output, Tasks("math"), teacher(9)).kept == 9  # it is finished: nothing is paid
        assert len(server.seen) == 9


RUN = """
import sys
from pathlib import Path
from trice.models.endpoint import Endpoint
from trice.stages.generate import generate
from trice.stages.label import label
from trice.stages.model_spec import ModelSpec
from trice.stages.teachers import EndpointTeacher, load_teacher_prompts
from trice.tasks import Tasks
stage, url, data, output = sys.argv[1:]
tasks, endpoint = Tasks("math"), Endpoint(url, "m")
if stage == "label":
    label(Path(data), Path(output), tasks, EndpointTeacher(endpoint, load_teacher_prompts(tasks)))
else:
    generate(Path(data), Path(output), tasks, ModelSpec("m", client=endpoint))
"""


@pytest.mark.parametrize("stage", ["label", "generate"])
def test_what_failed_requests_cost_survives_a_kill(tmp_path: Path, stage: str) -> None:
    """The only question fails twice, and the process is killed in the third attempt, before any reply."""
    data, output = sums(tmp_path / "S.json", 1), tmp_path / "out.json"
    environment = os.environ | {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
    with StandIn(add, script={"and 7": ["500", "500", "hang"], "plus 7": ["500", "500", "hang"]}) as server:
        words = [sys.executable, "-c", RUN, stage, server.url, str(data), str(output)]
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.seen) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert len(server.seen) == 3
        state = read_state(output)
        assert state is not None
        assert state.spent == {"requests": 2, "prompt_tokens": 0, "completion_tokens": 0}
        subprocess.run(words, env=environment, stderr=subprocess.DEVNULL, check=True, timeout=60)
    state = read_state(output)
    assert state is not None
    assert state.spent == {"requests": 3, "prompt_tokens": 10, "completion_tokens": 3}


def test_a_question_that_failed_is_asked_again_where_that_is_wanted(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "S.json", 4), tmp_path / "out.json"
    with StandIn(add, script={"2 and": ["500"]}) as server:
        spec = ModelSpec("m", client=Endpoint(server.url, "m", attempts=1))
        assert [row.id for row in generate(data, output, Tasks("math"), spec)] == ["S_0", "S_1", "S_3"]
        assert len(generate(data, output, Tasks("math"), spec)) == 3
        assert len(server.seen) == 4
        assert len(generate(data, output, Tasks("math"), spec, retry=True)) == 4
        assert len(server.seen) == 5
    assert [row["id"] for row in read(output)] == ["S_0", "S_1", "S_2", "S_3"]


def test_a_question_that_is_there_twice_is_not_paid(tmp_path: Path) -> None:
    row = {"id": "S_1", "question": "What is 1 and 7?", "answer": "8"}
    data = write(tmp_path / "in.json", [row, row])
    with StandIn(add) as server, pytest.raises(InputError, match=rf"^{data}:2: field 'id': .*{data}:1 too"):
        generate(data, tmp_path / "out.json", Tasks("math"), ModelSpec("m", client=Endpoint(server.url, "m")))
    assert not server.seen


def test_a_second_turn_that_failed_is_asked_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    passages = [Passage("Zembla", "Its capital is Onhava."), Passage("Ruritania", "It has 5 castles.")]
    build_index(passages, tmp_path / "index")
    rows = [
        {"id": "Q_1", "input": "capital?", "answer": "Onhava", "response": "WikiSearch(Zembla)"},
        {"id": "Q_2", "input": "castles?", "answer": "5", "response": "WikiSearch(Ruritania)"},
    ]
    data, tools = write(tmp_path / "in.json", rows), {"WikiSearch": str(tmp_path / "index")}

    def reads(message: str) -> str:
        return "Onhava" if "capital is" in message else "5"

    def turn() -> Any:
        spec = ModelSpec("m", client=Endpoint(server.url, "m", attempts=1))
        return evaluate(data, tmp_path / "out.json", Tasks("qa", tools), spec=spec)

    with StandIn(reads, script={"castles": ["500"]}) as server:
        with pytest.raises(TriceError, match="1 of 2 questions got no second turn; run the same command"):
            turn()
        assert turn()["total"]["accuracy"].count == 2
        assert len(server.seen) == 3
    assert {seen.body["messages"][0]["content"] for seen in server.seen} == {
        "Given a context, please answer the question. Reply with the answer alone, without any call."
    }


def test_a_model_of_ones_own_is_prompted_as_it_was_trained_and_its_ids_are_kept(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    name = str(tiny_model("llama"))
    tokenizer = AutoTokenizer.from_pretrained(name)

    def apart(text: str) -> list[int]:
        """One token a character, which the tokenizer would join."""
        return [tokenizer(each, add_special_tokens=False)["input_ids"][0] for each in text]

    data, output = sums(tmp_path / "S.json", 1), tmp_path / "out.json"
    with StandIn(lambda _: "What is", tokens=apart) as server:
        client = Endpoint(server.url, "m", api="completions", tokenizer=name)
        spec = ModelSpec("m", client=client, tool_choice="required")
        generate(data, output, Tasks("math"), spec)
    assert tokenizer.decode(server.seen[0].body["prompt"]).endswith(
        "Question: What is 0 and 7?\nAnswer: calculator("
    )
    [row] = read(output)
    assert row["response"] == "calculator(What is"
    begun = load_template("plain").encode_response(tokenizer, "calculator(", end=False)
    assert row["tokens"] == begun + apart("What is")
