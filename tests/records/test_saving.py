"""Saved records: equal after reading, refused in one line where a bit is wrong, never half written."""

import json
import math
import multiprocessing
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_records import fake_dcds, fake_detectors, fake_rows, fake_statistics
from workbench.records import (
    ChoiceItem,
    ChoiceMasking,
    Detector,
    Dimension,
    DimensionStatistics,
    MaskingResult,
    PooledRows,
    RecordError,
    TokenContext,
    load_record,
    load_table,
    read_json,
    save_record,
    save_table,
    write_json,
    write_whole,
)

ROWS = fake_rows(("law", "code"), 2, 64)
ITEM = ChoiceItem("q", "law", "test", "Is it?", ("yes", "no"), 0)
RECORDS: dict[str, Any] = {
    "statistics.safetensors": fake_statistics(("law", "code"), 2, 64),
    "rows.npy": ROWS,
    "masking.safetensors": MaskingResult(
        "zero", "measured", 16, 2.0, (3,), ("law/0",), ("law",), ("test",), np.array([math.nan]), np.array([[0.25]])
    ),
    "choices.safetensors": ChoiceMasking("mean", (1,), (ITEM,), np.zeros((1, 2)), np.ones((1, 1, 2))),
    "dcd.json": fake_dcds(("law", "code"), 64)[0],
}
TABLES = {"dcds.json": fake_dcds(("law", "code"), 64), "detectors.json": fake_detectors(("law", "code"), 2, 64)}


def same(a: Any, b: Any) -> bool:
    """Equal in type and value at any depth; NaN equals NaN."""
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def save_all(folder: Path) -> dict[Path, Callable[[], Any]]:
    """Write every record and table; returns how each file is read."""
    readers: dict[Path, Callable[[], Any]] = {}
    for name, record in RECORDS.items():
        save_record(record, folder / name)
        readers[folder / name] = partial(load_record, folder / name, type(record))
    readers[folder / "rows.json"] = readers[folder / "rows.npy"]
    for name, records in TABLES.items():
        save_table(records, folder / name)
        readers[folder / name] = partial(load_table, folder / name, type(records[0]))
    write_json(folder / "manifest.json", {"seed": 3, "names": ["law", "code"], "loss": math.nan})
    readers[folder / "manifest.json"] = partial(read_json, folder / "manifest.json")
    return readers


def test_what_is_read_equals_what_was_written(tmp_path: Path) -> None:
    save_all(tmp_path)
    for name, record in RECORDS.items():
        assert same(load_record(tmp_path / name, type(record)), record), name
    for name, records in TABLES.items():
        assert same(load_table(tmp_path / name, type(records[0])), records), name
    assert isinstance(load_record(tmp_path / "rows.npy", PooledRows).values, np.memmap)


def test_records_of_any_depth_need_nothing_of_their_own(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Inner:
        values: np.ndarray
        contexts: tuple[TokenContext, ...]

    @dataclass(frozen=True)
    class Outer:
        parts: dict[str, Inner]
        pairs: tuple[tuple[Inner, Inner], ...]

    inner = Inner(np.arange(3), (TokenContext("a", "b", "c", 1.5, "law/0", 2),))
    outer = Outer({"x": inner}, ((inner, inner),))
    save_record(outer, tmp_path / "outer.safetensors")
    found = load_record(tmp_path / "outer.safetensors", Outer)
    assert same(found.parts["x"], inner)
    assert same(found.pairs[0][1], inner)


def test_equal_records_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_all(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_one_wrong_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    readers = save_all(tmp_path)
    rng = np.random.default_rng(0)
    n_refused = 0
    for path, read in readers.items():
        before, data = read(), path.read_bytes()
        for place in rng.choice(8 * len(data), size=60).tolist():
            wrong = bytearray(data)
            wrong[place // 8] ^= 1 << place % 8
            other = path.with_name("flipped")
            other.write_bytes(wrong)
            other.replace(path)  # a new file: what `before` maps stays as it was
            refusal = ""
            try:
                found = read()
            except RecordError as error:
                refusal = str(error)
                n_refused += 1
            assert path.stem in refusal or same(found, before), f"bit {place} of {path.name}"
            assert "\n" not in refusal
        path.write_bytes(data)
    assert n_refused > 30 * len(readers)


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{", "{}", '{"kind": 1}', "\x80", "[" * 100_000, "{" * 9])
def test_damaged_files_are_named_in_one_line(tmp_path: Path, text: str) -> None:
    for path, read in save_all(tmp_path).items():
        path.write_text(text, encoding="latin-1")
        with pytest.raises(RecordError, match=path.stem) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_changed_number_is_refused(tmp_path: Path) -> None:
    save_table(TABLES["dcds.json"], tmp_path / "dcds.json")
    text = (tmp_path / "dcds.json").read_text()
    assert '"rank": 1,' in text
    (tmp_path / "dcds.json").write_text(text.replace('"rank": 1,', '"rank": 2,', 1))
    with pytest.raises(RecordError, match="changed after it was written"):
        load_table(tmp_path / "dcds.json", Dimension)


def test_nan_put_into_the_rows_is_refused(tmp_path: Path) -> None:
    save_record(ROWS, tmp_path / "rows.npy")
    values = np.load(tmp_path / "rows.npy", mmap_mode="r+")
    values[3, 0, 1, 2] = np.nan
    values.flush()
    with pytest.raises(RecordError, match="changed after it was written"):
        load_record(tmp_path / "rows.npy", PooledRows)


def test_other_kinds_and_formats_are_refused(tmp_path: Path) -> None:
    save_all(tmp_path)
    with pytest.raises(RecordError, match="holds 'MaskingResult', expected 'DimensionStatistics'"):
        load_record(tmp_path / "masking.safetensors", DimensionStatistics)
    with pytest.raises(RecordError, match="holds 'Dimension', expected 'Detector'"):
        load_table(tmp_path / "dcds.json", Detector)
    (tmp_path / "dcds.json").write_text(json.dumps({"kind": "Dimension", "format": 1, "records": []}))
    with pytest.raises(RecordError, match="format 1, this version reads 2"):
        load_table(tmp_path / "dcds.json", Dimension)
    with pytest.raises(RecordError, match="holds arrays"):
        save_record(ROWS, tmp_path / "rows.json")


def test_values_that_a_field_cannot_hold_are_refused(tmp_path: Path) -> None:
    """The types of the fields are checked even where the digest is right."""
    save_table(fake_dcds(("law",), 64)[:1], tmp_path / "dcds.json")
    table = read_json(tmp_path / "dcds.json")
    for wrong in ({"rank": "first"}, {"selection": "taste"}, {"magnitude": None}):
        write_json(tmp_path / "dcds.json", {**table, "content": [{**table["content"][0], **wrong}]})
        with pytest.raises(RecordError, match="does not fit this version"):
            load_table(tmp_path / "dcds.json", Dimension)
    save_table([], tmp_path / "dcds.json")
    assert load_table(tmp_path / "dcds.json", Dimension) == []


# --- writing ----------------------------------------------------------------------------------------------------------


def write_often(path: Path, letter: str) -> None:
    for _ in range(60):
        write_whole(path, letter * 200_000)


def test_two_writers_never_leave_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    write_whole(path, "a" * 200_000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["cell.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    readers = save_all(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fails)
    expected = RecordError if isinstance(error, OSError) else type(error)
    writes: list[Callable[[], Any]] = [
        lambda: write_whole(tmp_path / "manifest.json", "new"),
        lambda: write_json(tmp_path / "manifest.json", {"new": 1}),
        lambda: save_table([], tmp_path / "dcds.json"),
        *(lambda name=name, record=record: save_record(record, tmp_path / name) for name, record in RECORDS.items()),
    ]
    for write in writes:
        with pytest.raises(expected) as caught:
            write()
        assert not isinstance(error, OSError) or "No space left on device" in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for read in readers.values():
        read()


def fill_disk(folder: Path) -> None:
    """In a process that may write 1,000 bytes per file: every write must fail in one line."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for name, record in (("statistics.safetensors", RECORDS["statistics.safetensors"]), ("rows.npy", ROWS)):
        with pytest.raises(RecordError, match=f"cannot write .*{name}"):
            save_record(record, folder / name)
    with pytest.raises(RecordError, match=r"cannot write .*dcds\.json"):
        save_table(TABLES["dcds.json"], folder / "dcds.json")


def test_a_full_disk_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    save_all(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    process = multiprocessing.get_context("fork").Process(target=fill_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_get_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_whole(tmp_path / "written", "x")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode
