"""Verdicts on rows with planted truth: shares by hand, AUROC against scikit-learn, rules one condition at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from workbench.dimensions import (
    CRITERIA,
    MassiveCriterion,
    Rule,
    detector_share,
    find_dcds,
    find_verdicts,
    massive_dimensions,
    verdict_frame,
    verdict_summary,
)
from workbench.dimensions.statistics import POOLINGS
from workbench.dimensions.verdicts import domain_scores, position_evidence
from workbench.records import SPLITS, MaskingResult, PooledRows, Verdict

DOMAINS = ("law", "code", "physics")
N, N_LAYERS, D_MODEL = 10, 2, 120
SINK, FICKLE, STEADY, DETECTOR, BOTH, LOW = 3, 4, 5, 6, 7, 8


def make_rows(seed: int = 0) -> PooledRows:
    """Ten passages per domain and split, mostly noise around 1.

    SINK is 900 at the first token; FICKLE is so in half of the passages; STEADY is 40 everywhere; DETECTOR is 30 in law
    and 1 elsewhere; BOTH is a sink and, after the first token, a detector of code; LOW has a negative mean in physics.
    """
    rng = np.random.default_rng(seed)
    domains = tuple(domain for domain in DOMAINS for _ in range(len(SPLITS) * N))
    splits = tuple(split for _ in DOMAINS for split in SPLITS for _ in range(N))
    values = rng.uniform(0.5, 1.5, size=(len(domains), len(POOLINGS), N_LAYERS, D_MODEL)).astype(np.float32)
    of = {name: values[:, number] for number, name in enumerate(POOLINGS)}
    place = np.array(domains)
    of["first"][..., [SINK, BOTH]] = -900.0
    of["first"][::2, :, FICKLE] = 5000.0
    for name in ("mean_abs", "max_abs", "first", "delimiter", "rest", "mean"):
        of[name][..., STEADY] += 40.0
        if name != "first":
            of[name][place == "law", :, DETECTOR] += 30.0
            of[name][place == "code", :, BOTH] += 20.0
    of["mean"][place == "physics", :, LOW] -= 5.0
    names = tuple(f"{domain}/{number}" for number, domain in enumerate(domains))
    return PooledRows(names, domains, splits, POOLINGS, values)


@pytest.fixture(scope="module")
def rows() -> PooledRows:
    return make_rows()


def judge(rows: PooledRows, **options) -> dict[tuple[str, int], Verdict]:
    also = {"law": [DETECTOR, STEADY], "code": [BOTH], "physics": [LOW, SINK, 50]}
    return {(item.domain, item.dimension): item for item in find_verdicts(rows, [], also=also, **options)}


def test_each_planted_dimension_gets_its_verdict(rows: PooledRows) -> None:
    found = judge(rows)
    expected = {("law", DETECTOR): "detector", ("law", STEADY): "neither", ("code", BOTH): "both"}
    expected |= {("physics", LOW): "detector", ("physics", SINK): "sink", ("physics", 50): "neither"}
    assert {key: found[key].verdict for key in expected} == expected
    assert found["physics", LOW].reading == "low"
    (fickle,) = [item for item in found.values() if item.dimension == FICKLE]  # massive, so judged unasked
    assert fickle.verdict == "neither"
    assert fickle.constancy < 0.1
    assert not fickle.is_dcd


@pytest.mark.parametrize(
    ("rule", "key", "verdict"),
    [
        (Rule(min_share=0.9999), ("physics", SINK), "neither"),
        (Rule(min_constancy=1.0), ("code", BOTH), "detector"),
        (Rule(criterion="1000 x median"), ("physics", SINK), "neither"),
        (Rule(max_control_share=-1.0), ("law", DETECTOR), "neither"),
        (Rule(min_auroc=1.01), ("code", BOTH), "sink"),
    ],
)
def test_every_condition_of_the_rule_counts(rows: PooledRows, rule: Rule, key: tuple[str, int], verdict: str) -> None:
    noisy = replace(rows, values=rows.values.copy())
    noisy.values[:, POOLINGS.index("first"), :, BOTH] *= np.random.default_rng(0).uniform(0.9, 1, (90, N_LAYERS))
    assert judge(noisy)[key].verdict != verdict
    assert judge(noisy, rule=rule)[key].verdict == verdict


def test_shares_and_constancy_by_hand() -> None:
    rows = make_rows()
    at = {name: POOLINGS.index(name) for name in ("first", "delimiter", "rest")}
    for name, value in (("first", -6.0), ("delimiter", 3.0), ("rest", 1.0)):
        rows.values[:, at[name], :, 0] = value
    rows.values[:, at["delimiter"], :, 1] = np.nan  # no passage has a delimiter
    rows.values[:, at["delimiter"]] = np.where(np.isnan(rows.values[:, at["delimiter"], :, 1:2]), np.nan, 1.0)
    shares, constancy = position_evidence(rows)
    assert shares[0, 0] == pytest.approx(6 / 7)
    assert shares[1].max() == 0.0
    assert constancy[0] == 1.0
    rows.values[::2, at["first"], :, 0] = 2.0  # 2 and 6 by turns: mean 4, deviation 2
    assert position_evidence(rows)[1][0] == pytest.approx(0.5)


def test_auroc_is_that_of_scikit_learn_on_test_with_the_layer_chosen_on_identify() -> None:
    rng = np.random.default_rng(5)
    rows = make_rows()
    rows.values[:] = rng.normal(size=rows.values.shape)
    law = np.array(rows.domains) == "law"
    rows.values[:, POOLINGS.index("mean"), 0, 9] *= 20.0  # so that the mean over layers is no better than luck
    rows.values[law & rows.where(split="identify"), POOLINGS.index("mean"), 1, 9] += 3.0
    rows.values[law & rows.where(split="test"), POOLINGS.index("mean"), 0, 9] += 300.0  # must not be chosen
    found = domain_scores(rows, "law", [9, 10])
    assert (found.layer[0], found.reading[0]) == (1, 1)
    test = rows.where(split="test")
    expected = roc_auc_score(law[test], rows.pooled("mean")[test][:, 1, 9])
    assert found.auroc[0] == pytest.approx(expected)
    assert found.low[0] < expected < found.high[0]


def test_the_interval_covers_the_true_auroc() -> None:
    """Two normal laws one deviation apart have AUROC 0.76; a 95 % interval misses it rarely."""
    rng = np.random.default_rng(6)
    base = make_rows()
    big = PooledRows(
        tuple(f"{name}/{copy}" for copy in range(4) for name in base.prompts),
        base.domains * 4,
        base.splits * 4,
        POOLINGS,
        np.zeros((360, len(POOLINGS), 1, 200), dtype=np.float32),
    )
    big.values[:] = rng.normal(size=big.values.shape)
    big.values[np.array(big.domains) == "law"] += 1.0
    found = domain_scores(big, "law", list(range(200)))
    missed = ((found.low > 0.7602) | (found.high < 0.7602)).mean()
    assert 0.005 <= missed <= 0.12


def test_controls_are_part_of_the_rule() -> None:
    """Where every dimension tells the domain apart, none is a detector of it."""
    rows = make_rows()
    law = np.array(rows.domains) == "law"
    for name in ("mean_abs", "mean"):
        rows.values[law, POOLINGS.index(name)] += 30.0
    assert judge(rows)["law", DETECTOR].verdict == "neither"
    assert judge(rows)["law", DETECTOR].control_share > 0.9
    assert detector_share(rows, [DETECTOR])["law"] > 0.9
    assert detector_share(make_rows(), [DETECTOR, BOTH, LOW, STEADY, SINK])["law"] < 0.05


def test_costs_come_from_measured_masking_on_test(rows: PooledRows) -> None:
    chosen = np.flatnonzero(rows.where(split="test") | rows.where(split="identify"))
    names, domains, splits = (tuple(np.array(x)[chosen].tolist()) for x in (rows.prompts, rows.domains, rows.splits))
    rise = np.where(np.array(splits) == "test", 2.0, 7.0)[None]
    zero = MaskingResult("zero", "measured", D_MODEL, 1.0, (SINK,), names, domains, splits, np.ones(len(names)), rise)
    found = judge(rows, masking=[zero, replace(zero, mode="mean", how="estimated")])
    item = found["physics", SINK]
    assert item.cost_zero == 2.0
    assert np.isnan(item.cost_mean)
    assert item.note == "cost of masking to mean was not measured"
    assert np.isnan(found["law", DETECTOR].cost_zero)
    with pytest.raises(ValueError, match="verdicts rest on masking at all tokens"):
        judge(rows, masking=[replace(zero, masked_at="after the first token")])


def test_criteria_by_hand() -> None:
    state = torch.tensor([[101.0, 0.1, -0.1, 0.1, 0.1], [-99.0, 0.01, 0.01, -0.01, 0.01], [300.0, 200, 0.1, 0.1, 0.1]])
    cases = {
        "above 100": [[0], [], [0, 1]],
        "1000 x median": [[0], [0], [0, 1]],
        "Sun et al.": [[0], [], [0, 1]],
        "at most 3 together": [[0], [], [0, 1]],
    }
    for name, expected in cases.items():
        assert [row.nonzero().flatten().tolist() for row in CRITERIA[name].entries(state)] == expected
    one = replace(CRITERIA["above 100"], at_most=1)
    assert [row.nonzero().flatten().tolist() for row in one.entries(state)] == [[0], [], []]
    skewed = torch.tensor([2001.0, 1, 2, 3, -1])  # median 2; deviations 1999, 1, 0, 1, 3 have the median 1
    assert MassiveCriterion(times_mad=1000.0).entries(skewed).tolist() == [True] + [False] * 4
    assert not MassiveCriterion(times_mad=2002.0).entries(skewed).any()
    row = torch.ones(12)
    row[3] = -100.0  # mean magnitude 9.25, deviation 27.4: the mark is 91.3
    assert CRITERIA["3-sigma"].entries(row).nonzero().flatten().tolist() == [3]


def test_a_dimension_is_massive_in_enough_prompts_of_a_domain_and_layers() -> None:
    rows = make_rows()
    rows.values[:] = 0.01
    first = POOLINGS.index("first")
    code = np.flatnonzero(rows.where(split="identify", domain="code"))
    rows.values[code[:5], first, 1, 11] = 200.0
    rows.values[code[:4], first, 1, 12] = 200.0
    assert massive_dimensions(rows).nonzero()[1].tolist() == [11]
    assert not massive_dimensions(rows, MassiveCriterion(at_least=100.0, min_layers=0.75)).any()
    assert massive_dimensions(rows, MassiveCriterion(at_least=100.0, min_layers=0.5)).sum() == 1


def test_tables_hold_what_was_found(rows: PooledRows) -> None:
    dcds = find_dcds(rows, k=2)
    found = find_verdicts(rows, dcds)
    assert [(item.domain, item.dimension) for item in found if item.is_dcd] == [(d.domain, d.dimension) for d in dcds]
    frame = verdict_frame(found)
    assert frame["dimension"].tolist() == [item.dimension for item in found]
    summary = verdict_summary(found, {"law": 0.25, "code": 0.75})
    assert summary["judged"] == len(found) == sum(summary["counts"].values())
    assert summary["controls_at_the_auroc_of_a_detector"] == 0.5


def test_where_every_dimension_is_judged_no_control_is_left(rows: PooledRows) -> None:
    found = find_verdicts(rows, find_dcds(rows, k=1), also={"law": range(rows.values.shape[3])}, n_resamples=20)
    assert all(np.isnan(item.control_share) for item in found)
    assert {item.verdict for item in found} & {"detector", "both"}


def test_bad_input_is_named(rows: PooledRows) -> None:
    law = find_dcds(rows, k=1)[0]
    with pytest.raises(ValueError, match="no rows of domain 'art'"):
        find_verdicts(rows, [replace(law, domain="art")])
    with pytest.raises(ValueError, match="dimension 120 is out of range"):
        find_verdicts(rows, [replace(law, dimension=120)])
    with pytest.raises(ValueError, match="unknown criterion 'huge'"):
        find_verdicts(rows, [law], rule=Rule(criterion="huge"))
    with pytest.raises(ValueError, match="a criterion needs a condition"):
        MassiveCriterion()
    few = np.array([rows.splits[q] != "test" or q % 10 < 3 for q in range(len(rows.prompts))])
    names, domains, splits = (tuple(np.array(x)[few].tolist()) for x in (rows.prompts, rows.domains, rows.splits))
    with pytest.raises(ValueError, match="has 3 passages in 'test'"):
        find_verdicts(PooledRows(names, domains, splits, POOLINGS, rows.values[few]), [law])
    with pytest.raises(ValueError, match="pooling 'first' was not collected"):
        find_verdicts(replace(rows, poolings=("mean_abs",), values=rows.values[:, :1]), [law])
