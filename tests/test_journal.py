"""Reading that names what is wrong, writing that a full disk cannot hurt, and a journal that no kill can."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
from pydantic import BaseModel

from tiny import forked, killed, tree
from trice.errors import InputError, TriceError
from trice.journal import Journal, differences, digest, read_rows, write_rows, write_text
from trice.records import Question

GOOD = '{"id": "A_1", "question": "q", "answer": "4"}'


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "rows.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f'{GOOD}\n{{"id": "A_2", "answer": "4"}}\n', r":2: field 'input': Field required"),
        (f'{GOOD}\n\n{{"id": "A_2", "question": "q"}}', r":3: field 'answer': Field required"),
        ('{"id": "", "question": "q", "answer": "4"}', r":1: field 'id': "),
        ('{"id": "a", "question": "q", "answer": " "}', r":1: field 'answer': there is no gold answer"),
        ('{"id": "a", "question": "q", "answer": [[1]]}', r":1: field 'answer"),
        (f"{GOOD}\n{GOOD[:-1]}\n", r":2: not a JSON object \(.+\)"),
        (f"{GOOD}\nacc: 0.5\n", r":2: not a JSON object \(.+\)"),
        ("[" * 100_000, r":1: not a JSON object \(.+\)"),
        ('{"id": "a", "question": "\\ud83d", "answer": "4"}', r":1: not a JSON object \(.+surrogates.+\)"),
        ("[1, 2]\n", r":1: Input should be a valid dictionary"),
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
    write_rows(path, [row, row])
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


def add_much(output: Path) -> None:
    with Journal(output, {"seed": 1}) as journal:
        for number in range(100):
            journal.add(number, [{"text": "x" * 500}])


def fill(folder: Path) -> None:
    """Write into a file and a journal until the process may write no more."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with pytest.raises(TriceError, match=r"x\.json: cannot be written \(File too large\)"):
        write_text(folder / "x.json", "new" * 2000)
    with pytest.raises(TriceError, match=r"out\.json\.partial: cannot be written \(File too large\)"):
        add_much(folder / "out.json")


def test_a_full_disk_loses_neither_the_old_file_nor_finished_units(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("old")
    assert forked(fill, tmp_path) == 0
    assert (tmp_path / "x.json").read_text() == "old"
    assert sorted(tree(tmp_path)) == ["out.json.partial", "x.json"]
    with Journal(tmp_path / "out.json", {"seed": 1}) as journal:
        assert list(journal.units) == ["0", "1", "2"]


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


def work(output: Path, settings: dict[str, object], units: int = 5) -> None:
    """A stage in small: `units` units of two rows each."""
    with Journal(output, settings) as journal:
        for unit in range(units):
            if unit not in journal:
                journal.add(unit, [Note(text=f"ünit {unit}\n"), {"text": "second", "number": unit}])
        journal.finish(row for rows in journal.units.values() for row in rows)


SETTINGS: dict[str, object] = {"seed": 1, "path": Path("a"), "lora": {"r": 8, "targets": ("q", "v")}}


def whole(folder: Path) -> bytes:
    work(folder / "whole" / "out.json", SETTINGS)
    assert sorted(tree(folder / "whole")) == ["out.json"]
    return (folder / "whole" / "out.json").read_bytes()


def test_killed_at_any_act_and_run_again_the_file_is_the_same(tmp_path: Path) -> None:
    expected, point = whole(tmp_path), 0
    while True:
        point += 1
        output = tmp_path / str(point) / "out.json"
        finished = not killed(point, tmp_path, work, output, SETTINGS)
        if not finished:
            assert not output.exists() or output.read_bytes() == expected
            work(output, SETTINGS)
        assert tree(output.parent) == {"out.json": expected}, point
        if finished:
            break
    assert point == 1 + 1 + 5 + 3 + 1 + 1  # open, header, units, write, remove; and one that finished


def test_killed_again_and_again_it_still_ends_the_same(tmp_path: Path) -> None:
    killed_folder, units, kills = tmp_path / "killed", 20, 0
    while killed(6, killed_folder, work, killed_folder / "out.json", SETTINGS, units):
        kills += 1
    assert kills == 5  # 4 units, 5, 5, 5, 1; the last time it was about to remove the journal
    work(tmp_path / "whole" / "out.json", SETTINGS, units)
    assert tree(killed_folder) == tree(tmp_path / "whole")


def half_done(output: Path) -> Path:
    """The journal of three finished units."""
    assert killed(6, output.parent, work, output, SETTINGS)
    partial = output.with_name("out.json.partial")
    assert len(partial.read_bytes().splitlines()) == 5  # the header; the fourth unit was not yet synced
    return partial


def test_a_torn_line_is_done_again_wherever_it_tore(tmp_path: Path) -> None:
    expected, output = whole(tmp_path), tmp_path / "out.json"
    partial = half_done(output)
    content = partial.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in {0, 1, ends[0] - 1, *ends, *(end - 1 for end in ends), *(end + 5 for end in ends[:-1])}:
        partial.write_bytes(content[:cut])
        with Journal(output, SETTINGS) as journal:
            assert len(journal.units) == max(0, sum(end <= cut for end in ends) - 1), cut
        work(output, SETTINGS)
        assert output.read_bytes() == expected, cut
        assert not partial.exists()


def test_a_hole_that_a_power_cut_left_is_done_again(tmp_path: Path) -> None:
    expected, output = whole(tmp_path), tmp_path / "out.json"
    partial = half_done(output)
    lines = partial.read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    partial.write_bytes(b"".join(lines))
    work(output, SETTINGS)
    assert output.read_bytes() == expected


def test_it_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half_done(tmp_path / "out.json")
    work(tmp_path / "out.json", SETTINGS)
    assert capsys.readouterr().err == f"{tmp_path}/out.json: going on after 4 finished steps\n"


def test_other_settings_are_refused_naming_the_difference_and_lose_nothing(tmp_path: Path) -> None:
    partial = half_done(tmp_path / "out.json")
    before = partial.read_bytes()
    other = SETTINGS | {"seed": 2, "lora": {"r": 16, "targets": ["q", "v"]}}
    with pytest.raises(InputError, match=r"\(seed was 1, is now 2; lora\.r was 8, is now 16\)"):
        work(tmp_path / "out.json", other)
    assert partial.read_bytes() == before


def test_other_settings_are_taken_where_nothing_was_finished(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Journal(tmp_path / "out.json", SETTINGS):
        raise ZeroDivisionError  # an unknown device, say: found out before the first unit
    work(tmp_path / "out.json", SETTINGS | {"seed": 2})
    assert list(tree(tmp_path)) == ["out.json"]


def test_an_output_that_is_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}: is a folder"):
        Journal(tmp_path, SETTINGS)


def test_differences_name_added_removed_and_nested_keys() -> None:
    before = {"a": 1, "gone": "x", "deep": {"b": {"c": 1, "same": 2}}}
    now = {"a": 1, "new": None, "deep": {"b": {"c": 3, "same": 2}}}
    assert differences(before, now) == "gone was 'x', is now None; deep.b.c was 1, is now 3"
