"""Made-up records of the shape that a study writes: three massive dimensions everywhere, a few own ones per domain."""

import math
from functools import cache
from pathlib import Path

import numpy as np

from workbench.records import (
    SELECTIONS,
    Contrast,
    Damage,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    StrengthCurve,
    TokenContext,
    TopTokens,
    save_record,
    save_table,
    write_json,
)

DOMAINS = ("mathematics", "biology", "law", "code", "physics", "literature", "humanities")
METRICS = ("domain loss", "domain share")
ARMS = ("cds (magnitude)", "cds (discrimination)", "cds (both)", "whole-dimension", "top-k", "random-k")
LEVELS = (0.03, 0.1, 0.3)
HOSTILE = "<script>alert('x')</script>"


def massive(d_model: int) -> list[int]:
    """The dimensions that are large in every domain."""
    return [d_model // 20, d_model // 2 + 9, d_model // 2 + 12]


def own(domain: int, d_model: int) -> list[int]:
    """The dimensions that are large in one domain."""
    return [(31 * domain + 7 * index + 3) % d_model for index in range(4)]


@cache
def fake_statistics(domains: tuple[str, ...] = DOMAINS, n_layers: int = 6, d_model: int = 256) -> DimensionStatistics:
    rng = np.random.default_rng(0)
    shape = (len(domains), n_layers, d_model)
    scale = np.linspace(0.4, 1.6, n_layers)[None, :, None]
    magnitude = rng.gamma(6.0, 0.15, (1, 1, d_model)) * rng.uniform(0.8, 1.25, shape) * scale
    first = np.broadcast_to(magnitude.mean(axis=0) * 1.2, shape).copy()
    late = np.arange(n_layers) >= n_layers // 3
    for rank, dimension in enumerate(massive(d_model)):
        magnitude[:, late, dimension] *= 40 / (1 + 0.5 * rank)
        first[:, late, dimension] = 160.0 / (1 + rank)
    frequency = np.clip(rng.normal(-0.12, 0.08, shape), 0, 1)
    frequency[:, :, massive(d_model)] = rng.uniform(0.9, 1.0, (len(domains), n_layers, 3))
    for index in range(len(domains)):
        for rank, dimension in enumerate(own(index, d_model)):
            magnitude[index, :, dimension] *= 5 - rank
            frequency[index, :, dimension] = np.clip(0.85 - 0.15 * rank + rng.normal(0, 0.05, n_layers), 0, 1)
    empty = np.zeros((*shape[:2], 2, 1, d_model), dtype=int)
    top = TopTokens(value=empty.astype(np.float32), prompt=empty - 1, position=empty, token=empty)
    n_prompts = np.full(len(domains), 48)
    return DimensionStatistics(
        domains=domains,
        n_tokens=n_prompts * 50,
        n_prompts=n_prompts,
        mean=magnitude * 0.5,
        m2=magnitude**2 * 2400.0,
        mean_magnitude=magnitude,
        max_magnitude=magnitude * 3,
        n_active=np.rint(frequency * 48).astype(int),
        first_mean_magnitude=first,
        first_max_magnitude=first * 1.1,
        top=top,
    )


def fake_rows(domains: tuple[str, ...] = DOMAINS, n_layers: int = 6, d_model: int = 256) -> PooledRows:
    rng = np.random.default_rng(1)
    statistics = fake_statistics(domains, n_layers, d_model)
    splits = ("identify",) * 8 + ("tune",) * 4 + ("test",) * 8
    values = np.stack(
        [
            statistics.mean_magnitude[index] * rng.lognormal(0, 0.25, (n_layers, d_model))
            for index in range(len(domains))
            for _ in splits
        ]
    )
    names = tuple(f"{domain}/{index}" for domain in domains for index in range(len(splits)))
    of = tuple(domain for domain in domains for _ in splits)
    return PooledRows(names, of, splits * len(domains), ("mean_abs",), values[:, None].astype(np.float32))


@cache
def fake_dcds(domains: tuple[str, ...] = DOMAINS, d_model: int = 256) -> list[Dimension]:
    found = []
    for index, domain in enumerate(domains):
        for selection in SELECTIONS:
            shared = massive(d_model) if selection == "magnitude" else []
            for rank, dimension in enumerate([*shared, *own(index, d_model)]):
                is_shared = dimension in shared
                found.append(
                    Dimension(
                        domain=domain,
                        dimension=dimension,
                        rank=rank,
                        selection=selection,
                        magnitude=12.5 / (1 + rank),
                        magnitude_elsewhere=12.0 / (1 + rank) if is_shared else 0.9,
                        frequency=0.97 if is_shared else 0.77,
                        frequency_elsewhere=0.95 if is_shared else 0.03,
                        reach="every domain" if is_shared else "this domain",
                    )
                )
    return found


LABELS = ("numbers", "operators", "indentation", "legal terms", "unlabelled")
TOKENS = (" court", " statute", "\n    ", "=", HOSTILE, " the", " cell", "\t", " 42", " ≥")


def fake_detector(domain: str, layer: int, dimension: int, label: str, rng: np.random.Generator) -> Detector:
    auroc = float("nan") if label == "unlabelled" else float(rng.uniform(0.47, 0.98))
    contexts = tuple(
        TokenContext(
            token=TOKENS[(index + dimension) % len(TOKENS)],
            before="It was held that   the <b>old</b>\n    rule of the",
            after=" must give way & yield to the new one.",
            value=float(21.5 - 1.7 * index) * (1 if layer % 2 else -1),
            prompt=f"{domain}/{index}",
            position=4 + index,
        )
        for index in range(8)
    )
    return Detector(
        domain=domain,
        layer=layer,
        dimension=dimension,
        end="high" if layer % 2 else "low",
        label=label,
        auroc=auroc,
        low=auroc - 0.06,
        high=min(1.0, auroc + 0.05),
        n_tokens=120,
        top_tokens=contexts,
        promoted=(" court", " judge", HOSTILE),
        suppressed=(" cell", "\n"),
    )


@cache
def fake_detectors(domains: tuple[str, ...] = DOMAINS, n_layers: int = 6, d_model: int = 256) -> list[Detector]:
    rng = np.random.default_rng(2)
    return [
        fake_detector(domain, layer, dimension, LABELS[(layer + rank + index) % len(LABELS)], rng)
        for index, domain in enumerate(domains)
        for rank, dimension in enumerate([*massive(d_model), *own(index, d_model)])
        for layer in range(n_layers)
    ]


def fake_contrast(
    rng: np.random.Generator, *, half: float, effect: float, is_run: bool, metric: str, domain: str, arm: str,
    level: float, against: str = "unsteered",
) -> Contrast:  # fmt: skip
    is_loss, low, high = metric == "domain loss", effect - half, effect + half
    verdict = "no difference shown" if low <= 0 <= high else "better" if (effect < 0) == is_loss else "worse"
    return Contrast(
        task=f"{metric.replace(' ', '-')}/{domain}",
        domain=domain,
        arm=arm,
        role="control" if arm in ("top-k", "random-k") else "method",
        metric=metric,
        unit="nats per token" if is_loss else "fraction of generations",
        higher_is_better=not is_loss,
        is_primary=True,
        budget="kl",
        level=level,
        against=against,
        setting=f"layer {rng.integers(0, 6)}" if is_run else "",
        strength=float(rng.uniform(0.5, 8)),
        in_norms=0.2 if is_run else math.nan,
        in_sds=math.nan,
        kl=level * float(rng.uniform(0.9, 1.1)) if is_run else 0.4 * level,
        effect=effect if is_run else math.nan,
        low=low if is_run else math.nan,
        high=high if is_run else math.nan,
        p=math.nan,
        q=math.nan,
        n=48 if is_run else 0,
        n_missing=0,
        verdict=verdict if is_run else "not measured",
        minimum_detectable_effect=half if is_run else math.nan,
        note="" if is_run else "level not reached at layer(s) 0, 1; the model <breaks> first",
    )


@cache
def fake_contrasts(domains: tuple[str, ...] = DOMAINS, scale: float = 1.0) -> list[Contrast]:
    """Every arm against the unsteered model, and every CDS arm against the others; `scale` 0 makes all effects zero."""
    rng = np.random.default_rng(3)
    found = []
    for metric, sign, width in (("domain loss", -1.0, 0.02), ("domain share", 1.0, 0.08)):
        for domain in domains:
            for index, arm in enumerate(ARMS):
                for level in LEVELS:
                    place = {"metric": metric, "domain": domain, "arm": arm, "level": level}
                    effect = scale * sign * width * float(rng.normal(1.2 - 0.3 * index, 0.7) * (1 + level))
                    half = width * float(rng.uniform(0.8, 1.6))
                    is_run = not (arm == "random-k" and level == 0.3)
                    found.append(fake_contrast(rng, half=half, effect=effect, is_run=is_run, **place))
                    for other in ("whole-dimension", "top-k") if arm.startswith("cds") else ():
                        effect = scale * float(rng.normal(0, width))
                        found.append(fake_contrast(rng, half=half, effect=effect, is_run=True, against=other, **place))
    return found


def fake_run(folder: Path, domains: tuple[str, ...] = DOMAINS, n_layers: int = 6, d_model: int = 256) -> Path:
    """Write a whole run folder of made-up records."""
    records = folder / "records"
    records.mkdir(parents=True)
    dcds, detectors = fake_dcds(domains, d_model), fake_detectors(domains, n_layers, d_model)
    save_record(fake_statistics(domains, n_layers, d_model), records / "statistics.safetensors")
    save_record(fake_rows(domains, n_layers, d_model), records / "rows.npy")
    save_table(dcds, records / "dcds.json")
    save_table(detectors, records / "detectors.json")
    save_table(fake_contrasts(domains), records / "contrasts.json")
    classifier = {
        "domains": domains,
        "n_training": 504,
        "held_out": 0.93,
        "n_held_out": 336,
        "own_text": 0.8,
        "n_own_text": 56,
    }
    write_json(records / "classifier.json", classifier)
    documents = {domain: {"identify": 48, "tune": 24, "test": 48} for domain in domains}
    manifest = {
        "format": 1,
        "written": "2026-01-01T00:00:00+00:00",
        "settings": {"model": "builtin", "corpus": "builtin", "k": 8, "seed": 0, "device": "cpu", "dtype": "float32"},
        "preset": {"name": "full", "kl_levels": [0.03, 0.1, 0.3]},
        "seeds": {"corpus": 0, "detectors": 0, "steering": 0},
        "model": {"name": "builtin", "fingerprint": "ab" * 32, "layers": n_layers, "d_model": d_model},
        "data": {"corpus": "cd" * 32, "neutral": "ef" * 32, "documents": documents},
        "versions": {"dcd-workbench": "0.1.0", "torch": "2.13.0"},
        "platform": {"python": "3.11.2", "system": "Linux"},
        "timings": {"load": 1.5, "statistics": 20.25},
        "seconds": 95.5,
    }
    summary = {
        "model": "builtin",
        "domains": list(domains),
        "dcds": {},
        "detectors": [],
        "steering": [],
        "seconds": 95.5,
    }
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "summary.json", summary)
    return folder


def fake_comparison(folder: Path, domains: tuple[str, ...] = DOMAINS) -> Path:
    """Write the folder of a comparison: records, tables and plan."""
    save_table(fake_contrasts(domains), folder / "contrasts.json")
    save_table(fake_damages(f"domain-loss/{domains[0]}"), folder / "damage.json")
    curve = {"metric": "loss", "unit": "nats per token", "higher_is_better": False, "strengths": (1.0, 2.0)}
    effects = {"effect": (-0.01, -0.05), "effect_low": (-0.03, -0.07), "effect_high": (0.01, -0.03)}
    costs = {"kl": (0.01, 0.04), "in_norms": (0.1, 0.2), "limit": 0.5, "low": 2.0, "high": 4.0, "n_evaluations": 9}
    place = {"task": f"domain-loss/{domains[0]}", "domain": domains[0], "arm": "cds", "setting": "layer 2"}
    save_table([StrengthCurve(**place, **curve, **effects, **costs)], folder / "curves.json")
    sizes = {"n_fit": 8, "n_tune": 4, "n_test": 8, "n_neutral": 6}
    plan = {"name": "made up", "model": {"name": "builtin"}, "methods": ["cds"], "tasks": list(domains), "k": 8}
    plan |= {"budgets": [["kl", 0.1]], "layers": [1, 2], "seeds": [0], "n_cells": 12, "sizes": sizes}
    write_json(folder / "plan.json", plan)
    (folder / "tables").mkdir()
    rows = [("task", "arm", "status"), (domains[0], "cds", "runs"), (domains[0], "iti", "it has no pairs")]
    text = "".join(",".join(row) + "\n" for row in rows)
    (folder / "tables" / "applicability.csv").write_text(text, encoding="utf-8")
    return folder


def fake_damages(task: str = "domain-loss/law", level: float = 0.1) -> list[Damage]:
    """Two methods and two controls: cds breaks nothing that shows, noise everything; one measure has no interval."""
    measures = (("KL", "nats per token", "up"), ("top-1 agreement", "fraction", "down"), ("length", "tokens", ""))
    found = []
    for arm, change in (("cds", 0.01), ("austeer", 0.04), ("random-k", 0.01), ("noise", 0.08)):
        role = "method" if arm in ("cds", "austeer") else "control"
        for measure, unit, worse in measures:
            mean = -change if worse == "down" else change
            head = (task, arm, role, "kl", level, measure, unit, worse)
            found.append(Damage(*head, 1 + mean, 1.0, mean, mean - 0.02, mean + 0.02, 12))
        head = (task, arm, role, "kl", level, "distinct bigrams", "fraction", "down")
        found.append(Damage(*head, 0.5 - change, 0.5, -change, math.nan, math.nan, 1))
    wish = (task, "prompt-only", "control", "none", 0.0, "length", "tokens", "")
    return [*found, Damage(*wish, 9.0, 8.0, 1.0, 0.5, 1.5, 12)]
