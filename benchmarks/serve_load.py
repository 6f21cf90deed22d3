"""`trice serve` under load: questions of the starter test sets, 20 at a time, half of them streamed, with hostile
requests between them. Each must be answered exactly as when it was asked alone, or refused with the right status.

    python benchmarks/serve_load.py [--model gemma-3-270m] [--adapter FOLDER] [--questions 200] [--at-a-time 20]

Starts the server as a process of its own (float32, so that a batch changes no answer) and asks it through the
openai client: two rounds at a time, a round of everything at once (where some may be refused with 429), and one
question by question, which is the baseline and says what is right. Prints requests and tokens a second, seconds
of a request (median, 95th percentile), and the server's resident memory after the first 50 questions and after
each round. Exits with 1 where an answer differs, a refusal is not the one that is due, or memory grows by more
than 5% between the first and the second round. Linux only (memory is read from /proc). Does not cover several
servers or a network.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai

from trice import datasets
from trice.types import Question

SETS = ("starter", "starter-qa", "starter-lama", "starter-mlqa")
EARLY = 50  # questions after which memory is read for the first time
GROWTH = 1.05  # of memory between the two rounds, at most
HOSTILE = ("too long a body", "too long a question", "unknown model", "bad JSON", "client goes away")
DUE = {"too long a body": 413, "too long a question": 400, "unknown model": 404, "bad JSON": 400}


class Reply(NamedTuple):
    """What a question was answered: `status` is 200, or the refusal's; `said` everything that must be the same each
    time; `tokens` were written; `seconds` passed until it was whole."""

    status: int
    said: str
    tokens: int
    seconds: float


@dataclass
class Round:
    """One round's replies by the number of the question, and what was not as it should be."""

    name: str
    replies: dict[int, Reply] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    hostile: int = 0
    seconds: float = 0.0
    early: int = 0  # bytes of the server's memory after the first questions
    memory: int = 0  # and after the last

    @property
    def answered(self) -> list[Reply]:
        return [reply for reply in self.replies.values() if reply.status == 200]


@contextmanager
def served(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server's URL and process id; it is stopped in the end, and must stop well."""
    command = [sys.executable, "-m", "trice", "serve", "--port", "0", "--dtype", "float32", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r"serving .* at (http://\S+)/v1", line)
            if found:
                yield found[1], process.pid
                break
        else:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=60)
        print(rest, end="", file=sys.stderr)
    assert process.returncode in (0, -15), process.returncode


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) * 1024


class Client:
    """Asks one server's `model`."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)

    def body(self, question: Question, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": question.input}]
        return {"model": self.model, "messages": messages} | more

    async def ask(self, question: Question, stream: bool) -> Reply:
        """A question's reply; a refusal is one."""
        start = time.perf_counter()
        extra = {"trice": {"task": question.task}}
        try:
            if stream:
                said, tokens = await self._streamed(question, extra)
            else:
                whole = await self.openai.chat.completions.create(**self.body(question), extra_body=extra)
                message, usage = whole.choices[0].message, whole.usage
                said, tokens = text(message.content or "", message.trice), usage.completion_tokens
        except openai.APIStatusError as error:
            return Reply(error.status_code, str(error), 0, time.perf_counter() - start)
        return Reply(200, said, tokens, time.perf_counter() - start)

    async def _streamed(self, question: Question, extra: dict[str, Any]) -> tuple[str, int]:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        content, known, usage = "", {"response": ""}, None
        async for chunk in await self.openai.chat.completions.create(
            **self.body(question, **options), extra_body=extra
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                content += choice.delta.content or ""
                own = dict(getattr(choice.delta, "trice", None) or {})
                known["response"] += own.pop("text", "")
                known |= own
        assert usage is not None
        return text(content, known), usage.completion_tokens

    def harm(self, kind: str, question: Question) -> int | None:
        """Send what no client should; the status of the answer, None where it was not waited for."""
        long = "is that so, " * (10_000 if kind == "too long a body" else 3_000)
        bodies = {
            "too long a question": self.body(question.model_copy(update={"input": long})),
            "too long a body": self.body(question.model_copy(update={"input": long})),
            "unknown model": self.body(question) | {"model": "gpt-0"},
            "client goes away": self.body(question, stream=True),
        }
        content = json.dumps(bodies[kind]) if kind in bodies else '{"model": "'
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=600)
        try:
            connection.request("POST", "/v1/chat/completions", content)
            answer = connection.getresponse()
            if kind == "client goes away":
                answer.readline()
                return None
            assert json.loads(answer.read())["error"]["message"], kind
            return answer.status
        finally:
            connection.close()

    def idle(self) -> bool:
        """Whether the server has nothing waiting and nothing under way."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read())
        return bool(health["waiting"] == health["under_way"] == 0)


def text(content: str, own: dict[str, Any]) -> str:
    """All of an answer that must be the same each time: not the seconds."""
    execution = own.get("execution") or {}
    result = {name: execution.get(name) for name in ("output", "error")}
    rest = [own.get(name) for name in ("response", "decision", "reason", "call", "turns")]
    return json.dumps([content, *rest, result], ensure_ascii=False)


async def run(client: Client, found: Sequence[Question], name: str, at_a_time: int, pid: int) -> Round:
    """Ask everything, so many at a time; where it is more than one, with a hostile request after every fifth."""
    made, places, start = Round(name), asyncio.Semaphore(at_a_time), time.perf_counter()
    kinds = itertools.cycle(HOSTILE)

    async def ask(number: int) -> None:
        async with places:
            made.replies[number] = await client.ask(found[number], stream=at_a_time > 1 and number % 2 == 1)
        if len(made.replies) == min(EARLY, len(found)):
            made.early = resident(pid)

    async def harm(kind: str, number: int) -> None:
        async with places:
            status = await asyncio.to_thread(client.harm, kind, found[number])
        made.hostile += 1
        if status != DUE.get(kind) and not (status == 429 and at_a_time >= len(found)):
            made.wrong.append(f"{kind}: status {status}")

    work = []
    for number in range(len(found)):
        work.append(ask(number))
        if at_a_time > 1 and number % 5 == 4:
            work.append(harm(next(kinds), number))
    await asyncio.gather(*work)
    made.seconds = time.perf_counter() - start
    while not client.idle():  # rows of clients that went away take their memory along
        await asyncio.sleep(0.1)
    made.memory = resident(pid)
    return made


def check(made: Round, right: Round, found: Sequence[Question], busy: bool) -> None:
    """Note every reply that is not what was answered alone, nor a refusal that is due."""
    for number, reply in made.replies.items():
        if reply.status == 429 and busy:
            continue
        if reply.status != 200 or reply.said != right.replies[number].said:
            expected = right.replies[number].said
            made.wrong.append(f"{found[number].id}: {reply.status} {reply.said}, alone {expected}")


def tell(made: Round) -> float:
    """Print a round's figures; gives its requests a second."""
    took = sorted(reply.seconds for reply in made.answered)
    rate, refused = len(took) / made.seconds, len(made.replies) - len(took)
    tokens = sum(reply.tokens for reply in made.answered) / made.seconds
    print(
        f"{made.name}: {len(took)} answered, {refused} refused with 429, {made.hostile} hostile, wrong "
        f"{len(made.wrong)}; {made.seconds:.0f} s: {rate:.2f} requests/s, {tokens:.1f} tokens/s; a request "
        f"{statistics.median(took):.2f} s, 95% within {took[int(0.95 * (len(took) - 1))]:.2f} s; memory "
        f"{made.early / 2**20:.0f} MiB after {EARLY} and {made.memory / 2**20:.0f} in the end",
        flush=True,
    )
    for line in made.wrong[:5]:
        print(f"  {line[:600]}")
    return rate


def questions(count: int) -> list[Question]:
    """Test questions of several tasks in turn."""
    each = -(-count // len(SETS))
    rows = [datasets.load(name, train=0, test=each).test for name in SETS]
    return [row for four in zip(*rows, strict=True) for row in four][:count]


async def load(client: Client, found: Sequence[Question], at_a_time: int, pid: int) -> bool:
    """All rounds and their figures; whether all was as it should be."""
    first = await run(client, found, f"{at_a_time} at a time", at_a_time, pid)
    second = await run(client, found, "the same again", at_a_time, pid)
    burst = await run(client, found, "all at once", len(found) * 2, pid)
    alone = await run(client, found, "one at a time", 1, pid)
    for made in (first, second, burst, alone):
        check(made, alone, found, busy=made is burst)
    rates = [tell(made) for made in (first, second, burst, alone)]
    grown = second.memory / first.memory
    print(f"against one at a time: {statistics.mean(rates[:2]) / rates[3]:.2f} times the requests/s")
    print(f"memory, second round against the first: {grown:.3f}")
    return grown <= GROWTH and not any(made.wrong for made in (first, second, burst, alone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--at-a-time", type=int, default=20)
    args = parser.parse_args()
    found = questions(args.questions)
    words = ["--model", args.model, "--task", "mix"] + (
        ["--adapter", str(args.adapter)] if args.adapter else []
    )
    name = args.adapter.resolve().name if args.adapter else Path(args.model).name
    with served(words) as (url, pid):
        good = asyncio.run(load(Client(url, name), found, args.at_a_time, pid))
    sys.exit(not good)


if __name__ == "__main__":
    main()
