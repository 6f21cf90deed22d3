"""Each family of models through both stages and generation, with its own tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import families
from tiny import command, read, sums, write
from trice.formats.prompt import load_template
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.training.clone import clone
from trice.training.rlef import rlef
from trice.training.settings import Clone, Lora, Rlef

TOKENS = 12  # with the prompt more than the sliding layers' window
QUESTIONS = ("12+30?", "What is the sum of 45 and 3, and of nothing else?", "", "Paris or 7?")
LORA = Lora(r=4, lora_dropout=0)
CLONE = Clone(max_steps=2, batch_size=4, learning_rate=3e-2, lr_scheduler_type="constant", lora=LORA)
RLEF = Rlef(max_steps=2, batch_size=2, learning_rate=1e-3)


class Member(NamedTuple):
    """A model as it is published: its family, its special tokens, the template it is used with."""

    family: str
    template: str
    names: tuple[tuple[str, str], ...] = ()


VICUNA = Member("llama", "vicuna", (("pad_token", "<unk>"),))
QWEN = Member("qwen2", "chat", (("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")))
MEMBERS = {
    "vicuna": VICUNA,
    "alpaca": Member("llama", "alpaca", (("pad_token", "[PAD]"),)),
    "llama": Member("llama", "plain"),
    "glm": Member("glm", "chat"),
    "glm4": Member("glm4", "plain"),
    "qwen2": QWEN,
    "qwen3": Member("qwen3", "chat", QWEN.names),
    "gemma2": Member("gemma2", "plain"),
    "gemma3": Member("gemma3", "chat"),
    "mistral": Member("mistral", "chat"),
}


class Trained(NamedTuple):
    """A member's folder and its adapters of both stages."""

    member: Member
    model: Path
    stage1: Path
    stage2: Path

    def prompts(self, tokenizer: Any) -> list[list[int]]:
        template = load_template(self.member.template)
        return [template.encode(tokenizer, "Solve the problem.", text) for text in QUESTIONS]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains a member through both stages, once."""

    @cache
    def train(name: str) -> Trained:
        member, folder = MEMBERS[name], tmp_path_factory.mktemp(name)
        model = families.save(member.family, folder / f"tiny-{name}", **dict(member.names))
        rows = [
            {"instruction": "Solve the problem.", "input": f"{i} and 7?", "output": text}
            for i, text in enumerate(["calculator(0+7)", "8", "calculator(2+7)", "ten"])
        ]
        ranked = [
            {"query": row["input"], "responses": [row["output"], "7", "no"], "scores": [20, 5, 0]}
            for row in rows
        ]
        call = {"template": load_template(member.template), "device": "cpu", "dtype": "float32"}
        stage1 = clone(
            write(folder / "math.json", rows), folder / "stage1", str(model), settings=CLONE, **call
        )
        stage2 = rlef(
            write(folder / "ranked.json", ranked),
            folder / "stage2",
            str(model),
            stage1,
            settings=RLEF,
            **call,
        )
        return Trained(member, model, stage1, stage2)

    return train


@pytest.fixture(params=MEMBERS)
def trained(request: pytest.FixtureRequest, make: Callable[[str], Trained]) -> Trained:
    return make(request.param)


class Spelled:
    """Decodes token ids to their numbers, so that texts are equal only where all tokens are."""

    def __init__(self, tokenizer: Any) -> None:
        self.eos_token_id = tokenizer.eos_token_id

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def ours(loaded: LocalModel, prompts: list[list[int]], batch_size: int) -> list[str]:
    spelled = replace(loaded, tokenizer=Spelled(loaded.tokenizer))
    asked = [EncodedPrompt(prompt) for prompt in prompts]
    texts = dict(generate(spelled, asked, Sampling(max_new_tokens=TOKENS), batch_size=batch_size))
    return [texts[index][0].text for index in range(len(prompts))]


@torch.no_grad()
def theirs(trained: Trained, prompts: list[list[int]]) -> list[str]:
    """What PEFT and transformers write, in the mode they choose themselves, one prompt at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(trained.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, trained.stage2).eval()
    ends = model.generation_config.eos_token_id
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS
        )
        new = written[0, len(prompt) :].tolist()
        ended = new[-1] in (ends if isinstance(ends, list) else [ends])
        texts.append(" ".join(map(str, new[:-1] if ended else new)))
    return texts


def test_both_stages_learn(trained: Trained) -> None:
    stage1, stage2 = (read(folder / "log.jsonl") for folder in (trained.stage1, trained.stage2))
    assert stage1[1]["sft_loss"] < stage1[0]["sft_loss"]
    assert stage2[0]["sft_loss"] < stage1[0]["sft_loss"]  # it goes on from stage 1
    assert 0 <= stage2[1]["rank_loss"] < float("inf")


def test_generation_is_that_of_transformers_and_peft_however_batched(trained: Trained) -> None:
    loaded = load(str(trained.model), trained.stage2, device="cpu", dtype="float32")
    prompts = trained.prompts(loaded.tokenizer)
    expected = theirs(trained, prompts)
    assert len(set(expected)) > 2
    assert ours(loaded, prompts, 1) == expected
    assert ours(loaded, prompts, 64) == expected


def test_the_command_answers_with_the_familys_template(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = sums(tmp_path / "questions.json", 3)
    responses = []
    for size in (1, 16):
        output = tmp_path / f"{size}.json"
        code, _, errors = command(
            capsys, "generate", "--model", trained.model, "--adapter", trained.stage2, "--data", questions,
            "--task", "math", "--output", output, "--template", trained.member.template,
            "--generation-batch-size", size, "--max-new-tokens", TOKENS, "--device", "cpu", "--dtype", "float32",
        )  # fmt: skip
        assert code == 0, errors
        responses.append([row["response"] for row in read(output)])
    assert responses[0] == responses[1]
    assert len(responses[0]) == 3


@pytest.mark.parametrize("name", ["llama", "alpaca", "qwen2", "glm"])
def test_the_end_token_is_learned_and_ends_whatever_token_pads(name: str, tmp_path: Path) -> None:
    """The end token is the padding token (llama, glm), another one, or one that was added (alpaca)."""
    member, told = MEMBERS[name], {"8 and 7?": "15", "1 and 2, or rather 2 and 7?": "calculator(2+7)"}
    model = families.save(member.family, tmp_path / "model", **dict(member.names))
    loaded = load(str(model), device="cpu", dtype="float32")
    assert (loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id) is (name in ("llama", "glm"))
    rows = [{"instruction": "Solve.", "input": text, "output": answer} for text, answer in told.items()]
    settings = Clone(
        max_steps=30, batch_size=2, learning_rate=1e-2, lora=Lora(lora_dropout=0, target_modules="all-linear")
    )
    adapter = clone(
        write(tmp_path / "rows.json", rows), tmp_path / "run", str(model),
        settings=settings, template=load_template(member.template), device="cpu", dtype="float32",
    )  # fmt: skip
    loaded = load(str(model), adapter, device="cpu", dtype="float32")
    template = load_template(member.template)
    prompts = [template.encode(loaded.tokenizer, "Solve.", text) for text in told]
    found = generate(loaded, [EncodedPrompt(prompt) for prompt in prompts], Sampling(max_new_tokens=40))
    assert {number: each[0].text.strip() for number, each in found} == dict(enumerate(told.values()))


def test_a_llama_with_a_sentencepiece_file_alone(tmp_path: Path) -> None:
    """As Vicuna is published: `tokenizer.model` and no `tokenizer.json`."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    model = families.save("llama", tmp_path / "vicuna-7b")
    (model / "tokenizer.json").unlink()
    told = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>"}
    told |= {"legacy": False, "pad_token": None, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}
    (model / "tokenizer_config.json").write_text(json.dumps(told))
    (tmp_path / "text").write_text("\n".join(families.TEXT * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(model / "tokenizer"), model_type="bpe", vocab_size=330,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    own = sentencepiece.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    loaded = load(str(model), device="cpu", dtype="float32")
    for text in ("What is the sum of 12 and 30?", "é is no token"):
        assert loaded.tokenizer(text)["input_ids"] == [own.bos_id(), *own.encode(text)]
    assert loaded.eos_ids == {own.eos_id()}
    assert loaded.tokenizer.pad_token == "</s>"
