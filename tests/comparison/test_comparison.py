"""The comparison end to end on a tiny model: its numbers against the model run by hand, its rules, its words."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.activations import collect
from workbench.comparison import (
    LOSS,
    SHARE,
    ArmResult,
    Measurement,
    Preset,
    against_unsteered,
    between_arms,
    compare_steering,
    fit_classifier,
    measure_steering,
    phrase,
)
from workbench.comparison.arms import Arm, arms_of, domain_directions
from workbench.comparison.budgets import Budget
from workbench.comparison.measurement import _chosen, domain_hits
from workbench.comparison.presets import plan
from workbench.comparison.results import Candidate, Trial, arm_results
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, steer
from workbench.models import HookedModel
from workbench.records import Comparison, Dimension, Prompt, Selection, Split

SMALL = Preset(
    n_neutral=3,
    n_neutral_tokens=6,
    n_tune=3,
    n_test=4,
    n_tokens=8,
    n_random=2,
    n_generations=4,
    n_new_tokens=6,
    n_own_text=2,
)
OWN = {"law": ("court", "shall", "court's"), "science": ("cell", "sum", "x", "y"), "place": ("river", "was")}
Dcds = dict[tuple[str, Selection], list[Dimension]]


def prompts(n: int = 4) -> list[Prompt]:
    """Each domain has its own words and the common ones, in sentences of changing length."""
    found = []
    generator = np.random.default_rng(0)
    splits: tuple[Split, ...] = ("identify", "tune", "test")
    for domain, words in OWN.items():
        for number in range(3 * n):
            chosen = generator.choice([*words, *words, "the", "of", "a", "is", "."], size=5 + number % 4)
            found.append(Prompt(" ".join(chosen), domain, f"{domain}/{number}", splits[number % 3]))
    return found


def neutral(n: int = 6) -> list[Prompt]:
    generator = np.random.default_rng(1)
    texts = [
        " ".join(generator.choice(["the", "it", "was", "a", "and", "is", "river", "of"], size=7)) for _ in range(n)
    ]
    return [Prompt(text, "neutral", f"neutral/{index}", "test") for index, text in enumerate(texts)]


def dcd(domain: str, dimension: int, selection: Selection) -> Dimension:
    return Dimension(domain, dimension, 1, selection, 1.0, 1.0, 1.0, 1.0, "every domain")


def selected() -> Dcds:
    return {
        ("law", "magnitude"): [dcd("law", dimension, "magnitude") for dimension in (3, 7, 1)],
        ("law", "discrimination"): [],
        ("law", "both"): [dcd("law", dimension, "both") for dimension in (1, 3, 7)],
        ("place", "magnitude"): [dcd("place", dimension, "magnitude") for dimension in (3, 4, 5)],
    }


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model(scale=12.0)


@pytest.fixture(scope="module")
def measurement(model: HookedModel) -> Measurement:
    return measure_steering(model, prompts(), neutral(), selected(), kl_levels=(0.1, 0.02), seed=3, preset=SMALL)


def result_of(measurement: Measurement, domain: str, method: str, selection: str = "", level: float = 0.1) -> ArmResult:
    (result,) = [
        result
        for result in measurement.results
        if (result.arm.domain, result.arm.method, result.arm.selection, result.level)
        == (domain, method, selection, level)
    ]
    return result


def token_log_probabilities(model: HookedModel, text: str, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = model.tokenize([text]).ids[:, : n_tokens + 1]
    with torch.no_grad():
        return model.hf_model(input_ids=ids).logits[0].double().log_softmax(1), ids[0]


def losses_by_hand(model: HookedModel, split: Split) -> np.ndarray:
    found = []
    for prompt in prompts():
        if (prompt.domain, prompt.split) == ("law", split):
            values, ids = token_log_probabilities(model, prompt.text, SMALL.n_tokens)
            found.append(-float(values[:-1].gather(1, ids[1:, None]).mean()))
    limit = SMALL.n_tune if split == "tune" else SMALL.n_test
    texts = [p.text for p in prompts() if (p.domain, p.split) == ("law", split)]
    kept = _chosen(prompts(), "law", split, limit, 3)
    return np.array([loss for text, loss in zip(texts, found, strict=True) if text in kept])


@pytest.mark.parametrize("method", ["whole-dimension", "top-k"])
def test_reported_differences_are_those_of_the_model_run_by_hand(
    model: HookedModel, measurement: Measurement, method: str
) -> None:
    result = result_of(measurement, "law", method)
    direction = domain_directions(
        collect(model, [p for p in prompts() if p.split == "identify"], poolings=("mean",))[1]
    )["law"]
    before = losses_by_hand(model, "test")
    with steer(model, result.arm.steering(direction, result.layer), result.strength):
        after = losses_by_hand(model, "test")
    np.testing.assert_allclose(result.differences[LOSS], after - before, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_every_arm_costs_what_it_was_given(model: HookedModel, measurement: Measurement) -> None:
    kept = [neutral()[index].text for index in np.random.default_rng([3, 1]).permutation(6)][:3]
    directions = domain_directions(
        collect(model, [p for p in prompts() if p.split == "identify"], poolings=("mean",))[1]
    )
    checked = 0
    for result in measurement.results:
        if not result.reached:
            continue
        assert result.kl == pytest.approx(result.level, rel=0.1)
        if result.arm.method == "random-k":
            continue
        total, n_tokens = 0.0, 0
        for text in kept:
            before, _ = token_log_probabilities(model, text, 6)
            with steer(model, result.arm.steering(directions[result.arm.domain], result.layer), result.strength):
                after, _ = token_log_probabilities(model, text, 6)
            total += float((before.exp() * (before - after)).sum())
            n_tokens += len(before)
        assert total / n_tokens == pytest.approx(result.kl, rel=1e-3)
        checked += 1
    assert checked >= 8


def test_layer_is_the_one_of_lowest_tune_loss_at_the_level(model: HookedModel, measurement: Measurement) -> None:
    chosen = result_of(measurement, "law", "whole-dimension")
    tune, test = {}, {}
    for layer in range(model.n_layers):
        alone = measure_steering(
            model, prompts(), neutral(), selected(), kl_levels=(0.1,), seed=3, preset=replace(SMALL, layers=(layer,))
        )
        result = result_of(alone, "law", "whole-dimension")
        if result.reached:
            direction = ContrastiveAddition.fit(
                model,
                [p.text for p in prompts() if (p.domain, p.split) == ("law", "identify")],
                [p.text for p in prompts() if p.domain != "law" and p.split == "identify"],
                layer=layer,
            )
            with steer(model, direction, result.strength):
                tune[layer] = losses_by_hand(model, "tune").mean()
            test[layer] = result.differences[LOSS].mean()
    assert len(tune) > 1
    assert chosen.layer == min(tune, key=lambda layer: tune[layer])


def test_directions_are_those_of_the_steering_methods(model: HookedModel) -> None:
    identify = [p for p in prompts() if p.split == "identify"]
    directions = domain_directions(collect(model, identify)[1])
    own = [p.text for p in identify if p.domain == "science"]
    others = [p.text for p in identify if p.domain != "science"]
    fitted = CriticalDimensionSteering.fit(model, own, others, layers=(0, 1, 2), dimensions=tuple(range(16)))
    torch.testing.assert_close(directions["science"], fitted.direction, rtol=1e-4, atol=1e-5)


def test_arms_steer_what_they_say() -> None:
    arms = arms_of("law", selected(), d_model=16, n_random=3, seed=0)
    assert [(arm.method, arm.selection, arm.k) for arm in arms] == [
        ("cds", "magnitude", 3),
        ("cds", "discrimination", 0),
        ("cds", "both", 3),
        ("whole-dimension", "", 16),
        ("top-k", "", 3),
        *[("random-k", "", 3)] * 3,
    ]
    directions = torch.zeros(2, 16)
    directions[1] = torch.tensor([0.5, -9, 3, 1, 0, 8, 0, 2, -4, 0, 0, 0, 0, 0, 0, 0])
    edited = [
        arm.steering(directions, 1).delta(
            torch.zeros(1, 1, 16), arm.steering(directions, 1).sites[0], torch.zeros(1, 1).long()
        )
        for arm in arms
        if arm.k
    ]
    assert edited[0].nonzero()[:, 2].tolist() == [1, 3, 7]
    assert edited[0][0, 0, [1, 3, 7]].tolist() == [-9, 1, 2]
    assert edited[2].equal(directions[1].expand(1, 1, 16))
    assert edited[3].nonzero()[:, 2].tolist() == [1, 5, 8]
    assert len({arm.dimensions for arm in arms if arm.method == "random-k"}) == 3
    assert arms[0].edit == arms[2].edit  # the same dimensions, whatever they were selected by
    assert len({arm.edit for arm in arms if arm.k}) == 6
    assert arms == arms_of("law", selected(), d_model=16, n_random=3, seed=0)
    assert arms != arms_of("law", selected(), d_model=16, n_random=3, seed=1)
    assert [arm.method for arm in arms_of("x", {("x", "both"): []}, d_model=16, n_random=3, seed=0)] == [
        "cds",
        "whole-dimension",
    ]


def test_empty_selection_is_shown_as_no_arm(measurement: Measurement) -> None:
    rows = [c for c in against_unsteered(measurement.results, seed=0) if c.selection == "discrimination"]
    assert len(rows) == 4  # two metrics, two levels
    for row in rows:
        assert (row.n, row.reached, row.layer) == (0, False, -1)
        assert math.isnan(row.effect)
        assert "empty" in row.note
        assert "not measured (the selection is empty" in phrase(row)


def test_equal_edits_have_equal_results(measurement: Measurement) -> None:
    first, second = (result_of(measurement, "law", "cds", selection) for selection in ("magnitude", "both"))
    assert (first.layer, first.strength, first.kl) == (second.layer, second.strength, second.kl)
    for metric in (LOSS, SHARE):
        np.testing.assert_array_equal(first.differences[metric], second.differences[metric])


def test_same_seed_same_table_and_levels_in_any_order(model: HookedModel, measurement: Measurement) -> None:
    options = {"preset": SMALL, "kl_levels": (0.02, 0.1, 0.1)}
    again = compare_steering(model, prompts(), neutral(), selected(), seed=3, **options)
    assert repr(again) == repr(against_unsteered(measurement.results, seed=3))
    other = compare_steering(model, prompts(), neutral(), selected(), seed=4, **options)
    assert repr(other) != repr(again)
    assert {(c.domain, c.budget) for c in again} == {(d, level) for d in ("law", "place") for level in (0.02, 0.1)}
    assert sum(c.method == "random-k" for c in again) == 8  # one per domain, level and metric, whatever the draws


def test_collected_rows_spare_a_pass_and_change_nothing(model: HookedModel, measurement: Measurement) -> None:
    rows = collect(model, prompts())[1]
    given = measure_steering(
        model, prompts(), neutral(), selected(), kl_levels=(0.1, 0.02), seed=3, preset=SMALL, rows=rows
    )
    assert repr(against_unsteered(given.results, seed=0)) == repr(against_unsteered(measurement.results, seed=0))


def trial(arm: Arm, layer: int, kl: float, *, reached: bool = True, monotone: bool = True) -> Trial:
    steering = ContrastiveAddition(torch.ones(4), layer)
    budget = Budget(0.1, 10 * kl, kl, reached, monotone, ((10 * kl, kl),))
    return Trial(Candidate(arm, layer, steering, 1.0), budget)


def test_draws_are_averaged_per_passage() -> None:
    arms = [Arm("law", "random-k", 2, dimensions=(draw, 9), draw=draw) for draw in range(3)]
    trials = [
        trial(arms[0], 1, 0.09),
        trial(arms[1], 2, 0.11, monotone=False),
        trial(arms[2], 2, 0.04, reached=False),
    ]
    measured = {
        arms[0].edit: (trials[0], {LOSS: np.array([1.0, 2.0, -4.0])}),
        arms[1].edit: (trials[1], {LOSS: np.array([3.0, 0.0, -2.0])}),
    }
    (result,) = arm_results(arms, 0.1, trials, measured)
    np.testing.assert_array_equal(result.differences[LOSS], [2.0, 1.0, -3.0])
    assert (result.kl, result.strength, result.reached) == (pytest.approx(0.1), pytest.approx(1.0), True)
    assert "mean of 2 of 3 draws, at layers 1, 2" in result.note
    assert "not reached at layer(s) 2" in result.note
    assert "not monotone" in result.note


def test_level_out_of_reach_is_said() -> None:
    arm = Arm("law", "top-k", 2)
    trials = [trial(arm, 0, 0.01, reached=False), trial(arm, 1, 0.06, reached=False)]
    (result,) = arm_results([arm], 0.1, trials, {})
    assert not result.reached
    assert result.kl == 0.06
    (row, _) = against_unsteered([result], seed=0)
    assert not row.reached
    assert math.isnan(row.effect)
    assert "KL 0.1 not reached" in row.note
    assert between_arms([result], seed=0) == []


def test_arms_are_compared_passage_by_passage() -> None:
    ours = Arm("law", "cds", 2, "magnitude", (1, 2))
    noise = np.random.default_rng(0).normal(0, 10, size=40)  # shared by both arms, so it must cancel
    base = ArmResult(ours, 0.1, 1, 2.0, 0.1, True, "", {LOSS: noise - 0.5})
    whole = replace(base, arm=Arm("law", "whole-dimension", 16), differences={LOSS: noise + 0.01 * np.sign(noise)})
    elsewhere = replace(whole, arm=Arm("code", "whole-dimension", 16))
    (row,) = between_arms([base, whole, elsewhere], seed=0)
    assert (row.method, row.against, row.n) == ("cds", "whole-dimension", 40)
    assert row.effect == pytest.approx(-0.5, abs=0.011)
    assert row.high < -0.48
    assert between_arms([base, replace(whole, differences={})], seed=0) == []


def comparison(effect: float, low: float, high: float, metric: str = LOSS) -> Comparison:
    return Comparison("domain adaptation", metric, "law", "cds", "both", 1, 2.0, 0.1, 0.1, True, effect, low, high, 40)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (comparison(-0.2, -0.3, -0.1), "better than unsteered"),
        (comparison(0.2, 0.1, 0.3), "worse than unsteered"),
        (comparison(0.2, 0.1, 0.3, SHARE), "better than unsteered"),
        (comparison(-0.2, -0.3, -0.1, SHARE), "worse than unsteered"),
        (comparison(-0.2, -0.5, 0.1), "no difference shown against unsteered"),
        (comparison(-0.2, -0.5, 0.1), "difference of about 0.300 nats per token could have been shown"),
        (comparison(0.0, 0.0, 0.0, SHARE), "all 40 pairs are equal"),
        (replace(comparison(-0.2, -0.3, -0.1), against="top-k"), "better than top-k"),
    ],
)
def test_words_hold(row: Comparison, says: str) -> None:
    assert says in phrase(row)


def test_classifier_accuracy_is_stated(measurement: Measurement) -> None:
    report = measurement.classifier
    assert report.domains == ("law", "place", "science")
    assert (report.n_held_out, report.n_own_text, report.n_training) == (12, 6, 24)
    assert report.held_out > 0.8
    assert 0 <= report.own_text <= 1


def test_a_hit_is_of_the_domain_and_not_repetitive() -> None:
    classifier = fit_classifier(prompts())
    texts = ["court shall court's", "court shall court's", "cell x sum", "", "river was river"]
    generations = [[1, 2, 3, 4], [7] * 12, [1, 2, 3], [], [4, 5, 4]]
    assert domain_hits(classifier, texts, generations, "law").tolist() == [1, 0, 0, 0, 0]
    assert domain_hits(classifier, texts, generations, "place").tolist() == [0, 0, 0, 0, 1]


def test_domain_share_is_a_difference_of_shares(measurement: Measurement) -> None:
    """Two draws are averaged, so a prompt's difference is a multiple of one half."""
    assert any(result.differences[SHARE].any() for result in measurement.results if result.differences)
    for result in measurement.results:
        if result.differences:
            assert set(result.differences[SHARE] * 2) <= {-2, -1, 0, 1, 2}
            assert len(result.differences[SHARE]) == 4
            assert len(result.differences[LOSS]) == 4


@pytest.mark.parametrize("quick", [False, True])
def test_plan_foresees_the_work(model: HookedModel, monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    sizes = replace(SMALL, n_layers=1 if quick else None)
    tokens = 0
    logits = HookedModel.logits

    def counted(self: HookedModel, batch, **options):
        nonlocal tokens
        tokens += batch.ids.numel()
        return logits(self, batch, **options)

    monkeypatch.setattr(HookedModel, "logits", counted)
    dcds: Dcds = {
        (domain, selection): [dcd(domain, 3 + i, selection), dcd(domain, i, selection)]
        for domain in OWN
        for i, selection in enumerate(("magnitude", "discrimination", "both"))  # pyright: ignore[reportAssignmentType]
    }
    measure_steering(model, prompts(), neutral(), dcds, kl_levels=(0.05,), preset=sizes)
    expected = plan(model, prompts(), neutral(), kl_levels=(0.05,), preset=sizes)
    generated = expected.n_generated / sizes.n_new_tokens * (sizes.n_prompt_tokens + 1 + sizes.n_new_tokens)
    assert expected.n_arms == 3 * 7
    assert 0.5 < tokens / (expected.n_tokens - generated) < 2


def test_progress_is_told_to_the_end(model: HookedModel) -> None:
    told: list[tuple[int, int]] = []
    compare_steering(
        model,
        prompts(),
        neutral(),
        {("law", "magnitude"): selected()["law", "magnitude"]},
        kl_levels=(0.02, 0.1),
        preset=replace(SMALL, n_layers=1, n_random=1),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_layers_are_spread_and_checked(model: HookedModel) -> None:
    assert Preset().layers_of(model) == (0, 1, 2)
    assert Preset(n_layers=1).layers_of(model) == (1,)
    assert Preset(n_layers=9).layers_of(model) == (0, 1, 2)
    assert Preset(layers=(2, 0)).layers_of(model) == (2, 0)
    with pytest.raises(ValueError, match="layers 0 to 2"):
        Preset(layers=(3,)).layers_of(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kl_levels": (0.1, 0.0)}, "KL levels must be positive"),
        ({"kl_levels": ()}, "KL levels must be positive"),
        ({"dcds": {("poetry", "both"): []}}, "unknown domain 'poetry'; the prompts are of law, science, place"),
        ({"dcds": {}}, "no dimensions"),
        ({"prompts": [p for p in prompts() if (p.domain, p.split) != ("law", "test")]}, "'law' has no test prompts"),
        ({"prompts": [p for p in prompts() if (p.domain, p.split) != ("law", "tune")]}, "'law' has no tune prompts"),
        ({"prompts": prompts(1)}, "single test prompt"),
        ({"neutral": neutral(1)}, "too few"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
        ({"preset": replace(SMALL, layers=(-1,))}, "layers"),
    ],
)
def test_what_cannot_be_compared_is_refused(model: HookedModel, change: dict, says: str) -> None:
    given = {"prompts": prompts(), "neutral": neutral(), "dcds": selected(), "preset": SMALL, "kl_levels": (0.1,)}
    given |= change
    positional = [given.pop(name) for name in ("prompts", "neutral", "dcds")]
    with pytest.raises(ValueError, match=says):
        measure_steering(model, *positional, **given)


def test_rows_of_other_layers_are_refused(model: HookedModel) -> None:
    rows = collect(model, prompts(), layers=[0, 1])[1]
    with pytest.raises(ValueError, match="collect them at all layers"):
        measure_steering(model, prompts(), neutral(), selected(), preset=SMALL, rows=rows)
