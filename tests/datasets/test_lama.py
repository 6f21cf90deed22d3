"""LAMA's cloze sentences: T-REx and SQuAD."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets import lama
from trice.datasets.benchmark import Dropped
from trice.errors import InputError
from trice.types import Question

FACT = {"uuid": "u1", "predicate_id": "P101", "sub_label": "Turing", "obj_label": "logic"}


def sentence(text: str, surface: str = "logic") -> dict[str, str]:
    return {"sub_surface": "Turing", "obj_surface": surface, "masked_sentence": text}


def trex(folder: Path, *facts: dict[str, Any], relation: str = "P101") -> Path:
    path = folder / f"trex/evidence/{relation}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    return folder


def only(folder: Path, *sentences: dict[str, str]) -> Question | Dropped:
    """What the fact becomes with these sentences."""
    return lama.trex_question(lama.TREX.read(trex(folder, FACT | {"evidences": list(sentences)}))["all"][0])


def test_a_fact_is_asked_with_its_sentence_as_it_stands(tmp_path: Path) -> None:
    question = only(tmp_path, sentence("Turing  worked in [MASK] ."))
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "T-REx_u1",
        "dataset": "T-REx",
        "input": "Turing  worked in [MASK] .",
        "answer": "logic",
        "relation": "P101",
    }


@pytest.mark.parametrize(
    ("text", "surface", "reason"),
    [
        ("He was a [MASK].", "logician", "the masked text is not the answer"),
        ("Logic, or [MASK], it was.", "logic", "the answer also occurs elsewhere in the sentence"),
        ("He had no mask.", "logic", "the sentence does not hold exactly one mask"),
        ("[MASK] and [MASK].", "logic", "the sentence does not hold exactly one mask"),
    ],
)
def test_a_sentence_that_cannot_be_asked_is_dropped(
    tmp_path: Path, text: str, surface: str, reason: str
) -> None:
    assert only(tmp_path, sentence(text, surface)) == Dropped("T-REx_u1", reason)


def test_the_answer_inside_another_word_gives_nothing_away(tmp_path: Path) -> None:
    assert isinstance(only(tmp_path, sentence("The logician liked [MASK].")), Question)


def test_the_first_usable_sentence_of_several_is_taken(tmp_path: Path) -> None:
    found = only(
        tmp_path, sentence("A [MASK].", "logician"), sentence("First [MASK]."), sentence("Second [MASK].")
    )
    assert isinstance(found, Question)
    assert found.input == "First [MASK]."
    assert only(tmp_path) == Dropped("T-REx_u1", "there is no sentence")


def test_every_relation_has_its_file(tmp_path: Path) -> None:
    trex(tmp_path, FACT | {"evidences": []})
    trex(tmp_path, FACT | {"uuid": "u2", "evidences": []}, relation="P19")
    (tmp_path / "trex/evidence/relations.jsonl").write_text("not a relation")
    assert [record.name for record in lama.TREX.read(tmp_path)["all"]] == ["u1", "u2"]


def test_hub_rows_are_put_together_to_facts(tmp_path: Path) -> None:
    first, second = sentence("A [MASK].", "logician"), sentence("First [MASK].")
    other = FACT | {"uuid": "u2"} | sentence("Other [MASK].")
    hub = lama.trex_from_hub({"train": [FACT | first, other, FACT | second]})["all"]
    other_fact = FACT | {"uuid": "u2", "evidences": [sentence("Other [MASK].")]}
    file = lama.TREX.read(trex(tmp_path, FACT | {"evidences": [first, second]}, other_fact))["all"]
    assert [lama.trex_question(each) for each in hub] == [lama.trex_question(each) for each in file]


def test_wrong_facts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"P\*\.jsonl: no such file"):
        lama.TREX.read(tmp_path)
    with pytest.raises(InputError, match=r"P101\.jsonl:1: field 'uuid': missing"):
        lama.TREX.read(trex(tmp_path, {"obj_label": "logic"}))
    record = lama.TREX.read(trex(tmp_path, FACT))["all"][0]
    with pytest.raises(InputError, match=r"P101\.jsonl:1: field 'evidences': not a list"):
        lama.trex_question(record)
    record = lama.TREX.read(trex(tmp_path, FACT | {"evidences": ["text"]}))["all"][0]
    with pytest.raises(InputError, match=r"P101\.jsonl:1: field 'evidences': not a list of objects"):
        lama.trex_question(record)


SQUAD_ROWS = [
    {
        "masked_sentences": ["The [MASK] color was used."],
        "obj_label": "gold",
        "id": "56_0",
        "sub_label": "Squad",
    },
    {"masked_sentences": ["[MASK]ism is [MASK]."], "obj_label": "Islam", "id": "57_0", "sub_label": "Squad"},
]


def test_squad_is_for_testing_only_and_holds_one_mask(tmp_path: Path) -> None:
    path = tmp_path / lama.SQUAD_FILE
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, SQUAD_ROWS)))
    parts = lama.SQUAD.read(tmp_path)
    assert list(parts) == ["test"]
    question, dropped = map(lama.squad_question, parts["test"])
    assert isinstance(question, Question)
    assert (question.id, question.input, question.answer) == (
        "SQuAD_56_0",
        "The [MASK] color was used.",
        "gold",
    )
    assert dropped == Dropped("SQuAD_57_0", "the sentence does not hold exactly one mask")
    hub = [{**row, "masked_sentence": row["masked_sentences"][0]} for row in SQUAD_ROWS]
    hub = [{name: row[name] for name in row if name != "masked_sentences"} for row in hub]
    assert [lama.squad_question(row) for row in lama.squad_from_hub({"train": hub})["test"]] == [
        question,
        dropped,
    ]
