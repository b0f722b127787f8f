"""Masking ground truth: what the model loses when one dimension of the residual stream is taken away everywhere.

    rise(q, d) = loss of prompt q with dimension d masked at the output of every block, at all positions, minus its loss

in nats per token over the tokens after the first. The embedding is left alone, so block 0 still reads it. After Roh,
Cho, Kim (2026, arXiv 2603.00029), who count wrong answers instead; token loss as the primary measure, and masking to
class means or to other text, are ours. Many dimensions are masked in one forward pass: every row of the batch is a
prompt with a mask of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from workbench.behaviours import BehaviourItem
from workbench.interventions.mask import Replacement, make_replacement, position_classes, tokens_in
from workbench.models import Call, HookedModel, HookFunction
from workbench.records import ChoiceItem, ChoiceMasking, MaskingResult, MaskMode, Prompt, Site, Tokens, TokenSet
from workbench.tasks.metrics import token_losses

Progress = Callable[[int, int], None]  # (masked documents done, in all)
Dimensions = Sequence[int] | Mapping[str, Sequence[int]] | None
PASS_BYTES = 64 * 2**20  # float32 logits of one forward pass


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
    """The rise of the loss of every prompt when each of `dimensions` is masked alone.

    `dimensions`: all (None), a list, or a list per domain, masked in the prompts of that domain only; what is not
    measured is NaN. `mode`: `zero`, `mean` (per position class) or `resample` (from another domain); the latter two
    take their values from `reference`, by default the *identify* prompts among `prompts`. Masks act at the tokens
    `masked_at`; losses count of what is predicted at `counted_at`. Raises on dimensions out of range, on prompts
    without a loss to count, and on prompts longer than the context unless `truncate`.
    """
    sets: dict[str, TokenSet] = {"masked_at": masked_at, "counted_at": counted_at}
    documents = prompt_documents(model, prompts, mode=mode, reference=reference, seed=seed, truncate=truncate, **sets)
    wanted = wanted_dimensions(dimensions, documents.domains, model.d_model)
    every, masked = _masked_scores(model, documents, wanted, progress)
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
        **sets,
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
    if not items:
        raise ValueError("accuracy under masking needs exam items, and none were given; load an exam first")
    sizes = {len(item.choices) for item in items}
    if len(sizes) != 1:
        raise ValueError(f"accuracy needs items that all have the same number of choices; given {sorted(sizes)}")
    documents = _choice_documents(model, items, mode=mode, reference=reference, seed=seed)
    wanted = wanted_dimensions(dimensions, documents.domains, model.d_model)
    every, masked = _masked_scores(model, documents, wanted, progress)
    shape = (len(items), sizes.pop())
    baseline = -unmasked_scores(model, documents).reshape(shape)
    return ChoiceMasking(mode, every, tuple(items), baseline, -masked.reshape(len(every), *shape))


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

    `weight[row, t]` belongs to the loss of token t + 1; `sources` are rows of the table of replacements, which take
    effect where `is_masked`.
    """

    tokens: Tokens
    domains: tuple[str, ...]
    replacement: Replacement
    sources: Int[Tensor, "row pos"]
    weight: Float[Tensor, "row predicted"]
    is_masked: Bool[Tensor, "row pos"]

    def rows(self, numbers: Sequence[int]) -> "Documents":
        """Some of the rows, cut to the longest of them."""
        at = torch.tensor(numbers, device=self.tokens.ids.device)
        length = int(self.tokens.lengths[at].max())
        return replace(
            self,
            tokens=Tokens(self.tokens.ids[at, :length], self.tokens.mask[at, :length]),
            domains=tuple(self.domains[number] for number in numbers),
            sources=self.sources[at, :length],
            weight=self.weight[at, : length - 1],
            is_masked=self.is_masked[at, :length],
        )


def prompt_documents(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    mode: MaskMode,
    reference: Sequence[Prompt] | Replacement | None,
    seed: int,
    truncate: bool,
    masked_at: TokenSet = "all tokens",
    counted_at: TokenSet = "all tokens",
) -> Documents:
    """The prompts as documents whose score is the mean loss of what is predicted at the tokens `counted_at`."""
    if not prompts:
        raise ValueError("no prompts to mask; check the corpus and its split")
    tokens = model.tokenize([prompt.text for prompt in prompts], truncate=truncate)
    if int(tokens.lengths.min()) < 2:
        short = prompts[int(tokens.lengths.argmin())].name
        raise ValueError(f"prompt {short} has one token and therefore no loss; remove prompts this short")
    if reference is None:
        reference = [prompt for prompt in prompts if prompt.split == "identify"]
    replacement = make_replacement(model, mode, prompts, reference, seed=seed, truncate=truncate)
    is_masked, counted = (tokens_in(model, tokens, chosen) for chosen in (masked_at, counted_at))
    is_counted = counted[:, :-1] & tokens.mask[:, 1:]
    n_counted = is_counted.sum(dim=1)
    if not int(n_counted.min()):
        empty = prompts[int(n_counted.argmin())].name
        raise ValueError(f"prompt {empty} predicts nothing at the tokens {counted_at!r}; remove prompts this short")
    documents = _documents(model, tokens, prompts, replacement, is_counted / n_counted[:, None])
    return replace(documents, is_masked=is_masked)


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
    domains = tuple(prompt.domain for prompt in prompts)
    return Documents(tokens, domains, replacement, torch.stack(sources), weight, tokens.mask)


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


# --- passes -----------------------------------------------------------------------------------------------------------


def unmasked_scores(model: HookedModel, documents: Documents) -> Float64[np.ndarray, "row"]:
    """The score of every document as it is."""
    scores = np.empty(len(documents.domains))
    order = torch.argsort(documents.tokens.lengths, descending=True).tolist()
    while order:
        limit = rows_limit(model, int(documents.tokens.lengths[order[0]]))
        numbers, order = order[:limit], order[limit:]
        part = documents.rows(numbers)
        scores[numbers] = _scores(model.logits(part.tokens), part.tokens, part.weight)
    return scores


def _masked_scores(
    model: HookedModel, documents: Documents, wanted: Sequence[tuple[int, ...]], progress: Progress | None
) -> tuple[tuple[int, ...], Float64[np.ndarray, "dimension row"]]:
    """The dimensions masked in any row, ascending, and the score of every row with each of them masked alone.

    `wanted` are those of every row; what a row does not want is NaN.
    """
    every = tuple(sorted(set().union(*wanted)))
    place = {dimension: index for index, dimension in enumerate(every)}
    found = np.full((len(every), len(wanted)), np.nan)
    done, total = 0, sum(map(len, wanted))
    for numbers, dimensions in _passes(model, documents, wanted):
        part, n = documents.rows(numbers), len(dimensions)
        batch = Tokens(part.tokens.ids.repeat(n, 1), part.tokens.mask.repeat(n, 1))
        with model.hooked(dict.fromkeys(model.residual_sites(), _mask(part, dimensions)), editing=True):
            logits = model.logits(batch)
        scores = _scores(logits, batch, part.weight.repeat(n, 1)).reshape(n, len(numbers))
        found[np.ix_([place[dimension] for dimension in dimensions], numbers)] = scores
        done += n * len(numbers)
        if progress is not None:
            progress(done, total)
    return every, found


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


def _mask(documents: Documents, dimensions: Sequence[int]) -> HookFunction:
    """The edit of a batch that holds all documents once per dimension, with that dimension masked."""
    n = len(dimensions)
    sources, is_masked = documents.sources.repeat(n, 1), documents.is_masked.repeat(n, 1)
    dimension = torch.tensor(dimensions, device=sources.device).repeat_interleave(len(documents.domains))
    rows = torch.arange(len(dimension), device=dimension.device)

    def edit(values: Tensor, site: Site, call: Call) -> Tensor:
        edited = values.clone()
        masked = documents.replacement.values[site.layer][sources, dimension[:, None]]
        edited[rows, :, dimension] = torch.where(is_masked, masked, values[rows, :, dimension])
        return edited

    return edit


def _scores(
    logits: Float[Tensor, "row pos vocab"], tokens: Tokens, weight: Float[Tensor, "row predicted"]
) -> Float64[np.ndarray, "row"]:
    losses, _ = token_losses(logits, tokens)
    return (losses * weight).double().sum(dim=1).cpu().numpy()
