"""One writer per run folder: a lock beside the folder that names host, process and its start."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from workbench.records.files import RecordError


class LockedError(RecordError):
    """Another process writes the same run folder."""


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a run folder; raises `LockedError` where another process that is alive holds it.

    The lock is the hidden file `.NAME.lock` beside the folder, made whole (a link to a finished file), so that only one
    process gets it. A lock whose process has ended, or whose number now belongs to a process with another start, is
    stale and removed; of a process on another host nobody here can tell, so that its lock must be removed by hand.
    """
    path = Path(folder).absolute()
    lock = path.with_name(f".{path.name}.lock")
    mine = path.with_name(f".{path.name}.lock-{socket.gethostname()}-{os.getpid()}")
    process = {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps(process), encoding="utf-8")
        try:
            _take(lock, mine, path)
        finally:
            mine.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"cannot lock {path} ({error.strerror or error}); name another folder") from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)


def _take(lock: Path, mine: Path, folder: Path) -> None:
    while True:
        try:
            _claim(lock, mine)
            return
        except FileExistsError:
            holder = _holder(lock)
            if holder is not None and _is_alive(holder):
                raise LockedError(
                    f"process {holder['process']} on {holder['host']} writes {folder}; wait until it ends, or name "
                    f"another folder with --out (if it runs no more, remove {lock})"
                ) from None
            # Moved aside, not removed: of two that find the same stale lock only one can move it.
            stale = mine.with_name(f"{mine.name}-stale")
            with suppress(FileNotFoundError):
                os.rename(lock, stale)
                with suppress(FileExistsError):
                    if _holder(stale) != holder:  # a new one was taken in between: put it back
                        os.link(stale, lock)
                stale.unlink()


def _claim(lock: Path, mine: Path) -> None:
    """Make the lock; raises `FileExistsError` where there is one."""
    try:
        os.link(mine, lock)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with lock.open("x", encoding="utf-8") as file:
            file.write(mine.read_text(encoding="utf-8"))


def _holder(lock: Path) -> dict[str, Any] | None:
    """What a lock says about its process; None where it is gone or no lock."""
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return {"host": str(holder["host"]), "process": int(holder["process"]), "started": float(holder["started"])}
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(holder["process"]).create_time() - holder["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
