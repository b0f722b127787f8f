"""The code of the pages does what they say."""

import re
from pathlib import Path

import torch

from workbench.interventions import load_steering, save_steering

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page in their order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_method_of_the_page_has_thirty_lines_runs_and_obeys_the_laws(tmp_path: Path, capsys) -> None:
    method, use, laws = blocks(PAGE)
    body = method[method.index("@final") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
    names: dict[str, object] = {"__name__": "page"}
    exec(method, names)
    exec(use, names)
    assert "resid_post.3: " in capsys.readouterr().out
    exec(laws, names)
    model, fitted = names["tiny"], names["method"]
    save_steering(tmp_path / "pull.safetensors", fitted, model)
    loaded = load_steering(tmp_path / "pull.safetensors", model, (names["PullToMean"],)).steering
    assert torch.equal(loaded.mean, fitted.mean)
