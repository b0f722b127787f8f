"""What is declared, what is pinned, and what the wheel holds."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def plain(requirement: str) -> str:
    """`Name[extra]>=1` as the name that indexes use."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_everything_is_pinned_exactly_and_to_nothing_local() -> None:
    assert "torch==2.13.0" in PINS
    for line in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    pinned = {plain(line) for line in PINS}
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *extras["dev"], *extras["notebook"], *extras["export"]]
    assert {plain(requirement) for requirement in declared} <= pinned


def test_only_development_needs_beartype() -> None:
    assert "beartype" not in [plain(requirement) for requirement in PROJECT["dependencies"]]
    assert "beartype" in PROJECT["optional-dependencies"]["dev"]


PACKAGES = {"sklearn": "scikit-learn", "IPython": "ipython"}  # modules whose distribution has another name


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    imported = set()
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    imported -= {*sys.stdlib_module_names, "workbench"}
    names = {plain(PACKAGES.get(name, name)) for name in imported}
    required = {plain(requirement) for requirement in PROJECT["dependencies"]}
    extras = {
        plain(item) for name, group in PROJECT["optional-dependencies"].items() if name != "dev" for item in group
    }
    assert required <= names, required - names
    assert names <= required | extras, names - required - extras


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(tmp_path: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("dcd_workbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"workbench", next(top for top in tops if top.endswith(".dist-info"))}
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "workbench").rglob("*") if path.is_file()}
    assert {name for name in here if "__pycache__" not in name} <= set(names)
    for name in (
        "passages/neutral.jsonl",
        "model/model.safetensors",
        "model/tokenizer.json",
        "refusal_sentences.jsonl",
    ):
        assert f"workbench/builtin/{name}" in names
    assert "License-Expression: MIT" in metadata
    assert "workbench = workbench.__main__:main" in entry_points
