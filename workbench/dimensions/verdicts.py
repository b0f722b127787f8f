"""Sink, detector, both or neither: what a massive or domain-critical dimension is, with the evidence. No model is run.

    sink      its magnitude sits at the first token and at delimiters, and hardly depends on the text:
              share_first + share_delimiter >= 0.9, constancy >= 0.5, massive by one criterion
    detector  its activation after the first token tells passages of the domain from those of others on held-out text:
              AUROC >= 0.75 with the whole interval above 0.5, reached by at most 5 % of control dimensions

A share counts every position class once: mean magnitude at the first token, over that plus the mean magnitudes at
delimiters and at the rest, so that it does not depend on the length of a passage (a flat dimension has 1/3 each). The
domain, the layer and whether magnitude, high or low values are read are chosen on *identify*, the score is from *test*.
In a model that tells domains apart at all, many dimensions do; the controls, at most 256 random dimensions that are not
judged, read in the same way, are therefore part of the rule.
The thresholds are ours (`Rule`). What a detector costs when masked says whether the model needs it, not what it is;
costs are therefore evidence beside the verdict.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from workbench.dimensions.criteria import split_domains
from workbench.dimensions.masking import domain_loss_increase, masked_domains
from workbench.dimensions.massive import CRITERIA, massive_dimensions
from workbench.records import (
    VERDICTS,
    Detector,
    Dimension,
    MaskingResult,
    MaskMode,
    PooledRows,
    Rule,
    Split,
    Verdict,
    VerdictName,
)
from workbench.statistics import auroc, resample_counts

ReadAs = Literal["magnitude", "high", "low"]
READ_AS: tuple[ReadAs, ...] = get_args(ReadAs)
MIN_PASSAGES = 4
N_CONTROLS = 256
POSITIONS = ("first", "delimiter", "rest")


@dataclass(frozen=True)
class DomainScores:
    """How well each of some dimensions tells one domain from the others: chosen on *identify*, scored on *test*."""

    quality: Float64[np.ndarray, "dimension"]
    layer: Int[np.ndarray, "dimension"]
    reading: Int[np.ndarray, "dimension"]
    auroc: Float64[np.ndarray, "dimension"]
    low: Float64[np.ndarray, "dimension"]
    high: Float64[np.ndarray, "dimension"]
    n_passages: int


def find_verdicts(
    rows: PooledRows,
    dcds: Sequence[Dimension],
    *,
    masking: Sequence[MaskingResult] = (),
    detectors: Sequence[Detector] = (),
    also: Mapping[str, Collection[int]] | None = None,
    rule: Rule | None = None,
    n_resamples: int = 500,
    seed: int = 0,
) -> list[Verdict]:
    """A verdict on every DCD, on the dimensions in `also` (per domain), and on those massive by any criterion.

    Massive dimensions that are no DCDs stand last, each with the domain that it tells apart best on *identify*. Costs
    come from `masking` (zero and mean, measured; on *test* if masked there, else on *identify*), labels from
    `detectors`. Raises where a domain has fewer than four passages in *identify* or *test*, or a pooling is missing.
    """
    rule = rule or Rule()
    domains = split_domains(rows, "identify")
    _check(rows, domains, dcds)
    massive = {name: _anywhere(rows, name) for name in CRITERIA}
    pairs = _pairs(domains, dcds, also or {})
    known = {dimension for _, dimension in pairs}
    is_massive = np.any(list(massive.values()), axis=0)
    strangers = [dimension for dimension in np.flatnonzero(is_massive).tolist() if dimension not in known]
    judged = sorted({*known, *strangers})
    others = control_sample(rows, judged, seed)
    scores = {domain: domain_scores(rows, domain, judged, n_resamples=n_resamples, seed=seed) for domain in domains}
    controls = {
        domain: domain_scores(rows, domain, others, n_resamples=1).auroc if others else np.empty(0)
        for domain in domains
    }
    for dimension in strangers:
        at = judged.index(dimension)
        pairs[max(domains, key=lambda domain: scores[domain].quality[at]), dimension] = False
    evidence = _Evidence(
        rule,
        massive,
        _anywhere(rows, rule.criterion),
        *position_evidence(rows),
        {mode: _costs(masking, mode) for mode in ("zero", "mean")},
        _labels(detectors),
    )
    return [
        _judge(domain, dimension, is_dcd, evidence, scores[domain], judged.index(dimension), controls[domain])
        for (domain, dimension), is_dcd in pairs.items()
    ]


@dataclass(frozen=True)
class _Evidence:
    """What is known of every dimension, whatever the domain, and of single pairs of domain and dimension."""

    rule: Rule
    massive: Mapping[str, Bool[np.ndarray, "d_model"]]
    must_be: Bool[np.ndarray, "d_model"]
    shares: Float64[np.ndarray, "position d_model"]
    constancy: Float64[np.ndarray, "d_model"]
    costs: Mapping[str, Mapping[tuple[str, int], float]]
    labels: Mapping[tuple[str, int], str]

    def is_sink(self, dimension: int) -> bool:
        """Massive, at the first token and delimiters, and hardly dependent on the text."""
        return bool(
            self.must_be[dimension]
            and self.shares[:2, dimension].sum() >= self.rule.min_share
            and self.constancy[dimension] >= self.rule.min_constancy
        )

    def is_detector(self, auroc: float, low: float, control_share: float) -> bool:
        """Tells the domain apart, surely so, and as few controls do; without controls nothing is asked of them."""
        return auroc >= self.rule.min_auroc and low > 0.5 and not control_share > self.rule.max_control_share


def _judge(
    domain: str,
    dimension: int,
    is_dcd: bool,
    evidence: _Evidence,
    scores: DomainScores,
    at: int,
    controls: Float64[np.ndarray, "control"],
) -> Verdict:
    """The verdict on one dimension in one domain; its scores stand at place `at` of `scores`."""
    auroc, low = float(scores.auroc[at]), float(scores.low[at])
    control_share = float((controls >= auroc).mean()) if len(controls) else float("nan")
    zero, mean = (evidence.costs[mode].get((domain, dimension), float("nan")) for mode in ("zero", "mean"))
    return Verdict(
        domain=domain,
        dimension=dimension,
        verdict=_name(evidence.is_sink(dimension), evidence.is_detector(auroc, low, control_share)),
        is_dcd=is_dcd,
        massive=tuple(name for name, chosen in evidence.massive.items() if chosen[dimension]),
        share_first=float(evidence.shares[0, dimension]),
        share_delimiter=float(evidence.shares[1, dimension]),
        constancy=float(evidence.constancy[dimension]),
        layer=int(scores.layer[at]),
        reading=READ_AS[scores.reading[at]],
        auroc=auroc,
        low=low,
        high=float(scores.high[at]),
        control_share=control_share,
        n_passages=scores.n_passages,
        cost_zero=zero,
        cost_mean=mean,
        label=evidence.labels.get((domain, dimension), ""),
        note=_note(zero, mean),
        rule=evidence.rule,
    )


# --- evidence ---------------------------------------------------------------------------------------------------------


def position_evidence(
    rows: PooledRows, *, split: Split = "identify"
) -> tuple[Float64[np.ndarray, "position d_model"], Float64[np.ndarray, "d_model"]]:
    """Shares of the magnitude at the first token, at delimiters and at the rest, and constancy, of every dimension.

    Magnitudes are means over layers; a position class that no passage has counts as zero.
    """
    chosen = rows.where(split=split)
    per_passage = np.stack(
        [np.abs(rows.pooled(name)[chosen].astype(np.float64)).mean(axis=1) for name in POSITIONS]
    )  # position, passage, d_model
    known = ~np.isnan(per_passage[:, :, :1])
    filled, n = np.where(known, per_passage, 0.0), np.maximum(known.sum(axis=1), 1)
    means = filled.sum(axis=1) / n
    deviations = np.where(known, np.square(per_passage - means[:, None]), 0.0)
    spread = np.sqrt(deviations.sum(axis=1) / n)
    total = means.sum(axis=0)
    shares = means / np.where(total > 0, total, 1.0)
    peak = means.argmax(axis=0)[None]
    mean, deviation = (np.take_along_axis(values, peak, axis=0)[0] for values in (means, spread))
    return shares, np.clip(1 - deviation / np.where(mean > 0, mean, np.inf), 0.0, 1.0)


def domain_scores(
    rows: PooledRows, domain: str, dimensions: Sequence[int], *, n_resamples: int = 500, seed: int = 0
) -> DomainScores:
    """AUROC of passages of one domain against those of the others, per dimension, with a bootstrap interval.

    Layer (-1: mean over layers) and reading are those of the largest AUROC on *identify*. Passages are drawn anew
    within the domain and outside it.
    """
    quality = _all_scores(rows, domain, dimensions, "identify")  # column, dimension
    best = quality.argmax(axis=0)
    at = np.arange(len(dimensions))
    inside, values = _columns(rows, domain, dimensions, "test")
    chosen = values[:, best, at]
    wins = np.stack([_wins(column[inside], column[~inside]) for column in chosen.T])  # dimension, inside, outside
    rng = np.random.default_rng(seed)
    drawn = [resample_counts(n, n_resamples, rng) / n for n in wins.shape[1:]]
    resampled = np.einsum("rj,dij->rdi", drawn[1], wins)
    low, high = np.quantile(np.einsum("ri,rdi->rd", drawn[0], resampled), [0.025, 0.975], axis=0)
    n_layers = rows.values.shape[2]
    return DomainScores(
        quality=quality[best, at],
        layer=best % (n_layers + 1) - 1,
        reading=best // (n_layers + 1),
        auroc=wins.mean(axis=(1, 2)),
        low=low,
        high=high,
        n_passages=int(inside.sum()),
    )


def control_sample(rows: PooledRows, judged: Collection[int], seed: int = 0) -> list[int]:
    """At most 256 random dimensions that are not judged, sorted; none where all are judged."""
    others = np.setdiff1d(np.arange(rows.values.shape[3]), list(judged))
    if len(others) > N_CONTROLS:
        others = np.sort(np.random.default_rng(seed).choice(others, N_CONTROLS, replace=False))
    return others.tolist()


def detector_share(
    rows: PooledRows, judged: Collection[int], *, rule: Rule | None = None, seed: int = 0
) -> dict[str, float]:
    """For every domain the share of control dimensions that meet the AUROC of the rule, its interval included."""
    rule = rule or Rule()
    others = control_sample(rows, judged, seed)
    if not others:
        raise ValueError("no dimension is left as a control; judge fewer")
    shares = {}
    for domain in split_domains(rows, "identify"):
        of = domain_scores(rows, domain, others, seed=seed)
        shares[domain] = float(((of.auroc >= rule.min_auroc) & (of.low > 0.5)).mean())
    return shares


def _anywhere(rows: PooledRows, criterion: str) -> Bool[np.ndarray, "d_model"]:
    """Which dimensions are massive at some layer."""
    return np.logical_or.reduce(massive_dimensions(rows, criterion), axis=0)


def _columns(
    rows: PooledRows, domain: str, dimensions: Sequence[int], split: Split
) -> tuple[np.ndarray, Float64[np.ndarray, "passage column dimension"]]:
    """Which passages of a split are of the domain, and their values by reading and layer (mean first)."""
    domains = split_domains(rows, split)
    chosen = rows.where(split=split) & np.isin(rows.domains, domains)
    inside = np.array(rows.domains)[chosen] == domain
    if min(inside.sum(), (~inside).sum()) < MIN_PASSAGES:
        raise ValueError(
            f"domain {domain!r} has {inside.sum()} passages in {split!r} and the others {(~inside).sum()}, too few for "
            f"an interval; at least {MIN_PASSAGES} of each"
        )
    magnitude, signed = (
        rows.pooled(name)[chosen][:, :, list(dimensions)].astype(np.float64) for name in ("mean_abs", "mean")
    )
    readings = [np.concatenate([v.mean(axis=1, keepdims=True), v], axis=1) for v in (magnitude, signed, -signed)]
    return inside, np.concatenate(readings, axis=1)


def _all_scores(
    rows: PooledRows, domain: str, dimensions: Sequence[int], split: Split
) -> Float64[np.ndarray, "column dimension"]:
    inside, values = _columns(rows, domain, dimensions, split)
    return auroc(values.reshape(len(values), -1), inside[:, None]).reshape(values.shape[1:])


def _wins(inside: Float64[np.ndarray, "inside"], outside: Float64[np.ndarray, "outside"]) -> np.ndarray:
    """1 where a passage of the domain lies above one of the others, 1/2 at a tie."""
    above, below = inside[:, None] > outside[None], inside[:, None] < outside[None]
    return 0.5 + 0.5 * above - 0.5 * below


def _costs(masking: Sequence[MaskingResult], mode: MaskMode) -> dict[tuple[str, int], float]:
    """Measured rise of loss by domain and dimension; *test* where it was masked, *identify* otherwise."""
    costs: dict[tuple[str, int], float] = {}
    for result in masking:
        if result.mode != mode or result.how != "measured":
            continue
        if {result.masked_at, result.counted_at} != {"all tokens"}:
            raise ValueError(
                f"verdicts rest on masking at all tokens; given masks at {result.masked_at!r} and losses at "
                f"{result.counted_at!r}; mask again without --masked-at and --counted-at"
            )
        for split in ("identify", "test"):
            if all(
                any(d == domain and s == split for d, s in zip(result.domains, result.splits, strict=True))
                for domain in masked_domains(result)
            ):
                for domain, rise in zip(masked_domains(result), domain_loss_increase(result, split), strict=True):
                    pairs = zip(result.dimensions, rise.tolist(), strict=True)
                    costs |= {(domain, dimension): cost for dimension, cost in pairs if not np.isnan(cost)}
    return costs


def _labels(detectors: Sequence[Detector]) -> dict[tuple[str, int], str]:
    """The label of the largest AUROC of every dimension in its domain."""
    best: dict[tuple[str, int], Detector] = {}
    for detector in detectors:
        key = detector.domain, detector.dimension
        if not np.isnan(detector.auroc) and (key not in best or detector.auroc > best[key].auroc):
            best[key] = detector
    return {key: detector.label for key, detector in best.items()}


def _pairs(
    domains: Sequence[str], dcds: Sequence[Dimension], also: Mapping[str, Collection[int]]
) -> dict[tuple[str, int], bool]:
    """Domain and dimension of everything to judge, with whether it is a DCD, domain by domain."""
    pairs = dict.fromkeys(((dcd.domain, dcd.dimension) for dcd in dcds), True)
    for domain, dimensions in also.items():
        for dimension in sorted(dimensions):
            pairs.setdefault((domain, int(dimension)), False)
    return dict(sorted(pairs.items(), key=lambda pair: domains.index(pair[0][0])))


def _check(rows: PooledRows, domains: Sequence[str], dcds: Sequence[Dimension]) -> None:
    unknown = sorted({dcd.domain for dcd in dcds} - set(domains))
    if unknown:
        raise ValueError(f"no rows of domain {unknown[0]!r}; there are {', '.join(domains)}")
    beyond = [dcd.dimension for dcd in dcds if not 0 <= dcd.dimension < rows.values.shape[3]]
    if beyond:
        raise ValueError(f"dimension {beyond[0]} is out of range; the rows have {rows.values.shape[3]} dimensions")


def _name(is_sink: bool, is_detector: bool) -> VerdictName:
    if is_sink and is_detector:
        return "both"
    return "sink" if is_sink else "detector" if is_detector else "neither"


def _note(zero: float, mean: float) -> str:
    missing = [name for name, cost in (("zero", zero), ("mean", mean)) if np.isnan(cost)]
    return f"cost of masking to {' and to '.join(missing)} was not measured" if missing else ""


# --- tables -----------------------------------------------------------------------------------------------------------


def verdict_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per verdict, with the fields of `Verdict` and of its rule as columns; criteria joined by semicolons."""
    names = [name for name in Verdict.__dataclass_fields__ if name != "rule"]
    rules = list(Rule.__dataclass_fields__)
    rows = [[*(getattr(item, n) for n in names), *(getattr(item.rule, n) for n in rules)] for item in verdicts]
    frame = pd.DataFrame(rows, columns=pd.Index([*names, *rules]))
    frame["massive"] = ["; ".join(item.massive) for item in verdicts]
    return frame


def verdict_summary(verdicts: Sequence[Verdict], controls: Mapping[str, float] | None = None) -> dict[str, object]:
    """Counts of verdicts in plain values, with the mean over domains of `controls` (see `detector_share`)."""
    counts = {name: sum(item.verdict == name for item in verdicts) for name in VERDICTS}
    known = [item for item in verdicts if not (np.isnan(item.cost_zero) or np.isnan(item.cost_mean))]
    return {
        "judged": len(verdicts),
        "counts": counts,
        "dcds": {name: sum(item.verdict == name and item.is_dcd for item in verdicts) for name in VERDICTS},
        "massive": {name: sum(name in item.massive for item in verdicts) for name in CRITERIA},
        "with_costs": len(known),
        "controls_at_the_auroc_of_a_detector": float(np.mean(list(controls.values()))) if controls else None,
    }
