"""The reference, written from the code: `python docs/generate.py` brings every page that it knows up to date.

Tables stand between `<!-- table of NAME -->` and `<!-- end of table -->` in pages written by hand, and are made of
the pydantic models; docs/reference/commands.md is made of the command line as a whole. A test compares the pages
with what this would write.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import AliasChoices, BaseModel

import trice
from trice import training_data, types
from trice.cli import app
from trice.cli.app import DATA, STAGES, USE, WHOLE
from trice.recipes import conditions, sections
from trice.recipes.recipe import Recipe
from trice.report import schema
from trice.training.settings import Clone, Lora, Rlef, Rounds

DOCS = Path(__file__).parent
MARK = re.compile(r"(<!-- table of ([\w ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
COMMANDS = """# Commands

This page is generated from the command line; `trice COMMAND --help` prints the same. Each stage is also a Python
function with the same name. Results go to files and in short to stdout; notices go to stderr. The exit code is 0 if
the work is done, 1 if something failed, and 2 if the input or the call is wrong.

Each option of a stage, of training, `chat`, `serve`, `export` and `import` can also be written as `key=value` after
the command, as in a recipe: `--lora.r 16` and `lora.r=16` are the same.
"""
PYTHON = """# Python

What `import trice` offers, made from the docstrings. [From Python](../how-to/python.md) shows the whole loop.
"""
SUBJECTS = {
    "Tools and tasks": ["tool", "Task", "Tool", "mcp"],
    "Models": ["load", "endpoint", "Model", "Answer"],
    "Questions": ["questions", "Question", "Response", "Outcome"],
    "The loop": ["split", "Split", "label", "clone", "rlef", "generate", "evaluate", "calibrate", "run"],
    "Training in Python": ["TriceTrainer", "TriceConfig", "PackedForward", "losses"],
    "Results": ["Evaluation", "Calibration", "Share", "Difference"],
    "Errors": ["TriceError", "InputError", "ToolUnavailable", "ToolError"],
}
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
OPTIONS = ["option", "meaning", "takes", "default"]
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def pages() -> dict[Path, str]:
    """Every page that is made from the code, in whole or in part, as it has to be."""
    made = {DOCS / "reference" / "commands.md": commands(), DOCS / "reference" / "python.md": python()}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path not in made and MARK.search(text):
            made[path] = MARK.sub(lambda found: f"{found[1]}\n{tables(found[2])}\n\n{found[3]}", text)
    return made


def tables(name: str) -> str:
    """The table that a mark asks for."""
    if name == "Clone Rlef":
        return keys(Clone, {"clone": Clone, "rlef": Rlef})
    if name == "Lora":
        return keys(Lora, {"clone": Lora, "rlef": Lora})
    if name == "Rlef":
        return keys(Rlef, {"default": Rlef}, without=set(Clone.model_fields))
    if name == "Rounds":
        return keys(Rounds, {"default": Rounds})
    if name == "Recipe":
        return keys(Recipe, {"default": Recipe})
    if kind := getattr(sections, name, getattr(conditions, name, None)):
        return keys(kind, {"default": kind})
    if hasattr(schema, name):
        kind = getattr(schema, name)
        rows = [
            [f"`{field.alias or key}`", field.description or ""] for key, field in kind.model_fields.items()
        ]
        return table(["field", "meaning"], rows)
    return fields(getattr(types, name, None) or getattr(training_data, name))


# Recipes


def keys(kind: type[BaseModel], columns: dict[str, type[BaseModel]], without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """Keys with meaning, form and default; groups of keys have tables of their own."""
    whole = kind.model_json_schema()
    rows = []
    for name, field in kind.model_fields.items():
        key = field.alias or name
        told = whole["properties"][key]
        if name in without or "$ref" in str(told):
            continue
        cells = [f"`{key}`", field.description or "", form(told)]
        for column in columns.values():
            default = column.model_fields[name]
            cells.append(
                ""
                if default.is_required()
                else f"`{written(default.get_default(call_default_factory=True))}`"
            )
        rows.append(cells)
    return table(["key", "meaning", "takes", *columns], rows)


def form(told: dict[str, Any]) -> str:
    """What a JSON schema lets through, in words."""
    if "anyOf" in told:
        return " or ".join(form(each) for each in told["anyOf"] if each != {"type": "null"})
    if "enum" in told:
        return ", ".join(f"`{value}`" for value in told["enum"])
    if told.get("type") == "array":
        return f"list of {form(told['items'])}"
    if told.get("type") == "object":
        return "mapping"
    if told.get("format") == "path":
        return "path"
    bounds = [f"{sign} {told[name]:g}" for name, sign in BOUNDS.items() if name in told]
    return " ".join([TYPES[told["type"]], ", ".join(bounds)]).strip()


def meaning(field: Any) -> str:
    """What a field means: what it says itself, or the class of what it holds."""
    own = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.description or (field.annotation.__doc__ if own else "") or ""


def written(value: object) -> str:
    """A default as YAML writes it."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    )


# Files


def fields(kind: type[BaseModel]) -> str:
    """A row's fields with their meaning, those of its parent left out."""
    parent = kind.__mro__[1]
    inherited = set(getattr(parent, "model_fields", {}))
    rows = []
    for name, field in kind.model_fields.items():
        if name not in inherited:
            alias = field.validation_alias
            names = [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else [name]
            needed = "yes" if field.is_required() else ""
            rows.append([", ".join(f"`{each}`" for each in names), field.description or "", needed])
    return table(["field", "meaning", "needed"], rows)


# Python


def python() -> str:
    """The page of all names of `import trice`, from their docstrings."""
    parts = [PYTHON]
    for title, names in SUBJECTS.items():
        parts.append(f"## {title}\n")
        parts += [documented(f"trice.{name}", getattr(trice, name)) for name in names]
        if title == "Models":
            parts += [
                documented("Model.ask", trice.Model.ask),
                documented("Model.unload", trice.Model.unload),
            ]
        if title == "Results":
            methods = ("difference", "figure", "to_html")
            parts += [documented(f"Evaluation.{name}", getattr(trice.Evaluation, name)) for name in methods]
    missing = set(trice.__all__) - {name for names in SUBJECTS.values() for name in names}
    assert not missing, missing
    return "\n".join(parts)


def documented(called: str, value: Any) -> str:
    """One name: its signature, and its docstring with the sections as lists."""
    signature = ""
    if inspect.isfunction(value) or value is trice.Task:
        given = inspect.signature(value)
        empty = inspect.Parameter.empty
        shown = [each.replace(annotation=empty) for each in given.parameters.values() if each.name != "self"]
        signature = str(given.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    text = inspect.getdoc(value) or ""
    first, *rest = re.split(r"\n(Args|Returns|Raises|Attributes|Example):\n", "\n" + text + "\n")
    lines = [
        f"### `{called}`\n",
        f"```text\n{called}{signature}\n```\n" if signature else "",
        first.strip(),
        "",
    ]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        body = textwrap.dedent(body).strip("\n")
        if title == "Example":
            lines += [f"```pycon\n{re.sub(' +# doctest: .*', '', body)}\n```", ""]
        elif title == "Returns":
            lines += [f"**Returns** {' '.join(body.split())}", ""]
        else:
            entries = re.findall(r"^(\w+): (.*(?:\n[ ]+.*)*)", body, re.MULTILINE)
            rows = [f"- `{name}`: {' '.join(said.split())}" for name, said in entries]
            lines += [f"**{title}**", "", *rows, ""]
    return "\n".join(lines)


# Commands


def commands() -> str:
    """The page of all commands."""
    root = typer.main.get_command(app)
    parts = [COMMANDS]
    for panel in (WHOLE, STAGES, DATA, USE):
        parts.append(f"## {panel}\n")
        for name, command in root.commands.items():  # type: ignore[attr-defined]
            if command.rich_help_panel == panel:
                inner = getattr(command, "commands", {"": command})
                parts += [section(f"trice {name} {each}".strip(), inner[each]) for each in inner]
    return "\n".join(parts)


def section(called: str, command: Any) -> str:
    """A command's section: what it does, how it is called, its arguments and options."""
    rows, usage = [], [called]
    for each in command.get_params(command.context_class(command, info_name=called)):
        if each.name == "help" or (each.name == "overrides" and "such as temperature" in (each.help or "")):
            continue
        notes = re.search(r" \\?\[([^]]*)]$", each.help or "")
        text = (each.help or "").removesuffix(notes[0]).replace("\\[", "[") if notes else each.help or ""
        parts = notes[1].split(", ") if notes else []
        bounds = [part for part in parts if part[0] in "<>"]
        shown = next((part.removeprefix("default: ") for part in parts if part.startswith("default: ")), "")
        argument = each.param_type_name == "argument"
        if argument:
            names = [str(each.metavar or each.name.upper()).strip("[]")]
            usage.append(names[0] if each.required else f"[{names[0]}]")
        else:
            names = [*each.opts, *each.secondary_opts]
            usage += [f"{names[0]} …"] * ("required" in parts)
        takes = "" if argument or each.is_flag else each.metavar or ""
        many = each.multiple or each.nargs == -1
        cells = [
            " ".join(
                filter(
                    None,
                    (takes.lower().replace("|", ", "), ", ".join(bounds), "(more than once)" if many else ""),
                )
            )
        ]
        default = "required" if each.required or "required" in parts else f"`{shown}`" if shown else ""
        rows.append([", ".join(f"`{one}`" for one in names), text, *cells, default])
    shown = " ".join([*usage, "[OPTIONS]"])
    return f"### `{called}`\n\n{cell(command.help or '')}\n\n```\n{shown}\n```\n\n{table(OPTIONS, rows)}\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in cells)


def cell(text: str) -> str:
    """A text in one line in which only code keeps its signs."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
