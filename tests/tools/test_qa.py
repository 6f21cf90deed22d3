"""The QA model: tiny models of each kind over an index made here, and an endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import small_models
from stand_in_server import StandIn

from trice.errors import InputError
from trice.formats import paper
from trice.tools import BatchTool, load_tool
from trice.tools.passage_index import Passage, build_index
from trice.tools.qa import TOKENS
from trice.tools.text_models import first_line
from trice.tools.worker_pool import run
from trice.types import Outcome, Question, ToolCall

pytest.importorskip("tantivy", reason="the extra 'search' is not installed")
ASKED = ["Which owl shrieks?", "Where does the rook caw?"]
LONG = "At last the barn owl shrieks in the dark. " + "Some sing, some hum and some are silent. " * 12


@pytest.fixture
def index(tmp_path: Path) -> str:
    """Where passages are searched."""
    folder = tmp_path / "index"
    build_index([Passage("Barn owl", LONG), Passage("Rook", "The rook caws in Warsaw.")], folder)
    return str(folder)


def answers(source: str, *questions: str) -> list[str]:
    tool = load_tool("QA", source)
    tool.check()
    assert isinstance(tool, BatchTool)
    return tool.execute_batch([tool.parse(question) for question in questions])


def test_an_extractive_model_marks_the_best_span(index: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    folder = small_models.bert(tmp_path)
    tokenizer, model = (
        kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForQuestionAnswering)
    )
    passage = " ".join(f"Barn owl: {LONG}".split())
    windows = tokenizer(
        ASKED[0], passage, truncation="only_second", max_length=64, stride=8, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    spans = []
    for row in range(len(windows["input_ids"])):
        fed = {key: torch.tensor([windows[key][row]]) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            output = model(**fed)
        inside = [place for place, part in enumerate(windows.sequence_ids(row)) if part == 1]
        for start, end in itertools.product(inside, inside):
            if 0 <= end - start < 15:
                score = float(output.start_logits[0, start] + output.end_logits[0, end])
                first, last = windows["offset_mapping"][row][start][0], windows["offset_mapping"][row][end][1]
                spans.append((score, passage[first:last].strip()))
    assert len(windows["input_ids"]) > 3
    assert answers(f"{folder}#{index}", ASKED[0]) == [max(spans)[1]]


def test_an_extractive_model_needs_a_passage(index: str, tmp_path: Path) -> None:
    tool = load_tool("QA", f"{small_models.bert(tmp_path)}#{index}")
    error = run(tool, ToolCall(name="QA", arguments={"question": "zebra?"})).error
    assert error == "no passage was found to read the answer from"


def test_a_seq2seq_model_reads_question_and_context(index: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = small_models.t5(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)

    def by_hand(text: str) -> str:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        (written,) = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
        return first_line(tokenizer.decode(written, skip_special_tokens=True))

    contexts = [" ".join(f"Barn owl: {LONG}".split()), "Rook: The rook caws in Warsaw."]
    expected = [
        by_hand(f"question: {asked} context: {text}") for asked, text in zip(ASKED, contexts, strict=True)
    ]
    assert all(expected)
    assert answers(f"{folder}#{index}", *ASKED) == expected


def test_a_causal_model_answers_to_the_end_of_the_line(
    index: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    from tiny import says

    folder = says(tiny_model("llama"), tmp_path / "says", "7")
    assert answers(f"{folder}#{index}", *ASKED, "The rook caws in [MASK].") == ["7", "7", "7"]


def test_what_an_endpoint_is_asked(index: str) -> None:
    with StandIn(lambda asked: " Warsaw \nContext: more") as server:
        source = f"{server.url}#m#{index}"
        clozes = "The rook [MASK] in Warsaw.", "The rook flies far away to [MASK]."
        assert answers(source, ASKED[1], *clozes, "zebra?") == ["Warsaw"] * 4
        asked = {seen.question.rpartition("\n\n")[2] for seen in server.seen}
    assert asked == {
        "Context: Rook: The rook caws in Warsaw.\nQuestion: Where does the rook caw?\nAnswer:",
        "Context: Rook: The rook caws in Warsaw.\nSentence: The rook ____ in Warsaw.\nAnswer:",
        "After: .\nSentence: The rook flies far away to",  # one of "rook flies far away" is found
        "Context: \nQuestion: zebra?\nAnswer:",
    }


def test_a_cloze_is_asked_by_its_relation() -> None:
    tool = load_tool("QA")
    sentence = "Ana was born in [MASK]."
    born = Question(id="t_1", input=sentence, answer="Warsaw", relation="P19")
    assert tool.suggest_arguments(born) == f"Which city is missing: {sentence}"
    assert tool.suggest_arguments(Question(id="t_1", input=sentence, answer="x")) == sentence
    assert tool.suggest_arguments(Question(id="t_1", input="Who sings?", answer="Ana")) == "Who sings?"


def test_a_kind_that_is_named_is_asked_for(index: str) -> None:
    with StandIn(lambda asked: "Warsaw") as server:
        tool = load_tool("QA", f"{server.url}#m#{index}")
        tool.execute(question="Which city is missing: Ana was born in [MASK], and left.")
    assert server.seen[0].question.endswith("\n\nFill in the city: Ana was born in ____, and left.\nAnswer:")


def test_a_question_is_bounded_and_a_source_must_be_there(index: str, tmp_path: Path) -> None:
    tool = load_tool("QA")
    for written in ("''", "x" * 601):
        assert paper.parse(f"QA({written})", {tool.name: tool.parse}).outcome is Outcome.MALFORMED
    with pytest.raises(InputError, match="neither a folder with a model"):
        load_tool("QA", f"{tmp_path / 'none'}#{index}").check()
    with pytest.raises(InputError, match="there is no index in this folder"):
        load_tool("QA", f"{small_models.bert(tmp_path)}#{tmp_path}").check()


def test_the_version_names_the_model_and_what_is_searched(index: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build_index([Passage("Owl", "It hoots.")], other)
    versions = {load_tool("QA", source).version for source in (f"a#{index}", f"a#{other}", f"b#{index}")}
    assert len(versions) == 3
