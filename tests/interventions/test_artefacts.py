"""Artefacts that cannot be trusted are refused in one clear line, whatever happened to the file."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.tiny import tiny_model
from workbench.interventions import ActAdd, ContrastiveAddition, Scope, SteeringError, load_steering, save_steering
from workbench.models import load_model
from workbench.records import Site

Metadata = dict[str, str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "steering.safetensors"
    save_steering(path, ContrastiveAddition(torch.arange(16.0), 1), tiny_model("llama"), scope=Scope("prompt", (2,)))
    return path


def rewrite(path: Path, change: Callable[[Tensors, Metadata], object]) -> None:
    with safe_open(path, "pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


def edit_header(metadata: Metadata, key: str, value: object) -> None:
    metadata["header"] = json.dumps(json.loads(metadata["header"]) | {key: value})


def test_what_was_not_touched_is_read(saved: Path) -> None:
    rewrite(saved, lambda tensors, metadata: None)
    loaded = load_steering(str(saved), tiny_model("llama"))
    assert loaded.scope == Scope("prompt", (2,))
    assert isinstance(loaded.steering, ContrastiveAddition)
    assert loaded.steering.direction.tolist() == list(range(16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: tensors["direction"].mul_(-1), "was altered"),
        (lambda tensors, metadata: tensors.update(other=torch.ones(1)), "was altered"),
        (lambda tensors, metadata: edit_header(metadata, "values", {"layer": 2, "kind": "resid_post"}), "was altered"),
        (lambda tensors, metadata: edit_header(metadata, "scope", {"where": "all", "exclude": []}), "was altered"),
        (lambda tensors, metadata: edit_header(metadata, "fingerprint", "0"), "was altered"),
        (lambda tensors, metadata: metadata.update(header="[]"), "was altered"),
        (lambda tensors, metadata: metadata.update(header="{"), "no readable header"),
        (lambda tensors, metadata: metadata.pop("header"), "no readable header"),
        (lambda tensors, metadata: metadata.update(version="99"), "has artefact version 99"),
        (lambda tensors, metadata: metadata.pop("version"), "has artefact version None"),
        (lambda tensors, metadata: metadata.update(format="weights"), "not a steering artefact"),
    ],
)
def test_altered_files_are_refused(change: Callable[[Tensors, Metadata], object], message: str, saved: Path) -> None:
    rewrite(saved, change)
    with pytest.raises(SteeringError, match=message):
        load_steering(saved, tiny_model("llama"))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_truncated_files_are_refused(kept: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(SteeringError, match="damaged or no steering artefact"):
        load_steering(saved, tiny_model("llama"))


def test_a_pickle_is_never_opened(saved: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("the pickle was opened",)

    saved.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SteeringError, match="damaged or no steering artefact"):
        load_steering(saved, tiny_model("llama"))


def test_another_model_or_another_method_is_refused(saved: Path) -> None:
    with pytest.raises(SteeringError, match="whose weights differ"):
        load_steering(saved, tiny_model("llama", seed=1))
    with pytest.raises(SteeringError, match="holds a ContrastiveAddition, expected one of ActAdd"):
        load_steering(saved, tiny_model("llama"), (ActAdd,))
    with pytest.raises(SteeringError, match="does not exist"):
        load_steering(saved.with_name("none.safetensors"), tiny_model("llama"))


def test_a_steering_that_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    with pytest.raises(SteeringError, match="does not fit"):
        save_steering(path, ContrastiveAddition(torch.ones(17), 1), tiny_model("llama"))
    assert not list(tmp_path.iterdir())


def test_a_sibling_is_taken_only_where_that_is_allowed_and_it_is_noted(tmp_path: Path) -> None:
    base, sibling = tiny_model("llama"), tiny_model("llama", seed=1)
    path = tmp_path / "one.safetensors"
    save_steering(path, ContrastiveAddition(torch.ones(16), 1), base)
    with pytest.raises(SteeringError, match="--allow-other-weights"):
        load_steering(path, sibling)
    with pytest.warns(UserWarning, match="used all the same"):
        artefact = load_steering(path, sibling, allow_other_weights=True)
    assert artefact.header["other_weights"]["fingerprint"] == sibling.fingerprint
    with pytest.raises(SteeringError, match=r"no sibling: layers \d+ there"):
        load_steering(path, load_model(), allow_other_weights=True)


def test_settings_that_weights_do_not_show_are_noticed(tmp_path: Path) -> None:
    base = tiny_model("llama")
    path = tmp_path / "one.safetensors"
    save_steering(path, ContrastiveAddition(torch.ones(16), 1), base)
    with (  # an edit stands for another RoPE
        base.hooked({Site("resid_pre", 0): lambda values, *_: values + 1.5}, editing=True),
        pytest.raises(SteeringError, match="under other settings: probe logits differ"),
    ):
        load_steering(path, base)
    load_steering(path, base)


def test_equal_steerings_give_equal_files(tmp_path: Path) -> None:
    model = tiny_model("llama")
    for number in range(8):
        save_steering(tmp_path / str(number), ContrastiveAddition(torch.arange(16.0), 1), model)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
