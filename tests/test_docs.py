"""The code of the pages does what they say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.cli.method_jobs import SteerOptions
from workbench.cli.methods import methods
from workbench.comparison.fitting import fit_arm
from workbench.interventions import METHODS, FitContext, FittingData, Setting, load_steering, method_named

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page in their order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_method_of_the_page_has_thirty_lines_runs_and_obeys_the_laws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, use, laws, card = blocks(PAGE)
    body = method[method.index("@final") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
    names: dict[str, Any] = {"__name__": "page"}
    exec(method, names)
    exec(use, names)
    assert "resid_post.3: " in capsys.readouterr().out
    exec(laws, names)
    model = names["tiny"]
    before = set(METHODS)
    try:
        exec(card, names)
        (name,) = set(METHODS) - before
        context = FitContext(model, FittingData(("the old river", "a law"), ("it was", "a sum")))
        arm = fit_arm(METHODS[name], context, Setting(layer=1))
        arm.steering.save(tmp_path / "pull.safetensors", model)
        loaded = load_steering(tmp_path / "pull.safetensors", model).steering
        assert torch.equal(loaded.mean, names["PullToMean"].fit(model, context.positive, layer=1).mean)  # pyright: ignore[reportAttributeAccessIssue]
        options = SteerOptions("law", name, Setting(), 1.0, None, None, 9, 0.0, None)
        assert options.method == name
        assert method_named(name).role == "method"
        methods()
        assert f"{name}: pulls one block output" in capsys.readouterr().out
    finally:
        for name in set(METHODS) - before:
            del METHODS[name]
