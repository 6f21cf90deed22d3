"""Cloze sentences from LAMA: T-REx, and SQuAD as an unseen test set.

The input is the sentence with `[MASK]` in place of the answer. T-REx has one file per relation and one line per
fact with its sentences, of which the first usable one is taken. It has no official parts, so it is split here.

A sentence is not usable if it does not have exactly one mask, if another word form than the answer was masked
(`logician` for `logic`; known for T-REx only), or if the answer also occurs elsewhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, Record, hub_rows, read_jsonl
from trice.errors import InputError
from trice.tools.cloze_questions import MASK
from trice.types import Question

TREX_FILES = "trex/evidence/P*.jsonl"
SQUAD_FILE = "lama_squad/test.jsonl"


def unusable(sentence: str, answer: str, masked: str | None) -> str | None:
    """Why a sentence is not usable, or None if it is; `masked` is the masked text, if known."""
    if sentence.count(MASK) != 1:
        return "the sentence does not hold exactly one mask"
    if masked is not None and masked != answer:
        return "the masked text is not the answer"
    if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence, re.IGNORECASE):
        return "the answer also occurs elsewhere in the sentence"
    return None


def cloze(record: Record, dataset: str, sentences: list[Record], **extra: object) -> Question | Dropped:
    """A fact's first usable sentence as a question; without one, dropped with the reason of the first sentence."""
    answer = record.text("obj_label")
    reasons = []
    for each in sentences:
        sentence = each.text("masked_sentence")
        masked = each.text("obj_surface") if "obj_surface" in each.fields else None
        reason = unusable(sentence, answer, masked)
        if reason is None:
            return record.question(dataset, sentence, answer, **extra)
        reasons.append(reason)
    return record.dropped(dataset, reasons[0] if reasons else "there is no sentence")


def trex_from_hub(splits: HubRows) -> Parts:
    """The hub's rows, one per sentence, grouped into facts."""
    facts: dict[str, Record] = {}
    for record in hub_rows(splits, "train", "all", "uuid"):
        fact = facts.setdefault(record.name, record.with_fields(evidences=[]))
        fact.fields["evidences"].append(record.fields)
    return {"all": list(facts.values())}


def trex_question(record: Record) -> Question | Dropped:
    """A fact as a question, with its relation (`P101`)."""
    found = record.items("evidences")
    if not all(isinstance(each, Mapping) for each in found):
        raise InputError(
            f"{record.where}: field 'evidences': not a list of objects; get the official file again"
        )
    sentences = [record._replace(fields=each) for each in found]
    return cloze(record, TREX.name, sentences, relation=record.text("predicate_id"))


def squad_from_hub(splits: HubRows) -> Parts:
    """The hub's rows, which hold one sentence each."""
    rows = hub_rows(splits, "train", "test", "id")
    return {"test": [row.with_fields(masked_sentences=[row.text("masked_sentence")]) for row in rows]}


def squad_question(record: Record) -> Question | Dropped:
    """A record as a question."""
    sentences = [
        record._replace(fields={"masked_sentence": each}) for each in record.texts("masked_sentences")
    ]
    return cloze(record, SQUAD.name, sentences)


# The main branch of the hub's copy holds a loading script, which `datasets` no longer runs.
HUB = {"path": "facebook/lama", "revision": "refs/convert/parquet"}
TREX = Benchmark(
    name="T-REx",
    task="lama",
    licence="CC BY-NC 4.0",
    files={"all": [TREX_FILES]},
    home="facebookresearch/LAMA on GitHub, data/TREx",
    hub=HUB | {"data_files": "trex/**/*.parquet"},
    train=12607,
    test=3154,
    parse=partial(read_jsonl, field="uuid"),
    from_hub=trex_from_hub,
    question=trex_question,
)
SQUAD = Benchmark(
    name="SQuAD",
    task="lama",
    licence="CC BY-NC 4.0",
    files={"test": [SQUAD_FILE]},
    home="facebookresearch/LAMA on GitHub, data/Squad",
    hub=HUB | {"data_files": "squad/**/*.parquet"},
    test=305,
    parse=partial(read_jsonl, field="id"),
    from_hub=squad_from_hub,
    question=squad_question,
)
