"""`workbench verdict` on a tiny model, with the costs that `workbench mask` measured, and on the planted one."""

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_cli import Command, command  # noqa: F401
from tests.command import assert_refused
from workbench.records import VERDICTS, MaskingResult, load_record


@pytest.fixture
def tiny(tiny_model_folder: Path, tiny_corpus_folder: Path) -> tuple[str | Path, ...]:
    return ("--model", tiny_model_folder, "--corpus", tiny_corpus_folder)


def test_costs_are_those_that_mask_measured(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
) -> None:
    assert command("mask", *tiny, "--dimensions", "5,9", "--passages", "3", "--out", tmp_path / "m").code == 0
    masked = load_record(tmp_path / "m" / "test-zero.safetensors", MaskingResult)
    file = tmp_path / "verdicts.csv"
    outcome = command("verdict", *tiny, "--k", "2", "--masking", tmp_path / "m/test-zero.safetensors", "--out", file)
    assert outcome.code == 0, outcome.err
    assert "reach the AUROC of a detector" in outcome.out
    table = pd.read_csv(file)
    assert set(table["verdict"]) <= set(VERDICTS)
    of_law = [domain == "law" for domain in masked.domains]
    (cost,) = table.loc[(table["domain"] == "law") & (table["dimension"] == 5), "cost_zero"].tolist()
    assert cost == pytest.approx(masked.loss_increase[0, of_law].mean())
    assert table["cost_mean"].isna().all()


@pytest.mark.slow
def test_the_planted_model_is_judged(command: Command, tmp_path: Path) -> None:  # noqa: F811
    outcome = command("verdict", "--model", "planted", "--k", "4", "--out", tmp_path / "v.csv")
    assert outcome.code == 0, outcome.err
    assert {"sink", "detector"} <= set(pd.read_csv(tmp_path / "v.csv")["verdict"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--criterion", "big"), "unknown criterion 'big'"),
        (
            ("--masking", "missing.safetensors"),
            "missing.safetensors",
        ),
        (("--k", "0"), "--k"),
    ],
)
def test_mistakes_are_one_line(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert_refused(command("verdict", *tiny, *arguments), message)
