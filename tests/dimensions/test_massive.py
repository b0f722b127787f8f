"""Massive entries to their mean or zero, shortened passages and rotated bases, on tiny and planted models."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.activations import capture, collect, shortened_rows
from workbench.comparison.rotations import _restricted, _rotated_rows, basis_frame
from workbench.dimensions import MassiveCriterion
from workbench.interventions import SteeringError
from workbench.interventions.mask import fit_massive, set_massive
from workbench.models import HookedModel
from workbench.planted import planted_model
from workbench.records import BasisScore, Dimension, Prompt, Site
from workbench.tasks.metrics import passage_losses, passage_tokens

TEXTS = ["the court is a sum of two", "cells and laws", "the sum of cells in the court and of two"]


def prompts(domain: str = "law") -> list[Prompt]:
    return [Prompt(text, domain, f"{domain}/{number}", "identify") for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model()


def test_massive_entries_get_their_mean_and_nothing_else_changes(model: HookedModel) -> None:
    site, rule = Site("resid_post", 0), MassiveCriterion(n_sigma=1.5)
    tokens = model.tokenize(TEXTS)
    before = capture(model, tokens, [site])[0]
    is_massive = rule.entries(before) & tokens.mask[..., None]
    for to in ("mean", "zero"):
        with set_massive(model, prompts(), to=to, criterion=rule):
            after = capture(model, tokens, [site])[0]
        real = tokens.mask[..., None].expand_as(before)
        assert torch.equal(after[real & ~is_massive], before[real & ~is_massive])
        for place in (0, 1):
            at = (tokens.positions == 0) if place == 0 else (tokens.positions > 0)
            for dimension in is_massive[at].any(dim=0).nonzero().flatten().tolist():
                chosen = is_massive[..., dimension] & at
                expected = before[chosen][:, dimension].mean() if to == "mean" else torch.tensor(0.0)
                torch.testing.assert_close(after[chosen][:, dimension], expected.expand(int(chosen.sum())))
    assert is_massive.any()
    assert torch.equal(capture(model, tokens, [site])[0], before)


def test_a_planted_sink_survives_its_mean_and_not_zero() -> None:
    planted, texts, _ = planted_model(0, n_prompts=2)
    tokens = passage_tokens(planted, [prompt.text for prompt in texts[:6]], n_tokens=120)
    plain = passage_losses(planted, tokens, [(None, 0.0)]).mean()
    losses = {}
    for to in ("mean", "zero"):
        with set_massive(planted, texts, to=to):
            losses[to] = passage_losses(planted, tokens, [(None, 0.0)]).mean() - plain
    assert abs(losses["mean"]) < 1e-4
    assert losses["zero"] > 0.2


def test_nothing_massive_is_said(model: HookedModel) -> None:
    with pytest.raises(SteeringError, match="is massive by 'Sun et al"):
        fit_massive(model, prompts())
    with pytest.raises(ValueError, match="unknown criterion"):
        fit_massive(model, prompts(), criterion="big")


def test_shortened_passages_keep_their_names_and_are_their_beginnings(model: HookedModel) -> None:
    rows = shortened_rows(model, prompts(), fraction=0.5)
    assert rows.prompts == ("law/0", "law/1", "law/2")
    assert len(TEXTS[0]) == 25  # the first blank from the 12th character on stands after "is"
    expected = collect(model, [Prompt("the court is", "law", "x", "identify")], poolings=("mean_abs",))[1]
    np.testing.assert_allclose(rows.values[0], expected.values[0], rtol=1e-4)
    with pytest.raises(ValueError, match="fraction is 1"):
        shortened_rows(model, prompts(), fraction=1.0)
    with pytest.raises(ValueError, match="no passages in split 'test'"):
        shortened_rows(model, prompts(), split="test")


def test_rotated_rows_are_the_rows_of_rotated_activations(model: HookedModel) -> None:
    turn = torch.linalg.qr(torch.randn(model.d_model, model.d_model, generator=torch.manual_seed(0)))[0]
    rows = _rotated_rows(model, prompts(), {"coordinate": None, "rotation 0": turn}, False, None)
    tokens = model.tokenize(TEXTS)
    values = capture(model, tokens, model.residual_sites())
    for number in range(len(TEXTS)):
        later = values[:, number, 1 : int(tokens.lengths[number])]
        for name, basis in (("coordinate", torch.eye(model.d_model)), ("rotation 0", turn)):
            expected = (later @ basis).abs().mean(dim=1)
            np.testing.assert_allclose(rows[name].pooled("mean_abs")[number], expected, rtol=1e-3, atol=1e-4)


def test_a_direction_cut_to_all_dimensions_of_a_basis_is_whole_and_to_some_is_a_projection() -> None:
    direction = torch.randn(8, generator=torch.manual_seed(1))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.manual_seed(2)))[0]
    dcds = [Dimension("law", d, 1, "magnitude", 1.0, 1.0, 1.0, 1.0, "no domain") for d in range(8)]
    for basis in (None, turn):
        torch.testing.assert_close(_restricted(direction, basis, dcds), direction)
        cut = _restricted(direction, basis, dcds[:3])
        torch.testing.assert_close(_restricted(cut, basis, dcds[:3]), cut)
        assert float(cut @ (direction - cut)) == pytest.approx(0, abs=1e-5)


def test_wins_over_rotations_by_hand() -> None:
    values = {"coordinate": (3.0, 1.0), "rotation 0": (2.0, 1.0), "rotation 1": (4.0, 0.0)}
    scores = [
        BasisScore(basis, domain, measure, value)
        for measure in ("labelled", "CDS")
        for basis, pair in values.items()
        for domain, value in zip(("law", "code"), pair, strict=True)
    ]
    frame = basis_frame(scores).set_index("measure")
    assert frame.loc["labelled", "better"] == (1 + 0 + 0.5 + 1) / 4
    assert frame.loc["CDS", "better"] == 1 - 2.5 / 4  # lower is better there
    assert frame.loc["labelled", ["coordinate", "rotated", "lowest", "highest"]].tolist() == [2.0, 1.75, 1.5, 2.0]
    assert frame.loc["labelled", "low"] < 0.625 < frame.loc["labelled", "high"]
