"""Reads a Wikipedia dump (`…-pages-articles.xml.bz2`) as a stream of passages of at most 100 words.

Any MediaWiki export can be read. Redirects and pages outside the main namespace are skipped. Wikitext is stripped
and not rendered: the output of templates (infoboxes, converted units, birth dates), tables, formulas, notes,
pictures and sections such as "References" are removed. These sections' names in other languages are not known.
"""

from __future__ import annotations

import bz2
import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from trice.errors import InputError

SUFFIXES = (".xml.bz2", ".xml")
WORDS = 100  # of a passage, at most
APPENDICES = {
    "bibliography", "citations", "external links", "footnotes", "further reading", "gallery", "notes", "references",
    "see also", "sources", "works cited",
}  # fmt: skip
TAGS = "ref|math|chem|gallery|timeline|score|syntaxhighlight|imagemap|style"  # whose content is removed too
MARK = re.compile(
    r"(?P<template>\{\{)|(?P<_template>\}\})|(?P<table>^[ :]*\{\|)|(?P<_table>^ *\|\}(?!\}))|(?P<comment><!--)"
    rf"|(?P<_comment>-->)|<(?P<tag>{TAGS})\b[^<>]*(?<!/)>|</(?P<_tag>{TAGS}) *>",
    re.MULTILINE | re.IGNORECASE,
)
LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
HIDDEN = re.compile(r" *(file|image|media|category) *:", re.IGNORECASE)
REWRITES = [
    (re.compile(r"\[(?:https?:)?//[^\s\[\]]+ ?([^\[\]\n]*)\]"), r"\1"),
    (re.compile(r"<br\b[^<>]*>", re.IGNORECASE), " "),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), ""),
    (re.compile(r"'{2,}|__[A-Z]{3,}__"), ""),
    (re.compile(r"^[*#:;]+", re.MULTILINE), ""),
]
EMPTY_PARENTHESES = re.compile(r" ?\([\s,;]*\)")  # left over from a removed template


def read_dump(path: Path) -> Iterator[tuple[str, str]]:
    """Titles and texts of the passages of all articles, with one article in memory at a time.

    Raises InputError, naming the place, for a file that is not a MediaWiki export, is damaged or is incomplete."""
    place = f"{path}: before the first page"
    try:
        with _open(path) as file:
            for page in _pages(file, path):
                title = page.findtext("{*}title") or ""
                place = f"{path}: after the page {title[:100]!r}"
                if page.findtext("{*}ns", "0") == "0" and page.find("{*}redirect") is None:
                    for text in split_passages(strip(_wikitext(page))):
                        yield title, text
    except ElementTree.ParseError as error:
        raise InputError(f"{place}: incomplete or invalid XML ({error})") from None
    except (EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{place}: cannot be read ({reason})") from None


def _open(path: Path) -> IO[bytes]:
    return bz2.open(path) if path.suffix == ".bz2" else path.open("rb")


def _pages(file: IO[bytes], path: Path) -> Iterator[ElementTree.Element]:
    events = ElementTree.iterparse(file, ("start", "end"))
    _, root = next(events)
    if not root.tag.endswith("mediawiki"):
        raise InputError(f"{path}: not a MediaWiki export (it starts with <{root.tag[:100]}>)")
    for event, element in events:
        if event == "end" and element.tag.rpartition("}")[2] == "page":
            yield element
            root.clear()  # else the whole dump would stay in memory


def _wikitext(page: ElementTree.Element) -> str:
    """The text of the last revision; empty for pages of code."""
    revisions = page.findall("{*}revision")
    if not revisions or revisions[-1].findtext("{*}model", "wikitext") != "wikitext":
        return ""
    return revisions[-1].findtext("{*}text") or ""


def split_passages(text: str) -> Iterator[str]:
    """`text` in passages of nearly equal length and at most `WORDS` words."""
    words = text.split()
    count = -(-len(words) // WORDS)
    for part in range(count):
        yield " ".join(words[part * len(words) // count : (part + 1) * len(words) // count])


def strip(wikitext: str) -> str:
    """The running text of an article, in time linear in its length."""
    text = _without_appendices(_without_spans(wikitext))
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    for _ in range(3):  # nested links, such as those in captions, from the inside out
        text = LINK.sub(_label, text)
    return EMPTY_PARENTHESES.sub("", html.unescape(text)).strip()


def _without_spans(text: str) -> str:
    """`text` without templates, tables, comments and the tags of `TAGS`; unmatched marks are removed alone."""
    opened: list[tuple[str, int, int]] = []
    waiting: Counter[str] = Counter()
    spans: list[tuple[int, int]] = []
    for mark in MARK.finditer(text):
        name = mark.lastgroup or ""
        kind = mark[name].lower() if name.endswith("tag") else name.removeprefix("_")
        if not name.startswith("_"):
            opened.append((kind, *mark.span()))
            waiting[kind] += 1
        elif not waiting[kind]:
            spans.append(mark.span())
        else:
            while True:  # this also closes everything still open inside
                inner, start, _ = opened.pop()
                waiting[inner] -= 1
                if inner == kind:
                    break
            spans.append((start, mark.end()))
    spans += [(start, end) for _, start, end in opened]
    kept, here = [], 0
    for start, end in sorted(spans):
        if start >= here:
            kept.append(text[here:start])
        here = max(here, end)
    return "".join([*kept, text[here:]])


def _without_appendices(text: str) -> str:
    """`text` without headings, and without the sections of `APPENDICES`."""
    lines, left_out = [], False
    for line in text.split("\n"):
        bare = line.strip()
        if len(bare) > 4 and bare.startswith("==") and bare.endswith("=="):
            if not bare.startswith("==="):
                left_out = bare.strip("= ").lower() in APPENDICES
        elif not left_out:
            lines.append(line)
    return "\n".join(lines)


def _label(link: re.Match[str]) -> str:
    """The displayed text of a link; empty for a picture or a category."""
    return "" if HIDDEN.match(link[1]) else link[1].rpartition("|")[2]
