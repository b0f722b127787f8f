"""Every listed family: an edit through the hooks gives the logits that a plain PyTorch hook gives."""

import re
from pathlib import Path

import pytest
import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.families import TEXTS, edit, hooked_logits, layers_of, plain_model, row
from tests.tiny import tiny_tokenizer
from workbench.models import ModelError, wrap
from workbench.models.listing import UNTRIED, supported_families
from workbench.models.loading import UNUSABLE

TABLE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
FAMILIES = dict(re.findall(r"^\| (\w+) \| (yes|no|untried) \|", TABLE, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [name for name, works in FAMILIES.items() if works == "yes"])
def test_an_edit_gives_what_a_plain_hook_gives(family: str) -> None:
    plain = plain_model(family)
    ids = torch.tensor([tiny_tokenizer()(TEXTS[0])["input_ids"]])

    def hook(module, arguments, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = layers_of(plain)[1].register_forward_hook(hook)
    with torch.inference_mode():
        expected = plain(ids, use_cache=False).logits
    handle.remove()
    model = wrap(plain, tiny_tokenizer(), name=family)
    torch.testing.assert_close(hooked_logits(model), expected, atol=1e-4, rtol=1e-3)
    assert row(family, model) in TABLE.splitlines()


@pytest.mark.parametrize("family", sorted(UNUSABLE))
def test_what_is_not_listed_is_refused_with_its_reason(family: str) -> None:
    assert family not in supported_families()
    made = type(
        family, (torch.nn.Module,), {"config": type("Config", (), {"architectures": [], "_name_or_path": ""})()}
    )
    with pytest.raises(ModelError, match=re.escape(UNUSABLE[family])):
        wrap(made(), tiny_tokenizer(), name="other")


def test_the_table_in_the_docs_agrees_with_what_is_listed() -> None:
    shared = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) & set(SUPPORTED_ARCHITECTURES)
    assert set(FAMILIES) == shared
    for verdict, names in (("no", UNUSABLE), ("untried", UNTRIED), ("yes", supported_families())):
        assert {name for name, found in FAMILIES.items() if found == verdict} == set(names) & shared, verdict
    assert not set(UNTRIED) & set(UNUSABLE)
    for family in set(UNUSABLE) & shared:
        assert f"| {family} | no | | {UNUSABLE[family]} |" in TABLE.splitlines()
