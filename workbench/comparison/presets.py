"""How much work a steering comparison does, chosen by a preset and known before it starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.comparison.arms import spread_layers
from workbench.models import HookedModel
from workbench.models.batches import GENERATION_ROWS, LOGITS_BYTES, rows_with_logits
from workbench.records import Prompt
from workbench.tasks.metrics import REFERENCE_BYTES

EVALUATIONS_PER_SEARCH = 2.5  # typical number of strengths tried until KL is within 10 % of the target


@dataclass(frozen=True)
class Preset:
    """Sizes of a comparison. Passages are cut after `n_tokens` tokens, neutral ones after `n_neutral_tokens`.

    `layers` are searched in every arm; where it is None, `n_layers` layers spread over the depth (None: all). Counts of
    passages are upper limits, those of `n_tune`, `n_test` and `n_own_text` per domain.
    """

    n_neutral: int = 24
    n_neutral_tokens: int = 24
    n_tune: int = 24
    n_test: int = 48
    n_tokens: int = 32
    layers: tuple[int, ...] | None = None
    n_layers: int | None = None
    n_random: int = 5
    n_generations: int = 60
    n_prompt_tokens: int = 5
    n_new_tokens: int = 32
    n_own_text: int = 24
    n_own_prompt_tokens: int = 12

    def layers_of(self, model: HookedModel) -> tuple[int, ...]:
        """The layers to search; raises if one is out of range."""
        if self.layers is None:
            return spread_layers(self.n_layers or model.n_layers, model.n_layers)
        wrong = [layer for layer in self.layers if not 0 <= layer < model.n_layers]
        if wrong or not self.layers:
            raise ValueError(
                f"layers {wrong or '()'} cannot be searched; {model.name} has layers 0 to {model.n_layers - 1}, "
                "and None takes all"
            )
        return self.layers


PresetName = Literal["full", "quick"]
PRESETS: dict[str, Preset] = {
    "full": Preset(),
    "quick": Preset(
        n_neutral=8,
        n_tune=12,
        n_test=24,
        n_tokens=24,
        n_layers=3,
        n_random=3,
        n_generations=24,
        n_new_tokens=24,
        n_own_text=4,
    ),
}


def preset_of(preset: Preset | PresetName | str) -> Preset:
    """A preset by name, or the preset itself."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}, or pass a Preset")
    return PRESETS[preset]


@dataclass(frozen=True)
class Plan:
    """What a comparison will cost: token positions run through the model and passes, generation steps included.

    `memory_bytes` is what it holds besides the model and its KV cache: logits of one pass, and the unsteered
    predictions. Multiply `n_tokens` by the measured seconds per token to estimate the time.
    """

    n_arms: int
    n_layers: int
    n_tokens: int
    n_passes: int
    n_generated: int
    memory_bytes: int


def plan(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    *,
    kl_levels: Sequence[float] = (0.03, 0.1, 0.3),
    preset: Preset | PresetName | str = "full",
    n_selections: int = 3,
) -> Plan:
    """An estimate of `measure_steering` from counts alone; nothing is run or tokenised."""
    sizes = preset_of(preset)
    n_layers, n_levels = len(sizes.layers_of(model)), len(kl_levels)
    n_arms = n_selections + 2 + sizes.n_random
    domains = list(dict.fromkeys(prompt.domain for prompt in prompts))
    n_neutral, n_openings = min(sizes.n_neutral, len(neutral)), min(sizes.n_generations, len(neutral))
    n_tune, n_test = (
        sum(min(limit, sum((p.domain, p.split) == (domain, split) for p in prompts)) for domain in domains)
        for split, limit in (("tune", sizes.n_tune), ("test", sizes.n_test))
    )
    searches = len(domains) * n_arms * n_levels * n_layers
    groups = (  # rows and positions of what is run through the model without generating
        (n_neutral * (1 + searches * EVALUATIONS_PER_SEARCH), sizes.n_neutral_tokens + 1),
        (n_tune * n_arms * n_levels * n_layers + n_test * (1 + n_arms * n_levels), sizes.n_tokens + 1),
    )
    generations = n_openings * (1 + len(domains) * n_arms * n_levels) + min(sizes.n_own_text * len(domains), n_test)
    calls = 2 + len(domains) * n_levels * math.ceil(n_arms * n_openings / GENERATION_ROWS)
    reference = 4 * n_neutral * (sizes.n_neutral_tokens + 1) * model.vocabulary_size
    return Plan(
        n_arms=n_arms * len(domains),
        n_layers=n_layers,
        n_tokens=round(sum(rows * positions for rows, positions in groups))
        + generations * (sizes.n_prompt_tokens + 1 + sizes.n_new_tokens),
        n_passes=sum(math.ceil(rows / max(1, rows_with_logits(model)(positions))) for rows, positions in groups)
        + calls * sizes.n_new_tokens,
        n_generated=generations * sizes.n_new_tokens,
        memory_bytes=2 * LOGITS_BYTES + min(reference, REFERENCE_BYTES),
    )
