"""Generation refuses what has no meaning, and raises where a steered model no longer computes with numbers."""

import math

import pytest
import torch

from tests.tiny import tiny_model
from workbench.interventions import ContrastiveAddition, SteeringError, steer
from workbench.interventions.base import Combination
from workbench.models import ModelError
from workbench.records import Site


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict, message: str) -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(["the court"], side="left")
    with pytest.raises(ModelError, match=message):
        model.generate(tokens, **{"max_new_tokens": 2} | options)
    assert model.generate(tokens, max_new_tokens=2, seed=2**32 - 1, temperature=1.0) is not None


@pytest.mark.parametrize("strength", [1e23, -1e23, 1e30, torch.tensor([0.0, 1e23])])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_strength_that_overflows_is_refused(strength: float | torch.Tensor, family: str) -> None:
    model = tiny_model(family)
    steering = ContrastiveAddition(torch.ones(16), 1)
    for one in (steering, Combination(((steering, 1.0),))):
        with pytest.raises(SteeringError, match="choose a smaller strength"):
            steer(model, one, strength)
    with steer(model, steering, 1e6):  # absurd, but finite: the user's business
        assert model.logits(model.tokenize(["the court"])).isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_raise(value: float, temperature: float) -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(["the court"], side="left")
    with (
        model.hooked({Site("resid_post", 2): lambda values, *_: torch.full_like(values, value)}, editing=True),
        pytest.raises(ModelError, match="NaN or infinite in float32"),
    ):
        model.generate(tokens, max_new_tokens=3, temperature=temperature)


def test_a_template_without_a_system_role_is_one_line() -> None:
    model = tiny_model("llama")
    model.tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ message['content'] }}{% endfor %}"
    )
    assert model.tokenize_chat("the court") == "the court"
    with pytest.raises(ModelError, match=r"refuses this exchange \(no system role\); leave the system message out"):
        model.tokenize_chat("the court", system="it was")
