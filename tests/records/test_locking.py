"""One writer per run folder; a lock of a process that has ended is no lock."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import psutil
import pytest

from workbench.records.files import RecordError
from workbench.records.locking import LockedError, folder_lock


def lock_of(folder: Path, **changes: object) -> Path:
    """Write a lock of this process, or with something about it changed."""
    path = folder.with_name(f".{folder.name}.lock")
    holder = {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}
    path.write_text(json.dumps(holder | changes))
    return path


def test_the_second_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with folder_lock(folder):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .* writes .*a;"), folder_lock(folder):
            pytest.fail("two writers")
        with folder_lock(tmp_path / "runs" / "b"):
            pass
    with folder_lock(folder):
        pass
    assert list((tmp_path / "runs").iterdir()) == []


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"process": 2**22 + 1}, {"started": 1.0}, {"host": 3, "process": "x"}])
def test_a_stale_lock_is_taken_over(tmp_path: Path, changes: dict[str, object]) -> None:
    lock_of(tmp_path / "a", **changes)
    with folder_lock(tmp_path / "a"):
        assert json.loads((tmp_path / ".a.lock").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "a", host="elsewhere", process=2**22 + 1)
    with pytest.raises(LockedError, match=r"on elsewhere .*remove .*\.a\.lock"), folder_lock(tmp_path / "a"):
        pytest.fail("two writers")
    assert lock.exists()


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot lock"), folder_lock(tmp_path / "file" / "a"):
        pytest.fail("no folder")


def count_up(folder: Path, counter: Path, n: int) -> None:
    """Read, add one, write: only right if nobody else is inside."""
    done = 0
    while done < n:
        try:
            with folder_lock(folder):
                counter.write_text(str(int(counter.read_text()) + 1))
                done += 1
        except LockedError:
            continue


def test_only_one_process_at_a_time_is_inside_even_where_a_stale_lock_lies(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    lock_of(tmp_path / "a", started=1.0)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_up, args=(tmp_path / "a", counter, 100)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "300"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]
