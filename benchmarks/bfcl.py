"""BFCL's single-turn categories with a local model: native tool calls, judged by the leaderboard's rule.

A model generates one message for each question, greedily, with the tools in its chat template. The calls in it are not
executed. Responses are appended to a file, and an interrupted run resumes. The questions are for evaluation only.

    python benchmarks/bfcl.py smollm2-135m-instruct --folder BFCL --output responses.jsonl
    python benchmarks/bfcl.py smollm2-135m-instruct --folder BFCL --output trained.jsonl --adapter runs/toolrl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from trice.datasets.bfcl import CATEGORIES, read_bfcl
from trice.datasets.conversations import ConversationRow
from trice.formats.chat import ChatFormat, chat_format, read_message
from trice.metrics import Share
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.progress import Progress
from trice.tasks.call_judge import judge_calls
from trice.types import Outcome, ToolCall


def respond(
    loaded: LocalModel, chat: ChatFormat, rows: list[ConversationRow], tokens: int, batch: int
) -> Iterator[tuple[ConversationRow, Outcome, list[ToolCall], str]]:
    """The outcome, the calls and the text of the response to each row, as they finish."""
    prompts = [chat.prompt([read_message(each) for each in row.messages], row.tools) for row in rows]
    fitting = [number for number, ids in enumerate(prompts) if len(ids) + tokens <= loaded.context]
    entries = [EncodedPrompt(prompts[number]) for number in fitting]
    for place, found in generate(loaded, entries, Sampling(tokens), batch_size=batch):
        number = fitting[place]
        ids = found[0].tokens or []
        ended = [*ids, min(loaded.eos_ids)] if len(ids) < tokens else ids
        parsed = chat.parse(ended, prompts[number], rows[number].tools)
        yield rows[number], parsed.outcome, parsed.message.tool_calls, chat.text(ids)
    for number in set(range(len(rows))) - set(fitting):
        yield rows[number], Outcome.MALFORMED, [], "the prompt is too long"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--limit", type=int, help="questions of each category")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    rows = {
        row.key: row
        for name in options.categories
        for row in read_bfcl(options.folder, name)[: options.limit]
    }
    text = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
    done = {(each["dataset"], each["id"]): each for each in map(json.loads, text.splitlines())}
    left = [row for key, row in rows.items() if key not in done]
    if left:
        loaded = load(options.model, options.adapter, device=options.device, dtype=options.dtype)
        chat = chat_format(loaded.tokenizer)
        with (
            options.output.open("a", encoding="utf-8") as file,
            Progress("BFCL", len(rows), len(done)) as progress,
        ):
            for row, outcome, calls, written in respond(
                loaded, chat, left, options.max_new_tokens, options.batch_size
            ):
                verdict = judge_calls(calls, row.expected, row.tools)
                record = {
                    "dataset": row.dataset, "id": row.id, "outcome": outcome, "correct": verdict.correct,
                    "reason": verdict.reason, "response": written,
                }  # fmt: skip
                done[row.dataset, row.id] = record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                progress.advance(1)
    for name in options.categories:
        found = [done[key] for key in rows if key in done and key[0] == name]
        share = Share(sum(each["correct"] for each in found), len(found))
        kinds = ", ".join(
            f"{kind.value} {sum(each['outcome'] == kind for each in found)}" for kind in Outcome
        )
        if share.value is not None and share.low is not None and share.high is not None:
            print(
                f"{name:18} {share.value:6.1%} ({share.low:.1%} to {share.high:.1%}) of {len(found)}; {kinds}"
            )


if __name__ == "__main__":
    main()
