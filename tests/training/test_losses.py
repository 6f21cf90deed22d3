"""The objectives against numbers worked out by hand, and against the plain computation in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import read_settings
from trice import TriceConfig
from trice.errors import InputError
from trice.recipes.recipe import load_recipe
from trice.training.losses import expected_utility, ranking, sequence_scores
from trice.training.settings import OnPolicy, RankingObjective, Rlef

NAMES: tuple[RankingObjective, ...] = get_args(RankingObjective)
POLICY_GRADIENTS: tuple[RankingObjective, ...] = ("grpo", "reinforce")
RANKINGS = tuple(name for name in NAMES if name not in POLICY_GRADIENTS)


def ranked(
    scores: list[list[float]],
    rewards: list[list[float]],
    real: list[list[int]] | None = None,
    *,
    objective: RankingObjective = "rank",
    reference: list[list[float]] | None = None,
    margin: float = 0.0,
    beta: float = 0.1,
) -> list[list[float]]:
    """The loss, pairs and ordered pairs of each question."""
    scores_QK, rewards_QK = (torch.tensor(values, dtype=torch.float64) for values in (scores, rewards))
    real_QK = torch.tensor(real).bool() if real else torch.ones_like(scores_QK).bool()
    reference_QK = torch.tensor(reference, dtype=torch.float64) if reference else None
    parts = ranking(objective, scores_QK, rewards_QK, real_QK, reference_QK, margin=margin, beta=beta)
    return [[float(value) for value in part] for part in parts]


def test_all_five_reward_levels() -> None:
    # Best first. Wrong pairs: 15 below 10 by 1; 15 below 5 by 0.5; 10 above 5; 0 above 20 by 0.5, above 15 by
    # 2, above 10 by 1, above 5 by 1.5. Right: 20 over 15, 10, 5 and 10 over 5. (-1 -2.5 -1.5 -2 -0.5)
    loss, pairs, ordered = ranked([[-1.0, -2.5, -1.5, -2.0, -0.5]], [[20, 15, 10, 5, 0]])
    assert loss == [pytest.approx(1 + 0.5 + 0.5 + 2 + 1 + 1.5)]
    assert (pairs, ordered) == ([10], [4])


def test_equal_rewards_give_no_term() -> None:
    assert ranked([[-1.0, -9.0, -3.0]], [[15, 15, 15]]) == [[0], [0], [0]]
    # Only 20 against each of the two 10s: 4 − 1 where it is worse, none where it is better.
    assert ranked([[-4.0, -1.0, -9.0]], [[20, 10, 10]]) == [[3], [2], [1]]


def test_equal_scores_cost_nothing_and_are_not_ordered() -> None:
    assert ranked([[-2.0, -2.0]], [[20, 0]]) == [[0], [1], [0]]


def test_margin_also_charges_narrowly_ordered_pairs() -> None:
    # 20 over 10 by 0.25 and over 0 by 2, 10 over 0 by 1.75; margin 0.5 charges the first 0.25.
    assert ranked([[-1.0, -1.25, -3.0]], [[20, 10, 0]], margin=0.5) == [[0.25], [3], [3]]
    assert ranked([[-2.0, -2.0]], [[20, 0]], margin=0.5) == [[0.5], [1], [0]]


def test_padded_candidates_do_not_exist() -> None:
    scores, rewards = [[-1.0, -3.0, 0.0], [-3.0, -1.0, -2.0]], [[20, 0, -5], [20, 15, 10]]
    loss, pairs, ordered = ranked(scores, rewards, [[1, 1, 0], [1, 1, 1]])
    assert loss == [0, 2 + 1]
    assert (pairs, ordered) == ([1, 3], [1, 1])


@given(
    st.lists(st.tuples(st.floats(-20, 0), st.sampled_from([20, 15, 10, 5, 0])), min_size=1, max_size=6),
    st.floats(0, 2),
    st.randoms(),
)
def test_rank_loss_is_the_double_loop_in_any_order(candidates: list, margin: float, random: object) -> None:
    expected = sum(
        max(0, p_i - p_j + margin) for p_i, r_i in candidates for p_j, r_j in candidates if r_i < r_j
    )
    random.shuffle(candidates)  # type: ignore[attr-defined]
    scores, rewards = zip(*candidates, strict=True)
    assert ranked([list(scores)], [list(rewards)], margin=margin)[0] == [pytest.approx(expected, abs=1e-9)]


def test_weighted_pairs_cost_their_difference_of_rewards() -> None:
    # The wrong pairs above: 1 · 5, 0.5 · 10, 0.5 · 20, 2 · 15, 1 · 10, 1.5 · 5.
    scores, rewards = [[-1.0, -2.5, -1.5, -2.0, -0.5]], [[20.0, 15, 10, 5, 0]]
    assert ranked(scores, rewards, objective="weighted") == [[5 + 5 + 10 + 30 + 10 + 7.5], [10], [4]]
    # Narrowly right by 0.25, margin 0.5, 20 over 10; the others are right by more.
    assert ranked([[-1.0, -1.25, -3]], [[20, 10, 0]], objective="weighted", margin=0.5)[0] == [2.5]


def test_dpo_ranks_shifts_against_the_reference() -> None:
    # Shifts log 3 and 0, β 1: odds of 3 for the better one, or against it.
    up, level, reference = math.log(3) - 7, -2.0, [[-7.0, -2.0]]
    right = ranked([[up, level]], [[20, 0]], objective="dpo", reference=reference, beta=1)
    wrong = ranked([[up, level]], [[0, 20]], objective="dpo", reference=reference, beta=1)
    assert right == [[pytest.approx(math.log(4 / 3))], [1], [1]]
    assert wrong == [[pytest.approx(math.log(4))], [1], [0]]
    # β 2: odds of 9. Three responses of two levels: two pairs, and none of the equal ones.
    twice = ranked([[up, level, up]], [[20, 0, 20]], objective="dpo", reference=[[-7.0, -2, -7]], beta=2)
    assert twice == [[pytest.approx(2 * math.log(10 / 9))], [2], [2]]


def test_dpo_starts_at_log_2_a_pair() -> None:
    scores = [[-3.0, -1.0, -20.0]]
    begun = ranked(scores, [[20, 10, 0]], objective="dpo", reference=scores)
    assert begun == [[pytest.approx(3 * math.log(2))], [3], [0]]


def test_dpo_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        ranked([[-1.0, -2.0]], [[20, 0]], objective="dpo")


@pytest.mark.parametrize(
    ("rewards", "chance", "pairs", "ordered"),
    [
        # Drawn in proportion to 1, 2 and 3. All unequal: 1/6 · 2/5, and 3/6 · 2/3 the other way round.
        ([20, 10, 0], 1 / 15, 3, 0),
        ([0, 10, 20], 1 / 3, 3, 3),
        # 1 and 2 before 3, either first: 1/6 · 2/5 + 2/6 · 1/4.
        ([20, 20, 0], 3 / 20, 2, 0),
        # 1 before 2 and 3; their order is nobody's.
        ([20, 0, 0], 1 / 6, 2, 0),
        ([20, 20, 20], 1, 0, 0),
    ],
)
def test_listwise_is_the_chance_of_the_order(
    rewards: list[float], chance: float, pairs: int, ordered: int
) -> None:
    scores = [[math.log(1), math.log(2), math.log(3)]]
    expected = [[pytest.approx(-math.log(chance), abs=1e-12)], [pairs], [ordered]]
    assert ranked(scores, [rewards], objective="listwise") == expected


@pytest.mark.parametrize(("level", "below"), [(1, 1), (1, 19), (19, 1), (10, 10), (50, 3)])
def test_listwise_with_large_levels(level: int, below: int) -> None:
    # Responses that are all as likely: each choice of the first `level` is one of (level + below over level).
    loss, _, _ = ranked([[-2.0] * (level + below)], [[20.0] * level + [0.0] * below], objective="listwise")
    assert loss == [pytest.approx(math.log(math.comb(level + below, level)), rel=1e-12)]


def plain(
    objective: RankingObjective, candidates: list[tuple[float, float, float]], margin: float, beta: float
) -> float:
    """The loss of (score, reward, reference) by its definition, with loops."""
    pairs = [(low, high) for low in candidates for high in candidates if low[1] < high[1]]
    if objective == "rank":
        return sum(max(0, p_i - p_j + margin) for (p_i, _, _), (p_j, _, _) in pairs)
    if objective == "weighted":
        return sum((r_j - r_i) * max(0, p_i - p_j + margin) for (p_i, r_i, _), (p_j, r_j, _) in pairs)
    if objective == "dpo":
        gaps = [beta * ((p_j - f_j) - (p_i - f_i)) for (p_i, _, f_i), (p_j, _, f_j) in pairs]
        return sum(-math.log(1 / (1 + math.exp(-gap))) for gap in gaps)
    chance = 0.0
    for order in itertools.permutations(candidates):
        if all(ahead[1] >= behind[1] for ahead, behind in itertools.pairwise(order)):
            weights = [math.exp(score) for score, _, _ in order]
            chance += math.prod(weight / sum(weights[place:]) for place, weight in enumerate(weights))
    return -math.log(chance)


NUMBERS = st.floats(-20, 0)


@pytest.mark.parametrize("objective", RANKINGS)
@given(
    st.lists(st.tuples(NUMBERS, st.sampled_from([20, 15, 10]), NUMBERS), min_size=1, max_size=6),
    st.floats(0, 2),
    st.floats(0.01, 2),
)
@settings(deadline=None)
def test_every_ranking_loss_is_its_definition(
    objective: RankingObjective, candidates: list, margin: float, beta: float
) -> None:
    scores, rewards, reference = ([list(values)] for values in zip(*candidates, strict=True))
    loss, pairs, ordered = ranked(
        scores, rewards, objective=objective, reference=reference, margin=margin, beta=beta
    )
    assert loss == [pytest.approx(plain(objective, candidates, margin, beta), rel=1e-9, abs=1e-9)]
    values = [p - f if objective == "dpo" else p for p, _, f in candidates]
    unequal = [
        (i, j) for i, low in enumerate(candidates) for j, high in enumerate(candidates) if low[1] < high[1]
    ]
    assert (pairs, ordered) == ([len(unequal)], [sum(values[i] < values[j] for i, j in unequal)])


def slopes(
    objective: RankingObjective, rewards: list[list[float]], real: list[list[int]] | None = None
) -> list[list[float]]:
    """The gradient of the loss with respect to each score, which a policy gradient does not take from the scores."""
    scores_QK = torch.randn(len(rewards), len(rewards[0]), dtype=torch.float64).mul(1e4).requires_grad_()
    real_QK = None if real is None else torch.tensor(real).bool()
    loss_Q = ranking(objective, scores_QK, torch.tensor(rewards, dtype=torch.float64), real_QK).loss_Q
    assert loss_Q.tolist() == [pytest.approx(0, abs=1e-9)] * len(rewards)
    (slope_QK,) = torch.autograd.grad(loss_Q.sum(), scores_QK)
    return slope_QK.tolist()


def test_reinforce_moves_by_the_difference_from_the_mean() -> None:
    # Means 2 and 3, without the missing candidate; −(r − mean) divided by the number of candidates.
    assert slopes("reinforce", [[3, 1, 2, 2], [5, 1, 9, 3]], [[1, 1, 1, 1], [1, 1, 0, 1]]) == [
        [-1 / 4, 1 / 4, 0, 0],
        [pytest.approx(-2 / 3), pytest.approx(2 / 3), 0, 0],
    ]


def test_a_lower_baseline_also_imitates_what_was_sampled() -> None:
    # Baselines 2 − 0.5 and 3 − 0.5; −(r − baseline) divided by the number of candidates. Equal rewards give nothing.
    rewards = [[3.0, 1, 2, 2], [5, 1, 9, 3], [4, 4, 4, 4]]
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    scores_QK = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    found = ranking("reinforce", scores_QK, torch.tensor(rewards).double(), real, baseline_offset=0.5)
    (slope_QK,) = torch.autograd.grad(found.loss_Q.sum(), scores_QK)
    assert slope_QK.tolist() == [
        [-1.5 / 4, 0.5 / 4, -0.5 / 4, -0.5 / 4],
        [pytest.approx(-2.5 / 3), pytest.approx(1.5 / 3), 0, pytest.approx(-0.5 / 3)],
        [0, 0, 0, 0],
    ]


def test_the_offset_of_the_baseline_is_for_reinforce() -> None:
    assert read_settings(Rlef, ["objective=reinforce", "baseline_offset=0.3"]).baseline_offset == 0.3
    with pytest.raises(
        InputError, match="'baseline_offset' does not apply to the objective 'grpo'; leave it out"
    ):
        read_settings(Rlef, ["objective=grpo", "baseline_offset=0.3"])


def test_grpo_divides_by_the_standard_deviation() -> None:
    # 3, 1, 2: mean 2 and unbiased deviation 1. 6, 0, 0: mean 2, squares 16 + 4 + 4 over 2 are 12.
    one, two = 1 / 1.0001, 1 / (math.sqrt(12) + 1e-4)
    first, second = slopes("grpo", [[3, 1, 2, 7], [6, 0, 0, 7]], [[1, 1, 1, 0], [1, 1, 1, 0]])
    assert first == pytest.approx([-one / 3, one / 3, 0, 0])
    assert second == pytest.approx([-4 * two / 3, 2 * two / 3, 2 * two / 3, 0])


@pytest.mark.parametrize("objective", POLICY_GRADIENTS)
def test_equal_rewards_move_nothing(objective: RankingObjective) -> None:
    # The mean of six times 0.1 is not 0.1 in floating point.
    assert slopes(objective, [[0.1] * 6, [0.7] * 6], [[1] * 6, [1] + [0] * 5]) == [[0] * 6] * 2


QUESTIONS = {  # levels of one, of two and of three; a question of one level, and ones with fewer candidates
    "rewards": [[20.0, 10, 10, 0], [5, 5, 5, 0], [20, 20, 20, 20], [0, 20, 0, 0]],
    "real": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]],
}


@pytest.mark.parametrize("objective", NAMES)
def test_questions_do_not_touch_each_other(objective: RankingObjective) -> None:
    draw = torch.Generator().manual_seed(3)
    scores, reference = torch.randn(2, 4, 4, generator=draw, dtype=torch.float64).mul(3).tolist()
    together = ranked(scores, **QUESTIONS, objective=objective, reference=reference, margin=0.5)
    for question, real in enumerate(QUESTIONS["real"]):
        own = slice(0, sum(real))
        alone = ranked(
            [scores[question][own]],
            [QUESTIONS["rewards"][question][own]],
            objective=objective,
            reference=[reference[question][own]],
            margin=0.5,
        )
        assert [part[question] for part in together] == [pytest.approx(part[0], rel=1e-12) for part in alone]


@pytest.mark.parametrize("objective", RANKINGS)
def test_gradients_of_every_ranking_loss(objective: RankingObjective) -> None:
    draw = torch.Generator().manual_seed(4)
    scores_QK, reference_QK = torch.randn(2, 4, 4, generator=draw, dtype=torch.float64).mul(5)
    rewards_QK, real_QK = torch.tensor(QUESTIONS["rewards"]).double(), torch.tensor(QUESTIONS["real"]).bool()

    def loss(scores_QK: torch.Tensor) -> torch.Tensor:
        return ranking(objective, scores_QK, rewards_QK, real_QK, reference_QK, margin=0.1, beta=0.5).loss_Q

    assert torch.autograd.gradcheck(loss, scores_QK.requires_grad_())
    (slope_QK,) = torch.autograd.grad(loss(scores_QK).sum(), scores_QK)
    assert not slope_QK[~real_QK].any()
    assert not slope_QK[2].any()  # one level: nothing to rank
    assert slope_QK[[0, 1, 3]].abs().sum(1).all()


@pytest.mark.parametrize("objective", RANKINGS)
@pytest.mark.parametrize("far", [1e4, 1e30])
def test_extreme_scores_stay_finite(objective: RankingObjective, far: float) -> None:
    # A question ranked as wrongly as can be, then one ranked rightly; in float32, as in training.
    scores_QK = torch.tensor([[-far, 0.0, -2.0], [0.0, -far, -far]], requires_grad=True)
    rewards_QK = torch.tensor([[20.0, 0, 0], [20, 0, 0]], dtype=torch.float64)
    loss_Q, _, ordered_Q = ranking(
        objective, scores_QK, rewards_QK, torch.ones(2, 3).bool(), torch.zeros(2, 3), beta=1.0
    )
    # Two pairs wrong by `far` (of weight 20 each), but in the list one response that comes last.
    expected = {"rank": 2 * far, "weighted": 40 * far, "dpo": 2 * far, "listwise": far}[objective]
    assert loss_Q.dtype == torch.float32
    assert loss_Q.tolist() == [pytest.approx(expected, rel=1e-3), 0]
    assert ordered_Q.tolist() == [0, 2]
    (slope_QK,) = torch.autograd.grad(loss_Q.sum(), scores_QK)
    assert slope_QK.isfinite().all()
    assert slope_QK[0, 0] < -0.99
    assert not slope_QK[1].any()


@pytest.mark.parametrize("objective", NAMES)
def test_no_pairs_no_gradient(objective: RankingObjective) -> None:
    scores_QK = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    parts = ranking(
        objective, scores_QK, torch.tensor([[20.0], [0.0]]), torch.ones(2, 1).bool(), scores_QK * 0
    )
    assert [part.tolist() for part in parts] == [[0, 0]] * 3
    (slope_QK,) = torch.autograd.grad(parts.loss_Q.sum(), scores_QK)
    assert not slope_QK.any()


@pytest.mark.parametrize(("loss_type", "length_penalty"), [("sigmoid", 0.0), ("sigmoid_norm", 1.0)])
def test_dpo_is_that_of_trl(
    loss_type: str, length_penalty: float, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """TRL's own trainer over the pairs of one question, against ours over its candidates."""
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from datasets import Dataset

    folder = tiny_model("llama")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    torch.manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    prompt, texts, rewards = "What is 1+2?", [" 3", " 12 apples", " calculator(1+2)", " 7"], [20, 0, 15, 0]
    pairs = [(i, j) for i, low in enumerate(rewards) for j, high in enumerate(rewards) if low < high]
    rows = [{"prompt": prompt, "chosen": texts[j], "rejected": texts[i]} for i, j in pairs]
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.3, loss_type=[loss_type], per_device_train_batch_size=len(rows),
        use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(policy.eval(), batch)
    (accuracy,) = trainer._metrics["eval"]["rewards/accuracies"]

    tokenizer = trainer.processing_class
    start = tokenizer(prompt)["input_ids"]
    responses = [
        [*tokenizer(prompt + text)["input_ids"][len(start) :], tokenizer.eos_token_id] for text in texts
    ]

    def scores(model: Any) -> torch.Tensor:
        parts = []
        for ids in responses:
            logps = model(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
            parts.append(logps[torch.arange(len(ids)), ids])
        number_N = torch.cat([torch.full((len(ids),), number) for number, ids in enumerate(responses)])
        return sequence_scores(torch.cat(parts), number_N, len(responses), length_penalty)[None]

    loss_Q, pairs_Q, ordered_Q = ranking(
        "dpo", scores(policy), torch.tensor([rewards]), torch.ones(1, 4).bool(), scores(reference), beta=0.3
    )
    assert int(pairs_Q) == len(rows) == 5
    assert float(loss_Q.detach()) / 5 == pytest.approx(
        float(theirs.detach()), rel=1e-5
    )  # theirs is the mean over pairs
    assert int(ordered_Q) / 5 == pytest.approx(accuracy)
    assert 0 < accuracy < 1


def test_dpo_sums_log_probabilities_unless_told_otherwise() -> None:
    assert Rlef().length_penalty == 1
    assert Rlef(objective="dpo").length_penalty == 0
    assert read_settings(Rlef, ["objective=dpo", "length_penalty=1"]).length_penalty == 1
    assert load_recipe("real-math", ["rlef.objective=dpo"]).rlef.length_penalty == 0


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(InputError, match=r"key 'objective': .*'listwise', 'grpo' or 'reinforce'"):
        read_settings(Rlef, ["objective=ppo"])


def test_a_policy_gradient_may_train_alone_but_something_must_train() -> None:
    settings = load_recipe("real-math", ["rlef.objective=grpo", "rlef.sft=0"]).rlef
    assert (settings.objective, settings.sft) == ("grpo", 0)
    assert Rlef(objective="grpo").length_penalty == 1
    with pytest.raises(InputError, match="'alpha', 'sft' and 'utility' are all 0"):
        read_settings(Rlef, ["alpha=0", "sft=0"])


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"alpha": 0, "sft": 0}, "'alpha', 'sft' and 'utility' are all 0"),
        ({"objective": "reinforec"}, "objective"),
        (
            {"objective": "grpo", "baseline_offset": 0.3},
            "'baseline_offset' does not apply to the objective 'grpo'",
        ),
        ({"objective": "reinforce", "margin": 0.1}, "'margin' does not apply to the objective 'reinforce'"),
        ({"batch_size": 0}, "batch_size"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": -1}, "length_penalty"),
    ],
)
def test_the_trainers_settings_are_checked_as_those_of_recipes(
    chosen: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        TriceConfig(**chosen)
    with pytest.raises(InputError, match=complaint):
        read_settings(
            Rlef, [f"{name}={'.nan' if value != value else value}" for name, value in chosen.items()]
        )


def test_dpo_is_defined_on_sums() -> None:
    assert (TriceConfig(objective="dpo").length_penalty, TriceConfig().length_penalty) == (0, 1)
    assert TriceConfig(objective="dpo", length_penalty=1.0).length_penalty == 1


def test_a_policy_gradient_learns_from_the_policys_own_distribution() -> None:
    with pytest.raises(
        InputError, match=r"'temperature' is 0.5, and the objective 'grpo' learns from samples"
    ):
        read_settings(OnPolicy, ["rounds=1", "objective=grpo", "temperature=0.5"])
    assert read_settings(OnPolicy, ["rounds=1", "temperature=0.5"]).temperature == 0.5


@pytest.mark.parametrize(
    ("length_penalty", "expected"),
    [(1.0, [-2.0, -3.0, -6.0, 0.0]), (0.0, [-4.0, -3.0, -18.0, 0.0]), (2.0, [-1.0, -3.0, -2.0, 0.0])],
)
def test_sequence_scores(length_penalty: float, expected: list[float]) -> None:
    # Response 0: −1 −3; 1: −3; 2: −4 −5 −9, interleaved; 3 has no token.
    logps_N = torch.tensor([-1.0, -4.0, -3.0, -3.0, -5.0, -9.0])
    response_N = torch.tensor([0, 2, 0, 1, 2, 2])
    assert sequence_scores(logps_N, response_N, 4, length_penalty).tolist() == expected


def test_the_expected_utility_is_that_of_the_decision_and_its_gradient_is_exact() -> None:
    """Two tools with probabilities 0.2 and 0.3: 0.5·0.9 + 0.5·0.1; d/d log p is p·(U_call − U_answer)."""
    opening = torch.tensor([[0.2, 0.3], [0.6, 0.5]]).log().requires_grad_()
    real = torch.tensor([[True, True], [True, False]])
    utility = expected_utility(opening, torch.tensor([[0.9, 0.1], [0.0, 1.0]]), real)
    assert utility.tolist() == pytest.approx([0.5, 0.4])
    utility.sum().backward()
    assert opening.grad is not None
    assert opening.grad.flatten().tolist() == pytest.approx([0.16, 0.24, -0.6, 0.0])
