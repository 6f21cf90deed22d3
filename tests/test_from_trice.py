"""The whole README of the original, replayed: the last section of docs/from-trice.md, on files of its formats.

What the document's names stand for here: `lmsys/vicuna-7b-v1.5` is a tiny Llama that says 7 to everything, so that
verdicts can be worked out by hand; `PLMs/vicuna-7b`, `PLMs/alpaca-7b`, `google/flan-t5-large` and
`facebook/nllb-200-distilled-600M` are tiny random models in folders of these names; the OpenAI endpoint is a
stand-in and the search server one of ColBERT's kind, both on loopback. Nothing else is changed, no option added.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from stand_in_server import StandIn

import published
from tiny import read
from trice.cli import main

pytest.importorskip("py3langid", reason="the extra 'translate' is not installed")
PAGE = Path(__file__).parent.parent / "docs" / "from-trice.md"
OPENAI, COLBERT = "https://api.openai.com/v1", "http://localhost:8893/api/search"

# What the endpoint replies, by what the last message holds: as a teacher, behind QA, and as a candidate's origin.
TEACHER = {
    "12 pens": "calculator(12*3)",
    "40 nuts": "calculator(40-15)",
    "7 rows": "calculator(7+7)",  # wrong, three times
    "capital of peru": "WikiSearch(capital of Peru)",
    "night watch": "WikiSearch(weather)",  # finds nothing that helps
}
READER = {"Peru": "Lima", "Night Watch": "Goya"}
CHATGPT = {
    "12 pens": "calculator(12*3)",
    "40 nuts": "25 nuts",
    "2 and 2": "It is 4.",
    "capital of peru": "Lima",
    "days": "seven",
    "Days": "seven",
    "capital of Peru": "Lima",
    "¿Dónde": "translator(¿Dónde vive Ana?)",
    "¿Cuántos": "She has 7.",
}
PASSAGES = {"Peru": "Lima is the capital of Peru.", "week": "A week has seven days."}


def reply(text: str) -> str:
    known = TEACHER if "Gold answer:" in text else READER if text.endswith("Answer:") else CHATGPT
    asked = text.rpartition("\nContext: ")[2]
    return next(answer for part, answer in known.items() if part in asked)


@contextlib.contextmanager
def search_server() -> Iterator[str]:
    """`GET ?query=&k=` gives `topk[].text`, as the original's server does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            text = next((text for part, text in PASSAGES.items() if part in asked["query"]), "It rains.")
            rows = [{"text": f"{text} {rank}", "rank": rank} for rank in range(9)]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"topk": rows[: int(asked["k"])]}).encode())

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/search"
        server.shutdown()


# The replay


class Done(NamedTuple):
    """What became of a command of the document."""

    code: int
    out: str
    error: str


def commands() -> list[str]:
    """The commands of the document's last section, each on one line."""
    section = PAGE.read_text(encoding="utf-8").partition("## All commands of the README")[2]
    blocks = re.findall(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line.startswith("trice ")]


def run(line: str) -> Done:
    """Run one command in this process."""
    out, error, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        patch.setattr(sys, "argv", shlex.split(line))
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def replayed(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]
) -> Iterator[dict[str, Done]]:
    """Every command run in turn, in a folder that holds the files; by its line in the document."""
    here = tmp_path_factory.mktemp("replay")
    published.models(here, tiny_model("llama"))
    published.raw_files(here / "data/raw")
    published.training_files(here / "data")
    published.dev_files(here / "data/dev")
    keys = here / "openai_api_keys.txt"
    keys.write_text("sk-first\nsk-second\n")
    keys.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch, StandIn(reply) as openai, search_server() as colbert:
        patch.chdir(here)
        patch.setenv("TRICE_CACHE", str(here / "cache"))
        for name in ("TRICE_API_KEYS", "OPENAI_API_KEY"):
            patch.delenv(name, raising=False)
        lines = commands()
        yield {line: run(line.replace(OPENAI, openai.url).replace(COLBERT, colbert)) for line in lines}
        assert set(openai.by_key) == {
            "sk-first",
            "sk-second",
            "none",
        }  # none: what stands behind QA has no file


@pytest.mark.parametrize("line", commands())
def test_each_command_is_done(replayed: dict[str, Done], line: str) -> None:
    done = replayed[line]
    assert (done.code, "Traceback" in done.error) == (0, False), done.error
    assert "left out" not in done.error
    words = shlex.split(line)
    if "--output" in words:
        assert Path(words[words.index("--output") + 1]).exists()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("trice split", "1 of 3 right without a tool (33.3%)\n1 questions in data/raw/"),
        ("label --output data/stage1/GSM8K/", "kept 2 of 3 labels (66.7%); rejected: wrong answer 1"),
        ("label --output data/stage1/WebQuestions/", "kept 1 of 2 labels (50.0%); rejected: wrong answer 1"),
        ("label --output data/stage1/TREx/", "kept 1 of 2 labels (50.0%); rejected: wrong answer 1"),
        ("label --output data/stage1/MLQA/", "kept 1 of 1 labels (100.0%)"),
        ("mix --output data/stage1/GSM8K/", "3 questions"),
        ("mix --output data/stage1/WebQuestions/", "2 questions"),
        ("mix --output data/stage1/mix/", "9 questions"),
        ("collect davinci GSM8K", "3 responses"),
        ("collect vicuna WebQuestions", "2 responses"),
        ("score --output data/stage2/GSM8K/", "15 candidates of 3 questions"),
        ("score --output data/stage2/math/", "5 candidates of 1 questions"),
    ],
)
def test_what_is_printed(replayed: dict[str, Done], parts: str, says: str) -> None:
    words = parts.replace("--output ", "--output=").split()
    (line,) = [
        line
        for line in replayed
        if line.split()[1] in words or words[0] == "trice"
        if all(word in line.replace("--output ", "--output=") for word in words)
    ]
    assert says in replayed[line].out


@pytest.mark.usefixtures("replayed")
def test_labels_and_scores() -> None:
    """Candidates stand in the order gold, alpaca, chatgpt, davinci, vicuna; alpaca and vicuna babble."""

    def ranked(path: str, id: str) -> list[tuple[str, float, str | None]]:
        (row,) = [row for row in read(Path(path)) if row["id"] == id]
        return [(each["origin"], each["reward"], each.get("prediction")) for each in row["candidates"]]

    def released(id: str) -> list[float]:
        return [score for _, score, _ in ranked("data/stage2/GSM8K/GSM8K.json", id)][:4]

    assert [row["output"] for row in read(Path("data/stage1/TREx/TREx_wrong.json"))] == [
        "QA(The capital of Peru is ?)"
    ]
    # The first after gold is not graded there: 20 where gold calls, else 15.
    assert released("GSM8K_1") == [20, 20, 20, 20]
    assert released("GSM8K_2") == [20, 20, 15, 15]  # "25 nuts" is right, but no call
    assert released("GSM8K_4") == [20, 15, 20, 20]
    assert ranked("data/stage2/math/math_paper.json", "GSM8K_9") == [
        ("gold", 20, "57"),
        ("alpaca", 5, "73"),
        ("chatgpt", 15, "57"),
        ("davinci", 0, None),
        ("vicuna", 10, "57"),
    ]
    assert ("chatgpt", 10, "Lima") in ranked("data/stage2/WebQuestions/WebQuestions.json", "WebQuestions_1")
    assert ("chatgpt", 15, "seven") in ranked("data/stage2/WebQuestions/WebQuestions.json", "WebQuestions_3")
    assert ranked("data/stage2/TREx/TREx.json", "TREx_1") == [("gold", 20, "Lima"), ("chatgpt", 10, "Lima")]
    assert ranked("data/stage2/MLQA/MLQA.json", "MLQA_2") == [
        ("gold", 20, "7"),
        ("chatgpt", 15, "She has 7."),
    ]


@pytest.mark.usefixtures("replayed")
def test_candidates_can_be_written_in_the_published_form() -> None:
    (row,) = read(Path("data/stage2/math/math_theirs.json"))
    assert list(row) == ["query", "responses", "origin", "scores", "answer", "id"]
    assert row["origin"] == ["gold", "alpaca", "chatgpt", "davinci", "vicuna"]
    assert (row["scores"], row["answer"]) == ([20, 5, 15, 0, 10], ["57", "73", "57", None, "57"])


@pytest.mark.usefixtures("replayed")
@pytest.mark.parametrize("task", ["math", "qa", "lama", "mlqa", "mix"])
def test_published_files_are_what_is_trained_on(task: str) -> None:
    for stage, run in (("stage1", "stage-1"), ("stage2", "both")):
        data = Path(f"data/{stage}/{task}/{task}.json").read_bytes()
        made_by = json.loads(Path(f"runs/{task}/{run}/trice.json").read_text())
        assert made_by["data"] == hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("replayed")
def test_published_scores_are_those_ranked_by() -> None:
    # lama's five all have 20, so no pair is in order or out of it; math's 20, 20, 20, 10, 15 make 7 pairs.
    assert not any("ordered" in step for step in read(Path("runs/lama/both/log.jsonl")))
    for step in read(Path("runs/math/from-theirs/log.jsonl")):
        assert step["ordered"] * 7 == pytest.approx(round(step["ordered"] * 7))


@pytest.mark.parametrize("task", ["math", "qa", "lama", "mlqa"])
def test_own_responses(replayed: dict[str, Done], task: str) -> None:
    """The model says 7 to both questions, which is right for the first."""
    results = [f"data/dev/{task}/{task}_result.json"]
    results += [f"data/dev/mix/{task}_result.json"] if task in ("math", "qa") else []
    for path in results:
        (done,) = [done for line, done in replayed.items() if line.endswith(f"--output {path}")]
        assert re.search(r"^total \(2\): accuracy 50\.0% .* tool use 0\.0% ", done.out, re.MULTILINE)
        assert [(row["response"], row["correct"]) for row in read(Path(path))] == [("7", True), ("7", False)]


C, A, M = "called", "answered", "malformed"


@pytest.mark.parametrize(
    ("task", "verdicts", "turns", "figures"),
    [
        # A call that never closes is no tool use; 3.5 is read as it stands; no number is no 0.
        (
            "math",
            [(C, True), (M, False), (A, True), (A, False)],
            None,
            (50.0, 25.0, 25.0),
        ),
        # Both passages are read, at once; a mention of the tool is no call.
        (
            "qa",
            [(C, True), (C, False), (A, True), (A, False)],
            ["7"],
            (50.0, 50.0, 0.0),
        ),
        ("lama", [(C, False), (A, True), (M, False)], None, (33.3, 33.3, 33.3)),
        ("mlqa", [(C, True), (M, False), (A, True)], ["7"], (66.7, 33.3, 33.3)),
    ],
)
def test_result_files_judged_anew(
    replayed: dict[str, Done],
    task: str,
    verdicts: list[tuple[str, bool]],
    turns: list[str] | None,
    figures: tuple[float, float, float],
) -> None:
    path = f"data/dev/{task}/{task}_theirs_result.json"
    (done,) = [done for line, done in replayed.items() if line.endswith(f"--output {path}")]
    rows = read(Path(path))
    assert [(row["outcome"], row["correct"]) for row in rows] == verdicts
    assert rows[0].get("turns") == turns
    assert rows[0]["execution"].keys() == {"output"}
    assert "skipped the summary line" in done.error
    total = done.out.splitlines()[-1]
    assert total.startswith(f"total ({len(rows)}): ")
    found = re.search(r"accuracy ([\d.]+)% .* tool use ([\d.]+)% .* malformed ([\d.]+)% ", total)
    assert found is not None
    assert tuple(map(float, found.groups())) == figures


def test_the_originals_adapter_is_in_use(replayed: dict[str, Done]) -> None:
    (line,) = [line for line in replayed if "--adapter vicuna-lora/stage2/math" in line]
    with_it = Path("data/dev/math/math_published_response.json")
    without = line.replace("--adapter vicuna-lora/stage2/math ", "").replace(str(with_it), "base.json")
    assert run(without).code == 0
    texts = [[row["response"] for row in read(path)] for path in (with_it, Path("base.json"))]
    assert texts[0] != texts[1]
