"""`dtype: auto` on a CPU is measured once for each machine and each restriction of its instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trice.models import cpu_dtype
from trice.models.local import resolve_dtype

RESTRICTED = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def resolved(cache: Path, **environment: str) -> str:
    """What `auto` is in a process of its own."""
    code = "from trice.models.local import resolve_dtype; print(resolve_dtype('auto', 'cpu'))"
    mine = {name: value for name, value in os.environ.items() if name not in cpu_dtype.VARIABLES}
    env = mine | {"TRICE_CACHE": str(cache)} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_measured_dtype_is_kept_for_later_processes_with_the_same_instructions(tmp_path: Path) -> None:
    first = resolved(tmp_path)
    (file,) = tmp_path.glob("dtype-*.json")
    kept = json.loads(file.read_text())
    assert kept["dtype"] == first
    other = {"float32": "bfloat16", "bfloat16": "float32"}[first]  # what no measurement here would say
    file.write_text(json.dumps(kept | {"dtype": other}))
    assert resolved(tmp_path) == other
    # Without instructions for bfloat16, which is another machine, `auto` is measured again, and is float32.
    assert resolved(tmp_path, **RESTRICTED) == "float32"
    (restricted,) = set(tmp_path.glob("dtype-*.json")) - {file}
    kept = json.loads(restricted.read_text())
    assert kept["dtype"] == "float32"
    assert kept["machine"]["environment"] == dict(sorted(RESTRICTED.items()))
    assert kept["seconds"]["float32"] < cpu_dtype.MARGIN * kept["seconds"]["bfloat16"]
    file.write_text('{"dtype": "int')  # torn
    assert resolved(tmp_path) == first
    assert json.loads(file.read_text())["dtype"] == first


def test_the_verdict_is_what_the_times_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path))
    dtype = resolve_dtype("auto", "cpu")
    (file,) = tmp_path.glob("dtype-*.json")
    seconds = json.loads(file.read_text())["seconds"]
    assert (dtype == "bfloat16") == (seconds["float32"] >= 1.25 * seconds["bfloat16"])


def test_without_a_cache_folder_auto_still_has_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "file" / "cache"))
    dtype = resolve_dtype("auto", "cpu")
    assert dtype in ("float32", "bfloat16")
    assert resolve_dtype("auto", "cpu") == dtype
    assert capsys.readouterr().err.count("cannot be written") == 1  # the answer is kept in the process


def test_the_rate_is_that_of_some_processor() -> None:
    assert 1e8 < cpu_dtype.rate("float32") < 1e14
