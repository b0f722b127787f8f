"""Rotated bases end to end on a planted model: what is planted in coordinates is lost when the stream is turned."""

import numpy as np
import pytest

from workbench.comparison.rotations import basis_frame, compare_bases
from workbench.planted import planted_model
from workbench.records import BasisScore

MEASURES = {"discriminative", "passage AUROC", "labelled", "label AUROC", "CDS"}


@pytest.fixture(scope="module")
def scores() -> list[BasisScore]:
    model, prompts, _ = planted_model(0, n_prompts=12)
    own = [prompt for prompt in prompts if prompt.domain in ("law", "physics")]
    return compare_bases(model, own, own[:4], k=3, n_rotations=1, n_tokens=16)


@pytest.mark.slow
def test_every_measure_is_there_in_every_basis_and_planted_coordinates_win(scores: list[BasisScore]) -> None:
    found = {(item.basis, item.domain, item.measure): item.value for item in scores}
    assert set(found) == {
        (basis, domain, measure)
        for basis in ("coordinate", "rotation 0")
        for domain in ("law", "physics")
        for measure in MEASURES
    }
    for domain in ("law", "physics"):
        assert found["coordinate", domain, "discriminative"] > found["rotation 0", domain, "discriminative"]
    frame = basis_frame(scores).set_index("measure")
    assert frame.loc["discriminative", "better"] == 1.0
    assert np.isnan(frame.loc["CDS", "low"]) == any(np.isnan(v) for (*_, m), v in found.items() if m == "CDS")
    assert np.isfinite(frame.loc["passage AUROC", ["coordinate", "rotated"]].to_numpy(dtype=float)).all()


def test_a_comparison_needs_a_rotation() -> None:
    model, prompts, _ = planted_model(0, n_prompts=2)
    with pytest.raises(ValueError, match="n_rotations is 0"):
        compare_bases(model, prompts, prompts, n_rotations=0)
