"""Whatever a model writes, in whatever pieces: a stream's content is the answer, and nothing is taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trice.formats import paper
from trice.server.streamed_text import INCOMPLETE, StreamedAnswer
from trice.tools.calculator import Calculator
from trice.types import Outcome

NAMES = ("calculator", "QA")
PARSERS = {"calculator": Calculator().parse, "QA": lambda text: {"question": text}}
PIECES = st.sampled_from(
    ["calculator(", "calculator(1+2)", "calc", "QA", "QA(who?)", "Q", "A", "(", ")", "_", " ", "\n", "x", "é", "7",
     "ulator", "STOP", "ST", INCOMPLETE, "calculator()", "1", "🐛"]
)  # fmt: skip


def test_what_may_be_told() -> None:
    answer = StreamedAnswer(NAMES, ("STOP",))

    def told(text: str) -> str:
        answer.text = text
        return answer.next_piece()

    assert told("It is ") == "It is"
    assert told("It is calc") == ""  # could become a call: the white space before it waits too
    assert told("It is calcium") == " calcium"
    assert told("It is calcium S") == ""
    assert told("It is calcium So") == " So"
    assert told("It is calcium So" + INCOMPLETE) == ""
    assert told("It is calcium Soé calculator(1+2)") == "é"
    assert told("It is calcium Soé calculator(1+2) or so") == ""


@given(st.lists(PIECES, max_size=12), st.text(max_size=5))
def test_the_pieces_of_a_stream_are_the_answer(parts: list[str], final: str) -> None:
    answer = StreamedAnswer(NAMES, ("STOP",))
    contents: list[str] = []
    raws: list[str] = []
    written = ""
    for part in parts:
        written += part
        before, found, _ = written.lstrip().partition("STOP")
        answer.text = before if found else written.lstrip()
        if not found:
            contents.append(answer.next_piece())
            raws.append(answer.next_raw_piece())
        else:
            break
    answer.text = answer.text.strip()
    answer.reading = paper.parse(answer.text, PARSERS)
    raws.append(answer.next_raw_piece())
    contents.append(answer.next_piece())
    assert answer.text.startswith("".join(contents))
    answer.final = answer.text if answer.reading.outcome is Outcome.ANSWERED else final
    contents.append(answer.next_piece())
    assert "".join(contents) == answer.content()
    assert "".join(raws) == answer.text
    alone = StreamedAnswer(NAMES, text=answer.text, reading=answer.reading, final=answer.final)
    assert alone.content() == answer.content()
