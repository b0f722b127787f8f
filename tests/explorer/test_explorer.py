"""Cards, maps and directions of the explorer on a tiny model and text with known words."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import LAW_DIMENSION
from tests.pages import Page
from workbench.activations import stream
from workbench.corpus import load_corpus
from workbench.explorer import ExplorerError, Material, card_html, card_page, dimension_card, from_model, from_run
from workbench.explorer import material as module
from workbench.explorer.directions import continuation, direction_towards, edit_of, spread
from workbench.explorer.drawing import compared_html
from workbench.explorer.maps import dimension_map
from workbench.interventions import CriticalDimensionSteering
from workbench.models import load_model
from workbench.records import Site


@pytest.fixture(scope="module")
def material(tiny_model_folder: Path, tiny_corpus_folder: Path) -> Material:
    return from_model(load_model(str(tiny_model_folder)), load_corpus(tiny_corpus_folder, seed=0), k=3)


def test_contexts_are_the_text_at_their_address(material: Material) -> None:
    card = dimension_card(material, LAW_DIMENSION, "law", 1)
    texts = {prompt.name: prompt.text for prompt in material.prompts}
    for contexts in card.contexts:
        assert len(contexts) == 8
        for context in contexts:
            assert context.before + context.token + context.after in texts[context.prompt]
    high, low = ([context.value for context in contexts] for contexts in card.contexts)
    assert high == sorted(high, reverse=True)
    assert low == sorted(low)
    assert {context.token.strip() for context in card.contexts[0]} <= {"court", "law", "judge", "shall", "statute"}


def test_text_that_was_not_collected_is_refused(material: Material) -> None:
    other = dataclasses.replace(material, prompts=material.prompts[::-1])
    with pytest.raises(ExplorerError, match="is not the text"):
        dimension_card(other, LAW_DIMENSION, "law", 1)


def test_without_a_model_contexts_come_from_the_detector_of_that_reading(material: Material) -> None:
    alone = dataclasses.replace(material, model=None)
    found = next(each for each in material.detectors if each.dimension == LAW_DIMENSION and each.domain == "law")
    card = dimension_card(alone, LAW_DIMENSION, "law", found.layer)
    assert card.contexts[0 if found.end == "high" else 1] == found.top_tokens[:8]
    assert card.promoted == found.promoted
    with pytest.raises(ExplorerError, match="no model to steer"):
        continuation(alone, "the court", 2)


def test_the_direction_from_rows_is_the_one_that_fitting_finds(material: Material) -> None:
    assert material.model is not None
    identify = [prompt for prompt in material.prompts if prompt.split == "identify"]
    law = [prompt.text for prompt in identify if prompt.domain == "law"]
    rest = [prompt.text for prompt in identify if prompt.domain != "law"]
    fitted = CriticalDimensionSteering.fit(
        material.model, law, rest, layers=[1], dimensions=list(range(material.d_model))
    )
    torch.testing.assert_close(direction_towards(material, "law", 1), fitted.direction[0], rtol=1e-4, atol=1e-5)


def test_spread_is_the_standard_deviation_over_all_domains(material: Material) -> None:
    assert material.model is not None
    identify = [prompt for prompt in material.prompts if prompt.split == "identify"]
    batches = stream(material.model, identify, [Site("resid_post", 1)])
    values = torch.cat([batch.values[0][batch.positions > 0] for batch in batches])
    assert spread(material, 1, 7) == pytest.approx(float(values[:, 7].double().std(correction=0)), rel=1e-5)


def test_edits_act_on_what_they_say(material: Material) -> None:
    x, positions = torch.zeros(1, 1, material.d_model), torch.zeros(1, 1, dtype=torch.long)

    def delta(edit: str) -> torch.Tensor:
        return edit_of(material, edit, "law", 1, 7).delta(x, Site("resid_post", 1), positions)[0, 0]

    assert delta("this dimension").nonzero().flatten().tolist() == [7]
    assert delta("this dimension")[7] == pytest.approx(spread(material, 1, 7))
    whole, cds = delta("all dimensions"), delta("dimensions of the domain (CDS)")
    assert sorted(cds.nonzero().flatten().tolist()) == sorted(material.chosen("law"))
    assert len(material.chosen("law")) == 3
    kept = cds != 0
    assert torch.equal(whole[kept], cds[kept])
    with pytest.raises(ExplorerError, match="unknown edit"):
        delta("everything")


def test_map_levels(material: Material) -> None:
    drawn = dimension_map(material.statistics, "law", "magnitude")
    largest = drawn.values.argmax(axis=1)
    assert (drawn.levels[np.arange(2), largest] == 255).all()
    assert (np.median(drawn.levels, axis=1) <= 12).all()  # 16 dimensions: the median lies between two of them
    one, other = (dimension_map(material.statistics, domain, "against other domains") for domain in ("law", "science"))
    np.testing.assert_allclose(one.values * other.values, 1.0, rtol=1e-5)
    assert (np.abs(one.levels.astype(int) + other.levels - 255) <= 1).all()
    assert one.levels[0, LAW_DIMENSION] > 128
    with pytest.raises(ExplorerError, match="unknown measure"):
        dimension_map(material.statistics, "law", "size")


def test_card_is_sound_html_without_scripts_or_requests(material: Material) -> None:
    card = dimension_card(material, LAW_DIMENSION, "law")
    hostile = dataclasses.replace(card, promoted=("<script>alert(1)</script>", "&"), domains=("law", "<b>science"))
    for source in (card_page(card), card_page(hostile), card_html(hostile)):
        page = Page(source)
        assert page.unbalanced == []
        assert page.requests() == []
        assert page.all("script") == page.all("b") == []
    polylines = [element for element in Page(card_html(card)).all("polyline")]
    assert len(polylines) == 2 * len(card.domains)


def test_only_what_differs_is_marked() -> None:
    page = Page(compared_html("A <b>", " judge went", " judge said & went"))
    assert [element.text for element in page.all("mark")] == ["said & went"]
    assert Page(compared_html("A", " same", " same")).all("mark") == []


def test_widget_follows_its_traits(material: Material) -> None:
    widget = pytest.importorskip("workbench.explorer.widget").Explorer(material, "law", LAW_DIMENSION, 1, 4)
    assert widget.texts == ""
    widget.edit = "all dimensions"
    widget.strength = 40.0
    assert "<mark>" in widget.texts
    widget.strength = 0.0
    assert "<mark>" not in widget.texts
    widget.dimension = 7
    assert "Dimension 7 in law" in widget.card
    levels = widget.levels
    widget.domain = "science"
    assert "Dimension 7 in science" in widget.card
    assert widget.levels != levels
    widget.prompt = "the court " * 200
    assert widget.status.startswith("Not possible: text 0 has")
    widget.close()


def test_display_gives_the_card_first_then_the_widget(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    module = pytest.importorskip("workbench.explorer.widget")
    monkeypatch.setattr(module, "display", lambda value, **_: shown.append(value))
    widget = module.Explorer(material, "law", LAW_DIMENSION, 1, 4)
    widget._ipython_display_()
    still, live = shown
    assert f'id="{widget.static_id}"' in still.data
    assert card_html(dimension_card(material, LAW_DIMENSION, "law", 1)) in still.data
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    widget.close()


def test_bad_choices_are_named(material: Material) -> None:
    for dimension, domain, layer, message in (
        (16, "law", 0, "dimension 16 does not exist; .* has 0 to 15"),
        (0, "music", 0, "unknown domain 'music'; choose one of"),
        (0, "law", 2, "layer 2 does not exist; .* has 0 to 1"),
    ):
        with pytest.raises(ExplorerError, match=message):
            dimension_card(material, dimension, domain, layer)


def test_a_run_of_another_model_or_text_is_refused(
    tmp_path: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"corpus": "elsewhere", "domains": None, "seed": 0, "max_characters": 1500}
    assert material.model is not None
    manifest = {
        "settings": settings,
        "model": {"name": "mine", "fingerprint": material.model.fingerprint},
        "data": {"corpus": module.corpus_hash(material.prompts)},
    }
    names = ("statistics", "rows", "dcds", "detectors")
    records = {name: getattr(material, name) for name in names}
    run = SimpleNamespace(manifest=manifest, has=lambda name: False, **records)
    monkeypatch.setattr(module, "read_run", lambda folder: run)
    again = from_run(tmp_path, model=material.model, prompts=material.prompts)
    assert card_html(dimension_card(again, 7, "law", 0)) == card_html(
        dimension_card(dataclasses.replace(material, name="mine", verdicts=()), 7, "law", 0)
    )
    with pytest.raises(ExplorerError, match="other passages"):
        from_run(tmp_path, model=material.model, prompts=material.prompts[1:])
    manifest["model"]["fingerprint"] = "0" * 32
    with pytest.raises(ExplorerError, match="another model"):
        from_run(tmp_path, model=material.model)
