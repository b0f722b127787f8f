"""The public names as a user meets them: texts in and out, values that say what they are, mistakes in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import workbench as wb
from tests.tiny import tiny_model
from workbench.models import HookedModel, ModelError


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model()


def test_every_public_name_is_there_and_no_other() -> None:
    assert 25 <= len(wb.__all__) <= 45
    for name in wb.__all__:
        assert getattr(wb, name) is not None
    assert {*dir(wb), "__version__"} >= set(wb.__all__)
    assert (Path(wb.__file__).parent / "py.typed").is_file()
    assert wb.CDS is wb.CriticalDimensionSteering
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = wb.nothing_of_the_kind  # pyright: ignore[reportAttributeAccessIssue]


def test_text_in_text_out(model: HookedModel) -> None:
    texts = ["the court of law", "the river"]
    ids = model.generate(model.tokenize(texts, side="left"), max_new_tokens=5)
    written = model.generate(texts, max_new_tokens=5)  # decoded after its prompt, so with the blank between them
    assert [text.strip() for text in written] == [model.decode(row).strip() for row in ids]
    assert model.generate(texts[0], max_new_tokens=5) == model.generate(texts[:1], max_new_tokens=5)[0]


def test_a_cache_of_a_text_is_that_of_its_tokens(model: HookedModel) -> None:
    name = "blocks.1.hook_resid_post"
    logits, cache = model.run_with_cache("the court of law", name)
    same, other = model.run_with_cache(model.tokenize(["the court of law"]), name)
    assert torch.equal(logits, same)
    assert torch.equal(cache[name], other[name])


def test_a_model_says_what_it_is_and_which_edits_are_active(model: HookedModel) -> None:
    quiet = repr(model)
    assert quiet.splitlines()[1] == "active edits: none"
    assert f"{model.n_layers} layers, d_model {model.d_model}" in quiet
    steering = wb.ContrastiveAddition(torch.ones(model.d_model), 1)
    with wb.steer(model, steering):
        assert repr(model).splitlines()[1] == "active edits: resid_post.1"
        with model.hooked({wb.Site("resid_post", 0): lambda values, site, call: None}):  # reads only
            assert "resid_post.0" not in repr(model)
    assert repr(model) == quiet


@pytest.mark.parametrize("name", ["to_tokens", "cfg", "run_with_hooks", "W_U"])
def test_names_of_transformer_lens_point_to_what_stands_for_them(model: HookedModel, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'; use .*model\."):
        getattr(model, name)
    assert not hasattr(model, "no_name_of_anybody")


def test_other_types_in_place_of_texts_are_one_line(model: HookedModel) -> None:
    with pytest.raises((ModelError, TypeError), match=r"texts hold int '3'|type"):
        model.tokenize([3])  # pyright: ignore[reportArgumentType]


MISTAKES = """
import torch, workbench as wb
from tests.tiny import tiny_model
model = tiny_model()
prompts = [wb.Prompt("the court of law", name, f"{name}/{n}", "identify") for name in ("law", "code") for n in range(3)]
statistics, rows = wb.collect(model, prompts)
for value in (model, statistics, rows): assert len(repr(value)) < 500, repr(value)
calls = (lambda: wb.find_dcds(statistics), lambda: model.tokenize([3]), lambda: model.generate([3], max_new_tokens=2))
for call in calls:
    try: call()
    except ValueError as error: print(error)
"""


def test_swapped_values_are_named_in_words_of_python() -> None:
    """In a process of its own: under pytest beartype would be faster."""
    done = subprocess.run([sys.executable, "-c", MISTAKES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "PooledRows that collect returns second, given DimensionStatistics" in lines[0]
    assert "texts hold int '3'" in lines[1]
    assert "--" not in done.stdout
