"""Recall of the screened path against exhaustive masking, beside its cost, as a record, a table and on wish a figure.

    python -m benchmarks.recall

For each model: every dimension is masked to zero in passages of *identify*, then gradients estimate the same drops
under several settings. A setting with m candidates per domain finds the share of the true top 10 that is among the m or
among the dimensions of largest magnitude, which are masked in any case. Cost in forward passes over the passages (a
backward pass counts as two): the estimate, one unmasked pass, and one per candidate; exhaustive masking costs
d_model + 1, so that at a width of 64 no estimate with ten candidates stays below a fifth of it.

The same settings at d_model 2,304 are counted on a planted model of that width, not timed: what they cost does not
depend on the weights. Exhaustive masking of the built-in model takes minutes; `--records` keeps it for the next run,
which reads it only where model and passages are the same.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.corpus import load_corpus
from workbench.dimensions.criticality import domain_rise, recall_at_k, spearman, top_dimensions
from workbench.dimensions.experiments import largest_of
from workbench.evaluation.attribution import estimate_masking
from workbench.evaluation.criticality import sample_prompts, token_magnitudes
from workbench.evaluation.masking import mask_dimensions
from workbench.figures import write_figure
from workbench.figures.recall import recall_caption, recall_figure
from workbench.models import HookedModel, load_model
from workbench.planted import planted_model
from workbench.records import MaskingResult, Prompt, load_masking, save_masking

SETTINGS = ((1, 1), (2, 2), (4, 2))  # groups, points of the integral
CANDIDATES = (10, 12, 16, 20, 24, 32, 40)
K, N_LARGEST = 10, 4
DEFAULT = "4 groups, 2 points"
DEFAULT_M = 24
WIDE = 2304


@dataclass(frozen=True)
class Outcome:
    """What the documented default does on one model, and whether it meets the goal."""

    model: str
    fingerprint: str
    d_model: int
    passages_per_domain: int
    setting: str
    m: int
    recall: dict[str, float]
    fraction: float
    is_met: bool


def exhaustive(model: HookedModel, prompts: Sequence[Prompt], folder: Path | None) -> MaskingResult:
    """Exact masking of every dimension; read from `folder` if it was saved there for the same model and passages."""
    path = None if folder is None else folder / f"{model.fingerprint}-{len(prompts)}.safetensors"
    names = tuple(prompt.name for prompt in prompts)
    if path is not None and path.exists():
        found = load_masking(path)
        if found.prompts == names:
            return found
    result = mask_dimensions(model, prompts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_masking(result, path)
    return result


def recall_rows(model: HookedModel, prompts: Sequence[Prompt], folder: Path | None) -> list[dict[str, Any]]:
    """One row per setting, m and domain."""
    exact = exhaustive(model, prompts, folder)
    largest = set(largest_of(token_magnitudes(model, prompts), N_LARGEST))
    true, drops = top_dimensions(exact, K), domain_rise(exact, "identify")
    rows = []
    for groups, points in SETTINGS:
        estimate = estimate_masking(model, prompts, n_groups=min(groups, model.d_model), n_points=points)
        guessed = domain_rise(estimate, "identify")
        for m in (m for m in CANDIDATES if m <= model.d_model):
            top = top_dimensions(estimate, m)
            alone = recall_at_k(exact, estimate, k=K, m=m, split="identify")
            for number, domain in enumerate(true):
                candidates = set(top[domain]) | largest
                cost = estimate.cost + 1 + len(candidates)
                rows.append(
                    {
                        "setting": f"{groups} groups, {points} points" if points > 1 else "plain gradient",
                        "m": m,
                        "domain": domain,
                        "recall": len(set(true[domain]) & candidates) / K,
                        "recall_without_largest": alone[domain],
                        "cost": cost,
                        "fraction": cost / (model.d_model + 1),
                        "spearman": spearman(drops[number], guessed[number]),
                    }
                )
    return rows


def outcome(model: HookedModel, n: int, rows: Sequence[dict[str, Any]]) -> Outcome:
    own = [row for row in rows if (row["setting"], row["m"]) == (DEFAULT, min(DEFAULT_M, model.d_model))]
    recall = {row["domain"]: row["recall"] for row in own}
    fraction = float(np.mean([row["fraction"] for row in own]))
    is_met = min(recall.values()) >= 0.9 and fraction <= 0.2
    return Outcome(
        Path(model.name).name, model.fingerprint, model.d_model, n, DEFAULT, own[0]["m"], recall, fraction, is_met
    )


def counted_at(d_model: int) -> dict[str, float]:
    """Rows of forward passes that the default settings run at this width, counted at the model; backwards count two."""
    model, prompts, _ = planted_model(0, d_model=d_model, n_prompts=4)
    prompts = sample_prompts(prompts, "identify", None)
    counts = {"forward": 0, "backward": 0}
    handle = model.hf_model.register_forward_pre_hook(
        lambda module, arguments, options: _count(counts, len(options["input_ids"])), with_kwargs=True
    )
    try:
        estimate = estimate_masking(model, prompts, n_groups=4, n_points=2)
        largest = largest_of(token_magnitudes(model, prompts), N_LARGEST)
        wanted = {domain: sorted({*own, *largest}) for domain, own in top_dimensions(estimate, DEFAULT_M).items()}
        mask_dimensions(model, prompts, wanted)
    finally:
        handle.remove()
    passes = (counts["forward"] + 2 * counts["backward"]) / len(prompts)
    return {"d_model": d_model, "cost": passes, "fraction": passes / (d_model + 1)}


def _count(counts: dict[str, int], n_rows: int) -> None:
    """A pass that keeps its graph is followed by a backward pass."""
    counts["forward"] += n_rows
    if torch.is_grad_enabled():
        counts["backward"] += n_rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall of the screened path against exhaustive masking, and cost.")
    parser.add_argument("--models", nargs="+", default=["builtin", "../shared/models/stories260K"])
    parser.add_argument("--prompts", type=int, default=16, help="identify passages per domain")
    parser.add_argument("--records", type=Path, help="folder to keep exhaustive masking in")
    parser.add_argument("--figures", type=Path, help="folder for the figure of every model, megabytes each")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder for recall.json and tables"
    )
    arguments = parser.parse_args()
    found: dict[str, Any] = {"torch": torch.__version__, "models": [], f"counted_at_{WIDE}": counted_at(WIDE)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for source in arguments.models:
        if source != "builtin" and not Path(source).exists():
            print(f"{source}: not there, left out")
            continue
        model = load_model(source)
        longest = min(1500, model.context_length - 1)
        prompts = sample_prompts(load_corpus("builtin", max_characters=longest), "identify", arguments.prompts)
        rows = recall_rows(model, prompts, arguments.records)
        done = outcome(model, arguments.prompts, rows)
        found["models"].append(asdict(done))
        table, name = pd.DataFrame(rows), f"recall-{Path(source).name}"
        table.to_csv(arguments.out / f"{name}.csv", index=False)
        if arguments.figures is not None:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            write_figure(recall_figure(table), arguments.figures / f"{name}.html", caption=recall_caption(table))
        (arguments.out / "recall.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{done.model}: {min(done.recall.values()):.0%} in the worst domain at {done.fraction:.1%} of the cost")
        print(recall_caption(table))
    print(f"at d_model {WIDE}: {found[f'counted_at_{WIDE}']['fraction']:.2%} of the exhaustive cost")


if __name__ == "__main__":
    main()
