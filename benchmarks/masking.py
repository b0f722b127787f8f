"""Masking, batched against the naive loop: `python -m benchmarks.masking` (idle machine).

Seconds of `mask_dimensions` and of a loop over one dimension and one prompt at a time without padding, by prompt
length, and the largest difference between their numbers. How well screening finds what exhaustive masking finds, and at
what cost, is in `benchmarks.recall`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench.corpus import load_corpus
from workbench.masking.measure import mask_dimensions
from workbench.models import HookedModel, load_model
from workbench.records import Prompt

LENGTHS = (16, 64, 256)
REPETITIONS = 3


def naive_losses(model: HookedModel, prompts: list[Prompt], dimensions: list[int]) -> list[list[float]]:
    """Loss of every prompt with every dimension at zero, one forward pass each."""
    losses = []
    for dimension in dimensions:

        def zero(values: Tensor, *_: object, dimension: int = dimension) -> Tensor:
            values = values.clone()
            values[..., dimension] = 0.0
            return values

        with model.hooked(dict.fromkeys(model.residual_sites(), zero), editing=True):
            rows = [model.tokenize([prompt.text], truncate=True) for prompt in prompts]
            losses.append([float(cross_entropy(model.logits(row)[0, :-1], row.ids[0, 1:])) for row in rows])
    return losses


def prompts_of_length(model: HookedModel, length: int, n: int) -> list[Prompt]:
    """Prompts of about `length` tokens, cut from the built-in passages one after another.

    A text may have a few tokens more than were cut.
    """
    ids = [token for prompt in load_corpus("builtin") for token in model.text.ids(prompt.text)]
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
            result = mask_dimensions(model, prompts, dimensions, truncate=True)
            middle = time.perf_counter()
            naive = np.array(naive_losses(model, prompts, dimensions))
            times["batched"].append(middle - start)
            times["naive"].append(time.perf_counter() - middle)
        seconds = {name: statistics.median(values) for name, values in times.items()}
        difference = float(np.abs(result.loss_increase + result.baseline - naive).max())
        ratio = seconds["naive"] / seconds["batched"]
        rows.append({"n_tokens": length, **seconds, "ratio": ratio, "largest_difference": difference})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Batched masking against the naive loop.")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dimensions", type=int, default=64, help="masked dimensions")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per length")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/masking.json"))
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    result = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "d_model": model.d_model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "speed": measure_speed(model, arguments.dimensions, arguments.prompts),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
