"""The translator tool: a text in another language, in English.

The default is Apertium for its installed languages (Debian: apertium, apertium-eng-spa), and the base model with
few-shot examples for all others. English text is returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trice.errors import InputError, ToolError
from trice.tools import BatchTool, apertium, parse_text_argument, text_models, text_schema
from trice.tools.answer_matching import contains_answer
from trice.tools.languages import ENGLISH, LANGUAGES, detect
from trice.tools.second_turn import second_turn_question, split_context
from trice.tools.text_models import ModelSource
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
PROMPT = "Translate into English.\n\n" + "".join(
    f"Text: {text}\nEnglish: {english}\n\n" for text, english in EXAMPLES
)
PROMPT_VERSION = 1  # version of the prompts, on which the outputs depend


class Translator(BatchTool):
    """`translator(¿Dónde vive Ana?)` gives `Where does Ana live?`.

    `source` is `apertium`, a model (seq2seq, or causal with few-shot examples), or `URL#model` for an endpoint; None
    is Apertium if it supports the language, else the base model. A multilingual seq2seq model gets the language of the
    text: the detected one, or the one of `model#es`."""

    name = "translator"
    description = "Translates a text into English."
    needs_second_turn = True

    def __init__(self, source: str | None = None) -> None:
        model, self.language = ModelSource.parse(source or "")
        self._apertium_only = model is not None and model.model == APERTIUM
        self._model = None if self._apertium_only else model  # None is Apertium, else the base model
        self.backend, self.run_early = source or "", model is not None and model.url is not None
        if self.language and self.language not in LANGUAGES:
            raise InputError(
                f"translator '{source}': '{self.language}' is not a known language; write a code such as es or fr"
            )

    @property
    def model(self) -> ModelSource:
        """The model that translates what Apertium does not."""
        return self._model or ModelSource(text_models.MODEL)

    @property
    def version(self) -> str | None:
        names = [] if self._model else [apertium.version()]
        if not self._apertium_only:
            if self.model.version is None:
                return None
            names.append(f"{self.model.version} {PROMPT_VERSION}")
        return ", ".join([*names, *apertium.pairs().values(), self.language])

    def check(self) -> None:
        """Raise InputError if Apertium, the language detector or the model is missing."""
        if self._apertium_only:
            apertium.check()
        elif self._model or not apertium.pairs():
            text_models.model_kind(self.model)
        detect("")

    @property
    def schema(self) -> dict[str, Any]:
        return text_schema("text")

    def parse(self, text: str) -> dict[str, Any]:
        """The argument `text`. Raises ValueError for one that is too long."""
        return parse_text_argument(text, "text", MAX_TEXT)

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        """The translations, made language by language. Raises ToolError if one cannot be made."""
        texts = [call["text"] for call in calls]
        languages = [self.language or detect(text) for text in texts]
        installed = {} if self._model else apertium.pairs()
        done = {text: text for text, language in zip(texts, languages, strict=True) if language == ENGLISH}
        for language in dict.fromkeys(languages):
            same = [text for text, its in zip(texts, languages, strict=True) if its == language]
            if language == ENGLISH:
                continue
            by_apertium = self._apertium_only or language in installed
            translate = apertium.translate if by_apertium else _by_model(self.model)
            done |= zip(same, translate(same, language), strict=True)
        return [done[text] for text in texts]

    def second_turn(self, question: Question, output: str) -> list[Question]:
        """The translated question in place of the original one."""
        return [second_turn_question(question, split_context(question.input)[0], output)]

    def supports_answer(self, question: Question, output: str) -> bool:
        """Whether the question has a context that contains a gold answer."""
        return contains_answer(split_context(question.input)[0], question.answers)

    def suggest_arguments(self, question: Question) -> str | None:
        """The question itself, as in the paper."""
        return split_context(question.input)[1]


def _by_model(model: ModelSource) -> Callable[[Sequence[str], str], list[str]]:
    """A function that translates texts of one language with a model."""
    writer = text_models.open_writer(model)
    if isinstance(writer, text_models.Seq2SeqWriter):
        return lambda texts, language: _seq2seq(writer, texts, language)
    return lambda texts, _: writer.write([f"{PROMPT}Text: {_line(text)}\nEnglish:" for text in texts], TOKENS)


def _seq2seq(writer: text_models.Seq2SeqWriter, texts: Sequence[str], language: str) -> list[str]:
    """The translations of a seq2seq model, which may need the codes of the languages.

    Raises ToolError for a language that the model does not support."""
    tokenizer = writer.tokenizer
    if not hasattr(tokenizer, "src_lang"):  # a model of one direction, like most Marian models
        return writer.write(texts, TOKENS)
    codes: dict[str, int] = getattr(tokenizer, "lang_code_to_id", None) or {
        token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens
    }
    source, target = _code(codes, language), _code(codes, ENGLISH)
    if source is None or target is None:
        raise ToolError(f"the text seems to be {LANGUAGES[language].name}, which the model does not support")
    with writer.lock:
        tokenizer.src_lang = source
        return writer.write(texts, TOKENS, begin=codes[target])


def _code(codes: Iterable[str], language: str) -> str | None:
    """A tokenizer's code of a language: `spa_Latn` in NLLB, `es` in M2M100, `es_XX` in mBART."""
    names = (language, LANGUAGES[language].flores)
    return next((code for code in codes if code in names or code.startswith(f"{language}_")), None)


def _line(text: str) -> str:
    return " ".join(text.split())
