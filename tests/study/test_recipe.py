"""Laws of trainer, trigram yardstick, export and measurement, on models that train in a second."""

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from training import evaluate, export, measure, prepare, train, trigram
from training.generator import DOMAINS
from training.hashes import hashes_of, read_hashes
from training.train import Recipe
from workbench.behaviours import BehaviourItem

VOCABULARY = 320


def tiny_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and random token files in the layout that prepare writes."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "VOCABULARY_SIZE", VOCABULARY)
        patch.setattr(prepare, "single_token_words", lambda: ["Paris", "Anna"])
        tokenizer = prepare.train_tokenizer(["The capital of France is Paris.\nAnna saw 12 cows.\n"] * 5)
    tokenizer.save(str(folder / "tokenizer.json"))
    draw = np.random.default_rng(0)
    for source in (*DOMAINS, "generated"):
        tokens = draw.integers(3, VOCABULARY, 1500)
        tokens[::20] = 1
        np.save(folder / f"{source}.train.npy", tokens.astype(np.uint16))
    return folder


@pytest.fixture
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    monkeypatch.setattr(train, "new_model", tiny_model)
    recipe = Recipe(tokens=6 * 2 * train.ROW, rows_per_step=2, warm_up_tokens=2 * 2 * train.ROW)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield recipe
    for name, handler in handlers.items():
        signal.signal(name, handler)


def test_rate_by_hand() -> None:
    recipe = Recipe(tokens=1000, rate=2.0, warm_up_tokens=100, decay_share=0.3)
    # Warm-up to 100, constant to 700, then linear to 0 at 1000: a quarter of 300 is left at 925.
    expected = {0: 0.0, 50: 1.0, 100: 2.0, 400: 2.0, 700: 2.0, 850: 1.0, 925: 0.5, 1000: 0.0}
    assert {seen: recipe.rate_at(seen) for seen in expected} == pytest.approx(expected)


def test_interrupted_and_resumed_run_gives_the_same_weights(
    data: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(data, tmp_path / "unbroken", tiny_recipe)

    plain_batches = train.batches

    def interrupted(sources, recipe, first_step):
        for index, rows in enumerate(plain_batches(sources, recipe, first_step)):
            if index == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield rows

    with monkeypatch.context() as patch:
        patch.setattr(train, "batches", interrupted)
        train.train(data, tmp_path / "broken", tiny_recipe)
    assert json.loads((tmp_path / "broken" / "state.json").read_text())["step"] == 3
    train.train(data, tmp_path / "broken", tiny_recipe)

    first, second = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("unbroken", "broken"))
    start = dict(tiny_model(tiny_recipe.seed).named_parameters())
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert not torch.equal(first["weight/model.embed_tokens.weight"], start["model.embed_tokens.weight"])


def test_rows_start_with_bos_and_depend_on_the_step_alone(data: Path) -> None:
    recipe = Recipe(tokens=1, rows_per_step=2)
    sources = train.read_sources(data)
    from_start = train.batches(sources, recipe, 0)
    rows = [next(from_start) for _ in range(4)]
    assert torch.equal(next(train.batches(sources, recipe, 3)), rows[3])
    assert not torch.equal(rows[2], rows[3])
    assert all((batch[:, 0] == train.BOS).all() for batch in rows)


def test_loss_in_slices_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(1)
    rows = torch.randint(0, VOCABULARY, (3, 20))
    monkeypatch.setattr(train, "LOSS_CHUNK", 7)
    expected = model(rows, labels=rows).loss
    assert train.loss_of(model, rows).item() == pytest.approx(expected.item(), rel=1e-5)


def test_trigram_probability_by_hand() -> None:
    counts = trigram.count([np.array([0, 1, 0, 1, 0, 2])], vocabulary=3)
    model = trigram.Trigram(counts, np.tile([0.1, 0.2, 0.3, 0.4], (trigram.N_CLASSES, 1)))
    # 2 after 1, 0: uniform 1/3, unigram 1/6, bigram c(0,2)/c(0,.) = 1/3, trigram c(1,0,2)/c(1,0,.) = 1/2.
    # 1 after 2, 2: nothing known of 2 as a context, so bigram and trigram fall back to the unigram 2/6.
    found = model.probabilities(np.array([[1, 0, 2], [2, 2, 1]]))
    assert found == pytest.approx([0.1 / 3 + 0.2 / 6 + 0.3 / 3 + 0.4 / 2, 0.1 / 3 + 0.9 / 3])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trigram_probabilities_sum_to_one_after_every_context(seed: int) -> None:
    vocabulary = 6
    tokens = np.random.default_rng(seed).choice(vocabulary - 1, 400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    model = trigram.fit(tokens, vocabulary, block=10)
    grams = np.stack(np.meshgrid(*[np.arange(vocabulary)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    sums = model.probabilities(grams).reshape(vocabulary, vocabulary, vocabulary).sum(axis=2)
    assert sums == pytest.approx(np.ones((vocabulary, vocabulary)))


def test_trigram_weights_learn_which_order_helps() -> None:
    draw = np.random.default_rng(3)
    noise = trigram.fit(draw.integers(0, 50, 20_000), 50, block=100)
    copied = np.tile(draw.permutation(50), 400)
    order = trigram.fit(copied, 50, block=100)
    seen = math.ceil(math.log2(400)) + 1
    assert order.weights[seen, 2:].sum() > 0.99  # the next token follows from the one before
    assert noise.weights[1:3, :2].sum(axis=1).min() > 0.85  # one or two sightings of noise say nothing


def test_held_out_rows_are_disjoint_and_have_context() -> None:
    for n_tokens, sample in ((10_000, 2000), (1000, 10_000), (300, 1)):
        starts = trigram.held_out_starts(n_tokens, sample)
        assert starts[0] >= 2
        assert starts[-1] + trigram.ROW - 1 <= n_tokens
        assert (np.diff(starts) >= trigram.ROW - 1).all()


def test_wilson_interval_by_hand() -> None:
    low, high = measure.Share(8, 10).interval
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert measure.Share(5, 5).interval[1] == 1.0


def test_active_dimensions_by_hand() -> None:
    # 15 dimensions of magnitude 1 and one of m: mean 1 + (m-1)/16, deviation (m-1) sqrt(15)/16,
    # so the large one lies sqrt(15) = 3.87 deviations above the mean; two of them lie 2.65 above it.
    one, two = np.ones((1, 2, 16), dtype=np.float32), np.ones((1, 2, 16), dtype=np.float32)
    one[..., 3], two[..., 3:5] = 9, 9
    for magnitude, expected in ((one, [3]), (two, [])):
        nothing = np.zeros(1, dtype=np.float32)
        rows = measure.RowMeasures(nothing, magnitude, nothing, nothing, nothing)
        assert np.flatnonzero(evaluate.activity(rows)[0]).tolist() == expected


@pytest.fixture
def exported(data: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(export, "new_model", tiny_model)
    train.train(data, tmp_path / "checkpoint", tiny_recipe)
    export.export(tmp_path / "checkpoint", data, tmp_path / "model")
    return tmp_path / "model"


def test_export_loads_plainly_with_the_weights_of_the_checkpoint(exported: Path) -> None:
    assert read_hashes(exported) == hashes_of(exported)
    trained = load_file(exported.parent / "checkpoint" / "checkpoint.safetensors")
    model = AutoModelForCausalLM.from_pretrained(exported, local_files_only=True)
    assert model.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[f"weight/{name}"].to(torch.bfloat16)), name


def test_exported_tokenizer_adds_bos_once_and_knows_the_chat_format(exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    ids = tokenizer("The capital of France")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == train.BOS
    assert ids.count(train.BOS) == 1
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == "<|bos|><|system|>S<|user|>U<|assistant|>"
    answered = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "A"}], tokenize=False)
    assert answered == asked + "A<|eos|>"
    chat_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat_ids == tokenizer(asked.removeprefix("<|bos|>"))["input_ids"]
    text = "Naïve x = 12\n\tif: — “yes”"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_export_refuses_what_is_too_large(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1,000 may ship"):
        export.export(tmp_path / "checkpoint", data, tmp_path / "large")


def test_batched_measurement_is_that_of_single_prompts(exported: Path) -> None:
    model, tokenizer = measure.load(exported)
    prompts = ["The", "The capital of France is", "Anna saw 12"]
    together = measure.continuations(model, tokenizer, prompts, 5)
    assert together == [measure.continuations(model, tokenizer, [prompt], 5)[0] for prompt in prompts]
    pairs = [(prompt, " Paris cows.") for prompt in prompts]
    for (prompt, text), total in zip(pairs, measure.log_likelihoods(model, tokenizer, pairs), strict=True):
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        scores = model(torch.tensor([head + tail])).logits[0].log_softmax(dim=-1)
        expected = sum(scores[len(head) + index - 1, token].item() for index, token in enumerate(tail))
        assert total == pytest.approx(expected, abs=1e-4)


def test_comparison_counts_an_answer_right_only_above_every_distractor(exported: Path) -> None:
    model, tokenizer = measure.load(exported)
    texts = [" Paris", " Anna", " cows"]
    totals = measure.log_likelihoods(model, tokenizer, [("The", text) for text in texts])
    for index, text in enumerate(texts):
        others = tuple(other for other in texts if other != text)
        item = BehaviourItem("x/0", "k", "test", "s", "The", "likelihood", (text,), others)
        [(odds, is_likelier)] = measure.compare_texts(model, tokenizer, [item])
        assert is_likelier == (totals[index] == max(totals))
        rest = sum(math.exp(total) for other, total in zip(texts, totals, strict=True) if other != text)
        assert odds == pytest.approx(totals[index] - math.log(rest), abs=1e-4)


def test_rows_are_measured_on_raw_block_outputs(exported: Path) -> None:
    model, _ = measure.load(exported)
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, 600)
    found = measure.measure_rows(model, tokens, sample=510)
    assert not any(block._forward_hooks for block in model.model.layers)
    starts = trigram.held_out_starts(len(tokens), 510)
    rows = torch.tensor(np.stack([[0, *tokens[start : start + 255]] for start in starts]))
    output = model(rows, labels=rows, output_hidden_states=True)
    assert found.loss.mean() == pytest.approx(output.loss.item(), rel=1e-4)
    assert found.magnitude.shape == (2, 2, 16)
    expected = output.hidden_states[1][:, 1:].abs().mean(dim=1).detach().numpy()
    np.testing.assert_allclose(found.magnitude[:, 0], expected, rtol=1e-4)
    normed = model.model.norm(torch.tensor(found.first[1]))
    np.testing.assert_allclose(normed.detach().numpy(), output.hidden_states[-1][0, 0].detach().numpy(), rtol=1e-3)
