"""Loading: what fits is loaded, what does not is one clear line, and nothing reaches the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trice.errors import InputError
from trice.models.local import check_model, load, pick_device, resolve_dtype


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model's folder to damage."""
    return shutil.copytree(tiny_model("llama"), tmp_path / "model")


def refused(name: str, adapter: Path | None = None) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(InputError) as caught:
        load(name, adapter, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_loaded_to_generate(folder: Path) -> None:
    for dtype, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        loaded = load(str(folder), device="cpu", dtype=dtype)
        assert loaded.model.dtype == kind
    assert not loaded.model.training
    assert (loaded.name, loaded.device, loaded.eos_ids) == (str(folder), torch.device("cpu"), {2})


@pytest.mark.parametrize(("configured", "ends"), [(None, {2}), (9, {2, 9}), ([9, 10], {2, 9, 10})])
def test_every_configured_end_token_ends(
    folder: Path, configured: int | list[int] | None, ends: set[int]
) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": configured}))
    assert load(str(folder), device="cpu", dtype="float32").eos_ids == ends


def test_a_tokenizer_without_padding_gets_the_end_token(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    assert load(str(folder), device="cpu", dtype="float32").tokenizer.pad_token == "<eos>"


@pytest.mark.parametrize("name", ["no/such-model", "nosuch", "not a name", ""])
def test_an_unknown_model_is_one_line(name: str) -> None:
    assert refused(name).startswith(
        f"model '{name}' is neither a folder with a model, nor a hub name that can be loaded, nor "
        "gemma-3-270m or smollm2-135m-instruct ("
    )
    with pytest.raises(InputError, match="neither a folder"):
        check_model(name)


def test_a_damaged_folder_is_one_line(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    assert f"model '{folder}': cannot be loaded (" in refused(str(folder))
    weights.unlink()
    assert "no file named model.safetensors" in refused(str(folder))
    weights.write_bytes(whole)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "cannot be loaded (Unrecognized configuration" in refused(str(folder))
    (folder / "tokenizer.json").write_text("{")
    assert "cannot be loaded (" in refused(str(folder))
    (folder / "config.json").write_text("{")
    assert "not a valid JSON file" in refused(str(folder))


def test_device_and_dtype_names() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("nosuch", "cuda:99", ""):
        with pytest.raises(InputError, match=f"^--device {wrong}: ") as caught:
            pick_device(wrong)
        assert "\n" not in str(caught.value)
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_dtype("auto", "cpu") in ("float32", "bfloat16")
    with pytest.raises(
        InputError, match="dtype 'half' is not valid; choose auto, float32, bfloat16, float16"
    ):
        resolve_dtype("half", "cpu")


def test_a_folder_without_an_adapter_is_refused_before_the_model_is_looked_for(tmp_path: Path) -> None:
    line = f"{tmp_path / 'none'} is not an adapter (adapter_config.json is missing)"
    assert refused("no/such-model", tmp_path / "none") == line


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config | own | {"model_type": "own"}))
    assert "contains custom code" in refused(str(folder))
    assert not trace.exists()


def test_weights_that_are_a_pickle_with_code_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "trace",)

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Malice()}, folder / "pytorch_model.bin")
    assert f"model '{folder}': cannot be loaded (" in refused(str(folder))
    assert not (tmp_path / "trace").exists()


def test_layers_of_an_unknown_kind_are_refused(tmp_path: Path, folder: Path) -> None:
    config = {
        "model_type": "qwen3_next",
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded (layers of kind linear_attention are not supported)" in refused(str(folder))


@pytest.mark.parametrize(("configured", "end"), [(2, "<eos>"), ([1, 2], "<bos>"), (None, None)])
def test_a_tokenizer_without_an_end_token_gets_the_models(
    folder: Path, configured: int | list[int] | None, end: str | None
) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": configured}))
    if end is None:
        assert refused(str(folder)).endswith("neither its tokenizer nor its configuration names an end token")
        return
    loaded = load(str(folder), device="cpu", dtype="float32")
    assert (loaded.tokenizer.eos_token, loaded.tokenizer.pad_token) == (end, "<pad>")
