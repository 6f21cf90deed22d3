"""When2Call: questions with tools and four given responses, of which one is right. For evaluation only.

The responses answer directly, call a tool, ask for what is missing, and say that no tool can answer. The benchmark
compares their likelihoods, which `trice.stages.choices` computes; a direct answer is never right. The rows are
conversations too: written by `trice data when2call`, they can be answered, and a response is then right if it calls a
tool just where one is to be called. Tools are kept as in the file, with BFCL's types such as `dict`. The larger of the
two official files has 3,652 questions, and is read if it is there.
"""

from __future__ import annotations

import json

from trice.datasets.benchmark import Benchmark, Record, read_jsonl
from trice.errors import InputError
from trice.messages import read_call, read_tools
from trice.storage.files import validate
from trice.tasks import CONVERSATION
from trice.types import Question

DIRECT, CALL, ASK, REFUSE = "direct", "tool_call", "request_for_info", "cannot_answer"
CHOICES = (DIRECT, CALL, ASK, REFUSE)
"""The kinds of response, in the benchmark's order"""


def _question(record: Record) -> Question:
    """A row with the fields `choices`, the text of each response and the call as an object, and `right_choice`."""
    right = record.text("correct_answer")
    try:
        if right not in CHOICES:
            raise ValueError(f"the right answer is '{right}'")
        choices = {name: record.fields["answers"][name] for name in CHOICES}
        call = read_call(json.loads(choices[CALL]))
        tools = read_tools([json.loads(tool) for tool in record.items("tools")])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{record.where}: not a row of When2Call ({error}); get the official file") from None
    fields = {
        "id": record.name,
        "dataset": right,
        "messages": [{"role": "user", "content": record.text("question")}],
        "tools": tools,
        "expected_calls": "any" if right == CALL else [],
        "choices": choices | {CALL: call.model_dump()},
        "right_choice": right,
    }
    return validate(Question, fields, record.where)


BENCHMARK = Benchmark(
    name="When2Call",
    task=CONVERSATION,
    licence="Apache 2.0, for evaluation only",
    files={"test": ["when2call/when2call_test_mcq.jsonl or when2call/when2call_test_llm_judge.jsonl"]},
    home="data/test of the repository NVIDIA/When2Call on GitHub",
    test=3652,
    question=_question,
    parse=lambda path, part: read_jsonl(path, part, "uuid"),
)
