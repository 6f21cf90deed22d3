"""Reports of several runs: side by side, compared on the questions they share, with the cases of all."""

import json
from pathlib import Path

import pytest
from made_runs import graded, result, write

from trice.errors import InputError
from trice.report import write_report
from trice.report.schema import RunResults, SeveralResults

pytestmark = pytest.mark.usefixtures("undrawn")


def run_of(folder: Path, right: int, questions: int = 40, **extra: object) -> Path:
    """The base model is right on the first ten; after both stages, which call each time, on the first `right`."""
    result(folder, "zero-shot", *(graded(n, "answered", n < 10, **extra) for n in range(questions)))
    result(folder, "both", *(graded(n, "called", n < right, **extra) for n in range(questions)))
    (folder / "recipe.yaml").write_text(
        f"seed: 1\noutput: {folder}\nrlef:\n  alpha: {right}\n"
        f"data:\n- dataset: ASDiv\n  train: {right}\n  test: null\n"
    )
    return folder


def text_of(output: Path) -> str:
    return (output / "report.md").read_text(encoding="utf-8")


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "one", 20), run_of(tmp_path / "two", 36)]
    page = write_report(runs, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    text = text_of(tmp_path / "out")
    for name, right in {"one": 50, "two": 90}.items():
        assert f"## {name}\n\nAfter training, the model answers {right}% of 40 test questions right" in text
        assert f"## {name}: Accuracy" in text
    assert "| both | 50.0 (35.2 to 64.8) | 90.0 (76.9 to 96.0) |" in text
    # 16 of 40 differ: mean 0.4, s = 0.49614, half = 1.96 · s / √40 = 0.15375
    assert "| two − one | +0.0 (−8.8 to +8.8) | **+40.0** (+24.6 to +55.4) |" in text
    assert "| data.ASDiv.train | 20 | 36 |" in text
    assert "| rlef.alpha | 20 | 36 |" in text
    assert "| seed |" not in text
    assert "| output |" not in text
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["differences"]["rlef.alpha"] == {"one": "20", "two": "36"}
    assert found["comparison"]["two - one"]["both"]["delta"] == 0.4
    assert found["runs"]["two"]["conditions"]["both"]["total"]["accuracy"]["count"] == 36
    assert not (tmp_path / "one" / "report.html").exists()


def test_the_page_holds_the_cases_of_all_runs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "one", 20), run_of(tmp_path / "two", 36)]
    page = write_report(runs, tmp_path / "out").read_text()
    for condition in ("one/zero-shot", "one/both", "two/zero-shot", "two/both"):
        assert f'"{condition}"' in page
    text = text_of(tmp_path / "out")
    assert "Learned to call (one/zero-shot → one/both)" in text
    assert "| two/both | r10 | 7 | right (called) |" in text


def test_one_run_can_go_to_another_folder(tmp_path: Path) -> None:
    run = run_of(tmp_path / "one", 20)
    assert write_report([run], tmp_path / "out") == tmp_path / "out" / "report.html"
    assert not (run / "report.html").exists()
    assert "## In short" in text_of(tmp_path / "out")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / part / "run <b>", right) for part, right in {"a": 20, "b": 30, "c": 36}.items()]
    write_report(runs, tmp_path / "out")
    assert "| accuracy | run-b (40) | run-b-2 (40) | run-b-3 (40) |" in text_of(tmp_path / "out")
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"accuracy-against-tool-use.png", "run-b-accuracy.png", "run-b-3-accuracy.png"} <= figures


def test_runs_are_compared_on_the_questions_they_share(tmp_path: Path) -> None:
    small = run_of(tmp_path / "small", 10, questions=20)
    large = run_of(tmp_path / "large", 30)
    write_report([small, large], tmp_path / "out")
    # On the twenty questions of the small run the large one is right on all: +50 points.
    assert "| large − small | +0.0 (−16.1 to +16.1) | **+50.0**" in text_of(tmp_path / "out")


def test_runs_without_shared_questions_are_not_compared(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "one", 20), run_of(tmp_path / "two", 36, input="Another question")]
    write_report(runs, tmp_path / "out")
    assert "two − one" not in text_of(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["comparison"] == {}


def test_partial_and_empty_runs_take_part(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "begun" / "data/raw/math/ASDiv_wrong.json", {"id": "1"})
    (tmp_path / "begun" / "recipe.yaml").write_text("- no\n- recipe")
    runs = [tmp_path / "empty", tmp_path / "begun", run_of(tmp_path / "whole", 20)]
    write_report(runs, tmp_path / "out")
    text = text_of(tmp_path / "out")
    assert "| both | – | – | 50.0 (35.2 to 64.8) |" in text
    assert "## begun: Data" in text
    write_report(runs[:2], tmp_path / "nothing")
    assert "No condition of the loop has been evaluated yet." in text_of(tmp_path / "nothing")


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "one", 20), run_of(tmp_path / "two", 36)]

    def files(output: Path) -> dict[str, bytes]:
        write_report(runs, output)
        return {
            str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()
        }

    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_results_json_is_what_its_schema_says(tmp_path: Path) -> None:
    one, two = run_of(tmp_path / "one", 20), run_of(tmp_path / "two", 36)
    write(
        one / "run.json", {"title": "T", "model": "m", "steps": [{"name": "data", "seconds": 1}], "seed": 3}
    )
    for runs, kind in (([one], RunResults), ([one, two], SeveralResults)):
        write_report(runs, tmp_path / "out")
        text = (tmp_path / "out" / "results.json").read_text()
        written = json.loads(text)
        assert written["schema"] == 2
        assert json.loads(kind.model_validate_json(text).model_dump_json(by_alias=True)) == written
        assert set(written) == set(kind.model_json_schema()["properties"])
    assert written["runs"]["one"]["run"]["model"] == "m"
    assert written["runs"]["one"]["frontier"] == ["zero-shot", "both"]
    assert [stage["name"] for stage in written["runs"]["one"]["headline"]["stages"]] == [
        "Base model",
        "After both stages",
    ]


@pytest.mark.drawn
def test_every_figure_is_also_a_png_for_papers(tmp_path: Path) -> None:
    run = run_of(tmp_path / "one", 20)
    page = write_report([run]).read_text()
    pngs = sorted(path.name for path in (run / "figures").iterdir())
    assert pngs == ["accuracy-against-tool-use.png", "accuracy.png", "need-and-use.png", "tool-use.png"]
    assert page.count("<svg") == len(pngs)
    for name in pngs:
        assert (run / "figures" / name).read_bytes().startswith(b"\x89PNG")
        assert f"](figures/{name})" in (run / "report.md").read_text()


def test_what_is_wrong_with_the_call_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "one", 20)
    with pytest.raises(InputError, match="give --output"):
        write_report([run, run])
    with pytest.raises(InputError, match="no run"):
        write_report([])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_report([run], tmp_path / "file")
