"""Masking ground truth: what the model loses when one dimension of the residual stream is taken away everywhere.

    rise(q, d) = loss of prompt q with dimension d masked at the output of every block, at all positions, minus its loss

in nats per token over the tokens after the first. The embedding is left alone, so block 0 still reads it. After Roh,
Cho, Kim (2026, arXiv 2603.00029), who count wrong answers instead; token loss as the primary measure, and masking to
class means or to other text, are ours. Many dimensions are masked in one forward pass: every row of the batch is a
prompt with a mask of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.behaviours import BehaviourItem
from workbench.evaluation.metrics import token_losses
from workbench.evaluation.replacements import Replacement, make_replacement, position_classes
from workbench.models import Call, HookedModel, HookFunction
from workbench.records import ChoiceItem, ChoiceMasking, MaskingResult, MaskMode, Prompt, Site, Tokens

Progress = Callable[[int, int], None]  # (masked documents done, in all)
Dimensions = Sequence[int] | Mapping[str, Sequence[int]] | None
PASS_BYTES = 64 * 2**20  # float32 logits of one forward pass


def mask_dimensions(
    model: HookedModel,
    prompts: Sequence[Prompt],
    dimensions: Dimensions = None,
    *,
    mode: MaskMode = "zero",
    reference: Sequence[Prompt] | Replacement | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> MaskingResult:
    """The rise of the loss of every prompt when each of `dimensions` is masked alone.

    `dimensions`: all (None), a list, or a list per domain, masked in the prompts of that domain only; what is not
    measured is NaN. `mode`: `zero`, `mean` (per position class) or `resample` (from another domain); the latter two
    take their values from `reference`, by default the *identify* prompts among `prompts`. Raises on dimensions out of
    range, on prompts without a second token, and on prompts longer than the context unless `truncate`.
    """
    documents = prompt_documents(model, prompts, mode=mode, reference=reference, seed=seed, truncate=truncate)
    wanted = wanted_dimensions(dimensions, documents.domains, model.d_model)
    every = tuple(sorted(set().union(*wanted)))
    masked = np.full((len(every), len(prompts)), np.nan)
    place = {dimension: index for index, dimension in enumerate(every)}
    for numbers, chosen, scores in _masked_scores(model, documents, wanted, progress):
        masked[np.ix_([place[dimension] for dimension in chosen], numbers)] = scores
    baseline = unmasked_scores(model, documents)
    return MaskingResult(
        mode=mode,
        how="measured",
        d_model=model.d_model,
        cost=1.0 + sum(map(len, wanted)) / len(prompts),
        dimensions=every,
        prompts=tuple(prompt.name for prompt in prompts),
        domains=documents.domains,
        splits=tuple(prompt.split for prompt in prompts),
        baseline=baseline,
        rise=masked - baseline,
    )


def mask_choices(
    model: HookedModel,
    items: Sequence[ChoiceItem],
    dimensions: Dimensions = None,
    *,
    mode: MaskMode = "zero",
    reference: Sequence[Prompt] | Replacement = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> ChoiceMasking:
    """Log likelihood of every choice after its question, unmasked and with each of `dimensions` masked alone.

    A choice is scored by the sum over its tokens; question and choice are tokenized apart. All items must have the same
    number of choices. `reference` is the text that `mean` and `resample` take their values from.
    """
    sizes = {len(item.choices) for item in items}
    if len(sizes) != 1:
        raise ValueError(f"accuracy needs items that all have the same number of choices; given {sorted(sizes)}")
    documents = _choice_documents(model, items, mode=mode, reference=reference, seed=seed)
    wanted = wanted_dimensions(dimensions, documents.domains, model.d_model)
    every = tuple(sorted(set().union(*wanted)))
    place = {dimension: index for index, dimension in enumerate(every)}
    masked = np.full((len(every), len(documents.domains)), np.nan)
    for numbers, chosen, scores in _masked_scores(model, documents, wanted, progress):
        masked[np.ix_([place[dimension] for dimension in chosen], numbers)] = -scores
    shape = (len(items), sizes.pop())
    baseline = -unmasked_scores(model, documents).reshape(shape)
    return ChoiceMasking(mode, every, tuple(items), baseline, masked.reshape(len(every), *shape))


def choice_items(items: Sequence[BehaviourItem]) -> list[ChoiceItem]:
    """Items of a behaviour set that is judged by likelihood (such as `exam`) as choice items; the kind is the domain.

    Choices stand in alphabetical order, so that their places say nothing. Raises for items judged by generation.
    """
    for item in items:
        if item.judged != "likelihood" or len(item.answers) != 1:
            raise ValueError(f"item {item.name} is not judged by the likelihood of one answer; use the exam set")
    choices = [tuple(sorted((*item.answers, *item.distractors))) for item in items]
    return [
        ChoiceItem(item.name, item.kind, item.split, item.prompt, texts, texts.index(item.answers[0]))
        for item, texts in zip(items, choices, strict=True)
    ]


# --- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Documents:
    """Token rows with what masking needs of them: the score of a row is the weighted sum of its token losses.

    `weight[row, t]` belongs to the loss of token t + 1; `sources` are rows of the table of replacements.
    """

    tokens: Tokens
    domains: tuple[str, ...]
    replacement: Replacement
    sources: Int[Tensor, "row pos"]
    weight: Float[Tensor, "row predicted"]

    def rows(self, numbers: Sequence[int]) -> tuple[Tokens, Int[Tensor, "row pos"], Float[Tensor, "row predicted"]]:
        """Tokens, sources and weights of some rows, cut to the longest of them."""
        at = torch.tensor(numbers, device=self.tokens.ids.device)
        length = int(self.tokens.lengths[at].max())
        tokens = Tokens(self.tokens.ids[at, :length], self.tokens.mask[at, :length])
        return tokens, self.sources[at, :length], self.weight[at, : length - 1]


def prompt_documents(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    mode: MaskMode,
    reference: Sequence[Prompt] | Replacement | None,
    seed: int,
    truncate: bool,
) -> Documents:
    """The prompts as documents whose score is the mean loss over the tokens after the first."""
    if not prompts:
        raise ValueError("no prompts to mask; check the corpus and its split")
    tokens = model.tokenize([prompt.text for prompt in prompts], truncate=truncate)
    if int(tokens.lengths.min()) < 2:
        short = prompts[int(tokens.lengths.argmin())].name
        raise ValueError(f"prompt {short} has one token and therefore no loss; remove prompts this short")
    if reference is None:
        reference = [prompt for prompt in prompts if prompt.split == "identify"]
    replacement = make_replacement(model, mode, prompts, reference, seed=seed, truncate=truncate)
    weight = tokens.mask[:, 1:] / (tokens.lengths - 1)[:, None]
    return _documents(model, tokens, prompts, replacement, weight.float())


def _choice_documents(
    model: HookedModel,
    items: Sequence[ChoiceItem],
    *,
    mode: MaskMode,
    reference: Sequence[Prompt] | Replacement,
    seed: int,
) -> Documents:
    """One row per item and choice, whose score is the summed loss of the tokens of the choice."""
    rows, lengths, prompts = [], [], []
    for item in items:
        question = model.tokenize([item.prompt]).ids[0].tolist()
        for number, choice in enumerate(item.choices):
            ids = model.tokenizer(choice, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ValueError(f"choice {choice!r} of item {item.name} has no tokens; change or remove it")
            if len(question) + len(ids) > model.context_length:
                raise ValueError(f"item {item.name} is longer than the context of {model.context_length}; shorten it")
            rows.append([*question, *ids])
            lengths.append(len(question))
            prompts.append(Prompt(item.prompt, item.domain, f"{item.name}/{number}", item.split))
    tokens = model.pad(rows)
    is_choice = tokens.positions >= torch.tensor(lengths, device=tokens.ids.device)[:, None]
    replacement = make_replacement(model, mode, prompts, reference, seed=seed)
    return _documents(model, tokens, prompts, replacement, is_choice[:, 1:].float())


def _documents(
    model: HookedModel,
    tokens: Tokens,
    prompts: Sequence[Prompt],
    replacement: Replacement,
    weight: Float[Tensor, "row predicted"],
) -> Documents:
    classes = position_classes(model, tokens.ids, tokens.positions)
    sources = [replacement.sources(row, prompt) for row, prompt in zip(classes, prompts, strict=True)]
    return Documents(tokens, tuple(prompt.domain for prompt in prompts), replacement, torch.stack(sources), weight)


def wanted_dimensions(dimensions: Dimensions, domains: Sequence[str], d_model: int) -> list[tuple[int, ...]]:
    """The dimensions to mask in every row, sorted; raises on unknown domains and on dimensions out of range."""
    if dimensions is None:
        dimensions = range(d_model)
    per_domain = dimensions if isinstance(dimensions, Mapping) else dict.fromkeys(domains, dimensions)
    unknown = sorted(set(per_domain) - set(domains))
    if unknown:
        raise ValueError(f"no prompts of domain {unknown[0]!r}; there are {', '.join(dict.fromkeys(domains))}")
    asked = sorted({int(dimension) for chosen in per_domain.values() for dimension in chosen})
    if not asked or asked[0] < 0 or asked[-1] >= d_model:
        wrong = [dimension for dimension in asked if not 0 <= dimension < d_model]
        raise ValueError(f"dimensions {wrong[:5]} are out of range; choose from 0 to {d_model - 1}, at least one")
    sets = {domain: tuple(sorted(set(map(int, chosen)))) for domain, chosen in per_domain.items()}
    return [sets.get(domain, ()) for domain in domains]


# --- passes -----------------------------------------------------------------------------------------------------------


def unmasked_scores(model: HookedModel, documents: Documents) -> Float64[np.ndarray, "row"]:
    """The score of every document as it is."""
    scores = np.empty(len(documents.domains))
    order = torch.argsort(documents.tokens.lengths, descending=True).tolist()
    while order:
        limit = rows_limit(model, int(documents.tokens.lengths[order[0]]))
        numbers, order = order[:limit], order[limit:]
        tokens, _, weight = documents.rows(numbers)
        scores[numbers] = _scores(model.logits(tokens), tokens, weight)
    return scores


def _masked_scores(
    model: HookedModel, documents: Documents, wanted: Sequence[tuple[int, ...]], progress: Progress | None
) -> Iterator[tuple[list[int], tuple[int, ...], Float64[np.ndarray, "dimension row"]]]:
    """Scores of documents under every mask, pass by pass, with the rows and dimensions they belong to."""
    done, total = 0, sum(map(len, wanted))
    for numbers, dimensions in _passes(model, documents, wanted):
        tokens, sources, weight = documents.rows(numbers)
        n = len(dimensions)
        batch = Tokens(tokens.ids.repeat(n, 1), tokens.mask.repeat(n, 1))
        row_dimension = torch.tensor(dimensions, device=tokens.ids.device).repeat_interleave(len(numbers))
        edit = _mask(documents.replacement, sources.repeat(n, 1), row_dimension)
        with model.hooked(dict.fromkeys(model.residual_sites(), edit), editing=True):
            logits = model.logits(batch)
        yield numbers, dimensions, _scores(logits, batch, weight.repeat(n, 1)).reshape(n, len(numbers))
        done += n * len(numbers)
        if progress is not None:
            progress(done, total)


def _passes(
    model: HookedModel, documents: Documents, wanted: Sequence[tuple[int, ...]]
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Documents and dimensions of every pass: few documents of like length, as many dimensions as fit."""
    lengths = documents.tokens.lengths.tolist()
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, dimensions in enumerate(wanted):
        groups.setdefault(dimensions, []).append(number)
    for dimensions, members in groups.items():
        if not dimensions:
            continue
        order = sorted(members, key=lambda number: -lengths[number])
        while order:
            limit = rows_limit(model, lengths[order[0]])
            n_rows = max(1, limit // len(dimensions))
            numbers, order = order[:n_rows], order[n_rows:]
            step = max(1, limit // len(numbers))
            for start in range(0, len(dimensions), step):
                yield numbers, dimensions[start : start + step]


def rows_limit(model: HookedModel, n_positions: int) -> int:
    """Number of rows whose float32 logits fit `PASS_BYTES`, at least 1."""
    return max(1, PASS_BYTES // (4 * n_positions * model.vocabulary_size))


def _mask(replacement: Replacement, sources: Int[Tensor, "row pos"], dimension: Int[Tensor, "row"]) -> HookFunction:
    rows = torch.arange(len(dimension), device=dimension.device)

    def edit(values: Tensor, site: Site, call: Call) -> Tensor:
        edited = values.clone()
        edited[rows, :, dimension] = replacement.values[site.layer][sources, dimension[:, None]]
        return edited

    return edit


def _scores(
    logits: Float[Tensor, "row pos vocab"], tokens: Tokens, weight: Float[Tensor, "row predicted"]
) -> Float64[np.ndarray, "row"]:
    losses, _ = token_losses(logits, tokens)
    return (losses * weight).double().sum(dim=1).cpu().numpy()
