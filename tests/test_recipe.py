"""Recipes: every key checked, overrides, and the recipes that ship."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from trice.errors import InputError
from trice.recipes.conditions import DEFAULT
from trice.recipes.recipe import dump_recipe, load_recipe

FOLDER = Path(str(resources.files("trice") / "recipes"))
SHIPPED = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in [*FOLDER.glob("*.yaml"), *FOLDER.glob("paper/*")]
)
SMALL = "name: own\nmodel: m\ndata: [{dataset: starter, train: 4}]\n"


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_fits_and_is_the_same_after_a_dump(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_stage_2_has_the_layers_of_stage_1_unless_it_is_given_others(own: str) -> None:
    assert load_recipe(own, ["clone.lora.r=32"]).rlef.lora.r == 32
    assert load_recipe(own, ["clone.lora.r=32", "rlef.lora.r=4"]).rlef.lora.r == 4
    assert load_recipe("real-math").rlef.lora == load_recipe("real-math").clone.lora


def test_rounds_have_defaults_of_their_own_which_a_recipe_may_change(own: str) -> None:
    rounds = load_recipe(own, ["rlef.rounds=2"]).rlef
    assert (rounds.num_train_epochs, rounds.batch_size, rounds.learning_rate, rounds.alpha) == (
        1,
        16,
        2e-4,
        0,
    )
    grpo = load_recipe(own, ["rlef.rounds=2", "rlef.objective=grpo"]).rlef
    assert (grpo.alpha, grpo.sft, grpo.replay, grpo.policy_gradient) == (1, 0, 0, True)
    offsets = [
        load_recipe(own, [*rounds, "rlef.objective=reinforce"]).rlef.baseline_offset
        for rounds in ([], ["rlef.rounds=2"])
    ]
    assert (grpo.baseline_offset, *offsets) == (0, 0, 0.3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            ["rlef.utility=1"],
            "'utility' needs the worth of both decisions, which rounds sample; set 'rounds'",
        ),
        (["rlef.rounds=1", "rlef.alpha=1"], "rounds do not rank"),
        (["rlef.rounds=1", "rlef.margin=1"], "rounds do not rank"),
        (["rlef.rounds=1", "rlef.objective=listwise"], "rounds do not rank"),
    ],
)
def test_settings_of_rounds_without_effect_are_refused(own: str, settings: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_recipe(own, settings)


def test_the_demo_and_the_papers_recipes_ship() -> None:
    assert {"demo", "paper/mix", "paper/offline"} <= set(SHIPPED)


def test_the_papers_recipes_ask_the_same_questions() -> None:
    mix, offline = load_recipe("paper/mix"), load_recipe("paper/offline")
    assert [(entry.dataset, entry.train, entry.test) for entry in mix.data] == [
        (entry.dataset, entry.train, entry.test) for entry in offline.data
    ]
    for key in ("task", "model", "template", "max_new_tokens", "split", "label", "clone"):
        assert getattr(mix, key) == getattr(offline, key), key  # so stage 1 is the same


def test_one_model_for_each_task_leaves_out_the_task_without_training_questions() -> None:
    parts = load_recipe("paper/mix", ["per_task=true"]).parts()
    tested = {part.task: {entry.dataset for entry in part.data if entry.train == 0} for part in parts}
    assert tested == {"math": {"MultiArith"}, "qa": set(), "lama": {"SQuAD"}, "mlqa": set()}


def test_defaults_are_the_papers(own: str) -> None:
    recipe = load_recipe(own)
    assert recipe.folder == Path("runs/own")
    assert (recipe.clone.num_train_epochs, recipe.clone.batch_size, recipe.clone.learning_rate) == (
        5,
        1024,
        1e-4,
    )
    assert (recipe.rlef.num_train_epochs, recipe.rlef.batch_size, recipe.rlef.alpha) == (2, 256, 1)
    assert (recipe.clone.lora.r, recipe.clone.lora.lora_alpha, recipe.clone.lora.lora_dropout) == (
        8,
        16,
        0.05,
    )
    assert recipe.clone.lora.target_modules is None  # q_proj and v_proj where the model has them
    assert recipe.score.reward == "paper"
    assert recipe.evaluate.conditions == list(DEFAULT)


def test_overrides_go_down_with_dots_and_are_yaml(own: str) -> None:
    recipe = load_recipe(
        own,
        [
            "clone.lora.r=4",
            "clone.lora.target_modules=[q_proj]",
            "rlef.learning_rate=5e-5",
            "evaluate={conditions: [zero-shot], seeds: [3, 4]}",
            "data=[{dataset: SVAMP}, {dataset: starter, test: 9}]",
            "title=a = b",
            "output=null",
            "split.few_shot=direct",
            "collect=[{origin: x, from: stage-1, tool_choice: required}]",
            "clone.lora.r=5",
        ],
    )
    assert (recipe.clone.lora.r, recipe.clone.lora.target_modules) == (5, ["q_proj"])
    assert recipe.rlef.learning_rate == 5e-5
    assert (recipe.evaluate.conditions, recipe.evaluate.seeds) == (["zero-shot"], [3, 4])
    assert [(entry.dataset, entry.test) for entry in recipe.data] == [("SVAMP", None), ("starter", 9)]
    assert (recipe.title, recipe.output, recipe.split.few_shot) == ("a = b", None, "direct")
    assert (recipe.collect[0].source, recipe.collect[0].tool_choice) == ("stage-1", "required")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("modle=m", "unknown key 'modle'; did you mean 'model'?"),
        ("clone.epochs=3", "unknown key 'clone.epochs'; did you mean 'num_train_epochs'?"),
        ("clone.lora.lora_alhpa=3", "unknown key 'clone.lora.lora_alhpa'; did you mean 'lora_alpha'?"),
        ("rlef.marjin=1", "unknown key 'rlef.marjin'; did you mean 'margin'?"),
        ("data=[{dataset: starter}, {dataset: SVAMP, trian: 3}]", "key 'data.1.trian'; did you mean 'train'?"),
        ("collect=[{origin: a, from: base, smaples: 2}]", "key 'collect.0.smaples'; did you mean 'samples'?"),
        ("label.endpoint={url: a, model: b, timout: 3}", "key 'label.endpoint.timout'; did you mean 'timeout'?"),
        ("xyzzy=1", "unknown key 'xyzzy'; choose one of calibrate, clone, collect, "),
        ("clone.num_train_epochs=many", "key 'clone.num_train_epochs': Input should be a valid number"),
        ("clone.lora.lora_dropout=1", "key 'clone.lora.lora_dropout': Input should be less than 1"),
        ("clone.max_steps=0", "key 'clone.max_steps': 0 steps train nothing"),
        (
            "collect=[{origin: a, from: endpoint, beams: 5, endpoint: {url: u, model: m}}]",
            "key 'collect.0': 'beams' does not apply to an endpoint; leave it out",
        ),
        ("clone=3", "key 'clone': Input should be a valid dictionary"),
        ("data=[]", "key 'data': List should have at least 1 item"),
        ("data=[{dataset: starter, train: -1}]", "key 'data.0.train': Input should be greater than or equal to 0"),
        ("data=[{dataset: starter, train: 0}]", "key 'data': every data set has train: 0; give one"),
        ("data=[{train: 4}]", "key 'data.0.dataset': Field required"),
        ("data=[{dataset: starter}, {dataset: starter}]", "key 'data': two entries are named 'starter', apart"),
        ("collect=[{origin: gold, from: base}]", "key 'collect': two entries are named 'gold', apart"),
        ("collect=[{origin: a, from: afar}]", "key 'collect.0.from': Input should be 'split', 'base'"),
        ("collect=[{origin: a, from: endpoint}]", "the key 'endpoint' with url and model belongs to"),
        ("collect=[{origin: a, from: base, endpoint: {url: u, model: m}}]", "give both or neither"),
        ("label.teacher=endpoint", "key 'label': teacher 'endpoint' needs the key 'endpoint'"),
        ("label.teacher=me", "key 'label.teacher': Input should be 'annotations', 'rule' or 'endpoint'"),
        ("evaluate.conditions=[zero]", "key 'evaluate.conditions.0': Input should be 'zero-shot'"),
        ("evaluate.seeds=[]", "key 'evaluate.seeds': List should have at least 1 item"),
        ("scale=0", "key 'scale': Input should be greater than 0"),
        # keys that have no effect
        ("data=[{dataset: starter}]", "key 'scale': multiplies 'train', which no data set has; set it"),
        ("workers=2", "key 'workers': does not apply to engine 'transformers'; leave it out, or use ray"),
        ("label={teacher: rule, retries: 3}", "key 'label.retries': does not apply to teacher 'rule'; leave it out"),
        ("label.prompt=a.json", "key 'label.prompt': does not apply to teacher 'annotations'"),
        ("split={samples: 1, known: 0.5}", "key 'split': temperature and known do not apply to samples=1"),
        ("collect=[{origin: a, from: base, top_k: 5}]", "'top_k' does not apply at temperature 0; set"),
        ("collect=[{origin: a, from: base, samples: 5}]", "'samples' does not apply at temperature 0"),
        (
            "collect=[{origin: a, from: model, model: m, format: chat}]",
            "key 'collect': origin 'a' has the format chat, and the recipe paper; training needs candidates of one",
        ),
        (
            "collect=[{origin: a, from: endpoint, temperature: 1,"
            " endpoint: {url: u, model: m, send_temperature: false}}]",
            "'temperature' does not apply to an endpoint with send_temperature: false",
        ),
        ("rlef={objective: dpo, margin: 1}", "key 'rlef': 'margin' does not apply to the objective 'dpo'"),
        ("rlef.beta=1", "key 'rlef': 'beta' does not apply to the objective 'rank'; leave it out, or use dpo"),
        ("model=", "key 'model': Input should be a valid string"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_key(own: str, override: str, complaint: str) -> None:
    scale = ["scale=2"] if "'scale': multiplies" in complaint else []
    with pytest.raises(InputError) as caught:
        load_recipe(own, [override, *scale])
    assert str(caught.value).startswith(f"{own}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("clone.num_train_epochs", "'clone.num_train_epochs' is not an override; write key=value"),
        ("name.first=x", "'name.first=x': 'name' has a value and no keys"),
        ("data.7.train=4", "'data.7.train=4': there is no entry '7'"),
        ("title=[", "'title=[': the value is not valid YAML"),
    ],
)
def test_a_bad_override_is_named(own: str, override: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(own, [override])
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: [", "not YAML"),
        ("- a", "a recipe is a mapping of keys to values"),
        ("", "a recipe is a mapping of keys to values"),
        ("name: own\ndata: [{dataset: starter}]", "key 'model': Field required"),
        ("name: own\nname: own\nmodel: m", "key 'data': Field required"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"^nowhere\.yaml: no such file"):
        load_recipe("nowhere.yaml")
    with pytest.raises(
        InputError, match=r"^dmo: neither a file nor a shipped recipe; did you mean 'demo'\?$"
    ):
        load_recipe("dmo")
    with pytest.raises(InputError, match=r"^papr: .*; did you mean 'paper/mix'\?$"):
        load_recipe("papr")
    with pytest.raises(
        InputError, match=r"^xyz: .*; choose one of demo, .*, paper/mix, paper/offline, .*search$"
    ):
        load_recipe("xyz")


def test_an_entry_of_a_list_is_changed_by_its_number_or_its_name(own: str) -> None:
    recipe = load_recipe("real-math", ["data.0.train=3", "data.SVAMP.test=4", "collect.sampled.samples=2"])
    assert [(entry.train, entry.test) for entry in recipe.data[:2]] == [(3, 266), (800, 4)]
    assert [origin.samples for origin in recipe.collect] == [1, 1, 2]
    with pytest.raises(InputError, match="there is no entry 'nosuch'; give its number from 0, or its name"):
        load_recipe("demo", ["data.nosuch.train=3"])
    with pytest.raises(InputError, match="'data' is a list; name an entry's key"):
        load_recipe("demo", ["data.0=3"])


def test_data_may_be_a_name_or_a_file(own: str) -> None:
    recipe = load_recipe(own, ["data=[starter, my questions.csv.gz, {file: b.jsonl, dataset: mine}]"])
    assert [entry.dataset for entry in recipe.data] == ["starter", "my-questions", "mine"]
    assert [entry.file for entry in recipe.data] == [None, Path("my questions.csv.gz"), Path("b.jsonl")]
    assert load_recipe(own, ["data=starter"]).data[0].dataset == "starter"
