"""Figures, tables and pages as HTML: templates that escape whatever is no finished markup; no page asks the network."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from workbench.figures.journal import narrow_layout
from workbench.figures.style import number, template
from workbench.records import write_whole

# Given to Plotly with every figure: nothing is offered that would send data away.
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "toImageButtonOptions": {"format": "svg"},
}
# The browser itself refuses every request that a page might make; a shared plotly.min.js lies beside the page.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """One part of a page: `anchor` is its address within the page; `body` is escaped unless it is `Markup`."""

    anchor: str
    title: str
    body: str


@dataclass(frozen=True)
class Table:
    """A table of plain texts, to be escaped by the template that shows it."""

    label: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@cache
def environment(templates: Path = TEMPLATES) -> Environment:
    """The templates of a folder beside those of figures. Values are escaped; a name that is not given is an error."""
    made = Environment(
        loader=FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "script_json": script_json}
    made.globals |= {"table": table_html, "include": lambda name: Markup((templates / name).read_text("utf-8"))}
    return made


def render(template_name: str, templates: Path = TEMPLATES, /, **values: Any) -> Markup:
    """A template filled with values."""
    return Markup(environment(templates).get_template(template_name).render(values))


def script_json(value: Any) -> Markup:
    """JSON that cannot leave the script element it stands in."""
    return Markup(json.dumps(value, ensure_ascii=False).replace("<", "\\u003c"))


def figure_fragment(figure: go.Figure, *, name: str, caption: str) -> Markup:
    """A figure with its caption as an HTML fragment; the page around it has to hold plotly.js.

    `name` (letters, digits and hyphens) gives the id `plot-name` and the file name of downloads. `caption` is plain
    text; a screen reader says the title of the figure, then the caption.
    """
    if not name or not all(sign.isalnum() or sign == "-" for sign in name):
        raise ValueError(f"figure name {name!r} cannot be an id; use letters, digits and hyphens")
    height = f"{int(figure.to_dict()['layout'].get('height', 450))}px"
    config = CONFIG | {"toImageButtonOptions": {"format": "svg", "filename": name}}
    options = {"include_plotlyjs": False, "full_html": False, "div_id": f"plot-{name}", "default_height": height}
    drawn = Markup(to_html(figure, config=config, **options))
    title, narrow = figure_title(figure), narrow_layout(figure)
    return render("figure.html.j2", title=title, name=name, height=height, drawn=drawn, narrow=narrow, caption=caption)


def figure_title(figure: go.Figure) -> str:
    """The title of a figure as plain text; "figure" where it has none."""
    title = figure.to_dict()["layout"].get("title", {}).get("text", "figure")
    return Markup(title).striptags()


def write_figure(figure: go.Figure, path: str | Path, *, caption: str = "", plotly: Path | None = None) -> Path:
    """Write a figure as an HTML file that opens without a network; returns the path.

    It holds plotly.js (5 MB) unless `plotly` names a copy on the same disk, as `share_plotly` writes it.
    """
    title = figure_title(figure)
    body = figure_fragment(figure, name="figure", caption=caption or title)
    return write_page(path, title=title, sections=[Section("figure", "", body)], plotly=plotly)


def share_plotly(folder: str | Path) -> Path:
    """The copy of plotly.js that all pages of a folder share, `assets/plotly.min.js`; written where it is missing."""
    path, source = Path(folder) / "assets" / "plotly.min.js", get_plotlyjs()
    if not path.is_file() or path.stat().st_size != len(source.encode("utf-8")):
        write_whole(path, source)
    return path


def write_page(
    path: str | Path, *, title: str, sections: Sequence[Section], lead: str = "", plotly: Path | None = None
) -> Path:
    """Write one page: a table of contents, light and dark, ready for print. The file appears whole or not.

    `plotly` as in `write_figure`. `lead` stands before the sections; it is escaped unless it is `Markup`.
    """
    address = Path(os.path.relpath(plotly, Path(path).parent)).as_posix() if plotly else ""
    values = {
        "title": title,
        "lead": lead,
        "sections": sections,
        "policy": POLICY.format(scripts="'unsafe-inline' 'self' file:" if plotly else "'unsafe-inline'"),
        "plotly_address": address,
        "plotly": "" if plotly else Markup(get_plotlyjs()),
        "both": {"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()},
    }
    write_whole(path, render("page.html.j2", **values))
    return Path(path)


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> Markup:
    """A table of plain texts, escaped, in a frame that scrolls by keyboard; numbers stand to the right."""
    return render("table.html.j2", heads=heads, rows=rows, label=label)


def definitions_html() -> Markup:
    """What the quantities in figures and tables mean, as a list of definitions."""
    return render("definitions.html.j2")
