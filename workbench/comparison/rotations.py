"""Is the coordinate basis special? Statistics, labels and CDS again in random rotations of the residual stream.

A rotation Q (Haar-distributed) turns every block output h into h Q. In each basis dimensions are selected by the same
rule, labelled by the same classes, and the domain direction is cut to the selected dimensions:

    discriminative   number of dimensions that pass the 30 % rule in the domain
    passage AUROC    of the k selected dimensions on *test*: passages of the domain against others, mean
    labelled         share of the k selected dimensions that get an accepted label on *identify*
    label AUROC      held-out score of the best label of every selected dimension, mean
    CDS              change of loss on *test* passages of the domain at the same KL on neutral text, nats per token

Without this control "single dimensions are detectors" is not shown: any basis has largest dimensions, and in any basis
they fire on something. Larger is better everywhere but for CDS, where it is the reverse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import ortho_group
from torch import Tensor

from workbench.activations import Progress, stream
from workbench.comparison.arms import domain_directions
from workbench.comparison.budgets import find_strengths
from workbench.dimensions import find_dcds
from workbench.dimensions.detectors import choose_labels, document_texts, token_table
from workbench.dimensions.labels import score_labels
from workbench.dimensions.verdicts import domain_scores
from workbench.interventions import ContrastiveAddition
from workbench.models import HookedModel
from workbench.records import BasisScore, Dimension, PooledRows, Prompt, TokenColumns
from workbench.statistics import percentile_interval
from workbench.tasks.metrics import NeutralText, passage_losses, passage_tokens
from workbench.token_classes import class_members

COORDINATE = "coordinate"
LOWER_IS_BETTER = ("CDS",)
N_NEUTRAL, N_NEUTRAL_TOKENS = 24, 24
Rotations = Mapping[str, Float[Tensor, "d_model d_model"] | None]
Selected = dict[str, list[Dimension]]


def compare_bases(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    *,
    k: int = 8,
    n_rotations: int = 5,
    kl: float = 0.1,
    layer: int | None = None,
    n_tokens: int = 64,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> list[BasisScore]:
    """Every measure of every domain in the coordinate basis and in `n_rotations` random ones.

    `layer` is where CDS acts (None: the middle), `kl` its budget in nats per token of `neutral` (24 passages of 24
    tokens are used), `n_tokens` how much of a passage its effect is read from; a budget that cannot be reached gives
    NaN. Two passes over the passages of *identify* and *test*; memory is bases x tokens x layers x selected dimensions
    x 4 bytes.
    """
    if n_rotations < 1:
        raise ValueError(f"n_rotations is {n_rotations}; at least one is needed, five to say anything")
    chosen = [prompt for prompt in prompts if prompt.split in ("identify", "test")]
    bases: dict[str, Float[Tensor, "d_model d_model"] | None] = {COORDINATE: None}
    for number in range(n_rotations):
        random = np.random.default_rng([seed, number])
        matrix = ortho_group.rvs(model.d_model, random_state=random) if model.d_model > 1 else np.ones((1, 1))
        bases[f"rotation {number}"] = torch.from_numpy(matrix).float()
    rows = _rotated_rows(model, chosen, bases, truncate, progress)
    dcds: dict[str, Selected] = {}
    for name, of in rows.items():
        dcds[name] = {domain: [] for domain in dict.fromkeys(of.domains)}
        for dcd in find_dcds(of, k=k):
            dcds[name][dcd.domain].append(dcd)
    columns = _rotated_columns(model, chosen, bases, dcds, truncate, progress)
    scores = [score for name in bases for score in _scores(name, rows[name], columns[name], dcds[name], seed)]
    at = model.n_layers // 2 if layer is None else layer
    texts = NeutralText(model, [prompt.text for prompt in neutral[:N_NEUTRAL]], n_tokens=N_NEUTRAL_TOKENS)
    directions = {domain: value[at] for domain, value in domain_directions(rows[COORDINATE]).items()}
    for domain, direction in directions.items():
        cut = {name: _restricted(direction, bases[name], dcds[name][domain]) for name in bases}
        test = [prompt.text for prompt in chosen if prompt.domain == domain and prompt.split == "test"]
        effects = _effects(model, [ContrastiveAddition(value, at) for value in cut.values()], texts, test, kl, n_tokens)
        scores += [BasisScore(name, domain, "CDS", effect) for name, effect in zip(cut, effects, strict=True)]
    return scores


def basis_frame(scores: Sequence[BasisScore], *, n_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The coordinate basis against the rotated ones, one row per measure.

    `coordinate` and `rotated` are means over domains, `lowest` and `highest` the extreme rotations. `better` is the
    share of pairs (domain, rotation) in which the coordinate basis wins (ties count half), `low` and `high` its 95 %
    interval over resampled domains and rotations. Pairs with NaN are left out.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for measure in dict.fromkeys(item.measure for item in scores):
        table = pd.DataFrame(
            [[item.basis, item.domain, item.value] for item in scores if item.measure == measure],
            columns=["basis", "domain", "value"],
        ).pivot(index="domain", columns="basis", values="value")
        own, others = table[COORDINATE].to_numpy(), table.drop(columns=COORDINATE).to_numpy()
        sign = -1 if measure in LOWER_IS_BETTER else 1
        difference = sign * (own[:, None] - others)
        wins = np.where(np.isnan(difference), np.nan, 0.5 + 0.5 * np.sign(difference))
        n_domains, n_rotations = wins.shape
        shares = [
            np.nanmean(wins[rng.integers(n_domains, size=n_domains)][:, rng.integers(n_rotations, size=n_rotations)])
            for _ in range(n_resamples if np.isfinite(wins).all() else 0)
        ]
        low, high = percentile_interval(np.array(shares))
        means = np.array([_known_mean(column) for column in others.T])
        rows.append(
            [
                measure,
                _known_mean(own),
                means.mean(),
                means.min(),
                means.max(),
                _known_mean(wins),
                low,
                high,
                n_rotations,
            ]
        )
    names = ["measure", "coordinate", "rotated", "lowest", "highest", "better", "low", "high", "n_rotations"]
    return pd.DataFrame(rows, columns=names)


def _known_mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean without NaN; NaN where nothing is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


# --- activations in every basis ---------------------------------------------------------------------------------------


def _turned(values: Float[Tensor, "layer token d_model"], basis: Float[Tensor, "d_model kept"] | None) -> Tensor:
    return values.float() if basis is None else values.float() @ basis.to(values.device)


def _rotated_rows(
    model: HookedModel, prompts: Sequence[Prompt], bases: Rotations, truncate: bool, progress: Progress | None
) -> dict[str, PooledRows]:
    """Rows of every basis: mean magnitude and mean over the tokens after the first."""
    shape = (len(prompts), 2, model.n_layers, model.d_model)
    values = {name: np.zeros(shape, dtype=np.float32) for name in bases}
    for batch in stream(model, prompts, model.residual_sites(), truncate=truncate, progress=progress):
        for prompt in batch.prompt_index.unique().tolist():
            kept = (batch.prompt_index == prompt) & (batch.positions > 0)
            tokens = batch.values[:, kept]
            for name, basis in bases.items():
                turned = _turned(tokens, basis)
                pooled = torch.stack([turned.abs().mean(dim=1), turned.mean(dim=1)])
                values[name][prompt] = pooled.cpu().numpy()
    shared = PooledRows(
        tuple(prompt.name for prompt in prompts),
        tuple(prompt.domain for prompt in prompts),
        tuple(prompt.split for prompt in prompts),
        ("mean_abs", "mean"),
        values[COORDINATE],
    )
    return {name: replace(shared, values=of) for name, of in values.items()}


def _rotated_columns(
    model: HookedModel,
    prompts: Sequence[Prompt],
    bases: Rotations,
    dcds: Mapping[str, Selected],
    truncate: bool,
    progress: Progress | None,
) -> dict[str, TokenColumns]:
    """The selected dimensions of every basis at every token and layer."""
    dimensions = {name: sorted({dcd.dimension for group in dcds[name].values() for dcd in group}) for name in bases}
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in bases}
    ids, index, positions = [], [], []
    for batch in stream(model, prompts, model.residual_sites(), truncate=truncate, progress=progress):
        for name, basis in bases.items():
            own = dimensions[name]
            kept = batch.values[..., own].float() if basis is None else _turned(batch.values, basis[:, own])
            pieces[name].append(kept.permute(1, 0, 2).flatten(1).cpu().numpy())
        for stored, found in ((ids, batch.token_ids), (index, batch.prompt_index), (positions, batch.positions)):
            stored.append(found.cpu().numpy())
    prompt_index = np.concatenate(index)
    order = np.argsort(prompt_index, kind="stable")
    shared = TokenColumns(
        columns=(),
        values=np.zeros((len(order), 0), dtype=np.float32),
        token_text=tuple(model.token_texts(np.concatenate(ids)[order].tolist())),
        prompt_index=prompt_index[order],
        positions=np.concatenate(positions)[order],
        prompts=tuple(prompt.name for prompt in prompts),
        domains=tuple(prompt.domain for prompt in prompts),
        splits=tuple(prompt.split for prompt in prompts),
    )
    return {
        name: replace(
            shared,
            columns=tuple((layer, dimension) for layer in range(model.n_layers) for dimension in dimensions[name]),
            values=np.concatenate(pieces[name])[order],
        )
        for name in bases
    }


# --- measures ---------------------------------------------------------------------------------------------------------


def _scores(name: str, rows: PooledRows, columns: TokenColumns, dcds: Selected, seed: int) -> list[BasisScore]:
    found = []
    passing = find_dcds(rows, k=rows.values.shape[3], selection="discrimination")
    labels = score_labels(columns, [dcd for group in dcds.values() for dcd in group], n_permutations=1, seed=seed)
    members = class_members(document_texts(columns), columns.prompt_index)[1]
    for domain, group in dcds.items():
        dimensions = [dcd.dimension for dcd in group]
        chosen = [at for at, (_, dimension) in enumerate(columns.columns) if dimension in set(dimensions)]
        identify = token_table(columns, members, domain, "identify", chosen)
        test = token_table(columns, members, domain, "test", chosen)
        accepted = (choose_labels(identify, identify.is_supported & test.is_supported) >= 0).any(axis=0)
        labelled = {columns.columns[chosen[at]][1] for at in np.flatnonzero(accepted).tolist()}
        within = [item.within for item in labels if item.domain == domain]
        values = {
            "discriminative": float(sum(dcd.domain == domain for dcd in passing)),
            "passage AUROC": float(domain_scores(rows, domain, dimensions, n_resamples=1).auroc.mean()),
            "labelled": len(labelled) / len(dimensions),
            "label AUROC": float(np.mean(within)) if within else float("nan"),
        }
        found += [BasisScore(name, domain, measure, value) for measure, value in values.items()]
    return found


def _restricted(
    direction: Float[Tensor, "d_model"], basis: Float[Tensor, "d_model d_model"] | None, dcds: Sequence[Dimension]
) -> Float[Tensor, "d_model"]:
    """The direction, cut to the selected dimensions of a basis, in raw coordinates."""
    kept = [dcd.dimension for dcd in dcds]
    if basis is None:
        cut = torch.zeros_like(direction)
        cut[kept] = direction[kept]
        return cut
    chosen = basis[:, kept]
    return chosen @ (chosen.T @ direction)


def _effects(
    model: HookedModel,
    steerings: Sequence[ContrastiveAddition],
    neutral: NeutralText,
    texts: Sequence[str],
    kl: float,
    n_tokens: int,
) -> list[float]:
    """Change of the loss of the texts under every steering at the strength that costs `kl`."""
    budgets = find_strengths(
        lambda indices, strengths: neutral.kl(
            [(steerings[index], strength) for index, strength in zip(indices, strengths, strict=True)]
        ).tolist(),
        kl,
        [1.0] * len(steerings),
    )
    parts = [(steering, budget.strength) for steering, budget in zip(steerings, budgets, strict=True)]
    losses = passage_losses(model, passage_tokens(model, texts, n_tokens=n_tokens), [(None, 0.0), *parts])
    changes = (losses[1:] - losses[0]).mean(axis=1)
    return [float(change) if budget.reached else float("nan") for change, budget in zip(changes, budgets, strict=True)]
