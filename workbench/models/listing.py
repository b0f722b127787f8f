"""Which models can be used here without a download, and which families TransformerLens and Hugging Face share."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.models.errors import ModelError
from workbench.models.folders import read_config
from workbench.models.gguf import ALIASES
from workbench.models.loading import BUILTIN, SUPPORTED

# Families that no test has tried on a model of random weights; see docs/families.md.
UNTRIED = frozenset(
    (
        "Gemma3nForConditionalGeneration Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration "
        "Lfm2MoeForCausalLM Llama4ForCausalLM "
        "Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM Zamba2ForCausalLM"
    ).split()
)


@dataclass(frozen=True)
class ListedModel:
    """A name for `load_model`, what it is, and whether it loads now; `detail` says what is missing if not."""

    name: str
    detail: str
    is_ready: bool = True


def available_models() -> list[ListedModel]:
    """Built-in and planted model, the aliases, and what the local cache of the hub holds as safetensors."""
    listed = [
        ListedModel(BUILTIN, "the model that ships with the workbench"),
        ListedModel("planted", "dimensions of known meaning, to test a method (study and find only)"),
    ]
    for name, alias in ALIASES.items():
        is_ready = alias.paths() is not None
        listed.append(ListedModel(name, f"{alias.shown}, {alias.licence}" if is_ready else alias.install, is_ready))
    return [*listed, *_cached()]


def supported_families() -> list[str]:
    """Class names of causal language models that both libraries have and that were seen to work here."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) & SUPPORTED - UNTRIED)


def _cached() -> list[ListedModel]:
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    listed = []
    for repository in sorted(repositories, key=lambda item: item.repo_id):
        folders = [revision.snapshot_path for revision in repository.revisions]
        folder = next((Path(path) for path in folders if any(Path(path).glob("*.safetensors"))), None)
        if repository.repo_type == "model" and folder is not None and (folder / "config.json").is_file():
            listed.append(_listed(repository.repo_id, folder))
    return listed


def _listed(name: str, folder: Path) -> ListedModel:
    try:
        architecture = next(iter(read_config(folder).get("architectures") or ["unknown architecture"]))
    except ModelError as error:
        return ListedModel(name, str(error), False)
    is_ready = architecture in SUPPORTED
    return ListedModel(name, architecture if is_ready else f"{architecture}, which is not supported", is_ready)
