"""Every method obeys every law on every family; every law fails on an implementation that breaks it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interventions import laws
from tests.tiny import FAMILIES, tiny_model
from workbench.interventions import (
    ITI,
    SADI,
    ActAdd,
    ActivationScaling,
    AUSteer,
    Combination,
    ContrastiveAddition,
    CriticalDimensionSteering,
    DirectionalAblation,
    DynScalar,
    HeadAblation,
    Scope,
    Steering,
    SteeringError,
    SteerVec,
    StyleHeads,
    save_steering,
    steer,
)
from workbench.models import Call, HookedModel
from workbench.records import Site


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_units(width: int, chosen: tuple[tuple[int, int], ...], value: float) -> torch.Tensor:
    """Two layers of zeros with `value` at the chosen (row, unit), the second of them negative."""
    gain = torch.zeros(2, width)
    for sign, place in zip((1, -1, 1), chosen, strict=True):
        gain[place] = sign * value
    return gain


UNITS = ((0, 1), (0, 7), (1, 3))
MAKERS: dict[str, Callable[[HookedModel], Steering]] = {
    "cds": lambda model: CriticalDimensionSteering(noise(2, model.d_model), (0, 2), (1, 5, 7)),
    "whole-dimension": lambda model: ContrastiveAddition(noise(model.d_model), 1),
    "austeer z": lambda model: AUSteer(some_units(model.n_heads * model.d_head, UNITS, 5.0), "z", (0, 2)),
    "austeer mlp": lambda model: AUSteer(
        some_units(model.d_model, UNITS, 5.0), "mlp_raw", (0, 1), "momentum_consistent"
    ),
    "actadd": lambda model: ActAdd(noise(6, model.d_model), 1),
    "ablation": lambda model: DirectionalAblation(noise(model.d_model), model.n_layers),
    "addition": lambda model: ContrastiveAddition(noise(model.d_model), 1, "resid_pre"),
    "iti": lambda model: ITI(noise(3, model.d_head), ((0, 1), (2, 3), (2, 0)), model.n_heads),
    "sadi": lambda model: SADI(some_units(model.d_model, UNITS, 1.0).abs(), "mlp_raw", (0, 1)),
    "whole-dimension attn": lambda model: ContrastiveAddition(noise(model.d_model), 1, "attn_out"),
    "style heads": lambda model: StyleHeads(noise(2, model.d_head), 1, (3, 0), model.n_heads),
    "head ablation": lambda model: HeadAblation(((0, 1), (2, 3)), model.n_heads),
    "activation-scaling": lambda model: ActivationScaling(noise(3, 48), ("attn_out.0", "mlp_out.0", "mlp_out.2")),
    "steer vec": lambda model: SteerVec(noise(2, 48, model.d_model), ("mlp_out.0", "attn_out.2")),
    "dyn scalar": lambda model: DynScalar(noise(2, model.d_model), ("attn_out.1", "mlp_out.1")),
    "both": lambda model: Combination(
        (
            (ContrastiveAddition(noise(model.d_model), 1), 1.0),
            (CriticalDimensionSteering(noise(2, model.d_model, seed=1), (1, 2), (0, 3)), -2.0),
        )
    ),
}
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

model_of = cache(tiny_model)


@pytest.mark.parametrize("law", STEERED_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_law_holds(law: Callable[..., None], method: str, family: str) -> None:
    model = model_of(family)
    law(model, MAKERS[method](model), steer)


@pytest.mark.parametrize("method", [name for name in MAKERS if name != "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_method_is_the_same(method: str, family: str, tmp_path: Path) -> None:
    model = model_of(family)
    laws.save_and_load_keep_delta(model, MAKERS[method](model), tmp_path)


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
    laws.wrong_model_or_no_site_raises(model, MAKERS["whole-dimension"](model), steer, misfits(model))


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
        law(model, MAKERS["whole-dimension"](model), wrong)


def test_negative_strength_takes_back_what_positive_adds() -> None:
    model = model_of("llama")
    steering = MAKERS["whole-dimension"](model)
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
        steer(model, MAKERS["whole-dimension"](model), strength)
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
    with pytest.raises(ValueError, match=message), steer(model, MAKERS["whole-dimension"](model), function, "all"):
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


def test_a_combination_is_saved_part_by_part(tmp_path: Path) -> None:
    model = model_of("llama")
    with pytest.raises(SteeringError, match="save its parts"):
        save_steering(tmp_path / "both.safetensors", MAKERS["both"](model), model)


def test_saving_in_half_precision_breaks_the_law(tmp_path: Path) -> None:
    model = model_of("llama")

    def rounding_save(path: Path, steering: ContrastiveAddition, *rest: Any, **options: Any) -> None:
        rounded = ContrastiveAddition(steering.direction.bfloat16().float(), steering.layer)
        save_steering(path, rounded, *rest, **options)

    with pytest.raises(AssertionError):
        laws.save_and_load_keep_delta(model, MAKERS["whole-dimension"](model), tmp_path, rounding_save)


def test_accepting_misfits_breaks_the_law() -> None:
    model = model_of("llama")
    with pytest.raises(pytest.fail.Exception):
        laws.wrong_model_or_no_site_raises(model, MAKERS["whole-dimension"](model), accepts_anything, misfits(model))
