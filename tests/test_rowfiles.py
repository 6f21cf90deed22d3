"""Rows in the forms people have them, and what is refused in any of them, by file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from trice.datasets.published import read_candidates
from trice.errors import InputError
from trice.metrics import by_dataset
from trice.recipes.recipe import load_recipe
from trice.stages.evaluate import evaluate
from trice.stages.mix import mix
from trice.storage.files import read_rows
from trice.tasks import Tasks
from trice.training_data import Candidate, Candidates, LabeledQuestion
from trice.types import Question, Response

ROWS = [{"id": f"A_{i}", "question": f"Was sind {i}, ü?", "answer": f"{i}"} for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def parquet_bytes(rows: list[dict[str, Any]], path: Path) -> bytes:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


def forms(folder: Path) -> dict[str, bytes]:
    table = "id;question;answer;note\r\n" + "".join(
        f'{r["id"]};"{r["question"]}";{r["answer"]};\r\n' for r in ROWS
    )
    return {
        "bom.json": b"\xef\xbb\xbf" + LINES.encode(),
        "array.json": json.dumps(ROWS, indent=1).encode(),
        "array-bom.json": b"\xef\xbb\xbf\n" + json.dumps(ROWS).encode(),
        "lines.jsonl.gz": gzip.compress(LINES.encode()),
        "misnamed.json": gzip.compress(LINES.encode()),
        "table.csv": table.encode(),
        "excel.csv": b"\xef\xbb\xbf" + table.replace(";", ",").encode(),
        "table.csv.gz": gzip.compress(table.encode()),
        "table.parquet": parquet_bytes([row | {"task": None} for row in ROWS], folder / "x"),
    }


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    for name, content in forms(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        rows = read_rows(tmp_path / name, Question)
        assert [(r.id, r.input, r.answer) for r in rows] == [
            (r["id"], r["question"], r["answer"]) for r in ROWS
        ]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", b'[\n{"id": 1, "question": "q", "answer": 1},\n {"id": 2}\n]', r":3, element 2: field 'question':"),
        ("a.json", b'[{"id": "A", "question": "q", "answer": "1"}', r":1: not a JSON array"),
        ("a.json", b"[]", r": holds no rows"),
        ("a.csv", b"id,question,answer\n1,q,NA\n2,p,\n", r":3: field 'answer': Field required"),
        ("a.csv", b"id,question,answer\n1,q,2,3\n", r":2: 4 values for 3 columns"),
        ("a.csv", b"id,question,id\n1,q,2\n", r":1: column 'id'"),
        ("a.parquet", b"{}", r": not a Parquet file"),
        ("a.parquet", b"PAR1 and more", r": cannot be read as Parquet"),
        ("a.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], r": damaged"),  # a test of one name in each process
        ("a.xlsx", b"PK\x03\x04...", r": is a ZIP archive or an Excel workbook; expected JSON lines"),
        ("a.json", b"\x00\x01", r": is a binary file; expected"),
        ("a.json", "id".encode("utf-16"), r": is UTF-16 text; expected"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\n", r": is a Git LFS pointer"),
        ("a.json", b'{"id": "a", "question": "q", "answer": NaN}', r":1: field 'answer': nan is not a finite"),
        ("a.json", b'{"id": "a", "question": "q", "answer": 1, "x": [{"y": 1e999}]}', r":1: field 'x\.0\.y': inf"),
        ("a.json", b'{"id": "a", "question": "q", "answer": null}', r":1: field 'answer': Field required$"),
        ("a.json", b'{"id": "a", "question": "q", "answer": true}', r":1: field 'answer': .*string, or: .*list$"),
        ("a.json", b'{"id": "a", "question": "q", "answer": ["1", true]}', r":1: field 'answer\.1': .*string$"),
        ("a.json", b'{"id": "a", "question": " ", "answer": "1"}', r":1: field 'question': the question is empty"),
        ("a.json", b'{"id": "a", "question": "q", "input": "p", "answer": 1}', r":1: fields 'input' and"),
        ("a.json", b'{"id": "a", "dataset": "total", "question": "q", "answer": 1}', r":1: field 'dataset': "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}{complaint}"):
        read_rows(path, Question)


@pytest.mark.parametrize("score", ["null", '"1"', "NaN", "Infinity", "true"])
def test_scores_are_finite_numbers(tmp_path: Path, score: str) -> None:
    path = tmp_path / "math.json"
    path.write_text(f'{{"query": "i\\nq", "responses": ["a", "b"], "scores": [1, {score}]}}')
    with pytest.raises(InputError, match=rf"^{path}:1: field 'scores\.1': "):
        read_candidates(path)


def test_a_null_is_a_missing_value_in_every_kind_of_row(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(
        '{"id": "A_1", "dataset": null, "instruction": null, "input": null, "question": "q", "answer": "1"}'
    )
    assert read_rows(path, Question)[0] == Question(id="A_1", input="q", answer="1")
    path.write_text(
        '{"instruction": "i", "input": "q", "output": "o", "id": null, "dataset": null, "answer": null}'
    )
    assert read_rows(path, LabeledQuestion)[0] == LabeledQuestion(instruction="i", input="q", output="o")
    path.write_text(
        '{"query": "i\\nq", "responses": ["a"], "scores": [1], "origin": null, "answer": null, "id": null}'
    )
    assert read_candidates(path)[0] == Candidates(
        instruction="i", input="q", candidates=[Candidate(response="a", reward=1, target=True)]
    )


def test_ids_are_there_once_and_responses_by_origin_and_sample(tmp_path: Path) -> None:
    path, row = (
        tmp_path / "x.json",
        {"id": "A_1", "input": "q", "answer": "1", "response": "1", "correct": True},
    )
    path.write_text(
        "".join(json.dumps(row | {"sample": i % 2, "origin": f"{i // 2}"}) + "\n" for i in range(4))
    )
    assert len(read_rows(path, Response)) == 4
    with pytest.raises(InputError, match=rf"^{path}:2: field 'id': 'A_1' of data set 'A' is in {path}:1 too"):
        read_rows(path, Question)
    path.write_text(2 * (json.dumps(row) + "\n"))
    with pytest.raises(InputError, match=rf"^{path}:2: .*origin '', sample 0\) is in {path}:1 too"):
        read_rows(path, Response)


def test_a_base_with_two_responses_to_a_question_is_refused(tmp_path: Path) -> None:
    row = {"id": "A_1", "input": "q", "answer": "1", "response": "1", "outcome": "answered", "correct": True}
    data, base = tmp_path / "x.json", tmp_path / "base.json"
    data.write_text(json.dumps(row))
    base.write_text("".join(json.dumps(row | {"sample": i}) + "\n" for i in range(2)))
    with pytest.raises(InputError, match=rf"^{base}:2: field 'id': 'A_1'"):
        evaluate(data, tmp_path / "out.json", Tasks("math"), base=base)
    assert not (tmp_path / "out.json").exists()


def test_files_that_are_mixed_share_no_id(tmp_path: Path) -> None:
    row = {"id": "1", "instruction": "i", "input": "q", "output": "calculator(1)"}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=rf"^{paths[1]}:1: .*is in {paths[0]}:1 too"):
        mix(paths, tmp_path / "out.json", Tasks("math"))


@pytest.mark.parametrize("name", ["answers", "calls", "questions"])
def test_a_task_cannot_take_the_name_of_a_file_of_the_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(f"name: {name}\ninstruction: i\ntools: []\n")
    with pytest.raises(InputError, match=rf"the name '{name}' is taken"):
        Tasks(str(path))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("name: stock\ninstruction: i\ntools: []\n")
    with pytest.raises(InputError, match="both are called 'stock'"):
        Tasks(f"mix,{tmp_path}/a.yaml,{tmp_path}/b.yaml")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("Total",), "means all data sets together; choose another"),
        (("mine", "Mine"), "two entries are named 'Mine'"),
    ],
)
def test_data_sets_do_not_share_a_name(names: tuple[str, ...], complaint: str) -> None:
    data = ", ".join(f"{{dataset: {name}, train_file: a, test_file: b}}" for name in names)
    with pytest.raises(InputError, match=complaint):
        load_recipe("demo", ["task=math", f"data=[{data}]"])


def test_rows_whose_ids_begin_with_total_are_not_the_total() -> None:
    rows = [
        Response(id=f"{name}_1", input="q", answer="1", response="1", outcome="answered", correct=name == "x")
        for name in ("total", "x")
    ]
    found = by_dataset(rows)
    assert list(found) == ["unnamed", "x", "total"]
    assert [found[name]["accuracy"].count for name in found] == [0, 1, 1]
