r"""Calls as text: reading them out of what a model wrote, and writing them.

A response is *called* where an offered tool's name stands directly before an opening parenthesis and the
matching parenthesis closes over arguments the tool accepts; the first such call counts, whatever stands
around it. It is *malformed* where name and parenthesis are there but no such call is, and *answered*
otherwise. Nothing is ever evaluated here.

Reasoning, between `<think>` and `</think>` or `[THINK]` and `[/THINK]`, is not part of the response: a call in it
does not count. If the prompt ends in the first mark, the response has the second mark alone. A response whose
reasoning never ends is malformed, unless a call precedes it.

A value may be quoted, with `"` or `'`, where a value can begin: after `(`, `,`, `=`, `:`, `[` or `{`. It ends at
the first unescaped quote of the same kind after which a value can end. If another such quote with white space
beside it comes first, the text is not a quoted value and is kept as written: `"Hello" by Adele`. Parentheses and
commas in a quoted value have no meaning. The escapes `\"`, `\'`, `\\`, `\/`, `\n`, `\r`, `\t` and `\u00e9` are
decoded. If a value holds any other backslash (`\d`, `\frac`) or begins like a Windows path (`C:\new`,
`\\server\new`), its backslashes are kept, except one before the quote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from trice.types import Outcome, ToolCall

MAX_RESPONSE = 20_000  # characters of a response that are read
MAX_OPENINGS = 20  # a babble of calls is given up after this many
Parser = Callable[[str], dict[str, Any]]

_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)", re.DOTALL)
_SIGN = re.compile(r"[\"'()\[\]{},=:]")
_MARK_OR_ESCAPE = {mark: re.compile(rf"\\.|{mark}", re.DOTALL) for mark in "\"'"}
_VALUE_ENDS = re.compile(r"\s*(?:[,)\]}:]|\Z)")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.?))", re.DOTALL)
_MEANING = {'"': '"', "'": "'", "\\": "\\", "/": "/", "n": "\n", "r": "\r", "t": "\t"}
_PATH = re.compile(r"[A-Za-z]:\\(?!\\)|\\\\[^\\]+\\(?!\\)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Reading(NamedTuple):
    """What a response turned out to be; `written` is the call as it stands there, `reason` why it is malformed."""

    outcome: Outcome
    call: ToolCall | None = None
    reason: str | None = None
    written: str | None = None


def visible(text: str) -> str:
    """A response without its reasoning: what a prediction is read from."""
    masked = _masked(text)
    return text if masked == text else masked.strip()


def _masked(text: str) -> str:
    """A response with blanks in place of its reasoning."""
    for begin, end in _MARKS:
        over = text.find(end) + len(end)
        if over >= len(end) and begin not in text[:over]:  # the prompt began it
            text = " " * over + text[over:]
    return _REASONING.sub(lambda found: " " * len(found[0]), text)


def reasoning_end(text: str) -> int | None:
    """Where the reasoning in a response ends, 0 if there is none; None if it has not ended."""
    if any(text.rfind(begin) > text.rfind(end) for begin, end in _MARKS):
        return None
    return max(text.rfind(end) + len(end) if end in text else 0 for _, end in _MARKS)


def signs(text: str, start: int = 0, *, over: bool = True) -> Iterator[re.Match[str]]:
    """The brackets, commas, `=` and `:` in `text` from `start` on that are in no quoted value. Where a text is not
    `over`, nothing comes after a quote that may still close."""
    value: int | None = start  # where a value can begin, until something else has
    position = start
    while match := _SIGN.search(text, position):
        position = match.end()
        if match[0] not in "\"'":
            value = None if match[0] in ")]}" else position
            yield match
            continue
        if value is not None and not text[value : match.start()].strip():
            end = _quoted(text, match.start())
            if end is None and not over:
                return
            position = end or position
        value = None


def _quoted(text: str, start: int) -> int | None:
    """Where the quoted value ends whose quote is at `start`; directly after the quote where there is no such value,
    None where the text ends before that is known."""
    mark, position = text[start], start + 1
    while match := _MARK_OR_ESCAPE[mark].search(text, position):
        position = match.end()
        if match[0] == mark:
            if _VALUE_ENDS.match(text, position):
                return position
            before, after = text[position - 2], text[position]
            if before in "(,=:[{" or before.isspace() or after.isspace():
                return start + 1  # else it is within a word, as an apostrophe is
    return None


def quote(text: str) -> str:
    """A text as a quoted value, on one line; `unquote` gives the text back."""
    inner = _escaped(text)
    if _PATH.match(inner):
        inner = f"\\u{ord(text[0]):04x}{_escaped(text[1:])}"
    return f'"{inner}"'


def _escaped(text: str) -> str:
    for letter in '\\"nrt':
        text = text.replace(_MEANING[letter], f"\\{letter}")
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unquote(text: str) -> str | None:
    """What a quoted value says; None where `text` is not one quoted value."""
    if text[:1] not in ("'", '"') or _quoted(text, 0) != len(text):
        return None
    inner = text[1:-1]
    if not _PATH.match(inner):
        try:
            decoded = _ESCAPE.sub(_meaning, inner)
            # The two halves of a surrogate pair are one character, and one half alone is no text.
            return decoded.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except (KeyError, UnicodeDecodeError):
            pass
    return inner.replace(f"\\{text[0]}", text[0])


def _meaning(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _MEANING[escape[2]]


def closing(text: str, start: int, *, over: bool = True) -> int | None:
    """The index of the parenthesis that closes the one at `start`, or None where it never closes."""
    depth = 0
    for match in signs(text, start, over=over):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def opening(names: Iterable[str]) -> re.Pattern[str]:
    """Where a call of one of the tools begins; its first group is the tool's name."""
    return re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(map(re.escape, names))})\(")


def place(text: str, written: str) -> int:
    """Where the call that was read in a response stands there."""
    found = re.search(rf"(?<![A-Za-z0-9_]){re.escape(written)}", _masked(text))
    return found.start() if found else 0


def texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """A call's arguments as text, so that 3 and "3" are the same."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }


def read(text: str, parsers: Mapping[str, Parser], *, over: bool = True) -> Reading:
    """Read a response, given the argument parser of each offered tool by name. `over` says that nothing more comes
    of it: until then, a call with an open quote is none yet."""
    reason = "the reasoning never ends" if reasoning_end(text) is None else None
    text = visible(text)[:MAX_RESPONSE]
    for match in islice(opening(parsers).finditer(text) if parsers else (), MAX_OPENINGS):
        end = closing(text, match.end() - 1, over=over)
        if end is None:
            reason = reason or "the parenthesis never closes"
            continue
        arguments = text[match.end() : end].strip()
        try:
            if not arguments:
                raise ValueError("the call is empty")
            call = ToolCall(name=match[1], arguments=parsers[match[1]](arguments))
            return Reading(Outcome.CALLED, call, written=text[match.start() : end + 1])
        except (Exception, SystemExit) as error:  # a user's parser: what it refuses is malformed
            reason = reason or str(error) or "the arguments do not parse"
    return Reading(Outcome.MALFORMED, reason=reason) if reason else Reading(Outcome.ANSWERED)


def render(name: str, argument: str) -> str:
    """A call with one argument as a model writes it: `calculator(3*19)`."""
    return f"{name}({argument})"
