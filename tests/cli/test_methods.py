"""`workbench fit`, `layers` and `heads`: every method can be fitted, saved and used, and mistakes are one line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.command import Command, command_line
from workbench.cli.method_jobs import OPTIONS
from workbench.interventions import METHODS


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


TRAINED = ("activation-scaling", "steer-vec", "dyn-scalar")  # seconds of gradient steps each
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED else name for name in METHODS]


def test_the_list_of_methods_names_every_one(command: Command) -> None:
    shown = command("methods").out
    assert [line.split(":")[0].split(",")[0] for line in shown.splitlines()] == list(METHODS)
    assert "caa, whole-dimension" in shown


@pytest.mark.parametrize("method", ALL)
def test_every_method_is_fitted_saved_and_steers(
    command: Command,
    data: dict[str, tuple[str, Path | str]],
    tiny_model_folder: Path,
    tiny_corpus_folder: Path,
    method: str,
    tmp_path: Path,
) -> None:
    card = METHODS[method]
    kind = "domain" if card.needs == "rows" else OPTIONS[card.needs][0]
    source = ("--domains", tiny_corpus_folder) if kind == "domain" else ()
    count = ("--k", "2") if card.counts else ()
    artefact = tmp_path / "fitted.safetensors"
    fit = ("fit", "--method", method, "--model", tiny_model_folder, "--out", artefact)
    outcome = command(*fit, *data[kind], *source, *count)
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
    "two kinds of data": (("--method", "sadi-mlp", "--domain", "law", "--persona", "pirate"), "give one of them"),
    "wrong kind of data": (("--method", "activation-scaling", "--domain", "law"), "is fitted on --items"),
    "no such task": (("--method", "activation-scaling", "--items", "sums"), "expected ccc, ioi, or a file"),
    "no such persona": (("--method", "style-heads", "--persona", "judge"), "--persona judge: expected"),
    "builtin persona": (("--method", "style-heads", "--persona", "pirate"), "prompts for the built-in model"),
    "missing pairs": (("--method", "whole-dimension", "--pairs", "none.jsonl"), "none.jsonl"),
    "no such layer": (("--method", "whole-dimension", "--domain", "law", "--layer", "2"), "layers 0 to 1"),
    "too many heads": (("--method", "iti", "--domain", "law", "--k", "9"), "choose 9 heads, but there are 4"),
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
