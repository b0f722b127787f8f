"""The answer sheet of a planted model in the report, from a table written by hand."""

from pathlib import Path

from tests.fake_records import fake_run
from workbench.report.study import planted_table
from workbench.runs import Run

SHEET = """domain,dimension,role,label,needed,magnitude,discrimination,rank,verdict
law,3,detector,legal terms,True,False,True,2,detector
law,4,detector,legal terms,True,True,True,4,
law,9,sink,,True,True,False,1,sink
"""


def test_planted_roles_are_counted_and_other_runs_have_no_such_section(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    assert planted_table(Run(folder)) is None
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "planted.csv").write_text(SHEET, encoding="utf-8")
    table = planted_table(Run(folder))
    assert table is not None
    assert table.rows == [
        ("detector", "2", "50%", "100%", "3", "detector 1, not judged 1"),
        ("sink", "1", "100%", "0%", "1", "sink 1"),
    ]
