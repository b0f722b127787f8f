"""Measuring every arm of a steering comparison at fixed levels of damage.

    identify  the directions (and, before, the DCDs)
    neutral   the strength at which an arm, at a layer, costs the KL level asked for
    tune      the layer: the one of lowest domain loss at that strength, searched in every arm alike
    test      what is reported: change of domain loss, and of the share of generations that are of the domain

Every number of an arm is a difference to the unsteered model on the same passage or from the same prompt.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from workbench.activations import collect
from workbench.comparison.arms import Arm, arms_of, domain_directions
from workbench.comparison.budgets import Budget, find_strengths
from workbench.comparison.presets import Preset, PresetName, preset_of
from workbench.comparison.results import LOSS, SHARE, ArmResult, Candidate, Measured, Measurement, Trial, arm_results
from workbench.interventions import Scope, Where
from workbench.models import HookedModel
from workbench.records import SPLITS, Dimension, PooledRows, Prompt, Selection, Split, Tokens
from workbench.tasks.judges import ClassifierReport, DomainClassifier, fit_classifier
from workbench.tasks.metrics import (
    NeutralText,
    Part,
    generate_stacked,
    is_repetitive,
    passage_losses,
    passage_tokens,
)

Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all domains share: the model, the neutral text, prompts to generate from, and what it writes unsteered."""

    model: HookedModel
    sizes: Preset
    layers: tuple[int, ...]
    scope: Scope | Where
    seed: int
    neutral: NeutralText
    openings: Tokens
    unsteered: list[list[int]]
    classifier: DomainClassifier

    def generate(self, openings: Tokens, parts: Sequence[Part]) -> list[list[list[int]]]:
        """What the model samples at temperature 1 after every opening, under every part."""
        return generate_stacked(
            self.model, openings, parts, self.scope, max_new_tokens=self.sizes.n_new_tokens, seed=self.seed
        )

    def hits(self, generations: Sequence[Sequence[int]], domain: str) -> Float64[np.ndarray, "prompt"]:
        texts = [self.model.decode(ids) for ids in generations]
        return domain_hits(self.classifier, texts, generations, domain)


def domain_hits(
    classifier: DomainClassifier, texts: Sequence[str], generations: Sequence[Sequence[int]], domain: str
) -> Float64[np.ndarray, "prompt"]:
    """1 where a generation, given as text and as token ids, is assigned to the domain and not repetitive, else 0."""
    rows = zip(generations, classifier.predict(texts), strict=True)
    return np.array([float(guess == domain and not is_repetitive(ids)) for ids, guess in rows])


def measure_steering(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    dcds: Mapping[tuple[str, Selection], Sequence[Dimension]],
    *,
    kl_levels: Sequence[float] = (0.03, 0.1, 0.3),
    seed: int = 0,
    preset: Preset | PresetName | str = "full",
    rows: PooledRows | None = None,
    scope: Scope | Where = "all_but_first",
    progress: Progress | None = None,
) -> Measurement:
    """Measure all arms of every domain in `dcds` at every KL level (nats per token of neutral text).

    `rows` are the pooled rows of the prompts if they were collected already; otherwise the *identify* passages are run
    once. The same seed gives the same numbers. Raises for levels that are not positive, unknown domains, domains
    without passages in all three splits or with fewer than two *test* passages, and layers out of range.
    """
    sizes = preset_of(preset)
    levels = _checked_levels(kl_levels)
    domains = tuple(dict.fromkeys(domain for domain, _ in dcds))
    _check_prompts(prompts, neutral, domains)
    layers = sizes.layers_of(model)
    if rows is None:
        identify = [prompt for prompt in prompts if prompt.split == "identify"]
        rows = collect(model, identify, n_top=1, poolings=("mean",), truncate=True)[1]
    if rows.values.shape[2:] != (model.n_layers, model.d_model):
        raise ValueError(
            f"pooled rows of shape {rows.values.shape} are not of {model.name}; collect them at all layers"
        )
    directions = domain_directions(rows)
    bench = _prepare(model, prompts, neutral, sizes, layers, scope, seed)
    report = _classifier_report(bench, prompts)
    n_steps = 1 + len(domains) * len(levels)
    if progress is not None:
        progress(1, n_steps)
    results: list[ArmResult] = []
    for index, domain in enumerate(domains):
        arms = arms_of(domain, dcds, d_model=model.d_model, n_random=sizes.n_random, seed=seed)
        done = 1 + index * len(levels)
        step = (lambda number, done=done: progress(done + number, n_steps)) if progress else None
        results += _measure_domain(bench, prompts, domain, directions[domain], arms, levels, step)
    return Measurement(tuple(results), report)


def _checked_levels(kl_levels: Sequence[float]) -> tuple[float, ...]:
    wrong = [level for level in kl_levels if not 0 < level < float("inf")]
    if wrong or not kl_levels:
        raise ValueError(f"KL levels must be positive numbers of nats per token, not {list(wrong)}; use 0.1, say")
    return tuple(sorted(set(kl_levels)))


def _check_prompts(prompts: Sequence[Prompt], neutral: Sequence[Prompt], domains: Sequence[str]) -> None:
    counts = Counter((prompt.domain, prompt.split) for prompt in prompts)
    known = list(dict.fromkeys(prompt.domain for prompt in prompts))
    if not domains:
        raise ValueError("no dimensions to compare; pass what find_dcds found, as {(domain, selection): dimensions}")
    for domain in domains:
        if domain not in known:
            raise ValueError(f"unknown domain {domain!r}; the prompts are of {', '.join(known)}")
        for split in SPLITS:
            if not counts[domain, split]:
                raise ValueError(f"domain {domain!r} has no {split} prompts; load a corpus with all three splits")
        if counts[domain, "test"] < 2:
            raise ValueError(f"domain {domain!r} has a single test prompt, which gives no interval; add at least one")
    if len(neutral) < 2:
        raise ValueError(
            f"{len(neutral)} neutral prompts are too few; pass neutral_prompts() or at least 2 of your own"
        )


def _prepare(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    sizes: Preset,
    layers: tuple[int, ...],
    scope: Scope | Where,
    seed: int,
) -> _Bench:
    order = np.random.default_rng([seed, 1]).permutation(len(neutral))
    texts = [neutral[index].text for index in order]
    openings = _openings(model, texts[-sizes.n_generations :], sizes.n_prompt_tokens)
    unsteered = generate_stacked(model, openings, [(None, 0.0)], max_new_tokens=sizes.n_new_tokens, seed=seed)[0]
    measured = NeutralText(model, texts[: sizes.n_neutral], n_tokens=sizes.n_neutral_tokens)
    return _Bench(model, sizes, layers, scope, seed, measured, openings, unsteered, fit_classifier(prompts))


def _openings(model: HookedModel, texts: Sequence[str], n_tokens: int) -> Tokens:
    """The first tokens of every text, left-padded as generation wants them."""
    tokens = passage_tokens(model, texts, n_tokens=n_tokens if model.has_bos else max(n_tokens - 1, 1))
    rows = [ids[real].tolist() for ids, real in zip(tokens.ids, tokens.mask, strict=True)]
    return model.pad(rows, side="left")


def _chosen(prompts: Sequence[Prompt], domain: str, split: Split, limit: int, seed: int) -> list[str]:
    """At most `limit` texts of a domain and split, in the order of the prompts."""
    texts = [prompt.text for prompt in prompts if prompt.domain == domain and prompt.split == split]
    if len(texts) <= limit:
        return texts
    kept = np.random.default_rng([seed, 2]).choice(len(texts), size=limit, replace=False)
    return [texts[index] for index in sorted(kept)]


def _tokens(bench: _Bench, prompts: Sequence[Prompt], domain: str, split: Split) -> Tokens:
    limit = bench.sizes.n_tune if split == "tune" else bench.sizes.n_test
    texts = _chosen(prompts, domain, split, limit, bench.seed)
    return passage_tokens(bench.model, texts, n_tokens=bench.sizes.n_tokens)


def _classifier_report(bench: _Bench, prompts: Sequence[Prompt]) -> ClassifierReport:
    """Accuracy on the test passages, and on unsteered continuations of some of them."""
    held_out = [prompt for prompt in prompts if prompt.split == "test"]
    continued, domains = [], []
    for domain in bench.classifier.domains:
        texts = _chosen(prompts, domain, "test", bench.sizes.n_own_text, bench.seed)
        continued += texts
        domains += [domain] * len(texts)
    openings = _openings(bench.model, continued, bench.sizes.n_own_prompt_tokens)
    rows = bench.generate(openings, [(None, 0.0)])[0]
    return ClassifierReport(
        domains=bench.classifier.domains,
        n_training=bench.classifier.n_training,
        held_out=bench.classifier.accuracy(
            [prompt.text for prompt in held_out], [prompt.domain for prompt in held_out]
        ),
        n_held_out=len(held_out),
        own_text=bench.classifier.accuracy([bench.model.decode(ids) for ids in rows], domains),
        n_own_text=len(rows),
    )


def _candidates(bench: _Bench, arms: Sequence[Arm], directions: Float[Tensor, "layer d_model"]) -> list[Candidate]:
    """All distinct edits at all layers; the first guess gives every one the norm of the whole direction."""
    distinct: dict[tuple[str | int, ...], Arm] = {}
    for arm in arms:
        if arm.k:
            distinct.setdefault(arm.edit, arm)
    found = []
    for arm in distinct.values():
        for layer in bench.layers:
            steering = arm.steering(directions, layer)
            norm = float(steering.direction.norm())  # pyright: ignore[reportAttributeAccessIssue]
            whole = float(directions[layer].norm())
            found.append(Candidate(arm, layer, steering, whole / norm if norm > 0 and whole > 0 else 1.0))
    return found


def _measure_domain(
    bench: _Bench,
    prompts: Sequence[Prompt],
    domain: str,
    directions: Float[Tensor, "layer d_model"],
    arms: Sequence[Arm],
    levels: Sequence[float],
    step: Callable[[int], None] | None,
) -> list[ArmResult]:
    tune, test = _tokens(bench, prompts, domain, "tune"), _tokens(bench, prompts, domain, "test")
    candidates = _candidates(bench, arms, directions)
    guesses = [candidate.guess for candidate in candidates]
    results: list[ArmResult] = []
    for number, level in enumerate(levels):
        budgets = _budgets(bench, candidates, level, guesses)
        trials = [Trial(candidate, budget) for candidate, budget in zip(candidates, budgets, strict=True)]
        chosen = _choose_layers(bench, tune, trials)
        results += arm_results(arms, level, trials, _measure_chosen(bench, test, domain, chosen))
        if level != levels[-1]:
            growth = (levels[number + 1] / level) ** 0.5
            guesses = [t.budget.strength * growth if t.budget.reached else t.candidate.guess for t in trials]
        if step is not None:
            step(number + 1)
    return results


def _budgets(bench: _Bench, candidates: Sequence[Candidate], level: float, guesses: Sequence[float]) -> list[Budget]:
    def measure(indices: list[int], strengths: list[float]) -> list[float]:
        parts: list[Part] = [
            (candidates[index].steering, strength) for index, strength in zip(indices, strengths, strict=True)
        ]
        return bench.neutral.kl(parts, bench.scope).tolist()

    return find_strengths(measure, level, guesses)


def _choose_layers(bench: _Bench, tune: Tokens, trials: Sequence[Trial]) -> list[Trial]:
    """Per arm the layer that reached the level and has the lowest mean passage loss on *tune*."""
    reached = [trial for trial in trials if trial.budget.reached]
    if not reached:
        return []
    parts: list[Part] = [(trial.candidate.steering, trial.budget.strength) for trial in reached]
    losses = passage_losses(bench.model, tune, parts, bench.scope).mean(axis=1)
    best: dict[Arm, tuple[float, Trial]] = {}
    for trial, loss in zip(reached, losses, strict=True):
        arm = trial.candidate.arm
        if arm not in best or loss < best[arm][0]:
            best[arm] = (float(loss), trial)
    return [trial for _, trial in best.values()]


def _measure_chosen(bench: _Bench, test: Tokens, domain: str, chosen: Sequence[Trial]) -> Measured:
    """Differences to the unsteered model of every arm at its chosen layer, on *test* and in generation."""
    parts: list[Part] = [(trial.candidate.steering, trial.budget.strength) for trial in chosen]
    losses = passage_losses(bench.model, test, [(None, 0.0), *parts], bench.scope)
    generations = bench.generate(bench.openings, parts)
    before = bench.hits(bench.unsteered, domain)
    return {
        trial.candidate.arm.edit: (trial, {LOSS: steered - losses[0], SHARE: bench.hits(written, domain) - before})
        for trial, steered, written in zip(chosen, losses[1:], generations, strict=True)
    }
