"""The lessons run from top to bottom, and each exercise answers to no answer, to wrong ones and to the right one.

An exercise is a cell that begins with `answer = `; the answers to try stand in its metadata, where a reader of the
notebook does not meet them.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
ANSWER = re.compile(r"^answer = .*$", re.MULTILINE)
SECONDS = 240  # for one cell


def _solved(lesson: "nbformat.NotebookNode") -> Iterator["nbformat.NotebookNode"]:
    """The cells of a lesson; after each exercise its copies, one per answer to try."""
    for cell in lesson.cells:
        yield cell
        for expected, answers in cell.metadata.get("answers", {}).items():
            for answer in answers:
                copy = deepcopy(cell)
                copy.id = nbformat.v4.new_code_cell().id
                copy.source = ANSWER.sub(lambda _, answer=answer: f"answer = {answer}", cell.source, count=1)
                copy.metadata = nbformat.from_dict({"expected": expected})
                yield copy


def _printed(cell: "nbformat.NotebookNode") -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.mark.parametrize(
    "name", [name if name.startswith("01") else pytest.param(name, marks=pytest.mark.slow) for name in LESSONS]
)
def test_a_lesson_runs_and_its_exercises_answer(name: str) -> None:
    lesson = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in lesson.cells), "clear the outputs before committing"
    lesson.cells = list(_solved(lesson))
    nbclient.NotebookClient(
        lesson, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}
    ).execute()
    exercises = [cell for cell in lesson.cells if ANSWER.match(cell.source) and "expected" not in cell.metadata]
    assert exercises, "a lesson has an exercise"
    for cell in exercises:
        assert {"right", "wrong"} <= set(cell.metadata.get("answers", ())), cell.source
        assert _printed(cell).startswith("Set answer"), cell.source
    for cell in lesson.cells:
        if "expected" in cell.metadata:
            assert _printed(cell).startswith("Right") == (cell.metadata.expected == "right"), (
                cell.source,
                _printed(cell),
            )
