"""Contrastive addition, CDS and ActAdd on the seven built-in domains, at equal KL on neutral text.

Directions and DCDs come from the identify split, one middle layer is used for all, and the strength is the one at which
KL on neutral text is `KL_LEVEL`. Reported is the change of the loss on the domain's test passages, so less is better.
Controls of CDS: as many dimensions of largest magnitude in v, and as many at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.measures import kl_measure
from experiments.pages import DOCS, shown, table, write_results, write_section
from workbench.activations import collect
from workbench.comparison import NeutralText, kl_budget, paired_interval, passage_losses, passage_tokens
from workbench.corpus import BUILTIN_DOMAINS, load_corpus
from workbench.dimensions import find_dcds
from workbench.interventions import ActAdd, ContrastiveAddition, CriticalDimensionSteering, Steering
from workbench.models import HookedModel, load_model
from workbench.records import Pair, Prompt
from workbench.statistics import Interval

KL_LEVEL, K = 0.1, 8
N_FIT, N_TEST, N_TOKENS, N_PAIRS, PAIR_TOKENS = 24, 24, 32, 8, 8
WHOLE, CDS = "contrastive addition", "CDS (largest magnitude)"


@dataclass(frozen=True)
class Arm:
    """One method on one domain; `change` is steered minus unsteered loss in nats per token, paired by passage."""

    domain: str
    method: str
    strength: float
    kl: float
    reached: bool
    change: Interval
    against_whole: Interval | None


def texts(prompts: Sequence[Prompt], split: str, n: int, *, domain: str | None, other: bool = False) -> list[str]:
    """Up to `n` texts of a split, of the domain or of all others, evenly spread over the corpus."""
    found = [p.text for p in prompts if p.split == split and (p.domain == domain) != other]
    return found[:: max(1, len(found) // n)][:n]


def methods_of(model: HookedModel, prompts: Sequence[Prompt], domain: str, dcds: Sequence[int]) -> dict[str, Steering]:
    """All arms of one domain at the middle layer."""
    layer, cut = model.n_layers // 2, N_TOKENS
    own, others = (
        [_first_tokens(model, text, cut) for text in texts(prompts, "identify", N_FIT, domain=domain, other=other)]
        for other in (False, True)
    )
    whole = ContrastiveAddition.fit(model, own, others, layer=layer)
    direction = whole.direction[None]
    largest = direction[0].abs().topk(len(dcds)).indices.tolist()
    drawn = np.random.default_rng(0).choice(model.d_model, size=len(dcds), replace=False)
    pairs = [
        Pair(_first_tokens(model, one, PAIR_TOKENS), _first_tokens(model, other, PAIR_TOKENS))
        for one, other in zip(own[:N_PAIRS], others[:N_PAIRS], strict=False)
    ]
    found: dict[str, Steering] = {WHOLE: whole}
    for name, dimensions in ((CDS, dcds), ("largest components", largest), ("random dimensions", drawn)):
        found[name] = CriticalDimensionSteering(direction, (layer,), tuple(int(index) for index in dimensions))
    found["ActAdd"] = ActAdd.fit(model, pairs, layer=layer, padding=" the")
    return found


def _first_tokens(model: HookedModel, text: str, n: int) -> str:
    ids = model.text.ids(text)[:n]
    return model.decode(ids)


def measure_domain(
    model: HookedModel, prompts: Sequence[Prompt], domain: str, dcds: Sequence[int], neutral: NeutralText, n_test: int
) -> list[Arm]:
    methods = methods_of(model, prompts, domain, dcds)
    tokens = passage_tokens(model, texts(prompts, "test", n_test, domain=domain), n_tokens=N_TOKENS)
    budgets = {name: kl_budget(model, steering, neutral, KL_LEVEL) for name, steering in methods.items()}
    parts = [(None, 0.0), *((steering, budgets[name].strength) for name, steering in methods.items())]
    plain, *steered = passage_losses(model, tokens, parts)
    changes = dict(zip(methods, (losses - plain for losses in steered), strict=True))
    return [
        Arm(
            domain,
            name,
            budgets[name].strength,
            budgets[name].kl,
            budgets[name].reached,
            paired_interval(change, seed=0),
            None if name == WHOLE else paired_interval(change - changes[WHOLE], seed=0),
        )
        for name, change in changes.items()
    ]


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    torch.manual_seed(0)
    prompts = [prompt for prompt in load_corpus("builtin", limit=90) if prompt.split != "tune"]
    domains = BUILTIN_DOMAINS[: 1 if quick else None]
    fitting = [prompt for prompt in prompts if prompt.split == "identify"]
    _, rows = collect(model, fitting[:: 6 if quick else 1], truncate=True)
    dcds: dict[str, list[int]] = {}
    for dcd in find_dcds(rows, k=K):
        dcds.setdefault(dcd.domain, []).append(dcd.dimension)
    neutral = kl_measure(model)
    n_test = 6 if quick else N_TEST
    arms = [arm for domain in domains for arm in measure_domain(model, prompts, domain, dcds[domain], neutral, n_test)]
    return {"layer": model.n_layers // 2, "k": K, "kl_level": KL_LEVEL, "dcds": dcds, "arms": arms}


def section(results: dict[str, Any], own: Sequence[str]) -> str:
    arms: list[Arm] = [arm for arm in results["arms"] if arm.method in own]
    rows = []
    for arm in arms:
        against = "" if arm.against_whole is None else shown(arm.against_whole, 3, signed=True)
        strength = f"{arm.strength:.3g}" if arm.reached else f"{arm.strength:.3g} (KL only {arm.kl:.2g})"
        rows.append([arm.domain, arm.method, strength, shown(arm.change, 3, signed=True), against])
    columns = ("domain", "method", "strength", "change of loss", "less that of contrastive addition")
    lines = [
        f"Change of loss on the domain's own test passages, nats per token (negative is better), layer "
        f"{results['layer']}, {results['k']} dimensions, at KL {results['kl_level']:g} on neutral text.",
        "",
        table(columns, rows),
        "",
    ]
    for method in own:
        lines.append(f"* {method}: {counted([arm.change for arm in arms if arm.method == method])} unsteered.")
        against = [arm.against_whole for arm in arms if arm.method == method and arm.against_whole is not None]
        if against:
            lines.append(f"* {method}: {counted(against)} contrastive addition of all dimensions.")
    return "\n".join(lines)


def counted(intervals: Sequence[Interval]) -> str:
    """In how many domains the loss is shown to be lower, higher, or neither."""
    better = sum(interval.high < 0 for interval in intervals)
    worse = sum(interval.low > 0 for interval in intervals)
    rest = len(intervals) - better - worse
    return f"in {better} of {len(intervals)} domains better, in {worse} worse, in {rest} no difference shown, against"


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    model = model or load_model()
    results = run(model, quick=quick)
    write_results("contrastive", model, results, docs=docs)
    controls = ("largest components", "random dimensions")
    write_section("contrastive", "contrastive", section(results, (WHOLE,)), model, docs=docs)
    write_section("cds", "contrastive", section(results, (CDS, *controls)), model, docs=docs)
    write_section("actadd", "contrastive", section(results, ("ActAdd",)), model, docs=docs)


if __name__ == "__main__":
    main()
