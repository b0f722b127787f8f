"""Estimates from counts and timed passes, with a clock that the timed work itself moves."""

import numpy as np
import pytest

from tests.tiny import tiny_model
from workbench import costs
from workbench.costs import masking_passages, mean_length, memory_of, seconds_each, seconds_of, typical
from workbench.records import Prompt

TEXT = "the court and the river "


def prompts(n: int = 8, repeat: int = 3) -> list[Prompt]:
    return [Prompt(TEXT * repeat, "law", f"law/{index}", "identify") for index in range(n)]


def test_seconds_per_unit_leave_out_the_warm_up_and_average_the_rest() -> None:
    now, durations = [0.0], iter([100.0, 1.0, 3.0, 0.5])

    def run() -> float:
        now[0] += next(durations)
        return 2.0

    assert seconds_each(run, clock=lambda: now[0]) == (1.0 + 3.0) / 4.0  # after 4 seconds that is enough


def test_every_kind_of_pass_counts_at_its_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"read": 1.0, "masked": 10.0, "gradient": 100.0, "generated": 1000.0}
    monkeypatch.setattr(costs, "seconds_each", lambda run, **_: speeds[run.__name__])
    model = tiny_model()
    passages = {"read": 3.0, "masked": 0.5, "gradient": 2.0, "generated": 0.0}
    assert seconds_of(model, prompts(), passages) == 3.0 + 5.0 + 200.0
    assert masking_passages({"estimate zero": 6.0, "identify zero": 4.0, "test mean": 1.0}) == {
        "masked": 5.0,
        "gradient": 6.0,
    }


def test_timed_passes_run_on_any_model_and_are_longer_where_there_are_more() -> None:
    model, now = tiny_model(), [0.0]
    count = model.hf_model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
    reads = model.hf_model.base_model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
    try:
        clock = lambda: now[0]  # noqa: E731
        one, two = (seconds_of(model, prompts(), {"gradient": n, "read": n}, clock=clock) for n in (1.0, 2.0))
    finally:
        count.remove()
        reads.remove()
    assert two == pytest.approx(2 * one)
    assert one > 0


def test_timed_passages_have_the_lengths_of_all() -> None:
    of_lengths = [Prompt("x " * n, "law", f"law/{n}", "identify") for n in range(1, 1001)]
    lengths = [len(prompt.text) for prompt in typical(of_lengths)]
    assert len(lengths) == costs.N_TIMED
    assert np.mean(lengths) == pytest.approx(np.mean([len(prompt.text) for prompt in of_lengths]), rel=0.01)


def test_memory_grows_by_the_columns_that_are_kept() -> None:
    model = tiny_model()
    n_tokens = int(model.tokenize([TEXT * 3]).lengths[0])
    assert mean_length(model, prompts(32)) == n_tokens
    narrow, wide = (memory_of(model, prompts(32), n_columns=n) for n in (0, 10))
    assert wide - narrow == 10 * 4 * 32 * n_tokens
