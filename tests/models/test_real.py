"""The laws, a search and a steering on SmolLM2-135M-Instruct, a model that others trained (30 layers, d_model 576)."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.interventions import laws
from workbench.activations import collect
from workbench.corpus import load_corpus
from workbench.dimensions import find_dcds
from workbench.interventions import CriticalDimensionSteering, load_steering, save_steering, steer
from workbench.models import HookedModel, load_model
from workbench.models.gguf import ALIASES
from workbench.records import Site

ALIAS = ALIASES["smollm2-135m-instruct"]
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(ALIAS.paths() is None, reason=f"SmolLM2 is not installed: {ALIAS.install}"),
]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return load_model("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def steering(model: HookedModel) -> CriticalDimensionSteering:
    """Twenty dimensions of one layer, far enough from the start that logits change at every token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CriticalDimensionSteering(torch.randn(1, model.d_model), (12,), tuple(range(40, 60)))


def test_it_is_the_model_that_it_says_it_is(model: HookedModel) -> None:
    assert (model.name, model.n_layers, model.d_model) == ("SmolLM2-135M-Instruct Q4_1", 30, 576)
    assert model.origin["quantisation"] == "Q4_1"
    assert set(model.checks.values()) == {"ok"}
    assert not model.has_bos  # its tokenizer adds none; <|im_start|> in front of a document would be stray


def test_the_capital_of_france_is_paris(model: HookedModel) -> None:
    assert model.generate("The capital of France is", max_new_tokens=3).startswith(" Paris")
    asked = model.tokenize_chat("What is the capital of Germany?")
    assert asked.count("<|im_start|>") == 3  # system, user, assistant
    assert "Berlin" in model.generate(asked, max_new_tokens=12)


@pytest.mark.parametrize("law", ["identity_at_zero", "restored_after_exit", "restored_after_exception"])
def test_laws(law: str, model: HookedModel, steering: CriticalDimensionSteering) -> None:
    getattr(laws, law)(model, steering, steer)


def test_padding_caching_and_saving_change_nothing(
    model: HookedModel, steering: CriticalDimensionSteering, tmp_path: Path
) -> None:
    prompts = ["The capital of France is", "Water boils at a temperature of one hundred degrees, and"]
    save_steering(tmp_path / "steering.safetensors", steering, model)
    loaded = load_steering(tmp_path / "steering.safetensors", model).steering
    with steer(model, loaded, 2.0, "all"):
        together = [model.generate(model.tokenize(prompts, side="left"), max_new_tokens=6, use_cache=cached)
                    for cached in (True, False)]  # fmt: skip
        singly = [model.generate(model.tokenize([one], side="left"), max_new_tokens=6)[0] for one in prompts]
    assert together[0] == together[1] == singly
    plain = model.generate(model.tokenize(prompts, side="left"), max_new_tokens=6)
    assert plain != together[0]


def test_the_change_at_the_edited_site_is_strength_times_delta(
    model: HookedModel, steering: CriticalDimensionSteering
) -> None:
    tokens, site, seen = model.tokenize(["The court shall"]), Site("resid_post", 12), []
    for strength in (0.0, 1.5):
        with steer(model, steering, strength, "all"), model.hooked({site: lambda values, *_: seen.append(values)}):
            model.run(tokens)
    torch.testing.assert_close(seen[1] - seen[0], 1.5 * steering.direction.expand_as(seen[0]), atol=1e-3, rtol=1e-3)


def test_the_dimensions_of_a_domain_are_found(model: HookedModel) -> None:
    passages = [one for one in load_corpus("builtin", domains=("law", "code")) if one.split == "identify"]
    chosen = [one for domain in ("law", "code") for one in [p for p in passages if p.domain == domain][:12]]
    _, rows = collect(model, chosen, truncate=True)
    assert Counter(zip(rows.domains, rows.splits, strict=True)) == {("law", "identify"): 12, ("code", "identify"): 12}
    found = {dcd.domain: dcd for dcd in find_dcds(rows, k=8)}
    assert set(found) == {"law", "code"}
