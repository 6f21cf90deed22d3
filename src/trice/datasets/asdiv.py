"""ASDiv: the arithmetic part of 2,305 problems, in one XML file (`ASDiv.xml`).

The official folds next to the file (`nfolds/asdiv-a/fold0.txt` to `fold4.txt`, 1,218 problems) define the
arithmetic problems and the test part. The paper's sizes are those of folds 0 to 3 (952) and fold 4 (266). Without
the folds, which the hub lacks, a rule finds 1,229 problems, 1,188 of them in the folds: a basic solution type, a
formula `expression=value`, and two or three different numbers in it, each of which the problem contains exactly
once.

Units, ratios, equations with unknowns and several answers are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, Record, tidy_text
from trice.datasets.expressions import NUMBER, number, tidy
from trice.errors import InputError
from trice.types import Question

NAME = "ASDiv"
FILE = "asdiv/ASDiv.xml"
FOLDS = "asdiv/nfolds/asdiv-a/fold{}.txt"
PARTS = ("train", "train", "train", "train", "test")
FIELDS = ("Body", "Question", "Solution-Type", "Answer", "Formula")
TYPES = (
    "Addition Subtraction Multiplication Common-Division Floor-Division Ceil-Division Sum Difference "
    "TVQ-Initial TVQ-Change TVQ-Final"
)
ANSWER = re.compile(r"(-?[0-9.,]+)\s*(?:\(.*\))?", re.DOTALL)
FORMULA = re.compile(r"([-+*/().0-9\s]+)=\s*[0-9.,]+\s*(r\s*[0-9]+)?")
WITH_REMAINDER = {"Floor-Division": "floor({})", "Ceil-Division": "ceil({})"}

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: value for value, word in enumerate(UNITS.split())}
WORDS |= {word: 10 * value for value, word in enumerate(TENS.split(), start=2)}
WORDS |= {
    f"{ten} {unit}": WORDS[ten] + WORDS[unit] for ten, unit in product(TENS.split(), UNITS.split()[1:10])
}
WORDS |= {"hundred": 100, "dozen": 12, "once": 1, "twice": 2, "double": 2, "half": 2, "single": 1, "pair": 2}
NAMED = re.compile(rf"\b({'|'.join(sorted(WORDS, key=len, reverse=True))})\b")


def numbers(text: str) -> list[float]:
    """All numbers in a problem, in digits or words."""
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text.lower().replace("-", " "))
    text = NAMED.sub(lambda match: str(WORDS[match[1]]), text)
    return [float(found) for found in NUMBER.findall(text)]


def is_arithmetic(record: Record) -> bool:
    """Whether a problem is arithmetic, for use without the official folds."""
    formula = FORMULA.fullmatch(record.text("Formula").strip())
    if record.text("Solution-Type") not in TYPES.split() or not formula or formula[2]:
        return False
    used = [float(found) for found in NUMBER.findall(formula[1])]
    named = numbers(record.text("Body") + " " + record.text("Question"))
    return len(used) in (2, 3) and all(used.count(each) == named.count(each) == 1 for each in used)


def folds(folder: Path) -> dict[str, str]:
    """The official part, `train` or `test`, of each problem in the folds; empty without folds."""
    files = [folder / FOLDS.format(fold) for fold in range(len(PARTS))]
    if not files[0].parent.is_dir():
        return {}
    texts = [BENCHMARK.file_text(folder, FOLDS.format(fold)) for fold in range(len(PARTS))]
    return {name: part for text, part in zip(texts, PARTS, strict=True) for name in text.split()}


def by_part(found: Iterable[Record], official: Mapping[str, str]) -> Parts:
    """Records by their part: that of the folds, or else `all` or `outside` by the rule."""
    parts: Parts = {}
    for record in found:
        ruled = "all" if not official and is_arithmetic(record) else "outside"
        parts.setdefault(official.get(record.name, ruled), []).append(record)
    return parts


def read(folder: Path) -> Parts:
    """The official file under `folder`. Raises InputError if it is missing or has another form."""
    text, where = BENCHMARK.file_text(folder, FILE), folder / FILE
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{where}: declares a document type or entities, which the official file does not")
    try:
        problems = ElementTree.fromstring(text).iter("Problem")
    except ElementTree.ParseError as error:
        raise InputError(f"{where}: not well-formed XML ({error}); get the official file again") from None
    found = []
    for position, problem in enumerate(problems, start=1):
        name = problem.get("ID")
        if not name:
            raise InputError(f"{where}: problem {position}: field 'ID': missing; get the official file again")
        fields: dict[str, Any] = {field: problem.findtext(field) for field in FIELDS}
        found.append(Record(f"{where}: problem {name}", name, fields))
    return by_part(found, folds(folder))


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows. They have no ids, but the official order, from which the ids are derived."""
    rows = [row for split in splits.values() for row in split]
    found = []
    for position, row in enumerate(rows, start=1):
        fields = {field: row.get(field.lower().replace("-", "_")) for field in FIELDS}
        found.append(Record(f"{BENCHMARK.hub['path']}: row {position}", f"nluds-{position:04}", fields))
    return by_part(found, {})


def expression(record: Record) -> str | None:
    """The left side of the formula; a division with remainder (`29/9=3 r2`) is rounded by its solution type."""
    formula = FORMULA.fullmatch(record.text("Formula").strip())
    plain = tidy(formula[1]) if formula else None
    if plain is None or formula is None or not formula[2]:
        return plain
    rounded = WITH_REMAINDER.get(record.text("Solution-Type"))
    return rounded.format(plain) if rounded else None


def question(record: Record) -> Question | Dropped:
    """A record as a question; dropped if the answer is not one number."""
    text = tidy_text(record.text("Body"), record.text("Question"))
    answer = record.text("Answer").strip()
    match = ANSWER.fullmatch(answer)
    gold = number(match[1]) if match else None
    if gold is None:
        return record.dropped(NAME, f"the answer '{answer}' is not one number")
    return record.question(NAME, text, gold, expression=expression(record))


BENCHMARK = Benchmark(
    name=NAME,
    task="math",
    licence="CC BY-NC 4.0",
    files={"all": [FILE]},
    home="chaochun/nlu-asdiv-dataset on GitHub",
    # The main branch of the hub's copy holds a loading script, which `datasets` no longer runs.
    hub={"path": "EleutherAI/asdiv", "revision": "refs/convert/parquet", "data_files": "**/*.parquet"},
    train=952,
    test=266,
    reader=read,
    from_hub=from_hub,
    question=question,
)
