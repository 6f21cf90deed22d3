"""Several models in one server: each under its name, in its template, and one that fails hurts no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from serving import ask, client, eventually, lora, running, tool_task

from tiny import command, write
from trice.formats.prompt import load_template
from trice.models.generation import TransformersEngine
from trice.models.local import load
from trice.models.sampling import Sampling
from trice.server.model_registry import ServedModel
from trice.stages.generate import respond
from trice.stages.generate import with_instruction as instruct
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.types import Question

TEXTS = [f"Who is number {number}?" for number in range(6)]


def expected(model: Path, adapter: Path | None, template: str) -> list[str]:
    """What the stage `generate` answers."""
    tasks = Tasks("math")
    spec = ModelSpec(str(model), adapter, load_template(template), sampling=Sampling(24))
    rows = [Question(id="chat", input=text) for text in TEXTS]
    engine = TransformersEngine(load(str(model), adapter, device="cpu", dtype="float32"))
    return [
        row.response for row in respond(engine, tasks, [instruct(row, tasks.of(row)) for row in rows], spec)
    ]


def test_each_model_answers_for_itself(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("llama")
    one = lora(model, tmp_path / "stage-1", 1, "clone", "alpaca")
    two = lora(model, tmp_path / "both", 2, "rlef")
    three = lora(model, tmp_path / "foreign", 3)
    with running(model, [one, two, three]) as server:
        listed = {
            each.id: (each.trice["stage"], each.trice["adapter"]) for each in client(server).models.list()
        }
        assert listed == {
            "tiny-llama": ("base", None), "stage-1": ("clone", "stage-1"), "both": ("rlef", "both"),
            "foreign": (None, "foreign"),
        }  # fmt: skip
        pairs = [(name, text) for text in TEXTS for name in listed]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda pair: ask(server, pair[1], model=pair[0], max_tokens=24), pairs))
        found: dict[str, list[str]] = {}
        for (name, _), answer in zip(pairs, answers, strict=True):
            assert answer.model == name
            found.setdefault(name, []).append(answer.choices[0].message.trice["response"])
    assert found == {
        "tiny-llama": expected(model, None, "alpaca"),  # the first adapter's template
        "stage-1": expected(model, one, "alpaca"),
        "both": expected(model, two, "plain"),
        "foreign": expected(model, three, "plain"),
    }


def test_what_breaks_one_batch_breaks_no_other(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("llama")
    with running(model, [lora(model, tmp_path / "stage-1", 1)]) as server:
        base: ServedModel = server.state.registry.models["tiny-llama"]
        expected = ask(server).choices[0].message.content

        def out_of_memory(*_: object) -> None:
            raise RuntimeError("not enough memory")

        hook = base.loaded.model.register_forward_pre_hook(out_of_memory)
        inner = base.loaded.model.base_model.register_forward_pre_hook(out_of_memory)
        with ThreadPoolExecutor(4) as pool:
            broken = [pool.submit(ask, server) for _ in range(2)]
            whole = [pool.submit(ask, server, model="stage-1", max_tokens=5) for _ in range(2)]
            for each in broken:
                with pytest.raises(openai.InternalServerError) as caught:
                    each.result()
                assert "memory" not in str(caught.value)  # what failed is the operator's to know
            assert all(each.result().choices for each in whole)
        hook.remove()
        inner.remove()
        eventually(lambda: server.state.worker.idle)
        assert ask(server).choices[0].message.content == expected
    assert "not enough memory" in capsys.readouterr().err


def test_questions_of_ones_own_are_shown(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"input": "Mine?"}, {"question": "Mine too?", "task": "own"}, {"input": "Not here", "task": "qa"}]
    questions = write(tmp_path / "questions.jsonl", rows)
    task = tool_task(tmp_path, "serving_tools:upper")
    with running(tiny_model("llama"), task=task, questions=questions) as server:
        (shown,) = client(server).get("/tasks", cast_to=object)["data"]
        assert json.dumps(shown["examples"]) == '["Mine?", "Mine too?"]'
        assert shown["tools"] == [{"name": "upper", "description": "In large letters."}]
        assert shown["instruction"] == "Answer, or call."
        assert ask(server, trice={"task": "own"}, max_tokens=3).choices


def test_without_its_libraries_it_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trice.server.REQUIRED", ("fastapi", "not_there"))
    assert command(capsys, "serve")[::2] == (
        2, ["trice: serving needs not_there: pip install 'trice-rlef[serve]'"]
    )  # fmt: skip
