r"""The `paper` format: calls as text, `name(arguments)`. Parses a response and writes calls.

A response is *called* if it contains the name of an offered tool directly before an opening parenthesis, and
the tool accepts the arguments up to the matching parenthesis; the first such call counts, whatever text
surrounds it. A response with name and parenthesis but without such a call is *malformed*. Any other response is
*answered*. Nothing is evaluated here.

Reasoning, between `<think>` and `</think>` or `[THINK]` and `[/THINK]`, is not part of the response: a call in it
does not count. If the prompt ends in the first mark, the response has the second mark alone. A response whose
reasoning never ends is malformed, unless a call precedes it.

A value may be quoted, with `"` or `'`, where a value can begin: after `(`, `,`, `=`, `:`, `[` or `{`. It ends at
the first unescaped quote of the same kind after which a value can end. If another such quote with adjacent white
space comes first, the text is not a quoted value and is kept as written: `"Hello" by Adele`. Parentheses and
commas in a quoted value have no meaning. The escapes `\"`, `\'`, `\\`, `\/`, `\n`, `\r`, `\t` and `\u00e9` are
decoded. If a value contains any other backslash (`\d`, `\frac`) or begins like a Windows path (`C:\new`,
`\\server\new`), its backslashes are kept, except one before the quote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from trice.types import Outcome, ToolCall

MAX_RESPONSE = 20_000  # characters of a response that are parsed
MAX_OPENINGS = 20  # beginnings of calls that are tried
Parser = Callable[[str], dict[str, Any]]

_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
REASONING_OPENINGS = tuple(opening for opening, _ in _REASONING_MARKS)
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)", re.DOTALL)
_MARK = re.compile(r"[\"'()\[\]{},=:]")
_QUOTE_OR_ESCAPE = {mark: re.compile(rf"\\.|{mark}", re.DOTALL) for mark in "\"'"}
_VALUE_ENDS = re.compile(r"\s*(?:[,)\]}:]|\Z)")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.?))", re.DOTALL)
_MEANING = {'"': '"', "'": "'", "\\": "\\", "/": "/", "n": "\n", "r": "\r", "t": "\t"}
_PATH = re.compile(r"[A-Za-z]:\\(?!\\)|\\\\[^\\]+\\(?!\\)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class ParsedResponse(NamedTuple):
    """The outcome of a response, its call, the reason why it is malformed, and the call's text."""

    outcome: Outcome
    call: ToolCall | None = None
    reason: str | None = None
    written: str | None = None


def visible(text: str, *, from_first_mark: bool = False) -> str:
    """A response without its reasoning. With `from_first_mark`, the second mark alone is text."""
    masked = _mask_reasoning(text, from_first_mark)
    return text if masked == text else masked.strip()


def _mask_reasoning(text: str, from_first_mark: bool = False) -> str:
    """A response whose reasoning is replaced by blanks."""
    for begin, end in () if from_first_mark else _REASONING_MARKS:
        stop = text.find(end) + len(end)
        if stop >= len(end) and begin not in text[:stop]:  # the prompt contains the first mark
            text = " " * stop + text[stop:]
    return _REASONING.sub(lambda found: " " * len(found[0]), text)


def reasoning_end(text: str) -> int | None:
    """The index at which the reasoning ends, 0 if there is none, None if it has not ended."""
    if any(text.rfind(begin) > text.rfind(end) for begin, end in _REASONING_MARKS):
        return None
    return max(text.rfind(end) + len(end) if end in text else 0 for _, end in _REASONING_MARKS)


def structural_marks(text: str, start: int = 0, *, complete: bool = True) -> Iterator[re.Match[str]]:
    """The brackets, commas, `=` and `:` after `start` that are not in a quoted value. If the text is not
    `complete`, the marks end at a quote that may still close."""
    value: int | None = start  # where a value can begin
    position = start
    while match := _MARK.search(text, position):
        position = match.end()
        if match[0] not in "\"'":
            value = None if match[0] in ")]}" else position
            yield match
            continue
        if value is not None and not text[value : match.start()].strip():
            end = _quote_end(text, match.start())
            if end is None and not complete:
                return
            position = end or position
        value = None


def _quote_end(text: str, start: int) -> int | None:
    """The index after the quoted value whose quote is at `start`; the index after the quote if it does not begin a
    quoted value; None if the text ends before this is known."""
    mark, position = text[start], start + 1
    while match := _QUOTE_OR_ESCAPE[mark].search(text, position):
        position = match.end()
        if match[0] == mark:
            if _VALUE_ENDS.match(text, position):
                return position
            before, after = text[position - 2], text[position]
            if before in "(,=:[{" or before.isspace() or after.isspace():
                return start + 1  # otherwise it is an apostrophe within a word
    return None


def quote(text: str) -> str:
    """A text as a quoted value on one line; the inverse of `unquote`."""
    inner = _escaped(text)
    if _PATH.match(inner):
        inner = f"\\u{ord(text[0]):04x}{_escaped(text[1:])}"
    return f'"{inner}"'


def _escaped(text: str) -> str:
    for letter in '\\"nrt':
        text = text.replace(_MEANING[letter], f"\\{letter}")
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unquote(text: str) -> str | None:
    """The text of a quoted value, or None if `text` is not exactly one quoted value."""
    if text[:1] not in ("'", '"') or _quote_end(text, 0) != len(text):
        return None
    inner = text[1:-1]
    if not _PATH.match(inner):
        try:
            decoded = _ESCAPE.sub(_meaning, inner)
            # Two escapes of a surrogate pair are one character; one of them alone is an error.
            return decoded.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except (KeyError, UnicodeDecodeError):
            pass
    return inner.replace(f"\\{text[0]}", text[0])


def _meaning(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _MEANING[escape[2]]


def closing_parenthesis(text: str, start: int, *, complete: bool = True) -> int | None:
    """The index of the parenthesis that closes the one at `start`, or None if it never closes."""
    depth = 0
    for match in structural_marks(text, start, complete=complete):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def call_opening(names: Iterable[str]) -> re.Pattern[str]:
    """Matches the beginning of a call of one of the tools; the first group is the tool's name."""
    return re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(map(re.escape, names))})\(")


def find_call(text: str, call: str) -> int:
    """The index of a call's text in the response that it was parsed from."""
    found = re.search(rf"(?<![A-Za-z0-9_]){re.escape(call)}", _mask_reasoning(text))
    return found.start() if found else 0


def argument_texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """A call's arguments as text, so that 3 and "3" are the same."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }


def parse(text: str, parsers: Mapping[str, Parser], *, complete: bool = True) -> ParsedResponse:
    """Parse a response.

    Args:
        text: The response.
        parsers: The argument parser of each offered tool, by the tool's name.
        complete: Whether the response is finished. Until then a call with an open quote does not count.
    """
    reason = "the reasoning never ends" if reasoning_end(text) is None else None
    text = visible(text)[:MAX_RESPONSE]
    for match in islice(call_opening(parsers).finditer(text) if parsers else (), MAX_OPENINGS):
        end = closing_parenthesis(text, match.end() - 1, complete=complete)
        if end is None:
            reason = reason or "the parenthesis never closes"
            continue
        arguments = text[match.end() : end].strip()
        try:
            call = ToolCall(name=match[1], arguments=parsers[match[1]](arguments))
            return ParsedResponse(Outcome.CALLED, call, written=text[match.start() : end + 1])
        except (Exception, SystemExit) as error:  # a user's parser may raise anything
            reason = reason or str(error) or "the arguments do not parse"
    return ParsedResponse(Outcome.MALFORMED, reason=reason) if reason else ParsedResponse(Outcome.ANSWERED)


def render_call(name: str, argument: str) -> str:
    """The text of a call: `calculator(3*19)`."""
    return f"{name}({argument})"
