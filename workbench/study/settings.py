"""What a study is asked to do: presets, settings, and the model and the passages they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from workbench.behaviours import load_behaviours
from workbench.corpus import load_corpus
from workbench.masking.measure import choice_items
from workbench.models import HookedModel, load_model
from workbench.planted import PlantedTruth, planted_model
from workbench.records import ChoiceItem, Prompt
from workbench.schema import Count, Name, Seed, checked

PLANTED = "planted"


@dataclass(frozen=True)
class Preset:
    """How much work a study does; written into its manifest.

    `documents_per_domain` None takes all; `masking` names the plan of the criticality experiment; `is_thorough` tests
    labels on held-out passages and selects again under other conditions.
    """

    name: str
    documents_per_domain: int | None
    n_top: int
    kl_levels: tuple[float, ...]
    masking: str
    is_thorough: bool = True


PRESETS = {
    "full": Preset("full", documents_per_domain=None, n_top=20, kl_levels=(0.03, 0.1, 0.3), masking="full"),
    "quick": Preset("quick", documents_per_domain=60, n_top=10, kl_levels=(0.1,), masking="quick", is_thorough=False),
}


@checked()
class Settings:
    """What a study was asked to do."""

    model: Name = "builtin"
    corpus: str | Path = "builtin"
    domains: tuple[Name, ...] | None = None
    k: Count = 8
    seed: Seed = 0
    device: Name = "cpu"
    dtype: Name = "float32"
    preset: str = "full"
    batch_size: Count = 32
    truncate: bool = False
    allow_download: bool = False
    max_characters: Count = 1500
    attention: Name = "auto"
    bos: Name = "auto"
    shown_as: str = ""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.model == PLANTED and str(self.corpus) not in ("builtin", PLANTED):
            raise ValueError("the planted model knows only the words of its own text; leave --corpus out")
        if self.model == PLANTED and (self.attention, self.bos, self.shown_as) != ("auto", "auto", ""):
            raise ValueError("the planted model takes no --attention, --bos or --name; leave them out")
        if self.model != PLANTED and str(self.corpus) == PLANTED:
            raise ValueError("the planted text belongs to the planted model; say --model planted")


def open_model(settings: Settings) -> HookedModel:
    """Load the model of the settings and check that k fits it."""
    if settings.model == PLANTED:
        model = _planted(settings.seed)[0]
    else:
        model = load_model(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            allow_download=settings.allow_download,
            attention=settings.attention,
            bos=settings.bos,
            shown_as=settings.shown_as,
        )
    if settings.k > model.d_model:
        raise ValueError(
            f"k is {settings.k}, but {model.name} has {model.d_model} residual dimensions; choose a smaller k"
        )
    return model


def load_passages(settings: Settings, model: HookedModel | None = None) -> list[Prompt]:
    """The passages of the corpus; documents are cut so that a passage fits the model.

    A token stands for at least one character in nearly all text, so a passage has fewer characters than the context has
    tokens; what is still too long raises when it is tokenised, unless truncation was asked for.
    """
    if settings.model == PLANTED:
        return _choose_domains(_planted(settings.seed)[1], settings.domains)
    longest = settings.max_characters if model is None else min(settings.max_characters, model.context_length - 1)
    return load_corpus(
        settings.corpus,
        domains=settings.domains,
        seed=settings.seed,
        limit=PRESETS[settings.preset].documents_per_domain,
        max_characters=longest,
        allow_download=settings.allow_download,
    )


def exam_items(settings: Settings) -> list[ChoiceItem]:
    """The exam that ships with the built-in model, written in its chat format; no items for other models."""
    return choice_items(load_behaviours("exam")) if settings.model == "builtin" else []


def planted_truth(settings: Settings) -> PlantedTruth | None:
    """What was planted in the model of the settings; None for models that were trained."""
    return _planted(settings.seed)[2] if settings.model == PLANTED else None


@lru_cache(maxsize=1)
def _planted(seed: int) -> tuple[HookedModel, list[Prompt], PlantedTruth]:
    return planted_model(seed)


def _choose_domains(prompts: Sequence[Prompt], domains: Sequence[str] | None) -> list[Prompt]:
    known = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    unknown = [domain for domain in domains or () if domain not in known]
    if unknown:
        raise ValueError(f"unknown domain {unknown[0]!r}; choose from {', '.join(known)}")
    return [prompt for prompt in prompts if domains is None or prompt.domain in domains]
