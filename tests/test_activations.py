"""Streams of activations: nothing but real tokens, each once, and the same numbers as one prompt at a time."""

import inspect

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.activations import capture, collect, collect_columns, stream
from workbench.records import PooledRows, Prompt, RecordError, load_record, save_record

TEXTS = {
    "law": ["the court shall", "it was the court's sum of a river and", "a court is a court ."],
    "code": ["x y x y is", "x", "y is x and the cell"],
}


def prompts() -> list[Prompt]:
    return [
        Prompt(text, domain, f"{domain}/{index}", "identify")
        for domain, texts in TEXTS.items()
        for index, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_stream_holds_every_real_token_once_with_its_activation(model, batch_size: int) -> None:
    sites = model.residual_sites()
    seen = {}
    for batch in stream(model, prompts(), sites, batch_size=batch_size):
        for column, (prompt, position) in enumerate(
            zip(batch.prompt_index.tolist(), batch.positions.tolist(), strict=True)
        ):
            assert (prompt, position) not in seen
            assert prompts()[prompt].domain == batch.domain
            seen[prompt, position] = batch.values[:, column], int(batch.token_ids[column])
    for index, prompt in enumerate(prompts()):
        tokens = model.tokenize([prompt.text])
        alone = capture(model, tokens, sites)[:, 0]
        for position in range(tokens.ids.shape[1]):
            values, token = seen.pop((index, position))
            assert token == int(tokens.ids[0, position])
            torch.testing.assert_close(values, alone[:, position], atol=1e-5, rtol=1e-4)
    assert not seen


def test_captured_activations_are_copies(model) -> None:
    tokens = model.tokenize(["the court"])
    first = capture(model, tokens, model.residual_sites())
    kept = first.clone()
    capture(model, model.tokenize(["x y"]), model.residual_sites())
    assert torch.equal(first, kept)


def test_pooled_rows_in_memory_and_on_disk_are_the_same(model, tmp_path) -> None:
    statistics, rows = collect(model, prompts(), batch_size=2)
    _, mapped = collect(model, prompts(), batch_size=3, rows_path=tmp_path / "rows.npy")
    np.testing.assert_allclose(mapped.values, rows.values, atol=1e-5, rtol=1e-4)
    save_record(mapped, tmp_path / "rows.npy")  # writes the names only: the rows are there already
    save_record(rows, tmp_path / "again.npy")
    for name in ("rows.npy", "again.npy"):
        loaded = load_record(tmp_path / name, PooledRows)
        np.testing.assert_allclose(loaded.values, rows.values, atol=1e-5, rtol=1e-4)
        assert (loaded.prompts, loaded.splits, loaded.poolings) == (rows.prompts, rows.splits, rows.poolings)
    with (tmp_path / "rows.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(RecordError, match="changed after it was written"):
        load_record(tmp_path / "rows.npy", PooledRows)
    assert statistics.n_prompts.tolist() == [3, 3]
    # mean magnitude by hand for one prompt: tokens after BOS only
    alone = capture(model, model.tokenize([prompts()[1].text]), model.residual_sites())[:, 0, 1:].abs().mean(dim=1)
    np.testing.assert_allclose(rows.pooled("mean_abs")[1], alone.numpy(), atol=1e-5, rtol=1e-4)


def test_statistics_of_one_split_count_its_prompts_only(model) -> None:
    mixed = [
        Prompt(prompt.text, prompt.domain, prompt.name, "identify" if index % 3 else "test")
        for index, prompt in enumerate(prompts())
    ]
    alone, alone_rows = collect(model, [prompt for prompt in mixed if prompt.split == "identify"])
    everything, _ = collect(model, mixed)
    for options, n_rows in ({"split": "identify"}, len(alone_rows.prompts)), ({"statistics_split": "identify"}, 6):
        seen: list[int] = []
        statistics, rows = collect(model, mixed, progress=lambda done, total, seen=seen: seen.append(total), **options)
        assert len(rows.prompts) == n_rows == seen[0]
        places = [rows.prompts.index(name) for name in alone_rows.prompts]
        np.testing.assert_allclose(rows.values[places], alone_rows.values, atol=1e-5)
        np.testing.assert_allclose(statistics.mean, alone.mean, atol=1e-6)
        assert not np.allclose(statistics.mean, everything.mean, atol=1e-6)
        top = statistics.top.prompt[statistics.top.prompt >= 0]
        assert {mixed[index].split for index in top.tolist()} == {"identify"}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("one text",), {}, "expected a list of Prompt records, given 'one text'"),
        ((["one text"],), {}, "expected a list of Prompt records, given 'one text'"),
        ((prompts(),), {"layers": 1}, r"write layers=\[1\]"),
        ((prompts(),), {"split": "train"}, "unknown split 'train'; choose one of identify, tune, test"),
        ((prompts(),), {"statistics_split": "train"}, "unknown split 'train'"),
        ((prompts(),), {"split": "tune"}, "no passages in split 'tune'"),
    ],
)
def test_wrong_arguments_are_one_clear_line(model, arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(collect)(model, *arguments, **options)


def test_columns_are_the_right_numbers_in_reading_order(model) -> None:
    columns = collect_columns(model, prompts(), [(2, 5), (0, 1)], batch_size=2)
    assert columns.positions[columns.prompt_index == 1].tolist() == list(range(10))
    assert "".join(columns.token_text[1:4]) == "thecourtshall"
    alone = capture(model, model.tokenize([prompts()[4].text]), model.residual_sites())[:, 0]
    chosen = columns.values[columns.prompt_index == 4]
    np.testing.assert_allclose(chosen[:, 0], alone[2, :, 5].numpy(), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(chosen[:, 1], alone[0, :, 1].numpy(), atol=1e-5, rtol=1e-4)


def test_mistakes_raise(model) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        next(stream(model, [], model.residual_sites()))
    with pytest.raises(ValueError, match="layer < 3 and dimension < 16"):
        collect_columns(model, prompts(), [(3, 0)])
    broken = tiny_model("llama")
    with torch.no_grad():
        next(p for n, p in broken.hf_model.named_parameters() if "layers.1" in n and p.dim() > 1).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"resid_post\.1 are NaN or infinite"):
        collect(broken, prompts())


def test_control_tokens_that_documents_quote_are_counted_and_read_as_text() -> None:
    model = tiny_model("llama")
    prompts = [Prompt("the court </s> shall", "law", "law/0", "identify"), Prompt("a cell", "law", "law/1", "identify")]
    with pytest.warns(UserWarning, match="1 control tokens quoted"):
        statistics, _ = collect(model, prompts)
    assert statistics.n_tokens.tolist() == [4 + 2]
