"""The laws of steering as functions: each raises AssertionError where an implementation breaks it.

A law receives the way of steering (`steer` or a planted wrong one), so that the same law that the library passes can be
seen to fail.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.activations import capture
from workbench.interventions import Scope, Steering, SteeringError, load_steering, save_steering
from workbench.models import HookedModel
from workbench.records import Site, Tokens

Steer = Callable[..., Any]
TEXTS = ["the court shall sum the cell .", "it was a river", "x is y and the court's sum is a river of the cell ."]
SCOPES = ("all", "all_but_first", "prompt", "last_prompt", "generated", "from_last_prompt", (0, 2), Scope("all", (1,)))


def right(model: HookedModel) -> Tokens:
    return model.tokenize(TEXTS)


def snapshot(model: HookedModel) -> tuple[Tensor, int]:
    """Logits, and the number of hooks on the model."""
    hooks = sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in model.bridge.hook_dict.values())
    hooks += len(model.hf_model.base_model._forward_pre_hooks)
    return model.logits(right(model)), hooks


def assert_restored(model: HookedModel, before: tuple[Tensor, int]) -> None:
    logits, hooks = snapshot(model)
    assert hooks == before[1], "hooks were left on the model"
    assert torch.equal(logits, before[0]), "the model computes something else than before"


def identity_at_zero(model: HookedModel, steering: Steering, steer: Steer) -> None:
    before = model.logits(right(model))
    with steer(model, steering, 0.0, "all"):
        assert torch.equal(model.logits(right(model)), before)


def restored_after_exit(model: HookedModel, steering: Steering, steer: Steer) -> None:
    before = snapshot(model)
    with steer(model, steering, 1.5, "all"):
        changed = model.logits(right(model))
    assert not torch.equal(changed, before[0]), "the steering did nothing, so nothing could be restored"
    assert_restored(model, before)


def restored_after_exception(model: HookedModel, steering: Steering, steer: Steer) -> None:
    before = snapshot(model)
    with pytest.raises(KeyError), steer(model, steering, 1.0, "all"), steer(model, steering, -2.0, "all"):
        raise KeyError("inside two steerings")
    assert_restored(model, before)


def earlier_tokens_unchanged(model: HookedModel, steering: Steering, steer: Steer) -> None:
    tokens = right(model)
    before = model.logits(tokens)
    with steer(model, steering, 2.0, (3,)):
        after = model.logits(tokens)
    assert torch.equal(after[:, :3], before[:, :3])
    assert not torch.equal(after[:, 3], before[:, 3])


def padded_equals_single(model: HookedModel, steering: Steering, steer: Steer) -> None:
    for scope in SCOPES:
        for side in ("left", "right"):
            tokens = model.tokenize(TEXTS, side=side)
            with steer(model, steering, 1.0, scope):
                batch = model.logits(tokens)
                for index, text in enumerate(TEXTS):
                    single = model.logits(model.tokenize([text]))[0]
                    close = torch.allclose(batch[index][tokens.mask[index]], single, atol=1e-4, rtol=1e-4)
                    assert close, f"row {index} differs from the row alone, {side} padding, scope {scope}"


def cached_equals_uncached(model: HookedModel, steering: Steering, steer: Steer) -> None:
    tokens = model.tokenize(TEXTS, side="left")
    plain = model.generate(tokens, max_new_tokens=8)
    n_changed = 0
    for scope in SCOPES:
        with steer(model, steering, 1.0, scope):
            cached = model.generate(tokens, max_new_tokens=8)
            uncached = model.generate(tokens, max_new_tokens=8, use_cache=False)
        assert cached == uncached, f"generation with and without cache differ in scope {scope}"
        n_changed += cached != plain
    assert n_changed > 0, "no scope changed the generated text, so the law was not put to the test"


def first_site(steering: Steering) -> Site:
    """The site that a forward pass meets first, where the activation is still the unedited one."""
    order = ("resid_pre", "z", "attn_raw", "attn_out", "mlp_raw", "mlp_out", "resid_post")
    return min(steering.sites, key=lambda site: (site.layer, order.index(site.kind)))


def change_is_strength_times_delta(model: HookedModel, steering: Steering, steer: Steer) -> None:
    tokens = right(model)
    first = first_site(steering)
    before = capture(model, tokens, [first])[0]
    with steer(model, steering, -0.7, "all_but_first"):
        # Hooks run in the order in which they were set: the capture inside the block sees the edited value.
        after = capture(model, tokens, [first])[0]
    expected = -0.7 * steering.delta(before, first, tokens.positions)
    edited = tokens.positions >= 1
    assert expected[edited].abs().max() > 1e-3
    rounding = 2e-5 + 1e-6 * float(before.abs().max())  # of the sum, not of the edit
    torch.testing.assert_close((after - before)[edited], expected[edited], atol=rounding, rtol=1e-4)
    assert torch.equal(after[tokens.positions == 0], before[tokens.positions == 0])


def strength_follows_position(model: HookedModel, steering: Steering, steer: Steer) -> None:
    """A row of strengths belongs to absolute positions: under padding, under a cache, and as a function."""
    tokens = model.tokenize(TEXTS, side="left")
    row = torch.tensor([0.0, 1.5, -0.7, 0.0, 2.0])

    def looked_up(positions: Tensor) -> Tensor:
        inside = (positions >= 0) & (positions < len(row))
        return torch.where(inside, row[positions.clamp(0, len(row) - 1)], 0.0)

    first = first_site(steering)
    before = capture(model, tokens, [first])[0]
    with steer(model, steering, row, "all") as handle:
        after = capture(model, tokens, [first])[0]
        by_row = model.logits(tokens)
    expected = looked_up(tokens.positions)[..., None] * steering.delta(before, first, tokens.positions)
    rounding = 5e-5 + 1e-6 * float(before.abs().max())
    torch.testing.assert_close((after - before)[tokens.mask], expected[tokens.mask], atol=rounding, rtol=1e-4)
    assert expected.abs().max() > 1e-3
    assert handle.log.edited[first] == 2 * int((tokens.positions >= 0).logical_and(tokens.positions < len(row)).sum())
    with steer(model, steering, looked_up, "all"):
        assert torch.equal(model.logits(tokens), by_row)
        cached = model.generate(tokens, max_new_tokens=4)
        assert cached == model.generate(tokens, max_new_tokens=4, use_cache=False)


def save_and_load_keep_delta(
    model: HookedModel, steering: Steering, folder: Path, save: Callable[..., None] = save_steering
) -> None:
    path = folder / "artefact.safetensors"
    save(path, steering, model, scope=Scope("generated", (5,)), data_hashes={"corpus": "0" * 8})
    loaded = load_steering(path, model)
    assert loaded.scope == Scope("generated", (5,))
    assert loaded.steering.sites == steering.sites
    generator = torch.Generator().manual_seed(3)
    for site in steering.sites:
        x = torch.randn(2, 9, model.width(site), generator=generator)
        positions = torch.arange(9).expand(2, 9)
        assert torch.equal(loaded.steering.delta(x, site, positions), steering.delta(x, site, positions))


def wrong_model_or_no_site_raises(model: HookedModel, steering: Steering, steer: Steer, wrong: list[Steering]) -> None:
    before = snapshot(model)
    for bad in wrong:
        with pytest.raises((SteeringError, ValueError)), steer(model, bad, 1.0, "all"):
            pass
    assert_restored(model, before)
