"""What a steering costs per generated token, in tensor operations: a bound that no machine disturbs."""

from collections.abc import Callable

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tests.interventions.fitted import LAWFUL, model_of, noise, steering_of
from tests.tiny import tiny_model
from workbench.interventions import ActAdd, ActivationScaling, DirectionalAblation, Steering, SteerVec, Where, steer
from workbench.models import HookedModel

PER_PASS = 10  # positions, scope and count of the tokens, once however many sites there are
PER_SITE = 7  # one of them the copy that keeps a method from writing to the activations
NAMES = ("mlp_out.0", "attn_out.2")


class Operations(TorchDispatchMode):
    """Counts operations that compute something; views are free."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aliases = [argument.alias_info for argument in func._schema.arguments]
        self.n += not any(alias is not None and not alias.is_write for alias in aliases)
        return func(*args, **(kwargs or {}))


def per_token(model: HookedModel) -> float:
    """Operations of one more token in cached generation."""
    tokens = model.tokenize(["the court shall sum", "it was"], side="left")
    counts = []
    for n_tokens in (3, 7):
        with Operations() as operations:
            model.generate(tokens, max_new_tokens=n_tokens)
        counts.append(operations.n)
    return (counts[1] - counts[0]) / 4


def extra(model: HookedModel, steering: Steering, where: Where) -> float:
    plain = per_token(model)
    with steer(model, steering, 1.0, where):
        return per_token(model) - plain


@pytest.mark.parametrize("method", LAWFUL)
def test_a_token_costs_few_operations_per_site(method: str) -> None:
    model = model_of("llama")
    steering = steering_of(model, method)
    cost = extra(model, steering, "all")
    assert cost <= PER_PASS + PER_SITE * len(steering.sites), f"{cost} operations for {len(steering.sites)} sites"


@pytest.mark.parametrize(
    "make",
    [
        lambda model: ActAdd(noise(4, model.d_model), 1),
        lambda model: ActivationScaling(noise(2, 4), NAMES),
        lambda model: SteerVec(noise(2, 4, model.d_model), NAMES),
    ],
    ids=["actadd", "activation scaling", "steer vec"],
)
def test_positions_beyond_reach_cost_nothing_per_site(make: Callable[[HookedModel], Steering]) -> None:
    model = tiny_model("llama")
    assert extra(model, make(model), "all") <= PER_PASS


def test_a_scope_without_generated_tokens_costs_nothing_per_site() -> None:
    model = tiny_model("llama")
    assert extra(model, DirectionalAblation(noise(model.d_model), model.n_layers), "last_prompt") <= PER_PASS
