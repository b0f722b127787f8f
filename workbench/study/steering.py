"""The steering stage of a study: the comparison of `workbench compare` on a corpus whose rows are collected already.

CDS on the dimensions of each selection, the whole direction, and two controls (top-k, random-k), at equal KL. Layers
and strengths are chosen by the domain loss on *tune*; with those, loss on *test* and the domain share are reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from workbench.comparison.run import ComparisonTask, Run, prepare, run_comparison
from workbench.comparison.spec import BudgetSpec, SizeSpec, Spec, TaskSpec
from workbench.comparison.tables import Outcomes
from workbench.models import HookedModel
from workbench.records import PooledRows, Prompt, Split, Tokens
from workbench.tasks.builtin import domain_loss, domain_share
from workbench.tasks.judges import ClassifierReport, DomainClassifier
from workbench.tasks.metrics import PLAIN, generate_stacked, passage_tokens

METHODS = ("cds", "cds-discrimination", "cds-both", "whole-dimension")
CONTROLS = ("top-k", "random-k")  # sampling noise depends on their order
RIVALS = {arm: ("whole-dimension", *CONTROLS) for arm in METHODS if arm.startswith("cds")}


@dataclass(frozen=True)
class SteeringSizes:
    """Sizes of the steering stage; passages are cut after `n_tokens` tokens, counts are upper limits per domain.

    `n_layers` None searches every layer. `n_generations` prompts of `n_prefix_tokens` tokens are continued by
    `n_new_tokens`; the classifier is judged on continuations of `n_own_text` passages per domain.
    """

    n_neutral: int = 24
    n_tune: int = 24
    n_test: int = 48
    n_tokens: int = 32
    n_layers: int | None = None
    n_generations: int = 60
    n_prefix_tokens: int = 5
    n_new_tokens: int = 32
    n_own_text: int = 24
    n_own_prefix_tokens: int = 12


SIZES = {
    "full": SteeringSizes(),
    "quick": SteeringSizes(
        n_neutral=8, n_tune=12, n_test=24, n_tokens=24, n_layers=3, n_generations=24, n_new_tokens=24, n_own_text=4
    ),
}


def steering_run(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    rows: PooledRows | None,
    sizes: SteeringSizes,
    *,
    kl_levels: Sequence[float],
    k: int,
    seed: int,
    classifier: DomainClassifier,
) -> Run:
    """The comparison, laid out: per domain its loss, and its share at the settings that the loss chose.

    A plan alone needs no `rows`.
    """
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    prefixes = _prefixes(model, neutral, sizes, seed)
    tasks: list[ComparisonTask] = []
    for domain in domains:
        loss = domain_loss(domain, prompts, n_tokens=sizes.n_tokens)
        options = {"n_tokens": sizes.n_new_tokens, "classifier": classifier}
        share = domain_share(domain, prompts, prefixes=prefixes, **options)
        searched = ComparisonTask(loss, domain, "mean", sizes.n_tokens + 1.0, 0, collected=rows)
        tasks.append(searched)
        n_positions = sizes.n_prefix_tokens + 1.0
        tasks.append(
            ComparisonTask(
                share, domain, "mean", n_positions, sizes.n_new_tokens, collected=rows, settings_from=searched
            )
        )
    spec = Spec(
        "study",
        METHODS,
        (TaskSpec("domain-loss"), TaskSpec("domain-share")),
        budgets=BudgetSpec(kl=tuple(sorted(set(kl_levels)))),
        sizes=SizeSpec(
            n_neutral=sizes.n_neutral,
            n_tune=sizes.n_tune,
            n_test=max(sizes.n_test, sizes.n_generations),
            n_layers=sizes.n_layers or model.n_layers,
            curves=False,
        ),
        seeds=(seed,),
        k=min(k, model.d_model),
        controls=CONTROLS,
    )
    return replace(prepare(spec, model, tasks), rivals=RIVALS, n_together=len(METHODS) + 6, starts_at_direction=True)


def compare_on_corpus(
    run: Run, neutral: Sequence[Prompt], *, progress: Callable[[int, int], None] | None = None
) -> Outcomes:
    """Run the comparison; its cells are kept in a temporary folder, as a study is made whole or not at all."""
    with TemporaryDirectory() as folder:
        return run_comparison(run, Path(folder) / "steering", neutral, progress=progress)


def _prefixes(model: HookedModel, neutral: Sequence[Prompt], sizes: SteeringSizes, seed: int) -> list[Prompt]:
    """The first tokens of the neutral passages that come last in the order in which KL takes the first."""
    order = np.random.default_rng([seed, 1]).permutation(len(neutral))[-sizes.n_generations :]
    tokens = _first_tokens(model, [neutral[index].text for index in order], sizes.n_prefix_tokens)
    texts = [model.decode(ids[real].tolist()) for ids, real in zip(tokens.ids, tokens.mask, strict=True)]
    named = zip(order, texts, strict=True)
    return [Prompt(text, "neutral", f"{neutral[index].name}", "test") for index, text in named]


def _first_tokens(model: HookedModel, texts: Sequence[str], n_tokens: int) -> Tokens:
    """The first tokens of every text, left-padded as generation wants them."""
    tokens = passage_tokens(model, texts, n_tokens=n_tokens if model.has_bos else max(n_tokens - 1, 1))
    rows = [ids[real].tolist() for ids, real in zip(tokens.ids, tokens.mask, strict=True)]
    return model.pad(rows, side="left")


def report_on_classifier(
    model: HookedModel, classifier: DomainClassifier, prompts: Sequence[Prompt], sizes: SteeringSizes, seed: int
) -> ClassifierReport:
    """Accuracy on the test passages, and on unsteered continuations of some of them."""
    held_out = [prompt for prompt in prompts if prompt.split == "test"]
    begun, domains = [], []
    for domain in classifier.domains:
        texts = _some(prompts, domain, "test", sizes.n_own_text, seed)
        begun += texts
        domains += [domain] * len(texts)
    tokens = _first_tokens(model, begun, sizes.n_own_prefix_tokens)
    rows = generate_stacked(model, tokens, PLAIN, max_new_tokens=sizes.n_new_tokens, seed=seed)[0]
    texts, known = [prompt.text for prompt in held_out], [prompt.domain for prompt in held_out]
    return ClassifierReport(
        domains=classifier.domains,
        n_training=classifier.n_training,
        held_out=classifier.accuracy(texts, known),
        n_held_out=len(held_out),
        own_text=classifier.accuracy([model.decode(ids) for ids in rows], domains),
        n_own_text=len(rows),
    )


def _some(prompts: Sequence[Prompt], domain: str, split: Split, limit: int, seed: int) -> list[str]:
    """At most `limit` texts of a domain and split, in the order of the prompts."""
    texts = [prompt.text for prompt in prompts if (prompt.domain, prompt.split) == (domain, split)]
    if len(texts) <= limit:
        return texts
    kept = np.random.default_rng([seed, 2]).choice(len(texts), size=limit, replace=False)
    return [texts[index] for index in sorted(kept)]
