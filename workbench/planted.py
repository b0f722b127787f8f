"""Tiny transformers whose residual stream is known by construction, with matching text: planted truth for every method.

The weights are written by hand, not trained. Every dimension with a role is laid out at random:

    detector    large on the words of one token class; the model needs it to predict what follows such a word
    both        a detector that is also large at the first position
    inert       large on the words of one token class, but nothing reads it
    quiet       tiny on the words of one token class, yet needed to predict what follows
    everywhere  large at every token of every domain
    sink        massive at the first position; one of them also at full stops

A class belongs to a domain: its words come `gap` times as often in that domain's text as in each of the others. After
a class word comes a follower, one per detector, both and quiet dimension of the class, all equally often; everything
else is unpredictable. So masking a detector costs what its followers cost, more in its own domain by the factor `gap`.

One attention head makes a sink matter. Its query reads the first everywhere dimension, its key the first sink: all
tokens look at the first one, whose value is zero. Without either it looks at all tokens alike and writes what it finds
onto a dimension that promotes words which never come. So zero masking of these two is costly in every domain, and
masking the sink to its mean per position class costs nothing.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.models import HookedModel, wrap
from workbench.records import Prompt, Split
from workbench.token_classes import TOPICS, class_members

Role = Literal["detector", "both", "inert", "quiet", "everywhere", "sink"]
ROLES: tuple[Role, ...] = get_args(Role)
CLASS_ROLES: tuple[Role, ...] = ("detector", "detector", "inert", "quiet")  # of every class; see _plant for "both"
READ_ROLES = ("detector", "both", "quiet")

DOMAIN_CLASSES: dict[str, tuple[str, str, str]] = {
    "law": ("legal terms", "economic terms", "historical and political terms"),
    "biology": ("biological terms", "medical terms", "geographical terms"),
    "physics": ("physical terms", "chemical terms", "mathematical terms"),
    "literature": ("words of story and home", "verbs of speech and thought", "time words"),
}
FILLERS = (
    *("the", "a", "of", "and", "in", "to", "it", "is", "that", "with", "for", "from"),
    *("by", "as", "at", "on", "was", "were", "this", "these", "some", "any", "then", "there"),
)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
BOS = 1
STOP = "."
N_CLASS_WORDS = 5
N_JUNK_WORDS = 20

N_TOKENS = 120  # per passage, after the first position
N_OWN = 4  # words of a class in a passage of its own domain
N_STOPS = 6
N_LAYERS, HEAD_LAYER, HEAD_WIDTH = 2, 1, 8
LARGE, QUIET, STEADY, BACKGROUND = 10.0, 0.3, 0.6, 0.03  # activation units; STEADY is the value of "everywhere"
AT_FIRST, AT_STOP = 250.0, 12.0
BOTH_AT_FIRST = 120.0
LOGIT = 8.0  # of a follower after its word
ROPE_THETA = 1e12  # the slowest pair of a head then hardly turns, so that the head sees no positions


@dataclass(frozen=True)
class PlantedDimension:
    """One dimension with a role; `domain` and `label` (its token class) are empty for everywhere and sink.

    `sign` is that of its large values; `is_needed` says whether zero masking it must cost something.
    """

    dimension: int
    role: Role
    domain: str
    label: str
    sign: int
    is_needed: bool


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted: every other dimension of the model holds small noise that nothing reads."""

    seed: int
    gap: float
    domains: tuple[str, ...]
    planted: tuple[PlantedDimension, ...]

    def dimensions(self, *roles: Role, domain: str | None = None) -> frozenset[int]:
        """The dimensions with one of these roles, of one domain or (None) of all and none."""
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise ValueError(f"unknown role {unknown[0]!r}; choose from {', '.join(ROLES)}")
        return frozenset(
            item.dimension for item in self.planted if item.role in roles and domain in (None, item.domain)
        )

    def discriminative(self, domain: str) -> frozenset[int]:
        """Dimensions that are large in this domain and less so elsewhere: detector, both, inert."""
        return self.dimensions("detector", "both", "inert", domain=domain)

    def critical(self, domain: str) -> frozenset[int]:
        """Dimensions that this domain needs more than others do: detector, both, quiet."""
        return self.dimensions("detector", "both", "quiet", domain=domain)


def planted_model(
    seed: int, *, gap: float = 2.0, d_model: int = 512, n_prompts: int = 24
) -> tuple[HookedModel, list[Prompt], PlantedTruth]:
    """A model with planted dimensions, text of four domains that fires them, and the truth.

    `seed` lays out dimensions, signs, words and text; `gap` (at least 1) is how much more often the words of a class
    come in their own domain: at 1 the domains do not differ. `n_prompts` passages of 120 tokens per domain in identify
    and test each, half as many in tune. Raises where d_model is too small to hold the layout.
    """
    if not gap >= 1:
        raise ValueError(f"gap is {gap}; choose at least 1 (1: the domains do not differ)")
    if n_prompts < 2:
        raise ValueError(f"n_prompts is {n_prompts}; choose at least 2 per domain and split")
    # Below this, the planted dimensions themselves raise the 3-sigma threshold above what they reach.
    if d_model < 384:
        raise ValueError(f"d_model is {d_model}; the planted dimensions stand out only from 384 on")
    layout_rng, text_rng = (np.random.default_rng([seed, part]) for part in range(2))
    words = _choose_words(layout_rng)
    truth = PlantedTruth(seed, gap, tuple(DOMAIN_CLASSES), _plant(d_model, layout_rng))
    followers = _assign_followers(truth, words)
    model = _build(truth, words, followers, d_model, layout_rng)
    return model, _write(truth, words, followers, n_prompts, text_rng), truth


# --- words ------------------------------------------------------------------------------------------------------------


class _Words(NamedTuple):
    """The vocabulary by use; `classes` maps a token class to its words, `coined` are words without meaning."""

    classes: dict[str, tuple[str, ...]]
    coined: tuple[str, ...]
    junk: tuple[str, ...]

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id; a leading Ġ is the space before a word, as in byte-level tokenizers."""
        words = [*FILLERS, *(word for chosen in self.classes.values() for word in chosen), *self.coined, *self.junk]
        return {token: index for index, token in enumerate([*SPECIALS, STOP, *(f"Ġ{word}" for word in words)])}


def _choose_words(rng: np.random.Generator) -> _Words:
    classes = {}
    for names in DOMAIN_CLASSES.values():
        for name in names:
            own = _exclusive_words(name)
            classes[name] = tuple(rng.choice(own, size=N_CLASS_WORDS, replace=False).tolist())
    n_coined = sum(role in READ_ROLES for role in CLASS_ROLES) * len(classes)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    coined: dict[str, None] = {}
    while len(coined) < n_coined + N_JUNK_WORDS:
        coined["".join(rng.choice(syllables, size=3)) + "x"] = None  # no word of any list ends in consonant, vowel, x
    made = tuple(coined)
    return _Words(classes, made[:n_coined], made[n_coined:])


def _exclusive_words(name: str) -> list[str]:
    """The words of one topic that belong to no other class."""
    words = TOPICS[name].split()
    names, members = class_members([f" {word}" for word in words], np.arange(len(words)))
    only = members[:, [names.index(topic) for topic in TOPICS]].sum(axis=1) == 1
    return [word for word, chosen in zip(words, only.tolist(), strict=True) if chosen]


# --- dimensions -------------------------------------------------------------------------------------------------------


def _plant(d_model: int, rng: np.random.Generator) -> tuple[PlantedDimension, ...]:
    """Roles on random dimensions; the first detector of the first class of a domain is both detector and sink."""
    free = iter(rng.permutation(d_model).tolist())
    planted = []
    for domain, names in DOMAIN_CLASSES.items():
        for name in names:
            for number, role in enumerate(CLASS_ROLES):
                shown: Role = "both" if number == 0 and name == names[0] else role
                sign = int(rng.choice([-1, 1]))
                planted.append(PlantedDimension(next(free), shown, domain, name, sign, role in READ_ROLES))
    for role in ("everywhere", "sink"):
        for number in range(2):
            planted.append(PlantedDimension(next(free), role, "", "", int(rng.choice([-1, 1])), number == 0))
    return tuple(planted)


def _assign_followers(truth: PlantedTruth, words: _Words) -> dict[int, str]:
    """The coined word that each needed dimension of a class predicts."""
    readers = [item.dimension for item in truth.planted if item.role in READ_ROLES]
    return dict(zip(readers, words.coined, strict=True))


# --- text -------------------------------------------------------------------------------------------------------------


def _write(
    truth: PlantedTruth, words: _Words, followers: dict[int, str], n_prompts: int, rng: np.random.Generator
) -> list[Prompt]:
    sizes: dict[Split, int] = {"identify": n_prompts, "tune": n_prompts // 2, "test": n_prompts}
    splits: list[Split] = [split for split, size in sizes.items() for _ in range(size)]
    coined = {name: [] for name in words.classes}
    for item in truth.planted:
        if item.dimension in followers:
            coined[item.label].append(followers[item.dimension])
    prompts = []
    for domain in truth.domains:
        # Followers come in turn, so that short texts hold each of them equally often.
        turns = {name: itertools.cycle(rng.permutation(coined[name]).tolist()) for name in coined}
        for number, split in enumerate(splits):
            text = _passage(truth, words, turns, domain, rng)
            prompts.append(Prompt(text, domain, f"{domain}/{number}", split))
    return prompts


def _passage(
    truth: PlantedTruth, words: _Words, turns: Mapping[str, Iterator[str]], domain: str, rng: np.random.Generator
) -> str:
    """Class words with their followers, fillers and full stops in random order, `N_TOKENS` tokens in all."""
    units = []
    for owner, names in DOMAIN_CLASSES.items():
        for name in names:
            mean = N_OWN if owner == domain else N_OWN / truth.gap
            count = int(mean) + int(rng.random() < mean % 1)
            units += [f"{rng.choice(words.classes[name])} {next(turns[name])}" for _ in range(count)]
    units += rng.choice(FILLERS, size=N_TOKENS - N_STOPS - 2 * len(units)).tolist()
    order = rng.permutation(len(units)).tolist()
    stops = set(rng.choice(len(units) - 1, size=N_STOPS - 1, replace=False).tolist())
    pieces = [units[index] + (STOP if place in stops else "") for place, index in enumerate(order)]
    return " ".join(pieces) + STOP


# --- weights ----------------------------------------------------------------------------------------------------------


def _build(
    truth: PlantedTruth, words: _Words, followers: dict[int, str], d_model: int, rng: np.random.Generator
) -> HookedModel:
    vocabulary = words.vocabulary
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=d_model,
        intermediate_size=8,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=HEAD_WIDTH,
        max_position_embeddings=2 * N_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=BOS,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config)
    embedding = _embedding(truth, words, d_model, rng)
    confusion = next(d for d in range(d_model) if d not in {item.dimension for item in truth.planted})
    embedding[:, confusion] = 0.0
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    weights |= {name: torch.ones_like(value) for name, value in weights.items() if "norm" in name}
    weights["model.embed_tokens.weight"] = embedding
    weights["lm_head.weight"] = _unembedding(truth, words, followers, embedding, confusion)
    _write_sink_head(weights, truth, embedding, confusion)
    model.load_state_dict(weights)
    return wrap(model, _tokenizer(vocabulary), name=f"planted-{truth.seed}")


def _embedding(truth: PlantedTruth, words: _Words, d_model: int, rng: np.random.Generator) -> Float[Tensor, "vocab d"]:
    vocabulary = words.vocabulary
    values = rng.normal(0.0, BACKGROUND, size=(len(vocabulary), d_model))
    values[:, [item.dimension for item in truth.planted]] = 0.0
    for item in truth.planted:
        number = [other for other in truth.planted if other.role == item.role].index(item)
        column = values[:, item.dimension]
        if item.label:
            of_class = [vocabulary[f"Ġ{word}"] for word in words.classes[item.label]]
            size = QUIET if item.role == "quiet" else LARGE
            column[of_class] = size * rng.uniform(0.92, 1.05)
        if item.role == "everywhere":
            column[:] = STEADY * rng.uniform(0.97, 1.03, size=len(column))
        if item.role == "both":
            column[BOS] = -BOTH_AT_FIRST  # opposite sign: the follower is then never predicted at the start
        if item.role == "sink":
            column[BOS] = AT_FIRST * (1 - 0.4 * number)
            column[vocabulary[STOP]] = AT_STOP * number
        column *= item.sign
    values[BOS, [item.dimension for item in truth.planted if item.role == "everywhere"][1]] = 0.0
    return torch.from_numpy(values).float()


def _normalised(embedding: Float[Tensor, "vocab d"]) -> Float[Tensor, "vocab d"]:
    return embedding / embedding.square().mean(dim=1, keepdim=True).sqrt()


def _unembedding(
    truth: PlantedTruth,
    words: _Words,
    followers: dict[int, str],
    embedding: Float[Tensor, "vocab d"],
    confusion: int,
) -> Float[Tensor, "vocab d"]:
    """Each follower reads its dimension, at `LOGIT` after the words of the class; junk reads the confusion."""
    vocabulary, after_norm = words.vocabulary, _normalised(embedding)
    weight = torch.zeros_like(embedding)
    for item in truth.planted:
        if item.dimension in followers:
            of_class = [vocabulary[f"Ġ{word}"] for word in words.classes[item.label]]
            size = after_norm[of_class, item.dimension].mean()
            weight[vocabulary[f"Ġ{followers[item.dimension]}"], item.dimension] = LOGIT / size
    for word in words.junk:
        weight[vocabulary[f"Ġ{word}"], confusion] = 0.4
    return weight


def _write_sink_head(
    weights: dict[str, Tensor], truth: PlantedTruth, embedding: Float[Tensor, "vocab d"], confusion: int
) -> None:
    """Query from the first everywhere dimension, key from the first sink, value from the second everywhere dimension.

    The query is weakest where the rest of the vector is large; it is scaled so that the weakest still gives the first
    position a score of 12 above all others, that is all but e^-12 of the attention per token.
    """
    everywhere = [item for item in truth.planted if item.role == "everywhere"]
    sink = next(item for item in truth.planted if item.role == "sink")
    after_norm = _normalised(embedding)
    weakest = after_norm[len(SPECIALS) :, everywhere[0].dimension].abs().min()
    key = after_norm[BOS, sink.dimension].abs()
    at = HEAD_WIDTH // 2 - 1  # the first half of the slowest pair
    path = f"model.layers.{HEAD_LAYER}.self_attn."
    weights[path + "q_proj.weight"][at, everywhere[0].dimension] = everywhere[0].sign * 12 * HEAD_WIDTH**0.5 / weakest
    weights[path + "k_proj.weight"][at, sink.dimension] = sink.sign / key
    weights[path + "v_proj.weight"][0, everywhere[1].dimension] = everywhere[1].sign
    weights[path + "o_proj.weight"][confusion, 0] = 0.05


def _tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """One token per word, with its leading space."""
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
