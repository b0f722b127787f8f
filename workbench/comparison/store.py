"""The cells of a comparison: one JSON file each, so that an interrupted run goes on where it stopped.

RUN/run.json                               which specification and which weights the folder belongs to
RUN/cells/TASK/ARM-DRAW/STAGE-....json     one finished cell, written whole or not at all
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.comparison.spec import MaskingSpec, Spec, SpecError
from workbench.records import BudgetKind, write_whole

Stage = Literal["search", "test", "curve"]
HEADER = "run.json"
FORMAT = 1


class CellError(ValueError):
    """A results folder belongs to something else, holds a cell twice, or a damaged one."""


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

    def read(self, key: CellKey) -> Mapping[str, Any]:
        """The results of one cell; raises `CellError` where the file holds another."""
        found, results = _read(self.folder / "cells" / key.path)
        if found != key:
            raise CellError(
                f"{self.folder / 'cells' / key.path} holds the cell {found}; remove it, it is written again"
            )
        return results

    def write(self, key: CellKey, results: Mapping[str, Any]) -> None:
        """Write one cell; it appears complete or not at all."""
        path = self.folder / "cells" / key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"format": FORMAT, "key": asdict(key), "results": results}))

    def all(self) -> dict[CellKey, Mapping[str, Any]]:
        """Every finished cell; raises `CellError` where two files hold the same one."""
        cells: dict[CellKey, Mapping[str, Any]] = {}
        home: dict[CellKey, Path] = {}
        for path in self._files():
            key, results = _read(path)
            if key in cells:
                raise CellError(f"{home[key]} and {path} hold the same cell; remove one of them")
            cells[key], home[key] = results, path
        return cells

    def _files(self) -> Iterator[Path]:
        yield from sorted((self.folder / "cells").rglob("*.json"))


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
        found = json.loads(header.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CellError(f"{header} is damaged ({error}); name another folder with --out") from error
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
        write_whole(folder / HEADER, json.dumps(wanted, indent=1))
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


def _read(path: Path) -> tuple[CellKey, Mapping[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CellError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        return CellKey(**content["key"]), content["results"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CellError(f"{path} is damaged ({error}); remove it, it is written again") from error
