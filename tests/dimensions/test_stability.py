"""Stability of a selection: agreement with `find_dcds`, few false reports under the null, power on planted gaps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, ranksums

from workbench.dimensions import condition_stability, find_dcds, selection_stability, split_half_stability
from workbench.dimensions.stability import LEVEL, chance_gap, permutation_p_values, read_passages, stability_summary
from workbench.records import SELECTIONS, PooledRows, Selection

DOMAINS = ("law", "code", "physics")
D_MODEL, N_LAYERS = 48, 2


def make_rows(seed: int, *, n: int = 12, shift: float = 0.0, d_model: int = D_MODEL) -> PooledRows:
    """Correlated log-normal magnitudes of unlike size; dimension 5 is `shift` standard deviations larger in law."""
    rng = np.random.default_rng(seed)
    domains = tuple(domain for domain in DOMAINS for _ in range(n))
    common = rng.normal(size=(len(domains), 1, 1))
    noise = 0.5 * rng.normal(size=(len(domains), N_LAYERS, d_model)) + 0.3 * common
    noise[np.array(domains) == "law", :, 5] += shift * 0.5
    values = np.exp(noise + rng.normal(0, 1.5, size=d_model)).astype(np.float32)
    names = tuple(f"{domain}/{index}" for index, domain in enumerate(domains))
    return PooledRows(names, domains, ("identify",) * len(names), ("mean_abs",), values[:, None])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_dimensions_and_their_order_are_those_of_find_dcds(selection: Selection) -> None:
    rows = make_rows(0)
    rows.values[np.array(rows.domains) == "law", ..., [3]] = 500.0
    rows.values[:5, ..., 4] = 400.0
    stable = selection_stability(rows, k=6, selection=selection, n_resamples=50, n_permutations=20)
    dcds = find_dcds(rows, k=6, selection=selection)
    assert [(s.domain, s.dimension, s.rank) for s in stable] == [(d.domain, d.dimension, d.rank) for d in dcds]
    assert all(item.rank_low <= item.rank_high for item in stable)
    assert selection != "magnitude" or len(stable) == 18


def test_a_giant_is_always_first_and_equals_share_their_ranks() -> None:
    rows = make_rows(1)
    rows.values[..., 7] = 1e6
    rng = np.random.default_rng(0)
    for dimension in (8, 9):  # the same law: each is second about half of the time
        rows.values[..., dimension] = rng.uniform(900, 1100, size=rows.values.shape[:3])
    stable = {item.dimension: item for item in selection_stability(rows, k=2) if item.domain == "code"}
    assert (stable[7].frequency, stable[7].rank_low, stable[7].rank_high) == (1.0, 1, 1)
    (second,) = [item for dimension, item in stable.items() if dimension != 7]
    assert (second.rank_low, second.rank_high) == (2, 3)
    assert 0.5 < second.frequency < 1.0


def test_dimensions_that_resamples_cannot_select_rank_behind_all_others() -> None:
    rows = make_rows(2)
    rows.values[:] = 1.0
    rows.values[:4, ..., 6] = 300.0  # active in 4 of 12 law passages, a gap of 0.33: resamples often have 3 or fewer
    (item,) = selection_stability(rows, selection="both", n_permutations=20)
    assert item.rank == item.rank_low == 1
    assert item.rank_high == D_MODEL + 1
    expected = np.mean(np.random.default_rng(3).binomial(12, 1 / 3, 4000) >= 4)  # gap > 0.3: at least 4 of 12
    assert item.frequency == pytest.approx(expected, abs=0.08)


def test_at_most_five_percent_of_null_runs_report_anything() -> None:
    n_runs = 400
    reports = sum(
        permutation_p_values(read_passages(make_rows(seed, n=8)), n_permutations=99, seed=seed).min() <= LEVEL
        for seed in range(n_runs)
    )
    assert binomtest(reports, n_runs, LEVEL, alternative="greater").pvalue > 0.01
    assert reports > 0  # a test that never reports has no level at all


def test_planted_differences_are_found() -> None:
    hits = [
        permutation_p_values(read_passages(make_rows(seed, shift=4.0)), n_permutations=99)[0, 5] for seed in range(40)
    ]
    assert np.mean(np.array(hits) <= LEVEL) >= 0.95


def test_without_correction_one_dimension_has_the_p_value_of_a_rank_sum_test() -> None:
    """With two domains and one dimension the family is two mirrored tests: the two-sided rank-sum test."""
    for seed in range(5):
        rows = make_rows(seed, shift=1.5, d_model=6)
        two = [domain != "physics" for domain in rows.domains]
        values = rows.values[two][..., 5:6]
        names, domains = (tuple(np.array(x)[two].tolist()) for x in (rows.prompts, rows.domains))
        one = replace(rows, prompts=names, domains=domains, splits=rows.splits[: len(names)], values=values)
        passages = read_passages(one)
        law = passages.magnitude[passages.domain == 0, 0], passages.magnitude[passages.domain == 1, 0]
        expected = float(ranksums(*law).pvalue)
        found = permutation_p_values(passages, n_permutations=2000)[:, 0].min()
        assert found == pytest.approx(expected, abs=0.04)


def test_the_gap_of_chance_is_that_of_drawing_without_replacement() -> None:
    """One dimension is active in half of 36 passages: its frequency in a random 12 of them is hypergeometric."""
    rows = make_rows(0)
    rows.values[:] = 1.0
    rows.values[::2, ..., 6] = 300.0
    rng = np.random.default_rng(0)
    largest = []
    for _ in range(4000):
        counts = rng.multivariate_hypergeometric([12, 12, 12], 18) / 12
        largest.append((counts - (counts.sum() - counts) / 2).max())
    found = chance_gap(read_passages(rows), n_permutations=2000)
    assert found == pytest.approx(np.quantile(largest, 0.95, method="higher"), abs=0.05)


def test_halves_agree_where_dimensions_are_far_apart_and_by_luck_where_they_are_equal() -> None:
    rows = make_rows(3)
    rows.values[..., :4] = np.array([400, 300, 200, 100])
    apart = split_half_stability(rows, k=4)
    assert all(item.jaccard == item.low == item.high == 1.0 for item in apart)
    rows.values[:] = np.random.default_rng(0).uniform(1, 2, size=rows.values.shape)
    by_luck = split_half_stability(rows, k=4, n_halves=400)
    common = 4 * 4 / D_MODEL  # expected number of shared dimensions of two random sets
    assert np.mean([item.jaccard for item in by_luck]) == pytest.approx(common / (8 - common), abs=0.03)
    assert np.mean([item.spearman for item in by_luck]) == pytest.approx(0, abs=0.1)


def test_conditions_are_matched_by_name() -> None:
    rows = make_rows(4)
    order = np.random.default_rng(0).permutation(len(rows.prompts))
    shuffled = PooledRows(
        tuple(rows.prompts[i] for i in order),
        tuple(rows.domains[i] for i in order),
        rows.splits,
        ("mean_abs",),
        rows.values[order],
    )
    same = condition_stability(rows, shuffled, "shuffled")
    assert all((item.jaccard, item.n, item.condition) == (1.0, 1, "shuffled") for item in same)
    assert same[0].spearman == pytest.approx(1.0)
    reversed_rows = replace(rows, values=1 / rows.values)
    assert all(item.spearman < -0.9 for item in condition_stability(rows, reversed_rows, "reciprocal"))
    summary = stability_summary(selection_stability(rows, k=2, n_resamples=20, n_permutations=20), same)
    assert summary["dcds"] == 6
    assert summary["conditions"] == {
        "shuffled": {"jaccard": 1.0, "lowest_jaccard": 1.0, "spearman": pytest.approx(1.0)}
    }


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="has 3 passages in 'identify', too few for an interval"):
        selection_stability(make_rows(0, n=3))
    with pytest.raises(ValueError, match="k is 49"):
        split_half_stability(make_rows(0), k=49)
    with pytest.raises(ValueError, match="0 permutations"):
        selection_stability(make_rows(0), n_permutations=0)
    other = make_rows(0, n=6)
    with pytest.raises(ValueError, match="under 'bfloat16' do not match"):
        condition_stability(make_rows(0), other, "bfloat16")
