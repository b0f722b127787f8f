"""What this installation is made of: versions for manifests, checks for `workbench doctor`."""

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "dcd-workbench",
    "torch",
    "transformer-lens",
    "transformers",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "plotly",
    "safetensors",
    "kaleido",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


@dataclass(frozen=True)
class Check:
    """One line of `workbench doctor`; what is not `needed` may fail without making the installation unusable."""

    name: str
    is_ok: bool
    detail: str
    needed: bool = True


def library_versions() -> dict[str, str]:
    """Versions of the packages that results depend on; "not installed" for the optional ones that are absent."""
    return {name: _version(name) for name in PACKAGES}


def platform_facts() -> dict[str, str | int]:
    """Python, operating system, processor and threads: what may explain small numerical differences; no names."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
    }


def environment_checks() -> list[Check]:
    """Everything that can be checked without loading a model: Python, packages, device, cache, browser."""
    versions = library_versions()
    missing = [name for name, found in versions.items() if found == "not installed" and name != "kaleido"]
    facts = platform_facts()
    return [
        Check("Python", sys.version_info >= (3, 11), f"{facts['python']} on {facts['system']} {facts['machine']}"),
        Check("packages", not missing, f"missing: {', '.join(missing)}" if missing else "all there"),
        *(Check(name, True, found, needed=False) for name, found in versions.items() if found != "not installed"),
        _device_check(),
        _cache_check(),
        _export_check(versions["kaleido"]),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device_check() -> Check:
    import torch

    devices = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    devices.append(f"cpu ({torch.get_num_threads()} threads)")
    return Check("devices", True, ", ".join(devices), needed=False)


def _cache_check() -> Check:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror}); set HF_HOME to a folder that can"
        return Check("model cache", False, detail, needed=False)
    free = shutil.disk_usage(existing).free / 2**30
    return Check("model cache", True, f"{folder} is writable, {free:.0f} GiB free", needed=False)


def _export_check(kaleido: str) -> Check:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser and kaleido != "not installed":
        return Check("PDF and SVG export", True, f"kaleido {kaleido} with {browser}", needed=False)
    steps = [] if kaleido != "not installed" else ["pip install 'dcd-workbench[export]'"]
    steps += [] if browser else ["install Chrome or Chromium"]
    detail = f"not possible; to have it, {' and '.join(steps)}; HTML figures work without"
    return Check("PDF and SVG export", False, detail, needed=False)
