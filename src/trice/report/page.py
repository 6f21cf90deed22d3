"""The report as one self-contained HTML page, which opens from disk without a network.

What stands in it comes from elsewhere: sections, tables and figures from `trice.report.sections`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from trice.report.folder import RunInfo
from trice.report.headline import Headline
from trice.report.text import Section, cut


def page(info: RunInfo, title: str, headlines: Sequence[Headline], parts: Sequence[Section]) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("trice.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    # Autoescape: questions, responses and names are data from strangers. Only our own plots are marked safe.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        title=title, model=cut(info.model, 200), info=info, headlines=headlines, sections=parts
    )
