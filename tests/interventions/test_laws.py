"""Every method obeys every law on every family; every law fails on an implementation that breaks it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interventions import laws
from tests.interventions.fitted import LAWFUL, model_of, noise, steering_of, strong
from tests.tiny import FAMILIES, tiny_model
from workbench.interventions import (
    ITI,
    Combination,
    ContrastiveAddition,
    CriticalDimensionSteering,
    DirectionalAblation,
    HeadAblation,
    Scope,
    Steering,
    SteeringError,
    StyleHeads,
    load_steering,
    save_steering,
    steer,
)
from workbench.models import Call, HookedModel
from workbench.records import Site

STEERED_LAWS = (
    laws.identity_at_zero,
    laws.restored_after_exit,
    laws.restored_after_exception,
    laws.earlier_tokens_unchanged,
    laws.padded_equals_single,
    laws.cached_equals_uncached,
    laws.change_is_strength_times_delta,
    laws.strength_follows_position,
)

FULL = ("gpt2", "gemma2")  # a LayerNorm model with learned positions, a post-norm model with grouped heads
FEW = ("caa", "sadi-heads", "actadd")  # one that adds, one that scales heads, one that is tied to positions
CASES = [(family, method) for family in FULL for method in LAWFUL]
CASES += [(family, method) for family in FAMILIES if family not in FULL for method in FEW]


@pytest.mark.parametrize("law", STEERED_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("family", "method"), CASES)
def test_law_holds(law: Callable[..., None], family: str, method: str) -> None:
    law(model_of(family), strong(model_of(family), method), steer)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_saved_and_loaded_method_is_the_same(family: str, method: str, tmp_path: Path) -> None:
    laws.save_and_load_keep_delta(model_of(family), steering_of(model_of(family), method), tmp_path)


def addition(model: HookedModel) -> Steering:
    return ContrastiveAddition(noise(model.d_model), 1)


def misfits(model: HookedModel) -> list[Steering]:
    return [
        ContrastiveAddition(noise(model.d_model + 1), 1),
        ContrastiveAddition(noise(model.d_model), model.n_layers),
        CriticalDimensionSteering(noise(1, 2 * model.d_model), (0,), (1,)),
        Combination(()),
        # The first part fits, the second does not: nothing of the first may stay behind.
        Combination(((ContrastiveAddition(noise(model.d_model), 0), 1.0), (ContrastiveAddition(noise(3), 1), 1.0))),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_misfit_raises_and_leaves_no_trace(family: str) -> None:
    model = model_of(family)
    laws.wrong_model_or_no_site_raises(model, addition(model), steer, misfits(model))


# --- planted wrong implementations ------------------------------------------------------------------------------------


def wrongly(
    edit_rule: Callable[[torch.Tensor, torch.Tensor, float, Call, Scope], torch.Tensor],
) -> Callable[..., Any]:
    """A way of steering that cleans up well but edits by another rule (x, delta, strength, call, scope) -> x."""

    @contextmanager
    def wrong_steer(model: HookedModel, steering: Steering, strength: float, scope: Any) -> Iterator[None]:
        scope = scope if isinstance(scope, Scope) else Scope(scope)

        def edit(values: torch.Tensor, site: Site, call: Call) -> torch.Tensor:
            return edit_rule(values, steering.delta(values, site, call.positions), strength, call, scope)

        with model.hooked(dict.fromkeys(steering.sites, edit), editing=True):
            yield

    return wrong_steer


@wrongly
def never_quite_zero(x, delta, strength, call, scope):
    return x + (strength + 1e-3) * delta


@wrongly
def ignores_scope(x, delta, strength, call, scope):
    return x + strength * delta


@wrongly
def counts_columns(x, delta, strength, call, scope):
    columns = torch.arange(x.shape[1]).expand(x.shape[:2])
    return x + strength * scope.mask(Call(columns, call.prompt_lengths))[..., None] * delta


@wrongly
def normalises(x, delta, strength, call, scope):
    moved = x + strength * scope.mask(call)[..., None] * delta
    return moved * x.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)


@wrongly
def counts_columns_for_strengths(x, delta, strength, call, scope):
    columns = torch.arange(x.shape[1]).clamp(max=len(strength) - 1)
    return x + strength[columns][:, None] * delta


class Leaks:
    """Never takes its hooks off."""

    def __init__(self, *arguments: Any) -> None:
        self.handle = steer(*arguments)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


class TidyOnlyWhenAllGoesWell(Leaks):
    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.handle.remove()


@contextmanager
def accepts_anything(*_: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        (laws.identity_at_zero, never_quite_zero),
        (laws.restored_after_exit, Leaks),
        (laws.restored_after_exception, TidyOnlyWhenAllGoesWell),
        (laws.earlier_tokens_unchanged, ignores_scope),
        (laws.padded_equals_single, counts_columns),
        (laws.cached_equals_uncached, counts_columns),
        (laws.change_is_strength_times_delta, normalises),
        (laws.strength_follows_position, counts_columns_for_strengths),
    ],
    ids=lambda value: getattr(value, "__name__", "wrong"),
)
def test_law_fails_on_wrong_implementation(law: Callable[..., None], wrong: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(AssertionError):
        law(model, addition(model), wrong)


def test_negative_strength_takes_back_what_positive_adds() -> None:
    model = model_of("llama")
    steering = addition(model)
    tokens = laws.right(model)
    before = model.logits(tokens)
    with steer(model, steering, 1.3, "all"), steer(model, steering, -1.3, "all"):
        torch.testing.assert_close(model.logits(tokens), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (math.nan, "finite"),
        (torch.tensor([1.0, math.inf]), "one per position"),
        (torch.ones(0), "one per position"),
    ],
)
def test_strengths_that_cannot_be_are_refused(strength: float | torch.Tensor, message: str) -> None:
    model = model_of("llama")
    before = laws.snapshot(model)
    with pytest.raises(ValueError, match=message):
        steer(model, addition(model), strength)
    laws.assert_restored(model, before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda positions: torch.ones(3), "one strength per position"),
        (lambda positions: positions / 0.0, "NaN or infinite"),
    ],
)
def test_functions_of_strengths_are_checked_when_they_answer(function: Callable[..., Any], message: str) -> None:
    model = model_of("llama")
    before = laws.snapshot(model)
    with pytest.raises(ValueError, match=message), steer(model, addition(model), function, "all"):
        model.logits(laws.right(model))
    laws.assert_restored(model, before)


@pytest.mark.parametrize(
    "misfit",
    [
        HeadAblation(((0, 1),), 8),
        StyleHeads(torch.ones(1, 2), 0, (1,), 8),
        ITI(torch.ones(1, 2), ((0, 1),), 8),
        DirectionalAblation(torch.ones(16), 2),
    ],
    ids=lambda steering: type(steering).__name__,
)
def test_as_wide_but_of_another_shape_is_refused(misfit: Steering) -> None:
    """Eight heads of two are as wide as four of four: the width alone does not show the misfit."""
    with pytest.raises(SteeringError, match="but tiny-llama has"):
        steer(model_of("llama"), misfit)


def test_a_combination_of_combinations_is_saved_and_wrong_parts_are_refused(tmp_path: Path) -> None:
    model = model_of("llama")
    inner = strong(model, "combination")
    outer = Combination(((inner, 0.5), (HeadAblation(((1, 0),), model.n_heads), -3.0)))
    laws.save_and_load_keep_delta(model, outer, tmp_path)
    with pytest.raises(SteeringError, match="holds a HeadAblation"):
        load_steering(tmp_path / "artefact.safetensors", model, (ContrastiveAddition, CriticalDimensionSteering))


def test_saving_in_half_precision_breaks_the_law(tmp_path: Path) -> None:
    model = model_of("llama")

    def rounding_save(path: Path, steering: ContrastiveAddition, *rest: Any, **options: Any) -> None:
        rounded = ContrastiveAddition(steering.direction.bfloat16().float(), steering.layer)
        save_steering(path, rounded, *rest, **options)

    with pytest.raises(AssertionError):
        laws.save_and_load_keep_delta(model, addition(model), tmp_path, rounding_save)


def test_accepting_misfits_breaks_the_law() -> None:
    model = model_of("llama")
    with pytest.raises(pytest.fail.Exception):
        laws.wrong_model_or_no_site_raises(model, addition(model), accepts_anything, misfits(model))
