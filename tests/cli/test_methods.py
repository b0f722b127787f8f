"""`workbench fit`, `layers` and `heads`: every method can be fitted, saved and used, and mistakes are one line."""

import json
from pathlib import Path

import pandas as pd
import pytest
from workbench.comparison.arm_kinds import METHOD_KINDS

from tests.command import Command, command_line
from workbench.cli.jobs import DOMAIN_METHODS
from workbench.cli.method_jobs import METHODS


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return command_line(capsys)


def lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, tuple[str, Path | str]]:
    """The option and file of every kind of data, in words of the tiny model."""
    pairs = [
        {"positive": f"the {word} shall court", "negative": f"the {word} of river"}
        for word in ("judge", "law", "statute", "people", "water", "plant", "leaf", "force")
    ]
    exchanges = [
        {"prompt": f"the {word} of", "positive": " court law", "negative": " river water"} for word in ("judge", "law")
    ]
    items = [{"prompt": "the court of", "correct": " law", "wrong": " river"}]
    return {
        "pairs": ("--pairs", lines(tmp_path / "pairs.jsonl", pairs)),
        "persona": ("--persona", lines(tmp_path / "exchanges.jsonl", exchanges)),
        "items": ("--items", lines(tmp_path / "items.jsonl", items)),
        "domain": ("--domain", "law"),
    }


KIND = {
    "cds": "domain",
    "style-heads": "persona",
    "activation-scaling": "items",
    "steer-vec": "items",
    "dyn-scalar": "items",
}
FEW = {"iti": ("--k", "2"), "sadi": ("--site", "mlp_raw", "--k", "2"), "austeer": ("--site", "z", "--k", "4")}


TRAINED = ("activation-scaling", "steer-vec", "dyn-scalar")  # seconds of gradient steps each
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED else name for name in METHODS]


def test_methods_have_the_same_names_in_every_command() -> None:
    compared = {kind.name for kind in METHOD_KINDS}
    # `fit` chooses the selection of cds by an option, and adds a direction before a layer, which no comparison runs.
    assert set(METHODS) - {"addition"} == compared - {"cds-discrimination"}
    assert set(DOMAIN_METHODS) <= compared


@pytest.mark.parametrize("method", ALL)
def test_every_method_is_fitted_saved_and_steers(
    command: Command,
    data: dict[str, tuple[str, Path | str]],
    tiny_model_folder: Path,
    tiny_corpus_folder: Path,
    method: str,
    tmp_path: Path,
) -> None:
    kind = KIND.get(method, "pairs")
    source = ("--domains", tiny_corpus_folder, "--k", "2") if kind == "domain" else ()
    artefact = tmp_path / "fitted.safetensors"
    fit = ("fit", "--method", method, "--model", tiny_model_folder, "--out", artefact)
    outcome = command(*fit, *data[kind], *source, *FEW.get(method, ()))
    assert outcome.code == 0, outcome.err
    assert f"saved: {artefact}" in outcome.out
    steer = ("steer", "the court of", "--model", tiny_model_folder, "--artefact", artefact, "--max-new-tokens", "6")
    plain = command(*steer, "--strength", "0")
    strong = command(*steer, "--strength", "60", "--scope", "all")
    assert plain.code == strong.code == 0, strong.err
    unsteered, steered = plain.out.split("--- unsteered\n")[1].split("\n\n--- steered\n")
    assert unsteered == steered.rstrip("\n")
    assert strong.out != plain.out


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown method": (("--method", "magic", "--domain", "law"), "unknown method 'magic'"),
    "no data": (("--method", "austeer"), "is fitted on --pairs or --domain"),
    "two kinds of data": (("--method", "whole-dimension", "--domain", "law", "--pairs", "p"), "give one of them"),
    "wrong kind of data": (("--method", "activation-scaling", "--domain", "law"), "is fitted on --items"),
    "no such task": (("--method", "activation-scaling", "--items", "sums"), "expected ccc, ioi, or a file"),
    "no such persona": (("--method", "style-heads", "--persona", "judge"), "--persona judge: expected"),
    "builtin persona": (("--method", "style-heads", "--persona", "pirate"), "prompts for the built-in model"),
    "missing pairs": (("--method", "whole-dimension", "--pairs", "none.jsonl"), "none.jsonl"),
    "site of another method": (
        ("--method", "whole-dimension", "--domain", "law", "--site", "z"),
        "--site is for austeer and sadi",
    ),
    "no such site": (("--method", "sadi", "--domain", "law", "--site", "resid_post"), "does not act at 'resid_post'"),
    "no such layer": (("--method", "whole-dimension", "--domain", "law", "--layer", "2"), "layers 0 to 1"),
    "too many heads": (("--method", "iti", "--domain", "law", "--k", "9"), "cannot choose 9 of 4 heads"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(
    command: Command, tiny_model_folder: Path, tiny_corpus_folder: Path, name: str, tmp_path: Path
) -> None:
    arguments, message = MISTAKES[name]
    out = tmp_path / "fitted.safetensors"
    common = ("--model", tiny_model_folder, "--domains", tiny_corpus_folder, "--out", out)
    outcome = command("fit", *arguments, *common)
    assert outcome.code == 2
    assert message in outcome.err
    assert "\n" not in outcome.err.strip()
    assert not out.exists()


@pytest.mark.slow
def test_a_prompt_of_another_length_is_refused_where_positions_were_learned(
    command: Command, data: dict[str, tuple[str, Path | str]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    artefact = tmp_path / "s.safetensors"
    command("fit", "--method", "activation-scaling", "--model", tiny_model_folder, *data["items"], "--out", artefact)
    outcome = command("steer", "the court of the river", "--model", tiny_model_folder, "--artefact", artefact)
    assert outcome.code == 2
    assert "was learned on prompts of" in outcome.err


def test_layers_and_heads_write_their_tables(
    command: Command, data: dict[str, tuple[str, Path | str]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    common = (*data["persona"], "--model", tiny_model_folder)
    layers = command("layers", *common, "--out", tmp_path / "layers.csv")
    assert layers.code == 0, layers.err
    assert "2 of 2 questions kept" in layers.out
    cosines = pd.read_csv(tmp_path / "layers.csv")
    assert len(cosines) == 16  # two stages in each of two layers, with each other
    assert cosines[cosines.stage == cosines.other].cosine.to_numpy() == pytest.approx(1.0)
    heads = command("heads", *common, "--layer", "1", "--out", tmp_path / "heads.csv")
    assert heads.code == 0, heads.err
    assert "Heads of layer 1" in heads.out
    shares = pd.read_csv(tmp_path / "heads.csv").groupby("layer").share.sum()
    assert shares.to_numpy() == pytest.approx(1.0)
