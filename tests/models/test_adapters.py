"""Adapters that other programs saved: every form of file and name is the same model, and nothing is executed."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tiny import read, write
from trice.errors import InputError
from trice.models.adapters import adapter_config, adapter_weights
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import load
from trice.models.sampling import Sampling
from trice.training.rlef import rlef
from trice.training.settings import Rlef

# As PEFT 0.3 wrote it, with a key of an even older version.
OLD: dict[str, Any] = {
    "base_model_name_or_path": "PLMs/vicuna-7b",
    "bias": "none",
    "enable_lora": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "merge_weights": False,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 8,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}
IDS = torch.tensor([[1, 5, 6, 7, 9, 200]])


@pytest.fixture(scope="module")
def vicuna(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_model("llama"), tmp_path_factory.mktemp("models") / "vicuna-7b")


@pytest.fixture(scope="module")
def saved(vicuna: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something, as today's PEFT saves it, beside the logits it gives."""
    torch.manual_seed(3)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(vicuna), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("adapters") / "today"
    model.save_pretrained(folder)
    with torch.no_grad():
        torch.save(model(IDS).logits, folder / "logits.pt")
    return folder


def other(saved: Path, folder: Path, *, rename: Callable[[str], str] = str, bin: bool = True) -> Path:
    """The same adapter as another program would have written it."""
    folder.mkdir()
    weights = {
        rename(name): tensor for name, tensor in load_file(saved / "adapter_model.safetensors").items()
    }
    if bin:
        torch.save(weights, folder / "adapter_model.bin")
    else:
        save_file(weights, folder / "adapter_model.safetensors")
    write(folder / "adapter_config.json", [OLD])
    return folder


def named(name: str) -> str:
    return name.replace(".weight", ".default.weight")


def bare(name: str) -> str:
    return name.removeprefix("base_model.model.")


@pytest.mark.parametrize("bin", [True, False])
@pytest.mark.parametrize("rename", [str, named, bare])
def test_each_form_is_the_same_model(
    saved: Path, vicuna: Path, tmp_path: Path, rename: Callable[[str], str], bin: bool, recwarn: Any
) -> None:
    adapter = other(saved, tmp_path / "adapter", rename=rename, bin=bin)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(
        saved / "adapter_model.safetensors"
    )
    loaded = load(str(vicuna), adapter, device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(IDS).logits, torch.load(saved / "logits.pt"), atol=1e-4, rtol=1e-4
        )
    assert not [warning for warning in recwarn if "peft" in str(warning.filename)]


def test_safetensors_come_first_as_in_peft(saved: Path, tmp_path: Path) -> None:
    adapter = other(saved, tmp_path / "adapter")
    assert adapter_weights(adapter).name == "adapter_model.bin"
    shutil.copy(saved / "adapter_model.safetensors", adapter)
    assert adapter_weights(adapter).name == "adapter_model.safetensors"


def test_training_goes_on_from_one(saved: Path, vicuna: Path, tmp_path: Path) -> None:
    rows = [{"query": "1 and 2?", "responses": ["calculator(1+2)", "no"], "scores": [20, 0]}]
    data = write(tmp_path / "ranked.json", rows)
    settings, logs = Rlef(max_steps=2, learning_rate=1e-3), []
    config = json.loads((saved / "adapter_config.json").read_text()) | {"lora_dropout": 0.05}
    today = shutil.copytree(saved, tmp_path / "today")
    (today / "adapter_config.json").write_text(json.dumps(config))
    for adapter in (today, other(saved, tmp_path / "old", rename=named)):
        out = tmp_path / f"from-{adapter.name}"
        rlef(data, out, str(vicuna), adapter, settings=settings, device="cpu", dtype="float32")
        logs.append(read(out / "log.jsonl"))
        made = json.loads((out / "trice.json").read_text())["lora"]
        assert made == {
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "target_modules": ["q_proj", "v_proj"],
        }
        before, after = (load_file(saved / "adapter_model.safetensors"), load_file(adapter_weights(out)))
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert logs[0] == logs[1]


class Malice:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    saved: Path, vicuna: Path, tmp_path: Path
) -> None:
    adapter, trace = other(saved, tmp_path / "adapter"), tmp_path / "trace"
    weights = adapter / "adapter_model.bin"
    malice = {"a": Malice(trace)}
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save(malice, weights)
        line = refused(vicuna, adapter)
        assert line == f"{weights} is refused: it is damaged, or contains something else than weights"
        assert not trace.exists()
    pickle.loads(weights.read_bytes())
    assert trace.exists()  # it would have


def refused(model: Path, adapter: Path) -> str:
    """The one line with which the adapter is refused."""
    with pytest.raises(InputError) as caught:
        load(str(model), adapter, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_adapter_for_the_model_is_one_line(saved: Path, vicuna: Path, tmp_path: Path) -> None:
    adapter = other(saved, tmp_path / "adapter")
    weights, config = adapter / "adapter_model.bin", adapter / "adapter_config.json"
    whole = torch.load(weights)

    def line(tensors: object = whole, **changes: object) -> str:
        torch.save(tensors, weights)
        write(config, [OLD | changes])
        return refused(vicuna, adapter)

    layer = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A"
    assert f"(has no weights for {layer.format(0)}.default.weight and 7 more)" in line({})
    extra = whole | {f"{layer.format(9)}.weight": torch.zeros(8, 32)}
    assert f"(is for {layer.format(9)}.weight)" in line(extra)
    assert "does not fit model" in line(r=4)
    assert "contains something else than named weights" in line([torch.zeros(2)])
    assert "contains something else than named weights" in line({"a": 1})
    assert "field 'peft_type': 'PREFIX_TUNING'; only LORA" in line(peft_type="PREFIX_TUNING")
    assert "Target modules {'nosuch'} not found" in line(target_modules=["nosuch"])
    assert "was trained on base model 'PLMs/alpaca-7b', not on" in line(
        base_model_name_or_path="PLMs/alpaca-7b"
    )
    torch.save(whole, weights)
    weights.write_bytes(weights.read_bytes()[:500])
    write(config, [OLD])
    assert "is refused: it is damaged, or contains something else than weights" in refused(vicuna, adapter)
    weights.rename(adapter / "adapter_model.safetensors")
    assert "adapter_model.safetensors: cannot be read (" in refused(vicuna, adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "is not an adapter (adapter_model.safetensors or adapter_model.bin is missing)" in refused(
        vicuna, adapter
    )


def test_an_adapter_may_leave_its_base_unnamed(saved: Path, tmp_path: Path) -> None:
    adapter = other(saved, tmp_path / "adapter")
    write(adapter / "adapter_config.json", [OLD | {"base_model_name_or_path": None}])
    assert adapter_config(adapter, "any/model")["r"] == 8


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(
    request: pytest.FixtureRequest,
    tiny_model: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model whose output head is, or is not, its embeddings."""
    source, folder = tiny_model("llama"), tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(source, folder)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.config.tie_word_embeddings = request.param
    if request.param:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(folder)
    return folder


def adapter_of(base: Path, folder: Path, **options: Any) -> Path:
    """An adapter with random weights, as PEFT saves it."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"]} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied layers
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    return folder


FORMS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "head, both tied": {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "repeated layers": {"layer_replication": [[0, 2], [1, 2]]},
    "repeated layers, several targets": {
        "target_modules": ["q_proj", "up_proj"],
        "layer_replication": [[0, 1], [0, 2]],
    },
    "bias of LoRA": {"lora_bias": True},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": [5, 6]},
    "directions": {"use_dora": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_those_of_peft_without_merging(base: Path, tmp_path: Path, form: str) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", **FORMS[form])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    loaded = load(str(base), adapter, device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=1e-4)
        greedy = theirs.generate(input_ids=IDS, max_new_tokens=8, do_sample=False, eos_token_id=None)[0]
    sampling = Sampling(max_new_tokens=8)
    loaded.model.generation_config.eos_token_id = loaded.tokenizer.eos_token_id
    (_, found), *_ = list(generate(loaded, [EncodedPrompt(IDS[0].tolist())], sampling))
    ours = found[0].tokens or []
    assert ours == greedy[IDS.shape[1] :].tolist()[: len(ours)]


def test_training_refuses_what_it_would_not_train_as_peft_does(base: Path, tmp_path: Path) -> None:
    rows = [{"query": "1 and 2?", "responses": ["calculator(1+2)", "no"], "scores": [20, 0]}]
    data = write(tmp_path / "ranked.json", rows)

    def line(**options: Any) -> str:
        adapter = adapter_of(base, tmp_path / "adapter", **options)
        with pytest.raises(InputError) as caught:
            rlef(data, tmp_path / "out", str(base), adapter, device="cpu", dtype="float32")
        return str(caught.value)

    assert "field 'layer_replication'" in line(layer_replication=[[0, 2], [1, 2]])
    for options in ({"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}):
        assert "the output head cannot be among the trained layers" in line(**options)


def test_resized_embeddings_and_pointers_are_named(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    grown = tmp_path / "grown" / base.name
    model.save_pretrained(grown)
    adapter = adapter_of(grown, tmp_path / "adapter", modules_to_save=["embed_tokens"])
    size = AutoModelForCausalLM.from_pretrained(base).config.vocab_size
    assert f"resized embeddings of {size + 3} tokens, model '{base}' has {size}" in refused(base, adapter)

    weights = adapter / "adapter_model.safetensors"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    weights.write_text(pointer)
    assert refused(base, adapter).startswith(f"{weights} is a Git LFS pointer")
    (grown / "model.safetensors").write_text(pointer)
    with pytest.raises(InputError, match=r"model\.safetensors is a Git LFS pointer"):
        load(str(grown), device="cpu", dtype="float32")
