"""Masking: batched against the naive loop, and screening by gradients against exhaustive masking.

`python -m benchmarks.masking --out benchmarks/results/masking.json` (idle machine; `--parts speed` or `recall` alone).

speed   seconds of `mask_dimensions` and of a loop over one dimension and one prompt at a time without padding, by
        prompt length, and the largest difference between their numbers.
recall  share of the ten truly worst dimensions of every domain that screening measures exactly, and its cost as a
        fraction of exhaustive masking, over numbers of groups, points and candidates; one forward pass over the
        evaluation set costs 1, a backward pass 2. Costs do not depend on d_model, so their fraction at 2,304 dimensions
        is stated beside.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench.activations import collect
from workbench.corpus import load_corpus
from workbench.dimensions.criticality import (
    domain_rise,
    largest_dimensions,
    masked_domains,
    spearman,
    top_dimensions,
)
from workbench.evaluation.attribution import estimate_masking
from workbench.evaluation.masking import mask_dimensions
from workbench.models import HookedModel, load_model
from workbench.records import MaskingResult, Prompt, load_masking, save_masking

LENGTHS = (16, 64, 256)
REPETITIONS = 3
SETTINGS = ((1, 1), (1, 2), (2, 2), (4, 2), (8, 2), (4, 3))  # groups, points
CANDIDATES = (10, 12, 16, 20, 24, 32, 40)
K, N_LARGEST = 10, 8
WIDE = 2304


def naive_losses(model: HookedModel, prompts: list[Prompt], dimensions: list[int]) -> list[list[float]]:
    """Loss of every prompt with every dimension at zero, one forward pass each."""
    losses = []
    for dimension in dimensions:

        def zero(values: Tensor, *_: object, dimension: int = dimension) -> Tensor:
            values = values.clone()
            values[..., dimension] = 0.0
            return values

        with model.hooked(dict.fromkeys(model.residual_sites(), zero), editing=True):
            rows = [model.tokenize([prompt.text]) for prompt in prompts]
            losses.append([float(cross_entropy(model.logits(row)[0, :-1], row.ids[0, 1:])) for row in rows])
    return losses


def prompts_of_length(model: HookedModel, length: int, n: int) -> list[Prompt]:
    """Prompts of about `length` tokens, cut from the built-in passages one after another."""
    ids = [
        token
        for prompt in load_corpus("builtin")
        for token in model.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    ]
    return [
        Prompt(model.decode(ids[start : start + length - 1]), "law", f"law/{start}", "identify")
        for start in range(0, n * length, length)
    ]


def measure_speed(model: HookedModel, n_dimensions: int, n_prompts: int) -> list[dict[str, float]]:
    dimensions = list(range(n_dimensions))
    rows = []
    for length in LENGTHS:
        prompts = prompts_of_length(model, length, n_prompts)
        times: dict[str, list[float]] = {"batched": [], "naive": []}
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            result = mask_dimensions(model, prompts, dimensions)
            middle = time.perf_counter()
            naive = np.array(naive_losses(model, prompts, dimensions))
            times["batched"].append(middle - start)
            times["naive"].append(time.perf_counter() - middle)
        seconds = {name: statistics.median(values) for name, values in times.items()}
        difference = float(np.abs(result.rise + result.baseline - naive).max())
        ratio = seconds["naive"] / seconds["batched"]
        rows.append({"n_tokens": length, **seconds, "ratio": ratio, "largest_difference": difference})
    return rows


def identify_prompts(n_per_domain: int) -> list[Prompt]:
    prompts = [prompt for prompt in load_corpus("builtin") if prompt.split == "identify"]
    domains = dict.fromkeys(prompt.domain for prompt in prompts)
    return [p for domain in domains for p in [p for p in prompts if p.domain == domain][:n_per_domain]]


def estimates(model: HookedModel, prompts: list[Prompt], folder: Path | None) -> Iterator[tuple[str, MaskingResult]]:
    """Exact masking and the estimates of every setting; read from `folder` where they were saved before."""
    jobs = {"exact": lambda: mask_dimensions(model, prompts)}
    for groups, points in SETTINGS:
        jobs[f"{groups} groups, {points} points"] = lambda groups=groups, points=points: estimate_masking(
            model, prompts, n_groups=groups, n_points=points
        )
    for name, job in jobs.items():
        path = None if folder is None else folder / f"{name}.safetensors"
        if path is not None and path.exists():
            yield name, load_masking(path)
            continue
        result = job()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_masking(result, path)
        yield name, result


def measure_recall(model: HookedModel, n_per_domain: int, folder: Path | None) -> list[dict[str, object]]:
    prompts = identify_prompts(n_per_domain)
    found = dict(estimates(model, prompts, folder))
    exact = found.pop("exact")
    largest = set(largest_dimensions(collect(model, prompts, n_top=1)[1], N_LARGEST))
    true, drops = top_dimensions(exact, K), domain_rise(exact, "identify")
    rows = []
    for name, estimate in found.items():
        guessed = domain_rise(estimate, "identify")
        rank_correlation = float(np.mean([spearman(a, b) for a, b in zip(drops, guessed, strict=True)]))
        for m in CANDIDATES:
            top = top_dimensions(estimate, m)
            for besides in (set(), largest):
                recall = {domain: len(set(true[domain]) & (set(top[domain]) | besides)) / K for domain in true}
                n_masked = statistics.mean(len(set(top[domain]) | besides) for domain in masked_domains(exact))
                cost = estimate.cost + 1 + n_masked
                row = {"setting": name, "m": m, "n_largest": len(besides), "cost": cost, "spearman": rank_correlation}
                row |= {"fraction": cost / (model.d_model + 1), f"fraction_at_{WIDE}": cost / (WIDE + 1)}
                row |= {"recall": statistics.mean(recall.values()), "least_recall": min(recall.values())}
                rows.append({**row, "by_domain": recall})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Batched against naive masking, and screening against exhaustive.")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--parts", nargs="+", choices=("speed", "recall"), default=("speed", "recall"))
    parser.add_argument("--prompts", type=int, default=48, help="identify prompts per domain for recall")
    parser.add_argument("--dimensions", type=int, default=64, help="masked dimensions for speed")
    parser.add_argument("--records", type=Path, help="folder to keep masking results in, so that a run can be resumed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/masking.json"))
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    result: dict[str, object] = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "d_model": model.d_model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if "speed" in arguments.parts:
        result["speed"] = measure_speed(model, arguments.dimensions, n_prompts=4)
    if "recall" in arguments.parts:
        result["prompts_per_domain"] = arguments.prompts
        result["recall"] = measure_recall(model, arguments.prompts, arguments.records)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
