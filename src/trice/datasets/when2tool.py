"""When2Tool: questions of 15 kinds at three levels of difficulty, with tools that are needed or not. For evaluation.

The repository of the paper (C.-E. Sun et al., "LLM Agents Already Know When to Call Tools", arXiv 2605.09252) has no
licence, so nothing of it is here: its files are read where the user has them. The tools become schemas, which are not
executed: a response ends with a call. What can be measured is therefore when a model calls: `trice split` and tool
choice `none` say which questions it answers without a tool, and `trice generate` on which it calls. Answers are judged
by the task `conversation`, not by the repository's rule for boxed answers. Questions of several hops are not read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from trice.datasets.benchmark import Benchmark, Parts, Record, read_list
from trice.errors import InputError
from trice.messages import read_tools
from trice.storage.files import validate
from trice.tasks import CONVERSATION
from trice.types import Question

NAME = "When2Tool"
FOLDER = "when2tool"
_FILES = {part: f"{FOLDER}/data/tasks_v1_{part}.json" for part in ("train", "test")}


def _read(folder: Path) -> Parts:
    """The records of both parts, with the schemas of their tools in the field `tools`."""

    @cache
    def schemas(environment: str) -> dict[str, Any]:
        path = folder / FOLDER / "envs" / f"{environment}.json"
        return {record.name: dict(record.fields) for record in read_list(path, environment, "name")}

    def with_tools(record: Record) -> Record:
        try:
            offered = [
                schemas(each["name"])[name]
                for each in record.items("environments")
                for name in sorted(each["tools"])
            ]
        except (KeyError, TypeError) as error:
            raise InputError(f"{record.where}: field 'environments': no such tool ({error})") from None
        return record.with_fields(tools=offered)

    paths = {part: BENCHMARK.paths(folder, file)[0] for part, file in _FILES.items()}
    return {part: list(map(with_tools, read_list(path, part, "id"))) for part, path in paths.items()}


def _question(record: Record) -> Question:
    expected = record.fields.get("expected")
    if not isinstance(expected, dict) or not str(expected.get("answer") or "").strip():
        raise InputError(f"{record.where}: field 'expected': no answer; make the file again")
    level = record.text("difficulty")
    fields = {
        "id": record.name,
        "dataset": f"{NAME} {level}",
        "messages": [{"role": "user", "content": record.text("instruction")}],
        "tools": read_tools(record.items("tools")),
        "answer": str(expected["answer"]),
        "environment": record.items("environments")[0]["name"],
    }
    return validate(Question, fields, record.where)


BENCHMARK = Benchmark(
    name=NAME,
    task=CONVERSATION,
    licence="none is stated; for evaluation only",
    files={part: [file] for part, file in _FILES.items()},
    home=f"the repository Trustworthy-ML-Lab/when2tool on GitHub, cloned as {FOLDER}, after its generate_data.sh",
    train=900,
    test=2250,
    question=_question,
    reader=_read,
)
