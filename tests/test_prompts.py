"""Prompts, letter by letter and token by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trice.errors import InputError
from trice.formats.prompt import Example, load_template, prompt_template
from trice.models.adapters import AdapterRecord, adapter_record
from trice.models.engine import GenerationSettings

ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSolve.\n\n### Input:\n1 + 2?\n\n### Response:\n"
)
ALPACA_BARE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSolve.\n\n### Response:\n"
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[str], Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model("llama"))


@pytest.mark.parametrize(
    ("name", "with_input", "bare"),
    [
        ("alpaca", ALPACA, ALPACA_BARE),
        ("vicuna", ALPACA.replace("###", "</s>"), ALPACA_BARE.replace("###", "</s>")),
        ("plain", "Question: 1 + 2?\nAnswer:", "Question: Solve.\nAnswer:"),
    ],
)
def test_the_text_of_every_template(name: str, with_input: str, bare: str) -> None:
    template = load_template(name)
    assert template.text("Solve.", "1 + 2?") == with_input
    assert template.text("Solve.", "") == bare


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "plain"])
def test_strangers_text_is_not_a_template(name: str) -> None:
    template = load_template(name)
    for odd in ("{input}", "{instruction}", "{0} {x!r} {{}}", "{", "%s \\1"):
        assert template.text(odd, odd) == template.text("<1>", "<2>").replace("<1>", odd).replace("<2>", odd)
        assert template.text(odd, "") == template.text("<1>", "").replace("<1>", odd)


def test_worked_examples_stand_before_the_question() -> None:
    shown = [Example("1 + 1?", "2"), Example("2 + {input}?", "calculator(2+3)")]
    assert load_template("plain").text("Solve.", "1 + 2?", shown) == (
        "Question: 1 + 1?\nAnswer: 2\n\n"
        "Question: 2 + {input}?\nAnswer: calculator(2+3)\n\n"
        "Question: 1 + 2?\nAnswer:"
    )
    assert load_template("alpaca").text("Solve.", "1 + 2?", shown[:1]) == (
        ALPACA.replace("1 + 2?", "1 + 1?") + "2\n\n" + ALPACA
    )


def test_a_prompt_begins_with_one_start_token_and_a_response_closes_with_the_end_token(
    tokenizer: Any,
) -> None:
    template = load_template("plain")
    prompt = template.encode(tokenizer, "Solve.", "1 + 2?", [Example("1?", "1")])
    response = template.encode_response(tokenizer, "calculator(1+2)")
    assert prompt[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in prompt[1:] + response
    assert tokenizer.eos_token_id not in prompt
    assert (response[-1], response.count(tokenizer.eos_token_id)) == (tokenizer.eos_token_id, 1)
    assert tokenizer.decode(prompt[1:] + response[:-1]) == (
        "Question: 1?\nAnswer: 1\n\nQuestion: 1 + 2?\nAnswer: calculator(1+2)"
    )
    assert template.encode_response(tokenizer, "calculator(1+2)", end=False) == response[:-1]
    assert load_template("alpaca").encode_response(tokenizer, "") == [tokenizer.eos_token_id]


def test_a_tokenizer_that_closes_every_text_leaves_the_prompt_open(tiny_model: Callable[[str], Path]) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    closing = AutoTokenizer.from_pretrained(tiny_model("llama"))
    open_prompt = load_template("plain").encode(closing, "Solve.", "1?")
    closing._tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert closing("1?")["input_ids"][-1] == 2
    assert load_template("plain").encode(closing, "Solve.", "1?") == open_prompt


def test_chat_is_the_tokenizers_own_form(tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    template = load_template("chat")
    with pytest.raises(InputError, match="tokenizer has no chat template; choose plain"):
        template.encode(tokenizer, "Solve.", "1?")
    tokenizer.chat_template = CHAT
    text = template.text("Solve.", "1 + {2}?", [Example("1?", "1")], tokenizer)
    assert text == "<bos>[user] Solve.\n1?\n[assistant] 1\n[user] Solve.\n1 + {2}?\n[assistant] "
    assert template.text("Solve.", "", tokenizer=tokenizer) == "<bos>[user] Solve.\n[assistant] "
    prompt = template.encode(tokenizer, "Solve.", "1?")
    assert prompt.count(tokenizer.bos_token_id) == 1  # the form writes it, the tokenizer must not
    assert template.encode_response(tokenizer, "3")[-1] == tokenizer.eos_token_id


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    form = {
        "prompt_input": "{input} ({instruction}) = ",
        "prompt_no_input": "{instruction} = ",
        "stop": ["."],
    }
    file.write_text(json.dumps(form | {"description": "unknown keys are fine"}))
    mine = load_template(str(file))
    assert (mine.name, mine.stop) == ("mine", (".",))
    assert mine.text("Solve", "{instruction} 1") == "{instruction} 1 (Solve) = "


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "mine.json: no such file"),
        ("{", r"mine\.json is not JSON"),
        ('{"prompt_input": "{input}"}', r"mine\.json: field 'prompt_no_input': Field required"),
        ("[]", r"mine\.json: Input should be"),
        ('{"prompt_input": 3, "prompt_no_input": ""}', r"mine\.json: field 'prompt_input'"),
    ],
)
def test_a_bad_template_file_is_named(text: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=complaint):
        load_template(str(file))


def test_an_unknown_template_names_those_there_are() -> None:
    with pytest.raises(
        InputError,
        match=r"template 'alpacca' is not valid; choose alpaca, plain, vicuna, chat, or a \.json file",
    ):
        load_template("alpacca")


def test_the_format_and_the_template_become_one_template() -> None:
    assert prompt_template() == prompt_template("paper", "plain") == load_template("plain")
    native, paper = prompt_template("chat:effort=low"), load_template("chat:effort=low")
    assert (native.format, native.chat_template_kwargs) == ("chat", {"effort": "low"})
    assert (native.record, paper.record) == ({"format": "chat:effort=low"}, {"template": "chat:effort=low"})
    assert native.sha256 != paper.sha256
    for format, template, complaint in [
        ("chats", None, "format 'chats' is not valid; choose paper or chat"),
        ("paper:a=1", None, "format 'paper:a=1' is not valid; choose paper or chat"),
        ("chat:a", None, "format 'chat:a': 'a' is not an argument; write chat:enable_thinking=false"),
        (
            "chat",
            "plain",
            "template 'plain' does not apply to format 'chat', .* leave it out, or choose format paper",
        ),
    ]:
        with pytest.raises(InputError, match=complaint):
            prompt_template(format, template)


def test_what_an_adapter_records_is_the_default() -> None:
    alpaca, chat = AdapterRecord(template="alpaca"), AdapterRecord(format="chat")
    assert alpaca.prompt_template().name == alpaca.prompt_template("paper").name == "alpaca"
    assert alpaca.prompt_template("chat").format == chat.prompt_template().format == "chat"
    assert chat.prompt_template("paper").record == {"template": "plain"}
    with pytest.raises(InputError, match="template 'alpaca' does not apply to format 'chat'"):
        chat.prompt_template(template="alpaca")
    quiet = AdapterRecord(format="chat:enable_thinking=false")
    assert (
        quiet.prompt_template("chat")
        == quiet.prompt_template()
        == prompt_template("chat:enable_thinking=false")
    )
    assert quiet.prompt_template("chat:a=1") == prompt_template("chat:a=1")


def test_a_record_of_the_former_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "trice.json").write_text('{"template": "tools/mine.json"}')  # a file of the user
    assert adapter_record(tmp_path).template == "tools/mine.json"
    (tmp_path / "trice.json").write_text('{"template": "tools:tools_in_user_message=false"}')
    assert adapter_record(tmp_path).prompt_template() == prompt_template("chat:tools_in_user_message=false")


@pytest.mark.parametrize("name", ["plain", "alpaca", "vicuna"])
@pytest.mark.parametrize("input", ["3 + 4?", ""])
def test_a_response_ends_where_the_model_goes_on_with_the_next_worked_example(name: str, input: str) -> None:
    template = load_template(name)
    examples = template.text("Solve.", input, [Example("1 + 2?", "3")])
    beginning = template.text("Solve.", input)
    assert examples.endswith(beginning)
    between = template.example_end + beginning  # what stands behind every answer of the prompt
    assert GenerationSettings(template).finish(f"7{between}") == "7"
    assert GenerationSettings(template).finish("7") is None
