"""Data for other trainers and from them: what is written, that nothing is lost, and that TRL trains on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny import command, read, write
from trice.errors import InputError
from trice.stages.export_data import export
from trice.stages.import_data import import_
from trice.storage.files import read_rows
from trice.tasks import SECOND_TURN_INSTRUCTION, Tasks
from trice.tasks.instructions import MATH as INSTRUCTION
from trice.tasks.instructions import QA
from trice.training_data import LabeledQuestion
from trice.types import Question

LOCAL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USER = {"role": "user", "content": "What is 3 times 19?"}


def labelled(output: str, **fields: object) -> dict[str, object]:
    return {"instruction": INSTRUCTION, "input": "What is 3 times 19?", "output": output, **fields}


def ranked(responses: Sequence[str], scores: Sequence[float], **fields: object) -> dict[str, object]:
    """Candidates, the first one the target; a field that is a list has a value for each."""
    lists = {name: values for name, values in fields.items() if isinstance(values, list)}
    candidates: list[dict[str, object]] = [
        {"response": response, "reward": score, "target": not i}
        | {name: values[i] for name, values in lists.items()}
        for i, (response, score) in enumerate(zip(responses, scores, strict=True))
    ]
    question = {"instruction": INSTRUCTION, "input": "What is 3 times 19?", "candidates": candidates}
    return {name: value for name, value in fields.items() if name not in lists} | question


def pairwise(responses: Sequence[str], scores: Sequence[float]) -> dict[str, object]:
    """Candidates of pairs that name no target."""
    candidates = [{"response": text, "reward": score} for text, score in zip(responses, scores, strict=True)]
    return ranked(["a"], [0]) | {"candidates": candidates}


def answers(row: dict[str, Any]) -> list[str]:
    return [each["response"] for each in row["candidates"]]


def call(arguments: object, name: str = "calculator") -> dict[str, object]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def said(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


def out(
    tmp_path: Path, rows: Sequence[object], task: str = "math", form: str | None = None
) -> list[dict[str, Any]]:
    """The rows as they are exported."""
    export(write(tmp_path / "ours.json", rows), tmp_path / "theirs.jsonl", Tasks(task), form=form)
    return read(tmp_path / "theirs.jsonl")


def back(tmp_path: Path, rows: Sequence[object], task: str = "math") -> list[dict[str, Any]]:
    """The rows as they are imported."""
    import_(write(tmp_path / "theirs.jsonl", rows), tmp_path / "ours.json", Tasks(task))
    return read(tmp_path / "ours.json")


# What is written


def test_a_labelled_question_is_prompt_and_completion_with_the_tools_schema(tmp_path: Path) -> None:
    (row,) = out(tmp_path, [labelled("calculator(3*19)", id="a-1", answer="57", level=3)])
    assert row == {
        "prompt": [{"role": "system", "content": INSTRUCTION}, USER],
        "completion": [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "calculator", "arguments": {"expression": "3*19"}},
                    }
                ],
            }
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "calculator",
                    "description": "Computes an arithmetic expression and returns its value.",
                    "parameters": {
                        "type": "object",
                        "properties": {"expression": {"type": "string"}},
                        "required": ["expression"],
                    },
                },
            }
        ],
        "id": "a-1",
        "answer": "57",
        "level": 3,
    }


def test_a_direct_answer_and_a_malformed_call_are_content(tmp_path: Path) -> None:
    rows = out(tmp_path, [labelled("57"), labelled("calculator(3*19")])
    assert [row["completion"] for row in rows] == [
        [said("57")],
        [said("calculator(3*19")],
    ]


def test_a_second_turn_goes_with_its_call(tmp_path: Path) -> None:
    passage = "Triton (moon): Triton is the largest moon of Neptune."
    asked = {
        "instruction": QA,
        "input": "Which planet does Triton orbit?",
        "id": "q-1",
        "task": "qa",
        "answer": "Neptune",
    }
    turn = {
        "instruction": SECOND_TURN_INSTRUCTION,
        "input": f"Context: {passage}\nQuestion: {asked['input']}",
        "output": "Neptune",
    }
    rows = [
        {**turn, "id": "q-1/2", "turn": 2, "first_turn": "q-1", "task": "second-turn", "answer": "Neptune"},
        {**asked, "output": "WikiSearch(Triton)"},
    ]
    (row,) = out(tmp_path, rows, "qa", "messages")
    assert [message["role"] for message in row["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert row["messages"][3:] == [
        {"role": "tool", "name": "WikiSearch", "content": passage},
        said("Neptune"),
    ]
    again = back(tmp_path, [row], "qa")
    assert again == [rows[1], rows[0]]


def test_ranked_candidates_become_every_pair_of_unequal_rewards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ranked(
            ["calculator(3*19)", "57", "58", "59"], [20, 10, 0, 0], origin=["gold", "a", "b", "b"], id="a-1"
        ),
        ranked(["57"], [20], id="a-2"),
    ]
    pairs = out(tmp_path, rows)
    assert [(row["index_chosen"], row["index_rejected"]) for row in pairs] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
    ]
    first = pairs[0]
    assert first["prompt"] == [{"role": "system", "content": INSTRUCTION}, USER]
    assert first["chosen"][0]["tool_calls"][0]["function"]["arguments"] == {"expression": "3*19"}
    assert first["rejected"] == [said("57")]
    assert (first["score_chosen"], first["score_rejected"], first["origin_rejected"]) == (20, 10, "a")
    assert "1 rows left out: no two candidates have different rewards" in capsys.readouterr().err
    assert back(tmp_path, pairs) == rows[:1]


def test_candidates_in_the_published_form(tmp_path: Path) -> None:
    rows = [ranked(["57", "58"], [20, 0], origin=["gold", "a"], prediction=["57", "58"], id="a-1")]
    published = {
        "query": f"{INSTRUCTION}\nWhat is 3 times 19?",
        "responses": ["57", "58"],
        "origin": ["gold", "a"],
        "scores": [20, 0],
        "answer": ["57", "58"],
        "id": "a-1",
    }
    assert out(tmp_path, rows, form="published") == [published]
    assert out(tmp_path, [published]) == out(tmp_path, rows)


def test_the_best_candidate_as_messages(tmp_path: Path) -> None:
    (row,) = out(tmp_path, [ranked(["58", "57", "57."], [0, 20, 20])], form="messages")
    assert row["messages"][-1] == said("57")
    assert row["score"] == 20


@pytest.mark.parametrize(
    ("rows", "form", "message"),
    [
        ([labelled("57")], "preference", "holds no candidates"),
        ([labelled("57")], "parquet", "--form 'parquet' is not valid; choose completion, "),
        ([labelled("57", prompt="x")], None, "ours.json:1: field 'prompt': TRL has a field of this name"),
        ([labelled("57")], "published", "holds no candidates"),
        (
            [{"query": "q", "responses": ["a"], "scores": []}],
            None,
            "field 'scores': 0 scores for 1 responses",
        ),
        ([ranked(["a"], [1])], None, "no two candidates of one question have different rewards"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    rows: list[object], form: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        out(tmp_path, rows, form=form)


# There and back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
CALLS = st.sampled_from(
    [
        "3*19",
        '"3*19"',
        "3*19)<tool_call>{",
        "3)</think>calculator(4",
        " 3*19",
        "expression=3*19",
        "3*(4+5)",
        "3*19)",
        "(3",
        "x",
        "1,234+1",
        "",
    ]
)
RESPONSES = st.one_of(
    TEXT,
    st.tuples(TEXT | st.just(""), CALLS, TEXT | st.just("")).map(lambda t: f"{t[0]}calculator({t[1]}){t[2]}"),
)


@LOCAL
@given(
    st.lists(
        st.tuples(TEXT.filter(lambda text: text != SECOND_TURN_INSTRUCTION), TEXT, RESPONSES),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["completion", "messages"]),
)
def test_labelled_questions_come_back_as_they_were(
    tmp_path: Path, rows: list[tuple[str, str, str]], form: str
) -> None:
    names = ("instruction", "input", "output")
    before = [
        dict(zip(names, row, strict=True)) | {"id": f"a-{i}", "extra": {"i": i}} for i, row in enumerate(rows)
    ]
    kept = [
        row
        for row in before
        if row["output"].strip() and f"{row['instruction']}{row['input']}".strip()  # type: ignore[attr-defined]
    ]
    if kept:
        assert back(tmp_path, out(tmp_path, kept, form=form)) == kept


@LOCAL
@given(
    st.lists(st.tuples(RESPONSES | st.just(""), st.integers(0, 3), st.none() | TEXT), min_size=2, max_size=5),
    TEXT,
)
def test_ranked_candidates_come_back_as_they_were(
    tmp_path: Path, candidates: list[tuple[str, int, str | None]], input: str
) -> None:
    responses, scores, answers = (list(each) for each in zip(*candidates, strict=True))
    if len(set(scores)) < 2:
        return
    row = ranked(responses, scores, origin=["o"] * len(scores)) | {
        "instruction": "Two\nlines.",
        "input": input,
    }
    for number, each in enumerate(row["candidates"]):  # type: ignore[var-annotated, arg-type]
        each |= {"prediction": answers[number]} if answers[number] is not None else {}
        each |= {"tokens": [number, 7]} if number else {}
    rows = [row | {"id": f"a-{i}"} for i in range(2)]
    assert back(tmp_path, out(tmp_path, rows)) == rows


def book(title: str, copies: int = 1, tags: list[str] | None = None) -> str:
    """Order a book."""
    return title


TASK = "name: books\ninstruction: Order.\ntools: [test_export:book]\nanswers: words\n"
TITLES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@LOCAL
@given(
    st.fixed_dictionaries(
        {"title": TITLES}, optional={"copies": st.integers(), "tags": st.lists(TITLES, max_size=2)}
    )
)
def test_calls_of_several_arguments_come_back_the_same(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Every text can be an argument."""
    sys.modules.setdefault("test_export", sys.modules[__name__])
    (tmp_path / "books.yaml").write_text(TASK)
    task = str(tmp_path / "books.yaml")
    theirs = [{"prompt": [USER], "completion": [call(json.dumps(arguments), "book")]}]
    (row,) = back(tmp_path, theirs, task)
    ((made,),) = [each["completion"] for each in out(tmp_path, [row], task)]
    assert made["tool_calls"][0]["function"] == {"name": "book", "arguments": arguments}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"title": "Emma"}, "book(Emma)"),
        ({"title": "Emma", "copies": 2}, "book(Emma, 2)"),
        ({"copies": 2, "title": "Emma"}, "book(copies=2, title=Emma)"),
        ({"title": "Emma, or: a = b", "copies": 2}, 'book("Emma, or: a = b", 2)'),
        ({"title": "Emma", "tags": ["a", "b, c"]}, 'book(title=Emma, tags=["a", "b, c"])'),
    ],
)
def test_calls_are_written_plainly(arguments: dict[str, object], text: str, tmp_path: Path) -> None:
    sys.modules.setdefault("test_export", sys.modules[__name__])
    (tmp_path / "books.yaml").write_text(TASK)
    (row,) = back(tmp_path, [{"messages": [USER, call(arguments, "book")]}], str(tmp_path / "books.yaml"))
    assert row["output"] == text


# Rows made by others

CALL = call({"expression": "3*19"})
FLAT = {"name": "calculator", "arguments": {"expression": "3*19"}}
HERMES = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "3*19"}}\n</tool_call>'
PART = {"type": "text", "text": USER["content"]}
TOOL = {"role": "tool", "content": "57"}


@pytest.mark.parametrize(
    ("theirs", "output"),
    [
        ({"prompt": "What is 3 times 19?", "completion": " 57"}, "57"),
        ({"prompt": "What is 3 times 19?", "completion": " calculator(3*19)"}, "calculator(3*19)"),
        ({"messages": [USER, said("57")]}, "57"),
        ({"messages": [USER, CALL]}, "calculator(3*19)"),
        ({"messages": [USER, call('{"expression": "3*19"}')]}, "calculator(3*19)"),
        ({"messages": [USER, CALL | {"content": "Let me see."}]}, "Let me see.\ncalculator(3*19)"),
        ({"messages": [USER, said(None) | {"tool_calls": [FLAT]}]}, "calculator(3*19)"),
        ({"prompt": [{"role": "user", "content": [PART]}], "completion": [said("57")]}, "57"),
        ({"messages": [USER, CALL, TOOL]}, "calculator(3*19)"),
        ({"messages": [USER, call({"expression": "3*19", "query": None})]}, "calculator(3*19)"),
        ({"messages": [USER, said(HERMES)]}, "calculator(3*19)"),
        ({"messages": [USER, said(f"Let me see. {HERMES}\n")]}, "Let me see. calculator(3*19)"),
        ({"messages": [USER, said(HERMES.removesuffix("</tool_call>"))]}, "calculator(3*19)"),
        ({"messages": [USER, CALL | {"content": HERMES}]}, "calculator(3*19)"),
        ({"messages": [USER, said(HERMES), TOOL]}, "calculator(3*19)"),
        ({"prompt": "What is 3 times 19?", "completion": HERMES}, "calculator(3*19)"),
        ({"messages": [USER, said("57") | {"tool_calls": None}], "prompt": None, "chosen": None, "id": None}, "57"),
    ],
)  # fmt: skip
def test_prompts_and_completions_of_others_become_labelled_questions(
    theirs: dict[str, object], output: str, tmp_path: Path
) -> None:
    assert back(tmp_path, [theirs]) == [labelled(output)]


def pair(chosen: str, rejected: str, **fields: object) -> dict[str, object]:
    return {"prompt": USER["content"], "chosen": chosen, "rejected": rejected, **fields}


def test_pairs_of_one_prompt_become_one_row_ranked_by_the_longest_chain(tmp_path: Path) -> None:
    rows = [pair(" 57", " 58"), pair(" 58", " 59"), pair(" calculator(3*19)", " 58"), pair(" 57", " 59")]
    assert back(tmp_path, rows) == [pairwise(["57", "calculator(3*19)", "58", "59"], [2.0, 2.0, 1.0, 0.0])]


def test_scores_of_others_are_kept(tmp_path: Path) -> None:
    assert back(tmp_path, [pair("57", "58", score_chosen=8.5, score_rejected=-1)]) == [
        pairwise(["57", "58"], [8.5, -1.0])
    ]


def test_a_pair_with_the_prompt_in_both_sides(tmp_path: Path) -> None:
    answers = [said(text) for text in ("57", "58")]
    rows = [{"chosen": [USER, answers[0]], "rejected": [USER, answers[1]]}]
    assert back(tmp_path, rows) == [pairwise(["57", "58"], [1.0, 0.0])]


TWO = {"role": "assistant", "tool_calls": [{"function": FLAT}, {"function": FLAT}]}
IMAGE = {"role": "user", "content": [{"type": "image"}]}


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ({"messages": [USER, TWO]}, "2 tool calls in one answer"),
        ({"messages": [USER, said(HERMES + HERMES)]}, "2 tool calls in one answer"),
        ({"messages": [USER, CALL | {"content": HERMES.replace("19", "20")}]}, "2 tool calls in one answer"),
        ({"messages": [USER, said(HERMES.replace("calculator", "weather"))]}, "a call of 'weather', which"),
        ({"messages": [USER, said("<tool_call>calculator(3*19)</tool_call>")]}, "a tool call is not JSON"),
        ({"messages": [USER, said("<tool_call>" + "[" * 100_000)]}, "a tool call is not JSON"),
        ({"messages": [USER, CALL | {"content": "Not calculator(1+1) but"}]}, "is read as another call"),
        ({"messages": [USER, CALL | {"content": "<think>Hm"}]}, "reasoning that never ends"),
        ({"messages": [USER, call({"city": "Rome"}, "weather")]}, "a call of 'weather', which"),
        ({"messages": [USER, call({"expression": "1)"})]}, "no text parses as these arguments"),
        ({"messages": [USER, call("{")]}, "the arguments of 'calculator' are not JSON"),
        ({"messages": [USER, call([])]}, "the arguments of 'calculator' are not an object"),
        ({"messages": [USER, said("57") | {"tool_calls": {"0": FLAT}}]}, "the tool_calls of a message are not a list"),
        ({"messages": [USER, said("57") | {"tool_calls": 1}]}, "the tool_calls of a message are not a list"),
        ({"messages": [USER, said("1"), USER]}, "a conversation that continues"),
        ({"messages": [USER, CALL, TOOL, CALL]}, "calls one after the other"),
        ({"messages": [USER, USER]}, "not one question"),
        ({"messages": [IMAGE, said("57")]}, "a message is not text alone"),
        ({"prompt": "a", "completion": " "}, "an empty answer"),
        ({"messages": [USER]}, "no answer"),
        ({"prompt": "a", "completion": "b", "label": False}, "not wanted"),
    ],
)  # fmt: skip
def test_what_a_row_cannot_say_is_left_out_with_its_reason_and_place(
    theirs: dict[str, object], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"prompt": USER["content"], "completion": "57"}
    assert back(tmp_path, [good, theirs]) == [labelled("57")]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("1 rows left out: ")
    assert reason in line
    assert line.endswith(f"(the first: {tmp_path / 'theirs.jsonl'}:2)")
    with pytest.raises(InputError, match="no row can be expressed"):
        back(tmp_path, [theirs])


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([pair("57", "57")], "twice the same answer"),
        ([pair("57", "58"), pair("58", "57")], "contradict each other"),
    ],
)
def test_pairs_that_say_nothing_are_left_out(
    pairs: list[object], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"prompt": "Other?", "chosen": "yes", "rejected": "no"}
    assert [answers(row) for row in back(tmp_path, [other, *pairs])] == [["yes", "no"]]
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"text": "What?"}, "theirs.jsonl:1: neither 'messages' nor 'prompt'"),
        ({"prompt": 3, "completion": "a"}, "field 'prompt': not a list of messages"),
        ({"messages": [{"content": "a"}]}, "field 'messages': not a list of messages"),
        ({"chosen": "a", "prompt": "b"}, "field 'rejected': is missing"),
        ({"chosen": "a", "rejected": "b"}, "field 'prompt': is missing"),
        (
            pair("57", "58", score_chosen="good", score_rejected=1),
            "theirs.jsonl:1: field 'score_chosen': not a number",
        ),
        (pair("57", "58", index_chosen=0, index_rejected=[1]), "field 'index_rejected': not a number"),
        (pair("57", "58", index_chosen=0), "field 'index_rejected': both sides need an index, or neither"),
        (pair("57", "58", tokens_chosen=[-1], tokens_rejected=[2]), "field 'candidates.0.tokens.0'"),
    ],
)
def test_rows_of_another_form_are_refused(theirs: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        back(tmp_path, [theirs])


def test_an_answer_over_a_calculators_output_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [
        USER,
        CALL,
        {"role": "tool", "content": "57"},
        said("It is 57."),
    ]
    assert back(tmp_path, [{"messages": messages}]) == [labelled("calculator(3*19)")]
    assert "the output of calculator is the answer" in capsys.readouterr().err


def test_conversations_become_questions_that_a_recipe_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "3*19"}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    rows = [
        {"messages": [USER, called, {"role": "tool", "content": "57"}, said("It is 57.")]},
        {"messages": [USER, said("57")], "id": "b-1"},
        {"messages": [USER, called]},
    ]
    theirs, ours = write(tmp_path / "chats.jsonl", rows), tmp_path / "questions.jsonl"
    code, shown, error = command(capsys, "import", "--form", "questions", "--data", theirs, "--output", ours)
    assert (code, shown) == (0, f"2 rows in {ours}, from 3 (1 left out)\n")
    assert "a call without its result" in error[0]
    first, second = read_rows(ours, Question)
    assert (first.id, first.input, first.answer) == ("chats-1", USER["content"], "It is 57.")
    assert (first.model_extra or {})["expression"] == "3*19"
    assert (second.id, second.answer) == ("b-1", "57")
    with pytest.raises(
        InputError, match=r"chats.jsonl:1: field 'messages': .*trice import --form conversations"
    ):
        read_rows(theirs, Question)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = write(tmp_path / "ours.json", [labelled("calculator(3*19)", id="a-1")])
    theirs, again = tmp_path / "theirs.jsonl", tmp_path / "again.json"
    code, said, _ = command(capsys, "export", "--data", ours, "--output", theirs)
    assert (code, said) == (0, f"1 rows in {theirs}\n")
    code, said, _ = command(capsys, "import", "--data", theirs, "--output", again)
    assert (code, said) == (0, f"1 rows in {again}, from 1 (0 left out)\n")
    assert read_rows(again, LabeledQuestion) == read_rows(ours, LabeledQuestion)


# TRL itself

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def parts(tiny_model: Callable[[str], Path]) -> dict[str, Any]:
    """A tiny model and its tokenizer, with a chat template that shows tools and calls."""
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    tokenizer.chat_template = TEMPLATE
    return {"model": AutoModelForCausalLM.from_pretrained(tiny_model("llama")), "processing_class": tokenizer}


def arguments(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "out"), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True,
        "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip


def loaded(tmp_path: Path) -> Any:
    from datasets import load_dataset

    cache = str(tmp_path / "cache")
    return load_dataset("json", data_files=str(tmp_path / "theirs.jsonl"), split="train", cache_dir=cache)


MIXED = [
    labelled("calculator(3*19)", id="a-1", answer="57"),
    labelled("57"),
    labelled("calculator(expression=3*19)"),
]


@pytest.mark.parametrize("form", ["completion", "messages"])
def test_trl_fine_tunes_on_the_file(form: str, parts: dict[str, Any], tmp_path: Path) -> None:
    rows = out(tmp_path, MIXED, form=form)
    dataset = loaded(tmp_path)
    key = "completion" if form == "completion" else "messages"
    assert [row[key] for row in dataset] == [row[key] for row in rows]
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        args=SFTConfig(**arguments(tmp_path), max_length=2048), train_dataset=dataset, **parts
    )
    assert trainer.train().global_step == 1
    text = parts["processing_class"].decode(trainer.train_dataset[0]["input_ids"])
    assert '"name": "calculator"' in text
    assert text.endswith('<assistant>calculator{"expression": "3*19"}</s>')
    if form == "completion":
        learnt = [token for token in trainer.train_dataset[0]["labels"] if token >= 0]
        assert parts["processing_class"].decode(learnt) == 'calculator{"expression": "3*19"}</s>'


def test_trl_prefers_on_the_file(parts: dict[str, Any], tmp_path: Path) -> None:
    out(
        tmp_path,
        [
            ranked(
                ["calculator(3*19)", "57", "58"],
                [20, 10, 0],
                origin=["gold", "a", "b"],
                prediction=["57", "57", None],
            )
        ],
    )
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        args=DPOConfig(**arguments(tmp_path), max_length=2048), train_dataset=loaded(tmp_path), **parts
    )
    assert trainer.train().global_step == 1
    decode = parts["processing_class"].decode
    first = trainer.train_dataset[0]
    assert decode(first["chosen_ids"]) == 'calculator{"expression": "3*19"}</s>'
    assert decode(first["rejected_ids"]) == "57</s>"
    assert '"name": "calculator"' in decode(first["prompt_ids"])


def test_a_text_that_only_looks_like_another_form_of_call_comes_back(tmp_path: Path) -> None:
    rows = [
        labelled(text)
        for text in (f"Write {HERMES}", f"{HERMES} calculator(3*19)", f"calculator(3*19){HERMES}")
    ]
    assert back(tmp_path, out(tmp_path, rows)) == rows
