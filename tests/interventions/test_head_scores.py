"""Head scores: the exact decomposition, and estimates and intervals that hold where the truth is known."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from tests.interventions.exchanges import NEGATIVE, POSITIVE
from tests.tiny import FAMILIES, tiny_model
from workbench.activations import capture
from workbench.interventions import (
    HeadScores,
    PersonaActivations,
    SteeringError,
    head_scores,
    persona_activations,
)
from workbench.models import HookedModel
from workbench.records import Site


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> HookedModel:
    return tiny_model(request.param)


def made(positive: torch.Tensor, negative: torch.Tensor) -> PersonaActivations:
    """Activations [response, layer, width] at z; head scores do not look at the stream."""
    return PersonaActivations(positive, negative, torch.zeros(len(positive), 6, 16), torch.zeros(len(negative), 6, 16))


def noise(n: int, generator: torch.Generator, *, is_common: bool) -> torch.Tensor:
    """Scatter of n responses at [layer, width] of the tiny model: per coordinate, or mostly one factor of all heads."""
    own = torch.randn(n, 3, 16, generator=generator)
    return own if not is_common else 0.3 * own + torch.randn(n, 1, 1, generator=generator).expand(n, 3, 16)


def true_contributions(model: HookedModel, delta: torch.Tensor) -> np.ndarray:
    """[layer, head] of a difference [layer, width] that is known exactly."""
    rows = []
    for layer, vector in enumerate(delta):
        parts = torch.stack([part for part in torch.block_diag(*vector.view(4, 4))])
        written = model.project_heads(parts, layer).double()
        rows.append(written @ written.sum(0))
    return torch.stack(rows).numpy()


def test_contributions_sum_to_the_squared_norm_of_the_raw_attention_output(model: HookedModel) -> None:
    scores = head_scores(model, persona_activations(model, POSITIVE, NEGATIVE), n_resamples=10)
    for layer in range(model.n_layers):
        outputs = [
            torch.stack(
                [
                    capture(model, model.tokenize([one.prompt + one.response]), [Site("attn_raw", layer)])[0, 0][
                        3:
                    ].mean(0)
                    for one in side
                ]
            ).mean(0)
            for side in (POSITIVE, NEGATIVE)
        ]
        expected = float((outputs[0] - outputs[1]).double().pow(2).sum())
        assert scores.contribution[layer].sum() == pytest.approx(expected, rel=1e-3)
    total = scores.contribution.sum(axis=1)
    np.testing.assert_allclose(scores.share.sum(axis=1) + scores.noise.sum(axis=1) / total, 1.0, rtol=1e-6)


def test_contributions_equal_an_independent_transcription(model: HookedModel) -> None:
    activations = persona_activations(model, POSITIVE, NEGATIVE)
    scores = head_scores(model, activations, n_resamples=2)
    if model.name == "tiny-gpt2":
        pytest.skip("its output projection is stored transposed; the sum rule above covers it")
    weights = model.hf_model.state_dict()
    name = next(key for key in weights if "layers.1." in key and ".o_proj." in key)
    output, delta = weights[name].double(), activations.delta_z[1].double()
    total = output @ delta
    for head in range(model.n_heads):
        part = slice(head * model.d_head, (head + 1) * model.d_head)
        written = output[:, part] @ delta[part]
        assert scores.contribution[1, head] == pytest.approx(float(written @ total), abs=1e-6, rel=1e-4)
        assert scores.cosine[1, head] == pytest.approx(float(torch.cosine_similarity(written, total, dim=0)), rel=1e-4)


@pytest.mark.parametrize(("n_positive", "n_negative"), [(4, 3), (4, 4)])
def test_shares_are_means_over_different_responses(n_positive: int, n_negative: int) -> None:
    """The definition, response by response: no response, and no pair of responses, meets itself."""
    model, generator = tiny_model("llama"), torch.Generator().manual_seed(0)
    positive, negative = (noise(n, generator, is_common=False) + 0.3 for n in (n_positive, n_negative))
    scores = head_scores(model, made(positive, negative), n_resamples=5)
    both = list(product(range(n_positive), range(n_negative)))
    if n_positive == n_negative:
        both = [(index, index) for index in range(n_positive)]
    found = []
    for (up, down), (other_up, other_down) in permutations(both, 2):
        if up != other_up and down != other_down:
            first, second = positive[up] - negative[down], positive[other_up] - negative[other_down]
            halves = [true_contributions(model, first + sign * second) for sign in (1, -1)]
            found.append((halves[0] - halves[1]) / 4)  # the symmetric part of <W_h a_h, W b> by polarisation
    expected = np.mean(found, axis=0)
    total = scores.contribution.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.share * total, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def draws(model: HookedModel, delta: torch.Tensor, sizes: tuple[int, int], is_common: bool) -> list[HeadScores]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(80):
        positive, negative = (noise(n, generator, is_common=is_common) for n in sizes)
        found.append(head_scores(model, made(positive + delta, negative), n_resamples=200, seed=index))
    return found


@pytest.mark.parametrize(("sizes", "is_common"), [((10, 10), True), ((14, 9), False)])
def test_noise_alone_makes_hardly_any_head_correlated(sizes: tuple[int, int], is_common: bool) -> None:
    found = draws(tiny_model("llama"), torch.zeros(3, 16), sizes, is_common)
    roles = np.concatenate([scores.frame()["role"] for scores in found])
    assert (roles == "correlated").mean() <= 0.05
    assert (roles == "anti-correlated").mean() <= 0.05


@pytest.mark.parametrize(("sizes", "is_common"), [((10, 10), True), ((14, 9), False)])
def test_intervals_cover_a_planted_effect_and_shares_are_unbiased(sizes: tuple[int, int], is_common: bool) -> None:
    model, delta = tiny_model("llama"), torch.zeros(3, 16)
    delta[:, :8] = torch.tensor([0.8] * 4 + [-0.5, 0.2, 0.5, -0.2])  # heads 0 and 1 differ, heads 2 and 3 do not
    truth = true_contributions(model, delta)
    found = draws(model, delta, sizes, is_common)
    totals = np.stack([scores.contribution.sum(axis=1, keepdims=True) for scores in found])
    low, high, share = (
        totals * np.stack([getattr(scores, name) for scores in found]) for name in ("low", "high", "share")
    )
    assert ((low <= truth) & (truth <= high)).mean() >= 0.9
    error = share.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(share.mean(axis=0) - truth) <= 4 * error).all()


def test_a_planted_head_ranks_first_with_an_interval_above_zero() -> None:
    model, generator = tiny_model("llama"), torch.Generator().manual_seed(0)
    positive, negative = (0.01 * noise(20, generator, is_common=False) for _ in range(2))
    positive[:, 2, 12:] += 1.0
    scores = head_scores(model, made(positive, negative), n_resamples=50)
    assert scores.top(2, 1) == (3,)
    assert scores.low[2, 3] > 0.9
    assert scores.frame().query("layer == 2 and head == 3").role.item() == "correlated"


def test_two_responses_show_no_noise_and_no_role() -> None:
    scores = head_scores(tiny_model("llama"), made(torch.ones(2, 3, 16), torch.zeros(2, 3, 16)), n_resamples=5)
    assert np.isnan([scores.noise, scores.low, scores.high]).all()
    np.testing.assert_allclose(scores.share.sum(axis=1), 1.0)
    assert set(scores.frame()["role"]) == {"unclear"}


def test_responses_without_a_difference_have_no_share() -> None:
    scores = head_scores(tiny_model("llama"), made(torch.ones(4, 3, 16), torch.ones(4, 3, 16)), n_resamples=5)
    assert not np.any([scores.share, scores.low, scores.high, scores.noise])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model, found: head_scores(model, found, n_resamples=2).top(0, 5), "has 4 per layer"),
        (lambda model, found: head_scores(model, found, n_resamples=2).top(3, 1), "layers 0 to 2"),
        (lambda model, found: head_scores(model, found, n_resamples=2).top(0, 1, by="z"), "unknown ranking"),
        (lambda model, found: head_scores(model, found, n_resamples=0), "at least 1"),
    ],
)
def test_mistakes_raise(ask, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        ask(tiny_model("llama"), made(torch.ones(3, 3, 16), torch.zeros(3, 3, 16)))
