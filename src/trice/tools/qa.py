"""The QA tool: short answers to questions, and the missing words of cloze sentences.

It retrieves and reads: WikiSearch finds the best passage for the question's key terms, and a model answers with the
passage in view. Long answers and abstention are not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trice.errors import ToolError
from trice.tools import (
    BatchTool,
    cloze_questions,
    extractive_qa,
    parse_text_argument,
    text_models,
    text_schema,
)
from trice.tools.answer_matching import words
from trice.tools.key_terms import key_terms
from trice.tools.second_turn import split_context, with_context
from trice.tools.sentence_ranking import split_sentences
from trice.tools.text_models import ModelSource
from trice.tools.wikisearch import WikiSearch
from trice.types import Question

MAX_QUESTION = 600  # characters
WORDS = 60  # of a passage that a causal model or an endpoint reads
TOKENS = 16  # of an answer, at most
QUESTIONS = (
    (
        "Peru: Peru is a country in South America. Its capital is Lima.",
        "What is the capital of Peru?",
        "Lima",
    ),
    ("Owl: Owls are birds of prey. Most of them hunt at night.", "When do owls hunt?", "at night"),
    ("Toyota: Toyota is a car maker founded by Kiichiro Toyoda.", "who started toyota?", "Kiichiro Toyoda"),
)
CLOZES = (
    ("language", "Anders Zorn (born 18 February 1860) was a [MASK] painter and sculptor.", "Swedish"),
    ("television network", "Friends is a sitcom that aired on [MASK] from 1994 to 2004.", "NBC"),
    ("city", "Frida Kahlo died in [MASK] at the age of 47.", "Mexico City"),
    ("company", "The Corolla is a compact car made by [MASK] since 1966.", "Toyota"),
    ("profession", "Haruki Murakami is a Japanese [MASK], best known for Norwegian Wood.", "novelist"),
    ("instrument", "Chopin wrote mainly for solo [MASK].", "piano"),
    ("country", "Timbuktu is a city in [MASK], north of the Niger River.", "Mali"),
)
GAP = "____"
READ = (
    (
        "Anders Zorn: Swedish painter. Anders Zorn was one of Sweden's foremost artists.",
        "Anders Zorn was a [MASK] painter and sculptor.",
        "Swedish",
    ),
    (
        "Friends: American sitcom. Friends aired on NBC from 1994 to 2004, lasting ten seasons.",
        "Friends is a sitcom of the network [MASK].",
        "NBC",
    ),
    (
        "Frida Kahlo: Mexican painter. Kahlo was born in Coyoacán and died in Mexico City.",
        "Frida Kahlo died in [MASK] at the age of 47.",
        "Mexico City",
    ),
    (
        "Corolla: The corolla is the part of a flower that its petals form.",
        "The Corolla is a compact car made by [MASK] since 1966.",
        "Toyota",
    ),
    (
        "Haruki Murakami: Japanese writer. His novels have been translated into 50 languages.",
        "Haruki Murakami became known as a [MASK].",
        "writer",
    ),
    (
        "Timbuktu: City in Mali. Timbuktu is an ancient city situated north of the Niger River.",
        "[MASK] is the country in which Timbuktu lies.",
        "Mali",
    ),
)
SENTENCES = 2  # of each passage that is read for a cloze
READ_WORDS = 80  # of the passages that are read for a cloze
RELEVANT = 0.5  # share of a cloze's key terms that a sentence must have, else no passage is read
PROMPT_VERSION = 2  # version of the prompts, on which the outputs depend


class QA(BatchTool):
    """`QA(What is the capital of Peru?)` gives `Lima`.

    `source` is a model (extractive, seq2seq, or causal with few-shot examples), or `URL#model` for an endpoint; None
    is the base model. The text after a further `#` is the source of the passages, any source of WikiSearch."""

    name = "QA"
    description = "Answers a question in a few words."

    def __init__(self, source: str | None = None) -> None:
        model, searched = ModelSource.parse(source or "")
        self.model, self.backend = model or ModelSource(text_models.MODEL), source or ""
        self.run_early = self.model.url is not None
        self._search = WikiSearch(searched or None, passages=2)

    @property
    def version(self) -> str | None:
        if self.model.version is None or self._search.version is None:
            return None
        return f"{self.model.version} {PROMPT_VERSION}, {self._search.version}"

    def check(self) -> None:
        """Raise InputError if the model or the searched source is missing."""
        text_models.model_kind(self.model)
        self._search.check()

    @property
    def schema(self) -> dict[str, Any]:
        return text_schema("question")

    def parse(self, text: str) -> dict[str, Any]:
        """The argument `question`. Raises ValueError for one that is too long."""
        return parse_text_argument(text, "question", MAX_QUESTION)

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        """The answers. Raises ToolError if an extractive model has no passage, or an endpoint fails."""
        questions = [" ".join(call["question"].split()) for call in calls]
        if text_models.model_kind(self.model) == "extractive":
            return [self._span(question) for question in questions]
        writer = text_models.open_writer(self.model)
        return writer.write([self._prompt(each, writer.needs_examples) for each in questions], TOKENS)

    def suggest_arguments(self, question: Question) -> str | None:
        """A cloze as a question for the masked word, by its field `relation`; any other question unchanged."""
        asked = split_context(question.input)[1]
        if cloze_questions.MASK not in asked:
            return asked
        return cloze_questions.cloze_question(asked, (question.model_extra or {}).get("relation"))

    def _prompt(self, question: str, few_shot: bool) -> str:
        """The prompt, with a passage unless it is a few-shot prompt for a cloze of a known kind, or for one about which
        nothing is found."""
        cloze = cloze_questions.parse_cloze(question)
        if few_shot and cloze:
            context = "" if cloze.kind else self._read(question)
            return _read_prompt(context, cloze) if context else _cloze_prompt(cloze)
        passages = self._passages(question)
        if few_shot:
            return _question_prompt(question, " ".join(passages))
        # as T5 was trained on SQuAD (Raffel and others, JMLR 2020, appendix D)
        return f"question: {question} context: {' '.join(passages)}"

    def _passages(self, question: str) -> list[str]:
        """The best passage, if any is found."""
        return self._search.find(_query(question))[:1]

    def _read(self, cloze: str) -> str:
        """The best sentences of the best passages; empty unless one has enough of the cloze's key terms."""
        terms, parts, share = set(words(_query(cloze))), [], 0.0
        for title, text in self._search.search(_query(cloze)):
            sentences = split_sentences(text)
            found = [len(terms.intersection(words(f"{title} {each}"))) for each in sentences]
            best = sorted(range(len(found)), key=lambda place: -found[place])[:SENTENCES]
            parts.append(
                ": ".join(filter(None, (title, " ".join(sentences[place] for place in sorted(best)))))
            )
            share = max([share, *(count / len(terms) for count in found if terms)])
        return " ".join(" ".join(parts).split()[:READ_WORDS]) if share >= RELEVANT else ""

    def _span(self, question: str) -> str:
        passages = self._passages(question)
        if not passages:
            raise ToolError("no passage was found to read the answer from")
        return extractive_qa.best_span(self.model.model, question, passages)


def _query(question: str) -> str:
    """What is searched for a question or a cloze."""
    return key_terms(question.replace(cloze_questions.MASK, " ")) or question


def _read_prompt(context: str, cloze: cloze_questions.Cloze) -> str:
    """The prompt with examples of clozes that a context helps with, and one that it does not."""
    examples = [(passage, text.replace(cloze_questions.MASK, GAP), word) for passage, text, word in READ]
    rows = [*examples, (context, f"{cloze.before}{GAP}{cloze.after}", "")]
    return "\n\n".join(
        f"Context: {passage}\nSentence: {text}\nAnswer: {word}" for passage, text, word in rows
    ).rstrip()


def _question_prompt(question: str, passage: str) -> str:
    """The prompt with examples of questions, which the model continues with the answer."""
    rows = [*QUESTIONS, (" ".join(passage.split()[:WORDS]), question, "")]
    return "\n\n".join(
        f"{with_context(text, asked)}\nAnswer: {answer}" for text, asked, answer in rows
    ).rstrip()


def _cloze_prompt(cloze: cloze_questions.Cloze) -> str:
    """The prompt with examples of clozes, which the model continues with the masked word.

    If the kind of the word is unknown, the model sees the end of the sentence first and continues its beginning;
    with the other prompt it would be right half as often."""
    if cloze.kind is None:
        halves = [(*text.split(cloze_questions.MASK), word) for _, text, word in CLOZES]
        examples = [f"After: {after.strip()}\nSentence: {before}{word}" for before, after, word in halves]
        return "\n\n".join([*examples, f"After: {cloze.after.strip()}\nSentence: {cloze.before.strip()}"])
    examples = [
        f"Fill in the {kind}: {text.replace(cloze_questions.MASK, GAP)}\nAnswer: {word}"
        for kind, text, word in CLOZES
    ]
    return "\n\n".join([*examples, f"Fill in the {cloze.kind}: {cloze.before}{GAP}{cloze.after}\nAnswer:"])
