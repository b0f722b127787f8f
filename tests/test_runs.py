"""Run folders: a wrong bit in any file that is read back is refused in one line, or changes no value."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_records import fake_comparison, fake_run
from tests.records.test_saving import same
from workbench.comparison.spec import Spec, TaskSpec
from workbench.comparison.store import CellKey, CellStore, check_folder, open_store
from workbench.records import SearchResult, write_json
from workbench.runs import Run

DERIVED = (".csv", ".html")  # written for people; the records are what is read back
N_BITS = 40


def study(folder: Path) -> dict[str, Callable[[], Any]]:
    fake_run(folder, ("law", "code"), 2, 64)
    write_json(folder / "records" / "controls.json", {"law": 0.25, "code": 0.5})
    of_file = {"statistics.safetensors": "statistics", "rows.npy": "rows", "rows.json": "rows"}
    properties = {path.name: of_file.get(path.name, path.stem) for path in _read_back(folder)}
    return {name: partial(lambda wanted: getattr(Run(folder), wanted), wanted) for name, wanted in properties.items()}


def comparison(folder: Path) -> dict[str, Callable[[], Any]]:
    spec = Spec("made up", ("cds",), (TaskSpec("domain-loss", domains=("law",)),))
    store = open_store(folder, spec, "cd" * 32)
    key = CellKey("domain-loss/law", "cds", 0, "search", "layer-2", "kl", 0.1, 0)
    store.write(key, SearchResult(True, 1.5, 0.1, 0.2, 0.3, 8, 0.5, ""))
    store.write(CellKey("domain-loss/law", "iti", 0, "search", "-", "kl", 0.1, 0), SearchResult.unreached("no pairs"))
    fake_comparison(folder, ("law", "code"))
    readers: dict[str, Callable[[], Any]] = {}
    for path in _read_back(folder):
        if "cells" in path.parts:
            readers[path.name] = lambda: tuple(CellStore(folder).all().items())
        elif path.name == "run.json":
            readers[path.name] = lambda: check_folder(folder, spec, "cd" * 32)
        else:
            readers[path.name] = lambda name=path.stem: getattr(Run(folder), name)
    return readers


def _read_back(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in DERIVED)


@pytest.mark.parametrize(("make", "n_files"), [(study, 10), (comparison, 7)])
def test_one_wrong_bit_anywhere_in_a_folder_is_refused_or_changes_nothing(
    tmp_path: Path, make: Callable[[Path], dict[str, Callable[[], Any]]], n_files: int
) -> None:
    folder = tmp_path / "run"
    readers = make(folder)
    paths = _read_back(folder)
    assert len(paths) == n_files, "a file that is read back has no reader here"
    rng = np.random.default_rng(0)
    n_refused = 0
    for path in paths:
        read, data = readers[path.name], path.read_bytes()
        before = read()
        for place in rng.choice(8 * len(data), size=N_BITS).tolist():
            wrong = bytearray(data)
            wrong[place // 8] ^= 1 << place % 8
            other = path.with_name("flipped")
            other.write_bytes(wrong)
            other.replace(path)  # a new file: what `before` maps stays as it was
            refusal = ""
            try:
                found = read()
            except ValueError as error:
                refusal = str(error)
                n_refused += 1
            assert path.stem in refusal or same(found, before), f"bit {place} of {path.name}: {refusal}"
            assert "\n" not in refusal
        path.write_bytes(data)
    assert n_refused > 0.6 * N_BITS * n_files
