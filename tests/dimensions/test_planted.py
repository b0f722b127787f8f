"""Planted truth: what is written into the weights is what the methods of the workbench find, and fail to find."""

import math

import numpy as np
import pytest

from workbench.activations import collect, collect_columns
from workbench.dimensions import find_dcds
from workbench.dimensions.detectors import find_detectors
from workbench.dimensions.masking import (
    domain_loss_increase,
    masked_domains,
    specificity,
    top_dimensions,
)
from workbench.masking.attribution import estimate_masking, screened_masking
from workbench.masking.experiment import token_magnitudes
from workbench.masking.measure import mask_dimensions
from workbench.masking.tables import largest_of
from workbench.models import HookedModel
from workbench.planted import DOMAIN_CLASSES, LOGIT, PlantedDimension, PlantedTruth, planted_model
from workbench.records import MaskingResult, PooledRows, Prompt, Selection

Planted = tuple[HookedModel, list[Prompt], PlantedTruth]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return planted_model(0, n_prompts=12)


@pytest.fixture(scope="module")
def masked(planted: Planted) -> MaskingResult:
    """Zero masking of every planted dimension and of six others, on three identify prompts per domain."""
    model, prompts, truth = planted
    roles = sorted(item.dimension for item in truth.planted)
    others = [dimension for dimension in range(model.d_model) if dimension not in roles][:6]
    return mask_dimensions(model, few(prompts), [*roles, *others])


def few(prompts: list[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if int(prompt.name.split("/")[1]) < 3]


def confusion(rows: PooledRows, truth: PlantedTruth, selection: Selection) -> tuple[int, int, int]:
    """True positives, false positives and misses over all domains; magnitude is told how many there are."""
    counts = np.zeros(3, dtype=int)
    d_model = rows.values.shape[3]
    for domain in truth.domains:
        wanted = truth.discriminative(domain)
        k = len(wanted) if selection == "magnitude" else d_model
        found = {dcd.dimension for dcd in find_dcds(rows, k=k, selection=selection) if dcd.domain == domain}
        counts += [len(found & wanted), len(found - wanted), len(wanted - found)]
    return tuple(counts.tolist())


def rows_of(planted: Planted) -> PooledRows:
    model, prompts, _ = planted
    chosen = [prompt for prompt in prompts if prompt.split == "identify"]
    return collect(model, chosen, layers=[model.n_layers - 1], n_top=1)[1]


@pytest.mark.parametrize("gap", [2.0, 4.0])
def test_discrimination_finds_what_is_planted_and_magnitude_what_is_large_everywhere(gap: float) -> None:
    planted = planted_model(1, gap=gap, n_prompts=6)
    rows, truth = rows_of(planted), planted[2]
    found, wrong, missed = confusion(rows, truth, "discrimination")
    assert (found, missed) == (36, 0)
    assert found / (found + wrong) >= 0.95
    assert confusion(rows, truth, "magnitude")[1:] == (12, 12)
    everywhere = truth.dimensions("everywhere", "sink")
    for domain in truth.domains:  # the two everywhere dimensions and the sink that is also at full stops
        top = {dcd.dimension for dcd in find_dcds(rows, k=9) if dcd.domain == domain}
        assert len(top & everywhere) == 3


def test_without_a_gap_nothing_is_found() -> None:
    planted = planted_model(1, gap=1.0, n_prompts=12)
    assert confusion(rows_of(planted), planted[2], "discrimination") == (0, 0, 36)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [2.0, 4.0])
def test_recall_and_precision_over_many_seeds(gap: float) -> None:
    totals = np.zeros(3, dtype=int)
    failures = 0
    for seed in range(28):
        planted = planted_model(seed, gap=gap, n_prompts=8)
        rows = rows_of(planted)
        totals += confusion(rows, planted[2], "discrimination")
        failures += confusion(rows, planted[2], "magnitude")[1] > 0
    found, wrong, missed = totals.tolist()
    assert found + missed >= 1000
    assert missed == 0
    assert found / (found + wrong) >= 0.95
    assert failures == 28


@pytest.mark.slow
def test_nothing_is_found_without_a_gap_over_many_seeds() -> None:
    planted = (planted_model(seed, gap=1.0, n_prompts=12) for seed in range(28))
    assert sum(sum(confusion(rows_of(one), one[2], "discrimination")[:2]) for one in planted) == 0


def labelled(planted: Planted) -> tuple[int, int]:
    """How many of the discriminative dimensions get the planted class as label, at the end of the planted sign."""
    model, prompts, truth = planted
    statistics, rows = collect(model, prompts, layers=[0], n_top=10)
    dcds = find_dcds(rows, k=model.d_model, selection="discrimination")
    columns = collect_columns(model, prompts, [(0, dcd.dimension) for dcd in dcds])
    found = {
        (detector.dimension, detector.label, 1 if detector.end == "high" else -1)
        for detector in find_detectors(statistics, columns, dcds, {}, prompts)
    }
    wanted = [item for item in truth.planted if item.role in ("detector", "both", "inert")]
    return sum((item.dimension, item.label, item.sign) in found for item in wanted), len(wanted)


def test_planted_token_classes_are_recovered_as_labels(planted: Planted) -> None:
    right, wanted = labelled(planted)
    assert wanted == 36
    assert right >= 0.9 * wanted


@pytest.mark.slow
def test_labels_over_many_seeds() -> None:
    counts = np.array([labelled(planted_model(seed, n_prompts=12)) for seed in range(28)]).sum(axis=0)
    assert counts[1] >= 1000
    assert counts[0] >= 0.9 * counts[1]


def test_masking_tells_what_is_read_from_what_is_only_large(planted: Planted, masked: MaskingResult) -> None:
    truth = planted[2]
    drops = dict(zip(masked.dimensions, domain_loss_increase(masked, "identify").T, strict=True))
    needed = {item.dimension for item in truth.planted if item.is_needed}
    # One of four class words is followed by a given coined word; missing it costs several nats once per passage.
    assert min(drops[dimension].max() for dimension in needed) > 0.02
    assert max(np.abs(drops[dimension]).max() for dimension in set(drops) - needed) < 0.002
    for place, domain in enumerate(masked_domains(masked)):
        own = truth.critical(domain)
        assert all(specificity(np.stack(list(drops.values()), axis=1))[place, list(drops).index(d)] > 0.01 for d in own)
        everywhere = [d for d in truth.dimensions("everywhere", "sink") if d in needed]
        worst = top_dimensions(masked, 2)[domain]
        assert set(worst) == set(everywhere)


def promoted(model: HookedModel, item: PlantedDimension) -> str:
    """The word that a dimension predicts by its large values, from the logit lens."""
    raised, lowered = model.promoted_tokens(item.dimension, 1)
    return (raised if item.sign > 0 else lowered)[0]


def test_a_quiet_dimension_costs_what_its_followers_cost(planted: Planted, masked: MaskingResult) -> None:
    """Its share of the norm is nothing, so that the cost is the change of a softmax of known logits."""
    model, prompts, truth = planted
    size, n_vocabulary = math.exp(LOGIT), model.vocabulary_size
    before = math.log(3 * size + n_vocabulary - 3)  # three followers stand at the logit, all else at zero
    after = math.log(2 * size + n_vocabulary - 2)
    for item in truth.planted:
        if item.role != "quiet":
            continue
        follower = promoted(model, item)
        same_class = {
            promoted(model, other)
            for other in truth.planted
            if other.label == item.label and other.role in ("detector", "both")
        }
        for column, prompt in enumerate(few(prompts)):
            own = prompt.text.replace(".", " ").split().count(follower.strip())
            others = sum(prompt.text.replace(".", " ").split().count(word.strip()) for word in same_class)
            expected = (own * (after - (before - LOGIT)) + others * (after - before)) / 120
            row = masked.dimensions.index(item.dimension)
            assert masked.loss_increase[row, column] == pytest.approx(expected, rel=0.02, abs=1e-4)


def test_a_sink_is_destroyed_by_zero_but_not_by_the_mean_of_its_class(planted: Planted) -> None:
    model, prompts, truth = planted
    (sink,) = [item.dimension for item in truth.planted if item.role == "sink" and item.is_needed]
    chosen = few(prompts)
    zero, mean = (mask_dimensions(model, chosen, [sink], mode=mode) for mode in ("zero", "mean"))
    assert domain_loss_increase(zero, "identify").min() > 0.2
    assert np.abs(domain_loss_increase(mean, "identify")).max() < 1e-4


def test_gradients_miss_the_sink_and_screening_with_the_largest_dimensions_finds_it(
    planted: Planted, masked: MaskingResult
) -> None:
    model, prompts, truth = planted
    estimate = estimate_masking(model, few(prompts))
    for domain, candidates in top_dimensions(estimate, 50).items():
        assert truth.critical(domain) <= set(candidates)
    blind = [item.dimension for item in truth.planted if item.is_needed and not item.label]
    assert domain_loss_increase(masked, "identify")[:, [masked.dimensions.index(d) for d in blind]].min() > 0.2
    assert np.abs(domain_loss_increase(estimate, "identify")[:, blind]).max() < 0.01
    largest = largest_of(token_magnitudes(model, few(prompts)), 8)
    screened = screened_masking(model, few(prompts), estimate, m=40, largest=largest)
    true, found = top_dimensions(masked, 10), top_dimensions(screened, 10)
    assert {domain: set(top) for domain, top in found.items()} == {domain: set(top) for domain, top in true.items()}


def test_the_same_seed_gives_the_same_and_the_gap_changes_only_the_text(planted: Planted) -> None:
    model, prompts, truth = planted
    again = planted_model(0, n_prompts=12)
    assert again[0].fingerprint == model.fingerprint
    assert again[1:] == (prompts, truth)
    other = planted_model(0, gap=3.0, n_prompts=2)
    assert other[0].fingerprint == model.fingerprint
    assert other[2].planted == truth.planted
    assert planted_model(1, n_prompts=2)[2].planted != truth.planted


def test_passages_have_equal_length_and_classes_come_as_often_as_the_gap_says() -> None:
    model, prompts, truth = planted_model(3, gap=3.0, n_prompts=24)
    assert set(model.tokenize([prompt.text for prompt in prompts]).lengths.tolist()) == {121}
    assert "<unk>" not in model.token_texts(model.tokenize([prompt.text for prompt in prompts]).ids.flatten().tolist())
    (item, *_) = [item for item in truth.planted if item.domain == "physics"]
    large = collect_columns(model, prompts, [(0, item.dimension)])
    fires = (np.abs(large.values[:, 0]) > 5.0) & (large.positions > 0)
    per_passage = np.bincount(large.prompt_index, weights=fires)
    domains = np.array(large.domains)
    assert (per_passage[domains == "physics"] == 4).all()
    assert per_passage[domains != "physics"].mean() == pytest.approx(4 / 3, rel=0.1)
    assert set(truth.domains) == set(DOMAIN_CLASSES)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gap is 0\.5"):
        planted_model(0, gap=0.5)
    with pytest.raises(ValueError, match="d_model is 128"):
        planted_model(0, d_model=128)
    with pytest.raises(ValueError, match="n_prompts is 1"):
        planted_model(0, n_prompts=1)
