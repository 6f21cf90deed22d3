"""A Wikipedia dump as passages: what is read of an article, what is left out, and what is refused."""

from __future__ import annotations

import bz2
import html
import subprocess
import sys
from pathlib import Path

import pytest

from trice.errors import InputError
from trice.stages.prepare_data import index
from trice.tools.passage_index import Passage, PassageIndex, read_passages
from trice.tools.wikipedia_dump import split_passages, strip

KESTREL = """{{Infobox bird|name={{lang|en|Kestrel}}|image=}}
[[File:Kestrel.jpg|thumb|A ''kestrel'' in [[Kent|the county of Kent]], [https://example.org photographed] in 2010]]
The '''kestrel''' ({{IPA|x}}) is a [[bird of prey]]<ref name="a">Some {{cite|book}}.</ref>
of the [[Falcon|falcon family]]<ref name="a"/>.
<!-- [[hidden]] -->
== Food ==
* It eats voles &amp; mice; 3 &lt; 4.
{| class="wikitable"
| a || b
|}
=== In winter ===
It hovers,<br/>then dives.

== References ==
{{reflist}}
A source.
[[Category:Birds]]
"""


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><model>wikitext</model>"
        f"<text>{html.escape(text)}</text></revision></page>\n"
    )


def dump(path: Path, *pages: str, end: str = "</mediawiki>") -> Path:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo/>\n'
    whole = (head + "".join(pages) + end).encode()
    path.write_bytes(bz2.compress(whole) if path.suffix == ".bz2" else whole)
    return path


@pytest.mark.parametrize("name", ["wiki.xml.bz2", "wiki.xml"])
def test_articles_are_read_and_other_pages_left_out(tmp_path: Path, name: str) -> None:
    source = dump(
        tmp_path / name,
        page("Kestrel", KESTREL),
        page("Windhover", "#REDIRECT [[Kestrel]]", extra='<redirect title="Kestrel"/>'),
        page("Talk:Kestrel", "What a bird.", ns=1),
        page("Style", "a { color: red }").replace("wikitext", "css"),
        page("Red kite", "A kite."),
    )
    text = "The kestrel is a bird of prey of the falcon family. It eats voles & mice; 3 < 4. It hovers, then dives."
    assert list(read_passages(source)) == [Passage("Kestrel", text), Passage("Red kite", "A kite.")]
    assert index(source, tmp_path / "out") == f"2 passages in {tmp_path / 'out'}"
    assert PassageIndex(tmp_path / "out").search("hovering", 1) == [Passage("Kestrel", text)]


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("a {{b {{c}} d}} e", "a  e"),
        ("a {{b|}} c", "a  c"),
        ("a {{b never closed", "a b never closed"),
        ("a }} b --> c </ref> d", "a  b  c  d"),
        ("a {{b <ref>c}} d </ref> e", "a  d  e"),
        ("[[:Category:Birds|all birds]] and [[Bird]]s", "all birds and Birds"),
        ("x[[Image:a.png|[[b]] [[c|d [[e]]]]]]y", "xy"),
        ("an __NOTOC__ is 5 < 6 and 7 > 6", "an  is 5 < 6 and 7 > 6"),
        ("== See also ==\nno\n== History ==\nyes", "yes"),
        ("", ""),
    ],
)
def test_wikitext_is_stripped(wikitext: str, text: str) -> None:
    assert strip(wikitext) == text


@pytest.mark.parametrize(
    "hostile", ["{{", "}}", "{|\n", "<ref>", "<!--", "[[", "'''", "== ", "[http://a ", "(", "<a "]
)
def test_half_a_million_marks_without_partners_do_not_hang(hostile: str) -> None:
    assert len(strip(hostile * 500_000)) <= len(hostile) * 500_000


def test_passages_are_even_and_hold_at_most_a_hundred_words() -> None:
    words = [str(number) for number in range(250)]
    passages = list(split_passages(" ".join(words)))
    assert [len(passage.split()) for passage in passages] == [83, 83, 84]
    assert " ".join(passages).split() == words
    assert len(list(split_passages(" ".join(words[:100])))) == 1
    assert list(split_passages(" \n")) == []


def test_a_damaged_dump_is_refused_with_its_place(tmp_path: Path) -> None:
    pages = [
        page(f"Page {number}", " ".join(f"word{number}x{at}" for at in range(99))) for number in range(2000)
    ]
    whole = dump(tmp_path / "whole.xml.bz2", *pages).read_bytes()
    cases = {
        "short.xml.bz2": (
            whole[: len(whole) // 2],
            r"short\.xml\.bz2: (after|before) the .*: cannot be read",
        ),
        "text.xml.bz2": (b"no bzip2", r"text\.xml\.bz2: before the first page: cannot be read"),
        "empty.xml": (b"", r"empty\.xml: before the first page: incomplete or invalid XML"),
        "page.xml": (b"<html><p/></html>", r"page\.xml: not a MediaWiki export \(it starts with <html>\)"),
    }
    for name, (content, complaint) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=complaint):
            list(read_passages(tmp_path / name))
    cut_off = dump(tmp_path / "cut.xml", page("Kestrel", "a"), "<page><title>Red", end="")
    with pytest.raises(
        InputError, match=r"cut\.xml: after the page .Kestrel.: incomplete or invalid XML .*line 3"
    ):
        list(read_passages(cut_off))
    with pytest.raises(
        InputError, match=r"nosuch\.xml: before the first page: cannot be read \(No such file"
    ):
        list(read_passages(tmp_path / "nosuch.xml"))
    with pytest.raises(InputError, match="no passages"):
        index(dump(tmp_path / "none.xml", page("Talk:x", "y", ns=1)), tmp_path / "out")


def test_a_large_dump_does_not_stay_in_memory(tmp_path: Path) -> None:
    talk = page("Talk", "word " * 10_000, ns=1)
    source = dump(tmp_path / "wiki.xml", *[talk] * 2000, page("Kestrel", "A bird."))
    assert source.stat().st_size > 100_000_000
    script = f"""
import re
from pathlib import Path
from trice.tools.passage_index import read_passages
assert sum(1 for _ in read_passages(Path({str(source)!r}))) == 1
print(*re.findall(r"VmHWM:\\s*(.*) kB", Path("/proc/self/status").read_text()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KB; the dump alone has more
