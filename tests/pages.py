"""Reading HTML the way a browser would find its elements, for tests of fragments and pages."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text inside; scripts and styles keep theirs to themselves."""
        return "".join(self.pieces)


@dataclass
class Page(HTMLParser):
    """All elements of a page in order, with the text inside each; `unbalanced` holds end tags that fit no start tag."""

    source: str
    elements: list[Element] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        self.unbalanced += [element.tag for element in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.unbalanced.append(tag)
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        is_code = bool(self._open) and self._open[-1].tag in ("script", "style")
        for element in self._open[-1:] if is_code else self._open:
            element.pieces.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def requests(self) -> list[str]:
        """Every address that a browser would load or follow outside the page: none is wanted."""
        wanted = ("src", "href", "srcset", "poster", "data", "action", "formaction", "background")
        values = [e.attributes[name] for e in self.elements for name in wanted if name in e.attributes]
        styles = [e.text for e in self.all("style")] + [e.attributes.get("style", "") for e in self.elements]
        values += [url for style in styles for url in re.findall(r"url\(([^)]*)\)|@import\s+([^;]*)", style)]
        return [value for value in values if not str(value).startswith("#")]

    def plots(self) -> list[tuple[str, list, dict, dict]]:
        """What each drawn figure hands to Plotly: id, traces, layout and configuration."""
        calls = [
            e.text.partition("Plotly.newPlot(")[2] for e in self.all("script") if "window.PLOTLYENV" in e.text[:200]
        ]
        return [_arguments(call) for call in calls]


def _arguments(call: str) -> tuple[str, list, dict, dict]:
    found, at = [], 0
    for _ in range(4):
        at = re.compile(r"[\s,]*").match(call, at).end()
        value, at = json.JSONDecoder().raw_decode(call, at)
        found.append(value)
    return tuple(found)
