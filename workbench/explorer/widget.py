"""The explorer as a Jupyter widget: map, card, strength slider, steered text beside unsteered.

All it shows is computed here, by the library; the front end draws the map and says what was clicked. Where no kernel
answers (an exported notebook, a page of a code host) the card stands alone as static HTML.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from IPython.display import HTML, display

from workbench.explorer.cards import dimension_card
from workbench.explorer.directions import EDITS, continuation, edit_of
from workbench.explorer.drawing import TEMPLATES, card_html, compared_html
from workbench.explorer.maps import MEASURES, dimension_map
from workbench.explorer.material import Material, from_model, from_run
from workbench.models import HookedModel
from workbench.records import Prompt

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError("the explorer needs the extra `notebook`: pip install 'dcd-workbench[notebook]'") from error

START = "The owner of the house"


class Explorer(anywidget.AnyWidget):
    """The widget; made by `explore`. Setting `domain`, `layer`, `dimension`, `edit`, `strength` or `prompt` updates."""

    _esm = TEMPLATES / "explorer.js"
    _css = TEMPLATES / "explorer.css"

    domains = traitlets.List(traitlets.Unicode()).tag(sync=True)
    measures = traitlets.List(traitlets.Unicode(), list(MEASURES)).tag(sync=True)
    edits = traitlets.List(traitlets.Unicode(), list(EDITS)).tag(sync=True)
    n_layers = traitlets.Int().tag(sync=True)
    d_model = traitlets.Int().tag(sync=True)
    is_live = traitlets.Bool().tag(sync=True)
    static_id = traitlets.Unicode().tag(sync=True)

    levels = traitlets.Bytes().tag(sync=True)
    values = traitlets.Bytes().tag(sync=True)
    is_diverging = traitlets.Bool().tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)
    marked = traitlets.List(traitlets.Int()).tag(sync=True)
    card = traitlets.Unicode().tag(sync=True)
    texts = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)

    domain = traitlets.Unicode().tag(sync=True)
    measure = traitlets.Unicode(MEASURES[0]).tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    dimension = traitlets.Int().tag(sync=True)
    edit = traitlets.Unicode(EDITS[0]).tag(sync=True)
    strength = traitlets.Float(0.0).tag(sync=True)
    prompt = traitlets.Unicode(START).tag(sync=True)

    def __init__(self, material: Material, domain: str, dimension: int, layer: int | None, n_tokens: int) -> None:
        self._material = material
        self._n_tokens = n_tokens
        self._plain: dict[str, str] = {}
        first = dimension_card(material, dimension, domain, layer)
        super().__init__(
            domains=list(material.statistics.domains),
            n_layers=material.n_layers,
            d_model=material.d_model,
            is_live=material.model is not None,
            static_id=f"dimension-card-{uuid4().hex}",
            domain=domain,
            layer=first.layer,
            dimension=dimension,
            card=card_html(first),
        )
        self._draw_map()
        self._say_what_is_edited()
        self.observe(self._on_map, ["domain", "measure"])
        self.observe(self._on_card, ["domain", "layer", "dimension"])
        self.observe(self._on_text, ["domain", "layer", "dimension", "edit", "strength", "prompt"])

    def _ipython_display_(self) -> None:
        """The static card, which a live front end hides, then the widget."""
        display(HTML(f'<div id="{self.static_id}">{self.card}</div>'))
        data, metadata = self._repr_mimebundle_()  # pyright: ignore[reportGeneralTypeIssues]
        display(data, metadata=metadata, raw=True)

    def _draw_map(self) -> None:
        drawn = dimension_map(self._material.statistics, self.domain, self.measure)
        with self.hold_sync():
            self.levels, self.values = drawn.levels.tobytes(), drawn.values.astype("<f4").tobytes()
            self.is_diverging, self.unit, self.caption = drawn.is_diverging, drawn.unit, drawn.caption
            self.marked = self._material.chosen(self.domain)

    def _on_map(self, _: Any) -> None:
        self._attempt(self._draw_map)

    def _on_card(self, _: Any) -> None:
        self._attempt(self._draw_card)

    def _on_text(self, _: Any) -> None:
        self._attempt(self._draw_texts)

    def _draw_card(self) -> None:
        self.card = card_html(dimension_card(self._material, self.dimension, self.domain, self.layer))

    def _draw_texts(self) -> None:
        if not self.is_live:
            return
        self.status = "writing …"
        if self.prompt not in self._plain:
            self._plain = {self.prompt: continuation(self._material, self.prompt, self._n_tokens)}
        plain = self._plain[self.prompt]
        steering = edit_of(self._material, self.edit, self.domain, self.layer, self.dimension)
        steered = continuation(self._material, self.prompt, self._n_tokens, steering, self.strength)
        self.texts = compared_html(self.prompt, plain, steered)
        self._say_what_is_edited()

    def _say_what_is_edited(self) -> None:
        if not self.is_live:
            self.status = "No model at hand: pass model=workbench.load_model(...) of this run to steer."
            return
        unit = "standard deviations" if self.edit == "this dimension" else "differences of means"
        what = f"dimension {self.dimension}" if self.edit == "this dimension" else f"{self.edit}, towards {self.domain}"
        amount = f"{self.strength:+g}".replace("-", "−")
        self.status = f"Adds {amount} {unit} at layer {self.layer}: {what}; every token but the first."

    def _attempt(self, job: Any) -> None:
        """Say a mistake of the user where it was made; an observer's exception would only reach a log."""
        try:
            job()
        except ValueError as error:
            self.status = f"Not possible: {error}"


def explore(
    source: str | Path | HookedModel,
    *,
    model: HookedModel | None = None,
    prompts: Sequence[Prompt] | None = None,
    domain: str | None = None,
    dimension: int | None = None,
    layer: int | None = None,
    n_tokens: int = 24,
) -> Explorer:
    """The explorer of a run folder, or of a model over prompts (by default built-in passages: two passes, a minute).

    It opens on the dimension that `domain` discriminates best, unless `dimension` and `layer` name another. A run of a
    model other than the built-in one takes that model and its prompts; without them nothing is steered. Needs the extra
    `notebook`.
    """
    if isinstance(source, HookedModel):
        material = from_model(source, prompts)
    else:
        material = from_run(Path(source), model=model, prompts=prompts)
    if dimension is None:
        evidence = [each for each in material.evidence.values() if domain in (None, each.domain)]
        best = max(evidence, key=lambda each: each.frequency - each.frequency_elsewhere, default=None)
        domain, dimension = (str(domain), 0) if best is None else (best.domain, best.dimension)
    return Explorer(material, domain or material.statistics.domains[0], dimension, layer, n_tokens)
