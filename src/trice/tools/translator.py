"""The translator: a text in another language, in English.

The embedded default is Apertium for the languages it knows on this machine (Debian: apertium, apertium-eng-spa),
and the base model, shown a few translations, for all others. A text that is English already is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trice.errors import InputError, ToolError
from trice.models.server_pool import is_url
from trice.tools import BatchTool, apertium, parse_text_argument, text_models, text_schema
from trice.tools.languages import ENGLISH, LANGUAGES, detect
from trice.tools.second_turn import contains_answer, second_turn_question, split_context
from trice.types import Question

MAX_TEXT = 1_000  # characters
TOKENS = 128  # of a translation, at most
APERTIUM = "apertium"
EXAMPLES = (
    ("¿Quién escribió la novela «Rayuela»?", "Who wrote the novel “Hopscotch”?"),
    ("Wie viele Menschen leben in der Stadt?", "How many people live in the city?"),
    ("Où se trouve le plus haut sommet des Alpes ?", "Where is the highest peak of the Alps?"),
    ("¿Cuándo se construyó el puente?", "When was the bridge built?"),
)
SHOWN = "Translate into English.\n\n" + "".join(
    f"Text: {text}\nEnglish: {english}\n\n" for text, english in EXAMPLES
)
FORM = 1  # of what models are asked; another one makes other translations


class Translator(BatchTool):
    """`translator(¿Dónde vive Ana?)` gives `Where does Ana live?`.

    `source` is `apertium`, a model (seq2seq, or causal and shown examples), or `URL#model` for an endpoint; None is
    Apertium where it knows the language, else the base model. A multilingual seq2seq model is told the language of
    the text: the one that is detected, or that of `model#es`."""

    name = "translator"
    description = "Translates a text into English."
    needs_second_turn = True

    def __init__(self, source: str | None = None) -> None:
        self.source, self.language = text_models.split_source(source or "")
        self.backend, self.run_early = source or "", is_url(self.source)
        if self.language and self.language not in LANGUAGES:
            raise InputError(
                f"translator '{source}': no language is called '{self.language}'; write es, fr, …"
            )

    @property
    def version(self) -> str | None:
        if is_url(self.source):
            return None
        names = [apertium.version()] if self.source in ("", APERTIUM) else []
        if self.source != APERTIUM:
            names.append(f"{text_models.version(self.source or text_models.MODEL)} {FORM}")
        return ", ".join([*names, *apertium.pairs().values(), self.language])

    def check(self) -> None:
        """Raise InputError where Apertium, the detection of languages, or the model is missing."""
        if self.source == APERTIUM:
            apertium.check()
        elif self.source or not apertium.pairs():
            text_models.kind(self.source or text_models.MODEL)
        detect("")

    @property
    def schema(self) -> dict[str, Any]:
        return text_schema("text")

    def parse(self, text: str) -> dict[str, Any]:
        """The argument `text`. Raises ValueError for one that is too long."""
        return parse_text_argument(text, "text", MAX_TEXT)

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        """The translations, language by language. Raises ToolError where one cannot be made."""
        texts = [call["text"] for call in calls]
        languages = [self.language or detect(text) for text in texts]
        known = apertium.pairs() if not self.source else {}
        done = {text: text for text, language in zip(texts, languages, strict=True) if language == ENGLISH}
        for language in dict.fromkeys(languages):
            same = [text for text, its in zip(texts, languages, strict=True) if its == language]
            if language == ENGLISH:
                continue
            by_program = self.source == APERTIUM or language in known
            translate = apertium.translate if by_program else _by_model(self.source or text_models.MODEL)
            done |= zip(same, translate(same, language), strict=True)
        return [done[text] for text in texts]

    def second_turn(self, question: Question, output: str) -> list[Question]:
        """The translated question in the place of the foreign one."""
        return [second_turn_question(question, split_context(question.input)[0], output)]

    def supports_answer(self, question: Question, output: str) -> bool:
        """Whether there is a context with a gold answer in it, for the translated question to be asked over."""
        return contains_answer(split_context(question.input)[0], question.answers)

    def suggest_arguments(self, question: Question) -> str | None:
        """The question itself, as in the paper."""
        return split_context(question.input)[1]


def _by_model(source: str) -> Callable[[Sequence[str], str], list[str]]:
    """What translates texts of one language with a model."""
    writer = text_models.open_writer(source)
    if isinstance(writer, text_models.Seq2Seq):
        return lambda texts, language: _seq2seq(writer, texts, language)
    return lambda texts, _: writer.write([f"{SHOWN}Text: {_line(text)}\nEnglish:" for text in texts], TOKENS)


def _seq2seq(writer: text_models.Seq2Seq, texts: Sequence[str], language: str) -> list[str]:
    """The translations of a model that may have to be told the languages.

    Raises ToolError for a language that it does not know."""
    tokenizer = writer.tokenizer
    if not hasattr(tokenizer, "src_lang"):  # a model of one direction, as most of Marian's
        return writer.write(texts, TOKENS)
    codes: dict[str, int] = getattr(tokenizer, "lang_code_to_id", None) or {
        token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens
    }
    source, target = _code(codes, language), _code(codes, ENGLISH)
    if source is None or target is None:
        raise ToolError(f"the text seems to be {LANGUAGES[language].name}, which the model does not know")
    with writer.alone:
        tokenizer.src_lang = source
        return writer.write(texts, TOKENS, begin=codes[target])


def _code(codes: Iterable[str], language: str) -> str | None:
    """What a tokenizer calls a language: `spa_Latn` in NLLB, `es` in M2M100, `es_XX` in mBART."""
    names = (language, LANGUAGES[language].flores)
    return next((code for code in codes if code in names or code.startswith(f"{language}_")), None)


def _line(text: str) -> str:
    return " ".join(text.split())
