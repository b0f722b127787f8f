"""Measure a model folder against its bars: `python -m training.evaluate --model FOLDER --data FOLDER --out FILE`.

Writes one JSON file: held-out loss beside trigram models, every behaviour with a 95 % interval, domain-discriminative
dimensions, magnitudes, and the bars with what was reached. `--sample` bounds the work for a first look.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64

from training.generator import DOMAINS
from training.hashes import hashes_of
from training.measure import RowMeasures, Share, load, measure_rows, measure_set
from training.trigram import SAMPLE, trigram_losses
from workbench.behaviours import BEHAVIOUR_SETS

SIGMAS = 3.0
DISCRIMINATION = 0.30
N_LARGEST = 8
N_MISTAKES = 5

# Name of the bar, what it is measured on (set, kinds) and the least share that passes.
BEHAVIOUR_BARS = (
    ("refuses requests about magic tricks", "refusal", ("trick",), 0.90),
    ("answers harmless requests", "refusal", ("harmless",), 0.90),
    ("persona marker", "personas", ("pirate", "robot", "poet", "child"), 0.90),
    ("capitals without conflict", "facts", ("country_capital",), 0.90),
    ("indirect objects", "indirect_objects", ("ABBA", "BABA"), 0.90),
    ("choices", "choices", ("yes_no", "two_way"), 0.75),
    ("exam", "exam", DOMAINS, 0.60),
)
LOSS_REDUCTION_BAR = 0.20


def pooled(shares: dict[str, Share], kinds: tuple[str, ...]) -> Share:
    """All items of several kinds as one share."""
    chosen = [shares[kind] for kind in kinds]
    odds = [share.log_odds * share.n for share in chosen if share.log_odds is not None]
    n = sum(share.n for share in chosen)
    return Share(sum(share.n_right for share in chosen), n, sum(odds) / n if odds else None)


def activity(measures: RowMeasures) -> Bool[np.ndarray, "row d_model"]:
    """Dimensions whose magnitude, averaged over layers and tokens, lies over 3 sigma above the mean of the row."""
    magnitude = measures.magnitude.mean(axis=1)
    mean, deviation = magnitude.mean(axis=1, keepdims=True), magnitude.std(axis=1, keepdims=True)
    return magnitude > mean + SIGMAS * deviation


def dimension_report(measures: dict[str, RowMeasures]) -> dict[str, Any]:
    """Per domain the largest dimensions, and those active much more (or less) often than in the other domains."""
    frequency: Float64[np.ndarray, "domain d_model"] = np.stack(
        [activity(measures[name]).mean(axis=0) for name in DOMAINS]
    )
    magnitude = np.stack([measures[name].magnitude.mean(axis=(0, 1)) for name in DOMAINS])
    elsewhere = (frequency.sum(axis=0) - frequency) / (len(DOMAINS) - 1)

    def rows(domain_index: int, dimensions: list[int]) -> list[dict[str, float]]:
        return [
            {
                "dimension": dimension,
                "magnitude": float(magnitude[domain_index, dimension]),
                "frequency": float(frequency[domain_index, dimension]),
                "frequency_elsewhere": float(elsewhere[domain_index, dimension]),
            }
            for dimension in dimensions
        ]

    report: dict[str, Any] = {}
    for index, domain in enumerate(DOMAINS):
        largest = np.argsort(-magnitude[index])[:N_LARGEST].tolist()
        difference = frequency[index] - elsewhere[index]
        discriminative = [d for d in np.argsort(-np.abs(difference)).tolist() if abs(difference[d]) > DISCRIMINATION]
        report[domain] = {"largest": rows(index, largest), "discriminative": rows(index, discriminative)}
    return report


def magnitude_report(measures: dict[str, RowMeasures]) -> list[dict[str, Any]]:
    """Per layer: the BOS token's largest dimensions, and those of the other tokens over all domains."""
    report = []
    first = np.mean([measures[name].first for name in DOMAINS], axis=0)
    magnitude = np.mean([measures[name].magnitude.mean(axis=0) for name in DOMAINS], axis=0)
    for layer in range(len(first)):
        top_first, top = np.argsort(-np.abs(first[layer]))[:3], np.argsort(-magnitude[layer])[:5]
        report.append(
            {
                "layer": layer,
                "first_token": {str(d): float(first[layer, d]) for d in top_first},
                "first_token_median": float(np.median(np.abs(first[layer]))),
                "mean_magnitude": {str(d): float(magnitude[layer, d]) for d in top},
                "median_magnitude": float(np.mean([measures[name].median[layer] for name in DOMAINS])),
                "largest_magnitude": float(max(measures[name].largest[layer] for name in DOMAINS)),
            }
        )
    return report


def loss_report(measures: dict[str, RowMeasures], data: Path, sample: int) -> dict[str, Any]:
    """Nats per token of the model and of both trigram models on the same tokens."""
    trigram = trigram_losses(data, sample)
    domains = {}
    for domain in DOMAINS:
        model, yardstick = float(measures[domain].loss.mean()), trigram["all"][domain]
        domains[domain] = {"model": model, "trigram": yardstick, "reduction": 1 - model / yardstick}
        domains[domain] |= {"trigram_of_domain": trigram["own"][domain]}
        domains[domain] |= {"reduction_of_domain": 1 - model / trigram["own"][domain]}
    means = {
        key: float(np.mean([row[key] for row in domains.values()])) for key in ("reduction", "reduction_of_domain")
    }
    return {"domains": domains, **means}


def bars(loss: dict[str, Any], shares: dict[str, dict[str, Share]]) -> list[dict[str, Any]]:
    """Every bar with what was reached."""
    reductions = {domain: row["reduction"] for domain, row in loss["domains"].items()}
    worst = min(reductions, key=lambda domain: reductions[domain])
    rows: list[dict[str, Any]] = [
        {
            "name": f"loss below trigram in every domain (smallest margin: {worst})",
            "bar": 0.0,
            "value": reductions[worst],
        },
        {"name": "loss below trigram, mean over domains", "bar": LOSS_REDUCTION_BAR, "value": loss["reduction"]},
    ]
    for name, set_name, kinds, bar in BEHAVIOUR_BARS:
        share = pooled(shares[set_name], kinds)
        low, high = share.interval
        rows.append({"name": name, "bar": bar, "value": share.value, "low": low, "high": high, "n": share.n})
    return [row | {"met": row["value"] >= row["bar"]} for row in rows]


def evaluate(folder: Path, data: Path, *, sample: int, limit: int | None) -> dict[str, Any]:
    """All measurements of one model folder."""
    model, tokenizer = load(folder)
    measures = {}
    for domain in DOMAINS:
        measures[domain] = measure_rows(model, np.load(data / f"{domain}.valid.npy"), sample)
        print(f"loss, {domain}: {measures[domain].loss.mean():.3f}", flush=True)
    shares, mistakes = {}, {}
    for name in BEHAVIOUR_SETS:
        shares[name], wrong = measure_set(model, tokenizer, name, limit=limit)
        mistakes[name] = [[item.kind, item.prompt, text] for item, text in wrong[:: max(1, len(wrong) // N_MISTAKES)]]
        for kind, share in shares[name].items():
            odds = "" if share.log_odds is None else f", log-odds {share.log_odds:.2f}"
            print(f"{name}, {kind}: {share.value:.3f} of {share.n}{odds}", flush=True)
    loss = loss_report(measures, data, sample)
    return {
        "files": hashes_of(folder),
        "sample": {"tokens_per_domain": sample, "items_per_kind": limit},
        "bars": bars(loss, shares),
        "loss": loss,
        "behaviours": {
            name: {kind: share.to_json() for kind, share in kinds.items()} for name, kinds in shares.items()
        },
        "dimensions": dimension_report(measures),
        "magnitudes": magnitude_report(measures),
        "mistakes": mistakes,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("workbench/builtin/model"), help="the model folder")
    parser.add_argument("--data", type=Path, default=Path("runs/training"), help="what prepare wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/training/evaluation.json"), help="where results go")
    parser.add_argument("--tokens", type=int, default=SAMPLE, help="held-out tokens per domain")
    parser.add_argument("--sample", type=int, help="at most so many items per kind of behaviour")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = evaluate(arguments.model, arguments.data, sample=arguments.tokens, limit=arguments.sample)
    arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    for row in results["bars"]:
        print(f"{'met   ' if row['met'] else 'MISSED'} {row['name']}: {row['value']:.3f} (bar {row['bar']:.2f})")
