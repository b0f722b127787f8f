"""Every card: the command line and a comparison fit the same object, and what a card refuses it refuses on purpose."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.interventions.fitted import DATA, model_of, steering_of
from workbench.activations import collect
from workbench.cli.method_jobs import OPTIONS, FitSource, fit_method
from workbench.comparison.fitting import fit_arm
from workbench.interventions import (
    METHODS,
    ContrastiveAddition,
    CriticalDimensionSteering,
    FitContext,
    FittingData,
    Objective,
    Scope,
    Setting,
    Steering,
    SteeringError,
    arm_named,
    load_steering,
    method_named,
    steer,
)
from workbench.interventions.scaling import LearnedScaling
from workbench.records import NotApplicable, Prompt
from workbench.study import Settings


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def source_of(option: str, folder: Path) -> tuple[FitSource, FittingData]:
    """The same data as a file of the command line and as those of a task."""
    if option == "pairs":
        rows = [{"positive": pair.positive, "negative": pair.negative} for pair in DATA.pairs]
        texts = tuple(pair.positive for pair in DATA.pairs), tuple(pair.negative for pair in DATA.pairs)
        return FitSource(pairs=written(folder / "pairs.jsonl", rows)), FittingData(*texts, pairs=DATA.pairs)
    if option == "items":
        rows = [vars(prompt) for prompt in DATA.contrast_prompts]
        data = FittingData(contrast_prompts=DATA.contrast_prompts)
        return FitSource(items=str(written(folder / "items.jsonl", rows))), data
    both = list(zip(DATA.positive_exchanges, DATA.negative_exchanges, strict=True))
    rows = [{"prompt": one.prompt, "positive": one.response, "negative": other.response} for one, other in both]
    exchanges = {"positive_exchanges": DATA.positive_exchanges, "negative_exchanges": DATA.negative_exchanges}
    return FitSource(persona=str(written(folder / "persona.jsonl", rows))), FittingData(**exchanges)


def assert_same(one: Steering, other: Steering) -> None:
    assert type(one) is type(other)
    assert dataclasses.is_dataclass(one)
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second, field.name


FITTED_ON_TEXTS = [name for name in METHODS if name not in ("cds-discrimination", "cds-both")]


@pytest.mark.parametrize("name", FITTED_ON_TEXTS)
def test_fit_and_compare_give_the_same_object(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LearnedScaling, "default_objective", Objective(steps=2))
    model, card = model_of("llama"), METHODS[name]
    source, data = source_of(OPTIONS[card.needs][0], tmp_path)
    setting = Setting(layer=1, k=4 if card.counts else None)
    fitted = fit_method(model, name, source, setting, Settings()).steering
    steps = None if name == "steer-vec" or name == "dyn-scalar" else 2
    pooling = "last" if source.pairs is not None else "mean"
    context = FitContext(model, data, pooling=pooling, n_fit=96, n_optimisation_prompts=32, n_optimisation_steps=steps)
    arm = fit_arm(card, context, setting)
    assert_same(fitted, arm.steering)
    assert arm.scope == fitted.scope == card.scope
    common = fit_arm(card, context, setting, "generated").scope
    assert common == (card.scope if card.is_positional else Scope("generated"))


def test_an_alias_is_the_method_under_its_label() -> None:
    context = FitContext(model_of("llama"), DATA)
    alias = method_named("whole-dimension")
    assert alias.name == "whole-dimension"
    assert alias.fit(context) is METHODS["caa"].fit(context)
    with pytest.raises(SteeringError, match="unknown method 'sadi'"):
        method_named("sadi")


def test_rows_of_a_corpus_need_no_other_pass() -> None:
    """The wanted domain's identify rows against those of all other domains, and DCDs found over all domains."""
    model = model_of("llama")
    texts = {"law": DATA.positive, "nature": DATA.negative, "code": ("x y x y", "y x is y")}
    prompts = [
        Prompt(text, domain, f"{domain}/{index}", "test" if index == 3 else "identify")
        for domain, some in texts.items()
        for index, text in enumerate(some)
    ]
    rows = collect(model, prompts, n_top=1)[1]
    context = FitContext(model, collected=rows, domain="law")
    values = rows.pooled("mean").astype(np.float64)[:, 1]
    identify = np.array(rows.splits) == "identify"
    law = np.array(rows.domains) == "law"
    by_hand = values[identify & law].mean(axis=0) - values[identify & ~law].mean(axis=0)
    caa = METHODS["caa"].fit(context, Setting(layer=1))
    assert isinstance(caa, ContrastiveAddition)
    np.testing.assert_allclose(caa.direction.numpy(), by_hand, rtol=1e-5, atol=1e-6)
    cds = METHODS["cds"].fit(context, Setting(layer=1, k=3))
    assert_same(cds, CriticalDimensionSteering.fit(model, rows, domain="law", layers=[1], k=3))
    with pytest.raises(NotApplicable, match="no contrast pairs"):
        METHODS["iti"].fit(context)
    inside = [p.text for p in prompts if p.split == "identify" and p.domain == "law"]
    others = [p.text for p in prompts if p.split == "identify" and p.domain != "law"]
    from_texts = ContrastiveAddition.fit(model, inside, others, layer=1)
    torch.testing.assert_close(from_texts.direction, caa.direction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*METHODS, "random-k", "noise"])
def test_without_data_a_card_says_what_is_missing(name: str) -> None:
    with pytest.raises(NotApplicable, match="there are no"):
        arm_named(name).fit(FitContext(model_of("llama")))


def test_no_scope_means_the_scope_of_the_method_or_of_the_artefact(tmp_path: Path) -> None:
    model = model_of("llama")
    tokens, site = model.tokenize(["the court shall sum"]), "z"
    steering = steering_of(model, "sadi-heads")
    assert steering.scope == Scope("last_prompt")
    steering.save(tmp_path / "own.safetensors", model)
    steering.save(tmp_path / "all.safetensors", model, scope="all")
    counts = []
    artefacts = [load_steering(tmp_path / f"{name}.safetensors", model) for name in ("own", "all")]
    for one in (steering, *artefacts):
        with steer(model, one) as handle, one.apply(model) as again:
            model.logits(tokens)
        assert handle.log.edited == again.log.edited
        counts.append(set(handle.log.edited.values()))
    assert counts == [{1}, {1}, {5}]
    assert site in repr(handle)
    assert "5 tokens" in repr(handle)
    assert "scope: last_prompt" in repr(steering)


WRONG = """
import numpy as np, torch
from tests.tiny import tiny_model
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, SteeringError, load_steering, steer
model = tiny_model("llama")
pos, neg = ["the court"], ["it was"]
fit = CriticalDimensionSteering.fit
add = ContrastiveAddition(torch.ones(16), 1)
class Dimension: dimension = 3
for words, call in (
    ("list of integers", lambda: fit(model, pos, neg, layers=3, dimensions=[1])),
    ("dcd.dimension", lambda: fit(model, pos, neg, layers=[1], dimensions=[Dimension()])),
    ("given one string", lambda: fit(model, "the court", neg, layers=[1], dimensions=[1])),
    ("no number", lambda: steer(model, add, "2")),
    ("expected a steering", lambda: steer(model, "cds")),
):
    try:
        call()
    except SteeringError as error:
        assert words in str(error) and "\\n" not in str(error), (words, str(error))
    else:
        raise AssertionError(words)
made = fit(model, pos, neg, layers=[np.int64(1)], dimensions=[np.int64(3)])
made.save("made.safetensors", model)
assert load_steering("made.safetensors", model).steering.layers == (1,)
print("all said")
"""


def test_wrong_types_are_one_line_without_the_checks_of_the_tests(tmp_path: Path) -> None:
    """In a process of its own: here every signature is checked, for users none is."""
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n" + WRONG
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all said", done.stderr[-600:]
