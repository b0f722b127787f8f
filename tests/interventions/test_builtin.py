"""The laws on the built-in model: some for every method here, all of them in the slow run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.interventions import laws
from tests.interventions.fitted import LAWFUL, steering_of, strong
from tests.interventions.test_laws import STEERED_LAWS
from workbench.interventions import steer
from workbench.models import HookedModel, load_model

QUICK = (laws.change_is_strength_times_delta, laws.earlier_tokens_unchanged)


@cache
def builtin() -> HookedModel:
    return load_model()


@pytest.mark.parametrize("law", QUICK, ids=lambda law: law.__name__)
@pytest.mark.parametrize("method", LAWFUL)
def test_law_holds(law: Callable[..., None], method: str) -> None:
    law(builtin(), strong(builtin(), method), steer)


@pytest.mark.slow
@pytest.mark.parametrize("law", [law for law in STEERED_LAWS if law not in QUICK], ids=lambda law: law.__name__)
@pytest.mark.parametrize("method", LAWFUL)
def test_every_other_law_holds(law: Callable[..., None], method: str) -> None:
    law(builtin(), strong(builtin(), method), steer)


@pytest.mark.parametrize("method", ["caa", "austeer-heads", "style-heads", "activation-scaling"])
def test_saved_and_loaded_method_is_the_same(method: str, tmp_path: Path) -> None:
    laws.save_and_load_keep_delta(builtin(), steering_of(builtin(), method), tmp_path)
