"""`workbench compare` on the tiny model and a task file: it runs, goes on, refuses what does not fit, and plans."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.command import Command, command_line
from tests.conftest import WORDS
from workbench.cli.compare import overridden_model
from workbench.cli.options import SpecOptions
from workbench.comparison.api import open_model
from workbench.comparison.spec import ModelSpec
from workbench.models.loading import BUILTIN

SPEC = """\
name = "tiny"
methods = [{methods}]
k = {k}
{extra}

[model]
name = '{model}'

[budgets]
kl = [0.05]
at_kl = 0.05

[sizes]
n_neutral = 2
n_neutral_tokens = 6
n_tune = 4
n_test = 6
n_fit = 10
n_layers = 1
curves = false

[[tasks]]
kind = "items"
data = '{data}'
"""
MEASURES = {
    "KL",
    "top-1 agreement",
    "loss of its text",
    "repetition",
    "distinct bigrams",
    "compression ratio",
    "length",
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return command_line(capsys)


@pytest.fixture
def write_spec(tiny_model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A specification of the task file on the tiny model."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(30):
        words = generator.choice(WORDS, size=5, replace=False)
        rows.append({"prompt": " ".join(words[:3]), "answers": [f" {words[3]}"], "distractors": [f" {words[4]}"]})
        rows[-1] |= {
            "name": f"item {index}",
            "subject": f"subject {index}",
            "split": ("identify", "tune", "test")[index % 3],
        }
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")

    def write(
        *methods: str, k: int = 3, extra: str = "", model: Path | str = tiny_model_folder, splits: str = ""
    ) -> Path:
        """With `splits` the items get these splits in turn: i, t or T for identify, tune, test."""
        if splits:
            words = {"i": "identify", "t": "tune", "T": "test"}
            changed = [{**row, "split": words[splits[index % len(splits)]]} for index, row in enumerate(rows)]
            data.write_text("\n".join(map(json.dumps, changed)) + "\n", encoding="utf-8")
        path = tmp_path / "spec.toml"
        names = ", ".join(f'"{name}"' for name in methods)
        path.write_text(SPEC.format(methods=names, k=k, extra=extra, model=model, data=data), encoding="utf-8")
        return path

    return write


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*.json")}


def test_it_runs_goes_on_without_repeating_and_refuses_another_specification(
    command: Command, write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    spec, folder = write_spec("cds"), tmp_path / "run"
    first = command("compare", spec, "--out", folder)
    assert first.code == 0, first.err
    assert "estimate: about" in first.err
    assert (folder / "report.html").is_file()
    done = stamps(folder)
    assert f"plan: {len(done)} cells" in " ".join(first.out.split())
    lost = sorted(path for path in done if "/cds-0/" in path.as_posix() and path.name.startswith("test"))
    assert len(lost) == 1
    tables = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    lost[0].unlink()
    again = command("compare", spec, "--out", folder)
    assert again.code == 0, again.err
    assert {path for path, stamp in stamps(folder).items() if stamp != done[path]} == set(lost)
    assert {path.name: path.read_bytes() for path in (folder / "tables").iterdir()} == tables
    for changed in (write_spec("cds", k=4), write_spec("cds", k=4, model="nowhere/at-all")):
        other = command("compare", changed, "--out", folder)
        assert (other.code, other.out) == (2, "")  # refused before a model is loaded or a plan printed
        assert "another specification" in other.err
    assert (folder / "figures" / "damage-items-items.html").is_file()
    check_damage(pd.read_csv(folder / "tables" / "damage.csv"), folder)


def check_damage(table: pd.DataFrame, folder: Path) -> None:
    """Every arm that edits has every measure; the numbers are those of its cell against the unsteered one."""
    assert "prompt-only" not in set(table.arm)
    for _, own in table.groupby("arm"):
        assert set(own.measure) >= MEASURES
    cds = table[table.arm == "cds"].set_index("measure")
    assert cds.loc["KL", "unsteered"] == pytest.approx(0, abs=1e-6)
    (path,) = (path for path in (folder / "cells").rglob("test*.json") if path.parent.name == "cds-0")
    agreement = json.loads(path.read_text())["result"]["damage"]["top-1 agreement"]
    assert cds.loc["top-1 agreement", "value"] == pytest.approx(np.mean(list(agreement.values())))
    assert cds.loc["top-1 agreement", "unsteered"] == 1
    assert (cds.low.dropna() <= cds.difference[cds.low.notna()]).all()


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (("cds",), {"extra": "metods = 1"}, "unknown key 'metods'"),
        (("magic",), {}, "unknown method 'magic'; choose one of cds"),
        (("cds",), {"model": "nowhere/at-all"}, "nowhere/at-all"),
        (("cds", "cds"), {}, "'cds' twice; list it once"),
        (("cds",), {"extra": "[[tasks]]\nkind = 'facts'\n[[tasks]]\nkind = 'facts'"}, "duplicate cells; list it once"),
        (("cds",), {"splits": "it"}, "has no test items (splits present: identify, tune)"),
        (("cds",), {"splits": "itt" * 9 + "itT"}, "has 1 test item(s) of a single subject, which give no interval"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    command: Command,
    write_spec: Callable[..., Path],
    tmp_path: Path,
    methods: tuple[str, ...],
    options: dict[str, str],
    message: str,
) -> None:
    outcome = command("compare", write_spec(*methods, **options), "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_weights_and_writes_nothing(
    command: Command, write_spec: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_model_folder / "config.json").read_bytes())
    before = set(tmp_path.iterdir())
    outcome = command("compare", write_spec("cds", "style-heads", model=bare), "--plan", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "memory: about" in outcome.out
    assert "time: about" in outcome.out
    assert "n/a (1) because" in outcome.out
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "spec.toml"}


def test_how_a_model_is_read_is_said_in_the_specification_and_on_the_command_line(tiny_model_folder: Path) -> None:
    spec = ModelSpec(name=str(tiny_model_folder), attention="sdpa", bos="never")
    model = open_model(spec)
    assert (model.attention, model.text.bos, model.name) == ("sdpa", "never", "tiny-llama")
    model = open_model(overridden_model(spec, SpecOptions(attention="eager", shown_as="mine")))
    assert (model.attention, model.text.bos, model.name) == ("eager", "never", "mine")


def test_tasks_on_the_command_line_say_what_they_are_about_and_what_they_read(command: Command) -> None:
    tasks = "refusal:away,domain-loss:law,trait:calm=traits,items=my.jsonl"
    outcome = command("compare", "--methods", "cds", "--tasks", tasks, "--plan")
    assert outcome.code == 0, outcome.err
    for name in ("refusal/away", "domain-loss/law", "trait/calm", "items/my"):
        assert all(part in outcome.out for part in name.split("/"))
    assert "choose one of towards" in command("compare", "--methods", "cds", "--tasks", "refusal:sideways").err


def test_methods_and_tasks_are_named_together(command: Command) -> None:
    assert "name a SPEC file, or both" in command("compare", "--methods", "cds", "--model", BUILTIN).err
