"""The layer by dimension map of one domain, as values with the levels by which they are coloured."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from workbench.explorer.material import ExplorerError
from workbench.records import DimensionStatistics

Measure = Literal["magnitude", "against other domains", "frequency"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
FOLD = 3.0  # binary orders of magnitude to either end of the diverging scale


@dataclass(frozen=True)
class DimensionMap:
    """`values` in the unit that `caption` says; `levels` 0 to 255 from pale to strong, or around 128 if diverging."""

    values: Float32[np.ndarray, "layer d_model"]
    levels: UInt8[np.ndarray, "layer d_model"]
    is_diverging: bool
    unit: str
    caption: str


def dimension_map(statistics: DimensionStatistics, domain: str, measure: str = "magnitude") -> DimensionMap:
    """Map of one domain. The residual stream grows over layers, so magnitude is coloured within each layer.

    `magnitude`: mean |activation|, from the median of its layer (pale) to its largest (strong), logarithmic.
    `against other domains`: how many times the mean over the other domains, equal is white, logarithmic.
    `frequency`: fraction of passages in which the dimension is active under the 3-sigma rule at that layer.
    """
    if domain not in statistics.domains:
        raise ExplorerError(f"unknown domain {domain!r}; choose one of {', '.join(statistics.domains)}")
    at = statistics.domains.index(domain)
    magnitude = statistics.mean_magnitude
    if measure == "frequency":
        share = statistics.frequency[at]
        caption = f"Share of the passages of {domain} in which the dimension is active (3-sigma rule at that layer)"
        return DimensionMap(share.astype(np.float32), _levels(share), False, "of passages", caption)
    if measure == "magnitude":
        logs = np.log(np.maximum(magnitude[at], 1e-30))
        low, high = np.median(logs, axis=1, keepdims=True), logs.max(axis=1, keepdims=True)
        caption = f"Mean magnitude in {domain}; pale: the median of the layer or less, dark: its largest (logarithmic)"
        levels = _levels((logs - low) / np.maximum(high - low, 1e-12))
        return DimensionMap(magnitude[at].astype(np.float32), levels, False, "activation units", caption)
    if measure == "against other domains":
        others = np.delete(magnitude, at, axis=0)
        times = np.ones_like(magnitude[at])
        if len(others):
            times = np.maximum(magnitude[at], 1e-30) / np.maximum(others.mean(axis=0), 1e-30)
        levels = _levels(0.5 + np.log2(times) / (2 * FOLD))
        caption = f"Magnitude in {domain} beside the mean of the other domains; orange: larger here, blue: smaller"
        return DimensionMap(times.astype(np.float32), levels, True, "times that of the others", caption)
    raise ExplorerError(f"unknown measure {measure!r}; choose one of {', '.join(MEASURES)}")


def _levels(share: Float64[np.ndarray, "layer d_model"]) -> UInt8[np.ndarray, "layer d_model"]:
    return np.round(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)
