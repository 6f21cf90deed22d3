"""Tools of MCP servers: our server over both transports, its failures, and real servers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import trice
from tiny import command, read, write
from trice.errors import InputError, ToolUnavailable
from trice.formats import paper
from trice.recipes.inputs import input_settings
from trice.recipes.recipe import load_recipe
from trice.tasks import Tasks
from trice.tasks.task import Task
from trice.tools import Tool
from trice.tools.call_text import function_schema, write_call
from trice.tools.executor import run_all
from trice.tools.mcp import result_text
from trice.tools.worker_pool import run
from trice.types import Execution, ToolCall

pytest.importorskip("mcp", reason="needs the package mcp")
FILE = Path(__file__).parent / "mcp_test_server.py"
SERVER = f"python {shlex.quote(str(FILE))}"
Tools = dict[str, Tool]


def tools_of(server: str, **options: Any) -> Tools:
    return {tool.name: tool for tool in trice.mcp(server, **options)}


def call(tool: Tool, text: str) -> Execution:
    return run(tool, ToolCall(name=tool.name, arguments=tool.parse(text)))


class HttpServer:
    """The test server in a process of its own, on one port that is kept."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def start(self, **environment: str) -> None:
        words = [sys.executable, str(FILE), str(self.port)]
        self.process = subprocess.Popen(words, env=os.environ | environment)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    server = HttpServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["stdio", "http"])
def tools(request: pytest.FixtureRequest) -> Tools:
    url = request.getfixturevalue("http").url if request.param == "http" else SERVER
    return tools_of(url)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))


# Calls


def test_names_descriptions_and_schemas_are_the_servers(tools: Tools) -> None:
    assert list(tools) == ["add", "order", "wait", "fail", "die", "picture", "secret", "long"]
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].schema["properties"]["a"] == {"title": "A", "type": "integer"}
    assert tools["add"].backend.startswith("test server 1.0 (MCP server '")
    assert function_schema(tools["add"])["function"]["parameters"]["required"] == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "output"),
    [
        ("add", "1, 2", "3"),
        ("add", "a=40", "41"),
        ("add", '{"a": 1, "b": -1}', "0"),
        ("order", '[{"name": "ink", "count": 2}, {"name": "pen"}], red', "3 red None"),
        ("order", 'items=[{"name": "ink"}], colour="blue", limit=5', "1 blue 5"),
        ("order", '{"items": [], "colour": "red", "limit": null}', "0 red None"),
        ("picture", "", "a picture:\n[image image/png, not included]"),
        ("long", "", "x" * 10_000),
    ],
)
def test_calls(tools: Tools, name: str, text: str, output: str) -> None:
    assert call(tools[name], text).output == output


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("add", "", "argument 'a' is missing"),
        ("add", "one", "argument 'a': expected a whole number, got \"one\""),
        ("add", "1, c=2", "add has no argument 'c'; it has a, b"),
        ("add", "1, 2, 3", "more than 2 arguments"),
        ("order", "[], green", "argument 'colour': expected one of \"red\", \"blue\", got \"green\""),
        ("order", '[{"name": "pen", "count": "x"}], red', "argument 'items[0].count': expected a whole number"),
        ("order", '[{"count": 1}], red', "argument 'items[0].name' is missing"),
        ("order", "[], red, limit=many", "argument 'limit': "),
        ("long", "5", "long takes no argument"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_malformed(name: str, text: str, reason: str) -> None:
    tool = tools_of(SERVER)[name]
    with pytest.raises(ValueError, match="^" + reason.replace("[", r"\[").replace("'", "'")):
        tool.parse(text)
    found = paper.parse(f"{name}({text})", {name: tool.parse})
    assert (found.outcome, found.call) == (trice.Outcome.MALFORMED, None)


def test_a_call_is_written_and_read_back() -> None:
    tools = tools_of(SERVER)
    for name, arguments in {
        "add": {"a": 1, "b": 2},
        "order": {"items": [{"name": "ink, red", "count": 2}], "colour": "red"},
        "picture": {},
    }.items():
        assert paper.parse(write_call(tools[name], arguments), {name: tools[name].parse}).call == ToolCall(
            name=name, arguments=arguments
        )


def test_a_tool_that_fails_or_takes_too_long_is_data(http: HttpServer) -> None:
    for server in (SERVER, http.url):
        tools = tools_of(server, time_limit=0.5)
        assert call(tools["fail"], "ink").error == "Error executing tool fail: no ink"
        slow = call(tools["wait"], "5")
        assert (slow.error, slow.seconds < 4) == ("no result within 0.5 seconds", True)
        assert call(tools["add"], "1").output == "2"


def test_calls_run_in_parallel(tools: Tools) -> None:
    calls = [(tools["wait"], ToolCall(name="wait", arguments={"seconds": 0.5 + i / 100})) for i in range(8)]
    start = time.monotonic()
    assert {each.output for each in run_all(calls)} == {"waited"}
    with ThreadPoolExecutor(8) as pool:
        assert {each.output for each in pool.map(lambda pair: run(*pair), calls)} == {"waited"}
    assert time.monotonic() - start < 4  # one after the other they take more than 8 seconds


def test_other_processes_use_connections_of_their_own(http: HttpServer) -> None:
    tool = tools_of(http.url)["add"]
    with multiprocessing.get_context("fork").Pool(1) as pool:  # which pickles the tool
        assert pool.apply(call, (tool, "1, 2")).output == "3"


def test_content_that_is_not_text_is_named() -> None:
    from mcp_types import CallToolResult

    def text(*blocks: dict[str, Any], **more: Any) -> str:
        return result_text(CallToolResult.model_validate({"content": blocks, **more}))

    resource = {"type": "resource", "resource": {"uri": "demo://a", "mimeType": "text/csv", "text": "1,2"}}
    assert text({"type": "text", "text": "a"}, resource) == "a\n[resource demo://a text/csv, not included]"
    assert text(structuredContent={"a": "é"}) == '{"a": "é"}'
    assert text({"type": "text", "text": "a"}, structuredContent={"a": 1}) == "a"
    assert text() == ""


# Servers that cannot run


@pytest.mark.parametrize(
    ("server", "options", "error", "line"),
    [
        ("no-such-command", {}, InputError, "MCP server 'no-such-command': cannot be started"),
        ("python -m no_such_module", {}, ToolUnavailable, "ended; its last lines are: .*No module named"),
        (f"{SERVER} mute", {"connect_limit": 1}, ToolUnavailable, "did not answer within 1 seconds"),
        ("http://127.0.0.1:9/mcp", {}, ToolUnavailable, "'http://127.0.0.1:9/mcp': cannot be reached"),
        ("http://me:hunter2@127.0.0.1/mcp", {}, InputError, "the URL contains a password"),
        ("http://127.0.0.1:9/mcp", {"env": ["HOME"]}, InputError, "'env' is for a command"),
        (SERVER, {"token_env": "HOME"}, InputError, "'token_env' is for a URL"),
        (SERVER, {"env": ["TEST_UNSET"]}, InputError, "environment variable TEST_UNSET is not set"),
        (SERVER, {"env": ["sk-hunter2"]}, InputError, "environment variable that is named is not set"),
        (SERVER, {"time_limit": 0}, InputError, "key 'time_limit': Input should be greater than 0"),
        ("'python", {}, InputError, "the command has an open quote"),
        ("", {}, InputError, "the command is empty"),
    ],
)
def test_a_server_that_cannot_run(
    server: str, options: dict[str, Any], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line) as raised:
        trice.mcp(server, **options)
    assert type(raised.value) is error
    assert "hunter2" not in str(raised.value)


def test_a_server_that_ends_is_started_again_once(tmp_path: Path) -> None:
    assert call(tools_of(SERVER)["die"], str(tmp_path / "dead")).output == "alive"


def test_an_http_server_that_is_started_again() -> None:
    server = HttpServer()
    server.start()
    add = tools_of(server.url)["add"]
    server.stop()
    server.start(TEST_VERSION="2.0")
    with pytest.raises(ToolUnavailable, match="changed since it was connected"):
        call(add, "1")
    server.stop()
    with pytest.raises(ToolUnavailable, match="cannot be reached"):
        call(add, "1")
    server.start()
    assert call(add, "1").output == "2"
    server.stop()


# Secrets


def test_a_command_gets_only_the_environment_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SECRET", "hunter2-hunter2")
    monkeypatch.setenv("TEST_OTHER", "other")
    assert call(tools_of(SERVER)["secret"], "").output == "TEST_SECRET=None TEST_OTHER=None"
    named = call(tools_of(SERVER, env=["TEST_OTHER"])["secret"], "")
    assert named.output == "TEST_SECRET=None TEST_OTHER=other"


def test_a_secret_in_the_last_lines_of_a_server_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SECRET", "hunter2-hunter2")
    server = """python -c 'import os, sys; sys.exit("bad key " + os.environ["TEST_SECRET"])'"""
    with pytest.raises(ToolUnavailable, match=r"ended; its last lines are: bad key \[TEST_SECRET\]$"):
        trice.mcp(server, env=["TEST_SECRET"])


def test_a_token_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HttpServer()
    server.start(TEST_SECRET="hunter2-hunter2")
    try:
        with pytest.raises(ToolUnavailable, match=r"HTTP status 401; name .* as token_env"):
            trice.mcp(server.url)
        monkeypatch.setenv("MY_TOKEN", "wrong-token")
        with pytest.raises(ToolUnavailable, match="HTTP status 401") as raised:
            trice.mcp(server.url, token_env="MY_TOKEN")
        assert "wrong-token" not in str(raised.value)
        monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
        tool = tools_of(server.url, token_env="MY_TOKEN")["secret"]
        assert call(tool, "").output == "TEST_SECRET=[MY_TOKEN] TEST_OTHER=None"
        assert b"hunter2" not in pickle.dumps(tool)
    finally:
        server.stop()


# Tasks, recipes and commands


def task_file(folder: Path, tools: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(f"name: own\ninstruction: Answer; add adds.\ntools: [{tools}]\nanswers: numbers\n")
    return path


def rows(path: Path, *responses: str) -> Path:
    given = [
        {"id": f"a_{n}", "input": f"Is it {n}?", "answer": "7", "response": text}
        for n, text in enumerate(responses)
    ]
    return write(path, given)


def test_a_task_of_a_servers_tools_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = task_file(tmp_path, f'calculator, {{mcp: "{SERVER}"}}')
    data = rows(tmp_path / "in.json", "add(3, 4)", "It is calculator(3+4).", "add(x)", "fail(it)", "8")
    words = ["evaluate", "--task", task, "--data", data, "--output", tmp_path / "out.json"]
    assert command(capsys, *words)[0] == 0
    graded = read(tmp_path / "out.json")
    assert [row["outcome"] for row in graded] == ["called", "called", "malformed", "called", "answered"]
    assert [row["correct"] for row in graded] == [True, True, False, False, False]
    assert graded[0]["call"] == {"name": "add", "arguments": {"a": 3, "b": 4}}
    assert graded[3]["execution"] == {"error": "Error executing tool fail: no it"}


def test_an_expression_that_is_a_whole_call_is_a_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_file(tmp_path, f'{{mcp: "{SERVER}"}}')
    questions = [
        {"id": f"a_{i}", "input": f"Is it {i}?", "answer": "7", "expression": expression}
        for i, expression in enumerate(["add(3, 4)", "3, 4", "order([], red)"])
    ]
    data = write(tmp_path / "q.json", questions)
    words = [
        "label",
        "--task",
        task,
        "--teacher",
        "annotations",
        "--data",
        data,
        "--output",
        tmp_path / "l.json",
    ]
    assert command(capsys, *words)[0] == 0
    assert [row["output"] for row in read(tmp_path / "l.json")] == ["add(3, 4)", "add(3, 4)"]


def test_a_server_that_ends_stops_the_stage_and_nothing_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_file(tmp_path, f'{{mcp: "{SERVER}"}}')
    data = rows(tmp_path / "in.json", "add(3, 4)", "die()")
    words = ["evaluate", "--task", task, "--data", data, "--output", tmp_path / "out.json"]
    code, _, told = command(capsys, *words)
    assert (code, "ended; its last lines are: the engine is on fire" in told[-1]) == (1, True)
    assert not (tmp_path / "out.json").exists()
    rows(data, "add(3, 4)")
    assert command(capsys, *words)[0] == 0


def test_a_model_answers_with_the_tools_of_a_server(tiny_model: Callable[[str], Path]) -> None:
    task = Task("sums", "Add.", trice.mcp(SERVER), answers="numbers")
    model = trice.load(str(tiny_model("llama")), device="cpu", dtype="float32")
    result = trice.evaluate({"base": model}, [{"question": "3 and 4?", "answer": "7"}], task)
    assert "base" in str(result)


def test_the_server_is_part_of_a_tasks_identity(tmp_path: Path, http: HttpServer) -> None:
    path = task_file(tmp_path, f'{{mcp: "{SERVER}"}}')
    named = Tasks(str(path)).identity
    assert isinstance(named, dict)
    assert named["task"] == str(path)
    assert [tool[0] for tool in named["mcp"]] == list(tools_of(SERVER))
    assert "test server 1.0" in str(named)
    assert (
        Tasks(Task("own", "Add.", trice.mcp(SERVER))).identity
        != Tasks(Task("own", "Add.", trice.mcp(http.url))).identity
    )


def test_a_recipe_adds_the_tools_of_a_server_to_its_task(tmp_path: Path) -> None:
    recipe = {"name": "own", "model": "gemma-3-270m", "task": "math", "data": ["starter"]}

    def loaded(*tools: dict[str, Any]) -> Any:
        path = write(tmp_path / "own.yaml", [recipe | {"tools": list(tools)}])
        return load_recipe(str(path))

    tools = loaded({"WikiSearch": "passages.index"}, {"mcp": SERVER, "time_limit": 5}).tools
    found = Tasks("math", tools[1:])
    offered = [tool.name for tool in found.of(trice.Question(id="a", input="b")).tools]
    assert offered == ["calculator", *tools_of(SERVER)]
    assert "test server 1.0" in str(found.identity)
    assert input_settings(loaded({"mcp": SERVER}))["task"] == Tasks("math", {"mcp": SERVER}).identity
    mixed = Tasks("mix", {"mcp": SERVER})
    names = [tool.name for tool in mixed.of(trice.Question(id="a", input="b", task="qa")).tools]
    assert sorted(names) == sorted(["calculator", "WikiSearch", "QA", "translator", *tools_of(SERVER)])
    with pytest.raises(InputError, match="key 'tools': MCP server: unknown key 'envv'; choose one of mcp"):
        loaded({"mcp": SERVER, "envv": ["A"]})
    with pytest.raises(InputError, match="'math': two tools are named 'add'"):
        Tasks("math", [{"mcp": SERVER}, {"mcp": SERVER, "time_limit": 5}])


def test_the_command_line(capsys: pytest.CaptureFixture[str], http: HttpServer) -> None:
    assert command(capsys, "tool", "add", '{"a": 1, "b": 2}', "--mcp", SERVER)[:2] == (0, "3\n")
    assert command(capsys, "tool", "add", "1, 2", "--mcp", http.url)[:2] == (0, "3\n")
    assert command(capsys, "tool", "picture", "--mcp", SERVER)[1].startswith("a picture:\n")
    code, listed, _ = command(capsys, "tool", "--mcp", SERVER)
    assert (code, listed.startswith("add(a, b)\n  Add two numbers.\n  a (integer)\n")) == (0, True)
    assert '  colour ("red" or "blue")\n  limit (any, optional)\n' in listed
    for words, code, line in [
        (["mul", "1", "--mcp", SERVER], 2, "unknown tool 'mul'; the server has add, order"),
        (["add", "x", "--mcp", SERVER], 2, "add: argument 'a': expected a whole number"),
        (["fail", "it", "--mcp", SERVER], 1, "fail: Error executing tool fail: no it"),
        (["add", "1", "--mcp", SERVER, "--source", "x"], 2, "--source does not apply to --mcp"),
        (["calculator", "1", "--env", "HOME"], 2, "--env does not apply without --mcp"),
        (["calculator"], 2, "missing argument"),
        ([], 2, "missing argument"),
    ]:
        found, _, told = command(capsys, "tool", *words)
        assert (found, line in told[-1]) == (code, True), told


# Real servers


def test_the_time_server(capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("mcp_server_time") is None:
        pytest.skip("needs mcp-server-time")
    arguments = '{"source_timezone": "Europe/Berlin", "time": "16:30", "target_timezone": "Asia/Tokyo"}'
    words = ["tool", "convert_time", arguments, "--mcp", "python -m mcp_server_time"]
    code, output, _ = command(capsys, *words)
    assert (code, "T16:30:00+0" in output, '"timezone": "Asia/Tokyo"' in output) == (0, True, True)
    convert = tools_of("python -m mcp_server_time")["convert_time"]
    assert "Mars" in (call(convert, "Mars, 16:30, Asia/Tokyo").error or "")


def test_the_everything_server() -> None:
    if shutil.which("npx") is None:
        pytest.skip("needs npx of Node.js")
    package = "@modelcontextprotocol/server-everything"
    if subprocess.run(["npm", "view", package, "version"], capture_output=True, timeout=60).returncode:
        pytest.skip(f"npm has no {package}")
    tools = tools_of(f"npx -y {package}", connect_limit=120)
    assert call(tools["get-sum"], "1, 2").output == "The sum of 1 and 2 is 3."
    assert "[image image/png, not included]" in (call(tools["get-tiny-image"], "").output or "")
    assert "humidity" in (call(tools["get-structured-content"], "Chicago").output or "")
    found = paper.parse("get-sum(1, 2)", {name: tool.parse for name, tool in tools.items()})
    assert found.call == ToolCall(name="get-sum", arguments={"a": 1, "b": 2})
