"""A merged model in its folder: transformers loads it and writes the tokens that the adapter writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import trice
from families import save
from tiny import command
from trice.errors import InputError
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import load, load_base
from trice.models.merged_model import write_merged
from trice.models.sampling import Sampling
from trice.training.lora import with_lora
from trice.training.settings import Lora

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-model.md"
PROMPTS = [[5, 9, 17, 30, 41], [7, 7, 120], [200, 31, 8, 90, 12, 55, 3]]


def adapter_of(base: Path, folder: Path, **lora: object) -> Path:
    """A random adapter that changes what the model writes."""
    torch.manual_seed(3)
    loaded = load_base(str(base), device="cpu", dtype="float32")
    model = with_lora(loaded, None, Lora(r=2, lora_dropout=0, target_modules="all-linear"), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    made = {"model": str(base), "template": "chat", "stage": "clone", "trice": "0"}
    (folder / "trice.json").write_text(json.dumps(made))
    return folder


@trice.tool
def double(value: int) -> int:
    """Double a number."""
    return 2 * value


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2"])
def test_transformers_writes_the_same_tokens(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(family, tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter")
    code, out, lines = command(capsys, "merge", "--adapter", adapter, "--output", tmp_path / "merged")
    assert (code, out) == (0, f"{tmp_path / 'merged'}\n"), lines
    loaded = load(str(base), adapter, device="cpu", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert (tmp_path / "merged" / "trice.json").read_bytes() == (adapter / "trice.json").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.float32
    plain = AutoModelForCausalLM.from_pretrained(base)
    ours = dict(generate(loaded, [EncodedPrompt(prompt) for prompt in PROMPTS], Sampling(12)))
    changed = False
    for number, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, loaded.model(tokens).logits)
            changed |= not torch.allclose(model(tokens).logits, plain(tokens).logits, atol=1e-2)
        theirs = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=12
        )[0, len(prompt) :].tolist()
        ends = [place for place, token in enumerate(theirs) if token in loaded.eos_ids]
        assert list(ours[number][0].tokens) == theirs[: ends[0] if ends else None]
    assert changed


def test_the_script_of_the_documentation_answers_as_trice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save("qwen2", tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter")
    model = trice.load(base, adapter, template="chat", device="cpu", dtype="float32")
    model.merge(tmp_path / "runs" / "merged")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r'^```python title="ask.py"\n(.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    capsys.readouterr()
    exec(compile(code, "ask.py", "exec"), {})
    task = trice.Task("sums", instruction="Answer the question.", tools=[double], answers="numbers")
    answer = model.ask("What is 12 * 34?", task, max_new_tokens=64)
    assert answer.response
    assert capsys.readouterr().out.strip() == answer.response.strip()


def test_what_cannot_be_merged_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = adapter_of(base, tmp_path / "adapter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match=r"--output .*full: already exists; choose a new folder"):
        write_merged(adapter, tmp_path / "full")
    with pytest.raises(InputError, match="has no adapter to merge"):
        trice.load(base).merge(tmp_path / "merged")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_bias": True}))
    from safetensors.torch import load_file, save_file

    weights = load_file(adapter / "adapter_model.safetensors")
    biases = {
        name.replace("lora_B.weight", "lora_B.bias"): torch.ones(tensor.shape[0])
        for name, tensor in weights.items()
        if "lora_B" in name
    }
    save_file(weights | biases, adapter / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match=r"no place for model\.layers\.0\..*\.bias; use the adapter with PEFT"
    ):
        write_merged(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
