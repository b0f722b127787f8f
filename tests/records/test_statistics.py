"""Statistics folds: agreement with plain float64 NumPy, and shards that merge to one pass."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.dimensions.statistics import (
    POOLINGS,
    StatisticsFold,
    active_dimensions,
    join_rows,
    merge,
    pool,
    shift_prompts,
)
from workbench.records import Activations, DimensionStatistics, PooledRows, Site

N_LAYERS, D_MODEL, N_TOP = 2, 12, 3
DOMAINS = ("law", "code")


def make_batch(prompts: dict[int, torch.Tensor], domain: str = "law") -> Activations:
    """A batch from activations [layer, token, d_model] per prompt index; token ids tell prompts and positions apart."""
    lengths = {index: values.shape[1] for index, values in prompts.items()}
    positions = torch.cat([torch.arange(length) for length in lengths.values()])
    index = torch.cat([torch.full((length,), prompt) for prompt, length in lengths.items()])
    values = torch.cat(list(prompts.values()), dim=1)
    sites = tuple(Site("resid_post", layer) for layer in range(values.shape[0]))
    return Activations(domain, sites, values, 100 * index + positions, index, positions)


def random_prompts(seed: int, n: int, *, offset: float = 0.0, ties: bool = False) -> dict[int, torch.Tensor]:
    rng = np.random.default_rng(seed)
    prompts = {}
    for index in range(n):
        values = rng.normal(size=(N_LAYERS, int(rng.integers(2, 7)), D_MODEL))
        values = np.round(values) if ties else values
        prompts[index] = torch.tensor(values + offset, dtype=torch.float32)
    return prompts


def fold(batches: list[Activations], n_top: int = N_TOP) -> DimensionStatistics:
    statistics = StatisticsFold(DOMAINS, N_LAYERS, D_MODEL, n_top)
    for batch in batches:
        statistics.update(batch)
    return statistics.result()


def assert_same(a: DimensionStatistics, b: DimensionStatistics) -> None:
    for field in dataclasses.fields(a):
        if field.name not in ("domains", "top"):
            np.testing.assert_allclose(
                getattr(a, field.name), getattr(b, field.name), rtol=1e-9, atol=1e-9, err_msg=field.name
            )
    for field in dataclasses.fields(a.top):
        np.testing.assert_array_equal(getattr(a.top, field.name), getattr(b.top, field.name), err_msg=field.name)


def plain_top(prompts: dict[int, torch.Tensor], layer: int, dimension: int, sign: int) -> list[tuple[float, int, int]]:
    """Value, prompt and position of the best tokens by sorting them all; ties by address."""
    tokens = [
        (float(values[layer, position, dimension]), index, position)
        for index, values in prompts.items()
        for position in range(1, values.shape[1])
    ]
    return sorted(tokens, key=lambda token: (-sign * token[0], token[1], token[2]))[:N_TOP]


def test_moments_agree_with_numpy_over_all_tokens_but_the_first() -> None:
    prompts = random_prompts(0, 9)
    statistics = fold([make_batch({i: prompts[i] for i in part}) for part in ((0, 1, 2), (3,), (4, 5, 6, 7, 8))])
    rest = np.concatenate([values[:, 1:].double().numpy() for values in prompts.values()], axis=1)
    first = np.stack([values[:, 0].double().numpy() for values in prompts.values()], axis=1)
    assert statistics.n_tokens.tolist() == [rest.shape[1], 0]
    assert statistics.n_prompts.tolist() == [9, 0]
    np.testing.assert_allclose(statistics.mean[0], rest.mean(axis=1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(statistics.variance[0], rest.var(axis=1), rtol=1e-12)
    np.testing.assert_allclose(statistics.mean_magnitude[0], np.abs(rest).mean(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(statistics.max_magnitude[0], np.abs(rest).max(axis=1))
    np.testing.assert_allclose(statistics.first_mean_magnitude[0], np.abs(first).mean(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(statistics.first_max_magnitude[0], np.abs(first).max(axis=1))


def test_top_tokens_are_those_of_a_full_sort_at_both_ends() -> None:
    for seed, ties in ((1, False), (2, True)):
        prompts = random_prompts(seed, 12, ties=ties)
        statistics = fold([make_batch({i: prompts[i]}) for i in (7, 3, 11, 0, 1, 2, 4, 10, 9, 8, 6, 5)])
        for layer, dimension, end in np.ndindex(N_LAYERS, D_MODEL, 2):
            top = statistics.top
            at = (0, layer, end, slice(None), dimension)
            found = list(zip(top.value[at].tolist(), top.prompt[at].tolist(), top.position[at].tolist(), strict=True))
            assert found == plain_top(prompts, layer, dimension, (1, -1)[end])
            np.testing.assert_array_equal(top.token[at], 100 * top.prompt[at] + top.position[at])


def test_fewer_tokens_than_ranks_leave_marked_gaps() -> None:
    statistics = fold([make_batch({5: torch.ones(N_LAYERS, 2, D_MODEL)})])
    assert (statistics.top.prompt[0, ..., 0, :] == 5).all()
    assert (statistics.top.prompt[0, ..., 1:, :] == -1).all()
    assert np.isnan(statistics.top.value[0, ..., 1:, :]).all()
    assert (statistics.top.prompt[1] == -1).all()


def test_a_massive_first_position_is_counted_apart() -> None:
    values = torch.randn(N_LAYERS, 6, D_MODEL, generator=torch.Generator().manual_seed(0))
    values[:, 0, 4] = 5000.0
    statistics = fold([make_batch({0: values})])
    assert statistics.max_magnitude.max() < 10
    assert statistics.mean_magnitude.max() < 10
    assert np.nanmax(statistics.top.value) < 10
    assert not statistics.n_active[..., 4].any()
    assert (statistics.first_mean_magnitude[0, :, 4] == 5000.0).all()


def test_variance_survives_an_offset_that_defeats_single_precision_squares() -> None:
    prompts = random_prompts(3, 40, offset=1e4)
    statistics = fold([make_batch(prompts)])
    rest = np.concatenate([values[:, 1:].numpy() for values in prompts.values()], axis=1)
    exact = rest.astype(np.float64).var(axis=1)
    single = np.square(rest).mean(axis=1) - np.square(rest.mean(axis=1))
    assert np.abs(single / exact - 1).max() > 1  # the planted wrong way: float32 sums of squares
    np.testing.assert_allclose(statistics.variance[0], exact, rtol=1e-9)


@given(
    seed=st.integers(0, 10_000),
    shards=st.lists(st.integers(0, 2), min_size=2, max_size=10),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    ties=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_shards_merge_to_one_pass_in_any_grouping(seed: int, shards: list[int], scale: float, ties: bool) -> None:
    prompts = random_prompts(seed, len(shards), offset=scale, ties=ties)
    batches = [make_batch({i: values}, DOMAINS[i % 2]) for i, values in prompts.items()]
    a, b, c = (
        fold([batch for batch, shard in zip(batches, shards, strict=True) if shard == part]) for part in range(3)
    )
    assert_same(merge(merge(a, b), c), fold(batches))
    assert_same(merge(a, merge(b, c)), merge(merge(c, b), a))


def test_parts_collected_on_machines_of_their_own_give_one_pass() -> None:
    """Every machine counts its prompts from 0; addresses and rows are put in one order afterwards."""
    prompts = random_prompts(6, 7)
    here, there = ({i: values for i, values in prompts.items() if (i < 3) is first} for first in (True, False))
    local = {i - 3: values for i, values in there.items()}
    batches = [make_batch(here), make_batch(local, "code")]
    whole = fold([make_batch(here), make_batch(there, "code")])
    ids = dataclasses.replace(whole.top, token=np.where(whole.top.token >= 0, whole.top.token % 100, -1))
    a, b = (fold([batch]) for batch in batches)
    merged = merge(a, shift_prompts(b, 3))
    top = dataclasses.replace(merged.top, token=np.where(merged.top.token >= 0, merged.top.token % 100, -1))
    assert_same(dataclasses.replace(merged, top=top), dataclasses.replace(whole, top=ids))
    rows = [
        PooledRows(tuple("abcd"[: len(found)]), (batch.domain,) * len(found), ("test",) * len(found), POOLINGS, found)
        for batch, found in ((batch, pool(batch)[1]) for batch in batches)
    ]
    joined = join_rows(rows)
    assert joined.domains == ("law",) * 3 + ("code",) * 4
    np.testing.assert_array_equal(joined.values, pool(make_batch(prompts))[1])
    with pytest.raises(ValueError, match="rows of 2 kinds"):
        join_rows([rows[0], dataclasses.replace(rows[1], poolings=POOLINGS[:1], values=rows[1].values[:, :1])])


def test_many_batches_keep_the_top_tokens_that_one_batch_gives() -> None:
    prompts = random_prompts(4, 120, ties=True)
    one_by_one = fold([make_batch({i: values}) for i, values in prompts.items()])
    assert_same(one_by_one, fold([make_batch(prompts)]))


def test_three_sigma_rule_on_a_hand_worked_row() -> None:
    row = np.ones(12)
    row[3] = 100.0  # mean 9.25, standard deviation 27.4: the mark is 91.3
    assert active_dimensions(row).tolist() == [False] * 3 + [True] + [False] * 8
    row[4] = 100.0  # mean 17.5, standard deviation 36.9: two equals hide each other
    assert not active_dimensions(row).any()
    assert not active_dimensions(np.full((2, 7), 0.1)).any()


def test_activity_is_counted_per_prompt_and_layer() -> None:
    loud, quiet = torch.ones(N_LAYERS, 4, D_MODEL), torch.ones(N_LAYERS, 4, D_MODEL)
    loud[1, :, 3] = -100.0
    statistics = fold([make_batch({0: loud, 1: quiet}), make_batch({2: loud.clone()})])
    expected = np.zeros((N_LAYERS, D_MODEL))
    expected[1, 3] = 2 / 3
    np.testing.assert_array_equal(statistics.frequency[0], expected)


def test_pooled_rows_agree_with_numpy() -> None:
    prompts = random_prompts(5, 4)
    index, rows = pool(make_batch({i: prompts[i] for i in (3, 0, 2)}), POOLINGS)
    assert index.tolist() == [3, 0, 2]
    for row, prompt in zip(rows, index, strict=True):
        values = prompts[int(prompt)].double().numpy()
        rest = values[:, 1:]
        expected = [np.abs(rest).mean(1), rest.mean(1), np.abs(rest).max(1), values[:, -1], values[:, 0]]
        rms = np.sqrt(np.square(rest).mean(axis=2, keepdims=True))
        expected += [np.abs(values).mean(1), np.abs(rest / rms).mean(1)]
        np.testing.assert_allclose(row[:7], np.stack(expected), rtol=1e-5, atol=1e-6)
        assert np.isnan(row[7:]).all()  # nobody said which tokens are delimiters
    np.testing.assert_array_equal(pool(make_batch(prompts), ("last",))[1], pool(make_batch(prompts))[1][:, 3:4])


def test_delimiters_and_the_rest_are_pooled_apart() -> None:
    values = torch.arange(1.0, 6.0)[None, :, None].expand(N_LAYERS, 5, D_MODEL) * torch.tensor([-1.0] + [1.0] * 11)
    is_delimiter = torch.tensor([True, False, True, False, False])  # position 0 belongs to neither
    batch = dataclasses.replace(make_batch({0: values}), is_delimiter=is_delimiter)
    row = dict(zip(POOLINGS, pool(batch)[1][0], strict=True))
    np.testing.assert_allclose(row["delimiter"], 3.0)
    np.testing.assert_allclose(row["rest"], 11 / 3, rtol=1e-6)
    np.testing.assert_allclose(row["all"], 3.0)
    none = dict(zip(POOLINGS, pool(dataclasses.replace(batch, is_delimiter=is_delimiter & False))[1][0], strict=True))
    assert np.isnan(none["delimiter"]).all()
    np.testing.assert_allclose(none["rest"], 3.5)


def test_bfloat16_is_read_exactly() -> None:
    prompts = {i: values.bfloat16() for i, values in random_prompts(6, 5).items()}
    assert_same(fold([make_batch(prompts)]), fold([make_batch({i: values.float() for i, values in prompts.items()})]))


def test_the_input_is_left_as_it_was() -> None:
    for dtype in (torch.float32, torch.float64):
        batch = make_batch({0: torch.randn(N_LAYERS, 5, D_MODEL, dtype=dtype)})
        before = batch.values.clone()
        fold([batch])
        assert torch.equal(batch.values, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [0, 2])
def test_values_that_are_not_finite_name_the_layer(bad: float, position: int) -> None:
    values = torch.zeros(N_LAYERS, 4, D_MODEL)
    values[1, position, 7] = bad
    with pytest.raises(ValueError, match=r"resid_post\.1 are NaN or infinite in prompt 9"):
        fold([make_batch({9: values})])
    with pytest.raises(ValueError, match=r"resid_post\.1"):
        pool(make_batch({9: values}), ("mean",))


def test_batches_that_cannot_be_counted_are_refused() -> None:
    whole = make_batch({0: torch.zeros(N_LAYERS, 4, D_MODEL)})
    tail = dataclasses.replace(
        whole,
        values=whole.values[:, 1:],
        token_ids=whole.token_ids[1:],
        prompt_index=whole.prompt_index[1:],
        positions=whole.positions[1:],
    )
    with pytest.raises(ValueError, match="position 0"):
        fold([tail])
    with pytest.raises(ValueError, match="no token after the first"):
        fold([make_batch({0: torch.zeros(N_LAYERS, 1, D_MODEL)})])
    with pytest.raises(ValueError, match="unknown domain 'physics'"):
        fold([dataclasses.replace(whole, domain="physics")])
    with pytest.raises(ValueError, match="layers and dimensions"):
        fold([make_batch({0: torch.zeros(N_LAYERS + 1, 4, D_MODEL)})])
    with pytest.raises(ValueError, match="unknown poolings"):
        pool(whole, ("median",))
    with pytest.raises(ValueError, match="different domains"):
        merge(fold([whole]), StatisticsFold(("code", "law"), N_LAYERS, D_MODEL, N_TOP).result())
    with pytest.raises(ValueError, match="different shape"):
        merge(fold([whole]), fold([whole], n_top=2))
