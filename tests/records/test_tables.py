"""CSV tables: what was written is read back, and no cell of text is a formula to a spreadsheet."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import workbench
from workbench.records.tables import read_csv, write_csv

EVIL = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''@x",
    "'",
    "it's",
    "law",
    "-",
    "",
    "NA",
    'a,b\n"c"',
]
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: f"x{text}"), min_size=1, max_size=4)
STARTS = st.lists(st.sampled_from(["", "=", "+", "-", "@", "\t", "'", "'="]), min_size=1, max_size=4)


def test_no_cell_and_no_name_of_a_column_is_a_formula(tmp_path: Path) -> None:
    table = pd.DataFrame({"=domain": EVIL, "effect": [-1.5] * len(EVIL), "n": range(-3, len(EVIL) - 3)})
    write_csv(table, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    texts = [*rows[0], *(row[0] for row in rows[1:])]
    assert not any(text.startswith(tuple("=+-@\t\r\n")) for text in texts)
    assert [row[1] for row in rows[1:]] == ["-1.5"] * len(EVIL)  # a number stays a number
    assert rows[1][2] == "-3"


def test_our_reader_undoes_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"=domain": EVIL, "effect": [-1.5] * len(EVIL)})
    write_csv(table, tmp_path / "table.csv")
    back = read_csv(tmp_path / "table.csv")
    assert list(back.columns) == ["=domain", "effect"]
    assert back["effect"].tolist() == table["effect"].tolist()
    # the csv format has one kind of line break inside a cell, and pandas reads a lone CR as one
    assert [text.replace("\r", "\n") for text in back["=domain"]] == [text.replace("\r", "\n") for text in EVIL]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, starts=STARTS)
def test_any_text_comes_back(texts: list[str], starts: list[str], tmp_path: Path) -> None:
    cells = [(start + text).replace("\r", "") for start in starts for text in texts]
    write_csv(pd.DataFrame({"cell": cells, "number": 1}), tmp_path / "table.csv")
    assert read_csv(tmp_path / "table.csv")["cell"].tolist() == cells


def test_numbers_among_texts_stay_numbers(tmp_path: Path) -> None:
    write_csv(pd.DataFrame({"mixed": [-1, "-1", None]}, dtype=object), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").split("\n")[1:3] == ["-1", "'-1"]


@pytest.mark.parametrize("call", [".to_csv(", "csv.writer(", "DictWriter("])
def test_there_is_one_writer(call: str) -> None:
    package = Path(workbench.__file__).parent
    writers = [path.name for path in package.rglob("*.py") if call in path.read_text(encoding="utf-8")]
    assert writers == (["tables.py"] if call == ".to_csv(" else [])
