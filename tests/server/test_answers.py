"""Whatever a model writes, in whatever pieces: a stream's content is the answer, and nothing is taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trice.formats import paper
from trice.server.streamed_text import UNFINISHED, Answer
from trice.tools.calculator import Calculator
from trice.types import Execution, Outcome

NAMES = ("calculator", "QA")
PARSERS = {"calculator": Calculator().parse, "QA": lambda text: {"question": text}}
PIECES = st.sampled_from(
    ["calculator(", "calculator(1+2)", "calc", "QA", "QA(who?)", "Q", "A", "(", ")", "_", " ", "\n", "x", "é", "7",
     "ulator", "STOP", "ST", UNFINISHED, "calculator()", "1", "🐛"]
)  # fmt: skip


def test_what_may_be_told() -> None:
    answer = Answer(NAMES, ("STOP",))

    def told(text: str) -> str:
        answer.said = text
        return answer.piece()

    assert told("It is ") == "It is"
    assert told("It is calc") == ""  # could become a call: the white space before it waits too
    assert told("It is calcium") == " calcium"
    assert told("It is calcium S") == ""
    assert told("It is calcium So") == " So"
    assert told("It is calcium So" + UNFINISHED) == ""
    assert told("It is calcium Soé calculator(1+2)") == "é"
    assert told("It is calcium Soé calculator(1+2) or so") == ""


@given(st.lists(PIECES, max_size=12), st.booleans(), st.none() | st.lists(st.text(max_size=5), min_size=1))
def test_the_pieces_of_a_stream_are_the_answer(
    parts: list[str], works: bool, turns: list[str] | None
) -> None:
    answer = Answer(NAMES, ("STOP",))
    contents: list[str] = []
    raws: list[str] = []
    written = ""
    for part in parts:
        written += part
        before, found, _ = written.lstrip().partition("STOP")
        answer.said = before if found else written.lstrip()
        if not found:
            contents.append(answer.piece())
            raws.append(answer.raw_piece())
        else:
            break
    answer.said = answer.said.strip()
    answer.reading = paper.parse(answer.said, PARSERS)
    raws.append(answer.raw_piece())
    contents.append(answer.piece())
    assert answer.said.startswith("".join(contents))
    if answer.reading.outcome is Outcome.CALLED:
        answer.execution = Execution(output="3") if works else Execution(error="no")
        answer.turns = turns if works else None
    answer.over = True
    contents.append(answer.piece())
    assert "".join(contents) == answer.content()
    assert "".join(raws) == answer.said
    alone = Answer(
        NAMES, said=answer.said, reading=answer.reading, execution=answer.execution, turns=answer.turns
    )
    assert alone.content() == answer.content()
