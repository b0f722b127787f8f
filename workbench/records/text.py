"""Places in the model, tokens to edit, and texts; needs no torch, so that mistakes in a corpus are found at once."""

from dataclasses import dataclass
from typing import Literal, get_args

SiteKind = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "attn_raw", "mlp_out", "mlp_raw", "z"]
Where = Literal["all", "all_but_first", "prompt", "last_prompt", "generated", "from_last_prompt"]
TokenSet = Literal["all tokens", "after the first token", "without high-norm tokens"]
TOKEN_SETS: tuple[TokenSet, ...] = get_args(TokenSet)
Split = Literal["identify", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


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
