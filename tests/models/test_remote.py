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
from trice.models.engine import Failure, Manner, Prompt, Written
from trice.models.sampling import Sampling
from trice.tools.calculator import Calculator

SUM = Prompt("k", "Solve.", "1 plus 2?")
PARSERS = {"calculator": Calculator().parse}
CHAT = Manner(load_template("chat"), parsers=PARSERS, own=("calculator",), opens=False)
PLAIN = replace(CHAT, template=load_template("plain"), opens=True)


def write(endpoint: Endpoint, manner: Manner, *prompts: Prompt) -> tuple[dict[int, Any], list[Failure]]:
    found: dict[int, dict[int, Written]] = {}

    def done(index: int, written: dict[int, Written]) -> None:
        found.setdefault(index, {}).update(written)

    return found, EndpointEngine(endpoint).write(prompts, manner, done)


def says(text: str, manner: Manner = CHAT, **options: Any) -> Written:
    """What becomes of a reply to one question."""
    tokens = options.pop("tokens", None)
    with StandIn(lambda _: text, tokens=tokens) as server:
        found, failures = write(Endpoint(server.url, "m", **options), manner, SUM)
    assert not failures
    written: Written = found[0][0]
    return written


def sent(manner: Manner, prompt: Prompt = SUM, **options: Any) -> dict[str, Any]:
    """The body of a request."""
    with StandIn() as server:
        write(Endpoint(server.url, "m", **options), manner, prompt)
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
    system, _ = sent(replace(CHAT, parsers={}, own=()))["messages"]
    assert system["content"] == "Solve. Reply with the answer alone."


def test_how_a_response_is_drawn_goes_along() -> None:
    sampling = Sampling(
        9, temperature=0.5, top_k=40, top_p=0.75, seed=5, repetition_penalty=1.3, logprobs=True
    )
    body = sent(replace(CHAT, sampling=sampling), SUM._replace(samples=(1, 3)))
    wanted = {"max_tokens": 9, "temperature": 0.5, "top_k": 40, "top_p": 0.75, "repetition_penalty": 1.3}
    assert body.items() >= (wanted | {"n": 2, "seed": 6, "logprobs": True}).items()
    plain = sent(CHAT)
    assert not {"top_k", "top_p", "repetition_penalty", "logprobs", "n"} & set(plain)


def test_samples_keep_their_numbers() -> None:
    with StandIn(script={"1 plus": ["one"]}) as server:
        found, failures = write(Endpoint(server.url, "m"), CHAT, SUM._replace(samples=(1, 3)))
    assert not failures
    assert sorted(found[0]) == [1, 3]


def test_a_chat_is_cut_where_its_first_call_closes() -> None:
    assert says("Sure!\ncalculator(1+2) gives it.") == Written("Sure!\ncalculator(1+2)")
    assert says("It is 3.\nSure.") == Written("It is 3.\nSure.")


def test_a_question_that_gets_no_answer_is_a_failure() -> None:
    with StandIn(script={"1 plus": ["500", "500"]}) as server:
        found, failures = write(Endpoint(server.url, "m", attempts=2), CHAT, SUM, Prompt("l", "", "other"))
    assert found == {1: {0: Written("OTHER")}}
    assert [failure[:2] for failure in failures] == [(0, "HTTP 500: the model said no (500)")]


def test_a_prompt_is_written_in_the_template_and_begins_a_compelled_call() -> None:
    body = sent(PLAIN, form="completions")
    assert body["prompt"] == "Question: 1 plus 2?\nAnswer:"
    assert body["stop"] == ["\n"]
    compelled = sent(replace(PLAIN, tool_choice="required"), form="completions")
    assert compelled["prompt"] == "Question: 1 plus 2?\nAnswer: calculator("
    assert says("1+2) = 3", replace(PLAIN, tool_choice="required"), form="completions") == Written("1+2)")


def pieces(text: str) -> list[tuple[int, str, float]]:
    """A token for each character, of log-probability -1, and an end token of -9."""
    return [(ord(character), character, -1.0) for character in text] + [(2, "<end>", -9.0)]


@pytest.mark.parametrize("form", ["chat", "completions"])
def test_log_probabilities_are_those_of_what_is_kept(form: str) -> None:
    manner = replace(CHAT if form == "chat" else PLAIN, sampling=Sampling(logprobs=True))
    assert says("three", manner, form=form, tokens=pieces) == Written("three", None, -5.0)
    # The call alone, without what follows it: 15 characters.
    assert says("calculator(1+2) is 3", manner, form=form, tokens=pieces) == Written(
        "calculator(1+2)", None, -15.0
    )
    assert says("three", manner, form=form).logprob is None


def test_log_probabilities_that_do_not_fit_the_text_are_left_out() -> None:
    manner = replace(CHAT, sampling=Sampling(logprobs=True))
    assert says("three", manner, tokens=lambda _: pieces("other")) == Written("three")


def test_token_ids_go_out_and_come_back_as_they_were_chosen(tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    name = str(tiny_model("llama"))
    tokenizer = AutoTokenizer.from_pretrained(name)
    # One token a byte, as no tokenizer would write it.
    apart = [tokenizer(character, add_special_tokens=False)["input_ids"][0] for character in "What is"]
    assert tokenizer("What is", add_special_tokens=False)["input_ids"] != apart

    def tokens(text: str) -> list[tuple[int, str, float]]:
        return [(token, "?", -1.0) for token in [*apart, tokenizer.eos_token_id]]

    manner = replace(PLAIN, sampling=Sampling(logprobs=True))
    with StandIn(lambda _: "What is", tokens=tokens) as server:
        found, _ = write(
            Endpoint(server.url, "m", form="completions", tokenizer=name),
            manner,
            SUM,
            Prompt("l", "", "other"),
        )
        body = next(seen.body for seen in server.seen if "other" not in tokenizer.decode(seen.body["prompt"]))
    assert found[0][0] == found[1][0] == Written("What is", apart, -7.0)
    assert body["prompt"] == manner.ids(tokenizer, SUM)
    assert body["return_token_ids"] is True


def test_token_ids_end_where_the_response_does(tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    name = str(tiny_model("llama"))
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = tokenizer("calculator(1+2)", add_special_tokens=False)["input_ids"]
    beyond = tokenizer(" yes", add_special_tokens=False)["input_ids"]

    def tokens(text: str) -> list[tuple[int, str, float]]:
        return [(token, "?", -1.0) for token in ids + beyond]

    written = says("calculator(1+2) yes", PLAIN, form="completions", tokenizer=name, tokens=tokens)
    assert written == Written("calculator(1+2)", ids)


def test_who_must_not_call_cannot_begin_one(tiny_model: Callable[[str], Path]) -> None:
    manner = replace(PLAIN, tool_choice="none")
    body = sent(manner, form="completions", tokenizer=str(tiny_model("llama")))
    assert set(body["logit_bias"].values()) == {-100.0}


@pytest.mark.parametrize(
    ("manner", "options", "line"),
    [
        (replace(CHAT, sampling=Sampling(beams=4)), {}, "beams=4: an endpoint samples"),
        (
            replace(PLAIN, tool_choice="none"),
            {"form": "completions"},
            "tokenizer's name, for tool_choice 'answer'",
        ),
        (CHAT, {"form": "completions"}, "tokenizer's name, for template 'chat'"),
        (PLAIN, {"form": "completions", "tokenizer": "none/here"}, "tokenizer 'none/here': cannot be loaded"),
        (CHAT, {"tokenizer": "gpt"}, "a tokenizer is for an endpoint's form 'completions'"),
    ],
)
def test_what_an_endpoint_cannot_do_is_said(manner: Manner, options: dict[str, Any], line: str) -> None:
    with StandIn() as server, pytest.raises(InputError, match=line):
        write(Endpoint(server.url, "m", **options), manner, SUM)
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
