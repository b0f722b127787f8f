"""Masking ground truth: what the model loses when one dimension of the residual stream is masked everywhere.

    loss increase(q, d) = loss of prompt q with dimension d masked at the output of every block, at all positions,
                          minus its loss unmasked

in nats per token over the tokens after the first. The embedding is left alone, so block 0 still reads it. After Roh,
Cho, Kim (2026, arXiv 2603.00029), who count wrong answers instead; token loss as the primary measure, and masking to
class means or to other text, are ours. Exams are scored by what ordinary tasks use (`workbench.tasks.scoring`), under
masks. Many dimensions are masked in one forward pass: every row of the batch is a prompt with a mask of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.behaviours import BehaviourItem
from workbench.interventions.mask import Replacement, RowMasks, make_replacement, row_sources, tokens_in
from workbench.interventions.stacked import PLAIN, Variants
from workbench.models import HookedModel
from workbench.records import ChoiceItem, ChoiceMasking, MaskingResult, MaskMode, Prompt, Tokens, TokenSet
from workbench.tasks.base import TaskItem
from workbench.tasks.metrics import some_rows, weighted_losses
from workbench.tasks.scoring import first_tokens, next_token_scores, pair_rows, text_likelihoods

Progress = Callable[[int, int], None]  # (masked rows done, in all)
Dimensions = Sequence[int] | Mapping[str, Sequence[int]] | None
Scored = Float64[np.ndarray, "dimension row *rest"]


def mask_dimensions(
    model: HookedModel,
    prompts: Sequence[Prompt],
    dimensions: Dimensions = None,
    *,
    mode: MaskMode = "zero",
    masked_at: TokenSet = "all tokens",
    counted_at: TokenSet = "all tokens",
    reference: Sequence[Prompt] | Replacement | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> MaskingResult:
    """The loss increase of every prompt when each of `dimensions` is masked alone.

    `dimensions`: all (None), a list, or a list per domain, masked in the prompts of that domain only; what is not
    measured is NaN. `mode`: `zero`, `mean` (per position class) or `resample` (from another domain); the latter two
    take their values from `reference`, by default the *identify* prompts among `prompts`. Masks act at the tokens
    `masked_at`; losses count of what is predicted at `counted_at`. Raises on dimensions out of range, on prompts
    without a loss to count, and on prompts longer than the context unless `truncate`.
    """
    sets: dict[str, TokenSet] = {"masked_at": masked_at, "counted_at": counted_at}
    masked = masked_prompts(model, prompts, mode=mode, reference=reference, seed=seed, truncate=truncate, **sets)
    domains = tuple(prompt.domain for prompt in prompts)
    wanted = wanted_dimensions(dimensions, domains, model.d_model)

    def losses(rows: Sequence[int], masks: RowMasks, done: Callable[[int], None]) -> Scored:
        tokens = some_rows(masked.tokens, rows)
        return weighted_losses(model, tokens, masked.weight[rows], masks, progress=done)

    every, under_mask = _by_dimensions(masked.replacement, masked.sources, wanted, losses, progress)
    baseline = weighted_losses(model, masked.tokens, masked.weight)[0]
    return MaskingResult(
        mode=mode,
        how="measured",
        d_model=model.d_model,
        cost=1.0 + sum(map(len, wanted)) / len(prompts),
        dimensions=every,
        prompts=tuple(prompt.name for prompt in prompts),
        domains=domains,
        splits=tuple(prompt.split for prompt in prompts),
        baseline=baseline,
        loss_increase=under_mask - baseline,
        **sets,
    )


def mask_choices(
    model: HookedModel,
    items: Sequence[ChoiceItem],
    dimensions: Dimensions = None,
    *,
    letter_lead: str | None = None,
    mode: MaskMode = "zero",
    reference: Sequence[Prompt] | Replacement = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> ChoiceMasking:
    """Log likelihood of every choice after its question, unmasked and with each of `dimensions` masked alone.

    A choice is scored by the sum over its tokens; question and choice are tokenized separately. With a `letter_lead`
    ("" or " ") choices are letters instead, scored as the one token after the question. A choice that an item lacks is
    -inf. `reference` is the text that `mean` and `resample` take their values from.
    """
    if not items:
        raise ValueError("accuracy under masking needs exam items, and none were given; load an exam first")
    is_offered = np.arange(max(len(item.choices) for item in items)) < np.array([[len(item.choices)] for item in items])
    if letter_lead is None:
        pairs = [(item.prompt, choice) for item in items for choice in item.choices]
        names = [f"{item.name}/{number}" for item in items for number in range(len(item.choices))]
        owners = [item for item in items for _ in item.choices]
        tokens = model.pad([[*head, *tail] for head, tail in pair_rows(model, pairs)])
    else:
        pairs, names, owners = [(item.prompt, "") for item in items], [item.name for item in items], items
        tokens = model.tokenize([item.prompt for item in items])
        texts = [f"{letter_lead}{text}" for text in _most_choices(items)]
        letters = first_tokens(model, texts, after=items[0].prompt).tolist()
    prompts = [Prompt(item.prompt, item.domain, name, item.split) for item, name in zip(owners, names, strict=True)]

    def score(rows: Sequence[int], masks: Variants, done: Callable[[int], None] | None = None) -> Scored:
        chosen = [pairs[row] for row in rows]
        if letter_lead is None:
            return text_likelihoods(model, chosen, masks, progress=done)
        return next_token_scores(model, [prompt for prompt, _ in chosen], letters, masks, progress=done)

    def by_item(scores: Scored) -> Float64[np.ndarray, "dimension item choice"]:
        full = np.full((len(scores), *is_offered.shape), -np.inf)
        full[:, is_offered] = scores if letter_lead is None else scores[:, is_offered]
        return full

    replacement = make_replacement(model, mode, prompts, reference, seed=seed)
    sources = row_sources(model, tokens, prompts, replacement)
    wanted = wanted_dimensions(dimensions, [prompt.domain for prompt in prompts], model.d_model)
    every, masked = _by_dimensions(replacement, sources, wanted, score, progress)
    baseline = by_item(score(range(len(pairs)), PLAIN))[0]
    return ChoiceMasking(mode, every, tuple(items), baseline, by_item(masked))


def _most_choices(items: Sequence[ChoiceItem]) -> tuple[str, ...]:
    return max((item.choices for item in items), key=len)


def choice_items(items: Sequence[BehaviourItem | TaskItem]) -> list[ChoiceItem]:
    """Items of a task, or of a behaviour set (whose kind is the domain), that have one answer and distractors.

    Choices stand in alphabetical order, so that their places say nothing. Raises for items judged by generation.
    """
    for item in items:
        if getattr(item, "judged", "likelihood") != "likelihood" or len(item.answers) != 1 or not item.distractors:
            raise ValueError(f"item {item.name} is not judged by the likelihood of one answer; use the exam set")
    choices = [tuple(sorted((*item.answers, *item.distractors))) for item in items]
    domains = [item.kind if isinstance(item, BehaviourItem) else item.domain for item in items]
    return [
        ChoiceItem(item.name, domain, item.split, item.prompt, texts, texts.index(item.answers[0]))
        for item, domain, texts in zip(items, domains, choices, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class MaskedPrompts:
    """Prompts as token rows with what masking needs of them.

    The score of a row is the weighted sum of its token losses: `weight[row, t]` belongs to the loss of token t + 1.
    `sources` are rows of the table of replacements (`row_sources`).
    """

    tokens: Tokens
    replacement: Replacement
    sources: Int[Tensor, "row pos"]
    weight: Float[Tensor, "row predicted"]


def masked_prompts(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    mode: MaskMode,
    reference: Sequence[Prompt] | Replacement | None,
    seed: int,
    truncate: bool,
    masked_at: TokenSet = "all tokens",
    counted_at: TokenSet = "all tokens",
) -> MaskedPrompts:
    """The prompts as rows whose score is the mean loss of what is predicted at the tokens `counted_at`."""
    if not prompts:
        raise ValueError("no prompts to mask; check the corpus and its split")
    tokens = model.tokenize([prompt.text for prompt in prompts], truncate=truncate, literal=True)
    if int(tokens.lengths.min()) < 2:
        short = prompts[int(tokens.lengths.argmin())].name
        raise ValueError(f"prompt {short} has one token and therefore no loss; remove prompts this short")
    if reference is None:
        reference = [prompt for prompt in prompts if prompt.split == "identify"]
    replacement = make_replacement(model, mode, prompts, reference, seed=seed, truncate=truncate)
    is_counted = tokens_in(model, tokens, counted_at)[:, :-1] & tokens.mask[:, 1:]
    n_counted = is_counted.sum(dim=1)
    if not int(n_counted.min()):
        empty = prompts[int(n_counted.argmin())].name
        raise ValueError(f"prompt {empty} predicts nothing at the tokens {counted_at!r}; remove prompts this short")
    sources = row_sources(model, tokens, prompts, replacement, masked_at)
    return MaskedPrompts(tokens, replacement, sources, is_counted / n_counted[:, None])


def wanted_dimensions(dimensions: Dimensions, domains: Sequence[str], d_model: int) -> list[tuple[int, ...]]:
    """The dimensions to mask in every row, sorted; raises on unknown domains and on dimensions out of range."""
    if dimensions is None:
        dimensions = range(d_model)
    per_domain = dimensions if isinstance(dimensions, Mapping) else dict.fromkeys(domains, dimensions)
    unknown = sorted(set(per_domain) - set(domains))
    if unknown:
        raise ValueError(f"no prompts of domain {unknown[0]!r}; there are {', '.join(dict.fromkeys(domains))}")
    asked = sorted({int(dimension) for chosen in per_domain.values() for dimension in chosen})
    if not asked:
        raise ValueError(f"there is no dimension to mask; name at least one from 0 to {d_model - 1}")
    wrong = [dimension for dimension in asked if not 0 <= dimension < d_model]
    if wrong:
        raise ValueError(f"dimensions {wrong[:5]} are out of range; choose from 0 to {d_model - 1}")
    sets = {domain: tuple(sorted(set(map(int, chosen)))) for domain, chosen in per_domain.items()}
    return [sets.get(domain, ()) for domain in domains]


def _by_dimensions(
    replacement: Replacement,
    sources: Int[Tensor, "row pos"],
    wanted: Sequence[tuple[int, ...]],
    score: Callable[[Sequence[int], RowMasks, Callable[[int], None]], Scored],
    progress: Progress | None,
) -> tuple[tuple[int, ...], Scored]:
    """The dimensions masked in any row, ascending, and what every row scores with each of them masked alone.

    `wanted` are those of every row; what a row does not want is NaN. Rows that want the same are scored together.
    """
    every = tuple(sorted(set().union(*wanted)))
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, dimensions in enumerate(wanted):
        groups.setdefault(dimensions, []).append(row)
    n_done, total, found = 0, sum(map(len, wanted)), None

    def advance(n_rows: int) -> None:
        nonlocal n_done
        n_done += n_rows
        if progress is not None:
            progress(n_done, total)

    for dimensions, rows in groups.items():
        if dimensions:
            scores = score(rows, RowMasks(replacement.values, sources[rows], dimensions), advance)
            if found is None:
                found = np.full((len(every), len(wanted), *scores.shape[2:]), np.nan)
            found[np.ix_(np.searchsorted(every, dimensions), np.array(rows))] = scores
    assert found is not None
    return every, found
