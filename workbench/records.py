"""The nouns of the workbench: frozen values that flow between its parts, checked when they are made.

Nothing here knows a model, a file format of somebody else, or a figure. Arrays are NumPy on the analysis side and torch
on the model side; `save_record` and `load_record` write any record of arrays and plain values as one safetensors file
with a JSON header.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

SiteKind = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "attn_raw", "mlp_out", "mlp_raw", "z"]
Split = Literal["identify", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
End = Literal["high", "low"]
ENDS: tuple[End, ...] = get_args(End)
Selection = Literal["magnitude", "discrimination", "both"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
MaskMode = Literal["zero", "mean", "resample"]
MASK_MODES: tuple[MaskMode, ...] = get_args(MaskMode)
Outcome = Literal["better", "worse", "no difference shown", "not measured"]
BudgetKind = Literal["kl", "edit", "coordinates", "none"]


class RecordError(ValueError):
    """A saved record is missing, damaged, or of another kind or version than expected."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model where activations are read or edited; `layer` is the 0-based block index.

    `resid_pre`, `resid_mid`, `resid_post`: residual stream at block input, after attention, at block output.
    `attn_out`, `mlp_out`: what the block adds to the stream; `attn_raw`, `mlp_raw`: the same before any post-norm;
    `z`: concatenated head outputs before the output projection.
    """

    kind: SiteKind
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(SiteKind):
            raise ValueError(f"unknown site kind {self.kind!r}; choose one of {', '.join(get_args(SiteKind))}")
        if self.layer < 0:
            raise ValueError(f"layer {self.layer} is negative; layers are counted from 0")

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read `"resid_post.3"`, the form in which sites are printed and saved."""
        kind, _, layer = text.partition(".")
        if not layer.isdigit():
            raise ValueError(f"cannot read site {text!r}; expected kind.layer, such as resid_post.3")
        return cls(kind, int(layer))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Prompt:
    """One document of a domain corpus. `name` is its address (`law/17`); `domain` is "neutral" for text of none."""

    text: str
    domain: str
    name: str
    split: Split

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"prompt {self.name} has no text")
        if self.split not in SPLITS:
            raise ValueError(f"prompt {self.name} has split {self.split!r}; expected one of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Pair:
    """A contrast: the same situation continued in the wanted (`positive`) and the unwanted (`negative`) way."""

    positive: str
    negative: str

    def __post_init__(self) -> None:
        if self.positive == self.negative:
            raise ValueError(f"positive and negative are identical, so they show no contrast: {self.positive[:60]!r}")


@dataclass(frozen=True)
class Tokens:
    """A batch of token ids with the mask of real tokens (padding is False), on the model's device."""

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Number of real tokens per row."""
        return self.mask.sum(dim=1)

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of every real token, counted from 0; -1 on padding."""
        return torch.where(self.mask, self.mask.long().cumsum(dim=1) - 1, -1)


@dataclass(frozen=True)
class Activations:
    """Rows of real tokens of one batch, all of one domain; padding never appears.

    `values[s]` are the activations at `sites[s]` in the model's dtype. `prompt_index` counts in the list of prompts
    that the stream was given; `positions` are absolute, so position 0 is BOS or, where a family has none, the first
    token. `is_delimiter` marks tokens that end a sentence, a clause or a line; None where nobody said.
    """

    domain: str
    sites: tuple[Site, ...]
    values: Float[Tensor, "site token width"]
    token_ids: Int[Tensor, "token"]
    prompt_index: Int[Tensor, "token"]
    positions: Int[Tensor, "token"]
    is_delimiter: Bool[Tensor, "token"] | None = None


@dataclass(frozen=True)
class TopTokens:
    """The tokens with the most extreme activations, per domain, layer, end (0 high, 1 low), rank and dimension.

    `value` is in activation units; `prompt` counts in the list of prompts, -1 where fewer tokens than ranks were seen.
    """

    value: Float32[np.ndarray, "domain layer end rank d_model"]
    prompt: Int[np.ndarray, "domain layer end rank d_model"]
    position: Int[np.ndarray, "domain layer end rank d_model"]
    token: Int[np.ndarray, "domain layer end rank d_model"]


@dataclass(frozen=True)
class DimensionStatistics:
    """What is known of every residual dimension, per domain and layer, over all tokens but the first of each prompt.

    Moments are float64 and merge exactly enough that shards equal one pass. Position 0 (BOS, or the first token of
    families without BOS) carries attention sinks and is counted apart in the `first_*` fields. `n_active` counts the
    prompts whose mean magnitude at that layer lies more than 3 sigma above the mean over dimensions.
    """

    domains: tuple[str, ...]
    n_tokens: Int[np.ndarray, "domain"]
    n_prompts: Int[np.ndarray, "domain"]
    mean: Float64[np.ndarray, "domain layer d_model"]
    m2: Float64[np.ndarray, "domain layer d_model"]
    mean_magnitude: Float64[np.ndarray, "domain layer d_model"]
    max_magnitude: Float64[np.ndarray, "domain layer d_model"]
    n_active: Int[np.ndarray, "domain layer d_model"]
    first_mean_magnitude: Float64[np.ndarray, "domain layer d_model"]
    first_max_magnitude: Float64[np.ndarray, "domain layer d_model"]
    top: TopTokens

    @property
    def variance(self) -> Float64[np.ndarray, "domain layer d_model"]:
        """Population variance over tokens, in squared activation units."""
        return self.m2 / np.maximum(self.n_tokens, 1)[:, None, None]

    @property
    def frequency(self) -> Float64[np.ndarray, "domain layer d_model"]:
        """Share of prompts in which the dimension is active under the 3-sigma rule, per layer."""
        return self.n_active / np.maximum(self.n_prompts, 1)[:, None, None]


@dataclass(frozen=True)
class PooledRows:
    """One row per prompt, pooling, layer and dimension: what readings, bootstrap and permutations resample.

    `values` may be memory-mapped. Poolings are over the tokens after the first: `mean_abs`, `mean`, `max_abs`, `last`,
    `scaled` (`mean_abs` with every token divided by the RMS of its vector), and `delimiter` and `rest` (`mean_abs` of
    the tokens that end a sentence, clause or line, and of the others; NaN where there are none). `first` is the
    activation of the first position itself, `all` the mean magnitude with the first position included.
    """

    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]
    poolings: tuple[str, ...]
    values: Float32[np.ndarray, "prompt pooling layer d_model"]

    def __post_init__(self) -> None:
        n = self.values.shape[0]
        if not n == len(self.prompts) == len(self.domains) == len(self.splits):
            raise ValueError(f"{n} rows, but {len(self.prompts)} names, {len(self.domains)} domains")
        if self.values.shape[1] != len(self.poolings):
            raise ValueError(f"{self.values.shape[1]} poolings in the rows, but {len(self.poolings)} names for them")

    def pooled(self, pooling: str) -> Float32[np.ndarray, "prompt layer d_model"]:
        """The rows of one pooling; raises if it was not collected."""
        if pooling not in self.poolings:
            raise ValueError(f"pooling {pooling!r} was not collected; these were: {', '.join(self.poolings)}")
        return self.values[:, self.poolings.index(pooling)]

    def where(self, *, split: Split | None = None, domain: str | None = None) -> Bool[np.ndarray, "prompt"]:
        """Mask of the rows of one split and/or one domain."""
        mask = np.ones(len(self.prompts), dtype=bool)
        if split is not None:
            mask &= np.array(self.splits) == split
        if domain is not None:
            mask &= np.array(self.domains) == domain
        return mask


@dataclass(frozen=True)
class TokenColumns:
    """Activations of chosen (layer, dimension) columns at every real token, first positions included.

    `token_text[t]` is the text of token t; tokens of a prompt stand together in reading order. `prompt_index` counts in
    `prompts`, whose domains and splits stand beside it.
    """

    columns: tuple[tuple[int, int], ...]
    values: Float32[np.ndarray, "token column"]
    token_text: tuple[str, ...]
    prompt_index: Int[np.ndarray, "token"]
    positions: Int[np.ndarray, "token"]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class Dimension:
    """A domain-critical dimension (DCD) with the evidence it was selected on; magnitudes in activation units.

    `frequency` is the share of the domain's prompts in which it is active, `frequency_elsewhere` the mean of that share
    over the other domains. `reach` says whether it is large in every domain, in this one, or in some.
    """

    domain: str
    dimension: int
    rank: int
    selection: Selection
    magnitude: float
    magnitude_elsewhere: float
    frequency: float
    frequency_elsewhere: float
    reach: Literal["every domain", "this domain", "some domains", "no domain"]


@dataclass(frozen=True)
class TokenContext:
    """A token that fires a dimension, with the text around it and its address."""

    token: str
    before: str
    after: str
    value: float
    prompt: str
    position: int


@dataclass(frozen=True)
class Detector:
    """A dimension read as a detector of a token class at one layer and one end.

    `auroc` separates tokens of the class from other tokens of the same domain by activation on held-out documents;
    `low` and `high` bound it (95 % document bootstrap). `label` is "unlabelled" where no class passed; the score is
    then NaN.
    """

    domain: str
    layer: int
    dimension: int
    end: End
    label: str
    auroc: float
    low: float
    high: float
    n_tokens: int
    top_tokens: tuple[TokenContext, ...]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One steered arm at one budget: effect with a paired 95 % interval over passages, beside what it cost.

    `effect` is in the unit of `metric` (for losses: steered minus unsteered nats per token, negative is better).
    `strength` multiplies the method's delta; `kl` is nats per token to the unsteered model on neutral text, measured at
    that strength; `budget` is the KL level asked for. `reached` is False where no strength reached it. `against` is
    what the effect is a difference to: the unsteered model, or another arm at the same budget. `note` says in words
    what is irregular (an empty selection, an unreachable budget) or averaged; effects that were not measured are NaN.
    """

    task: str
    metric: str
    domain: str
    method: str
    selection: str
    layer: int
    strength: float
    budget: float
    kl: float
    reached: bool
    effect: float
    low: float
    high: float
    n: int
    against: str = "unsteered"
    note: str = ""


@dataclass(frozen=True)
class Contrast:
    """One arm on one metric of one task at one budget, as a paired difference to `against`, beside what it cost.

    `role` tells a method from a control. `level` is the budget in the unit of its kind: `kl` nats per token of neutral
    text, `edit` norm of the edit as a share of the median residual norm, `coordinates` their number; 0 where there is
    none. `setting` is what was searched on *tune* ("layer 3", "k 16"). `in_norms` and `in_sds` are the strength in
    median residual norms and in natural standard deviations of the edited coordinates. `effect`, `low`, `high` are in
    `unit`, with a 95 % interval over `n` pairs; `n_missing` pairs could not be judged. `p` is of the sign-flip test,
    `q` adjusted over all contrasts to the same `against`. `least` is the smallest difference that could have been
    shown. What was not measured is NaN, and `note` says why.
    """

    task: str
    domain: str
    arm: str
    role: Literal["method", "control"]
    metric: str
    unit: str
    higher_is_better: bool
    is_primary: bool
    budget: BudgetKind
    level: float
    against: str
    setting: str
    strength: float
    in_norms: float
    in_sds: float
    kl: float
    effect: float
    low: float
    high: float
    p: float
    q: float
    n: int
    n_missing: int
    verdict: Outcome
    least: float
    note: str = ""


@dataclass(frozen=True)
class StrengthCurve:
    """Effect and damage of one arm along its strengths on *tune*, and the usable band between `low` and `high`.

    `effect[i]` is a difference to the unsteered model in `unit`, `kl[i]` nats per token of neutral text, `in_norms[i]`
    the strength in median residual norms. The band holds the strengths that show a wanted effect below `limit` of KL;
    both ends are NaN where there is none, and `note` says why. `n_evaluations` counts passes over the tuning items or
    the neutral text.
    """

    task: str
    domain: str
    arm: str
    setting: str
    metric: str
    unit: str
    higher_is_better: bool
    strengths: tuple[float, ...]
    effect: tuple[float, ...]
    effect_low: tuple[float, ...]
    effect_high: tuple[float, ...]
    kl: tuple[float, ...]
    in_norms: tuple[float, ...]
    limit: float
    low: float
    high: float
    n_evaluations: int
    note: str = ""


@dataclass(frozen=True)
class MaskingResult:
    """Rise of the token loss of every prompt when one residual dimension is masked at every block output.

    `baseline` is the unmasked mean loss over the tokens after the first, `rise[i, q]` masked minus unmasked with
    `dimensions[i]` masked; nats per token, NaN where it was not measured. `mode` says what masked entries are set to;
    `how` whether the rise was measured or estimated from gradients. `cost` is in forward passes over all prompts (a
    backward pass counts as two).
    """

    mode: MaskMode
    how: Literal["measured", "estimated"]
    d_model: int
    cost: float
    dimensions: tuple[int, ...]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]
    baseline: Float64[np.ndarray, "prompt"]
    rise: Float64[np.ndarray, "dimension prompt"]

    def __post_init__(self) -> None:
        n = len(self.prompts)
        if self.rise.shape != (len(self.dimensions), n) or not n == len(self.domains) == len(self.splits):
            raise ValueError(f"rise is {self.rise.shape}, but there are {len(self.dimensions)} dimensions, {n} prompts")


@dataclass(frozen=True)
class ChoiceItem:
    """A question with several answer texts, written as they would follow the prompt; `choices[answer]` is right."""

    name: str
    domain: str
    split: Split
    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.prompt or len(set(self.choices)) < 2 or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"item {self.name} needs a prompt and at least two different choices")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"item {self.name} has answer {self.answer}, but {len(self.choices)} choices")


@dataclass(frozen=True)
class ChoiceMasking:
    """Log likelihood of every choice (nats, summed over its tokens), unmasked and with each dimension masked."""

    mode: MaskMode
    dimensions: tuple[int, ...]
    items: tuple[ChoiceItem, ...]
    baseline: Float64[np.ndarray, "item choice"]
    masked: Float64[np.ndarray, "dimension item choice"]


VerdictName = Literal["sink", "detector", "both", "neither"]
VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)


@dataclass(frozen=True)
class Verdict:
    """Whether one dimension is an attention sink, a detector of a domain, both or neither, with the evidence.

    `domain` is the one it was selected for, or the one it tells apart best. `massive` names the criteria that call it
    massive. Shares are of the magnitude over the three position classes, each counted once; `constancy` is 1 minus the
    coefficient of variation, over passages, of the magnitude at its largest position class (fractions). `auroc` tells
    passages of the domain from others on *test*, at `layer` (-1: mean over layers) by `reading`; `low` and `high` bound
    it (95 % bootstrap of passages), and `control_share` is the share of dimensions that are not judged, read in the
    same way, that reach it (NaN where there are none). Costs are the rise of loss in the domain under masking to zero
    and to the mean of the position class, nats per token; NaN where it was not measured.
    """

    domain: str
    dimension: int
    verdict: VerdictName
    is_dcd: bool
    massive: tuple[str, ...]
    share_first: float
    share_delimiter: float
    constancy: float
    layer: int
    reading: Literal["magnitude", "high", "low"]
    auroc: float
    low: float
    high: float
    control_share: float
    n_passages: int
    cost_zero: float
    cost_mean: float
    label: str
    note: str


@dataclass(frozen=True)
class SelectionStability:
    """How sure the selection of one dimension for a domain is.

    `frequency` is the share of bootstrap resamples of passages in which it is among the top k, `rank_low` and
    `rank_high` bound its rank there (95 %; d_model + 1 where it was not selectable). `p_value` is that of its magnitude
    in the domain against the others under permuted domain labels, adjusted over all domains and dimensions.
    """

    domain: str
    dimension: int
    rank: int
    selection: Selection
    frequency: float
    rank_low: int
    rank_high: int
    p_value: float
    n_resamples: int


@dataclass(frozen=True)
class ConditionStability:
    """How far the top k of one domain stays the same under another condition, such as "split halves" or "bfloat16".

    `jaccard` is the mean shared share of the sets and `spearman` that of the rank correlation of magnitudes over `n`
    repetitions; `low` and `high` hold the central 95 % of the shared share (NaN where n is 1).
    """

    condition: str
    domain: str
    k: int
    jaccard: float
    low: float
    high: float
    spearman: float
    n: int


@dataclass(frozen=True)
class ReadingAgreement:
    """Shared share (Jaccard) of the top k of one domain under two readings of the rule; NaN where both are empty."""

    domain: str
    first: str
    second: str
    k: int
    jaccard: float


@dataclass(frozen=True)
class LabelScore:
    """A label chosen on *identify* and tested twice on *test*, both as AUROC of the activation (0.5 by luck).

    `within`: tokens of the class against other tokens of the domain. `across`: tokens of the class inside the domain
    against tokens of the class outside it. Intervals are 95 % bootstraps of passages, p-values are one-sided from
    permuted passages; NaN where a side has too few tokens. `quality` is the score on *identify*.
    """

    domain: str
    dimension: int
    layer: int
    end: End
    label: str
    is_dcd: bool
    quality: float
    within: float
    within_low: float
    within_high: float
    within_p: float
    across: float
    across_low: float
    across_high: float
    across_p: float
    n_inside: int
    n_outside: int


@dataclass(frozen=True)
class BasisScore:
    """One measure of one domain in one basis of the residual stream: "coordinate", or "rotation 0", "rotation 1" ..."""

    basis: str
    domain: str
    measure: str
    value: float


# --- saving -----------------------------------------------------------------------------------------------------------

FORMAT_VERSION = 1


def to_plain(value: Any) -> Any:
    """A record, or a nest of tuples of records, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def save_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Write arrays as safetensors with a JSON header that says what they are; complete or not at all."""
    metadata = {"kind": kind, "format": str(FORMAT_VERSION), "header": json.dumps(to_plain(header))}
    temporary = path.with_suffix(path.suffix + ".tmp")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def load_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote; raises `RecordError` on another kind, another version or a damaged file."""
    if not path.exists():
        raise RecordError(f"{path} does not exist; was the run completed?")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    if metadata.get("kind") != kind:
        raise RecordError(f"{path} holds {metadata.get('kind', 'no record')!r}, expected {kind!r}")
    if metadata.get("format") != str(FORMAT_VERSION):
        raise RecordError(f"{path} has format {metadata.get('format')}, this version reads {FORMAT_VERSION}")
    return arrays, json.loads(metadata["header"])


def save_statistics(statistics: DimensionStatistics, path: Path) -> None:
    """Write statistics to one safetensors file."""
    arrays = {
        field.name: getattr(statistics, field.name)
        for field in dataclasses.fields(statistics)
        if field.name not in ("domains", "top")
    }
    arrays |= {f"top.{field.name}": getattr(statistics.top, field.name) for field in dataclasses.fields(TopTokens)}
    save_arrays(path, "DimensionStatistics", arrays, {"domains": statistics.domains})


def load_statistics(path: Path) -> DimensionStatistics:
    """Read what `save_statistics` wrote."""
    arrays, header = load_arrays(path, "DimensionStatistics")
    top = TopTokens(**{field.name: arrays.pop(f"top.{field.name}") for field in dataclasses.fields(TopTokens)})
    return DimensionStatistics(domains=tuple(header["domains"]), top=top, **arrays)


def save_pooled_rows(rows: PooledRows, path: Path) -> None:
    """Write pooled rows to a .npy file, with their names in a .json file beside it.

    Rows that are mapped from that very file stay as they are, so that a corpus of any size needs no memory here.
    """
    mapped_from = getattr(rows.values, "filename", None)
    if mapped_from is None or Path(mapped_from) != path.resolve():
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, rows.values, allow_pickle=False)
        temporary.replace(path)
    header = {"prompts": rows.prompts, "domains": rows.domains, "splits": rows.splits, "poolings": rows.poolings}
    content = {"kind": "PooledRows", "format": FORMAT_VERSION, "header": to_plain(header)}
    path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def load_pooled_rows(path: Path) -> PooledRows:
    """Read what `save_pooled_rows` wrote; the rows are mapped, not read into memory."""
    beside = path.with_suffix(".json")
    for needed in (path, beside):
        if not needed.exists():
            raise RecordError(f"{needed} does not exist; was the run completed?")
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise RecordError(f"{path} or {beside.name} is damaged ({error}); write it again") from error
    if content.get("kind") != "PooledRows" or content.get("format") != FORMAT_VERSION:
        raise RecordError(f"{beside} holds {content.get('kind')!r}, expected 'PooledRows' of format {FORMAT_VERSION}")
    return PooledRows(**{name: tuple(items) for name, items in content["header"].items()}, values=values)


def save_masking(result: MaskingResult, path: Path) -> None:
    """Write a masking result to one safetensors file."""
    header = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    arrays = {name: header.pop(name) for name in ("baseline", "rise")}
    save_arrays(path, "MaskingResult", arrays, header)


def load_masking(path: Path) -> MaskingResult:
    """Read what `save_masking` wrote."""
    arrays, header = load_arrays(path, "MaskingResult")
    values: dict[str, Any] = dict(arrays)
    values |= {name: tuple(value) if isinstance(value, list) else value for name, value in header.items()}
    return MaskingResult(**values)


def save_choice_masking(result: ChoiceMasking, path: Path) -> None:
    """Write the likelihoods of choices under masking to one safetensors file."""
    header = {"mode": result.mode, "dimensions": result.dimensions, "items": result.items}
    save_arrays(path, "ChoiceMasking", {"baseline": result.baseline, "masked": result.masked}, header)


def load_choice_masking(path: Path) -> ChoiceMasking:
    """Read what `save_choice_masking` wrote."""
    arrays, header = load_arrays(path, "ChoiceMasking")
    items = tuple(ChoiceItem(**{**row, "choices": tuple(row["choices"])}) for row in header["items"])
    return ChoiceMasking(header["mode"], tuple(header["dimensions"]), items, **arrays)


def save_table(records: list[Any], path: Path) -> None:
    """Write a list of plain records (DCDs, detectors, comparisons) as JSON."""
    kind = type(records[0]).__name__ if records else "empty"
    content = {"kind": kind, "format": FORMAT_VERSION, "records": to_plain(records)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=True), encoding="utf-8")
    temporary.replace(path)


def load_table(path: Path, kind: type[Any]) -> list[Any]:
    """Read what `save_table` wrote as records of `kind`."""
    if not path.exists():
        raise RecordError(f"{path} does not exist; was the run completed?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    if content.get("kind") not in (kind.__name__, "empty") or content.get("format") != FORMAT_VERSION:
        raise RecordError(f"{path} holds {content.get('kind')!r}, expected {kind.__name__!r}")
    return [_from_plain(kind, row) for row in content["records"]]


def _from_plain(kind: type[Any], row: dict[str, Any]) -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        value = row[field.name]
        if field.name == "top_tokens":
            value = tuple(TokenContext(**item) for item in value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)
