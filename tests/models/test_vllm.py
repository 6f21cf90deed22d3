"""vLLM: what it is asked for, and, where it is installed, that it writes what transformers writes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import command, sums
from trice.errors import InputError
from trice.formats.prompt import load_template
from trice.models import vllm_engine
from trice.models.engine import Engine, Generated, GenerationSettings, Prompt
from trice.models.sampling import Sampling
from trice.stages.model_spec import ModelSpec, open_engine
from trice.tools.calculator import Calculator

installed = importlib.util.find_spec("vllm") is not None
PROMPT = Prompt("a question's content", "Add.", "2+3?", (0, 1))
TOOLS = {"calculator": Calculator().parse}


def settings(**sampling: Any) -> GenerationSettings:
    return GenerationSettings(load_template("plain"), Sampling(**sampling), (), TOOLS, ("calculator",))


def test_greedy_settings() -> None:
    asked = vllm_engine.sampling_params(settings(max_new_tokens=9), PROMPT, 0)
    seed = asked.pop("seed")
    assert 0 <= seed < 2**48
    assert asked == {
        "max_tokens": 9,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "logit_bias": None,
        "stop_token_ids": None,
    }


def test_sampled_settings() -> None:
    drawn = settings(temperature=0.2, top_k=40, top_p=0.75, repetition_penalty=1.3)
    asked = vllm_engine.sampling_params(drawn, PROMPT, 1, [7, 9])
    assert (asked["temperature"], asked["top_k"], asked["top_p"]) == (0.2, 40, 0.75)
    assert asked["repetition_penalty"] == 1.3
    assert asked["logit_bias"] == {7: -100.0, 9: -100.0}


def test_a_seed_belongs_to_the_question_and_the_sample() -> None:
    def seed(prompt: Prompt, sample: int, **sampling: Any) -> int:
        asked: int = vllm_engine.sampling_params(settings(**sampling), prompt, sample)["seed"]
        return asked

    assert seed(PROMPT, 1) == seed(PROMPT._replace(samples=(1,)), 1, temperature=1.0)
    assert len({seed(PROMPT, 0), seed(PROMPT, 1), seed(PROMPT, 0, seed=1), seed(Prompt("b", "", ""), 0)}) == 4


def test_beams_and_a_missing_vllm_are_refused(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", tiny_model("llama"), "--data", sums(tmp_path / "in.json")]
    words += ["--output", tmp_path / "out.json", "--engine", "vllm", "--beams", 4]
    code, _, lines = command(capsys, *words)
    expected = (
        "does not support beam search (beams=4)"
        if installed
        else "needs vLLM: pip install 'trice-rlef[vllm]'"
    )
    assert (code, len(lines)) == (2, 1)
    assert expected in lines[0]


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (500, 512)])
def test_room_is_made_for_the_adapters_rank(tmp_path: Path, rank: int, room: int) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    (tmp_path / "adapter_model.safetensors").touch()
    assert vllm_engine.max_lora_rank(tmp_path, "m") == room


def test_too_high_a_rank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 1024}')
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(InputError, match="rank 1024 is too high; vLLM supports at most 512"):
        vllm_engine.max_lora_rank(tmp_path, "m")


def told(engine: Engine, how: GenerationSettings, prompts: list[Prompt]) -> dict[tuple[int, int], Generated]:
    found: dict[tuple[int, int], Generated] = {}

    def done(number: int, samples: dict[int, Generated]) -> None:
        found.update({(number, sample): written for sample, written in samples.items()})

    assert engine.generate(prompts, how, done) == []
    return found


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="vLLM is not installed")
def test_vllm_writes_what_transformers_writes() -> None:
    spec = ModelSpec("gemma-3-270m", dtype="float32")
    prompts = [Prompt(str(n), "Answer.", f"What is {n} plus {n + 3}?") for n in range(12)]
    greedy = settings(max_new_tokens=24)
    expected = told(open_engine(spec), greedy, prompts)
    engine = vllm_engine.VllmEngine("gemma-3-270m", dtype="float32")
    found = told(engine, greedy, prompts)
    assert sum(found[place] == expected[place] for place in expected) >= 11  # a tie may go the other way

    drawn = settings(max_new_tokens=16, temperature=1.0, top_k=50)
    together = told(engine, drawn, [prompt._replace(samples=(0, 1, 2)) for prompt in prompts])
    alone = told(engine, drawn, [prompts[3]._replace(samples=(1,))])
    assert alone[0, 1] == together[3, 1]
    assert len({together[3, sample].text for sample in range(3)}) > 1
