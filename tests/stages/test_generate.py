"""Generate: every question answered, in order, and the same bytes whatever kills it on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tiny import forked, killed, read, same_after_kills, says, sums, tree, write
from trice.errors import InputError
from trice.formats.prompt import load_template
from trice.models.engine import ToolChoice
from trice.models.sampling import Sampling
from trice.stages.few_shot import find_examples
from trice.stages.generate import content_key, generate, generation_settings
from trice.stages.grading import grade
from trice.stages.model_spec import ModelSpec, load_tool_choice
from trice.tasks import MIX, MIXED, Tasks, load_task
from trice.tools.second_turn import second_turn_question
from trice.types import Outcome, Question

SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, top_k=50, top_p=0.95, samples=3, seed=5)


@pytest.fixture
def spec(tiny_model: Callable[[str], Path]) -> ModelSpec:
    sampling = Sampling(max_new_tokens=8)
    return ModelSpec(str(tiny_model("llama")), sampling=sampling, batch_size=2, device="cpu", dtype="float32")


def work(folder: Path, spec: ModelSpec) -> None:
    generate(sums(folder / "in.json"), folder / "out.json", Tasks("math"), spec, origin="x")


def test_responses_come_in_order_with_all_that_the_questions_hold(tmp_path: Path, spec: ModelSpec) -> None:
    rows = generate(
        sums(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), spec, origin="base", limit=4
    )
    written = read(tmp_path / "out.json")
    assert [row["id"] for row in written] == [row.id for row in rows] == ["S_0", "S_1", "S_2", "S_3"]
    assert {row["origin"] for row in written} == {"base"}
    assert [row["expression"] for row in written] == ["0+7", "1+7", "2+7", "3+7"]
    assert {row["instruction"] for row in written} == {load_task("math").instruction}
    assert not {"outcome", "prediction", "correct"} & set(written[0])
    assert sorted(tree(tmp_path)) == ["in.json", "out.json"]


def test_fields_that_a_question_lacks_change_no_sample() -> None:
    fields = {"id": "S_1", "input": "What is 1+7?", "answer": "8", "expression": "1+7", "instruction": "x"}
    # The key with which earlier versions seeded the samples of this question.
    assert content_key(Question.model_validate(fields)) == "d6010cb19c5556d1b3e2c3f0a8549c6a"


def test_a_question_keeps_its_own_instruction(tmp_path: Path, spec: ModelSpec) -> None:
    row = {"id": "A_1", "instruction": "Add.", "input": "2 and 2?", "answer": "4"}
    generate(write(tmp_path / "in.json", [row]), tmp_path / "out.json", Tasks("math"), spec)
    assert read(tmp_path / "out.json")[0]["instruction"] == "Add."


def test_questions_of_two_data_sets_may_share_their_ids(tmp_path: Path, spec: ModelSpec) -> None:
    rows = [
        {"id": str(i), "dataset": name, "question": f"{name} {'or ' * i}{i}?", "answer": "4"}
        for name in ("one", "two")
        for i in range(3)
    ]
    generate(write(tmp_path / "in.json", rows), tmp_path / "out.json", Tasks("math"), spec)
    assert [row["input"] for row in read(tmp_path / "out.json")] == [row["question"] for row in rows]


def test_samples_are_numbered_and_differ(tmp_path: Path, spec: ModelSpec) -> None:
    asked = replace(spec, sampling=SAMPLED, batch_size=6)
    rows = generate(sums(tmp_path / "in.json", 3), tmp_path / "out.json", Tasks("math"), asked)
    assert [(row.id, row.sample) for row in rows] == [(f"S_{i}", k) for i in range(3) for k in range(3)]
    assert len({row.response for row in rows}) > 5


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=8), SAMPLED], ids=["greedy", "sampled"])
def test_killed_at_any_act_and_run_again_the_bytes_are_the_same(
    tmp_path: Path, spec: ModelSpec, sampling: Sampling
) -> None:
    asked = replace(spec, sampling=sampling, batch_size=2 * sampling.samples)
    # the questions; journal, header, folder; five responses; file, fsync, rename, folder; the journal's end
    assert same_after_kills(tmp_path, work, asked) == 1 + 3 + 5 + 4 + 3
    assert len(read(tmp_path / "whole" / "out.json")) == 5 * sampling.samples


def test_the_seed_and_nothing_else_changes_what_is_sampled(tmp_path: Path, spec: ModelSpec) -> None:
    asked = replace(spec, sampling=SAMPLED)
    for name, each in {
        "a": asked,
        "b": asked,
        "c": replace(asked, sampling=replace(SAMPLED, seed=6)),
    }.items():
        work(tmp_path / name, each)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"template": load_template("alpaca")}, "template was 'plain', is now 'alpaca'"),
        ({"sampling": Sampling(max_new_tokens=9)}, "sampling.max_new_tokens was 8, is now 9"),
        ({"tool_choice": "required"}, "tool_choice was 'auto', is now 'required'"),
    ],
)
def test_going_on_with_other_settings_is_refused(
    tmp_path: Path, spec: ModelSpec, change: dict[str, object], complaint: str
) -> None:
    assert killed(7, tmp_path, work, tmp_path, spec)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"begun with other settings \(.*{complaint}"):
        work(tmp_path, replace(spec, **change))  # type: ignore[arg-type]
    assert tree(tmp_path) == before


def test_a_template_file_that_changed_is_another_setting(tmp_path: Path, spec: ModelSpec) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"prompt_input": "Q: {input} A:", "prompt_no_input": "{instruction}"}')
    asked = replace(spec, template=load_template(str(own)))
    assert killed(7, tmp_path / "run", work, tmp_path / "run", asked)
    own.write_text('{"prompt_input": "{input}", "prompt_no_input": "{instruction}"}')
    with pytest.raises(InputError, match="template_sha256 was"):
        work(tmp_path / "run", replace(spec, template=load_template(str(own))))


def test_compelled_to_call_every_response_begins_with_the_tool(tmp_path: Path, spec: ModelSpec) -> None:
    asked = replace(spec, tool_choice="required", sampling=SAMPLED)
    rows = generate(sums(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), asked)
    assert len(rows) == 15
    assert all(row.response.startswith("calculator(") for row in rows)
    assert all(row.response.count("calculator(") == 1 for row in rows)


def bent_on_calling(source: Path, folder: Path, tools: Sequence[str] = ("calculator",)) -> Path:
    """The tiny model with a head that wants `calculator(`, or other tools' names: first its own token for it, else
    the letters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    says(source, folder, "5")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    wanted = [text for tool in tools for text in (f"Ġ{tool}(", f"{tool}(")]
    starts = [piece for piece in vocabulary if piece and any(text.startswith(piece) for text in wanted)]
    with torch.no_grad():
        head = model.get_output_embeddings().weight.zero_()
        head[[vocabulary[piece] for piece in starts], 0] = 1.0
    model.save_pretrained(folder)
    return folder


def test_compelled_to_answer_no_spelling_of_a_call_is_left(tmp_path: Path, spec: ModelSpec) -> None:
    model = bent_on_calling(Path(spec.model), tmp_path / "bent")
    asked = replace(spec, model=str(model), tool_choice="none", sampling=SAMPLED, batch_size=64)
    rows = generate(sums(tmp_path / "in.json"), tmp_path / "out.json", Tasks("math"), asked)
    assert {row.outcome for row in grade(Tasks("math"), rows)} == {Outcome.ANSWERED}
    assert not any("calculator(" in row.response for row in rows)
    assert any("c" in row.response for row in rows)  # letters of its name are free


@pytest.mark.parametrize("task", ["math", "mix"])
def test_a_second_turn_holds_no_call(tmp_path: Path, spec: ModelSpec, task: str) -> None:
    """Nothing would execute it, and it would be taken for the answer."""
    model = bent_on_calling(Path(spec.model), tmp_path / "bent")
    asked = replace(spec, model=str(model), sampling=SAMPLED, batch_size=64)
    first = [Question(id=str(number), input=f"What is {number} and 7?", answer="7") for number in range(5)]
    turns = [second_turn_question(row, "It is 7.", row.input).model_dump(mode="json") for row in first]
    rows = generate(write(tmp_path / "in.json", turns), tmp_path / "out.json", Tasks(task), asked)
    assert not any("calculator(" in row.response for row in rows)


TOOLS = {"math": "calculator", "qa": "WikiSearch", "lama": "QA", "mlqa": "translator"}


def mixed(path: Path) -> Path:
    """Two questions of each task, in turn."""
    rows = [
        {"id": f"{task}_{i}", "question": f"{task} {'or ' * i}{i}?", "answer": "5", "task": task}
        for i in range(2)
        for task in MIXED
    ]
    return write(path, rows)


def work_mixed(folder: Path, spec: ModelSpec) -> None:
    generate(mixed(folder / "in.json"), folder / "out.json", Tasks("mix"), spec, origin="x")


def test_responses_that_a_tool_choice_would_not_change_are_not_asked_for_again(
    tmp_path: Path, spec: ModelSpec
) -> None:
    questions = sums(tmp_path / "in.json")
    free = generate(questions, tmp_path / "free.json", Tasks("math"), spec)
    plain = [row.model_copy(update={"tokens": None}) for row in free]
    calls = [row.model_copy(update={"response": f"calculator({i}+7)"}) for i, row in enumerate(plain)]
    marked = [row.model_copy(update={"response": "marked"}) for row in plain]
    given = write(tmp_path / "given.json", [row.model_dump(mode="json") for row in [*calls[:2], *marked[2:]]])

    def compelled(choice: ToolChoice, name: str, free: Path | None) -> list[str]:
        asked = replace(spec, tool_choice=choice)
        rows = generate(questions, tmp_path / name, Tasks("math"), asked, origin=choice, auto_responses=free)
        assert {row.origin for row in rows} == {choice}
        return [row.response for row in rows]

    never, always = compelled("none", "never.json", None), compelled("required", "always.json", None)
    assert compelled("none", "never2.json", tmp_path / "free.json") == never
    assert compelled("required", "always2.json", tmp_path / "free.json") == always
    assert compelled("none", "never3.json", given) == [*never[:2], "marked", "marked", "marked"]
    assert compelled("required", "always3.json", given) == ["calculator(0+7)", "calculator(1+7)", *always[2:]]


def test_in_a_mix_each_question_is_compelled_to_call_its_own_tool(tmp_path: Path, spec: ModelSpec) -> None:
    rows = generate(
        mixed(tmp_path / "in.json"),
        tmp_path / "out.json",
        Tasks("mix"),
        replace(spec, tool_choice="required"),
    )
    assert [row.id for row in rows] == [f"{task}_{i}" for i in range(2) for task in MIXED]
    assert {row.instruction for row in rows} == {MIX}
    for row in rows:
        assert row.response.startswith(f"{TOOLS[str(row.task)]}("), row


def test_compelled_to_answer_no_tool_of_a_mix_is_called(tmp_path: Path, spec: ModelSpec) -> None:
    model = bent_on_calling(Path(spec.model), tmp_path / "bent", list(TOOLS.values()))
    asked = replace(spec, model=str(model), tool_choice="none", sampling=SAMPLED, batch_size=64)
    rows = generate(mixed(tmp_path / "in.json"), tmp_path / "out.json", Tasks("mix"), asked)
    assert {row.outcome for row in grade(Tasks("mix"), rows)} == {Outcome.ANSWERED}
    assert not any(f"{tool}(" in row.response for row in rows for tool in TOOLS.values())


def test_in_a_mix_each_task_is_shown_its_own_examples(tmp_path: Path, spec: ModelSpec) -> None:
    asked = replace(spec, few_shot="calls")
    assert killed(7, tmp_path / "x", work_mixed, tmp_path / "x", asked)
    (header, *_) = (tmp_path / "x" / ".out.json.journal").read_text().splitlines()
    shown = json.loads(header)["settings"]["examples"]
    assert shown == {task: [list(each) for each in find_examples(task, "calls")] for task in MIXED}
    for task, tool in TOOLS.items():
        assert all(output.startswith(f"{tool}(") for _, output in shown[task])
    work_mixed(tmp_path / "x", asked)
    work_mixed(tmp_path / "y", asked)
    assert tree(tmp_path / "x") == tree(tmp_path / "y")


def test_a_response_ends_with_its_call_or_the_stop_text() -> None:
    tasks = Tasks("math")
    finish = generation_settings(tasks, load_task("math"), ModelSpec("any")).finish
    assert finish("calculator((1+2)") is None
    assert finish("calculator((1+2))") == "calculator((1+2))"
    assert finish("calculator(1+)") is None  # not a call: the next parenthesis may close one
    assert finish(" 5\nQuestion: and") == "5"
    assert finish("\n") is None  # nothing has been said yet
    assert finish("5") is None


def test_examples_come_by_name_or_from_a_file(tmp_path: Path) -> None:
    assert find_examples("math", None) == ()
    assert all(example.output.startswith("calculator(") for example in find_examples("math", "calls"))
    assert not any("calculator" in example.output for example in find_examples("math", "direct"))
    own = write(tmp_path / "own.jsonl", [{"input": "1+1?", "output": "2"}])
    ((text, output),) = find_examples("math", str(own))
    assert (text, output) == ("1+1?", "2")


def test_examples_stand_in_the_prompt_and_in_the_settings(tmp_path: Path, spec: ModelSpec) -> None:
    shown = replace(spec, few_shot="calls")
    work(tmp_path / "with", shown)
    work(tmp_path / "without", spec)
    assert tree(tmp_path / "with") != tree(tmp_path / "without")
    assert killed(7, tmp_path / "x", work, tmp_path / "x", spec)
    with pytest.raises(InputError, match=r"examples\.math was"):
        work(tmp_path / "x", shown)


def test_wrong_input_is_named_before_the_model_is_loaded(tmp_path: Path, spec: ModelSpec) -> None:
    data, output = sums(tmp_path / "in.json"), tmp_path / "out.json"
    other, bare = tmp_path / "adapter", tmp_path / "bare"
    for folder, base in ((other, "gemma-2b"), (bare, spec.model)):
        write(folder / "adapter_config.json", [{"base_model_name_or_path": base}])
    (other / "adapter_model.safetensors").touch()
    for complaint, call in {
        "unknown task 'maths'": (data, "maths", spec),
        "model 'no/model' is neither": (data, "math", replace(spec, model="no/model")),
        "none is not an adapter": (data, "math", replace(spec, adapter=tmp_path / "none")),
        "was trained on base model 'gemma-2b', not on": (data, "math", replace(spec, adapter=other)),
        "adapter_model.safetensors": (data, "math", replace(spec, adapter=bare)),
        "dtype 'float8'": (data, "math", replace(spec, dtype="float8")),
        "none.json: no such file": (tmp_path / "none.json", "math", spec),
    }.items():
        with pytest.raises(InputError, match=complaint):
            generate(call[0], output, Tasks(call[1]), call[2])
        assert not output.exists()
        assert not output.with_name(".out.json.journal").exists()
    with pytest.raises(InputError, match="--device gpu"):
        generate(data, output, Tasks("math"), replace(spec, device="gpu"))
    generate(data, output, Tasks("math"), spec)  # what the unknown device left behind is no obstacle


def test_wrong_names_of_examples_and_of_what_to_compel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="few-shot 'many' is not valid; choose direct, calls, mixed, or a"):
        find_examples("math", "many")
    with pytest.raises(InputError, match="few-shot 'direct': task 'maths' ships no examples"):
        find_examples("maths", "direct")
    with pytest.raises(InputError, match="field 'output'"):
        find_examples("math", str(write(tmp_path / "own.jsonl", [{"input": "1+1?"}])))
    with pytest.raises(InputError, match=r"tool choice .tool. is not valid; choose auto, none or required"):
        load_tool_choice("tool")


def full(folder: Path, spec: ModelSpec) -> None:
    """Generate on a disk that is full after the second batch."""
    import resource
    import signal

    from trice.errors import TriceError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (folder / ".out.json.journal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
    with pytest.raises(TriceError, match="cannot be written"):
        work(folder, spec)


def test_a_full_disk_loses_no_batch(tmp_path: Path, spec: ModelSpec) -> None:
    work(tmp_path / "whole", spec)
    assert killed(6, tmp_path / "full", work, tmp_path / "full", spec)
    assert forked(full, tmp_path / "full", spec) == 0
    assert not (tmp_path / "full" / "out.json").exists()
    work(tmp_path / "full", spec)
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")
