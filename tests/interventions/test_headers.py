"""A forged header (its digest made anew) is read rightly or refused in one line: every key, every kind of value."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.interventions.fitted import steering_of
from tests.interventions.test_artefacts import rewrite
from tests.tiny import tiny_model
from workbench.interventions import SteeringError, files, load_steering, save_steering

VALUES: list[Any] = [
    None, True, 0, 1, -1, 99, 1.5, 10**30, "", "x", "resid_post.1", [], [1], [[-1]], ["x"],
    {}, {"x": 1}, [None], [1.5, 2],
]  # fmt: skip


def forge(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    digest = files._digest(tensors, header)
    metadata = {"format": files.FORMAT, "version": str(files.FORMAT_VERSION)}
    save_file(tensors, path, metadata={**metadata, "header": json.dumps(header | {"digest": digest})})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index of nested plain values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*path, key), *places(inner, (*path, key)))]


def changed(header: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(header))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return copy


@pytest.mark.parametrize("method", ["caa", "cds", "iti", "actadd"])
def test_no_forged_header_is_believed(method: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    steering = steering_of(model, method)
    path = tmp_path / "steering.safetensors"
    save_steering(path, steering, model)
    kept: dict[str, Any] = {}
    rewrite(path, lambda tensors, metadata: kept.update(tensors=dict(tensors), header=json.loads(metadata["header"])))
    tensors, header = kept["tensors"], kept["header"]
    del header["digest"]
    forge(path, tensors, header)
    assert load_steering(path, model).steering.sites == steering.sites
    messages: list[str] = []
    free = {"model", "library", "data"}  # said for the reader: any text will do
    # Said for the reader too, among what it was made with; probe logits are held to a tolerance.
    told = {"dtype", "attention", "bos", "first_tokens", "origin", "libraries", "probe_logits"}
    for place in places(header):
        for value in (*VALUES, ...):
            forged = changed(header, place, value)
            if forged == header:
                continue
            forge(path, tensors, forged)
            try:
                loaded = load_steering(path, model)
            except SteeringError as error:
                messages.append(str(error))
                continue
            is_free = place[0] in free or place[0] == "scope" or (place[0] == "made_with" and place[1] in told)
            means_itself = [str(site) for site in loaded.steering.sites] == forged["sites"] == header["sites"]
            assert is_free or (place[0] == "values" and means_itself), f"{place} = {value!r} was believed"
            assert value is not ... or isinstance(place[-1], int) or place[0] == "data" or "libraries" in place
    assert all(len(message) < 2000 and "\n" not in message for message in messages)
    forge(path, tensors, header | {"surplus": 1})
    with pytest.raises(SteeringError, match="unknown key 'surplus'"):
        load_steering(path, model)


@pytest.mark.parametrize(
    "direction", [torch.ones(1, 16), torch.ones(16, 1), torch.ones(17), torch.ones(0), torch.tensor(1.0),
                  torch.full((16,), torch.nan), torch.ones(16, dtype=torch.long)],
    ids=str,
)  # fmt: skip
def test_a_tensor_of_another_shape_or_type_is_refused(direction: torch.Tensor, tmp_path: Path) -> None:
    model = tiny_model("llama")
    path = tmp_path / "steering.safetensors"
    save_steering(path, steering_of(model, "caa"), model)
    kept: dict[str, Any] = {}
    rewrite(path, lambda tensors, metadata: kept.update(json.loads(metadata["header"])))
    del kept["digest"]
    forge(path, {"direction": direction}, kept)
    with pytest.raises(SteeringError):
        load_steering(path, model)


@pytest.mark.parametrize("header", ["", "[]", "{", "[" * 50_000, '{"a": NaN}', '{"a": 1' + "0" * 5000 + "}"], ids=len)
def test_a_header_that_is_no_table_is_refused(header: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    path = tmp_path / "steering.safetensors"
    save_steering(path, steering_of(model, "caa"), model)
    rewrite(path, lambda tensors, metadata: metadata.update(header=header))
    with pytest.raises(SteeringError, match=r"no readable header|was altered"):
        load_steering(path, model)
