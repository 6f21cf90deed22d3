"""On-policy rounds: which responses become targets, how many samples a question gets, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny import read, says, sums, write
from trice.errors import InputError
from trice.models.sampling import Sampling
from trice.rewards import execution, from_function
from trice.stages import grading
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.tasks.task import Task
from trice.training import on_policy
from trice.training.on_policy import describe_round, sample_round
from trice.training.settings import OnPolicy
from trice.training.targets import Samples, is_well_formed
from trice.training_data import Candidates
from trice.types import Question, Response

MATH = Tasks("math")


def samples(*written: tuple[str, bool], answer: str = "5", cost: float = 0.1) -> Samples:
    """Judged responses to one question; each is a text and whether it is right."""
    from trice.stages.grading import grade

    question = Question(
        id="q", dataset="d", input="What is 14 + 19 - 28?", instruction="Compute.", answer=answer
    )
    found = Samples(MATH, question, execution(cost))
    rows = [Response.model_validate(question.model_dump() | {"response": text}) for text, _ in written]
    for row in grade(MATH, rows):
        found.add(row)
    assert [row.correct for row in found.rows] == [right for _, right in written]
    return found


def target(found: Samples) -> str | None:
    chosen = found.choose()
    return chosen and chosen.response


def test_the_target_is_the_most_frequent_right_response() -> None:
    calls = [("calculator(10-5)", True), ("calculator(14+19-28)", True), ("calculator(14+19)", False)]
    assert target(samples(*calls, ("calculator(14+19-28)", True))) == "calculator(14+19-28)"


def test_a_wrong_response_is_never_a_target() -> None:
    found = samples(("calculator(14+19)", False), ("calculator(14+19)", False), ("7", False))
    assert target(found) is None
    assert found.solution(None) is None


@pytest.mark.parametrize(
    "broken",
    [
        "calculator(14-(28-19->calculator(14-(28-19))",  # a valid call in broken text
        "The answer is calculator(14+19-28).",
        "calculator(14+19-28)calculator(14+19-28)",
    ],
)
def test_a_right_call_in_broken_text_is_not_imitated(broken: str) -> None:
    assert target(samples((broken, True))) is None
    assert target(samples((broken, True), (broken, True), ("calculator(5)", True))) == "calculator(5)"


def test_text_with_a_piece_of_a_call_is_not_imitated() -> None:
    assert target(samples(*[("calculator14-9 is 5", True)] * 4)) is None


def test_a_tool_name_within_a_word_is_no_piece_of_a_call() -> None:
    def search(query: str) -> str:
        """Search."""
        return query

    tasks = Tasks(Task("library", "Answer.", [search], answers="words"))
    row = Response(id="q", input="Who?", answer="Curie", response="Marie Curie did this research")
    assert is_well_formed(tasks, row)
    assert not is_well_formed(tasks, row.model_copy(update={"response": "search[Marie Curie"}))


def test_a_conversation_that_ends_with_a_piece_of_a_call_is_not_imitated() -> None:
    def ends_with(text: str) -> Response:
        completion = [{"role": "assistant", "content": text}]
        fields = {"response": text, "outcome": "answered", "completion": completion}
        return Response.model_validate({"id": "q", "input": "Hello?", "expected_calls": []} | fields)

    assert is_well_formed(MATH, ends_with("Hello! I have a calculator."))
    assert not is_well_formed(MATH, ends_with("Hello!</tool_call>"))
    assert not is_well_formed(MATH, ends_with('{"name": "calculator", "arguments": {'))


def test_a_reward_is_computed_once_for_each_text() -> None:
    asked: list[str] = []

    def reward(question: Question, response: Response) -> float:
        asked.append(response.response)
        return 1.0

    question = Question(id="q", input="What is 2 + 3?", answer="5")
    found = Samples(MATH, question, from_function(reward, "reward"))
    for text in ("5", "6", "5", "5"):
        found.add(Response.model_validate(question.model_dump() | {"response": text, "outcome": "answered"}))
        found.choose()
    assert found.solution(None)
    assert asked == ["5", "6"]


def test_a_direct_answer_needs_most_direct_answers_to_be_right() -> None:
    lucky = [("5", True), ("6", False), ("7", False)]
    assert target(samples(*lucky)) is None
    assert target(samples(*lucky, ("calculator(14+19-28)", True))) == "calculator(14+19-28)"
    assert target(samples(("5", True))) is None  # one alone may be luck
    assert target(samples(("5", True), ("5", True))) == "5"


def test_the_decision_of_more_value_is_the_target_and_the_other_is_left_out() -> None:
    """Values with two samples of 0 as a prior: answers 3/(3+2) = 0.6, calls 3·0.9/5 = 0.54 and with cost 0 0.6."""
    both = [("5", True)] * 3 + [("calculator(14+19-28)", True)] * 3 + [("calculator(3)", False)]
    assert samples(*both).solution(None) is None  # `choose` comes first
    found = samples(*both)
    assert target(found) == "5"
    solution = found.solution(None)
    assert solution
    (only,) = solution.candidates
    assert (only.response, only.reward, only.count, only.target) == ("5", 1.0, 3, True)
    calls = samples(*[("5", True)] * 3, *[("calculator(14+19-28)", True)] * 5)  # 5·0.9/7 = 0.64
    assert target(calls) == "calculator(14+19-28)"


def earlier(response: str, count: int) -> Candidates:
    found = samples(*[(response, True)] * count)
    found.choose()
    row = found.solution(None)
    assert row
    return row


def test_a_solved_question_keeps_its_target_and_the_more_frequent_one_wins() -> None:
    before = earlier("calculator(14+19-28)", 3)
    nothing = samples(("calculator(3)", False))
    nothing.choose()
    assert nothing.solution(before) == before
    once = samples(("calculator(10-5)", True), ("calculator(3)", False))
    once.choose()
    kept = once.solution(before)
    assert kept
    assert [each.response for each in kept.candidates] == ["calculator(14+19-28)"]
    again = samples(*[("calculator(10-5)", True)] * 4)
    again.choose()
    kept = again.solution(before)
    assert kept
    assert kept.target
    assert (kept.target.response, kept.target.count) == ("calculator(10-5)", 4)


# Rounds of a real, tiny model


@pytest.fixture
def seven(tiny_model: Callable[[str], Path], tmp_path: Path) -> ModelSpec:
    """A model that answers 7 to everything, so that it knows the first question of `sums` and no other."""
    folder = says(tiny_model("llama"), tmp_path / "says-7", "7")
    return ModelSpec(str(folder), sampling=Sampling(2), device="cpu", dtype="float32")


def round_of(spec: ModelSpec, folder: Path, **settings: Any) -> dict[str, Any]:
    data = folder.parent / "sums.jsonl"
    sums(data, 4)
    return sample_round([data], folder, MATH, spec, OnPolicy(rounds=1, **settings))


def passes(summary: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    return [
        tuple(each[key] for key in ("tool_choice", "samples", "questions", "solved"))
        for each in summary["passes"]
    ]  # type: ignore[misc]


def test_questions_without_a_target_get_twice_as_many_samples_up_to_the_maximum(
    seven: ModelSpec, tmp_path: Path
) -> None:
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=7)
    assert passes(summary) == [("auto", 2, 4, 1), ("auto", 2, 3, 0), ("auto", 3, 3, 0)]
    assert (summary["solved"], summary["new"], summary["responses"]) == (1, 1, 8 + 6 + 9)
    assert (summary["right"], summary["called"], summary["distinct"]) == (0.25, 0, 1)
    assert summary["targets"] == {"called": 0, "answered": 1}
    (row,) = read(tmp_path / "round/ranked.json")
    assert (row["id"], row["candidates"][0]["response"], row["candidates"][0]["count"]) == ("S_0", "7", 2)


def test_an_answer_that_the_length_limit_ends_is_not_imitated(seven: ModelSpec, tmp_path: Path) -> None:
    one_token = replace(seven, sampling=Sampling(1))  # "7", without the end token
    with pytest.raises(InputError, match="no question has a response to learn from"):
        round_of(one_token, tmp_path / "round", samples=2, max_samples=2)
    rows = read(tmp_path / "round/results-1.json")
    assert [row["correct"] for row in rows if row["id"] == "S_0"] == [True, True]
    assert all(row["truncated"] for row in rows)


def test_a_question_is_trained_on_with_the_instruction_that_it_was_asked_with(
    seven: ModelSpec, tmp_path: Path
) -> None:
    round_of(seven, tmp_path / "round", samples=2, max_samples=2)
    (row,), (asked, *_) = read(tmp_path / "round/ranked.json"), read(tmp_path / "round/samples-1.json")
    assert row["instruction"] == asked["instruction"] == MATH.of(Question(id="-", input="-")).instruction


def test_the_budget_bounds_a_round(seven: ModelSpec, tmp_path: Path) -> None:
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=32, budget=15)
    assert passes(summary) == [("auto", 2, 4, 1), ("auto", 2, 3, 0)]  # 14 of 15; a third pass needs 4


def test_shares_are_of_the_questions_that_the_budget_suffices_for(seven: ModelSpec, tmp_path: Path) -> None:
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=2, budget=7, arms=2)
    assert passes(summary) == [("auto", 2, 3, 1)]
    assert (summary["distinct"], summary["right"]) == (1, 1 / 3)


def test_after_arms_that_the_budget_did_not_suffice_for_only_unsolved_questions_are_asked(
    seven: ModelSpec, tmp_path: Path
) -> None:
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=4, budget=14, arms=7)
    assert passes(summary) == [("auto", 2, 4, 1), ("auto", 2, 3, 0)]
    assert "S_0" not in {row["id"] for row in read(tmp_path / "round/questions-4.json")}


def test_both_arms_ask_the_same_questions_if_the_budget_does_not_suffice_for_all(
    seven: ModelSpec, tmp_path: Path
) -> None:
    """8 of 13 are spent on the first samples, and 5 are left: 2 questions without and with a call."""
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=2, budget=13, arms=1)
    assert [each[:3] for each in passes(summary)] == [("auto", 2, 4), ("none", 1, 2), ("required", 1, 2)]
    without, called = (read(tmp_path / f"round/questions-{number}.json") for number in (2, 3))
    assert [row["id"] for row in without] == [row["id"] for row in called]


def test_questions_without_tools_have_no_arms(seven: ModelSpec, tmp_path: Path) -> None:
    data = sums(tmp_path / "sums.jsonl", 2)
    plain = Tasks(Task("plain", "Answer.", answers="numbers"))
    summary = sample_round(
        [data], tmp_path / "round", plain, seven, OnPolicy(rounds=1, samples=2, max_samples=2, arms=1)
    )
    assert passes(summary) == [("auto", 2, 2, 1)]
    assert summary["call_gain"] is None
    assert describe_round(summary).endswith("are right and 0% call")


def test_arms_are_drawn_for_every_question_with_both_tool_choices(seven: ModelSpec, tmp_path: Path) -> None:
    summary = round_of(seven, tmp_path / "round", samples=2, max_samples=2, arms=1)
    assert passes(summary) == [("auto", 2, 4, 1), ("none", 1, 4, 1), ("required", 1, 4, 1)]
    assert all(row["response"].startswith("calculator(") for row in read(tmp_path / "round/samples-3.json"))
    # One of the four answers is right; the calls are wrong and cost 0.1 each: -0.1 - 1/4.
    assert summary["call_gain"] == pytest.approx(-0.35)
    assert describe_round(summary).endswith("; a call changes the mean reward by -0.35")


def test_labels_are_trained_on_again_unless_their_question_is_solved(
    seven: ModelSpec, tmp_path: Path
) -> None:
    """Questions of two files may have the same ids, so their texts are compared."""
    data = sums(tmp_path / "sums.jsonl", 2)
    asked = read(data)[0]["question"]
    rows = [
        {"instruction": "Compute.", "input": text, "output": "calculator(1+7)", "id": id}
        for id, text in (("S_0", asked), ("S_0", "another question of this id"), ("T_1", asked))
    ]
    labels = write(tmp_path / "labels.json", rows)
    settings = OnPolicy(rounds=1, samples=2, max_samples=2)
    sample_round([data], tmp_path / "round", MATH, seven, settings, labels=labels)
    found = read(tmp_path / "round/ranked.json")
    assert [(row["input"], row["candidates"][0]["origin"]) for row in found] == [
        (asked, "policy"),
        ("another question of this id", "gold"),
    ]


def test_a_solved_question_is_kept_if_a_label_of_another_file_has_its_id(
    seven: ModelSpec, tmp_path: Path
) -> None:
    label = {"instruction": "Compute.", "input": "Another?", "output": "calculator(1+7)", "id": "S_0"}
    labels, data = write(tmp_path / "labels.json", [label]), sums(tmp_path / "sums.jsonl", 2)
    settings, earlier = OnPolicy(rounds=1, samples=2, max_samples=2), tmp_path / "round-1/ranked.json"
    sample_round([data], earlier.parent, MATH, seven, settings, labels=labels)
    summary = sample_round(
        [data], tmp_path / "round-2", MATH, seven, settings, earlier=earlier, labels=labels
    )
    assert (summary["solved"], summary["new"]) == (1, 0)


def test_a_round_that_is_repeated_draws_nothing_again_and_gives_the_same_bytes(
    seven: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = round_of(seven, tmp_path / "round", samples=2, max_samples=4)
    before = (tmp_path / "round/ranked.json").read_bytes()
    (tmp_path / "round/ranked.json").unlink()

    def refuse(spec: ModelSpec) -> Any:
        raise AssertionError("the model is loaded again")

    monkeypatch.setattr(on_policy, "open_engine", refuse)
    assert round_of(seven, tmp_path / "round", samples=2, max_samples=4) == first
    assert (tmp_path / "round/ranked.json").read_bytes() == before


def test_what_a_tool_returned_is_read_greedily_and_once(
    seven: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_with: list[Sampling] = []
    tasks = Tasks("math", answer_from_result=True)
    generate = grading.generate

    def recorded(data: Path, output: Path, tasks: Tasks, spec: ModelSpec, **options: Any) -> list[Response]:
        read_with.append(spec.sampling)
        return generate(data, output, tasks, spec, **options)

    def calls(data: Path, *_: object, **options: Any) -> list[Response]:
        fields = {"response": "calculator(0+7)", "origin": options["origin"]}
        return [Response.model_validate(row | fields) for row in read(data)]

    monkeypatch.setattr(grading, "generate", recorded)
    monkeypatch.setattr(on_policy, "generate", calls)
    settings = OnPolicy(rounds=1, samples=1, max_samples=1)
    data = sums(tmp_path / "sums.jsonl", 4)
    first = sample_round([data], tmp_path / "round", tasks, seven, settings)
    assert [each.temperature for each in read_with] == [0]

    def refuse(spec: ModelSpec) -> Any:
        raise AssertionError("the model is loaded again")

    monkeypatch.setattr(on_policy, "open_engine", refuse)
    assert sample_round([data], tmp_path / "round", tasks, seven, settings) == first


def test_nothing_to_learn_from_is_an_error_that_says_what_to_do(seven: ModelSpec, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    sums(data, 2, answer=lambda i: str(i + 1000))
    with pytest.raises(
        InputError, match="no question has a response to learn from among 4: one with a reward above 0"
    ):
        sample_round([data], tmp_path / "round", MATH, seven, OnPolicy(rounds=1, samples=2, max_samples=4))


def test_a_collapse_is_noticed(seven: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    round_of(seven, tmp_path / "round", samples=2, max_samples=2)
    assert "nearly the same response in all samples" in capsys.readouterr().err
    now = {"samples": 1, "distinct": 1, "malformed": 0.6, "called": 1.0}
    on_policy.notice_collapse(now, {"called": 0.5})
    shown = capsys.readouterr().err
    assert "60% of the responses are malformed" in shown
    assert "share of calls went from 50% to 100%" in shown


def test_without_ranking_only_the_target_is_trained_on(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    from trice.formats.prompt import load_template
    from trice.training.rlef import examples
    from trice.training.settings import Rlef

    found = samples(("calculator(3)", False), ("calculator(10-5)", True), ("calculator(5)", True))
    found.choose()
    row = found.group()
    assert row
    data = write(tmp_path / "ranked.json", [row.model_dump(mode="json", exclude_none=True)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    (ranked,), (best,) = (
        examples(data, load_template(), settings=Rlef(alpha=alpha))(tokenizer) for alpha in (1, 0)
    )
    assert ranked.rewards == [-0.1, 0.9, 0.9]
    assert (best.rewards, best.responses) == ([0.9], ranked.responses[1:2])


def test_the_worth_of_both_decisions_is_known_if_both_were_sampled(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    from trice.formats.prompt import load_template
    from trice.training.rlef import examples
    from trice.training.settings import Rlef

    found = samples(("calculator(3)", False), ("calculator(5)", True), ("6", False))
    found.choose()
    row = found.solution(None)
    assert row
    assert (row.call_value, row.answer_value) == (pytest.approx(0.4), 0)  # (0.9 − 0.1) / 2
    alone = samples(("calculator(5)", True))
    alone.choose()
    other = alone.solution(None)
    assert other
    assert (other.call_value, other.answer_value) == (0.9, None)
    rows = [
        each.model_dump(mode="json", exclude_none=True) | {"id": i}
        for i, each in zip("ab", (row, other), strict=True)
    ]
    data = write(tmp_path / "ranked.json", rows)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    both, one = examples(data, load_template(), tasks=MATH, settings=Rlef(utility=1))(tokenizer)
    assert both.utility == (pytest.approx(0.4), 0)
    assert len(both.responses) == len(both.rewards) + 1
    assert tokenizer.decode(both.responses[-1].ids).strip() == "calculator"
    assert (one.utility, len(one.responses)) == (None, len(one.rewards))
    data = write(tmp_path / "calls.json", rows[1:])
    with pytest.raises(
        InputError, match="no row has both 'call_value' and 'answer_value', which 'utility' needs"
    ):
        examples(data, load_template(), tasks=MATH, settings=Rlef(utility=1))(tokenizer)


def test_a_name_that_continues_another_name_is_not_counted_twice(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """P(`add` or `add_up` or `halve`) is P(`add`) + P(`halve`), because what begins with `add_up` begins with `add`."""
    from transformers import AutoTokenizer

    from trice.formats.prompt import load_template
    from trice.training.rlef import examples
    from trice.training.settings import Rlef

    def add(value: float) -> float:
        """Add one."""
        return value + 1

    def add_up(value: float) -> float:
        """Add two."""
        return value + 2

    def halve(value: float) -> float:
        """Halve."""
        return value / 2

    tasks = Tasks(Task("sums", instruction="Compute.", tools=[add_up, add, halve]))
    candidates = [{"response": "6", "reward": 0.0}, {"response": "add(4)", "reward": 0.9}]
    row = {"id": "a", "dataset": "d", "instruction": "Compute.", "input": "4 + 1", "answer": "5"}
    row |= {"candidates": candidates, "call_value": 0.9, "answer_value": 0.0}
    data = write(tmp_path / "ranked.json", [row])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    (made,) = examples(data, load_template(), tasks=tasks, settings=Rlef(utility=1))(tokenizer)
    openings = made.responses[len(made.rewards) :]
    assert [tokenizer.decode(each.ids).strip() for each in openings] == ["add", "halve"]


def test_an_unsolved_question_teaches_only_its_decision(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Wrong either way, a call costs 0.1 and an answer nothing: there is no response to imitate, but a decision."""
    from transformers import AutoTokenizer

    from trice.formats.prompt import load_template
    from trice.training.rlef import examples
    from trice.training.settings import Rlef

    unsolved = samples(("calculator(3)", False), ("6", False), ("7", False))
    assert unsolved.choose() is None
    row = unsolved.decision()
    assert row
    assert (row.candidates, row.call_value, row.answer_value) == ([], pytest.approx(-0.1), 0)
    for known_in_part in (samples(("6", False)), samples(("calculator(3)", False), ("6", False), cost=0)):
        assert known_in_part.decision() is None  # no call was sampled; both are worth the same

    data = write(tmp_path / "ranked.json", [row.model_dump(mode="json", exclude_none=True)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    (example,) = examples(data, load_template(), tasks=MATH, settings=Rlef(utility=1))(tokenizer)
    assert (example.rewards, example.utility) == ([], (pytest.approx(-0.1), 0))
    assert [tokenizer.decode(each.ids).strip() for each in example.responses] == ["calculator"]
    assert examples(data, load_template(), tasks=MATH)(tokenizer) == []


def test_a_question_needs_responses_or_the_values_of_both_decisions() -> None:
    with pytest.raises(ValueError, match="has no response, and not the values of both decisions either"):
        Candidates(input="Why?", candidates=[], call_value=0.5)


def test_a_policy_gradient_gets_all_free_responses_with_their_counts() -> None:
    found = samples(("calculator(3)", False), ("calculator(5)", True), ("calculator(3)", False))
    found.add(found.rows[1], "required")
    found.choose()
    group = found.group()
    assert group
    assert [(each.response, each.reward, each.count) for each in group.candidates] == [
        ("calculator(3)", -0.1, 2),
        ("calculator(5)", 0.9, 1),
    ]
    assert [each.target for each in group.candidates] == [False, True]
    assert (group.call_value, group.answer_value) == (pytest.approx(0.4), None)  # of all, also of the arm
    assert samples(("calculator(3)", False), ("calculator(4)", False)).group() is None  # equal rewards


def test_a_response_counts_for_the_tool_choice_that_it_was_drawn_with() -> None:
    """Unfinished reasoning is malformed and calls nothing: of the arm `none` it is an answer that failed, of the arm
    `required` a call, and where the policy decided it counts as a call."""
    right, broken = (
        Response(id="q", input="2 + 3?", answer="5", response=text, outcome=outcome, correct=correct)
        for text, outcome, correct in (("5", "answered", True), ("<think> 2 +", "malformed", False))
    )
    found = Samples(MATH, Question(id="q", input="2 + 3?", answer="5"), execution(0.1))
    for row in (right, broken, broken):
        found.add(row, "none")
    assert found.values() == (None, pytest.approx((1 - 0.1 - 0.1) / 3))
    found.add(broken, "required")
    assert found.values() == (pytest.approx(-0.1), pytest.approx(0.8 / 3))


def test_a_policy_gradient_does_not_teach_to_stop_where_the_length_limit_did(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    from trice.formats.prompt import load_template
    from trice.training.rlef import examples
    from trice.training.settings import Rlef

    found = samples(("calculator(3)", False), ("5", True), ("5 is", True))
    found.rows[2].truncated = True
    group = found.group()
    assert group
    data = write(tmp_path / "ranked.json", [group.model_dump(mode="json", exclude_none=True)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))

    def ended(objective: str) -> list[bool]:
        settings = Rlef.model_validate({"objective": objective})
        (example,) = examples(data, load_template(), tasks=MATH, settings=settings)(tokenizer)
        return [each.ids[-1] == tokenizer.eos_token_id for each in example.responses]

    assert ended("reinforce") == [True, True, False]
    assert ended("rank") == [True, True, True]


def test_a_question_that_is_solved_in_every_round_is_new_once(seven: ModelSpec, tmp_path: Path) -> None:
    """A policy gradient learns nothing from a question whose responses are all right, which is not to be forgotten."""
    plain = Tasks(Task("plain", "Answer.", answers="numbers"))
    settings = OnPolicy(rounds=2, objective="grpo", samples=6, max_samples=6)

    def reward(question: Question, response: Response) -> float:
        return 1.0 if question.id == "S_0" else len(response.response) % 3 + 0.5

    def drawn(number: int, earlier: Path | None) -> dict[str, Any]:
        return sample_round(
            [sums(tmp_path / "sums.jsonl", 3)], tmp_path / f"round-{number}", plain, seven, settings,
            reward=from_function(reward, "reward"), earlier=earlier,
        )  # fmt: skip

    before = drawn(1, None)
    assert "S_0" in {id for _, id in before["solved_keys"]}
    assert before["new"] == before["solved"] > 0
    after = drawn(2, tmp_path / "round-1/ranked.json")
    assert (after["solved"], after["new"]) == (before["solved"], 0)


def test_a_round_for_a_policy_gradient_keeps_wrong_responses_too(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = ModelSpec(str(tiny_model("llama")), sampling=Sampling(3), device="cpu", dtype="float32")
    data = tmp_path / "sums.jsonl"
    sums(data, 3)

    def by_length(question: Question, response: Response) -> float:
        return float(len(response.response) % 3)

    settings = OnPolicy(rounds=1, objective="grpo", samples=6, max_samples=6)
    summary = sample_round(
        [data], tmp_path / "round", MATH, spec, settings,
        reward=from_function(by_length, "by_length"),
    )  # fmt: skip
    rows = read(tmp_path / "round/ranked.json")
    assert rows
    for row in rows:
        assert sum(each["count"] for each in row["candidates"]) == 6
        assert len({each["reward"] for each in row["candidates"]}) > 1
        assert all(each["reward"] == len(each["response"]) % 3 for each in row["candidates"])
    assert summary["responses"] == 18
