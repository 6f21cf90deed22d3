"""GSM8K: steps composed into one expression, checked by hand."""

import json
from pathlib import Path

import pytest

from trice.datasets import gsm8k
from trice.datasets.benchmark import Dropped
from trice.errors import InputError
from trice.types import Question


@pytest.mark.parametrize(
    ("solution", "answer", "expression"),
    [
        ("May: 48/2 = <<48/2=24>>24.\nBoth: 48+24 = <<48+24=72>>72.", "72", "48+48/2"),
        ("<<12/60=0.2>>0.2 a minute, <<0.2*50=10>>10", "10", "12/60*50"),
        ("<<16-3-4=9>>9\n<<9*2=18>>18", "18", "(16-3-4)*2"),
        # Equal results: each is traced once, the most recent first.
        ("<<2+3=5>>\n<<10/2=5>>\n<<5+5=10>>", "10", "10/2+2+3"),
        # The last step answers another question than the one asked.
        ("<<6*7=42>>42\n<<42/7=6>>6 again", "42", "6*7"),
        # No step gives the answer: the last one is kept, for the label stage to reject.
        ("<<5*2=10>>\n<<10+2=12>>, so x is 18", "18", "5*2+2"),
        # Equations written out count where a line marks none, if they hold.
        ("<<6-2=4>>\n$4 x 3 = $<<4*3=12>>12.\nThat is $12 + $6,000 = $6,012.", "6012", "(6-2)*3+6000"),
        ("40 km / 5 km/hour = 8 hours", "8", "40/5"),
        ("30 * 2 = 70", "60", None),
        ("Let x be it. 2*x = 14, x = <<7=7>>7", "7", "7"),
        ("<<2^3=8>>8", "8", None),
        ("It is so.", "3", None),
    ],
)
def test_expression(solution: str, answer: str, expression: str | None) -> None:
    assert gsm8k.expression(solution, answer) == expression


def test_what_grows_without_end_is_cut_short() -> None:
    solution = "\n".join(f"<<{2**n}+{2**n}={2 ** (n + 1)}>>" for n in range(40))
    found = gsm8k.expression("\n".join([solution] * 20), str(2**40))
    assert found is not None
    assert len(found) <= 1_000


def write(folder: Path, *lines: str) -> Path:
    (folder / "gsm8k").mkdir(exist_ok=True)
    for part in ("train", "test"):
        (folder / f"gsm8k/{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def row(question: str, answer: str) -> str:
    return json.dumps({"question": question, "answer": answer})


def test_a_line_becomes_a_question_and_its_text_is_kept(tmp_path: Path) -> None:
    line = row("Two  blanks, 5*300?", "It is <<5*300=1500>>1,500.\n#### 1,500")
    parts = gsm8k.BENCHMARK.read(write(tmp_path, row("a", "#### 1"), line))
    question = gsm8k.question(parts["test"][1])
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "GSM8K_test-2",
        "dataset": "GSM8K",
        "input": "Two  blanks, 5*300?",
        "answer": "1500",
        "expression": "5*300",
    }


@pytest.mark.parametrize("answer", ["It is 5.", "It is #### five", "####"])
def test_no_number_after_the_mark_is_dropped(tmp_path: Path, answer: str) -> None:
    found = gsm8k.question(gsm8k.BENCHMARK.read(write(tmp_path, row("q", answer)))["train"][0])
    assert found == Dropped("GSM8K_train-1", "no number after '####' in the answer")


def test_hub_rows_go_the_same_way(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "<<1+1=2>>\n#### 2"}]
    hub = gsm8k.from_hub({"train": rows, "test": rows})
    file = gsm8k.BENCHMARK.read(write(tmp_path, json.dumps(rows[0])))
    for part in ("train", "test"):
        assert [gsm8k.question(each) for each in hub[part]] == [gsm8k.question(each) for each in file[part]]


def test_wrong_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl:2: not a JSON object"):
        gsm8k.BENCHMARK.read(write(tmp_path, row("q", "#### 1"), '{"question": '))
    with pytest.raises(InputError, match=r"train\.jsonl:1: not a JSON object"):
        gsm8k.BENCHMARK.read(write(tmp_path, "[]"))
    with pytest.raises(InputError, match=r"train\.jsonl:1: field 'answer': missing"):
        gsm8k.question(gsm8k.BENCHMARK.read(write(tmp_path, '{"question": "q"}'))["train"][0])
