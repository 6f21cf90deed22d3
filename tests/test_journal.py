"""Reading that names what is wrong, writing that a full disk cannot hurt, and a journal that no kill can."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tiny import forked, killed, read, same_after_kills, tree
from trice.errors import InputError, TriceError
from trice.storage.files import digest, read_rows, write_rows, write_text
from trice.storage.inputs import differences
from trice.storage.row_state import journal_path
from trice.storage.row_store import RowStore
from trice.types import Question

GOOD = '{"id": "A_1", "question": "q", "answer": "4"}'


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "rows.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f'{GOOD}\n{{"id": "A_2", "answer": "4"}}\n', r":2: field 'question': Field required"),
        (f'{GOOD}\n\n{{"id": "A_2", "question": "q"}}', r":3: field 'answer': Field required"),
        ('{"id": "", "question": "q", "answer": "4"}', r":1: field 'id': "),
        ('{"id": "a", "question": "q", "answer": " "}', r":1: field 'answer': there is no gold answer"),
        ('{"id": "a", "question": "q", "answer": [[1]]}', r":1: field 'answer"),
        (f"{GOOD}\n{GOOD[:-1]}\n", r":2: not a JSON object \(.+\)"),
        (f"{GOOD}\nacc: 0.5\n", r":2: not a JSON object \(.+\)"),
        ("[" * 100_000, r":1, element 1: not a JSON object \(.+\)"),
        ('{"id": "a", "question": "\\ud83d", "answer": "4"}', r":1: not a JSON object \(.+surrogates.+\)"),
        ("[1, 2]\n", r":1, element 1: Input should be a valid dictionary"),
        ("", r": holds no rows"),
        (" \n\n", r": holds no rows"),
        ("acc: 0.5, tool_rate: 0.1\n", r": holds no rows"),
        (b'{"id": "a", "question": "\xff"}', r": not UTF-8 \(byte 25\)"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(InputError, match=rf"^{path}{complaint}") as caught:
        read_rows(path, Question)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}/none.json: no such file$"):
        read_rows(tmp_path / "none.json", Question)
    with pytest.raises(InputError, match=rf"^{tmp_path}: cannot be read \(Is a directory\)$"):
        read_rows(tmp_path, Question)
    with pytest.raises(InputError, match=rf"^{tmp_path}/none: cannot be read \(No such file or directory\)$"):
        digest(tmp_path / "none")


def test_the_summary_line_of_the_original_is_skipped_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, f"acc: 0.31, tool_rate: 0.7\n{GOOD}\n")
    assert [row.id for row in read_rows(path, Question)] == ["A_1"]
    assert capsys.readouterr().err == f"{path}:1: skipped the summary line of the original's result files\n"


def test_line_ends_of_other_systems_and_separators_inside_text_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"id": "A", "question": "a\u2028b\x85c😀", "answer": "4"}) + "\r\n")
    (row,) = read_rows(path, Question)
    write_rows(path, [row, row.model_copy(update={"id": "B"})])
    assert [row.input for row in read_rows(path, Question)] == ["a\u2028b\x85c😀"] * 2


def test_writing_makes_folders_keeps_to_the_umask_and_leaves_nothing_else(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new" / "x.json", "one")
        write_text(tmp_path / "new" / "x.json", "two")
    finally:
        os.umask(before)
    assert tree(tmp_path) == {"new/x.json": b"two"}
    assert stat.S_IMODE((tmp_path / "new" / "x.json").stat().st_mode) == 0o640


def test_a_failing_fsync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TriceError, match=rf"^{path}: cannot be written \(No space left on device\)$"):
        write_text(path, "new")
    assert tree(tmp_path) == {"x.json": b"old"}


def fill(path: Path) -> None:
    """Write a file larger than this process may write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with pytest.raises(TriceError, match=r"x\.json: cannot be written \(File too large\)"):
        write_text(path, "new" * 2000)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("old")
    assert forked(fill, tmp_path / "x.json") == 0
    assert tree(tmp_path) == {"x.json": b"old"}


def test_a_write_that_is_killed_leaves_old_or_new_and_the_next_one_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for point in range(1, 5):
        write_text(path, "old")
        if not killed(point, tmp_path, write_text, path, "new"):
            break
        assert path.read_text() == "old"
    assert point == 4  # opening, fsync, renaming
    assert tree(tmp_path) == {"x.json": b"new"}


class Note(BaseModel):
    text: str
    number: int | None = None


SETTINGS: dict[str, object] = {"seed": 1, "path": Path("a"), "lora": {"r": 8, "targets": ("q", "v")}}


def work(
    output: Path, settings: dict[str, object], rows: int = 5, bad: Sequence[int] = (), **how: bool
) -> int:
    """A stage in small: of `rows` rows the `bad` ones fail. Gives how many were worked on."""
    with RowStore(output, settings, rows, **how) as store:
        if store.is_finished:
            return 0
        keys = {number: store.key({"question": number}, 0) for number in range(rows)}
        left = [n for n, key in keys.items() if key not in store and key not in store.failed]
        for number in left:
            if number in bad:
                store.fail(keys[number], "no reply")
            else:
                store.add({keys[number]: Note(text=f"rów {number}\n", number=number or None)})
        store.finish(store.rows[key] for key in keys.values() if key in store)
    return len(left)


def half_done(output: Path) -> Path:
    """The journal of three finished rows."""
    assert killed(7, output.parent, work, output, SETTINGS)
    path = journal_path(output)
    assert len(path.read_bytes().splitlines()) == 5  # the header; the fourth row was not yet synced
    return path


def test_killed_at_any_act_and_run_again_the_file_is_the_same(tmp_path: Path) -> None:
    # the journal, its header, the folder; five rows; the output, the folder; the journal's end
    assert same_after_kills(tmp_path, _stage) == 3 + 5 + 3 + 1 + 3


def _stage(folder: Path) -> None:
    work(folder / "out.json", SETTINGS)


def test_killed_again_and_again_it_still_ends_the_same(tmp_path: Path) -> None:
    folder, kills = tmp_path / "killed", 0
    while killed(10, folder, work, folder / "out.json", SETTINGS, 20):
        kills += 1
    assert kills == 3  # 7 rows; then, going on being a line too, 8; 5, and the output but for its name
    work(tmp_path / "whole" / "out.json", SETTINGS, 20)
    assert tree(folder) == tree(tmp_path / "whole")


def test_the_file_cut_at_any_byte_is_gone_on_with_and_no_whole_line_is_done_again(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.json", tmp_path / "out.json"
    work(whole, {}, 2)
    assert killed(6, tmp_path, work, output, {}, 2)
    path = journal_path(output)
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        output.unlink(missing_ok=True)
        rows = max(0, sum(end <= cut for end in ends) - 1)
        assert work(output, {}, 2) == 2 - rows, cut
        assert output.read_bytes() == whole.read_bytes(), cut


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.text() | st.integers() | st.none(), max_size=3),
        min_size=1,
    ),
    st.floats(0, 1),
)
def test_whatever_stands_in_the_rows_a_cut_loses_none_but_the_torn_one(
    rows: list[dict[str, Any]], share: float
) -> None:
    with TemporaryDirectory() as folder:
        output = Path(folder) / "out.json"
        named = {str(number): row for number, row in enumerate(rows)}
        with RowStore(output, {}) as store:
            store.add(named)
        content = store.path.read_bytes()
        assert content.count(b"\n") == 1 + len(rows)
        cut = round(share * len(content))
        store.path.write_bytes(content[:cut])
        with RowStore(output, {}) as again:
            whole = max(0, content[:cut].count(b"\n") - 1)
            assert list(again.rows.items()) == list(named.items())[:whole]
            again.add(named)
        with RowStore(output, {}) as last:
            assert last.rows == named


def test_a_hole_that_a_power_cut_left_is_done_again(tmp_path: Path) -> None:
    work(tmp_path / "whole.json", SETTINGS)
    path = half_done(tmp_path / "out.json")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    assert work(tmp_path / "out.json", SETTINGS) == 4
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_it_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half_done(tmp_path / "out.json")
    work(tmp_path / "out.json", SETTINGS)
    assert capsys.readouterr().err == f"{tmp_path}/out.json: resuming after 4 finished rows\n"


def test_a_row_under_a_key_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    with RowStore(tmp_path / "out.json", {}) as store:
        store.add({"a": {"text": "first"}})
        store.add({"a": {"text": "second"}, "b": {"text": "new"}})
        store.fail("a", "too late")
    with RowStore(tmp_path / "out.json", {}) as store:
        assert store.rows == {"a": {"text": "first"}, "b": {"text": "new"}}
        assert store.failed == {}


def test_a_key_is_the_content_of_settings_and_parts_whatever_their_order(tmp_path: Path) -> None:
    with RowStore(tmp_path / "a", {"x": 1, "y": 2}) as a, RowStore(tmp_path / "b", {"y": 2, "x": 1}) as b:
        assert a.key({"q": "1", "r": [2]}, 0) == b.key({"r": [2], "q": "1"}, 0)
        assert a.key(Note(text="é"), 0) == a.key({"text": "é"}, 0)
        assert len({a.key("1", 0), a.key("1", 1), a.key("10"), a.key("1", "0"), a.key(["1", 0])}) == 5
    with RowStore(tmp_path / "c", {"x": 1, "y": 3}) as c:
        assert c.key("1", 0) != a.key("1", 0)


def test_other_settings_are_refused_naming_the_difference_and_lose_nothing(tmp_path: Path) -> None:
    path = half_done(tmp_path / "out.json")
    before = path.read_bytes()
    other = SETTINGS | {"seed": 2, "lora": {"r": 16, "targets": ["q", "v"]}}
    with pytest.raises(InputError, match=r"\(seed was 1, is now 2; lora\.r was 8, is now 16\)"):
        work(tmp_path / "out.json", other)
    assert path.read_bytes() == before


def test_other_settings_are_taken_where_nothing_was_finished(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(ZeroDivisionError), RowStore(output, SETTINGS):
        raise ZeroDivisionError  # an unknown device, say: found out before the first row
    with RowStore(output, SETTINGS | {"seed": 2}) as store:
        store.fail("a", "no reply")
    work(output, SETTINGS | {"seed": 3})
    with RowStore(output, SETTINGS | {"seed": 3}) as store:
        assert store.is_finished


def test_an_output_that_is_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}: is a folder"):
        RowStore(tmp_path, SETTINGS)


def test_what_is_finished_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    assert work(output, SETTINGS) == 5
    assert len(read(journal_path(output))) == 2
    before = journal_path(output).read_bytes()
    assert work(output, SETTINGS) == 0
    said = f"{output}: is finished; delete it to run again\n"
    assert capsys.readouterr().err == said
    assert journal_path(output).read_bytes() == before


@pytest.mark.parametrize("change", ["deleted", "other settings"])
def test_a_missing_output_and_one_of_other_settings_are_made_again(tmp_path: Path, change: str) -> None:
    output, wanted = tmp_path / "out.json", dict(SETTINGS)
    work(output, SETTINGS)
    whole = output.read_bytes()
    if change == "deleted":
        output.unlink()
    else:
        wanted["seed"] = 2
    assert work(output, wanted) == 5
    assert output.read_bytes() == whole
    assert work(output, wanted) == 0


def test_failed_rows_are_done_again_when_told_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    assert work(output, SETTINGS, bad=(1, 3)) == 5
    assert capsys.readouterr().err == f"{output}: 2 rows failed; --retry-failed tries them again\n"
    assert work(output, SETTINGS) == 0
    assert "is finished; delete it to run again; 2 rows failed, --retry" in capsys.readouterr().err
    assert work(output, SETTINGS, bad=(3,), retry=True) == 2
    assert [row.get("number") for row in read(output)] == [None, 1, 2, 4]
    assert work(output, SETTINGS, retry=True) == 1
    assert [row.get("number") for row in read(output)] == [None, 1, 2, 3, 4]
    assert work(output, SETTINGS, retry=True) == 0
    assert len(read(journal_path(output))) == 2


def test_a_deleted_output_with_failed_rows_is_written_again_without_work(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    work(output, SETTINGS, bad=(1,))
    whole = output.read_bytes()
    output.unlink()
    assert work(output, SETTINGS) == 0
    assert output.read_bytes() == whole
    work(output, SETTINGS | {"seed": 2})
    assert len(read(output)) == 5


def test_killed_while_failed_rows_are_done_again_it_ends_the_same(tmp_path: Path) -> None:
    # journal, header, folder, rows, output, folder, the end: 1 to 13; journal, going on, rows: to 17
    points = (13, 15, 17, 19, 22)
    assert same_after_kills(tmp_path, _retried, points=points) == len(points)


def _retried(folder: Path) -> None:
    work(folder / "out.json", SETTINGS, bad=(1, 3))
    work(folder / "out.json", SETTINGS, retry=True)


def test_differences_name_added_removed_and_nested_keys() -> None:
    before = {"a": 1, "gone": "x", "deep": {"b": {"c": 1, "same": 2}}}
    now = {"a": 1, "new": None, "deep": {"b": {"c": 3, "same": 2}}}
    assert differences(before, now) == "gone was 'x', is now None; deep.b.c was 1, is now 3"


def test_an_edited_output_is_finished_and_stays_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    work(output, SETTINGS)
    output.write_text("edited\n")
    assert work(output, SETTINGS) == 0
    assert output.read_text() == "edited\n"


def test_a_question_without_an_id_is_named_by_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_text('{"question": "1?", "answer": "1"}\n{"id": "x-9", "question": "2?", "answer": "2"}\n')
    assert [(row.id, row.dataset) for row in read_rows(path, Question)] == [("shop-1", "shop"), ("x-9", "x")]
