"""A local Ray of two workers: the same output as one process, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tiny import command, for_tool_calls, read, sums
from trice import ray_cluster
from trice.errors import InputError, TriceError
from trice.formats.prompt import load_template, prompt_template
from trice.models.engine import Deliver, Failure, Generated, GenerationSettings, Prompt
from trice.models.ray_engine import RayEngine
from trice.models.sampling import Sampling
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec, open_engine
from trice.tasks import Tasks
from trice.tasks.instructions import MATH as INSTRUCTION
from trice.tools import Tool, load_tool
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema
from trice.tools.executor import run_all
from trice.tools.function_tool import FunctionTool
from trice.tools.ray_executor import runner
from trice.tools.worker_pool import run_in_pool
from trice.types import Execution, ToolCall

ray = pytest.importorskip("ray")

PROMPTS = [Prompt(f"key {number}", "Add.", f"{number}+{number}?", (0, 1)) for number in range(24)]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",  # whatever cluster this machine belongs to
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80_000_000,  # bytes; Ray would take a third of the memory
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},  # where this file is
    )
    yield
    ray.shutdown()


@pytest.fixture
def spec(tiny_model: Callable[[str], Path]) -> ModelSpec:
    return ModelSpec(str(tiny_model("gemma3")), batch_size=4, device="cpu", dtype="float32")


def told(
    engine: object, prompts: Sequence[Prompt], settings: GenerationSettings
) -> dict[tuple[int, int], Generated]:
    """What an engine writes, each response by the numbers of its prompt and its own; none comes twice."""
    found: dict[tuple[int, int], Generated] = {}

    def done(number: int, samples: dict[int, Generated]) -> None:
        for sample, written in samples.items():
            assert (number, sample) not in found
            found[number, sample] = written

    assert engine.generate(prompts, settings, done) == []  # type: ignore[attr-defined]
    return found


def drawn(**sampling: object) -> GenerationSettings:
    """Prompts with a tool on offer, whose own code reads the calls."""
    tools = {"calculator": Calculator().parse, "halve": FunctionTool(halve).parse}
    return GenerationSettings(
        load_template("plain"), Sampling(max_new_tokens=8, **sampling), (), tools, ("halve",)
    )  # type: ignore[arg-type]


def halve(number: float) -> str:
    """Halves."""
    return f"{number / 2} by {os.getpid()}"


class Mortal:
    """An engine whose process is killed, the first time that it has handed over three responses."""

    def __init__(self, spec: ModelSpec, killed: Path) -> None:
        self.engine, self.killed = open_engine(spec), killed

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        handed: list[int] = []

        def mortal(number: int, samples: dict[int, Generated]) -> None:
            deliver(number, samples)
            handed.append(number)
            if len(handed) == 3 and not self.killed.exists():
                self.killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return self.engine.generate(prompts, settings, mortal)


class Frail:
    """An engine that fails on odd prompts, and as it is told on those of which it is asked to."""

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        for number, prompt in enumerate(prompts):
            if prompt.input == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if prompt.input == "raise":
                raise InputError("model 'x': is not there")
            if int(prompt.key.split()[1]) % 2 == 0:
                deliver(number, {0: Generated(prompt.input)})
        return [Failure(number, "odd") for number, prompt in enumerate(prompts) if int(prompt.key[4:]) % 2]


def test_the_same_responses_as_one_process_though_a_worker_is_killed(
    two_workers: None, tmp_path: Path, spec: ModelSpec
) -> None:
    settings = drawn(samples=2, temperature=1.0, top_p=0.9, seed=3)
    alone = told(open_engine(spec), PROMPTS, settings)
    spread = told(RayEngine(partial(Mortal, spec, tmp_path / "killed"), 2), PROMPTS, settings)
    assert (tmp_path / "killed").exists()
    assert len(alone) == 48
    assert len({written.text for written in alone.values()}) > 20
    assert spread == alone


def test_the_command_writes_the_same_bytes_with_ray(
    two_workers: None, tmp_path: Path, spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    data, outputs = sums(tmp_path / "in.json", 10), [tmp_path / "one.json", tmp_path / "two.json"]
    words = ["generate", "--model", spec.model, "--data", data, "--device", "cpu", "--dtype", "float32"]
    words += ["--max-new-tokens", 8, "--generation-batch-size", 4]
    assert command(capsys, *words, "--output", outputs[0])[0] == 0
    assert command(capsys, *words, "--output", outputs[1], "--engine", "ray", "--workers", 2)[0] == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert len(read(outputs[0])) == 10


def test_rollouts_are_the_same_with_ray(
    two_workers: None, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    schemas, data = [function_schema(Calculator())], sums(tmp_path / "in.json", 6)
    model = for_tool_calls(tiny_model("llama"), tmp_path / "model", INSTRUCTION, schemas)
    spec = ModelSpec(
        str(model), template=prompt_template("chat"), tool_choice="required", batch_size=4, device="cpu",
        dtype="float32", sampling=Sampling(6, temperature=1.0, samples=2, seed=2),
    )  # fmt: skip
    rows = generate(data, tmp_path / "one.json", Tasks("math"), spec)
    assert len(rows) == 12
    assert all(row.completion for row in rows)
    assert (
        generate(data, tmp_path / "two.json", Tasks("math"), replace(spec, engine="ray", workers=2)) == rows
    )
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_run_may_go_on_on_a_cluster_but_not_with_another_writer(spec: ModelSpec) -> None:
    here = spec.settings()
    assert replace(spec, engine="ray", workers=3).settings() == here
    assert replace(spec, engine="ray:vllm").settings() == replace(spec, engine="vllm").settings() != here


def test_failures_keep_the_numbers_of_their_prompts(two_workers: None) -> None:
    found: dict[int, str] = {}
    failures = RayEngine(Frail, 2).generate(
        PROMPTS, drawn(), lambda number, samples: found.update({number: samples[0].text})
    )
    assert failures == [Failure(number, "odd") for number in range(1, 24, 2)]
    assert found == {number: f"{number}+{number}?" for number in range(0, 24, 2)}


def test_what_a_worker_raises_is_told_in_one_line(two_workers: None) -> None:
    with pytest.raises(InputError, match=r"^on a worker of the cluster: model 'x': is not there$"):
        RayEngine(Frail, 1).generate([*PROMPTS[:3], Prompt("key 3", "", "raise")], drawn(), print)


def test_a_prompt_that_kills_every_worker_is_given_up(
    two_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    with pytest.raises(TriceError, match="finished results are saved"):
        RayEngine(Frail, 1).generate([Prompt("key 0", "", "die")], drawn(), print)


def test_a_tool_that_cannot_travel_is_refused(two_workers: None) -> None:
    class Locked(Calculator):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    settings = replace(drawn(), parsers={"calculator": Locked().parse})
    with pytest.raises(InputError, match=r"cannot be sent to the workers: .*lock"):
        RayEngine(Frail, 2).generate(PROMPTS, settings, print)


def test_calls_are_run_on_the_workers(two_workers: None) -> None:
    halving = FunctionTool(halve)
    calls: list[tuple[Tool, ToolCall]] = [
        (halving, ToolCall(name="halve", arguments={"number": number}))
        for number in (1, 2, 3, "x", 1, 4, 5, 6, 7)
    ]
    calls.append((Calculator(), ToolCall(name="calculator", arguments={"expression": "6*7"})))
    found = run_all(calls, runner=runner("ray", 2))
    alone = run_all(calls)

    def answers(executions: Sequence[Execution]) -> list[str | None]:
        return [each.error or str(each.output).partition(" by ")[0] for each in executions]

    assert answers(found) == answers(alone)
    assert answers(found)[0] == "0.5"
    assert answers(found)[-1] == "42"
    processes = Counter(str(each.output).partition(" by ")[2] for each in found[:-1] if each.output)
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert runner("vllm") is None


def test_calls_to_servers_stay_here(two_workers: None) -> None:
    halving = FunctionTool(halve)
    halving.workers = 4
    spread = runner("ray", 2)
    assert spread is not None
    ((_, execution),) = spread({"a": (halving, ToolCall(name="halve", arguments={"number": 1}))})
    assert execution.output == f"0.5 by {os.getpid()}"
    assert [key for key, _ in run_in_pool({})] == []


def test_a_tools_source_travels_and_what_it_opened_does_not() -> None:
    from ray import cloudpickle

    for name, source in (("WikiSearch", "some-index"), ("QA", "a-model"), ("translator", "apertium")):
        packed = cloudpickle.dumps(load_tool(name, source))
        assert len(packed) < 1000
        assert cloudpickle.loads(packed).backend == source


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([{"CPU": 2.0}], None, (1, 2, 0)),
        ([{"CPU": 2.0}], 2, (2, 1, 0)),
        ([{"CPU": 2.0}], 4, (4, 0.5, 0)),
        ([{"CPU": 16.0}, {"CPU": 16.0}, {}], 6, (6, 5, 0)),
        ([{"CPU": 64.0, "GPU": 8.0}] * 8, None, (64, 1, 1)),
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}], 2, (2, 1, 4)),
        ([{"CPU": 64.0, "GPU": 8.0}], 3, (3, 1, 2)),
    ],
)
def test_the_machines_are_shared_out(
    nodes: list[dict[str, float]], workers: int | None, expected: tuple[float, ...]
) -> None:
    assert ray_cluster.divide(nodes, workers) == expected


def test_a_cluster_without_cores_is_refused() -> None:
    with pytest.raises(InputError, match="no cores"):
        ray_cluster.divide([{"memory": 1e9}])


def test_portions_are_small_enough_for_every_worker() -> None:
    assert ray_cluster.split("abcdefghij", 1, 3) == ["abc", "def", "ghi", "j"]
    assert ray_cluster.split("abcdefghij", 2, 256) == ["ab", "cd", "ef", "gh", "ij"]
    assert ray_cluster.split("ab", 64, 256) == ["a", "b"]


def test_an_engine_that_there_is_not_is_refused_before_the_model_is_loaded(
    tmp_path: Path, spec: ModelSpec
) -> None:
    with pytest.raises(
        InputError, match=r"engine 'rai' is not valid; choose transformers, vllm, ray, ray:vllm"
    ):
        generate(
            sums(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), replace(spec, engine="rai")
        )
