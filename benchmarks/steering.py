"""Speed of the steering methods: `python -m benchmarks.steering --out benchmarks/results/steering.json`, idle machine.

ranking     sign-consistency scores and the top units for stacked activations of pairs x units, by the streamed counters
            of `sign_consistency` (batch by batch) against a loop over units on stacked tensors, as the paper's code has
            it. The loop runs over the first `--loop-units` units of the whole stack, and its time is scaled up.
memory      peak resident bytes of a fresh process that counts signs over n and over ten times as many pairs.
generation  cached generation under every method against unsteered: median of paired ratios with its 95 % interval.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from workbench.interventions import (
    ITI,
    SADI,
    ActAdd,
    ActivationScaling,
    AUSteer,
    ContrastiveAddition,
    CriticalDimensionSteering,
    DirectionalAblation,
    DynScalar,
    HeadAblation,
    Steering,
    SteerVec,
    StyleHeads,
    steer,
)
from workbench.interventions.unit_scores import count_signs, first_of
from workbench.models import HookedModel, load_model

BATCH = 16


def batches(n_pairs: int, n_units: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Made-up activations of both texts of every pair, as one site of `n_units`: [1, pair, unit]."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n_pairs, BATCH):
        shape = (1, min(BATCH, n_pairs - start), n_units)
        yield torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def streamed(stream: Iterator[tuple[Tensor, Tensor]], n_units: int, k: int) -> list[int]:
    larger, smaller, *_ = count_signs(stream, (1, n_units))
    return first_of(np.maximum(larger, smaller).ravel(), k).tolist()


def loop(positive: Tensor, negative: Tensor, n_units: int, k: int) -> list[int]:
    """One unit at a time on stacked tensors [pair, unit], and a sort of all scores."""
    scores = {}
    for unit in range(n_units):
        difference = positive[:, unit] - negative[:, unit]
        up = (difference > 0).float().mean().item()
        down = (difference < 0).float().mean().item()
        scores[unit] = up if up > down else -down
    return [unit for unit, _ in sorted(scores.items(), key=lambda item: abs(item[1]), reverse=True)[:k]]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ranking(n_pairs: int, n_units: int, loop_units: int, repetitions: int) -> dict[str, float]:
    """Seconds of both ways; what they choose is compared on the units that the loop sees."""
    held = list(batches(n_pairs, n_units))
    fast = [seconds(lambda: streamed(iter(held), n_units, 100)) for _ in range(repetitions)]
    part = [(one[:, :, :loop_units], other[:, :, :loop_units]) for one, other in held]
    expected = streamed(iter(part), loop_units, 100)
    positive, negative = (torch.cat([batch[side][0] for batch in held]) for side in (0, 1))
    chosen: list[int] = []
    slow = seconds(lambda: chosen.extend(loop(positive, negative, loop_units, 100))) * n_units / loop_units
    return {
        "pairs": n_pairs,
        "units": n_units,
        "streamed_seconds": statistics.median(fast),
        "loop_seconds": slow,
        "loop_units_timed": loop_units,
        "ratio": slow / statistics.median(fast),
        "same_units": chosen == expected,
    }


def peak_memory(n_pairs: int, n_units: int) -> int:
    code = f"from benchmarks.steering import count_once; count_once({n_pairs}, {n_units})"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def count_once(n_pairs: int, n_units: int) -> None:
    streamed(batches(n_pairs, n_units), n_units, 100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def methods(model: HookedModel) -> dict[str, Steering]:
    """Every method with small made-up payloads, at a typical number of sites."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return 0.01 * torch.randn(*shape, generator=generator)

    width, layers = model.n_heads * model.d_head, tuple(range(model.n_layers))
    names = tuple(f"{kind}.{layer}" for layer in layers for kind in ("attn_out", "mlp_out"))
    middle = model.n_layers // 2
    mask = (noise(model.n_layers, model.d_model) > 0.02).float()
    mask[:, 0] = 1.0
    return {
        "contrastive addition": ContrastiveAddition(noise(model.d_model), middle),
        "CDS": CriticalDimensionSteering(noise(1, model.d_model), (middle,), tuple(range(8))),
        "ActAdd": ActAdd(noise(8, model.d_model), middle),
        "directional ablation": DirectionalAblation(noise(model.d_model), model.n_layers),
        "AUSteer z": AUSteer(noise(model.n_layers, width), "z", layers),
        "AUSteer mlp_raw": AUSteer(noise(model.n_layers, model.d_model), "mlp_raw", layers),
        "SADI": SADI(mask, "mlp_raw", layers),
        "ITI": ITI(noise(4, model.d_head), tuple((layer, 0) for layer in layers[:4]), model.n_heads),
        "style heads": StyleHeads(noise(3, model.d_head), middle, (0, 1, 2), model.n_heads),
        "head ablation": HeadAblation(((middle, 0),), model.n_heads),
        "activation scaling": ActivationScaling(noise(len(names), 16), names),
        "SteerVec": SteerVec(noise(len(names), 16, model.d_model), names),
        "DynScalar": DynScalar(noise(len(names), model.d_model), names),
    }


def generation(model: HookedModel, n_tokens: int, n_pairs: int) -> dict[str, dict[str, float]]:
    """Ratio of steered to unsteered cached generation for 8 prompts, in the scope that each method is used in.

    Round by round every method is timed right beside the unsteered model, which goes first in every other round.
    """
    eos, model.hf_model.generation_config.eos_token_id = model.hf_model.generation_config.eos_token_id, -1
    words = "law sum cell code war sea king field".split()
    tokens = model.tokenize([f"The {word} of the" for word in words], side="left")

    def generate(steering: Steering | None) -> float:
        with nullcontext() if steering is None else steer(model, steering, 1.0, steering.published_scope):
            return seconds(lambda: model.generate(tokens, max_new_tokens=n_tokens))

    steerings = methods(model)
    ratios: dict[str, list[float]] = {name: [] for name in steerings}
    for round_index in range(-1, n_pairs):  # the first one warms up
        for name, steering in steerings.items():
            pair = (None, steering) if round_index % 2 else (steering, None)
            took = {one: generate(one) for one in pair}
            if round_index >= 0:
                ratios[name].append(took[steering] / took[None])
    model.hf_model.generation_config.eos_token_id = eos
    return {name: median_interval(found) for name, found in ratios.items()}


def median_interval(values: list[float]) -> dict[str, float]:
    """Median with the order statistics that enclose the true one with a probability of at least 95 %."""
    ordered, n = sorted(values), len(values)
    below = max(0, int(stats.binom.ppf(0.025, n, 0.5)) - 1)
    return {"ratio": statistics.median(ordered), "low": ordered[below], "high": ordered[n - 1 - below]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--units", type=int, default=131_072)
    parser.add_argument("--loop-units", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=7, help="of the ranking by counters")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of steered and unsteered generation per method")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/steering.json"))
    arguments = parser.parse_args()
    few, many = max(BATCH, arguments.pairs // 10), arguments.pairs
    low, high = peak_memory(few, arguments.units), peak_memory(many, arguments.units)
    model = load_model(arguments.model)
    result = {
        "model": model.name,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "ranking": ranking(arguments.pairs, arguments.units, arguments.loop_units, arguments.repetitions),
        "memory": {"pairs": [few, many], "peak_bytes": [low, high], "ratio": high / low},
        "generation": generation(model, arguments.tokens, arguments.rounds),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
