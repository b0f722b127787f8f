"""The hashes that go with shipped files: sha256 of every file of a folder, in its `hashes.json`."""

import hashlib
import json
from pathlib import Path

HASHES = "hashes.json"


def hashes_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file of `folder` except the list itself, by name."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != HASHES)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def write_hashes(folder: Path) -> None:
    (folder / HASHES).write_text(json.dumps(hashes_of(folder), indent=1) + "\n", encoding="utf-8")


def read_hashes(folder: Path) -> dict[str, str]:
    return json.loads((folder / HASHES).read_text(encoding="utf-8"))
