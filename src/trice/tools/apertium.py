"""Apertium's command line, for the language pairs into English that are installed beside it.

Texts go through one process, a paragraph each, which the program keeps apart (lines it would not: the word order of
one may reach into the next). Does not cover pairs out of English.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.tools.languages import LANGUAGES

PROGRAM = "apertium"
PROBE = "a"  # a text that no pair fails at
TIMEOUT = 60.0  # seconds for one process; a thousand questions take one
MISSING = (
    "Apertium is not installed (Debian: apt install apertium apertium-eng-spa); "
    "or give the translator another source"
)


def pairs() -> dict[str, str]:
    """Apertium's name for the direction into English (`spa-eng`), by the ISO 639-1 code of each language that it
    knows here; empty where Apertium is not installed."""
    found = shutil.which(PROGRAM)
    listed = _said(found, "-l").split() if found else []
    into_english = {code: f"{language.iso3}-eng" for code, language in LANGUAGES.items()}
    return {code: pair for code, pair in into_english.items() if pair in listed}


def check() -> None:
    """Raise InputError where there is no Apertium, or no language pair."""
    if not pairs():
        raise InputError(MISSING)


def version() -> str:
    """Apertium's own version."""
    found = shutil.which(PROGRAM)
    return _said(found, "-V").strip() if found else ""


def translate(texts: Sequence[str], language: str) -> list[str]:
    """Texts of one language, by its ISO 639-1 code, in English; words that Apertium does not know stay as they are.

    Raises ToolError for a language that it does not know here, or where it fails at these texts, ToolUnavailable
    where it fails at any."""
    known = pairs()
    if not known:
        raise ToolUnavailable(MISSING)
    if language not in known:
        names = ", ".join(LANGUAGES[code].name for code in known)
        raise ToolError(f"the text seems to be {LANGUAGES[language].name}; Apertium knows {names} here")
    command = [PROGRAM, "-u", known[language]]
    try:
        paragraphs = _run(command, "\n\n".join(" ".join(text.split()) for text in texts))
    except ToolError as failure:
        try:
            _run(command, PROBE)
        except ToolError:
            raise ToolUnavailable(str(failure)) from None
        raise
    translated = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\n", paragraphs)]
    if len(translated) != len(texts):
        raise ToolError("Apertium did not keep the texts apart")  # alone, each is tried again
    return translated


@cache
def _said(program: str, option: str) -> str:
    try:
        return _run([program, option], "")
    except (ToolError, ToolUnavailable):
        return ""


def _run(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    except OSError as error:
        raise ToolUnavailable(f"Apertium cannot be run ({error.strerror})") from None
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"Apertium gave no translation ({type(error).__name__})") from None
    if done.returncode:
        raise ToolError(f"Apertium failed: {done.stderr.strip()[:200]}")
    return done.stdout
