"""A Wikipedia dump (`…-pages-articles.xml.bz2`) as passages of at most 100 words, read as a stream.

Covers any wiki's MediaWiki export; redirects and pages outside the main namespace are left out. Wikitext is
stripped, not rendered: what templates would show (infoboxes, converted units, birth dates), tables, formulas, notes
and pictures are missing, and so are sections such as "References". Does not cover other languages' names of those
sections.
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
TAGS = (
    "ref|math|chem|gallery|timeline|score|syntaxhighlight|imagemap|style"  # whose content is not read either
)
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
HOLLOW = re.compile(r" ?\([\s,;]*\)")  # what a removed template leaves


def read_dump(path: Path) -> Iterator[tuple[str, str]]:
    """Titles and texts of the passages of every article, one article in memory at a time.

    Raises InputError for a file that is no MediaWiki export, is damaged, or ends too soon, naming the place."""
    place = f"{path}: before the first page"
    try:
        with _open(path) as file:
            for page in _pages(file, path):
                title = page.findtext("{*}title") or ""
                place = f"{path}: after the page {title[:100]!r}"
                if page.findtext("{*}ns", "0") == "0" and page.find("{*}redirect") is None:
                    for text in cut(strip(_wikitext(page))):
                        yield title, text
    except ElementTree.ParseError as error:
        raise InputError(f"{place}: not whole XML ({error})") from None
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
    """The text of the last revision; none for pages that are code."""
    revisions = page.findall("{*}revision")
    if not revisions or revisions[-1].findtext("{*}model", "wikitext") != "wikitext":
        return ""
    return revisions[-1].findtext("{*}text") or ""


def cut(text: str) -> Iterator[str]:
    """`text` in passages of nearly even length, of `WORDS` words at most."""
    words = text.split()
    count = -(-len(words) // WORDS)
    for part in range(count):
        yield " ".join(words[part * len(words) // count : (part + 1) * len(words) // count])


def strip(wikitext: str) -> str:
    """The running text of an article, in time linear in its length."""
    text = _without_appendices(_without_spans(wikitext))
    for mark, instead in REWRITES:
        text = mark.sub(instead, text)
    for _ in range(3):  # links stand in the captions of pictures, from the inside out
        text = LINK.sub(_label, text)
    return HOLLOW.sub("", html.unescape(text)).strip()


def _without_spans(text: str) -> str:
    """`text` without templates, tables, comments and the tags of `TAGS`; a mark without its partner goes alone."""
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
            while True:  # what is still open within is closed by this as well
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
    """What is shown of a link: nothing of a picture or a category."""
    return "" if HIDDEN.match(link[1]) else link[1].rpartition("|")[2]
