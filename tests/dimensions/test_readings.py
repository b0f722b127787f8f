"""Readings of the rule: each differs from the default in what it names, worked out by hand or by plain loops."""

import numpy as np
import pytest

from workbench.dimensions import READINGS, Reading, agreement_matrix, find_dcds, reading_agreement, reading_sets
from workbench.dimensions.readings import reading_profiles
from workbench.dimensions.statistics import POOLINGS
from workbench.records import PooledRows

DOMAINS = ("law", "code")
N_PROMPTS, N_LAYERS, D_MODEL = 6, 4, 40


def make_rows(seed: int = 0, poolings: tuple[str, ...] = POOLINGS) -> PooledRows:
    rng = np.random.default_rng(seed)
    values = rng.standard_cauchy((len(DOMAINS) * N_PROMPTS, len(poolings), N_LAYERS, D_MODEL)).astype(np.float32)
    domains = tuple(domain for domain in DOMAINS for _ in range(N_PROMPTS))
    names = tuple(f"{domain}/{index}" for index, domain in enumerate(domains))
    return PooledRows(names, domains, ("identify",) * len(names), poolings, values)


def test_the_default_and_both_rules_are_what_find_dcds_selects() -> None:
    rows = make_rows()
    sets = reading_sets(rows, k=5)
    for name, selection in (("default", "magnitude"), ("30 % rule", "both"), ("30 % rule, by gap", "discrimination")):
        for domain in DOMAINS:
            dcds = find_dcds(rows, k=5, selection=selection)
            assert sets[name][domain] == tuple(dcd.dimension for dcd in dcds if dcd.domain == domain)
    scaled = [dcd.dimension for dcd in find_dcds(rows, k=5, pooling="scaled") if dcd.domain == "code"]
    assert sets["scaled by RMS"]["code"] == tuple(scaled)


def plain_frequency(rows: PooledRows, reading: Reading, domain: str) -> list[float]:
    """Activity by loops over prompts and dimensions, for readings over dimensions."""
    values = rows.pooled(reading.pooling).astype(float)
    counts = np.zeros(D_MODEL)
    for q in range(len(values)):
        if rows.domains[q] != domain:
            continue
        x = np.abs(values[q]) if reading.sign == "absolute" else values[q]
        layers = {"first": [x[0]], "middle": [x[2]], "last": [x[3]], "mean": [x.mean(axis=0)], "vote": list(x)}
        rows_of = layers.get(reading.layers) or [np.array([column[np.abs(column).argmax()] for column in x.T])]
        votes = np.zeros(D_MODEL)
        for row in rows_of:
            away = row - row.mean()
            votes += (np.abs(away) if reading.sign == "two-sided" else away) > 3 * row.std()
        counts += votes > len(rows_of) / 2
    return (counts / N_PROMPTS).tolist()


@pytest.mark.parametrize("name", [name for name, reading in READINGS.items() if reading.over == "dimensions"])
def test_activity_agrees_with_plain_loops(name: str) -> None:
    rows = make_rows(3)
    rows.values[:4, ..., 4] = 5000.0
    profiles = reading_profiles(rows, READINGS[name])
    for number, domain in enumerate(DOMAINS):
        assert profiles.frequency[number].tolist() == plain_frequency(rows, READINGS[name], domain)
    assert profiles.frequency.max() > 0


def test_sigma_over_prompts_never_calls_a_constant_giant_active() -> None:
    rows = make_rows()
    rows.values[:] = np.random.default_rng(1).normal(1.0, 0.01, rows.values.shape)
    rows.values[..., 7] = 50.0
    rows.values[0, ..., 9] = 3.0  # one prompt of twelve
    over_prompts = reading_profiles(rows, READINGS["sigma over prompts, 30 % rule"])
    assert over_prompts.frequency[:, 7].tolist() == [0.0, 0.0]
    assert over_prompts.frequency[:, 9].tolist() == [1 / N_PROMPTS, 0.0]
    assert reading_profiles(rows, READINGS["default"]).frequency[:, 7].tolist() == [1.0, 1.0]


def test_signed_readings_see_the_sign() -> None:
    rows = make_rows()
    rows.values[:] = 0.0
    rows.values[..., 3], rows.values[..., 5] = -9.0, 8.0
    assert reading_sets(rows, k=1)["signed, upper tail"]["law"] == (5,)
    assert reading_sets(rows, k=1)["signed, two-sided"]["law"] == (3,)


def test_agreement_is_shared_share_and_symmetric() -> None:
    rows = make_rows()
    rows.values[:] = 1.0
    rows.values[..., [0, 1]] = 9.0
    rows.values[:, POOLINGS.index("last"), :, 2] = 99.0  # the last token puts 2 in front of 0
    table = agreement_matrix(reading_agreement(rows, k=2))
    assert table.loc["default", "last token"] == pytest.approx(1 / 3)  # {0, 1} and {2, 0}
    assert table.loc["default", "all tokens"] == 1.0
    np.testing.assert_array_equal(table, table.T)
    assert agreement_matrix(reading_agreement(rows, k=2), "law").loc["last token", "default"] == pytest.approx(1 / 3)


def test_bad_input_is_named_and_missing_poolings_are_left_out() -> None:
    only = make_rows(poolings=("mean_abs",))
    assert set(reading_sets(only)) == {name for name, reading in READINGS.items() if reading.pooling == "mean_abs"}
    with pytest.raises(ValueError, match="k is 41"):
        reading_sets(only, k=41)
    with pytest.raises(ValueError, match="collect at least one"):
        reading_sets(make_rows(poolings=("first",)))
    with pytest.raises(ValueError, match="no agreement was measured in 'art'"):
        agreement_matrix(reading_agreement(only), "art")
