"""The command line as a stranger meets it: every mistake one line, exit code 2, and nothing written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import workbench
from tests.command import Command, Outcome, command_line
from workbench.cli import jobs, options, output, run
from workbench.interventions.files import read_file
from workbench.models import ModelError
from workbench.records import Dimension
from workbench.study import settings, stages


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `workbench ...` in an empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return command_line(capsys)


@pytest.fixture
def on_tiny(tiny_model_folder: Path, tiny_corpus_folder: Path) -> tuple[str | Path, ...]:
    return ("--model", tiny_model_folder, "--domains", tiny_corpus_folder, "--k", "2")


def test_version_and_help(command: Command) -> None:
    assert command("--version") == Outcome(0, f"workbench {workbench.__version__}\n", "")
    everything = command("--help")
    assert everything.code == 0
    for name in ("study", "find", "label", "steer", "figures", "doctor"):
        assert name in everything.out
        assert command(name, "--help").code == 0
    assert command().out == everything.out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, workbench.__main__; sys.argv = ['workbench', 'study', '--help']\n"
        "try: workbench.__main__.main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--domains" in done.stdout
    loaded = set(done.stderr.split())
    assert "workbench.cli.app" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "transformers", "transformer_lens", "plotly", "scipy", "datasets"}


def test_a_mistake_before_the_first_stage_leaves_nothing_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown"), output.progress_bars():
        raise ValueError("unknown")
    assert capsys.readouterr() == ("", "")
    with output.progress_bars() as (stage, _):
        stage("collect", 3, 3)
    assert "3/3" in capsys.readouterr().err


def test_a_narrow_table_loses_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Dimension("humanities", 1234, 1, "magnitude", 12.5, 3.25, 0.75, 0.25, "every domain")]
    for width in (60, 100):
        monkeypatch.setattr(output, "PLAIN_WIDTH", width)
        output.print_dcds(found, "magnitude")
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        assert all(part in "".join(lines) for part in ("1234", "12.5", "3.25", "0.75", "0.25"))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def copied(folder: Path, target: Path, *, without: str = "") -> Path:
    target.mkdir()
    for file in folder.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def with_config(folder: Path, target: Path, **changes: Any) -> Path:
    copied(folder, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def corpus(target: Path, **content: bytes) -> Path:
    target.mkdir()
    for name, data in content.items():
        (target / f"{name}.txt").write_bytes(data)
    return target


TEXT = b"\n\n".join(b"The court heard case %d of the old river, and the people went home." % n for n in range(40))
OTHER = TEXT.replace(b"court", b"plant").replace(b"case", b"leaf")

MODELS: dict[str, tuple[Callable[[Path, Path], str | Path], str]] = {
    "unknown name": (lambda tiny, new: "no-such/model", "no-such/model"),
    "missing folder": (lambda tiny, new: new / "missing", "missing"),
    "no weights": (lambda tiny, new: copied(tiny, new / "m", without="model.safetensors"), "safetensors"),
    "no tokenizer": (lambda tiny, new: copied(tiny, new / "m", without="tokenizer.json"), "tokenizer"),
    "encoder only": (
        lambda tiny, new: with_config(tiny, new / "m", model_type="bert", architectures=["BertForMaskedLM"]),
        "BertForMaskedLM",
    ),
    "unsupported": (
        lambda tiny, new: with_config(tiny, new / "m", model_type="ctrl", architectures=["CTRLLMHeadModel"]),
        "CTRLLMHeadModel",
    ),
}
CORPORA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty folder": (lambda new: corpus(new / "c"), "empty"),
    "missing folder": (lambda new: new / "missing", "missing"),
    "one domain": (lambda new: corpus(new / "c", law=TEXT), "only the domain 'law'"),
    "blank domain": (lambda new: corpus(new / "c", law=TEXT, code=b" \n\n"), "'code'"),
    "binary file": (lambda new: corpus(new / "c", law=TEXT, code=OTHER + b"\0\1"), "code.txt is not text"),
    "wrong encoding": (lambda new: corpus(new / "c", law=TEXT, code=OTHER + b"caf\xe9"), "not UTF-8"),
}
SMALL: dict[str, tuple[tuple[str, ...], str]] = {
    "k of zero": (("study", "--k", "0"), "--k"),
    "k too large": (("find", "--k", "17"), "17"),
    "unknown domain": (("steer", "x", "--domain", "lwa"), "unknown domain 'lwa'"),
    "unknown method": (("steer", "x", "--domain", "law", "--method", "magic"), "unknown method 'magic'"),
    "unknown scope": (("steer", "x", "--domain", "law", "--scope", "some"), "unknown scope 'some'"),
    "layer out of range": (("steer", "x", "--domain", "law", "--layer", "2"), "layer 2 is out of range"),
    "negative layer": (("steer", "x", "--domain", "law", "--layer", "-1"), "--layer"),
    "endless strength": (("steer", "x", "--domain", "law", "--strength", "inf"), "finite"),
    "prompt too long": (("steer", "the court " * 200, "--domain", "law"), "context"),
    "no direction": (("steer", "x"), "--domain"),
    "unknown selection": (("find", "--selection", "best"), "--selection"),
    "unknown dtype": (("find", "--dtype", "int3"), "int3"),
    "unknown device": (("find", "--device", "abacus"), "abacus"),
    "no batch": (("label", "--batch-size", "0"), "--batch-size"),
    "output below a file": (("study", "--out", f"{__file__}/run"), "cannot write"),
    "table below a file": (("find", "--out", f"{__file__}/dcds.csv"), "cannot write"),
    "artefact missing": (("steer", "x", "--artefact", "none.safetensors"), "none.safetensors"),
    "no run": (("figures", "nowhere"), "nowhere"),
    "unknown flag": (("study", "--colour"), "--colour"),
    "negative temperature": (("steer", "x", "--domain", "law", "--temperature", "-1"), "--temperature"),
    "strength of no size": (("steer", "x", "--domain", "law", "--strength", "nan"), "finite"),
    "unknown command": (("fnid",), "fnid"),
    "missing argument": (("steer",), "prompt"),
    "not a number": (("find", "--k", "many"), "--k"),
}


def check_mistake(outcome: Outcome, expected: str, working_directory: Path) -> None:
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert outcome.code == 2, outcome
    assert lines[-1].startswith("workbench: "), outcome
    assert expected in lines[-1], outcome
    assert "Traceback" not in outcome.err
    assert list(working_directory.iterdir()) == []


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used(
    command: Command, tiny_model_folder: Path, tiny_corpus_folder: Path, tmp_path: Path, name: str
) -> None:
    make, expected = MODELS[name]
    model = make(tiny_model_folder, tmp_path)
    outcome = command("study", "--model", model, "--domains", tiny_corpus_folder, "--out", "deep/run")
    check_mistake(outcome, expected, tmp_path / "here")


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_that_cannot_be_used(command: Command, tiny_model_folder: Path, tmp_path: Path, name: str) -> None:
    make, expected = CORPORA[name]
    outcome = command("study", "--model", tiny_model_folder, "--corpus", make(tmp_path), "--out", "deep/run")
    check_mistake(outcome, expected, tmp_path / "here")


def test_a_json_line_without_text(command: Command, tiny_model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "The court.", "domain": "law"}\n{"domain": "law"}\n')
    outcome = command("find", "--model", tiny_model_folder, "--domains", path, "--out", "dcds.csv")
    check_mistake(outcome, "line 2", tmp_path / "here")


@pytest.mark.parametrize("name", SMALL)
def test_options_that_cannot_be(command: Command, on_tiny: tuple[str | Path, ...], tmp_path: Path, name: str) -> None:
    arguments, expected = SMALL[name]
    defaults = on_tiny if arguments[0] in ("study", "find", "label", "steer") and len(arguments) > 1 else ()
    kept = defaults[:4] if "--k" in arguments else defaults
    check_mistake(command(arguments[0], *kept, *arguments[1:]), expected, tmp_path / "here")


def test_an_existing_folder_that_is_no_run_is_refused(
    command: Command, on_tiny: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    outcome = command("study", *on_tiny, "--out", tmp_path / "mine")
    check_mistake(outcome, "not a run", tmp_path / "here")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_steering_of_another_model_is_refused(
    command: Command, on_tiny: tuple[str | Path, ...], tiny_model_folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "law.safetensors"
    assert command("steer", "the court", *on_tiny, "--domain", "law", "--out", saved).code == 0
    other = copied(tiny_model_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    outcome = command("steer", "the court", "--model", other, "--artefact", saved)
    check_mistake(outcome, "tiny-llama", tmp_path / "here")
    assert "--allow-other-weights" in outcome.err
    with pytest.warns(UserWarning, match="used all the same, as asked"):
        allowed = command("steer", "the court", "--model", other, "--artefact", saved, "--allow-other-weights")
    assert allowed.code == 0, allowed.err


def test_how_a_model_is_read_is_an_option_and_stands_in_the_artefact(
    command: Command, on_tiny: tuple[str | Path, ...], tmp_path: Path
) -> None:
    saved = tmp_path / "law.safetensors"
    fit = ("steer", "the court", *on_tiny, "--domain", "law", "--out", saved)
    headers = []
    for how in ((), ("--attention", "eager", "--bos", "never", "--name", "mine")):
        assert command(*fit, *how).code == 0
        headers.append(read_file(saved)[1])
    found = [(one["made_with"]["attention"], one["made_with"]["bos"], one["model"]) for one in headers]
    assert found == [("sdpa", "auto", "tiny-llama"), ("eager", "never", "mine")]
    assert [one["made_with"]["first_tokens"] for one in headers] == [["<s>"], []]


def test_debug_shows_the_traceback(command: Command) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        run(["find", "--corpus", "nowhere", "--debug"])


def test_an_interrupt_leaves_no_run(
    command: Command, on_tiny: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "compare_on_corpus", interrupt)
    outcome = command("study", *on_tiny, "--quick", "--out", "runs/study")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "workbench: interrupted; nothing was written"
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("job", ["compare", "mask-exam"])
def test_an_interrupt_of_what_resumes_says_so(command: Command, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["workbench.cli.app"], "app", interrupt)
    outcome = command(job, "spec.toml")
    assert outcome.code == 130
    assert "finished cells are kept" in outcome.err


# --- what works -------------------------------------------------------------------------------------------------------


def test_find_prints_and_writes_the_dcds(command: Command, on_tiny: tuple[str | Path, ...]) -> None:
    outcome = command("find", *on_tiny, "--out", "tables/dcds.csv")
    assert outcome.code == 0, outcome
    table = pd.read_csv("tables/dcds.csv")
    assert table["domain"].tolist() == ["law", "law", "science", "science"]
    for row in table.itertuples():
        assert str(row.dimension) in outcome.out
        assert 0 <= row.dimension < 16
    assert os.listdir() == ["tables"]
    assert os.listdir("tables") == ["dcds.csv"]


def test_label_reads_every_dcd_at_every_layer(command: Command, on_tiny: tuple[str | Path, ...]) -> None:
    outcome = command("label", *on_tiny, "--out", "detectors.csv")
    assert outcome.code == 0, outcome
    table = pd.read_csv("detectors.csv")
    assert set(table["layer"]) == {0, 1}
    assert table.groupby("domain")["dimension"].nunique().to_dict() == {"law": 2, "science": 2}


def texts(outcome: Outcome) -> tuple[str, str]:
    _, _, rest = outcome.out.partition("--- unsteered\n")
    plain, _, steered = rest.partition("\n\n--- steered\n")
    return plain, steered.split("\n\nsaved:")[0].rstrip("\n")


def steer(command: Command, on_tiny: tuple[str | Path, ...], *more: str | Path) -> tuple[str, str]:
    outcome = command("steer", "the court", *on_tiny, "--max-new-tokens", "12", *more)
    assert outcome.code == 0, outcome
    return texts(outcome)


@pytest.mark.parametrize("method", ["cds", "whole-dimension"])
def test_steer_changes_the_text_and_strength_zero_does_not(
    command: Command, on_tiny: tuple[str | Path, ...], method: str
) -> None:
    options = ("--domain", "law", "--method", method)
    plain, steered = steer(command, on_tiny, *options, "--strength", "40")
    assert plain.startswith("the court")
    assert steered.startswith("the court")
    assert steered != plain
    assert steer(command, on_tiny, *options, "--strength", "0") == (plain, plain)


def test_a_saved_steering_steers_the_same(command: Command, on_tiny: tuple[str | Path, ...]) -> None:
    options = ("--strength", "40")
    fitted = steer(command, on_tiny, "--domain", "science", "--out", "s.safetensors", *options)
    assert steer(command, on_tiny, "--artefact", "s.safetensors", *options) == fitted


def test_study_prints_what_was_found_and_figures_redraws_it(
    command: Command, on_tiny: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = command("study", *on_tiny, "--quick", "--out", "runs/tiny")
    assert outcome.code == 0, outcome
    assert "estimate: about" in outcome.err
    assert "runs/tiny/report.html" in outcome.out
    for dcds in json.loads(Path("runs/tiny/summary.json").read_text())["dcds"].values():
        assert all(str(dcd["dimension"]) in outcome.out for dcd in dcds)
    drawn = [Path("runs/tiny/report.html"), *Path("runs/tiny/figures").iterdir()]
    for path in drawn:
        path.unlink()
    monkeypatch.setattr(settings, "load_model", None)
    redrawn = command("figures", "runs/tiny")
    assert redrawn.code == 0, redrawn
    assert all(path.is_file() for path in drawn)


def test_doctor_says_what_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModelError("the built-in model is missing from this installation")

    monkeypatch.setattr(jobs, "load_model", missing)
    outcome = command("doctor")
    assert outcome.code == 1
    assert "FAIL built-in model: the built-in model is missing" in outcome.out
    assert f"dcd-workbench: {workbench.__version__}" in outcome.out
    assert "LlamaForCausalLM" in command("doctor", "--architectures").out.split()


@pytest.mark.parametrize(
    ("given", "domains", "expected"),
    [
        ("builtin", None, ("builtin", None)),
        ("builtin", "law, code", ("builtin", ("law", "code"))),
        ("builtin", "texts", ("texts", None)),
        ("builtin", "some/where", ("some/where", None)),
        ("builtin", "lines.jsonl", ("lines.jsonl", None)),
        ("builtin", "hf:owner/name", ("hf:owner/name", None)),
        ("builtin", "law,biology", ("builtin", ("law", "biology"))),
        ("texts", "a,b", ("texts", ("a", "b"))),
    ],
)
def test_domains_are_names_or_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, domains: str | None, expected: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "law,biology"):
        (tmp_path / name).mkdir()
    assert options.source_and_domains(given, domains) == expected


def test_two_corpora_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both name a corpus"):
        options.source_and_domains("one", str(tmp_path))
