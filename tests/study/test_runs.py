"""Run folders: whole or not at all; read, tabulated and drawn without a model."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_records import fake_dcds, fake_detectors, fake_rows, fake_run, fake_statistics
from workbench.figures import magnitude_figure, write_figure
from workbench.records import (
    Comparison,
    Dimension,
    DimensionStatistics,
    PooledRows,
    RecordError,
    load_record,
    load_table,
    save_record,
    save_table,
    write_json,
    write_whole,
)
from workbench.report import write_figures, write_report
from workbench.runs import (
    RunError,
    as_contrast,
    check_output,
    comparison_frame,
    new_run_folder,
    profile_frame,
    read_run,
    summarise,
)

OLD = [
    Comparison("t", "domain loss", "law", "cds", "both", 3, 2.0, 0.1, 0.11, True, 0.3, 0.1, 0.5, 9),
    Comparison("t", "domain share", "law", "top-k", "", 3, 2.0, 0.1, 0.11, True, 0.3, 0.1, 0.5, 9),
    Comparison("t", "domain share", "law", "cds", "", -1, 0.0, 0.1, 0.0, False, math.nan, math.nan, math.nan, 0),
]


def test_old_comparisons_become_contrasts_with_unit_and_direction() -> None:
    loss, fraction, gone = map(as_contrast, OLD)
    assert (loss.arm, loss.unit, loss.verdict, loss.role) == ("cds (both)", "nats per token", "worse", "method")
    assert (fraction.verdict, fraction.role, fraction.minimum_detectable_effect) == ("better", "control", 0.2)
    assert gone.verdict == "not measured"


def finish(out: Path, text: str, error: type[BaseException] | None = None) -> None:
    """A run that writes its manifest, and then fails if an error is given."""
    with new_run_folder(out) as folder:
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        if error is not None:
            raise error


def below(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its content."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "runs" / "deep" / "study"
    with pytest.raises(RunError if error is OSError else error):
        finish(out, "{}", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_leaves_the_earlier_one_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "study"
    finish(out, "first")
    with pytest.raises(error):
        finish(out, "second", error)
    assert below(tmp_path) == {"study/manifest.json": "first"}


def test_a_finished_run_takes_the_place_of_the_earlier_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "study"
    finish(out, "first")
    (out / "left_over.html").write_text("of the first run")
    finish(out, "second")
    assert below(tmp_path) == {"study/manifest.json": "second"}


def test_nothing_is_at_the_output_before_the_end(tmp_path: Path) -> None:
    out = tmp_path / "study"
    with new_run_folder(out) as folder:
        (folder / "manifest.json").write_text("{}")
        assert not out.exists()
    assert out.is_dir()


def test_a_failing_exchange_puts_the_earlier_run_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "study"
    finish(out, "first")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if "unfinished" in self.name:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunError, match="disk full"):
        finish(out, "second")
    assert below(tmp_path) == {"study/manifest.json": "first"}


def test_a_folder_that_is_no_run_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds something that is not a run"), new_run_folder(tmp_path):
        pytest.fail("the block must not be entered")
    assert below(tmp_path) == {"thesis.tex": "years of work"}


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunError, match="is a file"):
        check_output(file)
    with pytest.raises(RunError, match="not a folder that can be written"):
        check_output(file / "below" / "run")
    check_output(tmp_path / "new" / "run")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")


def test_a_failing_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "second" * 10_000 + "\ud800")
    assert below(tmp_path) == {"table.csv": "first"}


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [math.nan, 1.5, -math.inf], "b": (2, "NaN")})
    text = (tmp_path / "x.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert (found["a"], found["b"]) == ([None, 1.5, None], [2, "NaN"])


def test_reading_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(RunError, match="not a finished run"):
        read_run(tmp_path)
    folder = fake_run(tmp_path / "run", domains=("law", "code"), n_layers=2, d_model=64)
    (folder / "records" / "detectors.json").unlink()
    with pytest.raises(RecordError, match=r"detectors\.json does not exist"):
        read_run(folder)


def test_figures_are_drawn_from_records_without_a_model_and_ask_for_nothing(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", domains=("law", "code"), n_layers=3, d_model=64)
    script = (
        "import sys; from pathlib import Path; from workbench.report import write_figures\n"
        f"print(*write_figures(Path({str(folder)!r})), sep='\\n')\n"
        "loaded = {'transformers', 'transformer_lens'} & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    paths = [Path(line) for line in done.stdout.split()]
    assert set(paths) == set((folder / "figures").glob("*"))
    names = {path.stem for path in paths}
    assert names >= {"magnitudes", "first-positions", "frequency", "detectors"}
    assert names >= {"effect-domain-loss", "effect-domain-share"}
    for path in paths:
        markup = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//", markup)


def test_a_run_in_which_nothing_is_active_is_still_drawn(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", domains=("law", "code"), n_layers=2, d_model=64)
    rows = fake_rows(("law", "code"), 2, 64)
    save_record(replace(rows, values=np.ones_like(rows.values)), folder / "records" / "rows.npy")
    assert "frequency" not in {path.stem for path in write_figures(folder)}


def test_summary_has_the_promised_keys_and_the_default_selection() -> None:
    domains = ("law", "code")
    summary = summarise("tiny", domains, fake_dcds(domains, 64), fake_detectors(domains, 2, 64), OLD, 12.5)
    assert set(summary) >= {"model", "domains", "dcds", "detectors", "steering", "seconds"}
    assert list(summary["dcds"]) == ["law", "code"]
    assert set(summary["dcds"]["law"][0]) >= {"dimension", "magnitude", "frequency", "frequency_elsewhere"}
    massive = 41  # one of the massive dimensions of the made-up records, which only `magnitude` selects
    assert massive in [dcd["dimension"] for dcd in summary["dcds"]["law"]]
    assert massive not in [dcd["dimension"] for dcd in summary["dcds_by_selection"]["both"]["law"]]
    assert len(summary["dcds"]["law"]) == sum(dcd.selection == "magnitude" for dcd in fake_dcds(("law",), 64))
    assert set(summary["detectors"][0]) >= {"domain", "layer", "dimension", "label", "auroc", "top_tokens"}
    assert all(isinstance(token, str) for token in summary["detectors"][0]["top_tokens"])
    keys = {"task", "metric", "domain", "method", "selection", "layer", "strength", "kl", "effect", "low", "high", "n"}
    assert set(summary["steering"][0]) >= keys
    assert summary["seconds"] == 12.5


def test_profiles_have_one_row_per_domain_layer_and_dimension() -> None:
    statistics = fake_statistics(("law", "code"), 3, 64)
    table = profile_frame(statistics, [5, 9]).set_index(["domain", "layer", "dimension"])
    assert len(table) == 2 * 3 * 2
    row = table.loc["code", 2, 9]
    assert row["mean_magnitude"] == statistics.mean_magnitude[1, 2, 9]
    assert row["standard_deviation"] ** 2 == pytest.approx(statistics.m2[1, 2, 9] / statistics.n_tokens[1])


def test_an_empty_comparison_table_keeps_its_columns() -> None:
    assert "effect" in comparison_frame([]).columns


def test_paths_may_be_strings(tmp_path: Path) -> None:
    folder = f"{fake_run(tmp_path / 'run', domains=('law', 'code'), n_layers=2, d_model=64)}"
    assert read_run(folder).dcds == read_run(Path(folder)).dcds
    found = load_record(f"{folder}/records/statistics.safetensors", DimensionStatistics)
    save_record(found, f"{tmp_path}/again.safetensors")
    assert load_record(tmp_path / "again.safetensors", DimensionStatistics).domains == found.domains
    rows = load_record(f"{folder}/records/rows.npy", PooledRows)
    save_record(rows, f"{tmp_path}/again.npy")
    dcds = load_table(f"{folder}/records/dcds.json", Dimension)
    save_table(dcds, f"{tmp_path}/dcds.json")
    assert load_table(tmp_path / "dcds.json", Dimension) == dcds
    assert write_figure(magnitude_figure(found), f"{tmp_path}/figure.html").is_file()
    assert write_report(folder).is_file()
