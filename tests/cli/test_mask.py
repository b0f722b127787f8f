"""`workbench mask` on a tiny model, and what it refuses before the long part begins."""

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_cli import Command, command  # noqa: F401
from tests.command import assert_refused
from workbench.cli.mask import read_dimensions, read_modes, read_plan
from workbench.masking.experiment import sample_prompts
from workbench.masking.measure import mask_dimensions
from workbench.masking.tables import load_criticality
from workbench.records import load_masking
from workbench.study import Settings, load_passages, open_model


@pytest.fixture
def tiny(tiny_model_folder: Path, tiny_corpus_folder: Path) -> tuple[str | Path, ...]:
    return ("mask", "--model", tiny_model_folder, "--corpus", tiny_corpus_folder)


def test_chosen_dimensions_are_masked_on_test(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
    tiny_model_folder: Path,
    tiny_corpus_folder: Path,
) -> None:
    outcome = command(*tiny, "--dimensions", "5,9-10", "--passages", "3", "--out", tmp_path / "m")
    assert outcome.code == 0
    assert "estimate: at most 24 forward passes" in outcome.err
    table = pd.read_csv(tmp_path / "m" / "loss_increases.csv")
    assert table["dimension"].tolist() == [5, 9, 10, 5, 9, 10]
    settings = Settings(str(tiny_model_folder), str(tiny_corpus_folder))
    model = open_model(settings)
    alone = mask_dimensions(model, sample_prompts(load_passages(settings, model), "test", 3), [5])
    of_law = [domain == "law" for domain in alone.domains]
    assert table.loc[0, "loss_increase"] == pytest.approx(alone.loss_increase[0, of_law].mean(), abs=1e-5)
    assert load_masking(tmp_path / "m" / "test-zero.safetensors").dimensions == (5, 9, 10)


def test_without_dimensions_it_ranks_and_tests_them(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
) -> None:
    outcome = command(*tiny, "--passages", "3", "--mode", "mean", "--k", "2", "--m", "4", "--out", tmp_path / "m")
    assert outcome.code == 0
    assert "Increase of token loss on test" in outcome.out
    found = load_criticality(tmp_path / "m" / "records")
    assert set(found.test) == set(found.identify) == {"zero", "mean"}
    assert {path.stem for path in (tmp_path / "m").glob("*.csv")} >= {
        "loss_increases",
        "masked",
        "agreement",
        "jaccard",
    }
    again = command(*tiny, "--out", tmp_path / "m")
    assert (again.code, "not an empty folder" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode", "half"), "unknown mask mode 'half'; choose one of zero, mean, resample, or all"),
        (("--path", "short"), "choose screened or full"),
        (("--m", "5"), "m is 5, fewer than k = 10"),
        (("--passages", "0"), "--passages is 0; at least 2 per domain"),
        (("--dimensions", "5,16"), "out of range; this model has 0 to 15"),
        (("--dimensions", "a"), "cannot read dimensions 'a'"),
        (("--dimensions", "7-5"), "range 7-5 of --dimensions is empty"),
        (("--masked-at", "sinks"), "--masked-at 'sinks' is no set of tokens; choose one of 'all tokens'"),
        (("--counted-at", "later"), "--counted-at 'later' is no set of tokens"),
        (("--exam", "builtin"), "there is no exam for model"),
        (("--exam", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_mistakes_are_one_line(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert_refused(command(*tiny, *arguments), message)


def test_options_are_read() -> None:
    assert read_dimensions("3, 17,4-6") == [3, 4, 5, 6, 17]
    assert read_modes("all") == ("zero", "mean", "resample")
    plan = read_plan("full", ("mean",), k=2, m=3, passages=5)
    assert (plan.modes, plan.exhaustive) == (("zero", "mean"), ("zero", "mean"))
    assert read_plan("screened", ("zero",), k=2, m=3, passages=5).exhaustive == ()
    later = ("after the first token", "after the first token")
    spared = read_plan("full", ("mean",), k=2, m=3, passages=5, sets=later)
    assert (plan.n_excluding_sinks, spared.n_excluding_sinks) == (5, 0)
    assert (spared.masked_at, spared.counted_at) == later
