"""Time and memory of a study, foretold from one timed batch and from counts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.activations import batches, capture
from workbench.comparison.presets import plan
from workbench.models import HookedModel
from workbench.records import Prompt

N_TIMED = 32  # passages in the timed batch
BYTES_PER_PARAMETER = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


@dataclass(frozen=True)
class Estimate:
    """What a study will take: seconds on this machine as busy as it is now, and bytes of memory at the peak."""

    seconds: float
    memory_bytes: int


def estimate_study(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    *,
    kl_levels: Sequence[float],
    preset: str,
    n_columns: int,
    n_masked: float,
    batch_size: int,
    truncate: bool,
) -> Estimate:
    """Two passes over the corpus, the steering comparison and `n_masked` masked passes of one passage each, at the
    speed of one batch that is run twice.

    Good to a factor of about two: generation runs smaller batches, and detectors are scored on the processor.
    """
    sample = _sample(prompts)
    n_sampled, n_padded, seconds = _timed_batch(model, sample, batch_size, truncate)
    tokens_per_character = n_sampled / sum(len(prompt.text) for prompt in sample)
    n_corpus = tokens_per_character * sum(len(prompt.text) for prompt in prompts)
    comparison = plan(model, prompts, neutral, kl_levels=kl_levels, preset=preset)
    steps = seconds / n_sampled * (2 * n_corpus + comparison.n_tokens + n_masked * n_corpus / len(prompts))
    weights = sum(parameter.numel() for parameter in model.hf_model.parameters()) * BYTES_PER_PARAMETER[model.dtype]
    batch = n_padded * model.d_model * (model.n_layers + 8) * 4
    kept = 4 * round(n_corpus) * n_columns
    return Estimate(steps, weights + kept + max(batch, comparison.memory_bytes))


def seconds_per_passage(
    model: HookedModel, prompts: Sequence[Prompt], *, batch_size: int = 32, truncate: bool = False
) -> float:
    """Seconds of one forward pass of a passage of typical length, from one batch that is run twice."""
    sample = _sample(prompts)
    return _timed_batch(model, sample, batch_size, truncate)[2] / len(sample)


def _sample(prompts: Sequence[Prompt]) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: len(prompt.text))[len(prompts) // 2 :][:N_TIMED]


def _timed_batch(
    model: HookedModel, sample: Sequence[Prompt], batch_size: int, truncate: bool
) -> tuple[int, int, float]:
    """Real tokens of the sample, places of its largest batch, and the seconds of its second run."""
    sites = model.residual_sites()
    n_sampled, n_padded, seconds = 0, 0, 0.0
    for _, tokens in batches(model, sample, batch_size=batch_size, truncate=truncate):
        capture(model, tokens, sites)
        started = time.perf_counter()
        capture(model, tokens, sites)
        seconds += time.perf_counter() - started
        n_sampled += int(tokens.mask.sum())
        n_padded = max(n_padded, tokens.ids.numel())
    return n_sampled, n_padded, seconds
