"""The translator: Apertium where it is installed, tiny models of each kind, an endpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
from stand_in_server import StandIn

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.formats import paper
from trice.tools import BatchTool, apertium, load_tool
from trice.tools.languages import detect
from trice.tools.text_models import first_line
from trice.tools.translator import PROMPT, TOKENS
from trice.tools.worker_pool import run
from trice.types import Execution, Outcome, Question, ToolCall

pytest.importorskip("py3langid", reason="the extra 'search' is not installed")
SPANISH = ["¿Dónde vive Ana?", "la casa", "blanca es grande", "El perro glúrbico come."]


def translate(source: str | None, *texts: str) -> list[str]:
    tool = load_tool("translator", source)
    assert isinstance(tool, BatchTool)
    return tool.execute_batch([tool.parse(text) for text in texts])


def translated(source: str | None, text: str) -> Execution:
    """What the call, as a model writes it, gives."""
    tool = load_tool("translator", source)
    return run(tool, ToolCall(name=tool.name, arguments=tool.parse(text)))


@pytest.fixture
def installed() -> None:
    if not apertium.pairs():
        pytest.skip("Apertium with a pair into English is not installed")


@pytest.fixture
def no_apertium(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_apertium_keeps_many_texts_apart() -> None:
    together = translate("apertium", *SPANISH)
    assert together[0].endswith("Ana?")
    assert "Where" in together[0]
    assert together[3] == "The dog glúrbico eats."  # no mark at the word it does not know
    # As lines "la casa" and "blanca …" would give "The white" and "house …".
    assert together == [translate("apertium", text)[0] for text in SPANISH]


@pytest.mark.usefixtures("installed")
def test_another_language_than_apertium_knows_is_named() -> None:
    assert translated("apertium", "Wer war der erste Kaiser von Österreich?").error == (
        "the text seems to be German; the installed pairs are for Spanish"
    )


@pytest.mark.usefixtures("installed")
def test_an_apertium_that_translates_nothing_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    apertium.pairs()  # known before
    monkeypatch.setattr(apertium, "TIMEOUT", 0.0001)
    with pytest.raises(ToolUnavailable, match=r"Apertium gave no translation \(TimeoutExpired\)"):
        translated("apertium", SPANISH[0])


def test_english_stays_as_it_is() -> None:
    assert translate("apertium", "Where is the old house?") == ["Where is the old house?"]


@pytest.mark.usefixtures("no_apertium")
def test_without_apertium_its_packages_are_named() -> None:
    tool = load_tool("translator", "apertium")
    assert shutil.which("apertium") is None
    with pytest.raises(InputError, match="apt install apertium apertium-eng-spa"):
        tool.check()
    with pytest.raises(ToolUnavailable, match="apertium-eng-spa"):
        run(tool, ToolCall(name="translator", arguments={"text": SPANISH[0]}))


FOREIGN = ["¿Dónde vive Ana?", "Wer war der erste Kaiser von Österreich?", "¿Quién escribió la novela?"]


def by_hand(folder: str, text: str, source: str = "", target: int | None = None) -> str:
    """What the model's own `generate` writes for one text alone."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    if source:
        tokenizer.src_lang = source
    forced: dict[str, Any] = {} if target is None else {"forced_bos_token_id": target}
    inputs = tokenizer(text, return_tensors="pt")
    ids = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    (written,) = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False, **forced)
    return first_line(tokenizer.decode(written, skip_special_tokens=True).removeprefix("__en__"))


@pytest.mark.parametrize(
    ("make", "spanish", "german"),
    [
        (small_models.marian, "", ""),
        (small_models.nllb, "spa_Latn", "deu_Latn"),
        (small_models.m2m100, "es", "de"),
    ],
)
def test_a_seq2seq_model_is_told_the_language(
    make: Callable[[Path], str], spanish: str, german: str, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece", reason="the extra 'search' is not installed")
    from transformers import AutoTokenizer

    folder = make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    target = None
    if spanish:
        target = (
            tokenizer.get_lang_id("en") if spanish == "es" else tokenizer.convert_tokens_to_ids("eng_Latn")
        )
    expected = [
        by_hand(folder, text, code, target)
        for text, code in zip(FOREIGN, [spanish, german, spanish], strict=True)
    ]
    assert all(expected)
    assert translate(folder, *FOREIGN) == expected
    assert translate(f"{folder}#es", FOREIGN[1]) == [by_hand(folder, FOREIGN[1], spanish, target)]
    if make is small_models.nllb:  # told another language, it writes another text
        assert by_hand(folder, FOREIGN[1], spanish, target) != expected[1]


def test_a_language_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    folder = small_models.nllb(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=["eng_Latn", "spa_Latn"])
    tokenizer.save_pretrained(folder)
    error = translated(folder, FOREIGN[1]).error
    assert error == "the text seems to be German, which the model does not support"


def test_a_causal_model_is_shown_translations(tiny_model: Callable[[str], Path]) -> None:
    from trice.models.local import load

    folder = str(tiny_model("llama"))
    loaded = load(folder, device="cpu")
    inputs = loaded.tokenizer(f"{PROMPT}Text: {FOREIGN[0]}\nEnglish:", return_tensors="pt")
    ids = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    (written,) = loaded.model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
    text = loaded.tokenizer.decode(written[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert translate(folder, FOREIGN[0]) == [first_line(text)]


def test_an_endpoint_translates_and_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_API_KEYS", "sk-secret-of-the-test")

    def answer(asked: str) -> str:
        return f"\n In English: {asked.splitlines()[-2][6:]} \nand more"

    with StandIn(answer, script={"Kaiser": ["400"]}) as server:
        source = f"{server.url}#some/model"
        with pytest.raises(ToolError, match="HTTP 400: the model said no"):
            translate(source, *FOREIGN)
        assert translate(source, *FOREIGN) == [f"In English: {text}" for text in FOREIGN]
        assert set(server.paid.values()) == {1}
        assert server.seen[0].body["model"] == "some/model"
        assert server.seen[0].key == "sk-secret-of-the-test"


@pytest.mark.usefixtures("installed")
def test_what_apertium_does_not_know_goes_to_the_base_model(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import says

    monkeypatch.setattr(
        "trice.tools.text_models.MODEL", str(says(tiny_model("llama"), tmp_path / "says", "7"))
    )
    assert translate(None, *FOREIGN) == [
        translate("apertium", FOREIGN[0])[0],
        "7",
        *translate("apertium", FOREIGN[2]),
    ]


@pytest.mark.usefixtures("no_apertium")
def test_without_apertium_the_base_model_translates_all(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import says

    monkeypatch.setattr(
        "trice.tools.text_models.MODEL", str(says(tiny_model("llama"), tmp_path / "says", "7"))
    )
    assert translate(None, *FOREIGN, "Who sings?") == ["7", "7", "7", "Who sings?"]


@pytest.mark.usefixtures("no_apertium")
def test_the_version_names_what_translates(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("llama")
    before = load_tool("translator", str(folder)).version
    assert before != load_tool("translator", f"{folder}#es").version
    assert load_tool("translator").version != load_tool("translator", "apertium").version
    (folder / "model.safetensors").touch()
    assert before != load_tool("translator", str(folder)).version


def test_the_same_question_is_asked_again_in_english() -> None:
    tool = load_tool("translator")
    question = Question(id="x_1", input="Context: Ana lives here.\nQuestion: ¿Dónde vive Ana?", answer="here")
    assert tool.suggest_arguments(question) == "¿Dónde vive Ana?"
    (again,) = tool.second_turn(question, "Where does Ana live?")
    assert again.input == "Context: Ana lives here.\nQuestion: Where does Ana live?"


def test_a_text_is_bounded_and_a_source_must_be_there(tmp_path: Path) -> None:
    tool = load_tool("translator")
    for written in ("''", "x" * 1001):
        assert paper.parse(f"translator({written})", {tool.name: tool.parse}).outcome is Outcome.MALFORMED
    with pytest.raises(InputError, match="neither a folder with a model"):
        load_tool("translator", str(tmp_path / "none")).check()
    with pytest.raises(InputError, match="'xx' is not a known language"):
        load_tool("translator", "some/model#xx")
    with pytest.raises(InputError, match="URL#model-name"):
        load_tool("translator", "http://127.0.0.1:9/v1").check()


def test_languages_are_told_apart() -> None:
    asked = {"es": "¿Quién escribió la novela?", "fr": "Qui est le président ?", "de": "Wer war der Kaiser?"}
    asked |= {
        "en": "Who was the emperor?",
        "it": "Chi è il presidente?",
        "vi": "Ai là tổng thống?",
        "zh": "谁是总统",
    }
    assert {language: detect(text) for language, text in asked.items()} == {code: code for code in asked}


@pytest.mark.usefixtures("installed")
def test_a_translation_that_fails_names_no_text() -> None:
    with pytest.raises(ToolError, match="Italian"):
        apertium.translate(["Chi è il presidente?"], "it")
