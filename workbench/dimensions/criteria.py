"""Which dimensions are critical for a domain (DCDs): selection from pooled rows, without a model.

The default reading of the magnitude-based rule (Roh, Cho, Kim 2026, arXiv 2603.00029, as far as its text is known):

    a[q,d]  = mean over layers and tokens after the first of |h|                   of prompt q
    active  : a[q,d] > mean + 3 sigma of a[q,:] over the d_model dimensions
    f[s,d]  = share of the prompts of domain s in which d is active                (frequency)
    m[s,d]  = mean of a[q,d] over the prompts of domain s                          (magnitude, activation units)

That a frequency gap of 30 % is measured against the mean of the other domains, that the discrimination list is sorted
by this gap, and the words for how far a dimension reaches are ours.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from workbench.dimensions.statistics import active_dimensions
from workbench.records import DISCRIMINATION_GAP, OFTEN, SELECTIONS, SPLITS, Dimension, PooledRows, Selection, Split

NEUTRAL = "neutral"
_ROUNDING = 1e-9  # frequencies are ratios of counts: a gap of exactly 30 % must not pass by rounding

Reach = Literal["every domain", "this domain", "some domains", "no domain"]


@dataclass(frozen=True)
class DomainProfiles:
    """Magnitude (activation units) and frequency (fraction of prompts) of every dimension in every domain."""

    domains: tuple[str, ...]
    n_prompts: Int[np.ndarray, "domain"]
    magnitude: Float64[np.ndarray, "domain d_model"]
    frequency: Float64[np.ndarray, "domain d_model"]

    def elsewhere(self, values: Float64[np.ndarray, "domain d_model"]) -> Float64[np.ndarray, "domain d_model"]:
        """For every domain the mean of `values` over the other domains; each domain counts once, whatever its size."""
        return (values.sum(axis=0) - values) / (len(self.domains) - 1)

    @property
    def gap(self) -> Float64[np.ndarray, "domain d_model"]:
        """Frequency in the domain minus the mean frequency in the others."""
        return self.frequency - self.elsewhere(self.frequency)

    @property
    def is_discriminative(self) -> Bool[np.ndarray, "domain d_model"]:
        """Whether that gap is more than 30 %."""
        return self.gap > DISCRIMINATION_GAP + _ROUNDING


def domain_profiles(
    rows: PooledRows, *, split: Split = "identify", pooling: str = "mean_abs", layers: Sequence[int] | None = None
) -> DomainProfiles:
    """Magnitude and frequency per domain from the pooled rows of one split; text of no domain ("neutral") is left out.

    `layers` are indices of the layer axis of the rows (None: all), averaged. Signed poolings are read by magnitude.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    domains = split_domains(rows, split)
    chosen = _check_layers(layers, rows.values.shape[2])
    pooled = rows.pooled(pooling)
    n_prompts, magnitude, frequency = [], [], []
    for domain in domains:
        mask = rows.where(split=split, domain=domain)
        per_prompt = np.abs(pooled[mask][:, chosen].astype(np.float64)).mean(axis=1)
        n_prompts.append(len(per_prompt))
        magnitude.append(per_prompt.mean(axis=0))
        frequency.append(active_dimensions(per_prompt).mean(axis=0))
    return DomainProfiles(domains, np.array(n_prompts), np.stack(magnitude), np.stack(frequency))


def split_domains(rows: PooledRows, split: Split) -> tuple[str, ...]:
    """The domains of the rows in order of appearance, without "neutral"; raises unless each has prompts in the split.

    At least two domains are needed, because a domain is told apart from others.
    """
    domains = tuple(domain for domain in dict.fromkeys(rows.domains) if domain != NEUTRAL)
    if len(domains) < 2:
        raise ValueError(f"a domain is told apart from others, but there is only {domains}; give at least two domains")
    present = set(zip(rows.domains, rows.splits, strict=True))
    for domain in domains:
        if (domain, split) not in present:
            raise ValueError(f"domain {domain!r} has no prompts in split {split!r}; add text or choose another split")
    return domains


def find_dcds(
    rows: PooledRows,
    *,
    k: int = 8,
    selection: Selection = "magnitude",
    split: Split = "identify",
    pooling: str = "mean_abs",
    layers: Sequence[int] | None = None,
) -> list[Dimension]:
    """The domain-critical dimensions of every domain, best first, at most `k` per domain; ranks count from 1.

    `magnitude`: the k largest mean magnitudes. `discrimination`: dimensions whose frequency exceeds the mean of the
    other domains by more than 0.30, sorted by that gap. `both`: those same dimensions, sorted by magnitude. The latter
    two may give fewer than k, or none. Ties go to the larger magnitude, then to the lower index.
    """
    if not isinstance(rows, PooledRows):
        raise ValueError(
            f"find_dcds expects the PooledRows that collect returns second, given {type(rows).__name__}: "
            "statistics, rows = collect(model, prompts); find_dcds(rows)"
        )
    d_model = rows.values.shape[3]
    if not 1 <= k <= d_model:
        raise ValueError(f"k is {k}; choose between 1 and d_model = {d_model}")
    if selection not in SELECTIONS:
        raise ValueError(f"unknown selection {selection!r}; choose one of {', '.join(SELECTIONS)}")
    profiles = domain_profiles(rows, split=split, pooling=pooling, layers=layers)
    return [
        _record(profiles, domain, int(dimension), rank, selection)
        for domain in range(len(profiles.domains))
        for rank, dimension in enumerate(order_dimensions(profiles, domain, selection)[:k], start=1)
    ]


def order_dimensions(profiles: DomainProfiles, domain: int, selection: Selection) -> Int[np.ndarray, "rank"]:
    """The dimensions that a selection allows for one domain (by index), best first; `find_dcds` takes the first k."""
    magnitude, gap = profiles.magnitude[domain], profiles.gap[domain]
    candidates = np.arange(len(magnitude))
    if selection != "magnitude":
        candidates = np.flatnonzero(profiles.is_discriminative[domain])
    first_key = np.round(gap, 9) if selection == "discrimination" else magnitude
    return candidates[np.lexsort((candidates, -magnitude[candidates], -first_key[candidates]))]


def frequency_table(
    rows: PooledRows, *, split: Split = "identify", pooling: str = "mean_abs", layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """Activation frequency (fraction of prompts): one row per domain, one column per dimension."""
    profiles = domain_profiles(rows, split=split, pooling=pooling, layers=layers)
    index = pd.Index(profiles.domains, name="domain")
    return pd.DataFrame(profiles.frequency, index=index).rename_axis(columns="dimension")


def dcd_frame(dcds: Sequence[Dimension]) -> pd.DataFrame:
    """One row per domain-critical dimension, with the fields of `Dimension` as columns."""
    columns = [field.name for field in dataclasses.fields(Dimension)]
    return pd.DataFrame([[getattr(dcd, name) for name in columns] for dcd in dcds], columns=columns)


def _check_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    if layers is None:
        return list(range(n_layers))
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise ValueError(f"layers {wrong} are out of range; choose from 0 to {n_layers - 1}, at least one")
    return list(layers)


def _record(profiles: DomainProfiles, domain: int, dimension: int, rank: int, selection: Selection) -> Dimension:
    return Dimension(
        domain=profiles.domains[domain],
        dimension=dimension,
        rank=rank,
        selection=selection,
        magnitude=float(profiles.magnitude[domain, dimension]),
        magnitude_elsewhere=float(profiles.elsewhere(profiles.magnitude)[domain, dimension]),
        frequency=float(profiles.frequency[domain, dimension]),
        frequency_elsewhere=float(profiles.elsewhere(profiles.frequency)[domain, dimension]),
        reach=_reach(profiles, domain, dimension),
    )


def _reach(profiles: DomainProfiles, domain: int, dimension: int) -> Reach:
    """Where a dimension is large, seen from one domain; the first that holds.

    "every domain": active in at least half of the prompts of every domain. "this domain": its frequency exceeds the
    mean of the other domains by more than 0.30. "some domains": active in at least half of the prompts of some domain.
    """
    widespread = profiles.frequency[:, dimension] >= OFTEN
    if widespread.all():
        return "every domain"
    if profiles.is_discriminative[domain, dimension]:
        return "this domain"
    return "some domains" if widespread.any() else "no domain"
