"""What the documents say is so: commands parse, the reference is the code's, example rows are read, links lead
somewhere."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from trice import training_data, types
from trice.cli import app
from trice.recipes.recipe import Recipe, load_recipe
from trice.settings import parse
from trice.tasks.custom import TaskFile

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = typer.main.get_command(app)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands() -> Iterator[Any]:
    """Every `trice …` line of the shell blocks, lines ending in a backslash joined."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["trice"]:
                    yield pytest.param(words[1:], id=f"{name_of(page)}: {' '.join(words[:3])}")


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command's name and its parameters, read by the command line itself but not run."""
    command: Any = COMMANDS
    name = ""
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    params = command.make_context(name, words).params
    if hasattr(command, "settings"):
        command.settings(params)  # checks the values
    return name, params


@pytest.mark.parametrize("words", commands())
def test_commands_parse(words: list[str]) -> None:
    name, options = parsed(words)
    if name in ("run", "demo") and not options.get("recipe", "demo").endswith(".yaml"):  # of the reader's own
        load_recipe(options.get("recipe", "demo"), options["overrides"] or [])


def test_there_are_commands_of_every_stage() -> None:
    seen = {parsed(param.values[0])[0] for param in commands()}
    stages = {"data", "split", "label", "mix", "clone", "collect", "score", "rlef", "generate", "evaluate"}
    assert stages | {"run", "demo", "report", "chat"} <= seen


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_documents_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_the_site_is_built_and_every_link_in_it_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material")
    words = ["mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pages = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(ROOT / "docs").with_suffix(".html") for page in DOCS} <= pages
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(
            r'<(?:link|script|img)[^>]+(?:href|src)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert not fetched, f"{page.name} would fetch {fetched}"


# The reference


def test_the_reference_is_what_the_code_says() -> None:
    """`python docs/generate.py` brings it up to date."""
    found = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert found
    assert found.loader
    generate = importlib.util.module_from_spec(found)
    found.loader.exec_module(generate)
    pages = generate.pages()
    assert {path.name for path in pages} == {
        "commands.md",
        "python.md",
        "recipes.md",
        "files.md",
        "results.md",
    }
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not stale


def inner(annotation: Any) -> type[BaseModel] | None:
    """The settings class a field holds: itself, in a list, or perhaps None."""
    choices = [annotation, *get_args(annotation)]
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)


def undescribed(kind: type[BaseModel]) -> Iterator[str]:
    """The fields that do not say what they mean; one that is given anew in a subclass means what it did."""
    for name, field in kind.model_fields.items():
        group = inner(field.annotation)
        told = (
            each.model_fields[name].description
            for each in kind.__mro__
            if name in getattr(each, "model_fields", ())
        )
        if group:
            yield from undescribed(group)
        elif not any(told):
            yield f"{kind.__name__}.{name}"


def test_every_key_and_field_says_what_it_means() -> None:
    kinds = (
        Recipe,
        types.Question,
        training_data.LabeledQuestion,
        training_data.Candidates,
        training_data.Candidate,
    )
    assert not [name for kind in kinds for name in undescribed(kind)]
    assert not [name for name, field in types.Response.model_fields.items() if not field.description]


def test_tables_hold_keys_defaults_and_bounds() -> None:
    text = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert "| `scale` | multiplies `data.train` | number > 0 | `1.0` |" in text
    assert re.search(
        r"^\| `batch_size` \| questions .* \| whole number ≥ 1 \| `1024` \| `256` \|$", text, re.MULTILINE
    )
    assert re.search(r"^\| `dataset` \| a name .* \| text \|  \|$", text, re.MULTILINE)


def test_recipes_in_documents_are_valid() -> None:
    found = [block for page in PAGES for block in blocks(page, "yaml")]
    assert found
    for block in found:
        value = yaml.safe_load(block)
        if "answers" in value:
            TaskFile.model_validate(value)
        else:
            parse(Recipe, value, "document")


# Files


def test_example_rows_are_read() -> None:
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    sections = re.findall(r"^Record: `(\w+)`(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert {name for name, _ in sections} == {"Question", "Response", "LabeledQuestion", "Candidates"}
    for name, section in sections:
        kind = getattr(types, name, None) or getattr(training_data, name)
        (block,) = [body for language, body in FENCE.findall(section) if language == "json"]
        for line in block.splitlines():
            row = kind.model_validate(json.loads(line))
            unknown = set(json.loads(line)) - set(re.findall(r"`(\w+)`", text))
            assert not unknown, f"{name}: {row} holds fields that are not described"
