"""The report of a small run folder made by hand: its numbers, its words, and what strangers' text can do."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import graded, result, write

from trice.errors import InputError
from trice.report import summary, write_report

pytestmark = pytest.mark.usefixtures("undrawn")
SCRIPT = "<script>alert(1)</script>"


def conditions(run: Path) -> None:
    """Four questions: the base model is right on the first alone."""
    result(run, "zero-shot", *(graded(n, "answered", n == 0) for n in range(4)))
    result(run, "stage-1", *(graded(n, "called", n != 0) for n in range(3)), graded(3, "malformed", False))
    seed = [graded(n, "called", True) for n in range(3)]
    result(run, "stage-1.seed1", *seed, graded(3, "answered", False))
    result(run, "both", *(graded(n, "called", True) for n in range(4)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    conditions(folder)
    steps = [{"name": "split", "seconds": 75, "peak_memory_mb": 2400.4}, {"name": "clone", "seconds": 3600}]
    info = {
        "trice": "0.1.0",
        "title": "A small run",
        "model": "gemma-3-270m",
        "licences": {"gemma": "Gemma Terms, https://ai.google.dev/gemma/terms"},
        "versions": {"torch": "2.13.0"},
        "seed": 3,
        "hardware": {"cpu": "a CPU", "cores": 2, "memory_gb": 24},
        "steps": steps,
    }
    write(folder / "run.json", info)
    (folder / "recipe.yaml").write_text("seed: 3\n# ``` in a comment\n")
    write(folder / "data/raw/math/ASDiv_right.json")
    write(folder / "data/raw/math/ASDiv_wrong.json", {"id": "1"}, {"id": "2"})
    write(
        folder / "data/stage1/math/ASDiv_wrong_yield.json",
        {"kept": 1, "total": 2, "reasons": {"wrong answer": 1}},
    )
    ranked = {"query": "i\nq", "responses": ["a", "b"], "origin": ["gold", "base"], "scores": [20, 5]}
    write(folder / "data/stage2/math/math.json", ranked)
    write(folder / "models/stage-1/log.jsonl", {"step": 1, "loss": 1.5}, {"step": 2, "loss": 0.5})
    numbers = {"loss": 1.2, "rank_loss": 0.3, "sft_loss": 0.9, "ordered": 0.75}
    write(folder / "models/both/log.jsonl", {"step": 10, **numbers})
    return folder


def written(run: Path) -> tuple[str, str, dict[str, dict]]:
    page = write_report([run]).read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return page, (run / "report.md").read_text(encoding="utf-8"), results


def words(page: str) -> str:
    """The page's text without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_results_json_holds_the_measures(run: Path) -> None:
    _, _, results = written(run)
    found = results["conditions"]
    assert list(found) == ["zero-shot", "stage-1", "both"]
    assert list(found["both"]) == ["ASDiv", "total"]
    base = found["zero-shot"]["ASDiv"]
    assert base["accuracy"] == {"count": 1, "total": 4, "value": 0.25, "low": 0.045587, "high": 0.699358}
    assert base["need"]["count"] == 3
    # stage 1: the first seed has 2 right, the second 3; over-use: both seeds call on the unneeded question.
    stage_1 = found["stage-1"]["total"]
    assert (stage_1["accuracy"]["count"], stage_1["accuracy"]["total"]) == (2.5, 4)
    assert stage_1["malformed"]["value"] == 0.125
    assert stage_1["over_use"]["value"] == 1
    assert stage_1["harmful_use"]["value"] == 0.5
    assert stage_1["under_use"]["count"] == 0.5
    assert results["seeds"]["stage-1"]["stage-1.seed1"]["ASDiv"]["accuracy"]["value"] == 0.75
    assert results["need"]["math"]["value"] == 0.75
    assert results["split"] == {"ASDiv": {"right": 0, "wrong": 2}}
    assert results["yields"]["ASDiv"] == {"kept": 1, "total": 2, "reasons": {"wrong answer": 1}}
    assert results["steps"][0] == {"name": "split", "seconds": 75.0, "peak_memory_mb": 2400.4}


def test_the_comparison_is_paired_over_the_mean_of_seeds(run: Path) -> None:
    _, _, results = written(run)
    # both − mean of the seeds of stage 1: 0.5, 0, 0, 1: mean 0.375, s = 0.478714, half = z · s/2 = 0.469129
    found = results["comparison"]["both - stage-1"]["total"]
    assert found == {"delta": 0.375, "low": -0.094131, "high": 0.844131, "by_seed": []}


def test_page_and_markdown_say_what_the_numbers_say(run: Path) -> None:
    page, text, _ = written(run)
    for shown in (words(page), text):
        assert "A small run" in shown
        assert "After training, the model answers 100% of 4 test questions right, up from 25%" in shown
        assert "+37.5 points (−9.4 to +84.4). This difference cannot be told from noise." in shown
        assert "another model, 26 times larger" in shown
        assert "1 min 15 s" in shown
        assert "1 h 1 min" in shown
        assert "2,400 MB" in shown
    assert "| both | **100.0** (51.0 to 100.0) |" in text
    assert "| zero-shot | 25.0 (4.6 to 69.9) |" in text
    assert "| Vicuna-7B, zero-shot | 50.4 |" in text
    assert "````yaml\nseed: 3\n# ``` in a comment\n````" in text  # a fence that its content cannot close
    assert "# ``` in a comment" in page


def test_a_difference_beyond_noise_is_claimed(run: Path) -> None:
    result(run, "stage-1", *(graded(n, "called", n == 3) for n in range(40)))
    result(run, "both", *(graded(n, "called", n < 20) for n in range(40)))
    result(run, "zero-shot", *(graded(n, "answered", False) for n in range(40)))
    (run / "data/dev/math/math_stage-1.seed1_result.json").unlink()
    page, _, _ = written(run)
    assert "Both stages are better than stage 1 alone by +47.5 points" in words(page)
    assert "On math the base model, without the tool, is wrong on 100.0% of the questions" in words(page)
    assert "in how to call the tool, not in when" in words(page)


def test_a_seed_that_goes_the_other_way_forbids_the_claim(run: Path) -> None:
    def right(condition: str, first: int) -> None:
        result(run, condition, *(graded(n, "called", n < first) for n in range(100)))

    for condition, first in {"stage-1": 10, "both": 80, "stage-1.seed1": 40, "both.seed1": 39}.items():
        right(condition, first)
    result(run, "zero-shot", *(graded(n, "answered", n < 50) for n in range(100)))
    page, _, results = written(run)
    found = results["comparison"]["both - stage-1"]["total"]
    assert found["by_seed"] == [0.7, -0.01]
    assert found["low"] > 0
    assert "cannot be told from noise. Seed by seed: +70.0, −1.0." in words(page)


def test_other_conditions_come_last_and_no_note_is_made_where_the_need_is_not_extreme(run: Path) -> None:
    result(run, "both.alpha0.1", *(graded(n, "called", True) for n in range(4)))
    page, _, results = written(run)
    assert list(results["conditions"])[-1] == "both.alpha0.1"
    assert "nearly always" not in page


@pytest.mark.drawn
def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    def files() -> list[bytes]:
        write_report([run])
        return [(run / name).read_bytes() for name in ("report.html", "report.md", "results.json")]

    assert files() == files()


PARTS = {
    "run.json": "| hardware | a CPU, 2 cores, 24 GB of memory |",
    "recipe.yaml": "yaml\nseed: 3",
    "data/raw": "| ASDiv | 0 | 2 | 100.0 |",
    "data/stage1": "| ASDiv | 1 (50.0%) | 2 | 1 |",
    "data/stage2": "| gold | 1 | 20.00 |",
    "data/dev": "## Accuracy",
    "data/dev/math/math_zero-shot_result.json": "| stage-1 | 100.0 (20.7 to 100.0; 1 of 1) |",
    "models": "## Training",
}


def test_a_whole_run_shows_every_part(run: Path) -> None:
    _, text, _ = written(run)
    assert [part for part, shown in PARTS.items() if shown not in text] == []


@pytest.mark.parametrize("missing", PARTS)
def test_a_partial_run_leaves_that_part_out(run: Path, missing: str) -> None:
    (run / missing).rename(run.parent / "away")
    page, text, _ = written(run)
    assert PARTS[missing] not in text
    assert page.endswith("</html>")


def test_an_empty_folder_says_that_nothing_is_evaluated(tmp_path: Path) -> None:
    page, _, results = written(tmp_path)
    assert "No condition of the loop has been evaluated yet." in page
    assert results["conditions"] == {}
    assert summary(tmp_path) == "nothing evaluated yet"


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.mark.drawn
def test_the_page_asks_for_nothing_from_outside(run: Path) -> None:
    page, _, _ = written(run)
    seen = Elements(page).seen
    assert not {tag for tag, _ in seen} & {"link", "img", "iframe", "object", "embed"}
    outside = [
        (tag, value)
        for tag, attributes in seen
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
    ]
    assert outside == [("a", "https://ai.google.dev/gemma/terms")]  # a link to follow, in the licences
    assert "url(http" not in page
    assert "@import" not in page
    ids = [attributes["id"] for _, attributes in seen if "id" in attributes]
    assert all(name in ids for name in re.findall(r'href="#([^"]+)"', page))


@pytest.mark.drawn
def test_text_from_strangers_is_shown_and_never_obeyed(run: Path) -> None:
    nasty = f"{SCRIPT} | a *b* `c`\n</svg> \u202e \x00 $x_{{$"
    named = {"dataset": nasty, "input": nasty, "response": nasty, "reason": nasty}
    for condition in ("zero-shot", "stage-1", "both"):
        result(run, condition, *(graded(n, "called", condition != "stage-1", **named) for n in range(4)))
    (run / "data/dev/math/math_stage-1.seed1_result.json").unlink()
    result(run, f"x{SCRIPT.replace('/', '')}", graded(0, "answered", True, **named))
    (run / "recipe.yaml").write_text(SCRIPT)
    write(run / "data/stage1/math/ASDiv_wrong_yield.json", {"kept": 0, "total": 1, "reasons": {nasty: 1}})
    ranked = {"query": "q", "responses": ["a", "b"], "origin": [nasty, "base"], "scores": [20, 5]}
    write(run / "data/stage2/math/math.json", ranked)
    write(
        run / "run.json",
        {"title": nasty, "model": nasty, "licences": {nasty: f"javascript:alert(1) {nasty}"}},
    )
    page, text, _ = written(run)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "javascript:" not in re.findall(r'href="([^"]*)"', page)
    assert "\u202e" not in page + text
    assert "\x00" not in page + text
    outside_code = re.sub(r"^(`{3,})yaml\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code
    for block in re.findall(r"(?:^\|.*\n)+", outside_code, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_megabyte_of_response_is_cut(run: Path) -> None:
    result(run, "both", *(graded(n, "answered", False, response="x" * 1_000_000) for n in range(4)))
    page, text, _ = written(run)
    assert "x" * 250 in page
    assert "x" * 3_000 not in page
    assert "x" * 300 not in text
    assert len(page) < 300_000


def test_markdown_shows_a_few_cases(run: Path) -> None:
    _, text, _ = written(run)
    # The one question that was right, and wrong after stage 1; then those on which calling was learned.
    asked = re.findall(r"What is (\d) \+ 1\? — gold: 7 \(ASDiv\)", text)
    assert sorted(asked) == ["0", "1", "2", "3"]
    assert "| stage-1 | r0 | 8 | wrong (called) |" in text
    assert "| stage-1 | r3 | – | wrong (malformed) |" in text


def test_summary_is_a_line_a_condition_and_data_set(run: Path) -> None:
    lines = [line.split() for line in summary(run).splitlines()]
    assert lines[1] == ["zero-shot", "ASDiv", "4", "25.0", "±", "32.7", "0.0", "0.0"]
    assert lines[2][:4] == ["stage-1", "ASDiv", "4", "62.5"]
    assert lines[2][-2:] == ["75.0", "12.5"]
    assert len(lines) == 4


def test_a_bad_file_is_named(run: Path) -> None:
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not a JSON object"):
        write_report([run])
    with pytest.raises(InputError, match="no such run folder"):
        write_report([run / "nowhere"])


def test_a_torn_last_line_of_a_log_is_left_out(run: Path) -> None:
    log = run / "models/both/log.jsonl"
    log.write_text(log.read_text() + '{"step": 20, "lo')
    _, text, _ = written(run)
    assert "| both | 10 | 1.2 | 0.3 | 0.9 | 0.750 |" in text


@pytest.mark.drawn
def test_many_reward_levels_are_drawn_as_ranges(run: Path) -> None:
    scores = [float(n) for n in range(11)]
    row = {"query": "q", "responses": ["a"] * 11, "origin": ["model"] * 11, "scores": scores}
    write(run / "data/stage2/math/math.json", row)
    page, text, _ = written(run)
    assert ">8 to 10</text>" in page
    assert "| model | 11 | 5.00 |" in text
