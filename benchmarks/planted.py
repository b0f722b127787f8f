"""Planted truth over many seeds: selection, verdicts and labels against what was written into the weights.

`python -m benchmarks.planted --out benchmarks/results/planted.json` (two minutes on an idle core). The thresholds
of selection, verdict and label are those of the library; `--seeds 0-4` is where anything may be looked at and changed,
`--seeds 100-119` (the default) is what is reported.

selection  discriminative selection (every dimension whose frequency exceeds that of the other domains by 30 %): recall
           and precision at every gap; how many of the planted dimensions the k largest magnitudes hold, k being told
verdict    sink, detector, both or neither, for every planted dimension and everything the selections or the massive
           criteria bring; the right answer is what was planted, "neither" for dimensions without a role
label      planted token class and sign of every dimension that fires on a class
null       the same at gap 1, where domains do not differ: everything found is false; family-wise permutation p-values
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from scipy.stats import binomtest

from workbench.activations import collect, collect_columns
from workbench.dimensions import find_dcds, find_verdicts, selection_stability
from workbench.dimensions.detectors import find_detectors
from workbench.models import HookedModel
from workbench.planted import PlantedTruth, Role, planted_model
from workbench.records import Dimension, DimensionStatistics, PooledRows, Prompt

GAPS = (2.0, 4.0)
RIGHT: dict[Role, str] = {
    "detector": "detector",
    "both": "both",
    "inert": "detector",
    "quiet": "detector",
    "everywhere": "neither",
    "sink": "sink",
}


@dataclass
class Tally:
    """Counts over seeds."""

    n_planted: int = 0
    selection: Counter[str] = field(default_factory=Counter)
    magnitude: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    seeds_where_magnitude_fails: int = 0


def run_seed(seed: int, gap: float, n_prompts: int, tally: Tally) -> None:
    """Add one planted model to the tally."""
    model, prompts, truth = planted_model(seed, gap=gap, n_prompts=n_prompts)
    # All blocks but the last write nothing onto planted dimensions: the last one holds what there is to see.
    statistics, rows = collect(model, prompts, layers=[model.n_layers - 1], n_top=10)
    found = find_dcds(rows, k=model.d_model, selection="discrimination")
    tally.n_planted += len(truth.planted)
    failures = tally.magnitude["wrong"]
    for domain in truth.domains:
        wanted = truth.discriminative(domain)
        _count({dcd.dimension for dcd in found if dcd.domain == domain}, wanted, tally.selection)
        largest = [dcd for dcd in find_dcds(rows, k=len(wanted)) if dcd.domain == domain]
        _count({dcd.dimension for dcd in largest}, wanted, tally.magnitude)
    tally.seeds_where_magnitude_fails += tally.magnitude["wrong"] > failures
    _count_verdicts(rows, found, truth, tally)
    _count_labels(model, prompts, statistics, found, truth, tally)


def _count(found: set[int], wanted: frozenset[int], counts: Counter[str]) -> None:
    counts += Counter(right=len(found & wanted), wrong=len(found - wanted), missed=len(wanted - found))


def _count_verdicts(rows: PooledRows, found: list[Dimension], truth: PlantedTruth, tally: Tally) -> None:
    """Every judgement counts; dimensions of no domain are judged in the domain that the library chooses for them."""
    roles: dict[int, Role] = {item.dimension: item.role for item in truth.planted}
    critical = {domain: truth.critical(domain) for domain in truth.domains}
    judged = find_verdicts(rows, [*find_dcds(rows, k=12), *found], also=critical)
    own = {item.dimension: item.domain for item in truth.planted if item.domain}
    for item in judged:
        # A detector of another domain is judged here only as large: that it is no detector of this one is right.
        is_foreign = item.domain != own.get(item.dimension, item.domain)
        role = "foreign" if is_foreign else roles.get(item.dimension, "none")
        tally.verdicts[role, item.verdict] += 1


def _count_labels(
    model: HookedModel,
    prompts: list[Prompt],
    statistics: DimensionStatistics,
    found: list[Dimension],
    truth: PlantedTruth,
    tally: Tally,
) -> None:
    columns = collect_columns(model, prompts, [(0, dcd.dimension) for dcd in found])
    detectors = {
        (detector.dimension, detector.label, 1 if detector.end == "high" else -1)
        for detector in find_detectors(statistics, columns, found, {}, prompts)
    }
    for item in truth.planted:
        if item.role in ("detector", "both", "inert"):
            tally.labels["right" if (item.dimension, item.label, item.sign) in detectors else "wrong"] += 1


def summary(tally: Tally) -> dict[str, object]:
    """Rates with exact 95 % binomial intervals; judgements of one model are not independent of each other."""
    chosen = tally.selection
    right = sum(n for (role, verdict), n in tally.verdicts.items() if _is_right(role, verdict))
    sinks = {verdict: n for (role, verdict), n in tally.verdicts.items() if role == "sink"}
    return {
        "planted": tally.n_planted,
        "selection_recall": _rate(chosen["right"], chosen["right"] + chosen["missed"]),
        "selection_precision": _rate(chosen["right"], chosen["right"] + chosen["wrong"]),
        "magnitude_recall": _rate(tally.magnitude["right"], tally.magnitude["right"] + tally.magnitude["missed"]),
        "seeds_where_magnitude_fails": tally.seeds_where_magnitude_fails,
        "verdict_right": _rate(right, sum(tally.verdicts.values())),
        "sinks_called_detectors": _rate(sinks.get("detector", 0) + sinks.get("both", 0), sum(sinks.values())),
        "labels_recovered": _rate(tally.labels["right"], sum(tally.labels.values())),
        "verdicts": {f"{role}: {verdict}": n for (role, verdict), n in sorted(tally.verdicts.items())},
    }


def _is_right(role: str, verdict: str) -> bool:
    return verdict == {**RIGHT, "none": "neither", "foreign": "neither"}[role]


def _rate(n: int, total: int) -> dict[str, float | int]:
    if total == 0:
        return {"n": n, "of": total}
    interval = binomtest(n, total).proportion_ci()
    return {"n": n, "of": total, "rate": n / total, "low": float(interval.low), "high": float(interval.high)}


def null_runs(seeds: Iterable[int], n_prompts: int) -> dict[str, object]:
    """What is reported where the domains do not differ."""
    chosen, significant, detectors, n = 0, 0, 0, 0
    for seed in seeds:
        model, prompts, _ = planted_model(seed, gap=1.0, n_prompts=n_prompts)
        rows = collect(model, prompts, layers=[model.n_layers - 1], n_top=1)[1]
        chosen += len(find_dcds(rows, k=model.d_model, selection="discrimination"))
        stable = selection_stability(rows, k=model.d_model, n_resamples=1, seed=seed)
        significant += any(item.p_value <= 0.05 for item in stable)
        detectors += sum(item.verdict in ("detector", "both") for item in find_verdicts(rows, find_dcds(rows, k=12)))
        n += 1
    return {
        "dimensions_selected": chosen,
        "verdicts_of_detector": detectors,
        "runs_with_a_significant_difference": _rate(significant, n),
    }


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=_seeds, default="100-119", help="first-last")
    parser.add_argument("--prompts", type=int, default=12, help="passages per domain in identify and in test")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/planted.json"))
    options = parser.parse_args()
    results: dict[str, object] = {"seeds": list(options.seeds), "prompts": options.prompts}
    for gap in GAPS:
        tally = Tally()
        for seed in options.seeds:
            run_seed(seed, gap, options.prompts, tally)
        results[f"gap {gap:g}"] = summary(tally)
    results["gap 1"] = null_runs(options.seeds, options.prompts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
