"""The study as a whole, on a tiny random model and two small domains."""

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from workbench import study
from workbench.activations import capture, collect
from workbench.costs import Estimate
from workbench.masking.measure import mask_dimensions
from workbench.masking.tables import load_criticality
from workbench.records import Prompt
from workbench.runs import read_run
from workbench.study import Settings, certainty, load_passages, open_model, perform, run_study, stages, survey
from workbench.study import settings as study_settings


@pytest.fixture(scope="module")
def settings(tiny_model_folder: Path, tiny_corpus_folder: Path) -> Settings:
    return Settings(str(tiny_model_folder), str(tiny_corpus_folder), k=2, preset="quick")


@pytest.fixture(scope="module")
def finished(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perform(settings, tmp_path_factory.mktemp("runs") / "first")


def test_a_run_folder_is_complete(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        *("manifest.json", "summary.json", "tables", "records", "figures", "assets", "report.html")
    }
    tables = {path.stem for path in (finished / "tables").glob("*.csv")}
    assert tables >= {"dcds", "detectors", "steering", "frequency", "masking_loss_increases", "verdicts", "selections"}
    run = read_run(finished)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["domains"] == list(run.statistics.domains) == ["law", "science"]
    assert len(summary["steering"]) == sum(one.against == "unsteered" for one in run.contrasts) > 0
    assert isinstance(summary["seconds"], float)
    assert summary["masking"]["path"] == "screened"
    assert summary["verdicts"]["judged"] >= 4
    assert summary["stability"]["dcds"] == len(run.dcds)
    assert summary["labels"] == "not measured: left out with preset 'quick'"
    assert "Not measured: left out with preset" in (finished / "report.html").read_text(encoding="utf-8")


def test_masking_in_the_run_is_that_of_the_passages_of_its_splits(finished: Path, settings: Settings) -> None:
    found = load_criticality(finished / "records" / "masking")
    model = open_model(settings)
    prompts = {prompt.name: prompt for prompt in load_passages(settings, model)}
    assert {prompts[name].split for name in found.test["zero"].prompts} == {"test"}
    assert {prompts[name].split for name in found.identify["zero"].prompts} == {"identify"}
    dimension = found.test["zero"].dimensions[0]
    own = [prompts[name] for name in found.test["zero"].prompts]
    alone = mask_dimensions(model, own, [dimension])
    np.testing.assert_allclose(found.test["zero"].loss_increase[0], alone.loss_increase[0], atol=1e-5)
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert 'id="plot-masking-drops"' in report
    assert 'id="plot-verdicts"' in report
    assert "the screened path" in report


def test_the_planted_model_brings_its_own_text() -> None:
    planted = Settings("planted", domains=("law", "physics"))
    prompts = load_passages(planted)
    assert {prompt.domain for prompt in prompts} == {"law", "physics"}
    truth = study_settings.planted_truth(planted)
    assert truth is not None
    assert truth.seed == 0
    assert study_settings.planted_truth(Settings()) is None
    assert study_settings.exam_items(planted) == []
    with pytest.raises(ValueError, match="unknown domain 'code'"):
        load_passages(replace(planted, domains=("code",)))
    with pytest.raises(ValueError, match="leave --corpus out"):
        replace(planted, corpus="two-domains")
    with pytest.raises(ValueError, match="say --model planted"):
        Settings(corpus="planted")


def test_the_same_seed_gives_the_same_tables(settings: Settings, finished: Path, tmp_path: Path) -> None:
    again = run_study(settings.model, corpus=settings.corpus, k=2, preset="quick", out=tmp_path / "again")
    tables = sorted((finished / "tables").glob("*.csv"))
    for path in tables:
        assert (again / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(tables) == len(list((again / "tables").iterdir()))


def test_dcds_are_the_largest_dimensions_of_the_passages_to_identify_on(finished: Path) -> None:
    rows = read_run(finished).rows
    magnitude = rows.values[:, rows.poolings.index("mean_abs")].mean(axis=1)  # prompt, d_model
    found = json.loads((finished / "summary.json").read_text())["dcds"]
    for domain in ("law", "science"):
        own = [
            index
            for index in range(len(rows.prompts))
            if rows.domains[index] == domain and rows.splits[index] == "identify"
        ]
        expected = np.argsort(-magnitude[own].mean(axis=0))[:2].tolist()
        assert [dcd["dimension"] for dcd in found[domain]] == expected


def test_the_manifest_names_model_data_and_versions_but_no_machine(finished: Path, settings: Settings) -> None:
    text = (finished / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["model"]["name"] == Path(settings.model).name
    assert manifest["model"]["fingerprint"] == open_model(settings).fingerprint
    assert manifest["settings"]["corpus"] == "two-domains"
    assert manifest["data"]["documents"]["law"] == {"identify": 8, "tune": 4, "test": 8}
    assert set(manifest["timings"]) >= {"load", "statistics", "detectors", "steering"}
    assert manifest["seeds"]["steering"] == 0
    texts = [text, *((finished / name).read_text() for name in ("summary.json", "report.html"))]
    texts += [path.read_text() for path in (finished / "tables").iterdir()]
    for content in texts:
        assert str(Path(settings.model).parent) not in content
        assert str(finished.parent) not in content
        assert str(Path.home()) not in re.sub(r"<script.*?</script>", "", content, flags=re.DOTALL)
        assert json.dumps(socket.gethostname()) not in content


def test_survey_has_rows_of_all_passages_and_statistics_of_those_to_identify_on(settings: Settings) -> None:
    model = open_model(settings)
    prompts = load_passages(settings, model)
    statistics, rows = survey(model, prompts, settings)
    _, at_once = collect(model, prompts)
    assert rows.prompts == tuple(prompt.name for prompt in prompts)
    np.testing.assert_allclose(rows.values, at_once.values, rtol=1e-4, atol=1e-5)
    alone, _ = collect(model, [prompt for prompt in prompts if prompt.split == "identify"])
    assert statistics.n_prompts.tolist() == [8, 8]
    np.testing.assert_allclose(statistics.mean, alone.mean, rtol=1e-6, atol=1e-9)


def test_what_was_planted_is_found(finished: Path) -> None:
    found = json.loads((finished / "summary.json").read_text())["dcds_by_selection"]["discrimination"]
    first = {domain: dcds[0] for domain, dcds in found.items()}
    assert {domain: dcd["dimension"] for domain, dcd in first.items()} == {"law": 5, "science": 9}
    for dcd in first.values():
        assert dcd["frequency"] == 1.0
        assert dcd["frequency_elsewhere"] == 0.0
        assert dcd["reach"] == "this domain"


def test_top_tokens_have_the_activation_that_is_said_at_the_place_that_is_said(
    finished: Path, settings: Settings
) -> None:
    model = open_model(settings)
    texts = {prompt.name: prompt.text for prompt in load_passages(settings, model)}
    detectors = read_run(finished).detectors
    assert {detector.layer for detector in detectors} == {0, 1}
    for detector in detectors:
        context = detector.top_tokens[0]
        tokens = model.tokenize([texts[context.prompt]])
        values = capture(model, tokens, model.residual_sites([detector.layer]))
        assert float(values[0, 0, context.position, detector.dimension]) == pytest.approx(context.value, rel=1e-3)
        assert model.token_texts([int(tokens.ids[0, context.position])])[0].strip() == context.token.strip()


def test_progress_and_estimate_are_heard(settings: Settings, tmp_path: Path) -> None:
    heard: list[Any] = []
    perform(
        settings,
        tmp_path / "run",
        progress=lambda stage, done, total: heard.append((stage, done, total)),
        on_estimate=heard.append,
    )
    assert isinstance(heard[0], Estimate)
    assert heard[0].seconds > 0
    assert heard[0].memory_bytes > 0
    stages: dict[str, list[tuple[int, int]]] = {}
    for stage, done, total in heard[1:]:
        stages.setdefault(stage, []).append((done, total))
    assert list(stages) == ["statistics", "detectors", "steering", "masking"]
    for steps in stages.values():
        done = [step for step, _ in steps]
        assert done == sorted(done)
        assert {total for _, total in steps} == {done[-1]}


def few(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """The first n passages of every domain and split."""
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for prompt in prompts:
        key = prompt.domain, prompt.split
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= n:
            kept.append(prompt)
    return kept


def test_too_few_passages_for_an_interval_stop_no_study(settings: Settings, finished: Path) -> None:
    model = open_model(settings)
    prompts = load_passages(settings, model)
    assert certainty.too_few_passages(prompts) == ""
    reason = certainty.too_few_passages(few(prompts, 3))
    assert reason == "not measured: domain 'law' has 3 passages in 'identify', an interval needs 4"
    _, rows = survey(model, few(prompts, 3), settings)
    masking = load_criticality(finished / "records" / "masking")
    found = certainty.assess(model, few(prompts, 3), rows, [], [], masking, settings)
    assert found.verdicts == found.selections == found.conditions == ()
    summary = certainty.summarise_certainty(found)
    assert summary["verdicts"] == summary["stability"] == reason
    assert summary["labels"] == "not measured: left out with preset 'quick'"


def test_too_few_passages_to_mask_show_before_the_first_stage(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(settings)
    prompts = few(load_passages(settings, model), 1)
    monkeypatch.setattr(stages, "collect", fail_if_called)
    with pytest.raises(ValueError, match=r"'law', split 'identify': .* at least two passages, given 1"):
        stages.investigate(model, prompts, settings, {}, None, tmp_path)


def test_the_full_preset_tests_labels_and_other_conditions(settings: Settings) -> None:
    full = replace(settings, preset="full")
    model = open_model(full)
    prompts = load_passages(full, model)
    _, rows = survey(model, prompts, full)
    dcds = [dcd for group in study.select(rows, 2).values() for dcd in group]
    labels = certainty.examine_labels(model, prompts, rows, dcds, full)
    known = {dcd.dimension for dcd in dcds}
    assert all((item.dimension in known) or not item.is_dcd for item in labels)
    conditions = certainty.other_conditions(model, prompts, rows, full)
    assert {(item.condition, item.domain) for item in conditions} == {
        (condition, domain) for condition in ("half the length", "bfloat16") for domain in ("law", "science")
    }
    assert min(item.spearman for item in conditions if item.condition == "bfloat16") > 0.9


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        (stages, "collect"),
        (stages, "compare_on_corpus"),
        (stages, "measure_criticality"),
        (study, "write_report"),
    ],
)
def test_an_interrupt_at_any_stage_leaves_no_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, stage: str
) -> None:
    monkeypatch.setattr(module, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        perform(settings, tmp_path / "runs" / "study")
    assert list(tmp_path.iterdir()) == []


def test_long_documents_are_cut_to_fit_a_short_context(settings: Settings, tmp_path: Path) -> None:
    for domain, word in (("law", "statute"), ("science", "energy")):
        numbered = (f"{word} {number} of the old court." for number in range(400))
        (tmp_path / f"{domain}.txt").write_text(" ".join(numbered))
    model = open_model(settings)
    prompts = load_passages(replace(settings, corpus=str(tmp_path)), model)
    assert max(len(prompt.text) for prompt in prompts) > 100
    assert max(int(model.tokenize([prompt.text]).lengths[0]) for prompt in prompts) <= model.context_length


def fail_if_called(*arguments: Any, **options: Any) -> Sequence[Prompt]:
    raise AssertionError("the model was loaded before the mistake was found")


def test_mistakes_in_the_corpus_show_before_the_model_is_loaded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_settings, "load_model", fail_if_called)
    with pytest.raises(ValueError, match="unknown domain 'lwa'"):
        perform(replace(settings, domains=("lwa", "science")), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_k_must_fit_the_model(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k = 0 should be"):
        replace(settings, k=0)
    with pytest.raises(ValueError, match="k is 17, but tiny-llama has 16 residual dimensions"):
        perform(replace(settings, k=17), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown preset 'slow'; choose one of full, quick"):
        Settings(preset="slow")


def test_nan_activations_name_the_layer_and_leave_nothing(
    settings: Settings, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in tiny_model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"resid_post\.1|layer 1"):
        perform(replace(settings, model=str(folder)), tmp_path / "runs" / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
