"""ASDiv: the official XML, its folds, the rule for the arithmetic part."""

from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from trice.datasets import asdiv
from trice.datasets.benchmark import Dropped
from trice.errors import InputError
from trice.types import Question

FIELDS = ("Body", "Question", "Solution-Type", "Answer", "Formula")
PROBLEMS = [
    ("Seven red pens and two\n  green pens lie here.", "How many pens?", "Addition", "9 (pens)", "7+2=9"),
    ("A hall has 29 chairs, 9 in a row.", "How many full rows?", "Floor-Division", "3 (rows)", "29/9=3 r2"),
    ("29 people ride in cars of 9.", "How many cars?", "Ceil-Division", "4 (cars)", "29/9=3 r2"),
    ("x is 3 more than y.", "What is x, if y is 5?", "Algebra-1", "8", "x=3+5"),
    ("Fay has 5 pears and 5 figs.", "How many fruits?", "Addition", "10 (fruits)", "5+5=10"),
    ("A train leaves at 4 and takes 2 hours.", "When is it there?", "Addition", "6:00", "4+2=6"),
]


def write(folder: Path, problems: list[tuple[str, ...]], head: str = "") -> Path:
    """An ASDiv.xml in the official form."""
    body = ""
    for number, problem in enumerate(problems, start=1):
        fields = "".join(
            f"<{field}>{escape(text)}</{field}>" for field, text in zip(FIELDS, problem, strict=False)
        )
        body += f'<Problem ID="nluds-{number:04}" Grade="1" Source="here">{fields}</Problem>'
    path = folder / asdiv.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"<Machine-Reading-Corpus-File><ProblemSet>{body}</ProblemSet></Machine-Reading-Corpus-File>"
    path.write_text(f'<?xml version="1.0" encoding="UTF-8" ?>\n{head}{text}', encoding="utf-8")
    return path


def test_a_problem_becomes_a_question(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    question = asdiv.question(asdiv.read(tmp_path)["all"][0])
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "ASDiv_nluds-0001",
        "dataset": "ASDiv",
        "input": "Seven red pens and two green pens lie here. How many pens?",
        "answer": "9",
        "expression": "7+2",
    }


def test_the_rule_takes_plain_formulas_of_numbers_named_once(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    parts = asdiv.read(tmp_path)
    assert [record.name for record in parts["all"]] == ["nluds-0001", "nluds-0006"]
    assert len(parts["outside"]) == 4


def test_words_are_numbers_too() -> None:
    assert asdiv.numbers("Forty-two of 1,200 boys bought two dozen for $3.50") == [42, 1200, 2, 12, 3.5]


def test_a_time_is_no_numeric_answer(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    dropped = asdiv.question(asdiv.read(tmp_path)["all"][1])
    assert dropped == Dropped("ASDiv_nluds-0006", "the answer '6:00' is not one number")


def test_official_folds_decide_part_and_division_is_rounded_by_type(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    folds = tmp_path / "asdiv/nfolds/asdiv-a"
    folds.mkdir(parents=True)
    for fold, names in enumerate(["nluds-0001", "nluds-0002", "", "", "nluds-0003\nnluds-0005"]):
        (folds / f"fold{fold}.txt").write_text(names + "\n")
    parts = asdiv.read(tmp_path)
    found = {part: [asdiv.question(record) for record in records] for part, records in parts.items()}
    train = [row.model_extra["expression"] for row in found["train"] if isinstance(row, Question)]
    test = [row.model_extra["expression"] for row in found["test"] if isinstance(row, Question)]
    assert train == ["7+2", "floor(29/9)"]
    assert test == ["ceil(29/9)", "5+5"]
    assert len(parts["outside"]) == 2


def test_a_missing_fold_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    (tmp_path / "asdiv/nfolds/asdiv-a").mkdir(parents=True)
    with pytest.raises(InputError, match=r"fold0\.txt: no such file"):
        asdiv.read(tmp_path)


def test_hub_rows_go_the_same_way(tmp_path: Path) -> None:
    write(tmp_path, PROBLEMS)
    columns = ("body", "question", "solution_type", "answer", "formula")
    rows = [dict(zip(columns, problem, strict=True)) for problem in PROBLEMS]
    hub, file = asdiv.from_hub({"validation": rows})["all"], asdiv.read(tmp_path)["all"]
    assert [asdiv.question(record) for record in hub] == [asdiv.question(record) for record in file]


@pytest.mark.parametrize("head", ["<!DOCTYPE x>", '<!DOCTYPE x [<!ENTITY a "aaaa">]>'])
def test_declarations_are_refused(tmp_path: Path, head: str) -> None:
    write(tmp_path, PROBLEMS, head)
    with pytest.raises(InputError, match="declares a document type"):
        asdiv.read(tmp_path)


def test_broken_xml_names_file_and_place(tmp_path: Path) -> None:
    path = write(tmp_path, PROBLEMS)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"ASDiv\.xml: not well-formed XML .*line"):
        asdiv.read(tmp_path)


def test_a_missing_field_names_problem_and_field(tmp_path: Path) -> None:
    write(tmp_path, [PROBLEMS[0], PROBLEMS[0][:4]])
    with pytest.raises(InputError, match=r"ASDiv\.xml: problem nluds-0002: field 'Formula': missing"):
        asdiv.read(tmp_path)


def test_a_missing_id_names_the_position(tmp_path: Path) -> None:
    path = write(tmp_path, PROBLEMS)
    path.write_text(path.read_text().replace('ID="nluds-0002"', ""))
    with pytest.raises(InputError, match="problem 2: field 'ID': missing"):
        asdiv.read(tmp_path)
