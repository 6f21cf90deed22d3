"""Whether `trice.tasks.call_judge` and the package `bfcl-eval` give the same verdicts on the same responses.

    python benchmarks/bfcl_checker.py FOLDER_OF_BFCL [--seed 0] [--rounds 4]

The responses are made from the ground truth of all rows: each accepted value, and `--rounds` random changes of each
kind. A table has the agreement for each category and each kind of change. The exit code is 1 if any verdict differs.
The package's verdict is that of its runner for single turns (`eval_runner`), which a stub handler gives the calls.

The package's dependencies are heavy, and few of them are needed:

    pip install --no-deps bfcl-eval tree_sitter==0.21.3 tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4 \\
        python-dotenv overrides
    pip install filelock pandas tabulate tenacity

`--freeze FILE` judges the made-up cases of FILE instead (tests/tasks/call_judge_cases.json), with the package alone,
and writes its verdicts into it.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trice.datasets.bfcl import CATEGORIES, read_bfcl
from trice.tasks.call_judge import judge_calls
from trice.types import Question, ToolCall

MODEL = "any-model"
Call = dict[str, Any]  # name and arguments


class Package(NamedTuple):
    """The parts of `bfcl-eval` that judge a response."""

    ast_entry: Callable[..., dict[str, Any]]
    relevance_entry: Callable[..., dict[str, Any]]
    tools: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    language: Any
    return_format: Any

    def correct(self, row: dict[str, Any], answer: Any, category: str, calls: list[Call]) -> bool | str:
        """The package's verdict, or the name of the exception that ends its checker."""
        decoded = [{call["name"]: copy.deepcopy(call["arguments"])} for call in calls]
        handler = types.SimpleNamespace(decode_ast=lambda *_, **__: decoded)
        row = copy.deepcopy(row)
        try:
            if "relevance" in category:  # irrelevance too
                found = self.relevance_entry(handler, row["id"], decoded, row, MODEL, category)
            else:
                found = self.ast_entry(
                    handler,
                    row["id"],
                    decoded,
                    copy.deepcopy(answer),
                    row,
                    MODEL,
                    category,
                    self.language,
                    self.return_format,
                )
        except Exception as error:
            return type(error).__name__
        return bool(found["valid"])


def load_package() -> Package:
    """Import `bfcl-eval` without the clients of all models that it supports. Exits if it is missing."""
    models = types.ModuleType("bfcl_eval.constants.model_config")
    # Like all models that are called through OpenAI's API: dots in the names of functions become underscores.
    models.MODEL_CONFIG_MAPPING = {MODEL: types.SimpleNamespace(underscore_to_dot=True)}  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    try:
        from bfcl_eval.constants.enums import Language, ModelStyle, ReturnFormat
        from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
        from bfcl_eval.eval_checker import eval_runner
        from bfcl_eval.model_handler.utils import convert_to_tool
    except ImportError as error:
        sys.exit(f"bfcl-eval is not complete ({error}); the beginning of this file says how to install it")
    return Package(
        eval_runner._evaluate_single_ast_entry,
        eval_runner._evaluate_single_relevance_entry,
        lambda functions: convert_to_tool(functions, GORILLA_TO_OPENAPI, ModelStyle.OPENAI_COMPLETIONS),
        Language.PYTHON,
        ReturnFormat.PYTHON,
    )


def right_calls(row: Question, random_: random.Random | None = None) -> list[Call]:
    """The expected calls with the first accepted value of each argument, or with random ones."""
    expected = row.expected_calls if isinstance(row.expected_calls, list) else []
    calls = []
    for wanted in expected:
        arguments = {}
        for name, accepted in wanted.arguments.items():
            value = random_.choice(accepted) if random_ and accepted else next(iter(accepted), [])
            if value != "":
                arguments[name] = plain_value(value, random_)
        calls.append({"name": wanted.name, "arguments": arguments})
    return calls


def plain_value(value: Any, random_: random.Random | None) -> Any:
    """An accepted value as a model would write it: with one of the accepted values of each field of an object."""
    if isinstance(value, dict):
        chosen = {
            name: (random_.choice(each) if random_ else each[0]) if isinstance(each, list) and each else each
            for name, each in value.items()
        }
        return {name: each for name, each in chosen.items() if each != ""}
    if isinstance(value, list):
        return [plain_value(each, random_) for each in value]
    return copy.deepcopy(value)


# Changes of a list of calls, in place. Each takes the calls, the tools and the source of chance.


def some_argument(calls: list[Call], random_: random.Random) -> tuple[dict[str, Any], str] | None:
    places = [(call["arguments"], name) for call in calls for name in call["arguments"]]
    return random_.choice(places) if places else None


def change_value(change: Callable[[Any, random.Random], Any]) -> Callable[..., None]:
    """A change of one argument's value."""

    def changed(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
        if place := some_argument(calls, random_):
            arguments, name = place
            arguments[name] = change(arguments[name], random_)

    return changed


def change_inside(change: Callable[[Any, random.Random], Any]) -> Callable[..., None]:
    """A change of one value within lists and objects, or of the whole value if there are none."""

    def inner(value: Any, random_: random.Random) -> Any:
        if isinstance(value, list) and value:
            place = random_.randrange(len(value))
            return [inner(each, random_) if at == place else each for at, each in enumerate(value)]
        if isinstance(value, dict) and value:
            place = random_.choice(list(value))
            return {name: inner(each, random_) if name == place else each for name, each in value.items()}
        return change(value, random_)

    return change_value(inner)


def missing(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if place := some_argument(calls, random_):
        arguments, name = place
        del arguments[name]


def optional(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    """Adds an argument of the tool that the calls do not have."""
    functions = {each["function"]["name"]: each["function"] for each in tools}
    for call in calls:
        properties = functions.get(call["name"], {"parameters": {}})["parameters"].get("properties", {})
        if absent := [name for name in properties if name not in call["arguments"]]:
            name = random_.choice(absent)
            values = ["", 0, 1, True, None, [], {}, "x", 2.5, properties[name].get("default")]
            call["arguments"][name] = random_.choice(values)
            return


def unknown(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if calls:
        random_.choice(calls)["arguments"]["unknown_argument"] = random_.choice([1, "", None])


def wrong_name(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if calls:
        call = random_.choice(calls)
        names = [each["function"]["name"] for each in tools]
        call["name"] = random_.choice([*names, "no_such_tool", call["name"].upper()])


def reorder(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    random_.shuffle(calls)


def duplicate(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if calls:
        calls.append(copy.deepcopy(random_.choice(calls)))


def replace_by_copy(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if calls:
        calls[random_.randrange(len(calls))] = copy.deepcopy(random_.choice(calls))


def fewer(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    if calls:
        del calls[random_.randrange(len(calls))]


def made_call(calls: list[Call], tools: list[dict[str, Any]], random_: random.Random) -> None:
    """Adds a call of some tool, which rows without expected calls have none of."""
    name = random_.choice([*(each["function"]["name"] for each in tools), "no_such_tool"])
    calls.append({"name": name, "arguments": random_.choice([{}, {"x": 1}])})


def other_type(value: Any, random_: random.Random) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    number = float(value) if isinstance(value, int | float) else 7.0
    return random_.choice([text, number, [value], {"value": value}, [], {}, None, True, "", 3])


def int_float(value: Any, random_: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return float(value)
    return int(value) if random_.random() < 0.7 else round(value)


def boolean(value: Any, random_: random.Random) -> Any:
    if isinstance(value, bool):
        return random_.choice([int(value), str(value), str(value).lower(), not value])
    return bool(value)


def restyle(value: Any, random_: random.Random) -> Any:
    """A text with other case, spaces or punctuation; some of these are still accepted."""
    if not isinstance(value, str):
        return value
    place = random_.randint(0, len(value))
    inserted = random_.choice(
        [" ", ",", ".", "-", "_", "*", "^", "/", "'", '"', "!", ":", ";", "\n", "\u00a0"]
    )
    styled = [value.upper(), value.lower(), value.title(), value.replace(" ", ""), value.replace(" ", "_")]
    quoted = [value.replace("'", '"'), value.replace('"', "'"), f" {value} "]
    return random_.choice([*styled, *quoted, value[:place] + inserted + value[place:]])


def other_value(value: Any, random_: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + random_.choice([1, -1, 0.5, 1e-9, 1 << 60])
    return f"{value} x" if isinstance(value, str) else value


def resize(value: Any, random_: random.Random) -> Any:
    """A list or an object with an item less, more, or in another order."""
    if isinstance(value, list):
        items = random_.sample(value, len(value))
        extra = [random_.choice([1, "x", None, {}, []]), *value[:1]]
        return random_.choice([value[1:], value[::-1], items, [*value, random_.choice(extra)], []])
    if isinstance(value, dict) and value:
        name = random_.choice(list(value))
        less = {each: other for each, other in value.items() if each != name}
        return random_.choice([less, {**value, "unknown": 1}, {}, less | {name.upper(): value[name]}])
    return value


CHANGES: dict[str, Callable[[list[Call], list[dict[str, Any]], random.Random], None]] = {
    "missing argument": missing,
    "optional argument": optional,
    "unknown argument": unknown,
    "wrong name": wrong_name,
    "other order": reorder,
    "a call twice": duplicate,
    "a call replaced": replace_by_copy,
    "a call less": fewer,
    "a call more": made_call,
    "other type": change_value(other_type),
    "other type inside": change_inside(other_type),
    "int and float": change_value(int_float),
    "int and float inside": change_inside(int_float),
    "boolean": change_value(boolean),
    "boolean inside": change_inside(boolean),
    "null": change_value(lambda value, random_: None),
    "null inside": change_inside(lambda value, random_: None),
    "text style": change_value(restyle),
    "text style inside": change_inside(restyle),
    "other value": change_inside(other_value),
    "list or object": change_value(resize),
}


def responses(row: Question, rounds: int, random_: random.Random) -> Iterator[tuple[str, list[Call]]]:
    """Responses to a row with the kind of change: right ones, and changed ones."""
    yield "nothing", []
    yield "right", right_calls(row)
    expected = row.expected_calls if isinstance(row.expected_calls, list) else []
    for number, wanted in enumerate(
        expected
    ):  # each accepted value, the others as in the first right response
        for name, accepted in wanted.arguments.items():
            for value in [*accepted, *([[], {}, [""]] if "" in accepted else [])]:
                calls = right_calls(row)
                calls[number]["arguments"][name] = plain_value(value, None)
                yield "accepted or empty value", calls
    for kind, change in CHANGES.items():
        for _ in range(rounds):
            calls = right_calls(row, random_)
            change(calls, (row.tools or []), random_)
            if random_.random() < 0.25:  # a second change
                CHANGES[random_.choice(list(CHANGES))](calls, (row.tools or []), random_)
            yield kind, calls


def read_raw(folder: Path, category: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows and the answers of a category as they are in the files, by id."""
    name = f"BFCL_v4_{category}.json"
    paths = [folder / name, folder / "possible_answer" / name]
    rows, answers = (
        {row["id"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
        for path in paths
    )
    return rows, {id: answer["ground_truth"] for id, answer in answers.items()}


def same_tools(package: Package, row: dict[str, Any], tools: list[dict[str, Any]]) -> bool:
    """Whether the package makes the same JSON schemas, apart from what it adds about numbers that are floats."""

    def plain(schema: Any) -> Any:
        if isinstance(schema, list):
            return [plain(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        kept = {name: plain(each) for name, each in schema.items() if (name, each) != ("format", "float")}
        if isinstance(kept.get("description"), str):
            kept["description"] = kept["description"].removesuffix(" This is a float type value.")
        return kept

    return bool(plain(package.tools(row["function"])) == plain(tools))


def compare(package: Package, folder: Path, seed: int, rounds: int) -> int:
    """Prints the agreement for each category and kind of change. Returns the number of differences."""
    random_, shown = random.Random(seed), 0
    table: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for category in CATEGORIES:
        rows, answers = read_raw(folder, category)
        for row in read_bfcl(folder, category):
            table[category]["other schemas"] += not same_tools(package, rows[row.id], (row.tools or []))
            for kind, calls in responses(row, rounds, random_):
                theirs = package.correct(rows[row.id], answers.get(row.id), category, calls)
                ours = judge_calls(
                    [ToolCall(**call) for call in calls], row.expected_calls or [], (row.tools or [])
                )
                raised = isinstance(theirs, str)
                same = not ours.correct if raised else ours.correct == theirs
                for counts in (table[category], kinds[kind]):
                    counts.update(responses=1, right=theirs is True, raised=raised, different=not same)
                if not same and shown < 20:
                    shown += 1
                    print(
                        f"{row.id} ({kind}): package {theirs}, ours {ours}\n  {calls}\n  {row.expected_calls}"
                    )
    columns = ("responses", "right", "raised", "different", "other schemas")
    for title, counted in (("category", table), ("change", kinds)):
        print(f"\n{title:22}" + "".join(f"{column:>15}" for column in columns))
        total: Counter[str] = sum(counted.values(), Counter())
        for name, counts in [*counted.items(), ("total", total)]:
            print(f"{name:25}" + "".join(f"{counts[column]:15,}" for column in columns))
    print(
        "\nright: by the package. raised: the package's checker ends with an exception; ours calls it wrong."
    )
    print(f"verdicts that agree: {1 - total['different'] / total['responses']:.4%}")
    return total["different"]


def freeze(package: Package, path: Path) -> None:
    """Writes the package's verdict into each case of a file of made-up cases."""
    groups = json.loads(path.read_text())
    for group in groups:
        row = {"id": "made", "question": [], "function": group["functions"]}
        for case in group["cases"]:
            verdict = package.correct(row, group["answer"], group["category"], case["calls"])
            case["correct"] = verdict if isinstance(verdict, bool) else None
    lines = [json.dumps(group, ensure_ascii=False) for group in groups]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--freeze", type=Path)
    options = parser.parse_args()
    package = load_package()
    if options.freeze:
        freeze(package, options.freeze)
    elif options.folder is None:
        parser.error("name the folder that holds BFCL_v4_multiple.json and the other files")
    else:
        sys.exit(bool(compare(package, options.folder, options.seed, options.rounds)))


if __name__ == "__main__":
    main()
