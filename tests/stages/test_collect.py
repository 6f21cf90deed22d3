"""Collect: one file an origin, for every question, from local models and endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_server import StandIn

from tiny import killed, read, same_after_kills, says, tree, write
from trice.errors import InputError, TriceError
from trice.models.endpoint import Endpoint
from trice.models.engine import ToolChoice
from trice.models.sampling import Sampling
from trice.stages.collect import collect, collect_gold, origin_path
from trice.stages.model_spec import ModelSpec
from trice.tasks import MIX, Tasks
from trice.types import Response

KEY = "sk-collect-0123456789abcdef"


def gold(path: Path, count: int = 5) -> Path:
    """Stage-1 rows."""
    rows: list[dict[str, Any]] = [
        {
            "instruction": "Solve.",
            "input": f"What is {i} plus 7?",
            "output": f"calculator({i}+7)",
            "id": f"S_{i}",
            "dataset": "S",
            "answer": str(i + 7),
        }
        for i in range(count)
    ]
    return write(path, rows)


@pytest.fixture
def spec(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    model = says(tiny_model("llama"), tmp_path_factory.mktemp("model") / "five", "5")
    sampling = Sampling(max_new_tokens=6, temperature=1.0, samples=2, seed=3)
    return ModelSpec(str(model), sampling=sampling, batch_size=4, device="cpu", dtype="float32")


def work(folder: Path, spec: ModelSpec) -> None:
    data = gold(folder / "S.json")
    collect_gold(data, folder / "stage2", Tasks("math"))
    collect(data, folder / "stage2", Tasks("math"), "sampled", spec)


def test_gold_is_the_stage_1_file_itself(tmp_path: Path) -> None:
    path = collect_gold(gold(tmp_path / "S.json"), tmp_path / "stage2", Tasks("math"), limit=3)
    assert path == tmp_path / "stage2" / "math_gold_response.json"
    assert path.read_bytes().splitlines() == (tmp_path / "S.json").read_bytes().splitlines()[:3]


def test_rows_without_an_id_cannot_be_joined(tmp_path: Path) -> None:
    data = write(tmp_path / "S.json", [{"instruction": "", "input": "q", "output": "4"}])
    with pytest.raises(InputError, match=rf"^{data}:1: field 'id': is missing$"):
        collect_gold(data, tmp_path / "stage2", Tasks("math"))


def test_candidates_carry_their_question_origin_and_number(tmp_path: Path, spec: ModelSpec) -> None:
    rows = collect(gold(tmp_path / "S.json"), tmp_path, Tasks("math"), "sampled", spec, limit=4)
    written = read(tmp_path / "math_sampled_response.json")
    assert len(rows) == len(written) == 8
    assert [(row["id"], row["sample"]) for row in written[:3]] == [("S_0", 0), ("S_0", 1), ("S_1", 0)]
    assert {(row["origin"], row["instruction"]) for row in written} == {("sampled", "Solve.")}


def test_compelled_candidates_are_calls(tmp_path: Path, spec: ModelSpec) -> None:
    shown = replace(spec, tool_choice="required", few_shot="calls")
    rows = collect(gold(tmp_path / "S.json"), tmp_path, Tasks("math"), "few-shot", shown)
    assert all(row.response.startswith("calculator(") for row in rows)


def test_killed_and_run_again_the_files_are_the_same(tmp_path: Path, spec: ModelSpec) -> None:
    # the questions; gold: 2, 3, 4; journal, header, three batches: 5 to 10; candidates: 11, 12, 13; its end
    points = (3, 8, 10, 12, 17)
    assert same_after_kills(tmp_path, work, spec, points=points) == len(points)


@pytest.mark.parametrize("name", ["", "a_b", "../a", "a/b", ".a", "a b"])
def test_an_origin_must_survive_as_a_file_name(name: str) -> None:
    with pytest.raises(InputError, match=r"use letters, digits, '-' and '\.'"):
        origin_path(Path("x"), Tasks("math"), name)


def add(message: str) -> str:
    return "calculator({}+{})".format(*re.findall(r"What is (\d+) plus (\d+)", message)[-1])


def ask(
    server: StandIn, folder: Path, limit: int | None = None, retry: bool = False, **options: Any
) -> list[Response]:
    client = Endpoint(server.url, "m", [KEY], attempts=2)
    spec = ModelSpec("m", client=client, sampling=Sampling(samples=2), **options)
    return collect(folder / "S.json", folder, Tasks("math"), "gpt", spec, limit=limit, retry=retry)


def test_an_endpoint_is_asked_as_in_a_chat(tmp_path: Path) -> None:
    gold(tmp_path / "S.json")
    shown = write(tmp_path / "own.jsonl", [{"input": "1+1?", "output": "2"}])
    with StandIn(add) as server:
        rows = ask(server, tmp_path, few_shot=str(shown), limit=3)
    assert [(row.id, row.sample, row.response) for row in rows[:3]] == [
        ("S_0", 0, "calculator(0+7)"),
        ("S_0", 1, "calculator(0+7)"),
        ("S_1", 0, "calculator(1+7)"),
    ]
    assert len(read(tmp_path / "math_gpt_response.json")) == 6
    roles = [message["role"] for message in server.seen[0].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert KEY not in (tmp_path / "math_gpt_response.json").read_text()


@pytest.mark.parametrize(
    ("tool_choice", "rule"),
    [
        ("auto", "Solve. Reply with the answer alone, or with one call: calculator(...)."),
        ("required", "Solve. Reply with one call and nothing else: calculator(...)."),
        ("none", "Solve. Reply with the answer alone, without any call."),
    ],
)
def test_an_endpoint_is_told_whether_to_call(tmp_path: Path, tool_choice: ToolChoice, rule: str) -> None:
    gold(tmp_path / "S.json", 2)
    with StandIn(add) as server:
        ask(server, tmp_path, tool_choice=tool_choice)
    assert {seen.body["messages"][0]["content"] for seen in server.seen} == {rule}


def test_in_a_mix_an_endpoint_is_shown_each_tasks_own_examples(tmp_path: Path) -> None:
    rows = [
        {"id": f"{task}_1", "input": f"{task}?", "answer": "5", "output": "5", "task": task}
        for task in ("math", "qa")
    ]
    data = write(tmp_path / "S.json", rows)
    with StandIn() as server:
        client = Endpoint(server.url, "m", [KEY])
        spec = ModelSpec("m", client=client, few_shot="calls", tool_choice="required")
        found = collect(data, tmp_path, Tasks("mix"), "gpt", spec)
    assert [(row.id, row.response) for row in found] == [("math_1", "MATH?"), ("qa_1", "QA?")]
    for seen in server.seen:
        system, *shown, _ = seen.body["messages"]
        assert system["content"].startswith(f"{MIX} Reply with one call and nothing else: ")
        own = {"math?": "calculator(", "qa?": "WikiSearch("}[seen.question]
        replies = [each["content"] for each in shown if each["role"] == "assistant"]
        assert replies
        assert all(reply.startswith(own) for reply in replies)


def test_a_question_that_fails_is_named_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold(tmp_path / "S.json")
    with StandIn(add, script={"What is 1 plus": ["500"] * 9}) as server:
        rows = ask(server, tmp_path)
    assert sorted({row.id for row in rows}) == ["S_0", "S_2", "S_3", "S_4"]
    assert "S.json:2: no response: HTTP 500: the model said no (500)" in capsys.readouterr().err


def test_what_was_answered_before_a_stop_is_not_asked_again(tmp_path: Path) -> None:
    gold(tmp_path / "S.json")
    with StandIn(add, script={"What is 4 plus": ["404"]}) as server:
        with pytest.raises(TriceError, match="HTTP 404"):
            ask(server, tmp_path)
        assert not (tmp_path / "math_gpt_response.json").exists()
        before = {seen.question for seen in server.seen}
        answered = sum("row" in entry for entry in read(tmp_path / ".math_gpt_response.json.journal")) // 2
        ask(server, tmp_path)
    assert answered
    assert len(before) >= answered
    assert [row["id"] for row in read(tmp_path / "math_gpt_response.json")] == [
        f"S_{i}" for i in range(5) for _ in range(2)
    ]


def test_questions_with_the_same_id_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    data = gold(tmp_path / "S.json", 3)
    data.write_text(data.read_text().replace("S_1", "S_0"))
    with StandIn(add) as server, pytest.raises(InputError, match=rf"^{data}:2: field 'id': .*{data}:1 too"):
        ask(server, tmp_path)
    assert not server.seen


def test_a_finished_origin_that_is_collected_anew_replaces_the_file_at_once(
    tmp_path: Path, spec: ModelSpec
) -> None:
    work(tmp_path / "x", spec)
    before, other = tree(tmp_path / "x"), replace(spec, sampling=replace(spec.sampling, seed=4))
    assert killed(8, tmp_path / "x", work, tmp_path / "x", other)
    assert tree(tmp_path / "x") == before
    for name in ("x", "y"):
        work(tmp_path / name, other)
    assert tree(tmp_path / "x") == tree(tmp_path / "y") != before


def test_what_is_finished_is_asked_again_only_where_it_failed_and_only_if_told(tmp_path: Path) -> None:
    gold(tmp_path / "S.json")
    output = tmp_path / "math_gpt_response.json"
    with StandIn(add, script={"What is 4 plus": ["brief", "400"]}) as server:
        assert len(ask(server, tmp_path)) == 8
        asked, before = len(server.seen), output.read_bytes()
        assert len(ask(server, tmp_path)) == 8
        assert (len(server.seen), output.read_bytes()) == (asked, before)
        for _ in range(2):
            rows = ask(server, tmp_path, retry=True)
            assert [row.id for row in rows] == [f"S_{i}" for i in range(5) for _ in range(2)]
        assert {seen.question for seen in server.seen[asked:]} == {"What is 4 plus 7?"}
    assert len(read(output)) == 10
