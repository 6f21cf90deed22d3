"""`trice serve --format chat`: conversations, the client's tools and the server's, as the openai client meets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import serving_tools
from conversing import INSTRUCTION, PRICE, SYSTEM, conversing
from serving import ask, client, running, tool_task
from serving_tools import held as held

import trice
from tiny import command
from trice.models.continuous_batch import ContinuousBatch
from trice.server.model_registry import open_registry
from trice.server.schema import Refused, read_request
from trice.server.startup import Server

PRICES = {"chair": "7", "lamp": "9"}
NO_TOOLS: list[dict[str, Any]] = []


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversing(tiny_model("llama"), tmp_path_factory.mktemp("conversing"))


@pytest.fixture(scope="module")
def free(policy: Path) -> Iterator[Server]:
    """A server without a task."""
    with running(policy, task=None, format="chat") as server:
        yield server


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tool_task(tmp_path_factory.mktemp("task"), "serving_tools:stock")


@pytest.fixture(scope="module")
def shop(policy: Path, task: str) -> Iterator[Server]:
    """A server with the tool `stock`."""
    with running(policy, task=task, format="chat") as server:
        yield server


def send(server: Server, messages: Any, tools: list[dict[str, Any]] | None = None, **fields: Any) -> Any:
    """A chat completion of up to 60 tokens; a text is one user message."""
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    more = {"max_tokens": 60} | fields | ({"tools": tools} if tools else {})
    return ask(server, messages=messages, **more)


def joined(chunks: Any) -> tuple[dict[str, Any], str, Any]:
    """What a stream adds up to, as clients of OpenAI do it: the message, the finish reason and the usage."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    finish, usage = "", None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            message["content"] += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or []:
                if delta.index == len(message["tool_calls"]):
                    function = {"name": delta.function.name, "arguments": ""}
                    message["tool_calls"].append({"id": delta.id, "type": delta.type, "function": function})
                message["tool_calls"][delta.index]["function"]["arguments"] += delta.function.arguments or ""
    if not message["tool_calls"]:
        del message["tool_calls"]
    return message, finish, usage


def agent(server: Server, messages: list[Any], stream: bool) -> str:
    """The loop of an agent: call, execute on the client, send the result back, until there is an answer."""
    while True:
        if stream:
            message, finish, _ = joined(send(server, messages, [PRICE], stream=True))
            calls, content = message.get("tool_calls", []), message["content"]
        else:
            (choice,) = send(server, messages, [PRICE]).choices
            message, finish, content = choice.message, choice.finish_reason, choice.message.content
            calls = [call.model_dump() for call in message.tool_calls or []]
        messages.append(message)
        assert finish == ("tool_calls" if calls else "stop")
        if not calls:
            return str(content)
        for call in reversed(calls):  # results may come in any order
            product = json.loads(call["function"]["arguments"])["product"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": PRICES[product]})


@pytest.mark.parametrize("stream", [False, True])
def test_the_loop_of_an_agent_runs_unchanged(free: Server, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "chair?"}]
    assert agent(free, messages, stream) == "It costs 7."
    messages.append({"role": "user", "content": "lamp?"})
    assert agent(free, messages, stream) == "That is 9."
    assert len(messages) == 8
    assert agent(free, [{"role": "user", "content": "both?"}], stream) == "7 and 9."


def test_calls_of_a_client_are_returned(free: Server) -> None:
    answer = send(free, "both?", [PRICE])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [(call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("function", "price", '{"product": "chair"}'), ("function", "price", '{"product": "lamp"}'),
    ]  # fmt: skip
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert choice.message.trice["decision"] == "called"
    (one,) = send(free, "both?", [PRICE], parallel_tool_calls=False).choices
    assert [call.function.arguments for call in one.message.tool_calls] == ['{"product": "chair"}']
    with client(free).chat.completions.stream(
        model="conversing0", messages=[{"role": "user", "content": "chair?"}], tools=[PRICE], max_tokens=60
    ) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.message.tool_calls[0].function.arguments == '{"product": "chair"}'


@pytest.mark.parametrize("text", ["hello", "chair?", "both?", "bad?", "look?"])
def test_a_stream_adds_up_to_the_whole(free: Server, text: str) -> None:
    for fields in ({}, {"stop": ["you", "7"]}, {"max_tokens": 6}, {"tool_choice": "required"}):
        whole = send(free, text, [PRICE], **fields)
        message, finish, usage = joined(
            send(free, text, [PRICE], stream=True, stream_options={"include_usage": True}, **fields)
        )
        expected = whole.choices[0]
        assert message["content"] == (expected.message.content or "")
        assert [call["function"] for call in message.get("tool_calls", [])] == [
            call.function.model_dump() for call in expected.message.tool_calls or []
        ]
        assert (finish, usage) == (expected.finish_reason, whole.usage)


def test_a_system_prompt_of_several_lines_is_read(free: Server) -> None:
    system = {"role": "system", "content": SYSTEM}
    (choice,) = send(free, [system, {"role": "user", "content": "chair?"}], [PRICE]).choices
    assert choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls
    assert call.function.arguments == '{"product": "lamp"}'
    parts = [{"type": "text", "text": text} for text in ("cha", "ir?")]
    (same,) = send(free, [system, {"role": "user", "content": parts}], [PRICE]).choices
    assert same.message.tool_calls[0].function == call.function


def test_without_tools_it_is_a_conversation(free: Server) -> None:
    messages = [{"role": "user", "content": "hello"}]
    (choice,) = send(free, messages).choices
    assert (choice.message.content, choice.message.tool_calls) == ("Who is there?", None)
    messages += [{"role": "assistant", "content": "Who is there?"}, {"role": "user", "content": "me"}]
    assert send(free, messages).choices[0].message.content == "Ah."
    (task,) = client(free).get("/tasks", cast_to=object)["data"]
    assert (task["id"], task["instruction"], task["tools"]) == ("chat", "", [])


def test_tool_choice(free: Server) -> None:
    def chosen(text: str, choice: Any) -> Any:
        return send(free, text, [PRICE], tool_choice=choice).choices[0]

    assert chosen("hello", "none").message.content == "Who is there?"  # no tool is offered
    assert chosen("chair?", "none").message.tool_calls is None
    assert chosen("hello", "required").message.trice["response"].startswith("<tool_call>")
    assert chosen("chair?", "required").message.tool_calls[0].function.name == "price"
    named = {"type": "function", "function": {"name": "price"}}
    assert chosen("hello", named).message.trice["response"].startswith('<tool_call>\n{"name": "price')
    call = chosen("chair?", named)
    assert call.message.tool_calls[0].function.arguments == '{"product": "chair"}'
    assert call.finish_reason == "tool_calls"


def test_malformed_calls_and_unknown_tools(free: Server) -> None:
    (bad,) = send(free, "bad?", [PRICE]).choices
    assert bad.finish_reason == "stop"
    assert bad.message.content.startswith(
        "Well:\nThe tool could not be called: the tool call is not valid JSON"
    )
    assert bad.message.tool_calls is None
    assert bad.message.trice["decision"] == "malformed"
    assert bad.message.trice["reason"].startswith("the tool call is not valid JSON")
    (unknown,) = send(free, "look?", [PRICE]).choices  # the model reads that there is no such tool
    assert unknown.message.content == "I cannot."
    (cut,) = send(free, "chair?", [PRICE], max_tokens=4).choices
    assert (cut.finish_reason, cut.message.trice["decision"]) == ("length", "malformed")


def test_stop_texts_limits_and_samples(free: Server) -> None:
    (stopped,) = send(free, "hello", [PRICE], stop=["you", "zzz"]).choices
    assert (stopped.message.content, stopped.finish_reason) == ("Hi,", "stop")
    (short,) = send(free, "hello", [PRICE], max_tokens=2).choices
    assert (short.message.content, short.finish_reason) == ("Hi", "length")
    answer = send(free, "chair?", [PRICE], n=3, temperature=0.1, seed=3)
    assert [len(choice.message.tool_calls) for choice in answer.choices] == [1, 1, 1]
    probability = (
        send(free, "chair?", [PRICE], trice={"probability": True}).choices[0].message.trice["probability"]
    )
    assert probability["tools"]["price"] > 0.9
    assert probability["call"] == probability["tools"]["price"]


def test_the_probability_of_many_tools_takes_no_more_rows_than_the_batch(
    free: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free.state.worker, "limits", replace(free.state.limits, batch_size=4))
    counts: list[int] = []
    computed = ContinuousBatch.signals

    def counted(batch: ContinuousBatch, prompt: Any, openings: Any) -> Any:
        counts.append(len(openings))
        return computed(batch, prompt, openings)

    monkeypatch.setattr(ContinuousBatch, "signals", counted)
    others = [{"type": "function", "function": {"name": f"t{n}"}} for n in range(5)]
    answer = send(free, "chair?", [PRICE, *others], trice={"probability": True}, max_tokens=1)
    tools = answer.choices[0].message.trice["probability"]["tools"]
    assert list(tools) == ["price", *(f"t{n}" for n in range(5))]
    assert counts == [4, 2]


def test_a_call_threshold_decides_the_first_message(free: Server) -> None:
    def returned(text: Any, threshold: Any) -> bool:
        (choice,) = send(free, text, [PRICE], trice={"call_threshold": threshold}).choices
        return bool(choice.finish_reason == "tool_calls")

    assert returned("chair?", 0.5)
    assert not returned("hello", 0.5)
    assert not returned("chair?", 1)  # the prompt has no tools
    forced = send(free, "hello", [PRICE], trice={"call_threshold": 0}).choices[0].message
    assert forced.trice["response"].startswith("<tool_call>")
    answered = [{"role": "user", "content": "chair?"}, send(free, "chair?", [PRICE]).choices[0].message]
    (call,) = answered[1].tool_calls
    answered.append({"role": "tool", "tool_call_id": call.id, "content": "7"})
    assert not returned(answered, 0)  # what follows a call is not decided


def test_the_servers_tools_are_executed(shop: Server) -> None:
    answer = send(shop, "chair?")
    (choice,) = answer.choices
    assert choice.message.content == "Counting.\n7 pieces."
    assert choice.finish_reason == "stop"
    assert serving_tools.runs == ["chair"]
    completion = choice.message.trice["completion"]
    assert [message["role"] for message in completion] == ["assistant", "tool", "assistant"]
    assert completion[1] == {"role": "tool", "content": "7", "name": "stock"}
    assert choice.message.trice["execution"]["output"] == "7"
    assert send(shop, "both?").choices[0].message.content == "7 and 9."
    assert sorted(serving_tools.runs) == ["chair", "chair", "lamp"]
    assert send(shop, "silent?").choices[0].message.content == "9"  # the model says nothing over the result
    message, finish, _ = joined(send(shop, "chair?", stream=True))
    assert (message["content"], finish) == ("Counting.\n7 pieces.", "stop")
    metrics = client(shop).with_options(base_url=shop.url).get("/metrics", cast_to=str)
    assert 'trice_tool_calls_total{outcome="output",tool="stock"}' in metrics


def test_one_call_at_a_time_if_the_client_wants_it(shop: Server) -> None:
    message = send(shop, "both?", parallel_tool_calls=False).choices[0].message
    assert serving_tools.runs == ["chair"]
    assert [each["content"] for each in message.trice["completion"][1:3]] == [
        "7", "Error: more than one call in one message",
    ]  # fmt: skip


def test_calls_of_both_kinds(shop: Server) -> None:
    (choice,) = send(shop, "mixed?", [PRICE]).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["price"]
    assert serving_tools.runs == []  # its result could not be returned
    messages: list[Any] = [{"role": "user", "content": "first?"}]
    (choice,) = send(shop, messages, [PRICE]).choices
    assert serving_tools.runs == ["chair"]
    (call,) = choice.message.tool_calls
    assert call.function.arguments == '{"product": "lamp"}'
    # The message that is sent back contains what the server has executed.
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "5"}]
    assert send(shop, messages, [PRICE]).choices[0].message.content == "7 for 5."


def test_a_server_says_what_evaluate_and_ask_say(shop: Server, policy: Path, task: str) -> None:
    model = trice.load(str(policy), format="chat", device="cpu", dtype="float32")
    for text in ("hello", "chair?", "both?", "silent?"):
        message = send(shop, text).choices[0].message
        answer = model.ask(text, task, max_new_tokens=60)
        assert message.trice["response"] == answer.response
        assert message.content.endswith(answer.text)
        assert message.trice["completion"] == answer.messages[2:]
    question = {"id": "chat", "question": "hello", "task": "own"}
    sampling = {"temperature": 2.0, "seed": 5}
    rows = trice.generate(model, [question], task, samples=3, max_new_tokens=20, **sampling)
    drawn = send(shop, "hello", n=3, max_tokens=20, **sampling)
    assert [choice.message.trice["response"] for choice in drawn.choices] == [row.response for row in rows]
    assert len({row.response for row in rows}) > 1


def test_an_endpoint_of_the_format_chat_can_be_this_server(free: Server, task: str) -> None:
    (name,) = free.state.registry.models
    model = trice.endpoint(f"{free.url}/v1", name, format="chat")
    assert model.ask("both?", task, max_new_tokens=60).text == "7 and 9."
    assert sorted(serving_tools.runs) == ["chair", "lamp"]  # here, not on the server


def test_a_system_message_replaces_the_instruction(shop: Server) -> None:
    plain = send(shop, "hello").choices[0].message.content
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "hello"}]
    assert send(shop, messages).choices[0].message.content == plain


CALL = {"id": "a", "type": "function", "function": {"name": "price", "arguments": "{}"}}
USER = {"role": "user", "content": "chair?"}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "7"}
DEEP: dict[str, Any] = json.loads('{"items": ' * 240 + "{}" + "}" * 240)


def called(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)} | fields


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"role": "assistant", "content": "Hi."}]}, "messages"),
        ({"messages": [USER, called(CALL)]}, "messages"),
        ({"messages": [USER, called(CALL), USER]}, "messages"),
        ({"messages": [USER, RESULT]}, "messages.1.tool_call_id"),
        ({"messages": [USER, called(CALL), RESULT, RESULT]}, "messages.3"),
        ({"messages": [USER, called(CALL, CALL), RESULT]}, "messages.1.tool_calls"),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages.0.tool_calls"),
        ({"messages": [USER, called(CALL, tool_call_id="a"), RESULT]}, "messages.1.tool_call_id"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "Hi."}]}, "messages.0.role"),
        ({"messages": [USER, called(CALL | {"function": {"name": "price", "arguments": "[]"}}), RESULT]},
         "messages.1.tool_calls"),
        ({"messages": [USER, called(CALL | {"function": {"name": "price", "arguments": "{"}}), RESULT]},
         "messages.1.tool_calls"),
        ({"messages": [USER, called(CALL, trice={"completion": [{"role": "user"}]}), RESULT]},
         "messages.1.trice.completion"),
        ({"messages": [USER | {"audio": {"id": "1"}}]}, "messages.0.audio"),
        ({"tools": [PRICE, PRICE]}, "tools.1.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "stock"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [PRICE, {"type": "function", "function": {"name": "deep", "parameters": DEEP}}]},
         "tools.1.function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "list", "parameters": {"properties": ["a"]}}}]},
         "tools.0.function.parameters"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": {"type": "function", "function": {"name": "search"}}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [USER | {"content": "chair? " * 1500}]}, "messages"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_by_name(shop: Server, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            send(
                shop,
                fields.get("messages", [USER]),
                stream=stream,
                **{k: v for k, v in fields.items() if k != "messages"},
            )
        assert caught.value.body["param"].startswith(param), caught.value.body
        assert caught.value.body["type"] == "invalid_request_error"


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "sometimes"}, "tool_choice: Input should be 'auto', 'none' or 'required'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function: Field required"),
        ({"messages": [USER | {"content": 5}]}, "messages.0.content: Input should be a valid string"),
        ({"messages": [USER, USER | {"content": [IMAGE]}]}, "messages.1.content.0.type: Input should be 'text'"),
        ({"stop": 5}, "stop: Input should be a valid string"),
        ({"n": 9}, "n: Input should be less than or equal to 8"),
    ],
)  # fmt: skip
def test_an_error_names_the_field_as_the_client_wrote_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        read_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    assert (caught.value.message, caught.value.param) == (message, message.partition(":")[0])


def test_a_call_is_required_only_where_there_is_a_tool(free: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="'required' needs a tool, so send tools"):
        send(free, "hello", tool_choice="required")


def test_models_of_the_format_paper_need_a_task_and_take_no_tools(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(trice.InputError, match=r"--task is missing: model '.*' has the format paper"):
        open_registry(str(policy), [], None)
    words = ["serve", "--model", policy, "--format", "chat"]
    assert command(capsys, *words, "--tool", "QA=x")[::2] == (
        2, ["trice: --tool does not apply without a task; name it with --task"]
    )  # fmt: skip
    code, _, error = command(capsys, *words, "--task", "math", "--answer-from-result")
    assert (code, error[-1].partition(" to model")[0]) == (2, "trice: --answer-from-result does not apply")
