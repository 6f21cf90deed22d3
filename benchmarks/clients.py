"""Real clients measure us: inspect_ai and lm-eval ask `trice serve` over the OpenAI API, offline, and their verdicts
are compared with those of `trice.evaluate` on the same questions.

    inspect   BFCL of inspect-evals with native calls (format `chat`); trice gets the messages and tools that it sent
    lm-eval   a generation task on ASDiv with the calculator, which the server executes (format `paper`)

Both answers have to be the same: a client gets what evaluation measures. `--python` is the Python that has the client,
which need not be the one that has trice; without the client, the script says so and ends. TRICE_DATA names the folder
that holds `bfcl` and `asdiv`.

    python -m venv c && c/bin/pip install inspect-ai inspect-evals openai 'lm-eval[api]'
    python benchmarks/clients.py inspect smollm2-135m-instruct --adapter runs/function-calling/stage-1 \\
        --python c/bin/python --limit 40 --max-new-tokens 160 --output runs/client
    python benchmarks/clients.py lm-eval smollm2-135m-instruct --adapter runs/math/stage-1 --python c/bin/python \\
        --output runs/client

The first, with the adapter of `function_calling.py`: 40 of 40 answers and verdicts are the same, 15 of them right.

The scorer of inspect-evals differs from ours, which is that of BFCL's package, and each difference is printed with both
reasons. Those that were found with BFCL's own answers and changes of them:

    a malformed call                           for inspect no call, and so right where no call is
    an argument left out                       for inspect right if its default is an accepted value; BFCL: if the
                                               answer says that it may be missing
    an argument added that is not expected     for inspect right if it has its default; BFCL: wrong
    an object, or a list of objects            for inspect never right: it compares a value with the list of those
                                               that are accepted
    integers in a list of numbers              for inspect right; BFCL: wrong
    "" for an optional number or boolean       for inspect right; BFCL: wrong
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trice
from serve_load import served
from trice.datasets import load
from trice.datasets.bfcl import read_bfcl
from trice.formats.paper import visible
from trice.messages import read_message
from trice.progress import aligned
from trice.tasks.final_answer import final_text
from trice.types import Question, Response

CATEGORIES = ("simple_python", "multiple", "irrelevance")
TASK = """task: asdiv_numbers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{input}}}}"
doc_to_target: "{{{{answer}}}}"
process_results: !function judge.process_results
generation_kwargs: {{until: ["\\n\\n"], do_sample: false, temperature: 0, max_gen_toks: {tokens}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
JUDGE = r"""import re


def process_results(doc, results):
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", results[0])
    gold = round(float(doc["answer"].replace(",", "")), 2)
    return {"exact_match": bool(found) and round(float(found[-1].replace(",", "")), 2) == gold}
"""
READ_LOG = """
import json, sys
from inspect_ai.log import read_eval_log
for sample in read_eval_log(sys.argv[1], resolve_attachments=True).samples:
    call = next(event.call for event in sample.events if event.event == "model")
    (score,) = sample.scores.values()
    found = {"id": sample.id, "value": score.value, "explanation": score.explanation}
    print(json.dumps(found | {"request": call.request, "response": call.response}))
"""


class Compared(NamedTuple):
    """One question: whether both sides have the same answer, both verdicts, and the reasons if they differ."""

    id: str
    same_answer: bool
    client: bool
    trice: bool
    reasons: str = ""


def without_ours() -> dict[str, str]:
    """The environment of a client, which gets no module of ours and has no network."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1"}


def run(python: str, words: list[str], **environment: str) -> None:
    """Run a module with the client's Python."""
    subprocess.run([python, "-m", *words], env=without_ours() | environment, check=True)


@contextmanager
def serving(options: argparse.Namespace, *words: str) -> Iterator[tuple[str, str]]:
    """A server of the model: its address, and the name of the model there."""
    adapter = ["--adapter", str(options.adapter)] if options.adapter else []
    limits = ["--max-prompt-tokens", "8000", "--timeout", "600"]
    with served(["--model", options.model, *adapter, *limits, *words]) as (url, _):
        yield url, (options.adapter or Path(options.model)).name


def evaluated(options: argparse.Namespace, rows: list[Question], task: str) -> dict[str, Response]:
    """The responses of `trice.evaluate`, by the question's id."""
    format = "chat" if task == "conversation" else None
    model = trice.load(options.model, options.adapter, format=format, dtype="float32")
    found = trice.evaluate(model, rows, task, max_new_tokens=options.max_new_tokens)
    return {row.id: row for row in found.responses["model"]}


def inspect(options: argparse.Namespace) -> list[Compared]:
    """Let inspect evaluate BFCL, and compare."""
    bfcl, folder = Path(os.environ["TRICE_DATA"]).resolve() / "bfcl", options.output
    if not list(folder.glob("*_bfcl_*.json")):
        (folder / "cache").mkdir(exist_ok=True)
        (folder / "cache" / "BFCL").unlink(missing_ok=True)
        (folder / "cache" / "BFCL").symlink_to(bfcl)
        with serving(options, "--format", "chat", "--task", "conversation") as (url, name):
            words = [
                "inspect_ai", "eval", "inspect_evals/bfcl", "--model", f"openai-api/trice/{name}", "--log-model-api",
                "-T", f"categories={','.join(CATEGORIES)}", "--limit", str(options.limit), "--sample-shuffle", "1",
                "--max-tokens", str(options.max_new_tokens), "--temperature", "0", "--max-connections", "4",
                "--log-format", "json", "--log-dir", str(folder), "--display", "plain",
            ]  # fmt: skip
            cache = {"INSPECT_EVALS_CACHE_DIR": str(folder / "cache")}
            run(options.python, words, TRICE_BASE_URL=f"{url}/v1", TRICE_API_KEY="none", **cache)
    (log,) = folder.glob("*_bfcl_*.json")
    lines = subprocess.run(
        [options.python, "-c", READ_LOG, log], capture_output=True, text=True, check=True, env=without_ours()
    ).stdout
    samples = {each["id"]: each for each in map(json.loads, lines.splitlines())}
    asked = [
        Question.model_validate(
            {
                "id": row.id, "dataset": row.dataset, "expected_calls": row.expected_calls,
                "messages": samples[row.id]["request"]["messages"], "tools": samples[row.id]["request"]["tools"],
            }
        )
        for category in CATEGORIES for row in read_bfcl(bfcl, category) if row.id in samples
    ]  # fmt: skip
    found = []
    for id, row in evaluated(options, asked, "conversation").items():
        sample, ours = samples[id], (row.completion or [])[-1]
        got = read_message(sample["response"]["choices"][0]["message"])
        same = got.tool_calls == ours.tool_calls and (
            row.outcome == "malformed" or got.content == ours.content
        )
        reasons = (
            f"inspect: {sample['explanation']}; trice: {row.outcome}, {(row.model_extra or {}).get('reason')}"
        )
        found.append(Compared(id, same, bool(sample["value"]), bool(row.correct), reasons))
    return found


def lm_eval(options: argparse.Namespace) -> list[Compared]:
    """Let lm-eval answer questions of ASDiv, and compare."""
    folder = options.output.resolve()
    rows = load("ASDiv", train=0, test=options.limit).test
    questions, answers = folder / "questions.jsonl", {row.id: row.answers[0] for row in rows}
    lines = [json.dumps({"id": row.id, "input": row.input, "answer": answers[row.id]}) for row in rows]
    questions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = TASK.format(questions=questions, tokens=options.max_new_tokens)
    (folder / "task.yaml").write_text(task, encoding="utf-8")
    (folder / "judge.py").write_text(JUDGE, encoding="utf-8")
    if not (folder / "out").exists():
        with serving(options, "--task", "math") as (url, name):
            where = (
                f"model={name},base_url={url}/v1/chat/completions,num_concurrent=4,tokenized_requests=False"
            )
            words = [
                "lm_eval", "--model", "local-chat-completions", "--model_args", where, "--tasks", "asdiv_numbers",
                "--include_path", str(folder), "--apply_chat_template", "--log_samples",
                "--output_path", str(folder / "out"),
            ]  # fmt: skip
            run(options.python, words, OPENAI_API_KEY="none", HF_HOME=str(folder / "cache"))
    (log,) = (folder / "out").rglob("samples_*.jsonl")
    ours, found = evaluated(options, rows, "math"), []
    for sample in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        row, text = ours[sample["doc"]["id"]], sample["resps"][0][0]
        expected = final_text(row, trice.Task("math", "", answers="numbers"))
        reasons = f"lm-eval: {text!r}; trice: {row.outcome}, {row.prediction!r}"
        same = text.strip() == visible(expected).strip()
        found.append(Compared(row.id, same, bool(sample["exact_match"]), bool(row.correct), reasons))
    return found


CLIENTS = {"inspect": (inspect, "inspect_evals"), "lm-eval": (lm_eval, "lm_eval")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("model")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--output", type=Path, required=True, help="the client's log; it is not asked again")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    measure, package = CLIENTS[options.client]
    if subprocess.run([options.python, "-c", f"import {package}"], capture_output=True).returncode:
        print(f"skipped: {options.python} has no {package}; see --help")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    found = measure(options)
    table = [["questions", "same answer", f"right for {options.client}", "right for trice", "same verdict"]]
    counts = (
        len(found),
        *(sum(each) for each in zip(*((a, b, c, b == c) for _, a, b, c, _ in found), strict=True)),
    )
    print("\n".join(aligned([*table, [str(count) for count in counts]])))
    for each in found:
        if not each.same_answer or each.client != each.trice:
            print(f"{each.id}: {each.reasons}")


if __name__ == "__main__":
    main()
