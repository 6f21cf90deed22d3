"""Run a notebook, and store its outputs: `python docs/notebook.py docs/tutorial/3-in-a-notebook.ipynb`.

The cells run in order in one namespace, as in Jupyter, and the page beside the notebook is made from the result:
the site shows that page. It does not start a Jupyter kernel, and progress on stderr is not stored.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def run(cells: list[Cell], parameters: str | None = None) -> list[Cell]:
    """Run the code cells, and return all cells with their outputs.

    Args:
        cells: The cells of a notebook.
        parameters: Code that runs in place of the cell with the tag `parameters`.

    Raises:
        Exception: Whatever a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    done, count = [], 0
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            replaced = parameters is not None and "parameters" in cell["metadata"].get("tags", [])
            source = parameters if replaced else "".join(cell["source"])
            cell = cell | {"execution_count": count, "outputs": run_code(source or "", names, count)}
        done.append(cell)
    return done


def run_code(source: str, names: dict[str, Any], count: int) -> list[Cell]:
    """Run one cell: the outputs are what it prints, and the value of a last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[Cell] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": count, "metadata": {}}
        outputs.append(shown | {"data": display(value)})
    return outputs


def display(value: Any) -> dict[str, Any]:
    """A value by MIME type, as Jupyter shows it."""
    shown: dict[str, Any] = {"text/plain": lines(repr(value))}
    if hasattr(value, "savefig"):  # of matplotlib
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=80)
        shown["image/png"] = base64.b64encode(picture.getvalue()).decode()
    elif hasattr(value, "_repr_html_"):
        shown["text/html"] = lines(value._repr_html_())
    return shown


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def page(notebook: dict[str, Any], name: str) -> str:
    """The notebook as a Markdown page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![The figure of the cell above]({name}.png)")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                text = "".join(output.get("text") or data["text/plain"]).rstrip()
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def main(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"] = run(notebook["cells"])
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(notebook, path.stem), encoding="utf-8")
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                path.with_suffix(".png").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
