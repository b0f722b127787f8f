"""Figures as HTML: fragments for a page, stand-alone files, and the page itself, all without a network request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from workbench.figures.journal import narrow_layout
from workbench.figures.style import template
from workbench.records import write_whole

# Given to Plotly with every figure: nothing is offered that would send data away.
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "toImageButtonOptions": {"format": "svg"},
}
# The browser itself refuses every request that a page might make.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Section:
    """One part of a page: `anchor` is its address within the page, `body` finished HTML."""

    anchor: str
    title: str
    body: str


def figure_fragment(figure: go.Figure, *, name: str, caption: str) -> str:
    """A figure with its caption as an HTML fragment; the page around it has to hold plotly.js.

    `name` (letters, digits and hyphens) gives the id `plot-name` and the file name of downloads. `caption` is plain
    text; a screen reader says the title of the figure, then the caption.
    """
    if not name or not all(sign.isalnum() or sign == "-" for sign in name):
        raise ValueError(f"figure name {name!r} cannot be an id; use letters, digits and hyphens")
    height = f"{int(figure.to_dict()['layout'].get('height', 450))}px"
    config = CONFIG | {"toImageButtonOptions": {"format": "svg", "filename": name}}
    drawn = to_html(
        figure,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        div_id=f"plot-{name}",
        default_height=height,
    )
    title = escape(figure_title(figure))
    narrow = json.dumps(narrow_layout(figure), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<figure class="plot"><p class="plot-title" aria-hidden="true">{title}</p>'
        f'<div class="plot-scroll" role="img" tabindex="0" aria-label="{title}" '
        f'aria-describedby="caption-{name}" style="height:{height}">{drawn}</div>'
        f'<script type="application/json" class="narrow-layout">{narrow}</script>'
        f'<figcaption id="caption-{name}">{escape(caption)}</figcaption></figure>'
    )


def figure_title(figure: go.Figure) -> str:
    """The title of a figure without its markup; "figure" where it has none."""
    title = figure.to_dict()["layout"].get("title", {}).get("text", "figure")
    return title.replace("<b>", "").replace("</b>", "")


def write_figure(figure: go.Figure, path: str | Path, *, caption: str = "") -> Path:
    """Write a figure as a stand-alone HTML file that opens without a network; returns the path."""
    title = figure_title(figure)
    body = figure_fragment(figure, name="figure", caption=caption or title)
    return write_page(path, title=title, lead="", sections=[Section("figure", "", body)])


def write_page(path: str | Path, *, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write one self-contained page: plotly.js once, a table of contents, light and dark, ready for print.

    `title` is plain text; `lead` and the bodies of the sections are finished HTML. The file appears whole or not.
    """
    parts = {
        "TITLE": escape(title),
        "POLICY": POLICY,
        "STYLE": (ASSETS / "page.css").read_text(encoding="utf-8"),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": f"const templates = {_templates()};\n{(ASSETS / 'page.js').read_text(encoding='utf-8')}",
        "CONTENTS": _contents(sections),
        "LEAD": lead,
        "SECTIONS": "\n".join(map(_section, sections)),
    }
    pieces = (ASSETS / "page.html").read_text(encoding="utf-8").split("@@")
    page = "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))
    write_whole(path, page)
    return Path(path)


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> str:
    """A table of plain texts, escaped, in a frame that scrolls by keyboard; numbers stand to the right."""
    if not rows:
        return "<p>Nothing to list.</p>"
    head = "".join(f'<th scope="col">{escape(item)}</th>' for item in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    text = escape(label, quote=True)
    return (
        f'<div class="table-scroll" role="region" tabindex="0" aria-label="{text}"><table><caption>{escape(label)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def definitions_html() -> str:
    """What the quantities in figures and tables mean, as a list of definitions."""
    return (ASSETS / "definitions.html").read_text(encoding="utf-8")


def _cell(text: str) -> str:
    is_number = bool(text) and (text[0].isdigit() or text[0] in "−+–")
    return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"


def _templates() -> str:
    both = {"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()}
    return json.dumps(both).replace("<", "\\u003c")


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    items = "".join(f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections)
    return f'<nav aria-label="Contents"><h2>Contents</h2><ol>{items}</ol></nav>'


def _section(section: Section) -> str:
    heading = f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>' if section.title else ""
    labelled = f' aria-labelledby="{section.anchor}-title"' if section.title else ""
    return f'<section id="{section.anchor}"{labelled}>{heading}{section.body}</section>'
