"""Specifications and plans: what is refused, what is counted, and plans of large models from their config alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.compared import small_spec
from workbench.comparison.api import prepare_spec
from workbench.comparison.plan import (
    TaskFacts,
    make_plan,
    memory_bytes,
    plan_without_weights,
    searched_layers,
    shape_of,
)
from workbench.comparison.spec import ModelSpec, SizeSpec, Spec, SpecError, TaskSpec, left_out, read_spec, spec_from
from workbench.interventions import METHODS, every_card
from workbench.tasks.builtin import Facts
from workbench.tasks.refusal import Direction

SPECS = Path(__file__).parents[2] / "specs"
TASKS = [{"kind": "refusal"}]


def content(**changes: Any) -> dict[str, Any]:
    return {"name": "mine", "methods": ["cds"], "tasks": TASKS} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": ["cds"]}, "unknown key 'metods'"),
        ({"budgets": {"kls": [0.1]}}, r"\[budgets\]: unknown key 'kls'"),
        ({"model": {"shape": {"width": 3}}}, r"\[model.shape\]: unknown key 'width'"),
        ({"tasks": [{"kind": "refusal", "domain": "law"}]}, "unknown key 'domain'"),
        ({"tasks": [{}]}, "'kind' is missing"),
        ({"tasks": "refusal"}, "tasks = 'refusal' should be a list"),
        ({"k": "many"}, "k = 'many' should be a whole number"),
        ({"k": True}, "k = True should be a whole number"),
        ({"sizes": {"curves": 1}}, r"\[sizes\]: curves = 1 should be a truth value"),
        ({"sizes": 3}, "sizes = 3 should be a table of keys"),
        ({"methods": "cds"}, "should be a list"),
        ({"methods": ["cds", "cds"]}, "methods has 'cds' twice; list it once"),
        ({"tasks": TASKS * 2}, "task 'refusal' is listed twice"),
        ({"budgets": {"kl": [0.1, 0.1]}}, "kl has 0.1 twice"),
        ({"budgets": {"kl": [-0.1]}}, r"\[budgets\]: kl\[0\] = -0.1 should be greater than 0"),
        ({"budgets": {"kl": []}}, "no budget"),
        ({"sizes": {"n_random": 3}}, "n_random = 3 should be greater than or equal to 5"),
        ({"sizes": {"n_test": 1}}, "n_test = 1 should be greater than or equal to 2"),
        ({"scope": "everywhere"}, "scope = 'everywhere' should be 'all', 'all_but_first'"),
        ({"seeds": []}, r"seeds = \[\] should not be empty"),
    ],
)
def test_what_a_specification_may_not_hold(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_from(content(**changes), "mine.toml")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name =", encoding="utf-8")
    with pytest.raises(SpecError, match=r"bad\.toml is not TOML"):
        read_spec(tmp_path / "bad.toml")
    with pytest.raises(SpecError, match="cannot read"):
        read_spec(tmp_path / "none.toml")


def test_unknown_methods_and_tasks_are_named_before_anything_is_loaded() -> None:
    with pytest.raises(SpecError, match="unknown method 'magic'"):
        plan_without_weights(spec_from(content(methods=["magic"]), "mine.toml"))
    with pytest.raises(SpecError, match="unknown task 'dancing'"):
        plan_without_weights(spec_from(content(tasks=[{"kind": "dancing"}]), "mine.toml"))
    with pytest.raises(SpecError, match="reads a file"):
        plan_without_weights(spec_from(content(tasks=[{"kind": "exam"}]), "mine.toml"))


def test_only_what_changes_results_is_in_the_digest() -> None:
    spec = spec_from(content(), "mine.toml")
    other_plan = dataclasses.replace(spec, model=dataclasses.replace(spec.model, teraflops=7.0))
    assert other_plan.digest == spec.digest
    assert dataclasses.replace(spec, k=5).digest != spec.digest
    assert dataclasses.replace(spec, model=ModelSpec(dtype="bfloat16")).digest != spec.digest


def facts(name: str, **unmet: str) -> TaskFacts:
    reasons = {arm.name: unmet.get(arm.name.replace("-", "_"), "") for arm in every_card()} | {"whole-dimension": ""}
    return TaskFacts(name, reasons, n_tune=100, n_test=100, n_positions=10.0, n_new=3, n_fit=12)


def test_cells_are_counted_by_hand() -> None:
    # 3 methods, complement, top-k, noise, shuffled: 7 arms of one draw; random-k: 5 draws. Each at one budget with two
    # settings and one test. Unsteered and prompt-only are one cell each.
    spec = small_spec()
    plan = make_plan(spec, [facts("a"), facts("b", austeer="no pairs", prompt_only="no words")], n_layers=4, n_heads=8)
    own = [[cell for cell in plan.cells if cell.task == task] for task in ("a", "b")]
    assert [len(cells) for cells in own] == [(7 + 5) * 3 + 2, (6 + 5) * 3 + 1]
    assert plan.matrix["b"]["austeer"] == "no pairs"
    searched, tested = 12 * 2 + 11 * 2, 12 + 11
    assert plan.n_generated == 3 * (searched * 8 + (tested + 3) * 12)
    assert plan.continuations == 0  # a task that writes is measured on its own texts
    # over 4 neutral passages of 9 positions: three passes in every search, one in every test
    assert plan.neutral_passes == searched * 3 + tested + 3
    # 12 texts of each side are run once for all arms, and for both layers of austeer
    assert [plan.work[task].n_fitted for task in ("a", "b")] == [24 * (1 + 2), 24]
    written = 12 * (tested + 3)  # texts of 3 new tokens, whose loss is measured
    run = plan.n_generated / 3 + written + 24 * 4
    assert plan.n_positions == pytest.approx(10 * run + 3 * written + plan.neutral_passes * 36)


def test_a_task_fitted_on_the_same_data_is_not_fitted_or_searched_again() -> None:
    one, other = facts("a"), dataclasses.replace(facts("a"), reuses_budgets=True)
    plan, twin = (make_plan(small_spec(("austeer",)), [task], n_layers=4, n_heads=8) for task in (one, other))
    assert plan.cells == twin.cells
    assert twin.work["a"].n_fitted == 0
    assert plan.neutral_passes - twin.neutral_passes == 3 * sum(cell.stage == "search" for cell in plan.cells)


def test_dials_cost_their_steps() -> None:
    spec = dataclasses.replace(
        small_spec(("dyn-scalar",)), sizes=SizeSpec(n_layers=2, n_optimisation_prompts=5, n_optimisation_steps=7)
    )
    work = make_plan(spec, [facts("a")], n_layers=4, n_heads=8).work["a"]
    assert work.n_fitted == 24 + 4 * 7 * 5


def test_damage_is_in_the_plan() -> None:
    silent = dataclasses.replace(facts("a"), n_new=0, n_off_target=5)
    with_it, without = (
        make_plan(small_spec(), [one], n_layers=4, n_heads=8)
        for one in (silent, dataclasses.replace(silent, n_off_target=0))
    )
    n_tests = sum(cell.stage == "test" for cell in with_it.cells)
    assert with_it.continuations == n_tests
    assert with_it.work["a"].n_off_target == 5 * n_tests
    assert with_it.n_positions - without.n_positions == 10 * 5 * n_tests


def test_budgets_of_coordinates_are_for_arms_that_count() -> None:
    spec = small_spec()
    spec = dataclasses.replace(spec, budgets=dataclasses.replace(spec.budgets, kl=(), coordinates=(4,)))
    plan = make_plan(spec, [facts("a")], n_layers=4, n_heads=8)
    assert {cell.arm for cell in plan.cells if cell.budget == "coordinates"} == {"cds", "austeer", "random-k", "top-k"}


def test_the_same_task_twice_makes_duplicate_cells() -> None:
    with pytest.raises(SpecError, match="duplicate cells"):
        make_plan(small_spec(), [facts("a"), facts("a")], n_layers=4, n_heads=8)


def test_layers_are_distinct_and_in_range() -> None:
    for n_layers in range(1, 12):
        for n in range(1, 12):
            found = searched_layers(SizeSpec(n_layers=n), n_layers)
            assert len(set(found)) == len(found) == min(n, n_layers)
            assert all(0 <= layer < n_layers for layer in found)
    assert searched_layers(SizeSpec(layers=(3, 1)), 4) == (3, 1)
    with pytest.raises(SpecError, match="out of range"):
        searched_layers(SizeSpec(layers=(4,)), 4)


COMPARISONS = [path for path in sorted(SPECS.glob("*.toml")) if not path.stem.endswith("-masking")]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_shipped_specification_can_be_planned_without_weights(path: Path) -> None:
    spec = read_spec(path)
    plan, shape = plan_without_weights(spec)
    assert plan.cells
    assert plan.n_positions > 0
    assert sum(memory_bytes(shape, spec.model.dtype, 512).values()) > shape.n_parameters
    quick, _ = plan_without_weights(spec.quick())
    assert len(quick.cells) < len(plan.cells)


@pytest.mark.parametrize(("name", "billions"), [("gemma-2-2b-it", 2.614), ("qwen3-8b", 8.19)])
def test_sizes_of_known_models(name: str, billions: float) -> None:
    """Published sizes: 2.61 B and 8.19 B parameters."""
    shape = shape_of(read_spec(SPECS / f"{name}-mmlu.toml").model)
    assert shape.n_parameters / 1e9 == pytest.approx(billions, rel=0.002)
    assert memory_bytes(shape, "bfloat16", 512)["weights"] == 2 * shape.n_parameters


def test_a_config_is_enough_for_a_plan(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = Spec("folder", ("cds",), small_spec().tasks, model=ModelSpec(name=str(tmp_path)))
    spec = dataclasses.replace(spec, tasks=spec_from(content(), "mine.toml").tasks)
    plan, shape = plan_without_weights(spec)
    # embeddings in and out, and per block queries and outputs of 64 x 64, keys and values of 64 x 32, three 64 x 128
    assert shape.n_parameters == 2 * 6400 + 5 * (2 * 4096 + 2 * 2048 + 3 * 8192)
    assert plan.layers == (0, 2, 4)


def test_a_model_that_is_not_at_hand_needs_a_shape() -> None:
    with pytest.raises(SpecError, match=r"\[model.shape\]"):
        shape_of(ModelSpec(name="nobody/nothing-of-this-name"))


def test_a_quick_comparison_says_what_it_leaves_out_and_never_does_more() -> None:
    whole = read_spec(SPECS / "builtin.toml")
    text = left_out(whole, whole.quick())
    assert text.startswith("left out: 4 of 5 budgets, 6 domains, strength curves and usable bands; 2 instead of 3 ")
    assert f"12 instead of {whole.sizes.n_test} test items" in text
    assert text.endswith("still 5 draws of random-k")
    small = dataclasses.replace(whole, sizes=SizeSpec(n_test=4, n_neutral=3, n_layers=1))
    assert (small.quick().sizes.n_test, small.quick().sizes.n_neutral, small.quick().sizes.n_layers) == (4, 3, 1)


def test_the_cells_of_a_plan_without_weights_are_those_of_the_run() -> None:
    """For every kind of task on what ships and everything it can be about."""
    domains = [TaskSpec(kind, domains=("law",)) for kind in ("domain-loss", "domain-share", "domain-exam")]
    refusals = [TaskSpec("refusal", about=about) for about in get_args(Direction)]
    facts = [TaskSpec("facts", about=about) for about in get_args(Facts)]
    tasks = (*domains, *refusals, *facts, TaskSpec("persona"), TaskSpec("choices"))
    spec = Spec("all", tuple(METHODS), tasks)
    assert plan_without_weights(spec)[0].cells == prepare_spec(spec).plan.cells
