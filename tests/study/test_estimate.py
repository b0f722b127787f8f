"""The estimate of a study against a hand-worked number, with a clock that advances one second per look."""

import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from workbench.comparison.presets import plan
from workbench.costs import estimate_study
from workbench.models import load_model
from workbench.records import Prompt

TEXT = "the court and the river "


def test_time_is_that_of_the_timed_batch_per_token(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(tiny_model_folder))
    prompts = [Prompt(TEXT * 3, "law", f"law/{index}", "identify") for index in range(32)]
    n_tokens = int(model.tokenize([TEXT * 3]).lengths[0])
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    options: dict[str, Any] = {
        "n_masked": 0.0,
        "kl_levels": (0.1,),
        "preset": "quick",
        "batch_size": 32,
        "truncate": False,
    }
    estimate = estimate_study(model, prompts, prompts, n_columns=0, **options)
    steering = plan(model, prompts, prompts, kl_levels=(0.1,), preset="quick").n_tokens
    # 16 of the 32 passages are timed, in one batch that takes one second; the corpus is run twice
    assert estimate.seconds == pytest.approx((2 * 32 * n_tokens + steering) / (16 * n_tokens))
    masked = estimate_study(model, prompts, prompts, n_columns=0, **(options | {"n_masked": 8.0}))
    assert masked.seconds - estimate.seconds == pytest.approx(8 / 16)
    wide = estimate_study(model, prompts, prompts, n_columns=10, **options)
    assert wide.memory_bytes - estimate.memory_bytes == 10 * 4 * 32 * n_tokens
