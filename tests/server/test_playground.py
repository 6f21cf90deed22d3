"""The playground page in a real browser, against the real server: what it shows of an answer as it comes,
keyboard, phone, what goes wrong, strangers' text. With tiny models that write one thing, and once with the real
small model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import serving_tools
from conversing import conversing
from serving import ask, eventually, running, tool_task, writes
from serving_tools import held as held

from browser import Tab
from real import real_model
from trice.models.embedded import GEMMA
from trice.server.limits import Limits

Browse = Callable[..., Tab]
Serve = Callable[..., Any]
PHONE = {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True}
HOSTILE = "<img src=x onerror=STOLEN=1><script>STOLEN=1</script>"


@pytest.fixture
def serve(tiny_model: Callable[[str], Path], tmp_path: Path) -> Serve:
    """Serves a model that answers everything with one text, over math or tools of this test's; `adapters` are names
    of others that write the same."""

    def make(
        text: str, *tools: str, adapters: dict[str, str] | None = None, for_ever: bool = False, **options: Any
    ) -> Any:
        model = writes(tiny_model("llama"), tmp_path, text, for_ever=for_ever)
        task = tool_task(tmp_path, *(f"serving_tools:{tool}" for tool in tools)) if tools else "math"
        made = [adapter(model, tmp_path / name, stage) for name, stage in (adapters or {}).items()]
        return running(model, made, task, **options)

    return make


def adapter(model: Path, folder: Path, stage: str) -> Path:
    """A LoRA adapter that changes nothing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    (folder / "trice.json").write_text(json.dumps({"stage": stage, "template": "plain"}))
    return folder


def put(page: Any, question: str, key: str = "Enter") -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press(key)


@contextmanager
def without_tasks(page: Any) -> Iterator[None]:
    """The page, loaded again, before it has its tasks; they come when the block ends."""
    held: list[Any] = []
    page.route("**/v1/tasks", lambda route: held.append(route))
    page.reload()
    eventually(lambda: page.evaluate("1") and held)  # Playwright tells of requests only while it is asked
    yield
    held[0].continue_()


def card(page: Any, model: str) -> Any:
    return page.get_by_role("article", name=model, exact=True)


def finished(page: Any, seconds: float = 120) -> None:
    """Wait until nothing is being written any more."""
    cards = page.get_by_role("article")
    eventually(lambda: {each.get_attribute("aria-busy") for each in cards.all()} == {"false"}, seconds)


def shows(where: Any, *texts: str) -> None:
    """Wait until these texts can be seen there."""
    for text in texts:
        where.get_by_text(text, exact=True).filter(visible=True).first.wait_for(timeout=60_000)


def refusals(tab: Tab, status: int) -> None:
    """The console tells of refused requests, which a test has expected; take them off."""
    assert tab.errors
    assert all(f"status of {status}" in error for error in tab.errors), tab.errors
    tab.errors.clear()


def test_models_side_by_side_call_and_answer(serve: Serve, browse: Browse) -> None:
    adapters = {"stage-1": "clone", "both": "rlef"}
    with serve("calculator(2+3)", adapters=adapters) as server:
        page = browse(server.url).page
        put(page, "What is 2 and 3?")
        finished(page)
        names = ["writer", "stage-1", "both"]
        assert page.get_by_role("article").get_by_role("heading", level=3).all_inner_texts() == names
        stages = ("base model", "stage 1: cloned", "stage 2: ranked by results")
        for name, stage in zip(names, stages, strict=True):
            text = card(page, name).inner_text()
            wanted = rf"{stage}\s.*calculator\s+\S+%\s+Calls calculator\s+Call\s+calculator\(2\+3\)"
            assert re.search(
                wanted + r"\s+Result\s+5\s+Answer\s+5\s+\d+\.\d s · \d+ tokens read", text, re.DOTALL
            )
            assert "Writes" not in text  # the call is all that was written
        boxes = [card(page, name).bounding_box() for name in names]
        assert len({box["y"] for box in boxes}) == 1  # columns
        assert len({box["x"] for box in boxes}) == 3
        assert page.locator("#spoken p").count() == 3  # one sentence a model for those who listen
        page.get_by_role("checkbox", name="stage-1").uncheck(force=True)
        put(page, "And 3 and 2?")
        finished(page)
        assert page.get_by_role("article").count() == 2


def test_a_question_asked_before_the_page_has_its_tasks_waits_for_them(serve: Serve, browse: Browse) -> None:
    with serve("Jupiter") as server:
        page = browse(server.url).page
        with without_tasks(page):
            put(page, "Which planet?")
            assert page.get_by_role("article").count() == 0
        card(page, "writer").wait_for(timeout=60_000)
        finished(page)
        shows(card(page, "writer"), "Jupiter")


def test_answers_and_malformed_calls_are_told_apart(serve: Serve, browse: Browse) -> None:
    with serve("Jupiter") as server:
        page = browse(server.url).page
        put(page, "Which planet?")
        finished(page)
        text = card(page, "writer").inner_text()
        assert re.search(r"calculator\s+<0\.1%\s+Answers itself\s+Answer\s+Jupiter", text)
    with serve("calculator(two)") as server:
        page = browse(server.url).page
        put(page, "What is two?")
        finished(page)
        text = card(page, "writer").inner_text()
        assert re.search(
            r"Malformed call: .+\s+Writes\s+calculator\(two\)\s+Answer\s+The tool could not", text
        )


def test_the_call_threshold_in_force_is_shown(serve: Serve, browse: Browse) -> None:
    with serve("Jupiter", call_threshold="0.25") as server:
        page = browse(server.url).page
        put(page, "Which planet?")
        finished(page)
        shows(card(page, "writer"), "Probability of calling · calls above 25%")
        page.get_by_text("Settings").click()
        page.get_by_label("Calls").select_option("none")  # the threshold is not applied then
        put(page, "Which planet?")
        finished(page)
        shows(card(page, "writer"), "Probability of calling")


def test_what_is_known_is_shown_while_the_tool_runs(serve: Serve, browse: Browse) -> None:
    with serve("wait(now)", "wait") as server:
        page = browse(server.url).page
        put(page, "Well?")
        shows(card(page, "writer"), "Calls wait", "(now)", "Runs …")
        assert "NOW" not in card(page, "writer").inner_text()
        assert page.get_by_role("button", name="Stop").is_visible()
        serving_tools.go_on.set()
        finished(page)
        shows(card(page, "writer"), "NOW")
        assert page.get_by_role("button", name="Stop").is_hidden()


def test_an_answer_grows_and_escape_stops_it(serve: Serve, browse: Browse) -> None:
    limits = Limits(max_new_tokens=50_000, timeout=600)
    with serve("and on ", for_ever=True, limits=limits) as server:
        page = browse(server.url).page
        page.get_by_text("Settings").click()
        page.get_by_label("Most tokens").fill("50000")
        put(page, "Well?")
        answer = card(page, "writer").locator("[data-part=answer]")
        eventually(lambda: len(answer.inner_text()) > 50)
        before = len(answer.inner_text())
        eventually(lambda: len(answer.inner_text()) > before)
        page.keyboard.press("Escape")
        finished(page)
        assert card(page, "writer").inner_text().endswith("stopped")
        eventually(lambda: server.state.worker.idle and not server.state.worker.batches.busy)


def test_passages_are_read_and_long_results_fold(serve: Serve, browse: Browse) -> None:
    with serve("look(it)", "look") as server:
        page = browse(server.url).page
        put(page, "Well?")
        finished(page)
        text = card(page, "writer").inner_text()
        assert re.search(r"Result\s+it one\nit two\s+Reads it and answers\s+passage 1.+\s+passage 2.+", text)
        assert card(page, "writer").get_by_role("button", name="Show all").count() == 0
    with serve(f"upper({'many words ' * 100})", "upper") as server:
        page = browse(server.url).page
        put(page, "Well?")
        finished(page)
        passage = card(page, "writer").locator("[data-part=output]")
        folded = passage.bounding_box()["height"]
        page.get_by_role("button", name="Show all").click()
        assert passage.bounding_box()["height"] > 1.5 * folded
        page.get_by_role("button", name="Show less", expanded=True).click()
        assert passage.bounding_box()["height"] == folded


def test_an_example_runs_with_a_click(serve: Serve, browse: Browse) -> None:
    with serve("7") as server:
        page = browse(server.url).page
        examples = page.get_by_role("group", name="Examples").get_by_role("button")
        eventually(lambda: examples.count() == 4)
        text = examples.nth(1).inner_text()
        examples.nth(1).click()
        finished(page)
        assert page.get_by_role("heading", name=text).is_visible()
        assert page.get_by_label("Question", exact=True).input_value() == text
        shows(card(page, "writer"), "7")


def test_questions_of_the_session_come_back(serve: Serve, browse: Browse) -> None:
    with serve("7") as server:
        page = browse(server.url).page
        for question in ("The first?", "The second?"):
            put(page, question)
            finished(page)
        asked = page.get_by_role("navigation", name="Asked so far").get_by_role("button")
        assert asked.count() == 2
        asked.nth(1).click()
        assert page.get_by_role("heading", name="The first?").is_visible()
        assert page.get_by_label("Question", exact=True).input_value() == "The first?"
        assert asked.nth(1).get_attribute("aria-current") == "true"
        assert asked.count() == 2  # nothing was asked anew


def test_a_link_fills_the_page_and_does_not_run(serve: Serve, browse: Browse) -> None:
    with serve("7", adapters={"both": "rlef"}) as server:
        page = browse(f"{server.url}/#task=math&q=How+many%3F&models=both,gone").page
        eventually(lambda: page.get_by_label("Question", exact=True).input_value() == "How many?")
        assert page.get_by_role("checkbox", name="both").is_checked()
        assert not page.get_by_role("checkbox", name="writer").is_checked()
        assert page.get_by_role("article").count() == 0
        page.keyboard.press("Enter")
        finished(page)
        assert page.url.endswith("/#task=math&q=How+many%3F&models=both")


def test_settings_made_before_the_page_has_its_tasks_stay(serve: Serve, browse: Browse) -> None:
    with serve("7") as server:
        page = browse(server.url).page
        with without_tasks(page):
            page.get_by_text("Settings").click()
            page.get_by_label("Instruction").fill("Answer in one word.")
            page.get_by_label("Temperature").fill("0.5")
        page.get_by_role("radio", name="math").wait_for(state="attached")
        assert page.get_by_label("Instruction").input_value() == "Answer in one word."
        told = "own instruction, temperature 0.5"
        eventually(lambda: told in page.locator("summary").inner_text())
        page.keyboard.type("1")  # the one who types keeps the focus
        assert page.get_by_label("Temperature").input_value() == "0.51"


def test_settings_are_sent(serve: Serve, browse: Browse) -> None:
    with serve("7") as server:
        page = browse(server.url).page
        page.get_by_text("Settings").click()
        page.get_by_label("Instruction").fill("Answer in one word.")
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_label("Most tokens").fill("3")
        page.get_by_label("Calls").select_option("must not call")
        told = "own instruction, temperature 0.5, at most 3 tokens, must not call"
        eventually(lambda: told in page.locator("summary").inner_text())
        with page.expect_request("**/v1/chat/completions") as sent:
            put(page, "Well?")
        finished(page)
        system, user = (
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Well?"},
        )
        assert sent.value.post_data_json == {
            "model": "writer", "messages": [system, user], "trice": {"task": "math", "probability": True},
            "temperature": 0.5, "max_completion_tokens": 3, "tool_choice": "none", "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        page.get_by_label("Temperature").fill("5")
        page.locator("summary").click()
        put(page, "And now?")
        assert page.get_by_label("Temperature").is_visible()  # and why it cannot be sent is told there
        assert page.locator("#asked").inner_text() == "Well?"
        page.get_by_role("button", name="Back to the task's own").click()
        assert "own instruction" not in page.locator("summary").inner_text()


def test_a_busy_server_is_tried_again(serve: Serve, browse: Browse) -> None:
    limits = Limits(batch_size=1, max_waiting=1)
    with serve("wait(now)", "wait", limits=limits) as server, ThreadPoolExecutor(2) as pool:
        tab = browse(server.url)
        others = [pool.submit(ask, server)]
        eventually(lambda: serving_tools.runs)
        others.append(pool.submit(ask, server))
        eventually(lambda: server.state.worker.jobs.waiting)
        put(tab.page, "Well?")
        shows(card(tab.page, "writer"), "The server is busy. Try again in 1 second.")
        refusals(tab, 429)
        serving_tools.go_on.set()
        assert all(other.result(30) for other in others)
        tab.page.get_by_role("button", name="Try again").click()
        shows(card(tab.page, "writer"), "NOW")
        finished(tab.page)


def test_what_goes_wrong_is_told_in_plain_words(serve: Serve, browse: Browse) -> None:
    with serve("wait(now)", "wait", limits=Limits(timeout=0.5, max_body=3000)) as server:
        tab = browse(server.url)
        put(tab.page, "Well?")
        shows(card(tab.page, "writer"), "The answer took longer than this server allows.")
        put(tab.page, "Well? " * 1000)
        shows(card(tab.page, "writer"), "The question is too long for this server.")
        refusals(tab, 413)
        serving_tools.go_on.set()
    put(tab.page, "Still there?")
    shows(card(tab.page, "writer"), "The server cannot be reached. Is it still running?")
    assert all("ERR_CONNECTION_REFUSED" in error for error in tab.errors)
    tab.errors.clear()


def test_a_key_is_asked_for_where_one_is_needed_and_kept_nowhere(serve: Serve, browse: Browse) -> None:
    with serve("7", keys=["sesame"]) as server:
        tab = browse(server.url)
        page = tab.page
        for key, told in (("wrong", "The one given is not known."), ("sesame", None)):
            page.get_by_label("Key").fill(key)
            page.keyboard.press("Enter")
            if told:
                page.get_by_text(told).wait_for()
        page.get_by_role("radio", name="math").wait_for(state="attached")
        refusals(tab, 401)
        assert page.get_by_label("Key").is_hidden()
        put(page, "Well?")
        finished(page)
        shows(card(page, "writer"), "7")
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert "sesame" not in kept + page.content()
    with serve("7") as server:
        page = browse(server.url).page
        page.get_by_role("radio", name="math").wait_for(state="attached")
        assert page.get_by_label("Key").is_hidden()


def test_the_keyboard_is_enough(serve: Serve, browse: Browse) -> None:
    with serve("7", "upper", adapters={"both": "rlef"}) as server:
        page = browse(server.url).page
        eventually(lambda: page.evaluate("document.activeElement.id") == "question")
        page.keyboard.type("One?")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Or two?")
        assert page.get_by_role("article").count() == 0
        page.keyboard.press("Enter")
        finished(page)
        assert page.locator("#asked").inner_text() == "One?\nOr two?"
        page.keyboard.press("Shift+Tab")  # from the question back to the models
        assert page.evaluate("document.activeElement.value") == "both"
        page.keyboard.press("Space")
        page.keyboard.press("?")
        assert page.get_by_role("dialog", name="Shortcuts").is_visible()
        page.keyboard.press("Escape")
        assert page.get_by_role("dialog").count() == 0
        page.keyboard.press("Control+Enter")
        finished(page)
        assert page.get_by_role("article").count() == 1
        page.keyboard.press("/")
        page.keyboard.press("End")
        page.keyboard.type("/?")  # in a text they are letters
        assert page.get_by_label("Question", exact=True).input_value() == "One?\nOr two?/?"


def test_a_phone_has_cards_and_nothing_beside_them(serve: Serve, browse: Browse) -> None:
    long = "calculator(" + "+".join(["123456789"] * 10) + ")"
    with serve(long, adapters={"a-rather-long-name-of-an-adapter-that-does-not-break": "rlef"}) as server:
        page = browse(server.url, **PHONE).page
        put(page, "Unbreakable" * 40)
        finished(page)
        page.get_by_text("Settings").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        boxes = [each.bounding_box() for each in page.get_by_role("article").all()]
        assert boxes[0]["x"] == boxes[1]["x"]
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]


def test_the_dark_is_dark(serve: Serve, browse: Browse) -> None:
    with serve("7") as server:
        page = browse(server.url, color_scheme="dark", reduced_motion="reduce").page
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(channels[:3]) < 40


@pytest.mark.parametrize("written", [f"upper({HOSTILE})", HOSTILE, f"upper({HOSTILE}"])
def test_strangers_text_stays_text(serve: Serve, browse: Browse, written: str) -> None:
    name = "<img src=x onerror=STOLEN=1>"
    with serve(written, "upper", adapters={name: "rlef"}) as server:
        page = browse(f"{server.url}/#q={HOSTILE}").page
        eventually(lambda: page.get_by_label("Question", exact=True).input_value() == HOSTILE)
        page.keyboard.press("Enter")
        finished(page)
        text = card(page, name).inner_text()
        assert "<script>" in text.lower()
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("typeof STOLEN") == "undefined"


def test_turns_and_parallel_calls_are_shown(
    tiny_model: Callable[[str], Path], tmp_path: Path, browse: Browse
) -> None:
    model = conversing(tiny_model("llama"), tmp_path / "policy")
    with running(model, task=tool_task(tmp_path, "serving_tools:stock"), format="chat") as server:
        page = browse(server.url).page
        put(page, "both?")
        finished(page)
        wanted = (
            r"Calls stock\s+Call\s+stock\(chair\)\s+Call\s+stock\(lamp\)\s+Result of stock\s+7\s+"
            r"Result of stock\s+9\s+Answer\s+7 and 9\."
        )
        assert re.search(wanted, card(page, "policy").inner_text())
        put(page, "chair?")
        finished(page)
        wanted = r"Writes\s+Counting\.\s+Call\s+stock\(chair\)\s+Result of stock\s+7\s+Answer\s+Counting\.\n7 pieces\."
        assert re.search(wanted, card(page, "policy").inner_text())
        # Whatever a model or a tool says in its turns stays text.
        hostile = [
            {"role": "assistant", "content": HOSTILE, "tool_calls": [
                {"type": "function", "function": {"name": HOSTILE, "arguments": {"a": HOSTILE}}}
            ]},
            {"role": "tool", "name": HOSTILE, "content": HOSTILE},
        ]  # fmt: skip
        page.evaluate(
            "(messages) => { const run = history[0].runs[0]; run.completion = messages; draw(run); }", hostile
        )
        assert card(page, "policy").inner_text().lower().count("<script>") == 6
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("typeof STOLEN") == "undefined"


@pytest.mark.slow
@real_model
def test_the_real_model_answers_questions_of_every_task(browse: Browse) -> None:
    with running(Path(GEMMA.name), task="mix", limits=Limits(max_new_tokens=24)) as server:
        page = browse(server.url).page
        page.get_by_role("group", name="Examples").get_by_role("button").first.click()
        finished(page, 60)
        text = card(page, GEMMA.name).inner_text()  # it never learned to call
        known = r"any tool\s+<0.1%\s+calculator\s+<0.1%.*Answers itself.*Answer\s+\S+"
        assert re.search(known, text, re.DOTALL), text
        page.get_by_text("Settings").click()
        page.get_by_label("Calls").select_option("must call")
        for task, tool in {
            "math": "calculator",
            "qa": "WikiSearch",
            "lama": "QA",
            "mlqa": "translator",
        }.items():
            page.get_by_role("radio", name=task, exact=True).check(force=True)
            page.get_by_role("group", name="Examples").get_by_role("button").first.click()
            finished(page, 60)
            text = card(page, GEMMA.name).inner_text()
            assert re.search(rf"(Calls {tool}|Malformed call: ).*Answer\s+\S+", text, re.DOTALL), text
