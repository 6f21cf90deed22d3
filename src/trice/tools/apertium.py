"""Translation into English with Apertium's command line and the language pairs installed with it.

One process translates many texts, each as a paragraph. (Apertium may reorder words across lines, but not across
paragraphs.) Pairs out of English are not supported.
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
PROBE = "a"  # a text that every pair translates
TIMEOUT = 60.0  # seconds for one process; a thousand questions take about 1
MISSING = (
    "Apertium is not installed (Debian: apt install apertium apertium-eng-spa); "
    "or choose another source for the translator"
)


def pairs() -> dict[str, str]:
    """The installed pairs into English (`spa-eng`) by the ISO 639-1 code of the language; empty without
    Apertium."""
    found = shutil.which(PROGRAM)
    listed = _output(found, "-l").split() if found else []
    into_english = {code: f"{language.iso3}-eng" for code, language in LANGUAGES.items()}
    return {code: pair for code, pair in into_english.items() if pair in listed}


def check() -> None:
    """Raise InputError if Apertium or its language pairs are missing."""
    if not pairs():
        raise InputError(MISSING)


def version() -> str:
    """Apertium's version; empty without Apertium."""
    found = shutil.which(PROGRAM)
    return _output(found, "-V").strip() if found else ""


def translate(texts: Sequence[str], language: str) -> list[str]:
    """Texts of one language, given by its ISO 639-1 code, in English. Unknown words are left unchanged.

    Raises ToolError if the pair is not installed or these texts fail, and ToolUnavailable if every text fails."""
    known = pairs()
    if not known:
        raise ToolUnavailable(MISSING)
    if language not in known:
        names = ", ".join(LANGUAGES[code].name for code in known)
        raise ToolError(
            f"the text seems to be {LANGUAGES[language].name}; the installed pairs are for {names}"
        )
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
        raise ToolError("Apertium merged texts")  # each text is then retried on its own
    return translated


@cache
def _output(program: str, option: str) -> str:
    try:
        return _run([program, option], "")
    except (ToolError, ToolUnavailable):
        return ""


def _run(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    except OSError as error:
        raise ToolUnavailable(f"Apertium does not start ({error.strerror})") from None
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"Apertium gave no translation ({type(error).__name__})") from None
    if done.returncode:
        raise ToolError(f"Apertium failed: {done.stderr.strip()[:200]}")
    return done.stdout
