"""Masking in batches against one dimension and prompt at a time, by TransformerLens' hooks and Hugging Face's loss."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from workbench.behaviours import load_behaviours
from workbench.interventions import mask as replacements
from workbench.masking.measure import choice_items, mask_choices, mask_dimensions
from workbench.models import HookedModel, batches
from workbench.records import MASK_MODES, ChoiceItem, Prompt

PROMPTS = [
    Prompt("the court shall sum . the court is a court", "law", "law/0", "identify"),
    Prompt("it was a river", "law", "law/1", "test"),
    Prompt("x is y . the sum is a cell of the river of the cell .", "code", "code/0", "identify"),
    Prompt("a court", "code", "code/1", "test"),
]
DIMENSIONS = (0, 3, 15)


def hooked_loss(model: HookedModel, text: str, edit: Callable[[torch.Tensor, int], None]) -> float:
    """Hugging Face's own loss of one text, with `edit(values, layer)` applied in place to every block output."""

    def hook(values: torch.Tensor, hook: object) -> torch.Tensor:
        values = values.clone()
        edit(values, int(hook.name.split(".")[1]))  # pyright: ignore[reportAttributeAccessIssue]
        return values

    ids = model.tokenize([text]).ids
    with torch.no_grad(), model.hooks([(f"blocks.{layer}.hook_resid_post", hook) for layer in range(model.n_layers)]):
        return float(model.hf_model(input_ids=ids, labels=ids).loss)


def nothing(values: torch.Tensor, layer: int) -> None:
    pass


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_masking_equals_one_dimension_and_one_prompt_at_a_time(family: str) -> None:
    model = tiny_model(family)
    result = mask_dimensions(model, PROMPTS, DIMENSIONS)
    for column, prompt in enumerate(PROMPTS):
        baseline = hooked_loss(model, prompt.text, nothing)
        assert result.baseline[column] == pytest.approx(baseline, abs=1e-5)
        for row, dimension in enumerate(DIMENSIONS):

            def edit(values: torch.Tensor, layer: int, dimension: int = dimension) -> None:
                values[..., dimension] = 0.0

            naive = hooked_loss(model, prompt.text, edit) - baseline
            assert result.loss_increase[row, column] == pytest.approx(naive, abs=1e-5)
    assert np.abs(result.loss_increase).max() > 0.01


def test_every_dimension_is_masked_unless_some_are_named() -> None:
    model = tiny_model()
    everything = mask_dimensions(model, PROMPTS[:2])
    assert everything.dimensions == tuple(range(16))
    some = mask_dimensions(model, PROMPTS[:2], DIMENSIONS)
    np.testing.assert_allclose(some.loss_increase, everything.loss_increase[list(DIMENSIONS)], atol=1e-5)
    assert (everything.cost, some.cost) == (17.0, 4.0)


def test_mean_masking_uses_the_mean_of_the_position_class() -> None:
    model = tiny_model()
    reference = PROMPTS[0], PROMPTS[2]
    sums: dict[tuple[str, int], list[torch.Tensor]] = {}
    for prompt in reference:
        _, cache = model.run_with_cache(model.tokenize([prompt.text]))
        values = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0] for layer in range(model.n_layers)])
        for place, word in enumerate(["<s>", *prompt.text.split()]):
            sums.setdefault((prompt.domain, {0: 0}.get(place, 1 if word == "." else 2)), []).append(values[:, place])
    means = {key: torch.stack(rows).mean(dim=0) for key, rows in sums.items()}
    of_class = [(means["law", index] + means["code", index]) / 2 for index in range(3)]
    result = mask_dimensions(model, PROMPTS, DIMENSIONS, mode="mean")
    for column, prompt in enumerate(PROMPTS):
        classes = [0, *(1 if word == "." else 2 for word in prompt.text.split())]
        baseline = hooked_loss(model, prompt.text, nothing)
        for row, dimension in enumerate(DIMENSIONS):

            def edit(
                values: torch.Tensor, layer: int, dimension: int = dimension, classes: list[int] = classes
            ) -> None:
                for place, index in enumerate(classes):
                    values[0, place, dimension] = of_class[index][layer, dimension]

            naive = hooked_loss(model, prompt.text, edit) - baseline
            assert result.loss_increase[row, column] == pytest.approx(naive, abs=1e-5)


def test_resampling_takes_the_token_of_another_domain_that_stands_at_the_same_class_of_position() -> None:
    model = tiny_model()
    donor = Prompt("cell .", "code", "code/9", "identify")  # one token of every class, so nothing is left to chance
    reference = [donor, Prompt("river . x y", "law", "law/9", "identify")]
    _, cache = model.run_with_cache(model.tokenize([donor.text]))
    place_of = {"<s>": 0, ".": 2}
    baseline = hooked_loss(model, PROMPTS[0].text, nothing)

    def edit(values: torch.Tensor, layer: int) -> None:
        for place, word in enumerate(["<s>", *PROMPTS[0].text.split()]):
            values[0, place, 3] = cache[f"blocks.{layer}.hook_resid_post"][0, place_of.get(word, 1), 3]

    result = mask_dimensions(model, PROMPTS[:1], [3], mode="resample", reference=reference)
    assert result.loss_increase[0, 0] == pytest.approx(hooked_loss(model, PROMPTS[0].text, edit) - baseline, abs=1e-5)


@pytest.mark.parametrize("mode", MASK_MODES)
def test_results_do_not_depend_on_how_passes_are_cut(mode, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3")
    whole = mask_dimensions(model, PROMPTS, DIMENSIONS, mode=mode, seed=3)
    for n_bytes in (1, 5 * 4 * 11 * model.vocabulary_size):
        monkeypatch.setattr(batches, "LOGITS_BYTES", n_bytes)
        cut = mask_dimensions(model, PROMPTS, DIMENSIONS, mode=mode, seed=3)
        np.testing.assert_allclose(cut.loss_increase, whole.loss_increase, atol=1e-5)


def test_another_seed_draws_other_donors_and_the_sample_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    results = [mask_dimensions(model, PROMPTS, [3], mode="resample", seed=seed).loss_increase for seed in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])
    monkeypatch.setattr(replacements, "N_SOURCES", 3)
    table = replacements.make_replacement(model, "resample", PROMPTS, PROMPTS)
    counts = {key: len(sources) for key, sources in table.groups.items()}
    assert counts == {("law", 0): 2, ("law", 1): 2, ("law", 2): 3, ("code", 0): 2, ("code", 1): 1, ("code", 2): 3}
    assert table.values.shape == (3, 2 + 2 + 3 + 2 + 1 + 3, 16)


def test_every_token_has_the_same_chance_to_be_kept() -> None:
    kept = np.zeros(40)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bank = replacements._ReservoirSample(1, 1)
        for start in range(0, 1024, 128):
            bank.add(torch.arange(start, start + 128.0)[None, :, None], rng)
        kept += np.histogram(bank.values.flatten().numpy(), bins=40, range=(0, 1024))[0]
    assert bank.count == 1024
    assert float(bank.total) == 1023 * 512
    share = kept / kept.sum() * 40
    assert np.abs(share - 1).max() < 0.1


def test_a_list_per_domain_is_measured_there_and_nan_elsewhere() -> None:
    model = tiny_model()
    both = mask_dimensions(model, PROMPTS, [3, 15])
    apart = mask_dimensions(model, PROMPTS, {"law": [3], "code": [15]})
    assert apart.dimensions == (3, 15)
    np.testing.assert_array_equal(
        np.isnan(apart.loss_increase), [[False, False, True, True], [True, True, False, False]]
    )
    np.testing.assert_allclose(apart.loss_increase[0, :2], both.loss_increase[0, :2], atol=1e-5)
    np.testing.assert_allclose(apart.loss_increase[1, 2:], both.loss_increase[1, 2:], atol=1e-5)
    assert apart.cost == 2.0


def test_masks_can_spare_the_first_token_and_losses_leave_out_what_it_predicts() -> None:
    model = tiny_model()

    def later(values: torch.Tensor, layer: int) -> None:
        values[:, 1:, 3] = 0.0

    spared = mask_dimensions(model, PROMPTS, [3], masked_at="after the first token")
    counted = mask_dimensions(
        model, PROMPTS, [3], masked_at="after the first token", counted_at="after the first token"
    )
    for column, prompt in enumerate(PROMPTS):
        words = prompt.text.split()
        for edit, whole, rest in (
            (nothing, spared.baseline[column], counted.baseline[column]),
            (
                later,
                (spared.loss_increase[0] + spared.baseline)[column],
                (counted.loss_increase[0] + counted.baseline)[column],
            ),
        ):
            mean, first = hooked_loss(model, prompt.text, edit), hooked_loss(model, words[0], edit)
            assert whole == pytest.approx(mean, abs=1e-5)
            assert rest == pytest.approx((mean * len(words) - first) / (len(words) - 1), abs=1e-5)
    assert np.abs(spared.loss_increase).max() > 0.01
    with pytest.raises(ValueError, match="law/7 predicts nothing at the tokens 'after the first token'"):
        mask_dimensions(model, [Prompt("court", "law", "law/7", "identify")], [3], counted_at="after the first token")


def test_tokens_of_high_norm_are_found_row_by_row_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(replacements, "HIGH_NORM", 1.1)
    monkeypatch.setattr(replacements, "BATCH_SIZE", 3)
    together = replacements.tokens_in(model, model.tokenize([p.text for p in PROMPTS]), "without high-norm tokens")
    n_high = 0
    for row, prompt in zip(together, PROMPTS, strict=True):
        tokens = model.tokenize([prompt.text])
        _, cache = model.run_with_cache(tokens)
        kept = [place > 0 for place in range(tokens.ids.shape[1])]
        for layer in range(model.n_layers):
            norms = cache[f"blocks.{layer}.hook_resid_post"][0].norm(dim=-1).tolist()
            middle = sorted(norms)[(len(norms) - 1) // 2]
            kept = [keep and norm <= 1.1 * middle for keep, norm in zip(kept, norms, strict=True)]
        assert row.tolist() == kept + [False] * (len(row) - len(kept))
        n_high += len(kept) - 1 - sum(kept)
    assert n_high > 0


def test_progress_ends_at_the_total_and_the_model_is_left_as_it_was() -> None:
    model = tiny_model()
    tokens = model.tokenize([PROMPTS[0].text])
    before = model.logits(tokens)
    seen: list[tuple[int, int]] = []
    mask_dimensions(model, PROMPTS, DIMENSIONS, progress=lambda *step: seen.append(step))
    assert seen[-1] == (12, 12)
    assert torch.equal(model.logits(tokens), before)


def items() -> list[ChoiceItem]:
    return [
        ChoiceItem("q0", "law", "test", "the court shall", (" sum", " is the river", " cell .", " x"), 0),
        ChoiceItem("q1", "code", "test", "x", (" y", " is a cell", " was", " of it"), 2),
    ]


def test_choices_are_scored_by_the_summed_likelihood_of_their_tokens() -> None:
    model = tiny_model("gemma2")
    result = mask_choices(model, items(), [3])
    for row, item in enumerate(items()):
        for column, choice in enumerate(item.choices):
            text = item.prompt + choice

            def zero(values: torch.Tensor, layer: int) -> None:
                values[..., 3] = 0.0

            for edit, found in ((nothing, result.baseline), (zero, result.masked[0])):
                total = hooked_loss(model, text, edit) * len(text.split())  # mean over all tokens after BOS
                question = hooked_loss(model, item.prompt, edit) * len(item.prompt.split())
                assert found[row, column] == pytest.approx(-(total - question), abs=1e-4)
    assert result.masked.shape == (1, 2, 4)


def test_choices_under_the_other_modes_take_their_values_from_reference_text() -> None:
    model = tiny_model()
    zero, mean = (mask_choices(model, items(), [3], mode=mode, reference=PROMPTS) for mode in ("zero", "mean"))
    np.testing.assert_allclose(zero.baseline, mean.baseline, atol=1e-5)
    assert not np.allclose(zero.masked, mean.masked)
    with pytest.raises(ValueError, match="reference="):
        mask_choices(model, items(), [3], mode="mean")


def test_exam_items_keep_their_answer_in_a_place_that_says_nothing() -> None:
    exam = load_behaviours("exam", split="test")
    found = choice_items(exam)
    for item, choice in zip(exam, found, strict=True):
        assert choice.choices[choice.answer] == item.answers[0]
        assert set(choice.choices) == {*item.answers, *item.distractors}
        assert (choice.domain, choice.split, choice.prompt) == (item.kind, "test", item.prompt)
    assert np.bincount([choice.answer for choice in found]).min() > 0.15 * len(found)
    with pytest.raises(ValueError, match="use the exam set"):
        choice_items(load_behaviours("refusal"))


def test_wrong_arguments_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"dimensions \[16\] are out of range; choose from 0 to 15"):
        mask_dimensions(model, PROMPTS, [3, 16])
    with pytest.raises(ValueError, match="at least one"):
        mask_dimensions(model, PROMPTS, [])
    with pytest.raises(ValueError, match="no prompts of domain 'physics'"):
        mask_dimensions(model, PROMPTS, {"physics": [3]})
    with pytest.raises(ValueError, match="no prompts to mask"):
        mask_dimensions(model, [], [3])
    with pytest.raises(ValueError, match="unknown set of tokens 'some'"):
        inspect.unwrap(replacements.tokens_in)(model, model.tokenize(["x"]), "some")
    with pytest.raises(ValueError, match="unknown mask mode 'median'"):
        inspect.unwrap(replacements.make_replacement)(model, "median", PROMPTS, PROMPTS)
    with pytest.raises(ValueError, match="no domain other than 'law'"):
        mask_dimensions(model, PROMPTS[:2], [3], mode="resample")
    with pytest.raises(ValueError, match="needs exam items, and none were given"):
        mask_choices(model, [], [3])
    short = tiny_model("qwen3", bos=False)
    with pytest.raises(ValueError, match="law/7 has one token"):
        mask_dimensions(short, [*PROMPTS, Prompt("court", "law", "law/7", "test")], [3])
