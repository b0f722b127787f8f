"""Time and memory, estimated before the long part begins: counts from plans, speeds from timed passes of each kind.

A plan says how many passages are run in which kind of pass; every kind that it holds is timed as it will be run, more
than once after a warm-up, on passages whose lengths are those of the corpus. On a busy machine the estimate is for a
machine that stays as busy.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.activations import batches, capture
from workbench.masking.attribution import estimate_masking
from workbench.masking.measure import mask_dimensions
from workbench.models import HookedModel
from workbench.models.batches import BATCH_SIZE, GENERATION_ROWS, LOGITS_BYTES
from workbench.records import Prompt
from workbench.tasks.scoring import continuations

PassKind = Literal["read", "masked", "gradient", "generated"]
N_TIMED = 32  # passages that are timed
MIN_SECONDS = 2.0  # every kind of pass is timed at least so long
MIN_RUNS, MAX_RUNS = 2, 8
N_NEW = 16  # tokens generated per timed prompt


@dataclass(frozen=True)
class Estimate:
    """What a job will take: seconds on this machine as busy as it is now, and bytes of memory at the peak."""

    seconds: float
    memory_bytes: int


def masking_passages(steps: Mapping[str, float]) -> dict[PassKind, float]:
    """Passages by kind of pass of the steps of `planned_costs`; estimates run forward and backward."""
    gradient = sum(n for step, n in steps.items() if step.startswith("estimate"))
    return {"masked": sum(steps.values()) - gradient, "gradient": gradient}


def seconds_of(
    model: HookedModel,
    prompts: Sequence[Prompt],
    passages: Mapping[PassKind, float],
    *,
    batch_size: int = BATCH_SIZE,
    truncate: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of so many passages in each kind of pass.

    `read`: activations of all layers are read. `masked`: one dimension is masked and the loss taken. `gradient`: the
    same with a backward pass, which counts as two more. `generated`: tokens, not passages.
    """
    sample = typical(prompts)

    def read() -> float:
        for _, tokens in batches(model, sample, batch_size=batch_size, truncate=truncate):
            capture(model, tokens, model.residual_sites())
        return float(len(sample))

    def masked() -> float:
        few = sample[len(sample) // 4 :: max(1, len(sample) // 2)]
        dimensions = range(min(model.d_model, BATCH_SIZE))
        mask_dimensions(model, few, dimensions, truncate=truncate)
        return float(len(few) * (1 + len(dimensions)))

    def gradient() -> float:
        few = sample[len(sample) // 8 :: max(1, len(sample) // 4)]
        estimate_masking(model, few, n_groups=1, n_points=1, truncate=truncate)
        return 3.0 * len(few)

    def generated() -> float:
        texts = [" ".join(prompt.text.split()[:3]) for prompt in sample] * (GENERATION_ROWS // 2 // len(sample))
        continuations(model, texts, n_tokens=N_NEW)
        return float(N_NEW * len(texts))

    runs: dict[PassKind, Callable[[], float]] = {
        "read": read,
        "masked": masked,
        "gradient": gradient,
        "generated": generated,
    }
    return sum(n * seconds_each(runs[kind], clock=clock) for kind, n in passages.items() if n)


def seconds_each(run: Callable[[], float], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds per unit of `run`, which returns how many units it did: warmed up, then repeated for some seconds."""
    run()
    started, done, n_runs = clock(), 0.0, 0
    while n_runs < MIN_RUNS or (n_runs < MAX_RUNS and clock() - started < MIN_SECONDS):
        done += run()
        n_runs += 1
    return (clock() - started) / done


def typical(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Some passages whose lengths are spread as those of all."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.text))
    n = min(N_TIMED, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * n)] for index in range(n)]


def memory_of(model: HookedModel, prompts: Sequence[Prompt], *, n_columns: int, batch_size: int = BATCH_SIZE) -> int:
    """Bytes at the peak: weights, one batch at every layer, columns kept at every token, logits of one pass."""
    weights = sum(parameter.nbytes for parameter in model.hf_model.parameters())
    length = max(len(prompt.text) for prompt in prompts) / sum(len(prompt.text) for prompt in prompts)
    n_corpus = mean_length(model, prompts) * len(prompts)
    batch = batch_size * min(model.context_length, length * n_corpus) * model.d_model * (model.n_layers + 8) * 4
    return weights + round(4 * n_corpus * n_columns + max(batch, 2 * LOGITS_BYTES))


def mean_length(model: HookedModel, prompts: Sequence[Prompt]) -> float:
    """Tokens per passage, from some of them."""
    sample = typical(prompts)
    n_tokens = int(model.tokenize([prompt.text for prompt in sample], truncate=True).lengths.sum())
    return n_tokens / sum(len(p.text) for p in sample) * sum(len(p.text) for p in prompts) / len(prompts)
