"""The steering stage on a tiny model: its effects against the model run by hand, its settings, its opponents."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.tiny import tiny_model
from workbench.activations import collect
from workbench.comparison.arms import domain_directions
from workbench.comparison.tables import Outcomes
from workbench.dimensions import find_dcds
from workbench.interventions import steer
from workbench.interventions.controls import on_dimensions
from workbench.models import HookedModel
from workbench.records import SPLITS, Contrast, PooledRows, Prompt
from workbench.study.steering import METHODS, SteeringSizes, compare_on_corpus, report_on_classifier, steering_run
from workbench.tasks.judges import fit_classifier
from workbench.tasks.metrics import passage_losses, passage_tokens

SIZES = SteeringSizes(
    n_neutral=3, n_tune=6, n_test=6, n_tokens=8, n_layers=2, n_generations=4, n_new_tokens=6, n_own_text=2
)
OWN = {"law": ("court", "shall", "court's"), "science": ("cell", "sum", "x", "y"), "place": ("river", "was")}
K = 3


def prompts(n: int = 6) -> list[Prompt]:
    """Each domain has its own words and the common ones, in sentences of changing length."""
    generator = np.random.default_rng(0)
    found = []
    for domain, words in OWN.items():
        for number in range(3 * n):
            chosen = generator.choice([*words, *words, "the", "of", "a", "is", "."], size=5 + number % 4)
            found.append(Prompt(" ".join(chosen), domain, f"{domain}/{number}", SPLITS[number % 3]))
    return found


def neutral() -> list[Prompt]:
    generator = np.random.default_rng(1)
    words = ["the", "it", "was", "a", "and", "is", "river", "of"]
    texts = [" ".join(generator.choice(words, size=7)) for _ in range(6)]
    return [Prompt(text, "neutral", f"neutral/{index}", "test") for index, text in enumerate(texts)]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model(scale=12.0)


@pytest.fixture(scope="module")
def rows(model: HookedModel) -> PooledRows:
    return collect(model, prompts(), split="identify", n_top=1, poolings=("mean", "mean_abs"), truncate=True)[1]


@pytest.fixture(scope="module")
def outcomes(model: HookedModel, rows: PooledRows) -> Outcomes:
    options = {"kl_levels": (0.1,), "k": K, "seed": 3, "classifier": fit_classifier(prompts())}
    run = steering_run(model, prompts(), neutral(), rows, SIZES, **options)
    return compare_on_corpus(run, neutral())


def losses(model: HookedModel, domain: str, split: str, parts: Sequence[tuple[object, float]]) -> np.ndarray:
    texts = [prompt.text for prompt in prompts() if (prompt.domain, prompt.split) == (domain, split)]
    tokens = passage_tokens(model, texts, n_tokens=SIZES.n_tokens)
    found = []
    for steering, strength in parts:
        with steer(model, steering, strength, "all_but_first"):  # pyright: ignore[reportArgumentType]
            found.append(passage_losses(model, tokens, [(None, 0.0)])[0])
    return np.array(found)


def effect(outcomes: Outcomes, domain: str, arm: str, metric: str = "domain loss") -> Contrast:
    return next(
        one
        for one in outcomes.contrasts
        if (one.domain, one.arm, one.metric, one.against) == (domain, arm, metric, "unsteered")
    )


@pytest.mark.parametrize("domain", list(OWN))
def test_effects_are_those_of_the_model_run_by_hand(
    model: HookedModel, rows: PooledRows, outcomes: Outcomes, domain: str
) -> None:
    row = effect(outcomes, domain, "cds")
    chosen = tuple(dcd.dimension for dcd in find_dcds(rows, k=K, selection="magnitude") if dcd.domain == domain)
    layer = int(row.setting.removeprefix("layer "))
    steering = on_dimensions(domain_directions(rows)[domain], layer, chosen)
    before, after = losses(model, domain, "test", [(steering, 0.0), (steering, row.strength)])
    assert row.effect == pytest.approx(float((after - before).mean()), abs=1e-5)
    assert row.n == len(after) == 6


def test_the_share_is_measured_with_the_settings_that_the_loss_chose(outcomes: Outcomes) -> None:
    for arm in ("cds", "whole-dimension", "top-k", "random-k"):
        loss, share = (effect(outcomes, "law", arm, metric) for metric in ("domain loss", "domain share"))
        assert (loss.setting, loss.strength, loss.kl) == (share.setting, share.strength, share.kl)
        assert share.n == SIZES.n_generations
    searched = outcomes.frames["settings"]
    assert set(searched.task) == {f"domain-loss/{domain}" for domain in OWN}


def test_cds_is_compared_with_every_other_arm(outcomes: Outcomes) -> None:
    pairs = {(one.arm, one.against) for one in outcomes.contrasts if one.against != "unsteered"}
    ours = [arm for arm in METHODS if arm.startswith("cds")]
    assert pairs == {(arm, other) for arm in ours for other in ("whole-dimension", "top-k", "random-k")}


def test_the_classifier_is_judged_on_held_out_and_on_own_text(model: HookedModel) -> None:
    classifier = fit_classifier(prompts())
    report = report_on_classifier(model, classifier, prompts(), SIZES, 3)
    held_out = [prompt for prompt in prompts() if prompt.split == "test"]
    right = [classifier.predict([prompt.text])[0] == prompt.domain for prompt in held_out]
    assert report.held_out == pytest.approx(np.mean(right))
    assert (report.n_held_out, report.n_own_text) == (18, 6)
