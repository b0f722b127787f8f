"""Selection of domain-critical dimensions on pooled rows whose truth is planted."""

import dataclasses
import inspect

import numpy as np
import pytest

from workbench.dimensions.criteria import dcd_frame, domain_profiles, find_dcds, frequency_table
from workbench.records import Dimension, PooledRows, Split

DOMAINS = ("law", "code", "physics")
N_PROMPTS, N_LAYERS, D_MODEL = 10, 3, 64
EVERYWHERE, LAW_ONLY, LAW_OFTEN, QUIET = 5, 17, 40, 50


def make_rows(splits: tuple[Split, ...] = ("identify",), domains: tuple[str, ...] = DOMAINS) -> PooledRows:
    """Rows with one dimension massive everywhere, one active in law only, and one active in 4 of 10 law prompts.

    The pooling `mean_abs` carries them; `mean` is zero but for dimension 50, which is massive there with both signs.
    """
    rng = np.random.default_rng(0)
    names = [(domain, split, i) for domain in domains for split in splits for i in range(N_PROMPTS)]
    values = rng.uniform(0.9, 1.1, size=(len(names), 2, N_LAYERS, D_MODEL)).astype(np.float32)
    values[:, 1] = 0.0
    for row, (domain, _, i) in enumerate(names):
        values[row, 0, :, EVERYWHERE] = 20.0
        values[row, 1, :, QUIET] = -9.0
        if domain == "law":
            values[row, 0, :, LAW_ONLY] = 15.0
        if domain == "law" and i < 4:
            values[row, 0, 1, LAW_OFTEN] = 60.0  # one layer of three: 21 or so on average
    return PooledRows(
        tuple(f"{domain}/{split}{i}" for domain, split, i in names),
        tuple(domain for domain, _, _ in names),
        tuple(split for _, split, _ in names),
        ("mean_abs", "mean"),
        values,
    )


def of_law(dcds: list[Dimension]) -> list[int]:
    return [dcd.dimension for dcd in dcds if dcd.domain == "law"]


def test_magnitude_selects_the_largest_and_says_that_one_is_large_everywhere() -> None:
    dcds = find_dcds(make_rows(), k=3)
    assert of_law(dcds) == [EVERYWHERE, LAW_ONLY, LAW_OFTEN]
    assert [dcd.rank for dcd in dcds] == [1, 2, 3] * 3
    assert all(dcd.dimension == EVERYWHERE and dcd.reach == "every domain" for dcd in dcds if dcd.rank == 1)
    planted = dcds[1]
    assert planted.reach == "this domain"
    assert planted.magnitude == pytest.approx(15.0)
    assert planted.magnitude_elsewhere == pytest.approx(1.0, abs=0.1)
    assert (planted.frequency, planted.frequency_elsewhere) == (1.0, 0.0)


def test_discrimination_leaves_out_what_is_large_everywhere() -> None:
    dcds = find_dcds(make_rows(), k=8, selection="discrimination")
    assert [(dcd.domain, dcd.dimension) for dcd in dcds] == [("law", LAW_ONLY), ("law", LAW_OFTEN)]
    assert [dcd.frequency for dcd in dcds] == [1.0, 0.4]
    assert of_law(find_dcds(make_rows(), k=1, selection="discrimination")) == [LAW_ONLY]


def test_both_sorts_the_discriminative_dimensions_by_magnitude() -> None:
    rows = make_rows()
    often = (np.array(rows.domains) == "law") & np.array([int(name[-1]) < 4 for name in rows.prompts])
    rows.values[often, 0, :, LAW_OFTEN] = 300.0  # 120 on average in 4 of 10 prompts: the larger mean, the smaller gap
    rows.values[often, 0, :, LAW_ONLY] = 200.0
    rows.values[often, 0, :, EVERYWHERE] = 200.0
    assert of_law(find_dcds(rows, k=8, selection="discrimination")) == [LAW_ONLY, LAW_OFTEN]
    assert of_law(find_dcds(rows, k=8, selection="both")) == [LAW_OFTEN, LAW_ONLY]
    assert of_law(find_dcds(rows, k=1, selection="both")) == [LAW_OFTEN]


def test_profiles_follow_the_formulas_of_the_default_reading() -> None:
    rng = np.random.default_rng(1)
    rows = dataclasses.replace(make_rows(), values=rng.standard_cauchy((30, 2, N_LAYERS, D_MODEL)).astype(np.float32))
    profiles = domain_profiles(rows, layers=(0, 2))
    for s, domain in enumerate(DOMAINS):
        a = [
            np.abs(rows.values[q, 0, [0, 2]].astype(float)).mean(axis=0) for q in range(30) if rows.domains[q] == domain
        ]
        active = [[row[d] > row.mean() + 3 * row.std() for d in range(D_MODEL)] for row in a]
        np.testing.assert_allclose(profiles.magnitude[s], np.mean(a, axis=0))
        np.testing.assert_array_equal(profiles.frequency[s], np.mean(active, axis=0))
    others = profiles.frequency[[1, 2]].mean(axis=0)
    np.testing.assert_allclose(profiles.gap[0], profiles.frequency[0] - others, atol=1e-12)


def test_a_gap_of_exactly_thirty_percent_is_not_more_than_thirty_percent() -> None:
    rows = make_rows()
    for frequency, expected in ((3, []), (4, [LAW_OFTEN])):
        rows.values[:, 0] = 1.0
        rows.values[:frequency, 0, :, LAW_OFTEN] = 60.0
        assert of_law(find_dcds(rows, selection="discrimination")) == expected
    rows.values[:, 0] = 1.0  # 0.5 against 0.2 and 0.2: in floating point a little more than 0.3
    for start, n in ((0, 5), (10, 2), (20, 2)):
        rows.values[start : start + n, 0, :, LAW_OFTEN] = 60.0
    assert domain_profiles(rows).gap[0, LAW_OFTEN] == pytest.approx(0.3, abs=1e-12)
    assert find_dcds(rows, selection="discrimination") == []


def test_reach_has_four_cases() -> None:
    rows = make_rows()
    rows.values[:, 0] = 1.0
    for dimension, active in ((0, (5, 5, 5)), (1, (4, 0, 1)), (2, (4, 5, 4)), (3, (4, 4, 4))):
        for domain, n in enumerate(active):
            rows.values[domain * 10 + 10 - n : domain * 10 + 10, 0, :, dimension] = 60.0
    reach = {dcd.dimension: dcd.reach for dcd in find_dcds(rows, k=4) if dcd.domain == "law"}
    assert reach == {0: "every domain", 1: "this domain", 2: "some domains", 3: "no domain"}


def test_only_the_chosen_split_counts_and_neutral_text_never() -> None:
    rows = make_rows(splits=("identify", "test"), domains=(*DOMAINS, "neutral"))
    expected = find_dcds(rows, k=3)
    others = (np.array(rows.splits) == "test") | (np.array(rows.domains) == "neutral")
    rows.values[others] = np.random.default_rng(2).uniform(0, 1e6, size=rows.values[others].shape)
    assert find_dcds(rows, k=3) == expected
    assert {dcd.domain for dcd in expected} == set(DOMAINS)
    assert find_dcds(rows, k=3, split="test") != expected


def test_another_pooling_is_read_by_magnitude_and_layers_can_be_chosen() -> None:
    rows = make_rows()
    assert {dcd.dimension for dcd in find_dcds(rows, k=1, pooling="mean")} == {QUIET}
    assert find_dcds(rows, k=1, pooling="mean")[0].magnitude == 9.0
    assert of_law(find_dcds(rows, k=1, layers=[1])) == [LAW_OFTEN]


def test_tables_hold_one_row_per_record() -> None:
    rows = make_rows()
    table = frequency_table(rows)
    assert list(table.index) == list(DOMAINS)
    assert table.shape == (3, D_MODEL)
    assert table.loc["law", LAW_OFTEN] == 0.4
    frame = dcd_frame(find_dcds(rows, k=2))
    assert len(frame) == 6
    assert frame[frame.domain == "code"].dimension.iloc[0] == EVERYWHERE
    assert list(dcd_frame([]).columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; choose between 1 and d_model = 64"),
        ({"k": 65}, "k is 65"),
        ({"layers": [0, 3]}, r"layers \[3\] are out of range; choose from 0 to 2"),
        ({"layers": [-1]}, "out of range"),
        ({"layers": []}, "at least one"),
        ({"split": "tune"}, "domain 'law' has no prompts in split 'tune'"),
        ({"pooling": "last"}, "was not collected"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_dcds(make_rows(), **options)


def test_unknown_words_are_refused_also_where_no_type_checker_runs() -> None:
    with pytest.raises(ValueError, match="unknown selection 'size'; choose one of magnitude"):
        inspect.unwrap(find_dcds)(make_rows(), selection="size")
    with pytest.raises(ValueError, match="unknown split 'train'; choose one of identify"):
        inspect.unwrap(domain_profiles)(make_rows(), split="train")


def test_one_domain_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two domains"):
        find_dcds(make_rows(domains=("law", "neutral")))
