"""Adapters on the hub: what arrives at a stand-in for it, byte by byte, and what is said when it does not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tiny import command
from trice.errors import InputError
from trice.models.embedded import SMOLLM2
from trice.training.hub import push
from trice.training.model_card import write_card

pytest.importorskip("huggingface_hub")
TOKEN = "hf_" + "verySecret" * 3
WEIGHTS = bytes(range(256)) * 400
LORA = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "gemma-3-270m"}
MADE = {"stage": "rlef", "trice": "0.1.0", "model": "gemma-3-270m", "template": "plain", "seed": 0}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small and large files talks to. `server.refuses` maps the beginning of a
    path to the status it is answered with, 0 to break off in the middle."""

    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def received(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def refused(self) -> bool:
        for path, status in self.server.refuses.items():
            if self.path.startswith(path):
                if status:
                    self.received()
                    self.answer({"error": f"no, {self.headers.get('Authorization')}"}, status)
                else:
                    self.rfile.read(1000)
                    self.close_connection = True
                return True
        return False

    def do_GET(self) -> None:
        if not self.refused():
            self.answer({"id": "me/adapter", "private": self.server.private, "siblings": []})

    def do_PUT(self) -> None:
        if not self.refused():
            self.server.stored[self.path.rpartition("/")[2]] = self.received()
            self.answer({})

    def do_POST(self) -> None:
        if self.refused():
            return
        body = self.received()
        self.server.tokens.add(self.headers.get("Authorization"))
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{here}/me/adapter"}, 409 if self.server.exists else 200)
        elif self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self.answer({"files": told})
        elif self.path.endswith("/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{here}/store/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.server.commits.append((self.path, [json.loads(line) for line in body.splitlines()]))
            self.answer(
                {"commitUrl": f"{here}/me/adapter/commit/1", "commitOid": "1", "pullRequestUrl": None}
            )
        else:
            self.server.other.append(self.path)
            self.answer({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.refuses, server.stored, server.tokens = {}, {}, set()
    server.created, server.cards, server.commits, server.other = [], [], [], []
    server.exists = server.private = False
    Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", server.url),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),  # the stand-in speaks the older way of large files
        ("HF_TOKEN_PATH", str(tmp_path / "no-token")),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return made(tmp_path / "both")


def made(folder: Path, model: str = "gemma-3-270m", **settings: object) -> Path:
    """An adapter's folder as training leaves it, with what must not be uploaded."""
    (folder / "checkpoint-3").mkdir(parents=True)
    for name in ("checkpoint-3/optimizer.pt", "log.jsonl", ".saving", "notes.txt"):
        (folder / name).write_text("")
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps(LORA | {"base_model_name_or_path": model}))
    (folder / "trice.json").write_text(json.dumps(MADE | {"model": model, **settings}))
    write_card(
        folder,
        Path("mix.json"),
        {"asdiv, accuracy": "71.8% (66.4 to 76.6)"},
        licences={"asdiv": "CC BY-NC 4.0"},
        task=f"mix,{folder.parent / 'stock.yaml'}",
    )
    return folder


def committed(server: Any) -> dict[str, bytes]:
    """The files of the one commit, by their names."""
    ((_, (header, *lines)),) = server.commits
    assert header["key"] == "header"
    files = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "lfsFile":
            files[value["path"]] = server.stored[value["oid"]]
            assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
        else:
            files[value["path"]] = base64.b64decode(value["content"])
    return files


def test_the_adapter_and_its_card_arrive_and_nothing_else(hub: Any, adapter: Path) -> None:
    assert push(adapter, "me/adapter") == f"{hub.url}/me/adapter/commit/1"
    files = committed(hub)
    assert set(files) == {"adapter_model.safetensors", "adapter_config.json", "trice.json", "README.md"}
    assert files["adapter_model.safetensors"] == WEIGHTS
    assert json.loads(files["adapter_config.json"]) == LORA | {
        "base_model_name_or_path": "google/gemma-3-270m"
    }
    assert json.loads(files["trice.json"]) == MADE | {"model": "google/gemma-3-270m"}
    assert hub.created == [{"name": "adapter", "organization": "me", "type": "model"}] or hub.created == [
        {"name": "adapter", "organization": "me"}
    ]
    assert hub.commits[0][0] == "/api/models/me/adapter/commit/main"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_the_card_says_what_a_user_needs(hub: Any, adapter: Path) -> None:
    push(adapter, "me/adapter")
    card = committed(hub)["README.md"].decode()
    assert hub.cards == [card]
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "adapter",
        "license": "gemma",
        "tags": ["trice", "tool-use", "lora"],
    }
    for said in (
        "| asdiv, accuracy | 71.8% (66.4 to 76.6) |",
        "- asdiv: CC BY-NC 4.0",
        "Data: `mix.json`",
        "the template `plain`",
        'AutoModelForCausalLM.from_pretrained("google/gemma-3-270m")',
        "trice chat --model gemma-3-270m --adapter both --task mix,stock.yaml",
    ):
        assert said in text


def test_the_card_names_the_licence_of_each_embedded_model(tmp_path: Path) -> None:
    card = (made(tmp_path / "both", "smollm2-135m-instruct") / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n", 2)[1])
    assert (metadata["base_model"], metadata["license"]) == (SMOLLM2.hub, "apache-2.0")
    assert f"`smollm2-135m-instruct` is `{SMOLLM2.hub}`, its weights rounded to 4 bits (Q4_1)" in card


def test_a_folder_as_base_model_is_named_as_on_the_hub_or_not_at_all(hub: Any, tmp_path: Path) -> None:
    base = str(tmp_path / "secret" / "llama-8b")
    adapter = made(tmp_path / "both", base, template=str(tmp_path / "mine.json"))
    with pytest.raises(InputError, match="give its name on the hub with --base"):
        push(adapter, "me/adapter")
    assert not hub.created
    push(adapter, "me/adapter", base="meta-llama/Llama-3.1-8B")
    files = committed(hub)
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "meta-llama/Llama-3.1-8B"
    assert json.loads(files["trice.json"])["template"] == "mine.json"
    assert yaml.safe_load(files["README.md"].split(b"---\n")[1])["base_model"] == "meta-llama/Llama-3.1-8B"


def test_a_base_folder_called_as_other_things_are_renames_none_of_them(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    push(made(tmp_path / "both", "model"), "me/adapter", base="meta-llama/Llama-3.1-8B")
    card = committed(hub)["README.md"].decode()
    assert 'model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B")' in card
    assert "trice chat --model meta-llama/Llama-3.1-8B --adapter both" in card
    assert "base model `meta-llama/Llama-3.1-8B`" in card


def test_private_and_a_branch(hub: Any, adapter: Path) -> None:
    hub.private = True
    push(adapter, "me/adapter", private=True, revision="v1/a")
    assert hub.created[0]["visibility"] == "private"
    assert hub.other == ["/api/models/me/adapter/branch/v1%2Fa"]
    assert hub.commits[0][0] == "/api/models/me/adapter/commit/v1%2Fa"


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Any, adapter: Path) -> None:
    hub.exists = True
    with pytest.raises(InputError, match="me/adapter exists and is public"):
        push(adapter, "me/adapter", private=True)
    assert not hub.commits
    push(adapter, "me/adapter")
    assert len(committed(hub)) == 4


@pytest.mark.parametrize(
    ("refuses", "code", "said"),
    [
        ({"/api/": 401}, 2, "the hub refuses the token"),
        ({"/api/": 403}, 2, "the token has no write access"),
        ({"/api/models/me/adapter/commit": 404}, 2, "the repository or branch does not exist"),
        ({"/api/validate-yaml": 400}, 2, "the hub refuses the metadata at the top of README.md"),
        ({"/store/": 403}, 2, "the token has no write access"),
        ({"/store/": 501}, 1, "the hub refuses the upload with HTTP status 501; nothing was committed"),
        (
            {"/api/models/me/adapter/commit": 0},
            1,
            "the hub cannot be reached, or the connection broke; nothing was committed",
        ),
    ],
)
def test_an_upload_that_fails_says_so_in_one_line_and_commits_nothing(
    refuses: dict[str, int], code: int, said: str, hub: Any, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = refuses
    ended, out, lines = command(capsys, "push", adapter, "me/adapter")
    assert ended == code
    assert lines[-1].startswith("trice: me/adapter: ")
    assert said in lines[-1]
    assert TOKEN not in out + "".join(lines)
    assert not hub.commits
    hub.refuses = {}
    push(adapter, "me/adapter")
    assert committed(hub)["adapter_model.safetensors"] == WEIGHTS


def test_weights_that_break_off_are_sent_again_whole(
    hub: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "time.sleep", lambda seconds: hub.refuses.clear()
    )  # the hub is back before the next try
    hub.refuses = {"/store/": 0}
    push(adapter, "me/adapter")
    assert committed(hub)["adapter_model.safetensors"] == WEIGHTS


def test_what_is_missing_is_said_before_anything_is_sent(
    hub: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'a/b/c' is not a repository name"):
        push(adapter, "a/b/c")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        InputError, match="there is no token for the hub; log in with 'hf auth login', or set HF_TOKEN"
    ):
        push(adapter, "me/adapter")
    for name, said in (
        ("README.md", "no model card here"),
        ("adapter_config.json", "no adapter here"),
        ("adapter_model.safetensors", "is not an adapter"),
    ):
        (adapter / name).unlink()
        with pytest.raises(InputError, match=said):
            push(adapter, "me/adapter")
    assert not hub.created


def test_the_command_reads_the_environment_alone(hub: Any, adapter: Path, tmp_path: Path) -> None:
    told = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "trice", "push", str(adapter), "me/adapter"],
        env=os.environ | told | {"HF_TOKEN": TOKEN}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{hub.url}/me/adapter/commit/1\n"
    assert TOKEN not in done.stdout + done.stderr
    assert len(committed(hub)) == 4
