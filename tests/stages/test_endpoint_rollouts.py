"""Native tool calls of a model behind an endpoint: what is sent, executed, stored and resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in_server import StandIn

import trice
from tiny import command, for_tool_calls, killed, read, sums, training, tree, write
from trice.errors import InputError, ToolUnavailable, TriceError
from trice.formats.prompt import Example, prompt_template
from trice.models.budget import Budget, ToolChat, maximum_cost
from trice.models.endpoint import Endpoint
from trice.models.sampling import Sampling
from trice.stages.chat_responses import prompt_messages
from trice.stages.endpoint_rollouts import NOT_SHOWN, api_messages
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.tasks.instructions import MATH as INSTRUCTION
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema
from trice.types import Outcome, Question, Response


def call(*expressions: str, name: str = "calculator") -> dict[str, Any]:
    """An assistant message with calls."""
    functions = [{"name": name, "arguments": json.dumps({"expression": each})} for each in expressions]
    calls = [{"id": f"x{i}", "type": "function", "function": each} for i, each in enumerate(functions)]
    return {"content": None, "tool_calls": calls}


def model(content: str) -> str | dict[str, Any]:
    """Adds by the calculator, doubles the sum by another call, and says what it is."""
    if asked := re.search(r"(\d+) and (\d+)", content):
        return call(f"{asked[1]}+{asked[2]}")
    return f"It is {content}." if int(content) > 20 else call(f"{content}*10")


def spec(url: str, requests: int | None = None, **options: Any) -> ModelSpec:
    client = Endpoint(url, "m", budget=Budget(max_requests=requests), attempts=2)
    return ModelSpec("m", template=prompt_template("chat"), client=client, **options)


def answered(folder: Path, url: str, requests: int | None = None, **options: Any) -> list[Response]:
    data = sums(folder / "S.json", 1, lambda i: str(10 * (i + 7)))
    return generate(data, folder / "out.json", Tasks("math"), spec(url, requests, **options))


def test_calls_are_executed_and_their_results_sent_back(tmp_path: Path) -> None:
    with StandIn(model) as server:
        [row] = answered(tmp_path, server.url)
    assert (row.outcome, row.prediction) == (Outcome.CALLED, "70")
    assert [message.role for message in row.completion or []] == ["assistant", "tool"] * 2 + ["assistant"]
    assert [each.arguments["expression"] for each in row.calls] == ["0+7", "7*10"]
    assert (row.execution and row.execution.output, row.tokens, row.loss) == ("7", None, None)
    assert row.response.endswith("</tool_call>\nIt is 70.")
    first, second, third = (seen.body for seen in server.seen)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["calculator"]
    assert "tool_choice" not in first
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    *_, written, result = second["messages"]
    assert written["tool_calls"][0]["function"]["arguments"] == '{"expression": "0+7"}'
    assert result == {"role": "tool", "content": "7", "tool_call_id": written["tool_calls"][0]["id"]}
    ids = [each["id"] for message in third["messages"] for each in message.get("tool_calls", ())]
    assert len(set(ids)) == 2


def test_the_commands_and_the_api_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = sums(tmp_path / "S.json", 2, lambda i: str(10 * (i + 7)))
    with StandIn(model) as server:
        at = ["--endpoint", server.url, "--model", "m", "--format", "chat"]
        out, judged = tmp_path / "out.json", tmp_path / "judged.json"
        code, _, lines = command(capsys, "generate", "--data", data, "--output", out, *at)
        assert code == 0, lines
        assert command(capsys, "evaluate", "--data", out, "--output", judged)[0] == 0
        assert [row["correct"] for row in read(judged)] == [True, True]
        answer = trice.endpoint(server.url, "m", format="chat").ask("What is 4 and 9?", "math")
        assert (answer.text, answer.messages[-2]["content"]) == ("It is 130.", "130")
        found = trice.split(trice.endpoint(server.url, "m", format="chat"), read(data), "math", samples=1)
    assert [len(rows) for rows in found] == [0, 2]  # tools are withheld, so a call leads nowhere


@pytest.mark.parametrize("tool_choice", ["none", "required"])
def test_a_tool_choice_is_sent(tool_choice: str, tmp_path: Path) -> None:
    with StandIn(lambda content: "7" if tool_choice == "none" else model(content)) as server:
        answered(tmp_path, server.url, tool_choice=tool_choice)
    sent = [seen.body.get("tool_choice") for seen in server.seen]
    assert sent == ([None] if tool_choice == "none" else ["required", None, None])
    assert ("tools" in server.seen[0].body) == (tool_choice == "required")


def test_every_sample_has_its_own_conversation(tmp_path: Path) -> None:
    with StandIn(model) as server:
        rows = answered(tmp_path, server.url, sampling=Sampling(temperature=1.0, samples=3, seed=5))
    assert [(row.sample, row.prediction) for row in rows] == [(0, "70"), (1, "70"), (2, "70")]
    bodies = [seen.body for seen in server.seen]
    assert bodies[0]["n"] == 3
    assert sorted(body["seed"] for body in bodies[1:]) == [5, 5, 6, 6, 7, 7]


def test_what_a_model_may_do_wrong(tmp_path: Path) -> None:
    unknown, empty = call("1", name="radar"), {"content": None}
    torn = {"tool_calls": [{"function": {"name": "calculator", "arguments": '{"expression'}}]}
    replies = {"0 and": unknown, "1 and": torn, "2 and": empty, "Error: there is no tool": "None."}

    def answer(content: str) -> str | dict[str, Any]:
        return next(reply for text, reply in replies.items() if text in content)

    with StandIn(answer) as server:
        rows = generate(sums(tmp_path / "S.json", 3), tmp_path / "out.json", Tasks("math"), spec(server.url))
    assert [row.outcome for row in rows] == [Outcome.CALLED, Outcome.MALFORMED, Outcome.ANSWERED]
    assert rows[0].execution
    assert rows[0].execution.error == "there is no tool 'radar'; the tools are: calculator"
    assert (
        rows[1].reason
        == "the reply holds a tool call without a name, or whose arguments are not a JSON object"
    )
    assert '"{\\"expression"' in rows[1].response
    assert (rows[2].response, rows[2].prediction) == ("", None)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("", "{}", "the reply holds a tool call without a name, or whose arguments are not a JSON object"),
        ("calculator", '{"expression": NaN}', "the arguments of 'calculator' have a number that is not finite"),
        ("calculator", '{"expression": ' + "[" * 60 + "]" * 60 + "}",
         "the arguments of 'calculator' are nested more than 50 levels deep"),
        ("calculator", '{"expression": "' + "1+" * 60_000 + '"}',
         "the tool calls in the reply have more than 100000 characters"),
    ],
)  # fmt: skip
def test_a_call_that_no_file_can_hold_is_malformed(
    tmp_path: Path, name: str, arguments: str, reason: str
) -> None:
    torn = {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    with StandIn(lambda content: torn) as server:
        [row] = answered(tmp_path, server.url)
    assert (row.outcome, row.reason, row.prediction, row.call) == (Outcome.MALFORMED, reason, None, None)
    assert read(tmp_path / "out.json")[0]["reason"] == reason


def test_no_turn_is_paid_again(tmp_path: Path) -> None:
    with StandIn(model) as server:
        for requests in (1, 2):
            with pytest.raises(TriceError, match=f"max_requests {requests}; so far {requests} requests"):
                answered(tmp_path, server.url, requests)
            assert len(server.seen) == requests
        with pytest.raises(InputError, match="was begun with other settings"):
            answered(tmp_path, server.url, tool_choice="required")
        [row] = answered(tmp_path, server.url, 3)
        assert answered(tmp_path, server.url) == [row]  # it is finished
    assert row.prediction == "70"
    assert len(server.seen) == 3


def test_a_conversation_that_failed_continues_where_it_failed(tmp_path: Path) -> None:
    data, output = sums(tmp_path / "S.json", 1), tmp_path / "out.json"
    with StandIn(model, script={"70": ["500", "500"]}) as server:
        assert generate(data, output, Tasks("math"), spec(server.url)) == []
        assert len(server.seen) == 4
        assert len(generate(data, output, Tasks("math"), spec(server.url), retry=True)) == 1
        assert len(server.seen) == 5


@trice.tool
def door(expression: str) -> str:
    """Open a door."""
    raise ToolUnavailable("the door is locked")


def test_a_tool_that_cannot_run_stops_the_stage(tmp_path: Path) -> None:
    data, task = sums(tmp_path / "S.json", 1), trice.Task("doors", "Open it.", tools=[door])
    with StandIn(lambda _: call("x", name="door")) as server:
        for _ in range(2):  # the second time no request is sent
            with pytest.raises(ToolUnavailable, match="the door is locked"):
                generate(data, tmp_path / "out.json", Tasks(task), spec(server.url))
            assert len(server.seen) == 1


def test_killed_anywhere_it_ends_the_same(tmp_path: Path) -> None:
    with StandIn(model) as server:
        answered(tmp_path / "whole", server.url)
        expected, kills, repeated = tree(tmp_path / "whole"), 0, []
        for point in range(5, 14):
            folder, before = tmp_path / str(point), len(server.seen)
            if not killed(point, folder, answered, folder, server.url):
                break
            answered(folder, server.url)
            assert tree(folder) == expected
            kills += 1
            repeated.append(len(server.seen) - before - 3)
    assert kills > 3
    assert not any(repeated)


def test_an_example_with_a_call_gets_the_result_that_servers_require() -> None:
    asked = prompt_messages(
        Question(id="a", instruction="Solve.", input="5*5?"),
        [Example("2*3?", "calculator(2*3)")],
        [Calculator()],
    )
    sent = api_messages(asked)
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "user"]
    assert (sent[3]["content"], sent[3]["tool_call_id"]) == (NOT_SHOWN, sent[2]["tool_calls"][0]["id"])


def test_calls_and_tools_count_as_tokens() -> None:
    chat = ToolChat([{"role": "assistant", "content": "", "tool_calls": [{"x" * 300: 1}]}], [{"y" * 600: 1}])
    assert 300 < maximum_cost(chat, 1, 5).prompt_tokens < 350


def test_candidates_of_an_endpoint_are_ranked_and_train(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    schemas = [function_schema(Calculator())]
    base = for_tool_calls(tiny_model("llama"), tmp_path / "base", INSTRUCTION, schemas)
    rows: list[dict[str, Any]] = [
        {"id": f"S_{i}", "input": f"What is {i} and 7?", "output": f"{i + 7}", "answer": f"{10 * (i + 7)}"}
        for i in range(2)
    ]
    for row in rows:
        row |= {"instruction": INSTRUCTION, "completion": [{"role": "assistant", "content": row["output"]}]}
    data = write(tmp_path / "S.json", rows)
    folder, ranked = tmp_path / "candidates", tmp_path / "ranked.json"
    with StandIn(model) as server:
        at = ["--endpoint", server.url, "--model", "m", "--format", "chat"]
        words = ["collect", "--data", data, "--output", folder, "--origin", "gpt", *at]
        assert command(capsys, *words)[0] == 0
    assert command(capsys, "collect", "--data", data, "--output", folder, "--origin", "gold")[0] == 0
    words = ["score", "--data", folder, "--output", ranked]
    code, _, lines = command(capsys, *words)
    assert code == 0, lines
    candidates = [{each["origin"]: each["correct"] for each in row["candidates"]} for row in read(ranked)]
    assert candidates == [{"gold": False, "gpt": True}] * 2
    run = [*training("rlef", base, ranked, tmp_path / "run"), "--format", "chat", "max_length=2000"]
    code, _, lines = command(capsys, *run)
    assert code == 0, lines


def test_what_is_not_supported_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "in.json", [{"id": "a", "question": "1?", "answer": "1"}])
    words = [
        "generate",
        "--data",
        data,
        "--output",
        tmp_path / "out.json",
        "--model",
        "m",
        "--format",
        "chat",
    ]
    for options, line in {
        (
            "--endpoint",
            "http://127.0.0.1:9/v1",
            "--endpoint.api",
            "completions",
        ): "needs an endpoint with api 'chat'",
        ("--engine", "vllm"): "does not support engine 'vllm'; start vLLM's server with the merged model",
    }.items():
        code, _, lines = command(capsys, *words, *options)
        assert code == 2
        assert f"trice: format 'chat' {line}" in lines[-1]
