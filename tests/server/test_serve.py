"""`trice serve` as the openai client meets it: decisions, calls, second turns, streams, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from serving import ask, client, running, streamed, tool_task, writes

from trice.formats.prompt import load_template
from trice.models.engine import Prompt
from trice.models.generation import TransformersEngine
from trice.models.sampling import Sampling
from trice.server.startup import Server
from trice.stages.generate import content_key, group_by_task
from trice.stages.generate import with_instruction as instruct
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.types import Question

QUESTIONS = [f"What is {i} plus {i * i}?" + " Say it." * (i % 4) for i in range(20)]


@pytest.fixture(scope="module")
def random_model(tiny_model: Callable[[str], Path]) -> Iterator[Server]:
    with running(tiny_model("gemma3")) as server:
        yield server


@pytest.fixture
def writer(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """Serves a model that answers everything with one text, over tools of this test's."""

    def make(text: str, *tools: str, **options: Any) -> Any:
        task = tool_task(tmp_path, *(f"serving_tools:{tool}" for tool in tools)) if tools else "math"
        return running(writes(tiny_model("llama"), tmp_path, text), task=task, **options)

    return make


def alone(server: Server, text: str, sampling: Sampling, template: str = "plain") -> list[str]:
    """What `generate` writes: the same model, nobody else in the batch."""
    (model,) = server.state.registry.models.values()
    tasks = Tasks("math")
    question = Question(id="chat", input=text, task="math")
    question = instruct(question, tasks.of(question))
    ((_, settings, _),) = group_by_task(
        tasks, [question], ModelSpec("", template=load_template(template), sampling=sampling)
    )
    found: dict[int, str] = {}
    prompt = Prompt(content_key(question), question.instruction, text, tuple(range(sampling.samples)))
    TransformersEngine(model.loaded).generate(
        [prompt],
        settings,
        lambda _, rows: found.update((k, settings.full_response(row.text)) for k, row in rows.items()),
    )
    return [found[sample] for sample in range(sampling.samples)]


def test_models_and_tasks_are_listed(random_model: Server) -> None:
    (model,) = client(random_model).models.list().data
    assert (model.id, model.object) == ("tiny-gemma3", "model")
    assert model.trice == {
        "stage": "base", "adapter": None, "tasks": ["math"], "call_threshold": None, "call_signal": None,
    }  # fmt: skip
    assert client(random_model).models.retrieve("tiny-gemma3") == model
    (task,) = client(random_model).get("/tasks", cast_to=object)["data"]
    assert task["id"] == "math"
    assert [tool["name"] for tool in task["tools"]] == ["calculator"]
    assert 3 <= len(task["examples"]) <= 4


def test_an_answer_is_what_generate_writes(random_model: Server) -> None:
    (expected,) = alone(random_model, QUESTIONS[3], Sampling(64))
    answer = ask(random_model, QUESTIONS[3])
    (choice,) = answer.choices
    assert choice.message.content == expected
    assert choice.message.trice["decision"] == "answered"
    assert choice.message.trice["response"] == expected
    assert choice.message.trice["probability"] is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    drawn = Sampling(20, temperature=1.0, top_p=0.9, samples=3, seed=5)
    answer = ask(random_model, QUESTIONS[3], temperature=1.0, top_p=0.9, n=3, seed=5, max_tokens=20)
    assert [choice.message.content for choice in answer.choices] == alone(random_model, QUESTIONS[3], drawn)


def test_twenty_at_a_time_each_get_what_they_get_alone(random_model: Server) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 0.8, "seed": 1}, {"temperature": 0.8, "top_p": 0.5, "n": 2}, {"max_tokens": 9},
        {"tool_choice": "none"}, {"tool_choice": "required", "max_tokens": 12}, {"stop": ["a", "e"]},
    ]  # fmt: skip
    asked = [(text, kinds[number % len(kinds)]) for number, text in enumerate(QUESTIONS)]

    def get(pair: tuple[str, dict[str, Any]]) -> list[Any]:
        answer = ask(random_model, pair[0], **pair[1])
        return [(choice.message.content, choice.message.trice["response"]) for choice in answer.choices]

    expected = [get(pair) for pair in asked]
    assert len({str(each) for each in expected}) > 15
    with ThreadPoolExecutor(20) as pool:
        for _ in range(2):
            assert list(pool.map(get, asked)) == expected


@pytest.mark.parametrize(
    "options",
    [{}, {"n": 3, "temperature": 1.5}, {"tool_choice": "required"}, {"stop": ["o", "ai"]}, {"max_tokens": 5}],
)
def test_a_stream_tells_what_the_whole_answer_says(random_model: Server, options: dict[str, Any]) -> None:
    for text in QUESTIONS[:3]:
        whole = ask(random_model, text, **options)
        contents, kinds, last = streamed(
            ask(random_model, text, stream=True, stream_options={"include_usage": True}, **options)
        )
        assert contents == {choice.index: choice.message.content for choice in whole.choices}
        assert last.usage == whole.usage
        ends = dict(kinds)
        assert ends == {choice.index: choice.finish_reason for choice in whole.choices}


def test_a_call_is_executed(writer: Callable[..., Any]) -> None:
    with writer("calculator(12+30)") as server:
        answer = ask(server)
        message = answer.choices[0].message
        assert message.content == "42"
        assert message.trice["decision"] == "called"
        assert message.trice["call"] == {"name": "calculator", "arguments": {"expression": "12+30"}}
        assert message.trice["execution"]["output"] == "42"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == 1
        contents, kinds, _ = streamed(ask(server, stream=True, trice={"probability": True}))
        assert contents == {0: "42"}
        assert [kind for _, kind in kinds] == [
            "probability", "text", "decision", "call", "reason", "execution", "content", "stop",
        ]  # fmt: skip


def test_text_before_a_call_comes_first(writer: Callable[..., Any]) -> None:
    with writer("Let me see: calculator(12+30)") as server:
        assert ask(server).choices[0].message.content == "Let me see:\n42"
        assert streamed(ask(server, stream=True))[0] == {0: "Let me see:\n42"}


@pytest.mark.parametrize(
    ("text", "tools", "content", "decision"),
    [
        ("calculator(1/0)", [], "The tool gave no result: division by zero.", "called"),
        ("fail(x)", ["fail"], "The tool gave no result: no good.", "called"),
        ("soon(x)", ["soon"], "The tool gave no result within 0.2 seconds.", "called"),
        ("ah calculator()", [], "ah\nThe tool could not be called: the call is empty.", "malformed"),
    ],
)
def test_what_goes_wrong_is_said(
    writer: Callable[..., Any], text: str, tools: list[str], content: str, decision: str
) -> None:
    with writer(text, *tools) as server:
        message = ask(server).choices[0].message
        assert message.content == content
        assert message.trice["decision"] == decision
        assert streamed(ask(server, stream=True))[0] == {0: content}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_cannot_run_is_no_answer_and_the_server_goes_on(
    writer: Callable[..., Any], stream: bool
) -> None:
    with writer("gone(x)", "gone") as server:
        for _ in range(2):
            with pytest.raises(openai.APIError, match="a tool that the model called cannot run") as found:
                list(ask(server, stream=stream))
            assert found.value.code == "tool_unavailable"
            assert "secret" not in str(found.value)
            assert stream or found.value.status_code == 503  # type: ignore[attr-defined]


def test_the_model_is_asked_again_with_an_output(writer: Callable[..., Any]) -> None:
    with writer("look(Paris)", "look") as server:
        answer = ask(server, "Where?")
        assert answer.choices[0].message.trice["execution"]["output"] == "Paris one\nParis two"
        assert answer.choices[0].message.trice["turns"] == ["", ""]  # nothing would execute a call there
        assert answer.choices[0].message.content == ""
        assert answer.usage.completion_tokens == 1 + 2 * 64  # the call, and two second turns up to the limit
        contents, kinds, _ = streamed(ask(server, "Where?", stream=True, n=2))
        assert contents == {0: "", 1: ""}
        assert [kind for index, kind in kinds if index == 1][-3:] == ["execution", "turns", "stop"]


def test_calls_can_be_barred_and_required(random_model: Server) -> None:
    required = ask(random_model, tool_choice="required", n=2, temperature=1.0)
    assert all(choice.message.trice["response"].startswith("calculator(") for choice in required.choices)
    barred = ask(random_model, tool_choice="none", trice={"probability": True}).choices[0].message
    assert (barred.trice["decision"], barred.trice["probability"]) == ("answered", None)


def test_a_call_threshold_decides(random_model: Server, tiny_model: Callable[[str], Path]) -> None:
    def begins(server: Server, **options: Any) -> bool:
        (choice,) = ask(server, trice=options, max_tokens=4).choices
        return bool(choice.message.trice["response"].startswith("calculator("))

    probability = (
        ask(random_model, trice={"probability": True}).choices[0].message.trice["probability"]["call"]
    )
    assert 0 < probability < 1
    assert begins(random_model, call_threshold=probability / 2)
    assert not begins(random_model, call_threshold=probability * 2)
    assert begins(random_model, call_threshold=0)
    with running(tiny_model("llama"), call_threshold="0") as server:
        assert begins(server)
        assert not begins(server, call_threshold=1)
        assert not begins(server, call_threshold="off")
        (model,) = client(server).models.list().data
        assert (model.trice["call_threshold"], model.trice["call_signal"]) == (0, "p-call")
    for choice, threshold, complaint in (
        ("none", 0.5, "trice.call_threshold: applies to tool_choice auto only"),
        ("auto", 1.5, "trice.call_threshold"),
    ):
        with pytest.raises(openai.BadRequestError, match=complaint):
            ask(random_model, tool_choice=choice, trice={"call_threshold": threshold})


@pytest.mark.parametrize("stop", ["calc", "r(", "calculator(", "("])
def test_a_stop_text_does_not_end_how_a_required_call_begins(writer: Callable[..., Any], stop: str) -> None:
    with writer("12+30)") as server:
        message = ask(server, tool_choice="required", stop=stop).choices[0].message
        assert message.trice["response"] == "calculator(12+30)"
        assert message.content == "42"
        assert streamed(ask(server, tool_choice="required", stop=stop, stream=True))[0] == {0: "42"}
        stopped = ask(server, tool_choice="required", stop=[stop, "+"]).choices[0].message
        assert stopped.trice["response"] == "calculator(12"


@pytest.mark.parametrize("temperature", [1e-46, 1e-300, 5e-324, 1e-40, 1e-9])
def test_a_tiny_temperature_is_greedy(random_model: Server, temperature: float) -> None:
    greedy = ask(random_model, QUESTIONS[2]).choices[0].message.content
    for more in ({}, {"top_p": 0.9}):
        drawn = ask(random_model, QUESTIONS[2], temperature=temperature, seed=3, **more)
        assert drawn.choices[0].message.content == greedy


def test_a_stop_text_and_the_length_end_a_response(random_model: Server) -> None:
    free = ask(random_model, QUESTIONS[1]).choices[0].message.content
    stop = free[5:7]
    stopped = ask(random_model, QUESTIONS[1], stop=stop).choices[0]
    assert stopped.message.content == free[: free.index(stop)].strip()
    short = ask(random_model, QUESTIONS[1], max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_the_probability_of_a_call_is_the_plain_models(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    task = tool_task(tmp_path, "serving_tools:upper", "serving_tools:look")
    with running(tiny_model(family), task=task) as server:
        found = ask(server, "Who is it?", trice={"probability": True}).choices[0].message.trice["probability"]
        (model,) = server.state.registry.models.values()
        loaded, form = model.loaded, load_template("plain")
        expected = {}
        for name in ("upper", "look"):
            prompt = loaded.tokenizer("Question: Who is it?\nAnswer:")["input_ids"]
            own = loaded.tokenizer(form.response_prefix + name, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = loaded.model(torch.tensor([prompt + own]), use_cache=False).logits[0].double()
            logps = logits.log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(own) - 1)
            expected[name] = float(sum(logps[at, token] for at, token in zip(places, own, strict=True)).exp())
        assert found["tools"] == pytest.approx(expected, rel=1e-3)
        assert found["call"] == pytest.approx(sum(expected.values()), rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "audio": {"id": "1"}}]}, "messages.0.audio"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "What is it? " * 200}]}, "messages"),
        ({"trice": {"task": "qa"}}, "trice.task"),
        ({"trice": {"tusk": "qa"}}, "trice.tusk"),
    ],
)
def test_what_would_be_answered_otherwise_is_refused(
    random_model: Server, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(random_model, **fields)
    assert caught.value.body["param"].startswith(param), caught.value.body
    assert caught.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        ask(random_model, stream=True, **fields)


def test_harmless_fields_and_forms_of_a_message_are_taken(random_model: Server) -> None:
    plain = ask(random_model, "Who is it?").choices[0].message.content
    parts = [{"type": "text", "text": "Who is"}, {"type": "text", "text": " it?"}]
    messages: list[dict[str, Any]] = [
        {
            "role": "system",
            "content": "Be kind.",
            "id": "1",
            "name": "me",
            "cache_control": {"type": "ephemeral"},
        },
        {
            "role": "user",
            "content": parts,
            "refusal": None,
            "audio": None,
            "annotations": [],
            "tool_calls": [],
        },
    ]
    parts[0]["cache_control"] = {"type": "ephemeral"}  # type: ignore[assignment]
    same = ask(
        random_model, messages=messages, user="me", metadata={"a": "b"}, store=False, logprobs=False,
        response_format={"type": "text"}, frequency_penalty=0,
    )  # fmt: skip
    assert same.choices[0].message.content == plain  # the template `plain` shows no instruction


def test_a_system_message_stands_in_place_of_the_instruction(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("gemma3"), template="alpaca") as server:
        (own,) = alone(server, "Who is it?", Sampling(64), "alpaca")
        assert ask(server, "Who is it?").choices[0].message.content == own
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who is it?"}]
        assert ask(server, messages=messages).choices[0].message.content != own


def test_another_model_and_another_path_are_not_found(random_model: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(random_model, model="gpt")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client(random_model).embeddings.create(model="tiny-gemma3", input="a")
