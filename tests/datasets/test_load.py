"""Loading: sizes, stability, no overlap, the folder of sources, errors."""

import json
from pathlib import Path

import pytest

from trice import datasets
from trice.errors import InputError

TEMPLATE = {"Body": "A shelf holds {n} jars.", "Question": "How many?", "Equation": "{n}.0", "Answer": 0}


def write_svamp(folder: Path, count: int, **changed: str) -> Path:
    """A SVAMP.json of `count` distinct problems; `changed` gives some other bodies, by `chal_<number>`."""
    rows = []
    for n in range(1, count + 1):
        body = changed.get(f"chal_{n}", f"A shelf holds {n} jars.")
        rows.append({**TEMPLATE, "ID": f"chal-{n}", "Body": body, "Equation": f"{n}.0", "Answer": float(n)})
    (folder / "svamp").mkdir(parents=True, exist_ok=True)
    (folder / "svamp/SVAMP.json").write_text(json.dumps(rows))
    return folder


def there() -> list[str]:
    """The names of the data sets that can be loaded."""
    return [entry.name for entry in datasets.catalogue() if entry.present]


def ids(rows: list[datasets.Question]) -> list[str]:
    return [row.id for row in rows]


def test_the_papers_sizes_and_no_overlap(tmp_path: Path) -> None:
    split = datasets.load("SVAMP", write_svamp(tmp_path, 1000))
    assert (len(split.train), len(split.test), split.dropped) == (800, 200, [])
    assert not set(ids(split.train)) & set(ids(split.test))


def test_where_the_total_falls_short_the_test_part_keeps_its_size(tmp_path: Path) -> None:
    split = datasets.load("SVAMP", write_svamp(tmp_path, 900))
    assert (len(split.train), len(split.test)) == (700, 200)


def test_a_handful_is_cut_at_the_papers_share(tmp_path: Path) -> None:
    split = datasets.load("SVAMP", write_svamp(tmp_path, 50))
    assert (len(split.train), len(split.test)) == (40, 10)


def test_the_seed_decides_and_smaller_is_the_beginning_of_larger(tmp_path: Path) -> None:
    write_svamp(tmp_path, 1000)
    full = datasets.load("SVAMP", tmp_path, seed=4)
    assert full == datasets.load("SVAMP", tmp_path, seed=4)
    assert ids(full.test) != ids(datasets.load("SVAMP", tmp_path, seed=5).test)
    small = datasets.load("SVAMP", tmp_path, seed=4, train=30, test=20)
    assert (small.train, small.test) == (full.train[:30], full.test[:20])


def test_a_question_in_both_parts_leaves_the_training_part(tmp_path: Path) -> None:
    numbers = {"chal_1": "The  SAME text.", "chal_2": "the same text.", "chal_3": "The same TEXT."}
    numbers |= {f"chal_{n}": "The same text." for n in range(4, 11)}
    split = datasets.load("SVAMP", write_svamp(tmp_path, 40, **numbers))
    # 10 of the 40 have one text; one of them at least lies in each part with this seed.
    tests = [row for row in split.test if row.input.lower().startswith("the same")]
    assert tests
    assert not [row for row in split.train if row.input.lower().startswith("the same")]
    assert len(split.dropped) == 10 - len(tests)
    assert {each.reason for each in split.dropped} == {"the same question is in the test part"}


def test_gsm8k_keeps_its_official_parts(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    for part, count in (("train", 6300), ("test", 30)):
        rows = [
            {"question": f"{part} {n}?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(count)
        ]
        (tmp_path / f"gsm8k/{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = datasets.load("GSM8K", tmp_path)
    assert (len(split.train), len(split.test)) == (6255, 30)
    assert all(row.input.startswith("train") for row in split.train)
    assert len(datasets.load("GSM8K", tmp_path, train=6300).train) == 6300
    assert datasets.load("GSM8K", tmp_path, test=9).test == split.test[:9]


def test_the_starter_set_is_a_data_set_like_any_other() -> None:
    split = datasets.load("starter", train=12, test=5, seed=2)
    assert (len(split.train), len(split.test), split.dropped) == (12, 5, [])
    assert (len(datasets.load("starter").train), len(datasets.load("starter").test)) == (2000, 300)


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_DATA", str(write_svamp(tmp_path, 50)))
    assert len(datasets.load("SVAMP").test) == 10
    assert [name for name in there() if "starter" not in name] == ["SVAMP"]


def test_without_a_folder_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRICE_DATA", raising=False)
    with pytest.raises(InputError, match=r"set TRICE_DATA to the one that holds gsm8k/train\.jsonl and"):
        datasets.load("GSM8K")
    assert there()
    assert all(name.startswith("starter") for name in there())


@pytest.mark.parametrize(
    ("name", "file"), [("ASDiv", "ASDiv.xml"), ("SVAMP", "SVAMP.json"), ("GSM8K", "train")]
)
def test_a_missing_file_says_where_it_is_expected(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(InputError, match=rf"{file}.*: no such file.*TRICE_DATA.*trice data"):
        datasets.load(name, tmp_path)


def test_an_unknown_name_gives_the_nearest_and_all(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"'asdif'; did you mean 'ASDiv'\?.*ASDiv, SVAMP, GSM8K, .*, starter"
    ):
        datasets.load("asdif", tmp_path)


def test_more_than_there_are_is_refused(tmp_path: Path) -> None:
    write_svamp(tmp_path, 50)
    with pytest.raises(InputError, match="SVAMP, test: 11 questions wanted, there are 10"):
        datasets.load("SVAMP", tmp_path, test=11)
    with pytest.raises(InputError, match="SVAMP, train: -1 questions wanted"):
        datasets.load("SVAMP", tmp_path, train=-1)


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SVAMP: no usable question"):
        datasets.load("SVAMP", write_svamp(tmp_path, 0))


def write_nq(folder: Path, **answers: list[str]) -> Path:
    """NaturalQuestions with one question in the training part, and a test question for each of `answers`."""
    (folder / "nq_open").mkdir()
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in answers.items()]
    (folder / "nq_open/NQ-open.dev.jsonl").write_text("\n".join(rows))
    (folder / "nq_open/NQ-open.train.jsonl").write_text('{"question": "who", "answer": ["he"]}\n')
    return folder


def test_answers_that_the_judge_could_never_accept_are_left_out(tmp_path: Path) -> None:
    long = " ".join(["word"] * 21)
    split = datasets.load(
        "NaturalQuestions",
        write_nq(tmp_path, a=["?", "yes", "!"], b=["x", long, "y"], c=[long], d=["..."], e=[]),
    )
    assert {row.input: row.answer for row in split.test} == {"a": "yes", "b": ["x", "y"]}
    assert [each.id for each in split.dropped] == [f"NaturalQuestions_test-{row}" for row in (3, 4, 5)]
    reasons = [each.reason for each in split.dropped]
    assert "longer than 20 words" in reasons[0]
    assert "no letter and no digit" in reasons[1]
    assert reasons[2] == "there is no gold answer"


def test_without_a_copy_on_the_hub_the_error_says_so() -> None:
    with pytest.raises(InputError, match=r"AddSub: the hub has no copy.*addsub/AddSub\.json"):
        datasets.load("AddSub", hub=True)
    assert not next(entry for entry in datasets.catalogue() if entry.name == "AddSub").hub


def test_a_missing_file_without_a_hub_copy_does_not_point_to_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"AddSub\.json: no such file") as error:
        datasets.load("AddSub", tmp_path)
    assert "hub" not in str(error.value)


def test_every_name_is_a_task_that_there_is_and_its_own() -> None:
    entries = datasets.catalogue()
    assert len({entry.name.lower() for entry in entries}) == len(entries)
    assert {entry.task for entry in entries} == {
        "math",
        "qa",
        "lama",
        "mlqa",
        "hotpot",
        "assistant",
        "conversation",
    }
    assert all(entry.licence and (entry.home or entry.name.startswith("starter")) for entry in entries)
