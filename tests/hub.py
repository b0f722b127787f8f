"""A Hugging Face cache of its own for a test, on a machine whose network refuses every connection."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

COMMIT = "0123456789" * 4
Repository = Callable[[str], Path]


def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A function that makes a cached repository, such as "models--somebody--tiny", and gives its empty snapshot."""
    import datasets.config
    import huggingface_hub.constants

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def repository(name: str) -> Path:
        snapshot = tmp_path / "hub" / name / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (tmp_path / "hub" / name / "refs").mkdir()
        (tmp_path / "hub" / name / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        return snapshot

    return repository
