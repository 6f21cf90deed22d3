"""The report's page in a real browser: what it shows, how it is searched and linked, what strangers' text does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from browser import Tab
from trice.report import write_report

Browse = Callable[..., Tab]
NASTY = (
    "<script>window.stolen = 1; alert(1)</script></script><!-- <script> "
    "<img src=x onerror='window.stolen=1'>\u2028\u202eesrever\u2066 &amp; \"quotes\" 'single'"
)
PHONE = {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True}


def graded(number: int, outcome: str, correct: bool, argument: str = "1+1", **extra: Any) -> dict[str, Any]:
    """A row of a result file; odd questions are of data set B."""
    name = "AB"[number % 2]
    row: dict[str, Any] = {"id": f"{name}-{number}", "dataset": name, "input": f"What is case {number}?"}
    row |= {"answer": "2", "outcome": outcome, "correct": correct, "prediction": "2" if correct else "3"}
    if outcome == "called":
        row |= {"call": {"name": "calculator", "arguments": {"expression": argument}}}
        row |= {"execution": {"output": "2"}, "response": f"calculator({argument})"}
    return {"response": f"it is {number}"} | row | extra


def result(run: Path, condition: str, *rows: dict[str, Any]) -> None:
    path = run / "data" / "dev" / "math" / f"math_{condition}_result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def small(folder: Path) -> Path:
    """Sixty questions; what training changed on the first five is of all kinds, on the others nothing.

    0 learned to call at stage 1; 1 a new error at stage 1, then learned not to call; 2 better arguments at the
    second stage (against the base model: learned to call); 3 the same call read better (likewise); 4 a new error
    at the second stage."""
    rest = [graded(n, "answered", n % 3 == 0) for n in range(5, 60)]
    rights = (False, True, False, False, True)
    base = [graded(n, "answered", right) for n, right in enumerate(rights)]
    result(folder, "zero-shot", *base, *rest)
    result(
        folder,
        "stage-1",
        graded(0, "called", True, "7*8"),
        graded(1, "called", False),
        graded(2, "called", False, "9+8+3"),
        graded(3, "called", False, turns=["three"]),
        graded(4, "answered", True),
        *rest,
    )
    result(
        folder,
        "both",
        graded(0, "called", True, "7*8"),
        graded(1, "answered", True),
        graded(2, "called", True, "9+8*3"),
        graded(3, "called", True, turns=["two"]),
        graded(4, "malformed", False, reason="the call is empty"),
        *rest,
    )
    result(folder, "always", *(graded(n, "called", n == 4) for n in range(60)))
    (folder / "run.json").write_text(json.dumps({"title": "A small run", "model": "tiny"}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the test's own, to be changed."""
    return small(tmp_path / "run")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the small run as it is."""
    return address(small(tmp_path_factory.mktemp("report") / "run"))


def address(run: Path, fragment: str = "") -> str:
    return write_report([run]).as_uri() + (f"#{fragment}" if fragment else "")


def count(tab: Tab) -> str:
    return tab.page.get_by_role("status").inner_text()


def becomes(tab: Tab, text: str) -> None:
    """Wait for the count: the search begins when typing ends."""
    from playwright.sync_api import expect

    expect(tab.page.get_by_role("status")).to_have_text(text)


def choice(tab: Tab, name: str) -> Any:
    return tab.page.get_by_role("combobox", name=name, exact=True)


def questions(tab: Tab) -> list[str]:
    return tab.page.locator(".cases .asked").all_inner_texts()


def numbers(tab: Tab) -> list[int]:
    return [int(re.findall(r"\d+", text)[0]) for text in questions(tab)]


def width(tab: Tab) -> int:
    return tab.page.evaluate("document.documentElement.scrollWidth")


def test_it_shows_the_figures_and_one_case_of_each_kind_first(url: str, browse: Browse) -> None:
    tab = browse(url)
    assert tab.page.title() == tab.page.locator("h1").inner_text() == "A small run"
    cards = tab.page.locator(".card").all_inner_texts()
    assert [text.splitlines()[0] for text in cards] == ["Base model", "After stage 1", "After both stages"]
    # Right: the base model on 1, 4 and 18 of the others: 20 of 60.
    assert "33.3%" in cards[0]
    assert tab.page.locator("svg").count() > 2
    assert count(tab) == "60 cases"
    assert sorted(numbers(tab)[:5]) == [0, 1, 2, 3, 4]
    chips = [text.split() for text in tab.page.locator(".chip").all_inner_texts()]
    assert [(" ".join(words[:-1]), words[-1]) for words in chips] == [
        ("learned to call", "3"),
        ("better arguments", "1"),
        ("learned not to call", "1"),
        ("same call read better", "1"),
        ("new error", "2"),
    ]


def test_fifty_cases_at_a_time(url: str, browse: Browse) -> None:
    tab = browse(url)
    assert len(questions(tab)) == 50
    tab.page.get_by_role("button", name="Show 10 more").click()
    assert len(questions(tab)) == 60
    assert tab.page.evaluate("document.activeElement.className") == "open"
    assert tab.page.locator(".more").is_hidden()


def test_filters_by_kind_data_set_need_and_verdict(url: str, browse: Browse) -> None:
    tab = browse(url)
    chip = tab.page.get_by_role("button", name="new error")
    chip.click()
    assert (sorted(numbers(tab)), count(tab)) == ([1, 4], "2 of 60 cases")
    assert chip.get_attribute("aria-pressed") == "true"
    tab.page.get_by_role("button", name="better arguments").click()
    assert sorted(numbers(tab)) == [1, 2, 4]
    choice(tab, "data set").select_option("A")
    assert sorted(numbers(tab)) == [2, 4]
    choice(tab, "tool needed").select_option("not needed")
    assert numbers(tab) == [4]
    tab.page.get_by_role("button", name="Clear all filters").click()
    assert count(tab) == "60 cases"
    choice(tab, "stage-1").select_option("called and wrong")
    assert sorted(numbers(tab)) == [1, 2, 3]
    choice(tab, "both").select_option("right")
    tab.page.get_by_text("Other conditions").click()
    choice(tab, "always").select_option("wrong")
    assert sorted(numbers(tab)) == [1, 2, 3]
    choice(tab, "both").select_option("malformed")
    assert count(tab) == "0 of 60 cases"


def test_search_and_order(url: str, browse: Browse) -> None:
    tab = browse(url)
    tab.page.get_by_label("Search").fill("9+8  CASE")
    becomes(tab, "1 of 60 cases")
    assert numbers(tab) == [2]
    assert tab.page.locator(".asked mark").inner_text() == "case"
    tab.page.get_by_label("Search").fill("")
    becomes(tab, "60 cases")
    choice(tab, "order").select_option("as in the data")
    assert numbers(tab) == list(range(50))
    choice(tab, "order").select_option("most often wrong first")
    # Every condition is wrong on 5; on 2 and 3 three of four are.
    assert numbers(tab)[0] == 5


def test_an_open_case_shows_every_condition(url: str, browse: Browse) -> None:
    tab = browse(url)
    tab.page.get_by_role("button", name="What is case 2?").click()
    whole = tab.page.locator(".whole")
    text = whole.inner_text()
    assert whole.locator("h3").all_inner_texts()[0].startswith("zero-shot")
    assert whole.locator(".answer").count() == 4
    assert "Gold: 2. The base model is wrong without a tool: needed." in text
    assert "better arguments (stage-1 → both)" in text
    assert whole.locator(".answer").nth(2).locator("mark.new").first.inner_text() == "*"
    tab.page.get_by_role("button", name="What is case 2?").click()
    assert whole.is_hidden()
    tab.page.get_by_role("button", name="What is case 3?").click()
    assert "three" in tab.page.locator(".answer:visible").nth(1).inner_text()
    tab.page.get_by_role("button", name="What is case 4?").click()
    assert "the call is empty" in tab.page.locator(".answer:visible").nth(6).inner_text()


def test_a_case_opens_by_its_link_and_the_back_button_closes_it(url: str, browse: Browse) -> None:
    tab = browse(f"{url}#case=B/B-59")  # not among the first fifty
    assert numbers(tab)[0] == 59
    assert tab.page.locator(".whole").count() == 1
    assert tab.page.evaluate("document.activeElement.innerText").strip() == "What is case 59?"
    box = tab.page.locator(".cases .case").first.bounding_box()
    assert 0 <= box["y"] < 300
    tab.page.get_by_role("button", name="What is case 2?").click()
    assert tab.page.url.endswith("#case=A/A-2")
    tab.page.go_back()
    assert tab.page.url.endswith("#case=B/B-59")
    assert tab.page.locator(".whole:visible").count() == 1
    tab.page.go_forward()
    assert "What is case 2?" in tab.page.locator(".whole:visible").inner_text()
    link = tab.page.get_by_role("link", name="Link to this case")
    assert link.get_attribute("href") == "#case=A/A-2"


def test_a_filtered_view_is_a_link(url: str, browse: Browse) -> None:
    tab = browse(url)
    tab.page.get_by_role("button", name="new error").click()
    choice(tab, "zero-shot").select_option("right")
    tab.page.get_by_label("Search").fill("case 4")
    becomes(tab, "1 of 60 cases")
    again = browse(tab.page.url)
    assert numbers(again) == [4]
    assert again.page.get_by_label("Search").input_value() == "case 4"
    assert choice(again, "zero-shot").input_value() == "right"
    tab.page.go_back()
    assert sorted(numbers(tab)) == [1, 4]
    tab.page.go_back()
    assert count(tab) == "60 cases"


@pytest.mark.parametrize(
    "fragment",
    [
        "case=no/such",
        "case=%E0%A4%A",
        "kind=x&sort=constructor&needed=toString",
        "verdict.__proto__=x",
        "a=b=c&&=",
    ],
)
def test_a_bad_link_does_no_harm(url: str, browse: Browse, fragment: str) -> None:
    tab = browse(f"{url}#{fragment}")
    assert "60 cases" in count(tab)
    tab.page.get_by_role("button", name="new error").click()
    assert sorted(numbers(tab))[-2:] == [1, 4] or fragment.startswith("kind")


def test_text_from_strangers_stays_text(run: Path, browse: Browse) -> None:
    named = {
        "id": NASTY,
        "dataset": NASTY,
        "input": NASTY,
        "answer": NASTY,
        "turns": [NASTY],
        "prediction": NASTY,
    }
    call = {
        "call": {"name": NASTY, "arguments": {NASTY: NASTY, "b": [NASTY]}},
        "execution": {"output": NASTY},
    }
    (run / "data/dev/math/math_always_result.json").unlink()
    for condition, right in {
        "zero-shot": False,
        "stage-1": True,
        "both": False,
        NASTY.replace("/", "")[:60]: True,
    }.items():
        huge = graded(7, "called", right, response="y" * 1_000_000, input="What is huge?")
        result(run, condition, graded(1, "called", right, response=NASTY, **named, **call), huge)
    (run / "run.json").write_text(json.dumps({"title": NASTY, "model": NASTY}))
    (run / "recipe.yaml").write_text(NASTY)
    tab = browse(address(run, "search=window.stolen"))
    assert numbers(tab) == [1]
    tab.page.locator(".open").click()
    text = tab.page.locator(".whole").inner_text()
    assert text.count("<script>window.stolen = 1; alert(1)</script></script><!-- <script>") > 8
    assert "\u202e" not in tab.page.content()
    again = browse(tab.page.url)
    assert again.page.locator(".whole:visible").count() == 1
    assert again.page.evaluate("typeof window.stolen") == "undefined"
    assert again.page.locator("img").count() == 0
    assert (run / "report.html").stat().st_size < 500_000
    tab.page.get_by_role("button", name="Clear all filters").click()
    tab.page.get_by_role("button", name="What is huge?").click()
    assert "998,000 characters left out" in tab.page.locator(".whole").last.inner_text()


def test_light_dark_and_the_choice_between_them(url: str, browse: Browse) -> None:
    def background(tab: Tab) -> str:
        return tab.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = (browse(url, color_scheme=scheme) for scheme in ("light", "dark"))
    assert background(light) == "rgb(255, 255, 255)"
    assert background(dark) == "rgb(20, 22, 26)"
    for _ in range(2):  # automatic, light, dark
        light.page.get_by_role("button", name="Colours").click()
    assert background(light) == "rgb(20, 22, 26)"
    light.page.reload()
    assert background(light) == "rgb(20, 22, 26)"


def test_a_phone_scrolls_tables_and_not_the_page(run: Path, browse: Browse) -> None:
    result(run, "w" * 80, graded(3, "called", True, response="v" * 300, input="u" * 300))
    tab = browse(address(run, "case=B/B-3"), **PHONE)
    assert width(tab) == 375
    assert tab.page.locator(".whole").bounding_box()["width"] <= 375
    assert tab.page.evaluate(
        "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    )


def test_print_shows_a_few_cases_and_no_controls(url: str, browse: Browse) -> None:
    tab = browse(url, color_scheme="dark")
    few = tab.page.get_by_text("Learned to call (zero-shot → stage-1)")
    assert few.is_hidden()
    tab.page.emulate_media(media="print")
    assert few.is_visible()
    for control in ("#explorer", ".contents", "#theme"):
        assert tab.page.locator(control).is_hidden()
    assert tab.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_without_scripts_the_rest_still_reads(url: str, browse: Browse) -> None:
    tab = browse(url, java_script_enabled=False)
    assert tab.page.get_by_text("Learned to call (zero-shot → stage-1)").is_visible()
    assert tab.page.get_by_text("All 60 cases can be searched").is_visible()
    assert tab.page.locator("#theme").is_hidden()


def test_by_keyboard_alone(url: str, browse: Browse) -> None:
    tab = browse(url)
    press, focused = tab.page.keyboard.press, "document.activeElement"

    def tab_to(wanted: str) -> None:
        for _ in range(80):
            press("Tab")
            if tab.page.evaluate(f"{focused}.matches({json.dumps(wanted)})"):
                return
        raise AssertionError(f"no {wanted} within 80 stops")

    press("Tab")
    assert tab.page.evaluate(f"{focused}.innerText") == "Skip to the report"
    press("Enter")
    tab_to("#case-search")
    tab.page.keyboard.type("case 4")
    becomes(tab, "15 of 60 cases")
    tab_to("[data-kind=new-error]")
    press("Space")
    assert numbers(tab) == [4]
    assert tab.page.evaluate(f"{focused}.dataset.kind") == "new-error"
    tab_to(".open")
    press("Enter")
    assert tab.page.locator(".open").get_attribute("aria-expanded") == "true"
    assert tab.page.locator(".whole").is_visible()
    assert tab.page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"


def test_a_reader_of_the_screen_finds_its_way(url: str, browse: Browse) -> None:
    tab = browse(url)
    page = tab.page
    for role, name in (("main", None), ("navigation", "Contents"), ("search", "Cases"), ("heading", "Cases")):
        assert page.get_by_role(role, name=name, exact=True).first.is_visible()
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    unnamed = "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length"
    assert page.evaluate(unnamed) == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]:not(svg *)')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.hash.slice(1))")
    assert set(targets) <= set(ids)


def test_the_cases_of_several_runs(run: Path, tmp_path: Path, browse: Browse) -> None:
    other = small(tmp_path / "other")
    tab = browse(write_report([run, other], tmp_path / "both").as_uri() + "#case=A/A-2")
    assert tab.page.locator(".headline").count() == 2
    assert tab.page.locator(".cases thead th").all_inner_texts()[2:8] == [
        f"{name}/{stage}" for name in ("run", "other") for stage in ("zero-shot", "stage-1", "both")
    ]
    assert tab.page.locator(".answer").count() == 8
    # Marked: the "*" of `9+8*3`, in each run against its own stage 1.
    assert tab.page.locator(".answer mark.new").all_inner_texts().count("*") == 2
    choice(tab, "other/stage-1").select_option("called and wrong")
    assert sorted(numbers(tab)) == [1, 2, 3]
    assert width(tab) == tab.page.viewport_size["width"]


def test_five_thousand_cases(run: Path, browse: Browse) -> None:
    for condition in ("zero-shot", "stage-1", "both"):
        called = condition != "zero-shot"
        (run / "data/dev/math/math_always_result.json").unlink(missing_ok=True)
        rows = (graded(n, "called" if called else "answered", n % 7 == 0 or called) for n in range(5_200))
        result(run, condition, *rows)
    tab = browse(address(run))
    assert count(tab) == "5,000 cases"
    assert tab.page.get_by_text("200 more cases are left out of this page").is_visible()
    choice(tab, "data set").select_option("B")
    tab.page.get_by_label("Search").fill("case 123?")
    # Of all that end in 123, without 4123 = 7 · 589, which is of no kind and beyond the first 543 of those.
    becomes(tab, "5 of 5,000 cases")
    assert numbers(tab) == [123, 1123, 2123, 3123, 5123]
    choice(tab, "zero-shot").select_option("right")
    assert count(tab) == "0 of 5,000 cases"
