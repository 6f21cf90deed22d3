"""A real server for tests: tiny models, real tools, uvicorn in a thread of its own, asked over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from tiny import says
from trice.server.limits import Limits
from trice.server.model_registry import open_registry
from trice.server.startup import Access, Server, open_server


@contextmanager
def running(
    model: Path,
    adapters: Sequence[Path] = (),
    task: str = "math",
    *,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    access: Access | None = None,
    **options: Any,
) -> Iterator[Server]:
    """A server of the model, in float32, as long as the block lasts; `url` says where."""
    registry = open_registry(str(model), adapters, task, device="cpu", dtype="float32", **options)
    server = open_server(registry, access or Access(port=0), limits or Limits(max_new_tokens=64), keys)
    thread = Thread(target=server.serve_here, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def client(server: Server, key: str = "none") -> Any:
    """The openai package's own client."""
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def tool_task(folder: Path, *tools: str) -> str:
    """A task of one's own with these tools, `module:name`."""
    path = folder / "own.yaml"
    path.write_text(
        f"name: own\ninstruction: Answer, or call.\ntools: [{', '.join(tools)}]\n", encoding="utf-8"
    )
    return str(path)


def writes(source: Path, folder: Path, text: str, *, for_ever: bool = False) -> Path:
    """A tiny Llama that answers every question with `text`, one token; `for_ever` again and again, with room
    for that."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([text])
    model = AutoModelForCausalLM.from_pretrained(source)
    model.config.max_position_embeddings = 100_000
    model.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    made = says(folder / "plain", folder / "writer", text)
    if for_ever:
        model = AutoModelForCausalLM.from_pretrained(made)
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(text)] = (
                model.get_input_embeddings().weight[0]
            )
        model.save_pretrained(made)
    return made


def ask(server: Server, text: str = "What is 12 plus 30?", *, key: str = "none", **fields: Any) -> Any:
    """One chat completion; `trice` is our part of the request."""
    own = {"extra_body": {"trice": fields.pop("trice")}} if "trice" in fields else {}
    model = fields.pop("model", next(iter(server.state.registry.models)))
    messages = fields.pop("messages", [{"role": "user", "content": text}])
    return client(server, key).chat.completions.create(model=model, messages=messages, **own, **fields)


def streamed(chunks: Any) -> tuple[dict[int, str], list[tuple[int, str]], Any]:
    """The content of a stream by choice, the kinds of its pieces in order, and the last chunk."""
    contents: dict[int, str] = {}
    kinds: list[tuple[int, str]] = []
    chunk = None
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            own = getattr(delta, "trice", None) or {}
            kinds += [(choice.index, kind) for kind in own]
            if delta.content:
                kinds.append((choice.index, "content"))
            contents[choice.index] = contents.get(choice.index, "") + (delta.content or "")
            if choice.finish_reason:
                kinds.append((choice.index, choice.finish_reason))
    return contents, kinds, chunk


def eventually(what: Any, seconds: float = 120.0) -> None:
    """Wait until `what()`, at most so long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def lora(model: Path, folder: Path, seed: int, stage: str | None = None, template: str = "plain") -> Path:
    """An adapter of the model that changes what it says; with a `stage`, as ours are saved."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    made.save_pretrained(folder)
    if stage:
        (folder / "trice.json").write_text(
            json.dumps({"stage": stage, "template": template}), encoding="utf-8"
        )
    return folder
