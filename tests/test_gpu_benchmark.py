"""The GPU benchmark in miniature on the CPU: every phase runs, limits hold, and results are written as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny import forked

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"


def measured(output: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and results of `run.py` with these words."""
    command = [
        sys.executable,
        str(GPU / "run.py"),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--tiny",
        *words,
    ]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    return ended.returncode, json.loads((output / "results.json").read_text(encoding="utf-8"))


def run_phase(name: str, output: Path) -> None:
    """What the process of a phase does."""
    sys.path.insert(0, str(GPU))
    import run

    words = ["--phase", name, "--site", str(output / "site"), "--carried", str(output / "nothing")]
    sys.argv = ["run.py", "--output", str(output), "--device", "cpu", "--tiny", *words]
    run.main()


def test_every_phase_runs_in_miniature(tmp_path: Path) -> None:
    """Each phase runs in a process that has its imports already."""
    parts = {}
    for name in ("exactness", "training", "generation", "loop"):
        assert forked(run_phase, name, tmp_path / name) == 0
        parts[name] = json.loads((tmp_path / name / "phase.json").read_text(encoding="utf-8"))["parts"]
    stages = parts["exactness"]["gemma3"]
    assert stages["stage 2, float32, checkpointing"]["packed"]["gradient"] < 5e-5
    step = parts["training"]["stage 2"]
    assert step["ours"]["loss"] == pytest.approx(step["published"]["loss"], rel=1e-3)
    assert step["gradient_cosine"] > 0.999
    assert parts["generation"]["equality, float32"]["different"] == 0
    assert parts["generation"]["tiny, ours"]["written"] == 48
    assert list(parts["loop"]["loop"]["conditions"]) == ["zero-shot", "stage-1", "both"]


def test_a_phase_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    words = ["--carried", str(tmp_path / "nothing"), "--phases", "generation", "--parts", "equality"]
    code, results = measured(tmp_path / "out", *words)
    (phase,) = results["phases"].values()
    assert (code, phase["status"]) == (0, "done")
    assert phase["parts"]["equality, float32"]["different"] == 0


def test_a_phase_that_overruns_is_ended_and_the_next_follows(tmp_path: Path) -> None:
    code, results = measured(tmp_path / "out", "--phases", "exactness", "loop", "--total", "0")
    assert code == 0
    assert [phase["status"] for phase in results["phases"].values()] == ["skipped", "skipped"]
    program = f"""
import sys
sys.path.insert(0, {str(GPU)!r})
import run
run.PHASES, run.LEAST = {{"exactness": 0.5, "loop": 0.1}}, 0.2
sys.exit(run.main())
"""
    words = ["--output", str(tmp_path / "late"), "--device", "cpu", "--tiny", "--carried", str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", program, *words], check=False)
    phases = json.loads((tmp_path / "late" / "results.json").read_text(encoding="utf-8"))["phases"]
    assert ended.returncode == 1
    assert [phase["status"] for phase in phases.values()] == ["overran", "skipped"]


def test_a_file_in_parts_is_joined_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    from carried import join, split

    whole, folder = tmp_path / "weights", tmp_path / "parts"
    whole.write_bytes(bytes(range(256)) * 5)
    parts = split(whole, folder, 500)
    assert [(part / "data").stat().st_size for part in parts] == [500, 500, 280]
    assert join(folder, tmp_path / "parts").read_bytes() == whole.read_bytes()
    (parts[1] / "data").write_bytes(b"\0" * 500)
    with pytest.raises(ValueError, match="sha256"):
        join(folder, tmp_path / "parts")
    (parts[2] / "data").unlink()
    with pytest.raises(FileNotFoundError, match="part 3 of 3"):
        join(folder, tmp_path / "parts")
