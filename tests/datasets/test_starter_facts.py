"""The starter sets of facts: one cut for both, facts checked by hand, every template filled."""

import re
from collections import Counter
from itertools import chain

import pytest

from trice import datasets
from trice.datasets.starter_facts import LAMA, QA, Fact, FactSet
from trice.errors import InputError
from trice.types import Question

SETS = pytest.mark.parametrize("made", [QA, LAMA], ids=lambda made: made.name)


def known(question: Question) -> tuple[str, str]:
    extra = question.model_extra or {}
    return extra["relation"], extra["subject"]


def everything(made: FactSet) -> tuple[list[Question], list[Question]]:
    """All questions of both parts."""
    sizes = [sum(len(fact.texts) for fact in made.facts() if fact.test is test) for test in (False, True)]
    return made.make(*sizes)


@pytest.mark.parametrize(
    ("relation", "subject", "answer"),
    [
        ("capital", "Burkina Faso", "Ouagadougou"),
        ("capital", "Mongolia", "Ulaanbaatar"),
        ("capital", "Australia", "Canberra"),
        ("country-of-city", "Timbuktu", "Mali"),
        ("country-of-city", "Guayaquil", "Ecuador"),
        ("element-symbol", "W", "tungsten"),
        ("element-symbol", "K", "potassium"),
        ("atomic-number", "gold", "79"),
        ("atomic-number", "hydrogen", "1"),
        ("author", "Things Fall Apart", "Chinua Achebe"),
        ("author", "Middlemarch", "George Eliot"),
        ("director", "Metropolis", "Fritz Lang"),
        ("artist", "Las Meninas", "Diego Velázquez"),
        ("composer", "The Rite of Spring", "Igor Stravinsky"),
        ("nationality", "Georges Lemaître", "Belgium"),
        ("profession", "Matsuo Bashō", "poet"),
        ("ruled", "Idi Amin", "Uganda"),
        ("year-of-work", "Paradise Lost", "1667"),
        ("region-capital", "Sichuan", "Chengdu"),
        ("born-in", "Agatha Christie", "1890"),
        ("continent", "Suriname", "South America"),
        ("currency", "Bhutan", "ngultrum"),
        ("language", "Somalia", "Somali"),
        ("animal-group", "a hyrax", "mammal"),
        ("moon-of", "Umbriel", "Uranus"),
        ("measures", "pascals", "pressure"),
        ("mythology", "Inti", "Inca"),
        ("landmark", "Göbekli Tepe", "Turkey"),
        ("company-country", "Ericsson", "Sweden"),
        ("inventor", "the discovery of the neutron", "James Chadwick"),
    ],
)
def test_facts_checked_by_hand(relation: str, subject: str, answer: str) -> None:
    (fact,) = [each for each in LAMA.facts() if (each.relation, each.subject) == (relation, subject)]
    assert fact.answers[0] == answer


def test_there_are_many_facts_of_many_relations() -> None:
    for made, least in ((QA, 700), (LAMA, 1400)):
        facts = made.facts()
        assert len(facts) >= least
        assert len({fact.relation for fact in facts}) >= 20
        assert {fact.level for fact in facts} == {"popular", "obscure"}
        assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts)


def test_both_forms_ask_for_the_same_facts() -> None:
    asked = {(fact.relation, fact.subject) for fact in QA.facts()}
    cloze = {(fact.relation, fact.subject) for fact in LAMA.facts()}
    assert asked == cloze
    assert ("born-in", "Agatha Christie") in asked  # which WikiSearch does not find


def test_no_fact_is_trained_on_in_one_form_and_tested_in_the_other() -> None:
    # two seeds, as a run may take them for its data sets
    parts = [made.make(seed=seed) for made, seed in ((QA, 0), (LAMA, 0), (QA, 5), (LAMA, 5))]
    train = set(map(known, chain.from_iterable(part[0] for part in parts)))
    test = set(map(known, chain.from_iterable(part[1] for part in parts)))
    assert not train & test
    assert len(train | test) == len(LAMA.facts())
    assert 0.2 < len(test) / len(train | test) < 0.3
    assert {relation for relation, _ in test} == {relation for relation, _ in train}


def test_the_part_of_a_fact_is_that_of_its_hash() -> None:
    # sha256("capital:Peru") begins with 9d and sha256("capital:Chile") with 40: 0x40 is a multiple of 4
    assert not Fact("capital", "Peru", ["Lima"], "popular", []).test
    assert Fact("capital", "Chile", ["Santiago"], "popular", []).test


@SETS
def test_every_text_is_filled_and_every_question_is_new(made: FactSet) -> None:
    rows = list(chain.from_iterable(everything(made)))
    assert len({row.input for row in rows}) == len(rows) == sum(len(fact.texts) for fact in made.facts())
    for row in rows:
        assert "{" not in row.input, row
        assert row.input.count("[MASK]") == (1 if made is LAMA else 0), row
        assert row.input.endswith("?" if made is QA else "."), row
        assert row.input[0].upper() == row.input[0], row
        # the answer may be part of a name ("Mexico City"), but is never all that is asked
        assert row.answers[0] not in (known(row)[1], row.input), row


@SETS
def test_every_fact_comes_once_before_any_comes_twice(made: FactSet) -> None:
    train, test = made.make(seed=3)
    for rows, held_out in ((train, False), (test, True)):
        assert Counter(map(known, rows)) == {
            (fact.relation, fact.subject): 1 for fact in made.facts() if fact.test is held_out
        }
    assert made.make(50, 20, seed=3) == (train[:50], test[:20])
    assert made.make(50, 20, seed=4) != (train[:50], test[:20])


@SETS
def test_ids_and_fields(made: FactSet) -> None:
    train, test = made.make(12, 3)
    assert train[11].id == f"{made.name}_train-12"
    assert test[2].id == f"{made.name}_test-3"
    assert {row.dataset for row in train + test} == {made.name}
    assert all(
        (row.model_extra or {}).keys() == {"relation", "subject", "level", "language"} for row in train
    )


@SETS
def test_loaded_by_name_and_in_the_catalogue(made: FactSet) -> None:
    split = datasets.load(made.name, train=5, test=4, seed=1)
    assert (split.train, split.test) == made.make(5, 4, 1)
    (entry,) = [entry for entry in datasets.catalogue() if entry.name == made.name]
    assert (entry.task, entry.present) == (made.task, True)


@SETS
def test_more_than_there_are_is_refused(made: FactSet) -> None:
    for sizes in ((99_999, 1), (1, 99_999), (-1, 1)):
        with pytest.raises(InputError, match=rf"{made.name}: \S+ \w+ questions wanted; it makes 0 to"):
            made.make(*sizes)


def test_no_template_gives_its_answer_away() -> None:
    told = [
        row
        for row in everything(QA)[0]
        if re.search(rf"\b{re.escape(row.answers[0].lower())}\b", row.input.lower())
    ]
    assert {known(row)[0] for row in told} <= {"animal-group"}  # which names the groups there are
