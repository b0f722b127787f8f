"""What `workbench doctor` sees."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

import workbench
from workbench import environment
from workbench.environment import Check, environment_checks, library_versions, platform_facts


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_versions_are_those_that_are_imported() -> None:
    import numpy
    import torch

    versions = library_versions()
    assert versions["dcd-workbench"] == workbench.__version__
    assert versions["numpy"] == numpy.__version__
    assert versions["torch"] == torch.__version__


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(environment_checks())["packages"].is_ok
    monkeypatch.setattr(environment, "PACKAGES", (*environment.PACKAGES, "no-such-distribution"))
    check = by_name(environment_checks())["packages"]
    assert not check.is_ok
    assert check.needed
    assert check.detail == "missing: no-such-distribution"


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert by_name(environment_checks())["model cache"].is_ok
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(file))
    check = by_name(environment_checks())["model cache"]
    assert not check.is_ok
    assert "set HF_HOME" in check.detail


@pytest.mark.parametrize(
    ("kaleido", "browser", "is_ok", "said"),
    [
        ("1.5.0", "/bin/chromium", True, ["kaleido 1.5.0", "/bin/chromium"]),
        ("1.5.0", None, False, ["install Chrome or Chromium"]),
        ("not installed", "/bin/chromium", False, ["pip install 'dcd-workbench[export]'"]),
        ("not installed", None, False, ["pip install 'dcd-workbench[export]'", "install Chrome or Chromium"]),
    ],
)
def test_figure_export_needs_kaleido_and_a_browser(
    monkeypatch: pytest.MonkeyPatch, kaleido: str, browser: str | None, is_ok: bool, said: list[str]
) -> None:
    monkeypatch.setattr(environment, "library_versions", lambda: {"kaleido": kaleido})
    monkeypatch.setattr(shutil, "which", lambda name: browser if name == "chromium" else None)
    check = by_name(environment_checks())["PDF and SVG export"]
    assert check.is_ok == is_ok
    assert not check.needed
    assert all(words in check.detail for words in said)
    if not is_ok:
        assert ("Chrome" in check.detail) == (browser is None)


def test_platform_facts_name_no_machine_and_no_user() -> None:
    assert set(platform_facts()) == {"python", "system", "machine", "cores"}
