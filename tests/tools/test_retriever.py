"""The retriever: it searches the passages of a question, or WikiSearch if there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trice.errors import InputError
from trice.tools import Tool, load_tool
from trice.tools.passage_index import Passage, build_index
from trice.tools.retriever import Retriever
from trice.tools.wikisearch import WORDS
from trice.tools.worker_pool import run
from trice.types import Execution, Question, ToolCall

OWLS = [
    {"title": "Rook", "text": "The rook is a bird that caws."},
    {"title": "Barn owl", "text": "It shrieks."},
    {"title": "Owl", "text": "Most owls hoot. A " + "long " * 500 + "list of owls."},
    {"title": "", "text": "An owl cannot move its eyes."},
]


def question(**extra: Any) -> Question:
    return Question(id="h_1", input="Which owl shrieks?", answer="the barn owl", **extra)


def ask(tool: Tool, query: str) -> Execution:
    return run(tool, ToolCall(name=tool.name, arguments=tool.parse(query)))


def test_the_best_given_passages_come_a_line_each() -> None:
    tool = load_tool("retriever").for_question(question(passages=OWLS))
    first, second = (ask(tool, "OWL shrieks").output or "").split("\n")
    assert first == "Barn owl: It shrieks."
    assert second.startswith("Owl: Most owls hoot.")  # the query names its title
    assert len((ask(tool, "hoot").output or "").split()) == WORDS


def test_scores_are_bm25() -> None:
    # Both have the query's word, the first once in 3 words and the second twice in 9, of 6 on average:
    # 2.2 / (1 + 1.2 × (0.25 + 0.75 × 3/6)) = 1.257 and 4.4 / (2 + 1.2 × (0.25 + 0.75 × 9/6)) = 1.205.
    near = [{"text": "owl b c"}, {"text": "owl owl c d e f g h i"}]
    assert (ask(load_tool("retriever").for_question(question(passages=near)), "owl").output or "")[
        :7
    ] == "owl b c"
    # With 8 words: 4.4 / (2 + 1.2 × (0.25 + 0.75 × 8/5.5)) = 1.220 against 2.2 / (1 + 1.2 × (…3/5.5)) = 1.229;
    # with 6: 4.4 / (2 + 1.2 × (0.25 + 0.75 × 6/4.5)) = 1.257 against 2.2 / (1 + 1.2 × (… 3/4.5)) = 1.158.
    far = [{"text": "owl b c"}, {"text": "owl owl c d e f"}]
    assert (ask(load_tool("retriever").for_question(question(passages=far)), "owl").output or "")[
        :7
    ] == "owl owl"


def test_no_word_in_common_is_an_error_as_data() -> None:
    tool = load_tool("retriever").for_question(question(passages=[*OWLS, {"text": ""}]))
    assert ask(tool, "zebra").error == "nothing was found"
    assert ask(load_tool("retriever").for_question(question(passages=[{"text": ""}])), "zebra").error


def test_a_question_without_passages_is_searched_like_wikisearch(tmp_path: Path) -> None:
    build_index([Passage("Tawny owl", "It hoots.")], tmp_path / "index")
    tool = load_tool("retriever", str(tmp_path / "index"))
    assert tool.for_question(question()) is tool
    assert ask(tool, "hoots").output == "Tawny owl: It hoots."
    assert (
        ask(tool.for_question(question(passages=OWLS)), "caws").output
        == "Rook: The rook is a bird that caws."
    )


def test_outputs_of_other_passages_are_kept_apart() -> None:
    tool = load_tool("retriever")
    versions = {tool.for_question(question(passages=OWLS[:count])).version for count in (1, 2, 3)}
    assert len(versions) == 3
    assert (
        tool.for_question(question(passages=OWLS)).version
        == tool.for_question(question(passages=OWLS)).version
    )


@pytest.mark.parametrize("wrong", ["text", [1], [{"title": "no text"}], {"text": "x"}, 5])
def test_passages_of_another_form_are_refused_by_name(wrong: object) -> None:
    with pytest.raises(InputError, match="field 'passages': not a list of objects with title and text"):
        Retriever().for_question(question(passages=wrong))
