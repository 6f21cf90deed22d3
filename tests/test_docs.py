"""What the documents say is so: commands parse, recipe keys and defaults are the model's, example rows are read."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from trice import records
from trice.cli import app
from trice.recipe import Recipe, load_recipe
from trice.tasks.own import TaskFile
from trice.training.settings import Clone, Rlef, parse, read_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


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
                    yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words[:3])}")


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command's name and its parameters, read by the command line itself but not run."""
    command: Any = typer.main.get_command(app)
    name = ""
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    return name, command.make_context(name, words).params


@pytest.mark.parametrize("words", commands())
def test_commands_parse(words: list[str]) -> None:
    name, options = parsed(words)
    if name in ("clone", "rlef"):
        read_settings(Clone if name == "clone" else Rlef, options["set_"] or [])
    if name in ("run", "demo") and not options.get("recipe", "demo").endswith(".yaml"):  # of the reader's own
        load_recipe(options.get("recipe", "demo"), options["overrides"] or [])


def test_there_are_commands_of_every_stage() -> None:
    seen = {parsed(param.values[0])[0] for param in commands()}
    stages = {"data", "split", "label", "mix", "clone", "collect", "score", "rlef", "generate", "evaluate"}
    assert stages | {"run", "demo", "report", "chat"} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


# Recipes


def inner(annotation: Any) -> type[BaseModel] | None:
    """The settings class a field holds: itself, in a list, or perhaps None."""
    choices = [annotation, *get_args(annotation)]
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)


def declared(kind: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the model with its default, "required" for one that must be given."""
    for name, field in kind.model_fields.items():
        key = before + (field.alias or name)
        group = inner(field.annotation)
        if group:
            yield from declared(group, f"{key}.")
        else:
            yield key, "required" if field.is_required() else field.get_default(call_default_factory=True)


def documented() -> Iterator[tuple[str, Any]]:
    """The same of docs/recipes.md: headings give the groups, tables with a column `key` their keys. A column
    called as a group (`clone`) holds the defaults of that group."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for section in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        groups = re.findall(r"`([\w.]+)`", section.partition("\n")[0]) or [""]
        table = re.search(r"^\| key .*?(?=\n\n|\Z)", section, re.DOTALL | re.MULTILINE)
        if not table:
            continue
        lines = table[0].strip().split("\n")
        header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        for cells in rows:
            row = dict(zip(header, cells, strict=True))
            for group in groups:
                cell = row["default"] if "default" in row else row[group.partition(".")[0]]
                value = yaml.safe_load(cell.strip("`")) if cell else "required"
                yield f"{group}.{row['key'].strip('`')}".lstrip("."), value


def test_recipe_keys_and_defaults() -> None:
    keys = [key for key, _ in documented()]
    assert len(keys) == len(set(keys))
    assert dict(documented()) == dict(declared(Recipe))


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
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    sections = re.findall(r"^Record: `(\w+)`(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert {name for name, _ in sections} == {"Question", "Response", "Labelled", "Ranked"}
    for name, section in sections:
        kind = getattr(records, name)
        (block,) = [body for language, body in FENCE.findall(section) if language == "json"]
        for line in block.splitlines():
            row = kind.model_validate(json.loads(line))
            unknown = set(json.loads(line)) - set(re.findall(r"`(\w+)`", text))
            assert not unknown, f"{name}: {row} holds fields that are not described"


def test_every_field_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "files.md").read_text(encoding="utf-8")))
    for kind in (records.Question, records.Response, records.Labelled, records.Ranked):
        assert set(kind.model_fields) <= described
