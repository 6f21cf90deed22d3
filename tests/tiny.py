"""What tests of the stages share: questions, a tiny model that says one thing, runs of the command line, and
processes that are killed at a chosen moment."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

STREAMS = ("stdout", "stderr")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
HEAVY = ("torch", "peft", "accelerate", "transformers.trainer", "transformers.models.llama.modeling_llama")
OURS = (
    "trice.recipes.runner",
    "trice.training.trainer",
    "trice.models.generation",
    "trice.report.plot_style",
    "pytest",
)


def write(path: Path, rows: Sequence[object]) -> Path:
    """A JSONL file of `rows`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_settings(kind: Any, overrides: Sequence[str]) -> Any:
    """The defaults of a class of settings with `key=value` overrides."""
    from trice.settings import override, parse

    value: dict[str, Any] = {}
    for text in overrides:
        override(value, text)
    return parse(kind, value, "settings")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def sums(path: Path, count: int = 5, answer: Callable[[int], str] = lambda i: str(i + 7)) -> Path:
    """Raw questions `S_0` … of different lengths, with expressions."""
    rows = [
        {
            "id": f"S_{i}",
            "question": f"What is {'the sum of ' * (i % 3)}{i} and 7?",
            "answer": answer(i),
            "expression": f"{i}+7",
        }
        for i in range(count)
    ]
    return write(path, rows)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` by its relative path, hidden and unfinished ones too, but journals, in which times
    stand."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".journal"
    }


def says(source: Path, folder: Path, text: str) -> Path:
    """A copy of the tiny Llama in `source` that answers everything with `text`, one token, most of the time.

    Every token but that one has the same embedding, nothing else writes to the residual stream, and the head
    reads "now the text" from the one embedding and "the end" from the other.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
            if name.endswith("norm.weight"):
                weight.fill_(1)
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings.zero_()[:, 0] = 1
        embeddings[token] = embeddings[token].roll(1)
        head.zero_()
        head[token, 0] = head[tokenizer.eos_token_id, 1] = 1.2  # times √32, the norm: e^6.8 to 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def for_tool_calls(source: Path, folder: Path, instruction: str, schemas: Sequence[dict[str, Any]]) -> Path:
    """A copy of the tiny Llama in `source` whose tokenizer has the tokens of ChatML, and one token for the long text
    about the tools that every prompt begins with, so that training on conversations takes seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trice.formats.chat import chat_format
    from trice.types import Message

    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", '{"name": "', '", "arguments": {"', '"}}'])
    asked = [Message(role="user", content="-")]
    asked = [Message(role="system", content=instruction), *asked] if instruction else asked
    chat = chat_format(tokenizer)
    prompt = chat.tokenizer.decode(chat.prompt(asked, schemas))
    tokenizer.add_tokens([prompt.partition("<|im_end|>")[0].partition("\n")[2]])
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def taught(
    source: Path, folder: Path, examples: Sequence[tuple[list[int], list[int]]], steps: int = 150
) -> Path:
    """A copy of the tiny model in `source` that knows these responses to these prompts by heart, as token ids."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    width = max(len(prompt) + len(response) for prompt, response in examples)
    ids, labels = torch.zeros(2, len(examples), width, dtype=torch.long).unbind()
    labels.fill_(-100)
    for row, (prompt, response) in enumerate(examples):
        ids[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        labels[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, list[str]]:
    """Run `trice words` in this process: exit code, stdout, and the lines of stderr."""
    from trice.cli import main

    before = sys.argv
    sys.argv = ["trice", *map(str, words)]
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    out, error = capsys.readouterr()
    return code, out, error.splitlines()


def training(stage: str, model: object, data: Path, output: Path) -> list[object]:
    """The words of `trice train stage` on the CPU."""
    return ["train", stage, "--model", model, "--data", data, "--output", output, "--device", "cpu"]


def killed(point: int, folder: Path, work: Callable[..., object], *args: object) -> bool:
    """Run `work(*args)` in a process of its own that kills itself with SIGKILL just before its `point`-th act
    on a file under `folder` (opening one for writing, fsync, renaming, removing). False where it had fewer."""
    code = forked(_until, point, str(folder), work, args)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def same_after_kills(
    folder: Path,
    work: Callable[..., object],
    *args: object,
    points: Iterable[int] | None = None,
    kept: Callable[[Path], dict[str, bytes]] = tree,
) -> int:
    """Kill `work(a folder, *args)` before each of its acts in turn, or only those in `points`, and run it
    again: every time what is `kept` of the folder, all of it unless told, must end the same, down to the byte.
    Gives the number of kills."""
    work(folder / "whole", *args)
    expected = kept(folder / "whole")
    kills = 0
    for point in points or itertools.count(1):
        here = folder / f"killed-{point}"
        if not killed(point, here, work, here, *args):
            assert kept(here) == expected
            break
        work(here, *args)
        assert kept(here) == expected, point
        kills += 1
    return kills


def forked(work: Callable[..., object], *args: object) -> int | None:
    """Run `work(*args)` in a process of its own, its imports done; gives the exit code."""
    process = _context().Process(target=work, args=args)
    process.start()
    process.join(300)
    return process.exitcode


def torchrun(count: int, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `trice words` in `count` processes with the environment that torchrun gives them, their imports done.
    `folder` holds what they print."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (count, port, folder, [str(word) for word in words])
    ranks = [_context().Process(target=_rank, args=(rank, *arguments)) for rank in range(count)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
        rank.kill()
    out, error = (
        "".join((folder / f"{name}-{rank}").read_text() for rank in range(count)) for name in STREAMS
    )
    return subprocess.CompletedProcess(
        list(words), max(abs(rank.exitcode or 0) for rank in ranks), out, error
    )


def _rank(rank: int, count: int, port: int, folder: Path, words: list[str]) -> None:
    import torch

    from trice.cli import main

    for name, stream in zip(STREAMS, (sys.stdout, sys.stderr), strict=True):
        os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    sys.argv = ["trice", *words]
    main()


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes fork from one in which the heavy modules are imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*HEAVY, *OURS])
    return context


def _until(point: int, folder: str, work: Callable[..., object], args: Sequence[object]) -> None:
    import torch

    gc.freeze()  # all those imports; a run collects garbage after each step
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    acts = itertools.count(1)

    def act() -> None:
        if next(acts) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        writes = event in ("os.rename", "os.remove") or (event == "open" and details[2] & WRITING)
        if writes and os.path.abspath(os.fsdecode(details[0])).startswith(folder):
            act()

    real = os.fsync

    def fsync(file: int) -> None:
        act()
        real(file)

    os.fsync = fsync
    sys.addaudithook(hook)
    work(*args)
