"""Recall of the screened path against exhaustive masking, beside its cost, as a record, a table and on wish a figure.

    python -m benchmarks.recall

For each model: every dimension is masked to zero in passages of *identify*, then gradients estimate the same drops
under several settings. The m candidates of a domain, the dimensions of largest magnitude and the first of the estimate,
are what the screened path masks exactly; recall is the share of the true top 10 among them. Cost in forward passes over
the passages (a backward pass counts as two): the estimate, one unmasked pass, and one per candidate; exhaustive masking
costs d_model + 1, so that at a width of 64 no estimate with ten candidates stays below a fifth of it.

`--split tune` measures the same on other passages, where settings are to be chosen; the defaults were. Beside them
stands what sequential halving would have found (Karnin, Koren, Somekh 2013, "Almost optimal exploration in multi-armed
bandits"): the candidates of the plain gradient, masked in few passages, the better half in more, until fewer than
twice ten remain to be masked in all.

The same settings at d_model 2,304 are counted on a planted model of that width, not timed: what they cost does not
depend on the weights. Exhaustive masking of the built-in model takes minutes; `--records` keeps it for the next run,
which reads it only where model and passages are the same.
"""

import argparse
import json
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.corpus import load_corpus
from workbench.dimensions.masking import domain_loss_increase, top_dimensions
from workbench.figures import recall_caption, recall_figure, write_figure
from workbench.masking.attribution import estimate_masking, screened_masking
from workbench.masking.experiment import sample_prompts, token_magnitudes
from workbench.masking.measure import mask_dimensions
from workbench.masking.tables import CriticalityPlan, candidates_of, estimate_name, largest_of
from workbench.models import HookedModel, load_model
from workbench.planted import planted_model
from workbench.records import MaskingResult, Prompt, Split, load_record, save_record
from workbench.statistics import spearman

PLAN = CriticalityPlan("screened")  # the defaults: groups, points of the integral, candidates
SETTINGS = ((1, 1, 0), (PLAN.n_groups, PLAN.n_points, 0), (2, 2, PLAN.n_largest), (4, 2, PLAN.n_largest))
CANDIDATES = (10, 12, 16, 20, 24, 28, 32, 36, 40)
DEFAULT = estimate_name(PLAN.n_groups, PLAN.n_points, PLAN.n_largest)
HALVING, HALVED = "sequential halving", (20, 40, 80, 160)
WIDE = 2304


@dataclass(frozen=True)
class Outcome:
    """What the documented default does on one model, and whether it meets the goal."""

    model: str
    fingerprint: str
    d_model: int
    split: Split
    passages_per_domain: int
    setting: str
    m: int
    recall: dict[str, float]
    fraction: float
    is_met: bool


def exhaustive(model: HookedModel, prompts: Sequence[Prompt], folder: Path | None) -> MaskingResult:
    """Exact masking of every dimension; read from `folder` if it was saved there for the same model and passages."""
    names = tuple(prompt.name for prompt in prompts)
    key = zlib.crc32(" ".join(names).encode())
    path = None if folder is None else folder / f"{model.fingerprint}-{key:08x}.safetensors"
    if path is not None and path.exists():
        found = load_record(path, MaskingResult)
        if found.prompts == names:
            return found
    result = mask_dimensions(model, prompts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_record(result, path)
    return result


def recall_rows(model: HookedModel, prompts: Sequence[Prompt], folder: Path | None) -> list[dict[str, Any]]:
    """One row per setting, m and domain."""
    exact = exhaustive(model, prompts, folder)
    largest = largest_of(token_magnitudes(model, prompts), PLAN.n_largest)
    rows = []
    for groups, points, n_ungrouped in SETTINGS:
        ungrouped, groups = largest if n_ungrouped else (), min(groups, model.d_model)
        estimate = estimate_masking(model, prompts, n_groups=groups, n_points=points, ungrouped=ungrouped)
        name = estimate_name(groups, points, len(ungrouped))
        for m in (m for m in CANDIDATES if m <= model.d_model):
            found = candidates_of(estimate, m, largest)
            rows += _compared(exact, estimate, found, name, m, estimate.cost + 1 + m)
        if points == 1:
            for m in (m for m in HALVED if m <= model.d_model):
                found, cost = halved(exact, candidates_of(estimate, m, largest))
                rows += _compared(exact, estimate, found, HALVING, m, estimate.cost + 1 + cost)
    return rows


def _compared(
    exact: MaskingResult,
    estimate: MaskingResult,
    found: Mapping[str, Collection[int]],
    setting: str,
    m: int,
    cost: float,
) -> list[dict[str, Any]]:
    """How much of the true top of every domain is among what was found."""
    drops, guessed = (domain_loss_increase(result, "identify") for result in (exact, estimate))
    return [
        {
            "setting": setting,
            "m": m,
            "domain": domain,
            "recall": len({*true} & {*found[domain]}) / PLAN.k,
            "cost": cost,
            "fraction": cost / (exact.d_model + 1),
            "spearman": spearman(drops[number], guessed[number]),
        }
        for number, (domain, true) in enumerate(top_dimensions(exact, PLAN.k).items())
    ]


def halved(exact: MaskingResult, candidates: Mapping[str, Sequence[int]]) -> tuple[dict[str, list[int]], float]:
    """What sequential halving leaves of the candidates of every domain, and what it costs in passes over all passages.

    Every round has twice as many new passages as the one before; the first are drawn with seed 0. At most twice k
    candidates go into the last, which ends with all passages.
    """
    rng, left, cost = np.random.default_rng(0), {}, 0
    for domain, own in candidates.items():
        columns = rng.permutation(np.flatnonzero(np.array(exact.domains) == domain))
        n_rounds = 1 + max(0, math.ceil(math.log2(len(own) / (2 * PLAN.k))))
        alive, done = list(own), 0
        for number in range(n_rounds):
            if number:
                drops = exact.loss_increase[alive][:, columns[:done]].mean(axis=1)
                alive = [alive[index] for index in np.argsort(-drops)[: math.ceil(len(alive) / 2)]]
            end = math.ceil(len(columns) * (2 ** (number + 1) - 1) / (2**n_rounds - 1))
            cost += len(alive) * (end - done)
            done = end
        left[domain] = alive
    return left, cost / len(exact.prompts)


def outcome(model: HookedModel, n: int, split: Split, rows: Sequence[dict[str, Any]]) -> Outcome:
    own = [row for row in rows if (row["setting"], row["m"]) == (DEFAULT, min(PLAN.m, model.d_model))]
    recall = {row["domain"]: row["recall"] for row in own}
    fraction = own[0]["fraction"]
    is_met = min(recall.values()) >= 0.9 and fraction <= 0.2
    name = Path(model.name).name
    return Outcome(name, model.fingerprint, model.d_model, split, n, DEFAULT, own[0]["m"], recall, fraction, is_met)


def told(done: Outcome) -> str:
    found = list(done.recall.values())
    return (
        f"The default ({done.setting}, m = {done.m}) finds {np.mean(found):.0%} of the top {PLAN.k} on average and "
        f"{min(found):.0%} in the worst domain, at {done.fraction:.1%} of the cost."
    )


def counted_at(d_model: int) -> dict[str, float]:
    """Rows of forward passes that the default settings run at this width, counted at the model; backwards count two."""
    model, prompts, _ = planted_model(0, d_model=d_model, n_prompts=4)
    prompts = sample_prompts(prompts, "identify", None)
    largest = largest_of(token_magnitudes(model, prompts), PLAN.n_largest)
    counts = {"forward": 0, "backward": 0}
    handle = model.hf_model.register_forward_pre_hook(
        lambda module, arguments, options: _count(counts, len(options["input_ids"])), with_kwargs=True
    )
    try:
        estimate = estimate_masking(model, prompts, n_groups=PLAN.n_groups, n_points=PLAN.n_points, ungrouped=largest)
        screened_masking(model, prompts, estimate, m=PLAN.m, largest=largest)
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
    parser.add_argument("--prompts", type=int, default=24, help="passages per domain")
    parser.add_argument("--split", choices=("identify", "tune"), default="identify", help="tune: to choose settings on")
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
        corpus = load_corpus("builtin", max_characters=longest)
        chosen = sample_prompts(corpus, arguments.split, arguments.prompts)
        prompts = [replace(prompt, split="identify") for prompt in chosen]  # what ranks is called so
        rows = recall_rows(model, prompts, arguments.records)
        done = outcome(model, arguments.prompts, arguments.split, rows)
        found["models"].append(asdict(done))
        table, name = pd.DataFrame(rows), f"recall-{Path(source).name}"
        caption = f"{told(done)} {recall_caption(table)}"
        table.to_csv(arguments.out / f"{name}.csv", index=False)
        if arguments.figures is not None:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            write_figure(recall_figure(table), arguments.figures / f"{name}.html", caption=caption)
        (arguments.out / "recall.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{done.model}: {caption}")
    print(f"at d_model {WIDE}: {found[f'counted_at_{WIDE}']['fraction']:.2%} of the exhaustive cost")


if __name__ == "__main__":
    main()
