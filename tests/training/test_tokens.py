"""Token ids in, token ids out: stage 2 trains on the ids the model sampled, not on another cut of their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import families
from tiny import read, sums, write
from trice.formats.prompt import load_template
from trice.models.batching import EncodedPrompt
from trice.models.engine import ToolChoice
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.stages.collect import collect, collect_gold
from trice.stages.generate import Group, content_key, group_by_task
from trice.stages.model_spec import ModelSpec
from trice.stages.score import score
from trice.tasks import Tasks
from trice.training.packed_forward import PackedForward
from trice.training.packing import TokenizedExample, pack
from trice.training.rlef import examples
from trice.training.settings import Rlef
from trice.training_data import Candidates
from trice.types import Response

HOT = Sampling(max_new_tokens=10, temperature=1.3, samples=12, seed=3)
PLAIN = load_template("plain")
Key = tuple[str, int]  # a question's id, a sample's number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three questions and their gold calls, in whose folder candidates are collected."""
    questions = read(sums(tmp_path / "questions.json", 3))
    gold = [
        {"id": each["id"], "instruction": "Solve.", "input": each["question"], "answer": each["answer"]}
        | {"output": f"calculator({each['expression']})"}
        for each in questions
    ]
    collect_gold(write(tmp_path / "gold.json", gold), tmp_path / "stage2", Tasks("math"))
    return tmp_path


def sampled(loaded: LocalModel, group: Group) -> dict[Key, list[int]]:
    """The ids of the same draws, straight from the decoder."""
    start = PLAIN.encode_response(loaded.tokenizer, group.settings.prefill, end=False)
    start = start if group.settings.prefill else []
    questions = list(group.questions.values())
    asked = [
        EncodedPrompt(
            PLAIN.encode(loaded.tokenizer, each.instruction, each.input) + start,
            content_key(each),
            tuple(range(HOT.samples)),
        )
        for each in questions
    ]
    return {
        (questions[number].id, sample): start + (each.tokens or [])
        for number, found in generate(loaded, asked, HOT, group.settings.finish)
        for sample, each in found.items()
    }


def by_sample(made: list[TokenizedExample], ranked: list[Candidates]) -> dict[Key, list[int]]:
    """The ids, end token and all, of every candidate but gold, which stands first."""
    return {
        (row.id, number - 1): tokens.ids
        for example, row in zip(made, ranked, strict=True)
        for number, tokens in enumerate(example.responses)
        if number
    }


def without_tokens(path: Path) -> list[dict[str, Any]]:
    rows = read(path)
    for each in (each for row in rows for each in row["candidates"]):
        each.pop("tokens", None)
    return rows


@torch.no_grad()
def logprobs(
    forward: PackedForward, made: list[TokenizedExample], ranked: list[Candidates], opened: int
) -> dict[Key, float]:
    """What the trainer's forward gives each candidate's ids after the first `opened`, the end token left out."""
    found = {}
    for example, row in zip(made, ranked, strict=True):
        logps_N = forward(forward.pack([example]))
        each = logps_N.split([len(tokens.ids) for tokens in example.responses])
        found |= {(row.id, number): float(logps[opened:-1].sum()) for number, logps in enumerate(each[1:])}
    return found


@torch.no_grad()
def plain_logprob(loaded: LocalModel, row: Response, ids: list[int], opened: int) -> float:
    """The log-probability that the plain forward pass gives the sampled ids after the first `opened`."""
    prompt = PLAIN.encode(loaded.tokenizer, row.instruction, row.input)
    logits = loaded.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    logps = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
    return float(logps[opened:].sum())


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
def test_training_holds_the_sampled_ids_and_gives_them_the_plain_models_log_probability(
    folder: Path, tiny_model: Callable[[str], Path], tool_choice: ToolChoice
) -> None:
    path = str(tiny_model("llama"))
    spec = ModelSpec(path, tool_choice=tool_choice, sampling=HOT, device="cpu", dtype="float32")
    rows = collect(folder / "questions.json", folder / "stage2", Tasks("math"), "sampled", spec)
    ranked_path = folder / "math.json"
    ranked = score(folder / "stage2", ranked_path, Tasks("math"), distinct=False)
    loaded = load(path, device="cpu", dtype="float32")
    tokenizer = loaded.tokenizer
    end, known = tokenizer.eos_token_id, len(tokenizer)
    (group,) = group_by_task(Tasks("math"), list(rows[:: HOT.samples]), spec)
    drawn = sampled(loaded, group)

    made = examples(ranked_path, PLAIN)(tokenizer)
    trained = by_sample(made, ranked)
    again = {
        (row.id, row.sample): [*PLAIN.encode_response(tokenizer, row.response, end=False), end]
        for row in rows
    }
    # A tiny model has some ids that its tokenizer has not: such a response can only be cut anew.
    strays = {key for key, ids in drawn.items() if max(ids, default=0) >= known}
    drifted = [key for key in drawn if key not in strays and [*drawn[key], end] != again[key]]
    print(f"{len(drifted)} of {len(drawn)} responses have ids of their own, {len(strays)} are cut anew")
    assert len(drifted) > 5
    for key, ids in drawn.items():
        assert trained[key] == (again[key] if key in strays else [*ids, end])
    kept = {(row.id, row.sample) for row in rows if row.tokens is not None}
    assert kept == {*drifted, *strays}  # the others are the tokenizer's own cut

    # The prefill and the end token are not compared.
    opened = (
        len(PLAIN.encode_response(tokenizer, "calculator(", end=False)) if tool_choice == "required" else 0
    )
    plain = {
        (row.id, row.sample): plain_logprob(loaded, row, drawn[row.id, row.sample], opened) for row in rows
    }
    recut = examples(write(folder / "texts.json", without_tokens(ranked_path)), PLAIN)(tokenizer)
    forward = PackedForward(loaded.model, made)
    assert forward.strategy.layout == "blocks"
    theirs, others = (logprobs(forward, each, ranked, opened) for each in (made, recut))
    assert max(abs(theirs[key] - plain[key]) for key in drawn if key not in strays) < 1e-4
    assert min(abs(others[key] - plain[key]) for key in drifted) > 1e-2


@pytest.mark.parametrize("family", ["mistral", "gemma3", "glm4"])
def test_another_familys_ids_are_never_trained_on(
    folder: Path, tiny_model: Callable[[str], Path], family: str
) -> None:
    spec = ModelSpec(str(tiny_model("llama")), sampling=HOT, device="cpu", dtype="float32")
    collect(folder / "questions.json", folder / "stage2", Tasks("math"), "llama", spec)
    score(folder / "stage2", folder / "math.json", Tasks("math"))
    candidates = [each for row in read(folder / "math.json") for each in row["candidates"]]
    assert any("tokens" in each for each in candidates)
    texts = write(folder / "texts.json", without_tokens(folder / "math.json"))
    policy = families.tokenizer(family)
    assert examples(folder / "math.json", PLAIN)(policy) == examples(texts, load_template("plain"))(policy)


def test_ids_are_taken_where_they_read_as_the_response_and_only_there(
    tiny_model: Callable[[str], Path],
) -> None:
    tokenizer = load(str(tiny_model("llama")), device="cpu", dtype="float32").tokenizer
    one, two, twelve, blank = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("1", "2", " 12", " ")
    )
    pieces, end = [*blank, *one, *two], tokenizer.eos_token_id
    assert pieces != twelve
    for written, response, expected in [
        (None, "12", twelve),
        (pieces, "12", pieces),
        ([*one, *two], "12", [*one, *two]),  # without the template's space: what the model wrote
        ([*pieces, *blank], "12", [*pieces, *blank]),
        ([*pieces, *one], "12", twelve),
        ([*pieces, len(tokenizer) + 3], "12", twelve),  # which decoding leaves out
        ([*pieces, -1], "12", twelve),
        ([], "", []),
    ]:
        assert PLAIN.encode_response(tokenizer, response, tokens=written) == [*expected, end]


def test_a_count_is_as_many_copies_for_a_policy_gradient_and_costs_no_tokens(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    def file(name: str, *candidates: dict[str, Any]) -> Path:
        return write(tmp_path / name, [{"instruction": "Solve.", "input": "1+2?", "candidates": candidates}])

    right, wrong = {"response": "3", "reward": 1.0}, {"response": "12", "reward": 0.0}
    tokenizer = load(str(tiny_model("llama")), device="cpu", dtype="float32").tokenizer
    counted = file("counted.json", right | {"count": 3}, wrong)
    copies = file("copies.json", right, right, right, wrong)
    (once,) = examples(counted, PLAIN)(tokenizer)
    (expected,) = examples(copies, PLAIN)(tokenizer)
    for objective in ("grpo", "reinforce"):
        (made,) = examples(counted, PLAIN, settings=Rlef(objective=objective))(tokenizer)
        assert made == expected
    assert (once.rewards, made.rewards) == ([1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    for name in ("tokens_RT", "source_M", "target_E"):
        assert torch.equal(getattr(pack([made]), name), getattr(pack([once]), name))
