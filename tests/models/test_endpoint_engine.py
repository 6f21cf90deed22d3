"""An endpoint as an engine: what it is sent, and what becomes of its replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_server import StandIn

from trice.errors import InputError
from trice.formats.prompt import Example, load_template
from trice.models.endpoint import Endpoint
from trice.models.endpoint_engine import EndpointEngine
from trice.models.engine import Failure, Generated, GenerationSettings, Prompt
from trice.models.sampling import Sampling
from trice.tools.calculator import Calculator

SUM = Prompt("k", "Solve.", "1 plus 2?")
PARSERS = {"calculator": Calculator().parse}
CHAT = GenerationSettings(
    load_template("chat"), parsers=PARSERS, task_tools=("calculator",), can_prefill=False
)
PLAIN = replace(CHAT, template=load_template("plain"), can_prefill=True)


def write(
    endpoint: Endpoint, settings: GenerationSettings, *prompts: Prompt
) -> tuple[dict[int, Any], list[Failure]]:
    found: dict[int, dict[int, Generated]] = {}

    def deliver(index: int, written: dict[int, Generated]) -> None:
        found.setdefault(index, {}).update(written)

    return found, EndpointEngine(endpoint).generate(prompts, settings, deliver)


def says(text: str, settings: GenerationSettings = CHAT, **options: Any) -> Generated:
    """What becomes of a reply to one question."""
    tokens = options.pop("tokens", None)
    with StandIn(lambda _: text, tokens=tokens) as server:
        found, failures = write(Endpoint(server.url, "m", **options), settings, SUM)
    assert not failures
    written: Generated = found[0][0]
    return written


def sent(settings: GenerationSettings, prompt: Prompt = SUM, **options: Any) -> dict[str, Any]:
    """The body of a request."""
    with StandIn() as server:
        write(Endpoint(server.url, "m", **options), settings, prompt)
    return server.seen[0].body


def test_a_chat_holds_instruction_rule_examples_and_question() -> None:
    body = sent(replace(CHAT, examples=(Example("2 plus 2?", "4"),)))
    assert body["messages"] == [
        {
            "role": "system",
            "content": "Solve. Reply with the answer alone, or with one call: calculator(...).",
        },
        {"role": "user", "content": "2 plus 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "1 plus 2?"},
    ]
    assert "stop" not in body


def test_without_tools_no_call_is_spoken_of() -> None:
    system, _ = sent(replace(CHAT, parsers={}, task_tools=()))["messages"]
    assert system["content"] == "Solve. Reply with the answer alone."


def test_how_a_response_is_drawn_goes_along() -> None:
    sampling = Sampling(9, temperature=0.5, top_k=40, top_p=0.75, seed=5, repetition_penalty=1.3)
    body = sent(replace(CHAT, sampling=sampling), SUM._replace(samples=(1, 3)))
    wanted = {"max_tokens": 9, "temperature": 0.5, "top_k": 40, "top_p": 0.75, "repetition_penalty": 1.3}
    assert body.items() >= (wanted | {"n": 2, "seed": 6}).items()
    plain = sent(CHAT)
    assert not {"top_k", "top_p", "repetition_penalty", "n"} & set(plain)


def test_samples_keep_their_numbers() -> None:
    with StandIn(script={"1 plus": ["one"]}) as server:
        found, failures = write(Endpoint(server.url, "m"), CHAT, SUM._replace(samples=(1, 3)))
    assert not failures
    assert sorted(found[0]) == [1, 3]


def test_a_chat_is_cut_where_its_first_call_closes() -> None:
    assert says("Sure!\ncalculator(1+2) gives it.") == Generated("Sure!\ncalculator(1+2)")
    assert says("It is 3.\nSure.") == Generated("It is 3.\nSure.")


def test_a_question_that_gets_no_answer_is_a_failure() -> None:
    with StandIn(script={"1 plus": ["500", "500"]}) as server:
        found, failures = write(Endpoint(server.url, "m", attempts=2), CHAT, SUM, Prompt("l", "", "other"))
    assert found == {1: {0: Generated("OTHER")}}
    assert [failure[:2] for failure in failures] == [(0, "HTTP 500: the model said no (500)")]


def test_a_prompt_is_written_in_the_template_and_begins_a_compelled_call() -> None:
    body = sent(PLAIN, api="completions")
    assert body["prompt"] == "Question: 1 plus 2?\nAnswer:"
    assert body["stop"] == ["\n"]
    compelled = sent(replace(PLAIN, tool_choice="required"), api="completions")
    assert compelled["prompt"] == "Question: 1 plus 2?\nAnswer: calculator("
    assert says("1+2) = 3", replace(PLAIN, tool_choice="required"), api="completions") == Generated("1+2)")


def test_token_ids_go_out_and_come_back_as_they_were_chosen(tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    name = str(tiny_model("llama"))
    tokenizer = AutoTokenizer.from_pretrained(name)
    # One token a byte, as no tokenizer would write it.
    apart = [tokenizer(character, add_special_tokens=False)["input_ids"][0] for character in "What is"]
    assert tokenizer("What is", add_special_tokens=False)["input_ids"] != apart

    def tokens(text: str) -> list[int]:
        return [*apart, tokenizer.eos_token_id]

    with StandIn(lambda _: "What is", tokens=tokens) as server:
        found, _ = write(
            Endpoint(server.url, "m", api="completions", tokenizer=name),
            PLAIN,
            SUM,
            Prompt("l", "", "other"),
        )
        body = next(seen.body for seen in server.seen if "other" not in tokenizer.decode(seen.body["prompt"]))
    assert found[0][0] == found[1][0] == Generated("What is", apart)
    assert body["prompt"] == PLAIN.encode_prompt(tokenizer, SUM)
    assert body["return_token_ids"] is True


def test_token_ids_end_where_the_response_does(tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    name = str(tiny_model("llama"))
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = tokenizer("calculator(1+2)", add_special_tokens=False)["input_ids"]
    beyond = tokenizer(" yes", add_special_tokens=False)["input_ids"]

    def tokens(text: str) -> list[int]:
        return ids + beyond

    written = says("calculator(1+2) yes", PLAIN, api="completions", tokenizer=name, tokens=tokens)
    assert written == Generated("calculator(1+2)", ids)


def test_who_must_not_call_cannot_begin_one(tiny_model: Callable[[str], Path]) -> None:
    settings = replace(PLAIN, tool_choice="none")
    body = sent(settings, api="completions", tokenizer=str(tiny_model("llama")))
    assert set(body["logit_bias"].values()) == {-100.0}


@pytest.mark.parametrize(
    ("settings", "options", "line"),
    [
        (replace(CHAT, sampling=Sampling(beams=4)), {}, "beams=4: an endpoint does not support"),
        (
            replace(PLAIN, tool_choice="none"),
            {"api": "completions"},
            "tokenizer's name for tool choice 'none'",
        ),
        (CHAT, {"api": "completions"}, "tokenizer's name for template 'chat'"),
        (PLAIN, {"api": "completions", "tokenizer": "none/here"}, "tokenizer 'none/here' cannot be loaded"),
        (CHAT, {"tokenizer": "gpt"}, "a tokenizer is only for an endpoint with api 'completions'"),
    ],
)
def test_what_an_endpoint_cannot_do_is_said(
    settings: GenerationSettings, options: dict[str, Any], line: str
) -> None:
    with StandIn() as server, pytest.raises(InputError, match=line):
        write(Endpoint(server.url, "m", **options), settings, SUM)
    assert not server.seen


@pytest.mark.parametrize(
    "text",
    [
        "<think>calculator(1+1)?</think>calculator(1+2)",
        "Is it calculator(1+1)? No.</think>calculator(1+2)",
        "<think>calculator(1+1), so it is 3",
        'It is calculator("1+2") or',
    ],
)
def test_a_response_does_not_end_with_a_call_in_its_reasoning(text: str) -> None:
    assert says(text + " and calculator(9)" * text.endswith("or")).text == text.removesuffix(" or")
