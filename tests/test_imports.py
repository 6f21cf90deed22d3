"""What is imported when: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch", "transformers", "peft", "openai", "matplotlib", "jinja2", "datasets", "accelerate", "numpy", "fastapi",
    "uvicorn", "prometheus_client",
}  # fmt: skip


def loaded(code: str) -> set[str]:
    """The heavy modules that `code` imports, in a Python of its own."""
    told = f"{code}\nimport sys\nprint('modules:', *sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    return HEAVY & set(output.rpartition("modules:")[2].split())


def run(*words: str) -> str:
    """Code that runs `trice words` and goes on."""
    return (
        f"import sys\nsys.argv = ['trice', *{words!r}]\nfrom trice.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import trice",
        "import trice.recipes.recipe, trice.storage.files, trice.rewards, trice.tasks, trice.metrics",
        "import trice.recipes.runner",
        run("--help"),
        run("run", "--help"),
        run("serve", "--help"),
        run("tool", "calculator", "1+1"),
        run("data", "list"),
        "import trice.stages.export_data, trice.stages.import_data, trice.training.hub",
        run("run", "demo", "clone.epcohs=1"),
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded(code) == set()


def test_import_trice_takes_less_than_half_a_second() -> None:
    code = "import time; start = time.process_time(); import trice; print(time.process_time() - start)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(output) < 0.5


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    import trice

    assert trice.__version__ == version("trice-rlef")
