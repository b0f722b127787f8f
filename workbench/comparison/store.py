"""The cells of a comparison: one JSON file each, so that an interrupted run resumes.

RUN/run.json                               which specification and which weights the folder belongs to
RUN/cells/TASK/ARM-DRAW/STAGE-....json     one finished cell, written whole or not at all
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.comparison.spec import MaskingSpec, Spec, SpecError
from workbench.records import (
    BudgetKind,
    CellResult,
    CurveResult,
    RecordError,
    ScoreResult,
    SearchResult,
    read_json,
    write_json,
)

Stage = Literal["search", "test", "curve"]
KINDS: Mapping[Stage, type[CellResult]] = {"search": SearchResult, "test": ScoreResult, "curve": CurveResult}
HEADER = "run.json"
FORMAT = 2


class CellError(ValueError):
    """A results folder belongs to something else, holds a cell twice or a damaged one, or a cell cannot be measured."""


class CellFailedError(RuntimeError):
    """An error that is not about what the user gave ended a run; the message names the cell."""


@dataclass(frozen=True, order=True)
class CellKey:
    """What a cell is about. `setting` is "-" where none is searched, and "chosen" at the stage *test*."""

    task: str
    arm: str
    draw: int
    stage: Stage
    setting: str
    budget: BudgetKind
    level: float
    seed: int

    @property
    def path(self) -> Path:
        """Where the cell lies within the folder of cells."""
        name = f"{self.stage}-{self.setting}-{self.budget}-{self.level:g}-seed-{self.seed}.json"
        parts = [*self.task.split("/"), f"{self.arm}-{self.draw}", name]
        return Path(*(re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts))


@dataclass(frozen=True)
class CellStore:
    """The finished cells of one run folder."""

    folder: Path

    def __contains__(self, key: CellKey) -> bool:
        return (self.folder / "cells" / key.path).is_file()

    def search(self, key: CellKey) -> SearchResult:
        """The results of a cell of the stage *search*."""
        result = self.read(key)
        assert isinstance(result, SearchResult)
        return result

    def read(self, key: CellKey) -> CellResult:
        """The results of one cell; raises `CellError` where the file is damaged or holds another cell."""
        found, result = _read(self.folder / "cells" / key.path)
        if found != key:
            raise CellError(
                f"{self.folder / 'cells' / key.path} holds the cell {found}; remove it, it is written again"
            )
        return result

    def write(self, key: CellKey, result: CellResult) -> None:
        """Write one cell; it appears complete or not at all."""
        assert isinstance(result, KINDS[key.stage])
        path = self.folder / "cells" / key.path
        write_json(path, {"format": FORMAT, "key": key, "result": result}, keep_nan=True)

    def all(self) -> dict[CellKey, CellResult]:
        """Every finished cell; raises `CellError` where two files hold the same one."""
        cells: dict[CellKey, CellResult] = {}
        home: dict[CellKey, Path] = {}
        for path in sorted((self.folder / "cells").rglob("*.json")):
            key, result = _read(path)
            if key in cells:
                raise CellError(f"{home[key]} and {path} hold the same cell; remove one of them")
            cells[key], home[key] = result, path
        return cells


def check_folder(folder: Path, spec: Spec | MaskingSpec, fingerprint: str = "") -> bool:
    """Whether a run folder holds an unfinished or finished run of this specification; nothing is written.

    Raises `CellError` where it holds results of another specification, of other weights (where a `fingerprint` is
    given), or other files.
    """
    header = folder / HEADER
    if not header.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CellError(f"{folder} exists and is no results folder of a comparison; name another with --out")
        return False
    try:
        found = read_json(header)
    except RecordError as error:
        raise CellError(f"{error}; or name another folder with --out") from error
    if found.get("digest") != spec.digest:
        raise CellError(
            f"{folder} holds results of another specification: {found.get('spec')!r} (digest {found.get('digest')}), "
            f"not {spec.name!r} (digest {spec.digest}); name another folder with --out"
        )
    if fingerprint and found.get("fingerprint") != fingerprint:
        raise CellError(f"{folder} holds results of other weights; name another folder with --out")
    return True


def open_store(folder: Path, spec: Spec | MaskingSpec, fingerprint: str) -> CellStore:
    """The store of a run folder, made where there is none; raises as `check_folder`."""
    if not check_folder(folder, spec, fingerprint):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"format": FORMAT, "spec": spec.name, "digest": spec.digest, "fingerprint": fingerprint}
        write_json(folder / HEADER, wanted)
    return CellStore(folder)


def check_distinct(keys: list[CellKey]) -> None:
    """Raise `SpecError` where two cells of a plan are the same, or would lie in the same file."""
    seen: dict[Path, CellKey] = {}
    for key in keys:
        if key.path in seen:
            raise SpecError(
                f"duplicate cells: {seen[key.path]} and {key}; list tasks and methods once, with other names"
            )
        seen[key.path] = key


def _read(path: Path) -> tuple[CellKey, CellResult]:
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise CellError(f"{path} has format {content['format']}, this version reads {FORMAT}; remove it")
        key = _record(CellKey, content["key"])
        return key, _record(KINDS[key.stage], content["result"])
    except RecordError as error:
        raise CellError(f"{error}: remove it, and the next run does") from error
    except (KeyError, TypeError) as error:
        raise CellError(f"{path} is damaged ({error}); remove it, it is written again") from error


def _record(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A record from its plain fields, all of them and no others."""
    names = {field.name for field in dataclasses.fields(kind)}
    if set(values) != names:
        raise KeyError(f"fields {sorted(names ^ set(values))} of {kind.__name__} are missing or unknown")
    return kind(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
