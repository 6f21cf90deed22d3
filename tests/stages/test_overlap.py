"""Tools run while the model still writes: shown by the order of events, with a real model and a real tool."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny import read, says, sums, write
from trice.models.sampling import Sampling
from trice.stages.collect import collect, collect_gold
from trice.stages.evaluate import evaluate
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.stages.score import score
from trice.tasks import Tasks

TOOLS = '''
import threading
from trice.tools.function_tool import FunctionTool

seen, met, writing = [], [], []
one_came_back, over = threading.Event(), threading.Event()

class Double(FunctionTool):
    def parse(self, text):
        # The thread that writes comes by at each closing parenthesis; after some of them it waits for a call.
        if writing and threading.current_thread() is threading.main_thread():
            writing.append(text)
            if len(writing) > 16 and not met:
                met.append(one_came_back.wait(30))
        return super().parse(text)

def double(number: str) -> str:
    """Twice a number."""
    seen.append(number)
    if len(seen) == 1:
        over.wait(60)  # the first one hangs, until the test is over
    one_came_back.set()
    return str(2 * int(number))

tool = Double(double, time_limit=3, release_after=0.05)
'''


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's module, from which the task in `double.yaml` has its tool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "doubling.py").write_text(TOOLS)
    (tmp_path / "double.yaml").write_text(
        "name: double\ninstruction: Double it.\ntools: [doubling:tool]\nanswers: numbers\n"
    )
    sys.modules.pop("doubling", None)
    import doubling  # type: ignore[import-not-found]

    yield doubling
    doubling.over.set()


@pytest.fixture
def spec(tiny_model: Callable[[str], Path], tmp_path: Path) -> ModelSpec:
    """A model that writes digits and closing parentheses, each as likely as the other, after `double(`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = says(tiny_model("llama"), tmp_path / "digits", "5")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        head = model.get_output_embeddings().weight.zero_()
        embeddings = model.get_input_embeddings().weight.zero_()
        embeddings[:, 0] = 1
        head[tokenizer.convert_tokens_to_ids([*"0123456789)"]), 0] = 2.0
    model.save_pretrained(folder)
    sampling = Sampling(max_new_tokens=48, temperature=1.0, top_k=0, top_p=1.0, seed=1)
    return ModelSpec(
        str(folder), sampling=sampling, batch_size=2, device="cpu", dtype="float32", tool_choice="required"
    )


def test_calls_are_run_while_the_model_writes_and_never_again(
    tmp_path: Path, spec: ModelSpec, tools: Any
) -> None:
    responses = tmp_path / "responses.json"
    tools.writing.append("begun")
    generate(sums(tmp_path / "in.json", 20), responses, Tasks("double.yaml"), spec)
    assert tools.met == [True]  # though the first call hangs: others came back while the model waited
    tools.writing.clear()
    written = [row["response"] for row in read(responses)]
    inside = (text.removeprefix("double(").removesuffix(")") for text in written if text.endswith(")"))
    distinct = {text for text in inside if text.isdigit()}
    assert 8 < len(distinct) <= 20
    assert set(tools.seen) <= distinct

    evaluate(responses, tmp_path / "result.json", Tasks("double.yaml"))
    assert sorted(tools.seen) == sorted(distinct)
    rows = [row for row in read(tmp_path / "result.json") if row.get("call")]
    failed = [row["execution"] for row in rows if "error" in row["execution"]]
    assert failed == [{"error": "no result within 3 seconds"}]
    assert {row["call"]["arguments"]["number"] for row in rows} == distinct
    assert not list(tmp_path.glob(".*calls*"))


def test_what_was_run_ahead_changes_no_byte(tmp_path: Path, spec: ModelSpec, tools: Any) -> None:
    tools.seen.append("none hangs")
    generate(sums(tmp_path / "in.json", 8), tmp_path / "a.json", Tasks("double.yaml"), spec)
    generate(tmp_path / "in.json", tmp_path / "b.json", Tasks("double.yaml"), spec, execute_calls=False)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not (tmp_path / ".b.json.calls").exists()
    for name in "ab":
        evaluate(tmp_path / f"{name}.json", tmp_path / f"{name}_result.json", Tasks("double.yaml"))
    assert (tmp_path / "a_result.json").read_bytes() == (tmp_path / "b_result.json").read_bytes()


def test_a_limited_evaluation_leaves_the_other_calls_where_they_are(
    tmp_path: Path, spec: ModelSpec, tools: Any
) -> None:
    tools.seen.append("none hangs")
    generate(sums(tmp_path / "in.json", 8), tmp_path / "a.json", Tasks("double.yaml"), spec)
    evaluate(tmp_path / "a.json", tmp_path / "some.json", Tasks("double.yaml"), limit=1)
    before = set(tools.seen)
    evaluate(tmp_path / "a.json", tmp_path / "all.json", Tasks("double.yaml"))
    assert (
        len(tools.seen) - len(set(tools.seen)) <= 1
    )  # at most the limited one's own, where it was left to it
    assert before <= set(tools.seen)


def test_score_finds_what_was_run_while_candidates_were_collected(
    tmp_path: Path, spec: ModelSpec, tools: Any
) -> None:
    threads = threading.active_count()
    tools.seen.append("none hangs")
    gold = [
        {
            "id": f"S_{i}",
            "instruction": "Double it.",
            "input": f"{i}?",
            "output": str(2 * i),
            "answer": str(2 * i),
        }
        for i in range(1, 7)
    ]
    data, folder = write(tmp_path / "gold.json", gold), tmp_path / "stage2"
    collect_gold(data, folder, Tasks("double.yaml"))
    collect(data, folder, Tasks("double.yaml"), "early", spec)
    ran = list(tools.seen)
    score(folder, folder / "double.json", Tasks("double.yaml"))
    assert len(tools.seen) == len(set(tools.seen))
    assert tools.seen[: len(ran)] == ran
    assert not list(folder.glob(".*calls*"))
    assert threading.active_count() < threads + 8
