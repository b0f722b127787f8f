"""The comparison on a tiny model: its numbers against the model run by hand, and its cells against interruptions."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.compared import KL, compared, neutral, question_task, small_spec
from tests.tiny import tiny_model
from workbench.comparison.run import Run, prepare, run_comparison
from workbench.comparison.store import CellError, CellFailedError, CellKey, CellStore, open_store
from workbench.comparison.tables import Outcomes
from workbench.interventions import AUSteer, steer
from workbench.models import HookedModel
from workbench.records import NotApplicable, ScoreResult, read_json, write_json
from workbench.tasks.base import Scores
from workbench.tasks.metrics import passage_tokens
from workbench.tasks.questions import QuestionTask


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def prepared(model: HookedModel) -> Run:
    return prepare(small_spec(), model, [compared()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "whole"


@pytest.fixture(scope="module")
def outcomes(prepared: Run, folder: Path) -> Outcomes:
    return run_comparison(prepared, folder, neutral())


class StoppedError(KeyboardInterrupt):
    pass


@dataclasses.dataclass(frozen=True)
class Counting:
    """The same task, but it counts its scores, and stops everything at the n-th."""

    inner: object
    counts: list[int]
    stop_at: int = 10**9

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def score_stacked(self, *args: object, **kwargs: object) -> list[Scores]:
        self.counts[0] += 1
        if self.counts[0] == self.stop_at:
            raise StoppedError
        return self.inner.score_stacked(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


def counted(prepared: Run, *, stop_at: int = 10**9) -> tuple[Run, list[int]]:
    counts = [0]
    only = prepared.tasks[0]
    task = Counting(only.task, counts, stop_at)
    wrapped = dataclasses.replace(only, task=task)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(prepared, tasks=(wrapped,)), counts


def test_effects_are_those_of_the_model_run_by_hand(model: HookedModel, outcomes: Outcomes) -> None:
    row = next(c for c in outcomes.contrasts if (c.arm, c.against, c.is_primary) == ("austeer", "unsteered", True))
    task = question_task()
    steering = AUSteer.fit(model, task.fitting(model).pairs, k=int(row.setting.removeprefix("k ")))
    items = task.items("test")

    def odds() -> np.ndarray:
        values = []
        for item in items:
            totals = []
            for text in (*item.answers, *item.distractors):
                tokens = model.tokenize([item.prompt + text])
                logits = model.logits(tokens, prompt_lengths=tokens.lengths - 1)[0, -2].log_softmax(-1)
                totals.append(float(logits[tokens.ids[0, -1]]))
            values.append(totals[0] - totals[1])
        return np.array(values)

    before = odds()
    with steer(model, steering, row.strength, "all_but_first"):
        after = odds()
    by_subject = (after - before).reshape(-1, 2).mean(axis=1)
    assert row.effect == pytest.approx(by_subject.mean(), abs=1e-4)
    assert row.n == len(by_subject) == 6

    texts = [neutral()[index].text for index in np.random.default_rng([0, 1]).permutation(6)[:4]]
    tokens = passage_tokens(model, texts, n_tokens=8)
    p = model.logits(tokens).log_softmax(-1)
    with steer(model, steering, row.strength, "all_but_first"):
        q = model.logits(tokens).log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)[tokens.mask].mean()
    assert float(kl) == pytest.approx(row.kl, abs=1e-5)
    assert row.kl == pytest.approx(KL, rel=0.1)


def test_every_arm_searches_as_many_settings(prepared: Run, outcomes: Outcomes) -> None:
    searched = outcomes.frames["settings"]
    counts = searched.groupby(["arm", "draw", "budget", "level"]).setting.nunique()
    assert set(counts) == {len(prepared.plan.layers)}
    assert {"random-k", "complement", "top-k", "noise", "shuffled"} <= set(searched.arm)
    assert searched[searched.arm == "random-k"].draw.nunique() == 5


def test_the_setting_is_the_best_one_on_tune(outcomes: Outcomes) -> None:
    searched = outcomes.frames["settings"]
    rows = [c for c in outcomes.contrasts if c.arm == "austeer" and c.is_primary]
    own = searched[(searched.arm == "austeer") & searched.is_reached]
    assert rows[0].setting == own.loc[own.tune.astype(float).idxmax()].setting


def test_the_same_seed_gives_the_same_tables(prepared: Run, outcomes: Outcomes, tmp_path: Path) -> None:
    again = run_comparison(prepared, tmp_path / "again", neutral())
    for name, frame in outcomes.frames.items():
        pd.testing.assert_frame_equal(frame, again.frames[name])


def test_an_interrupted_run_goes_on_and_repeats_nothing(
    prepared: Run, outcomes: Outcomes, folder: Path, tmp_path: Path
) -> None:
    whole, total = counted(prepared)
    run_comparison(whole, tmp_path / "whole", neutral())
    broken, first = counted(prepared, stop_at=total[0] // 2)
    with pytest.raises(StoppedError):
        run_comparison(broken, tmp_path / "broken", neutral())
    resumed, second = counted(prepared)
    found = run_comparison(resumed, tmp_path / "broken", neutral())
    assert first[0] - 1 + second[0] == total[0]  # the interrupted score is the only one that was begun twice
    for name, frame in outcomes.frames.items():
        pd.testing.assert_frame_equal(frame, found.frames[name])
    finished, third = counted(prepared)
    run_comparison(finished, tmp_path / "broken", neutral())
    assert third[0] == 0


def test_a_task_fitted_on_the_same_data_costs_the_same_and_is_chosen_by_its_own_scores(
    model: HookedModel, outcomes: Outcomes, tmp_path: Path
) -> None:
    fitted = prepare(small_spec(), model, [compared()]).tasks[0]
    twin = dataclasses.replace(fitted, task=dataclasses.replace(fitted.task, name="twin", primary="accuracy"))  # pyright: ignore[reportArgumentType]
    ready = prepare(small_spec(), model, [fitted, twin])
    assert ready.data[0] == ready.data[1]
    searched = run_comparison(ready, tmp_path / "run", neutral()).frames["settings"]
    own, other = (searched[searched.task == name].reset_index(drop=True) for name in ("words", "twin"))
    shared = ["arm", "draw", "setting", "strength", "kl", "is_reached", "in_norms", "in_sds"]
    pd.testing.assert_frame_equal(own[shared], other[shared])
    assert not np.allclose(own.tune.astype(float), other.tune.astype(float), equal_nan=True)
    pd.testing.assert_frame_equal(own[shared], outcomes.frames["settings"][shared])


def test_the_model_is_left_as_it_was(model: HookedModel, outcomes: Outcomes) -> None:
    tokens = model.tokenize(["the court shall"])
    fresh = tiny_model("llama")
    assert torch.equal(model.logits(tokens), fresh.logits(tokens))


def test_a_folder_of_another_specification_is_refused(prepared: Run, outcomes: Outcomes, folder: Path) -> None:
    other = dataclasses.replace(prepared, spec=dataclasses.replace(prepared.spec, k=4))
    with pytest.raises(CellError, match="another specification"):
        run_comparison(other, folder, neutral())
    with pytest.raises(CellError, match="other weights"):
        open_store(folder, prepared.spec, "another fingerprint")


def test_a_folder_with_other_files_is_refused(prepared: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CellError, match="no results folder"):
        run_comparison(prepared, tmp_path, neutral())


def test_a_cell_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    key = CellKey("words", "cds", 0, "test", "chosen", "kl", 0.1, 0)
    store = CellStore(tmp_path)
    store.write(key, ScoreResult.unmeasured(""))
    path = tmp_path / "cells" / key.path
    path.with_name("copy.json").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(CellError, match="same cell"):
        store.all()


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    key = CellKey("words", "cds", 0, "test", "chosen", "kl", 0.1, 0)
    store = CellStore(tmp_path)
    store.write(key, ScoreResult.unmeasured(""))
    (tmp_path / "cells" / key.path).write_text("{", encoding="utf-8")
    with pytest.raises(CellError, match="damaged"):
        store.read(key)


def test_draws_are_averaged_before_they_are_compared(outcomes: Outcomes, folder: Path) -> None:
    row = next(c for c in outcomes.contrasts if (c.arm, c.metric) == ("random-k", "log odds"))
    cells = CellStore(folder).all()
    scored = {key: result for key, result in cells.items() if isinstance(result, ScoreResult) and result.is_measured}
    base = next(result for key, result in scored.items() if key.arm == "unsteered").values["log odds"]
    ran = [result.values["log odds"] for key, result in scored.items() if key.arm == "random-k"]
    effect = np.mean([np.array(values) - np.array(base) for values in ran])
    assert row.effect == pytest.approx(float(effect), abs=1e-12)
    assert f"mean of {len(ran)} draw" in row.note


def test_curves_hold_a_band_or_say_why(model: HookedModel, tmp_path: Path) -> None:
    ready = prepare(small_spec(("whole-dimension",), curves=True), model, [compared()])
    found = run_comparison(ready, tmp_path / "run", neutral())
    assert {curve.arm for curve in found.curves} >= {"whole-dimension", "random-k", "noise"}
    for curve in found.curves:
        assert curve.n_evaluations <= 20
        assert np.isfinite(curve.low) or curve.note
    written = json.loads((tmp_path / "run" / "curves.json").read_text(encoding="utf-8"))
    assert len(written["content"]) == len(found.curves)


# --- errors are never results -----------------------------------------------------------------------------------------


def broken_shapes(*arguments: object, **options: object) -> object:
    return np.ones(3) + np.ones(4)


def cells_of(folder: Path, arm: str) -> set[CellKey]:
    return {key for key in CellStore(folder).all() if key.arm == arm}


def test_a_bug_in_a_fitter_ends_the_run_and_is_gone_once_repaired(
    prepared: Run, outcomes: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy raises the ValueError that user mistakes raise too; it must not end as "not measured"."""
    with monkeypatch.context() as planted:
        planted.setattr(AUSteer, "fit", broken_shapes)
        with pytest.raises(CellError, match=r"words.austeer-0.search.*ValueError: operands could not be broadcast"):
            run_comparison(prepared, tmp_path / "run", neutral())
    assert cells_of(tmp_path / "run", "unsteered")
    assert not cells_of(tmp_path / "run", "austeer")
    found = run_comparison(prepared, tmp_path / "run", neutral())
    for name, frame in outcomes.frames.items():
        pd.testing.assert_frame_equal(frame, found.frames[name])


@pytest.mark.parametrize("error", [ValueError, IndexError])
def test_a_bug_in_a_task_ends_the_run_and_is_gone_once_repaired(
    prepared: Run, outcomes: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    score = QuestionTask.score_items

    def broken(self: QuestionTask, model: HookedModel, items: object, parts: Sequence[object], *rest: object) -> object:
        if len(parts) > 1:
            raise error("wrong shape")
        return score(self, model, items, parts, *rest)  # pyright: ignore[reportArgumentType]

    kind = CellError if error is ValueError else CellFailedError
    with monkeypatch.context() as planted:
        planted.setattr(QuestionTask, "score_items", broken)
        with pytest.raises(kind, match=rf"words.cds-0.search.*{error.__name__}: wrong shape"):
            run_comparison(prepared, tmp_path / "run", neutral())
    assert {key.arm for key in CellStore(tmp_path / "run").all()} == {"unsteered"}
    found = run_comparison(prepared, tmp_path / "run", neutral())
    for name, frame in outcomes.frames.items():
        pd.testing.assert_frame_equal(frame, found.frames[name])


def test_what_is_not_applicable_is_a_result_with_its_reason(
    prepared: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object, **options: object) -> object:
        raise NotApplicable("no unit is consistent over the pairs")

    monkeypatch.setattr(AUSteer, "fit", refuses)
    found = run_comparison(prepared, tmp_path / "run", neutral())
    rows = [row for row in found.contrasts if row.arm == "austeer" and row.against == "unsteered"]
    assert {row.verdict for row in rows} == {"not measured"}
    assert all("no unit is consistent" in row.note for row in rows)


@pytest.mark.parametrize("change", [{"more": 1}, {"note": None}])
def test_a_cell_with_other_fields_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    key = CellKey("words", "cds", 0, "test", "chosen", "kl", 0.1, 0)
    store = CellStore(tmp_path)
    store.write(key, ScoreResult.unmeasured(""))
    path = tmp_path / "cells" / key.path
    content = read_json(path)
    for name, value in change.items():
        if value is None:
            del content["result"][name]
        else:
            content["result"][name] = value
    write_json(path, content, keep_nan=True)
    with pytest.raises(CellError, match="missing or unknown"):
        store.read(key)
