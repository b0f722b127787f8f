"""Loading a causal language model: built in, a folder, a GGUF file, an alias, a model of the hub, or one in memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from workbench.models import checking
from workbench.models.adapters import base_of, is_adapter, merge_adapter, quantisation_config
from workbench.models.errors import ModelError
from workbench.models.folders import INDEX, check_folder, check_index, check_quantisation
from workbench.models.gguf import ALIASES, convert, convert_alias, gguf_file, origin
from workbench.models.hooked import HookedModel
from workbench.models.modules import ModuleTree, use_native_attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUILTIN = "builtin"
# Families that TransformerLens lists, and what stands against them here.
UNUSABLE = {
    "BertLMHeadModel": "an encoder, whose tokens see those that follow",
    "DeepseekV4ForCausalLM": "several residual streams per block, so block outputs have no single basis",
    "FalconMambaForCausalLM": "its block outputs are not what Hugging Face reports as hidden states",
    "GraniteMoeHybridForCausalLM": "TransformerLens 4.3 lacks a part of it, its rotary embedding",
    "HrmTextForCausalLM": "its blocks run several times per pass, so a block output is not one value",
    "Mamba2ForCausalLM": "its block outputs are not what Hugging Face reports as hidden states",
    "MambaForCausalLM": "its block outputs are not what Hugging Face reports as hidden states",
    "OpenAIGPTLMHeadModel": "its block outputs are not what Hugging Face reports as hidden states",
    "OuroForCausalLM": "its blocks run several times per pass, so a block output is not one value",
    "RwkvForCausalLM": "its block outputs are not what Hugging Face reports as hidden states",
}
SUPPORTED = frozenset(SUPPORTED_ARCHITECTURES) - frozenset(UNUSABLE)
# Folder names that say nothing about the model in them.
GENERIC_NAMES = re.compile(r"(hf|model|models|final|output|outputs|merged|best|last|checkpoint[-_]?\d*|[0-9a-f]{40})")
# Stored tensors that a model may do without: buffers that are computed, and parts that are not text.
SPARE_WEIGHTS = re.compile(
    r"inv_freq|masked_bias|attn\.bias$|vision|visual|audio|multi_modal|mtp|nextn|scale|absmax|quant"
)


@dataclass(frozen=True)
class _Source:
    """Where a model is read from: a folder or an id of the hub; its shown name; its origin."""

    where: str
    name: str
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        return Path(self.where).is_dir()


def load_model(
    name: str = BUILTIN,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str = "",
    revision: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    attention: str = "auto",
    bos: str = "auto",
    adapter: str = "",
    quantise: str = "",
    shown_as: str = "",
    self_check: bool = True,
) -> HookedModel:
    """The built-in model, a folder, a GGUF file, an alias, or a Hugging Face model by id, wrapped for hooks.

    Ids are looked up in the local cache only, unless `allow_download`. Weights are read from safetensors or GGUF, never
    from pickles. A GGUF file is dequantised once into the cache. `device_map` ("auto") spreads the model over several
    devices instead of `device`; it needs the package accelerate.

    `attention`: "auto" takes what Hugging Face prefers for the family (mostly SDPA), "eager" TransformerLens' own with
    hooks at scores and patterns. `bos`: see `TextCodec`. `adapter`: a folder with LoRA weights, merged into the model;
    a `name` that is such a folder takes the base model that it names. `quantise` to "int8" or "nf4" needs bitsandbytes.
    `shown_as` replaces the model's own name. Raises `ModelError` where the model is missing or damaged, is no causal
    language model, is not supported by TransformerLens, or where hooked and plain model disagree.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if device_map and find_spec("accelerate") is None:
        raise ModelError("device_map needs the package accelerate; install it, or leave device_map out")
    if is_adapter(folder := Path(name).expanduser()):
        name, adapter = base_of(folder), adapter or name
    source = _find(name, dtype)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not source.is_folder:
        options |= {"local_files_only": not allow_download, "revision": revision}
    weights = {"dtype": DTYPES[dtype], "use_safetensors": True}
    weights |= {} if attention == "auto" else {"attn_implementation": attention}
    weights |= {"device_map": device_map} if device_map else {}
    if quantise:
        weights |= {"quantization_config": quantisation_config(quantise, DTYPES[dtype])}
        weights |= {} if device_map else {"device_map": {"": device}}
    with _offline_unless(allow_download and not source.is_folder):
        model, tokenizer = _read(source, options, weights)
    if adapter:
        model = merge_adapter(model, Path(adapter).expanduser())
    if not device_map and not quantise:
        model = _moved(model, device)
    shown = shown_as or " + ".join([source.name, *([Path(adapter).resolve().name] if adapter else [])])
    hooked = wrap(model, tokenizer, name=shown, bos=bos, self_check=self_check)
    hooked.origin.update(source.origin)
    return hooked


def find_model(name: str, dtype: str = "float32") -> str:
    """The folder of a model, or its Hugging Face id unchanged; raises `ModelError` where a folder is unusable."""
    return _find(name, dtype).where


def _find(name: str, dtype: str) -> _Source:
    if name == BUILTIN:
        folder = resources.files("workbench.builtin") / "model"
        if not (folder / "config.json").is_file():
            raise ModelError("the built-in model is missing from this installation; reinstall, or name another model")
        return _Source(str(folder), BUILTIN)
    path = Path(name).expanduser()
    if name.lower() in ALIASES and not path.exists():
        return _converted(convert_alias(name.lower(), dtype=dtype))
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip() or name.endswith(".gguf"):
            raise ModelError(f"model folder {name!r} does not exist; check the path, or give a Hugging Face id")
        return _Source(name, name)
    if (packed := gguf_file(path)) is not None:
        return _converted(convert([packed], dtype=dtype))
    if not path.is_dir():
        raise ModelError(f"{name} is neither a model folder nor a GGUF file; name the folder that holds config.json")
    check_folder(path)
    return _Source(str(path), _own_name(path))


def _converted(folder: Path) -> _Source:
    source = origin(folder)
    return _Source(str(folder), source["name"], source)


def _own_name(path: Path) -> str:
    """The name of a folder, or the one in its config where the folder's name says nothing."""
    name = path.resolve().name
    if GENERIC_NAMES.fullmatch(name.lower()):
        found = re.search(r'"_name_or_path":\s*"([^"]+)"', (path / "config.json").read_text(encoding="utf-8"))
        name = Path(found[1]).name or name if found else name
    return name


@contextmanager
def _offline_unless(is_allowed: bool) -> Iterator[None]:
    """Hugging Face's own switch for no network: some of its helpers ask the hub even for files that are local."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = before or not is_allowed
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _read(source: _Source, options: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer as Hugging Face reads them, after a look at the config."""
    where, name = source.where, source.name
    part = "config"
    try:
        config = AutoConfig.from_pretrained(where, **options)
        _check_architecture(name, config)
        check_quantisation(name, getattr(config, "quantization_config", None))
        if not source.is_folder and (index := cached_file(where, INDEX, **_for_one_file(options))):
            check_index(Path(index))
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        part = "model"
        kind = AutoModelForImageTextToText if _text_class(config) else AutoModelForCausalLM
        model, report = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            where, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options, **weights
        )
    except ModelError:
        raise
    # Damaged files make Hugging Face raise nearly anything, the tokenizers library a bare Exception.
    except Exception as error:
        if options.get("local_files_only") and isinstance(error, OSError):
            message = f"model {name!r} is not in the local cache; allow the download (--download) to fetch it"
            raise ModelError(message) from error
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load the {part} of {name!r}: {type(error).__name__}: {reason}") from error
    _check_weights(name, report)
    model = _text_part(model)
    _check_vocabulary(name, model, tokenizer)
    return model, tokenizer


def _for_one_file(options: dict[str, Any]) -> dict[str, Any]:
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return {key: options[key] for key in ("local_files_only", "revision") if key in options} | quiet


def _moved(model: Any, device: str) -> Any:
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {device!r}: {str(error).splitlines()[0]}; try --device cpu") from error


def wrap(
    model: Any, tokenizer: Any = None, *, name: str = "", bos: str = "auto", self_check: bool = True
) -> HookedModel:
    """Wrap a causal language model that is in memory, with its tokenizer: a Hugging Face model, one with a LoRA adapter
    on it (PEFT), or a TransformerBridge.

    The model is changed in place: its modules carry hook points, it is in evaluation mode and its weights take no
    gradients. `unwrap` of the result gives it back as it was, which saving it needs.
    """
    if isinstance(model, TransformerBridge):
        return _of_bridge(model, tokenizer, name)
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()
    model = _text_part(model)
    name = name or Path(getattr(model.config, "_name_or_path", "") or "unnamed").name
    if tokenizer is None:
        raise ModelError(f"wrap({name}) needs the tokenizer too: wrap(model, tokenizer)")
    architecture = type(model).__name__
    _check_supported(name, architecture)
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        raise ModelError(f"{name} is wrapped already; use that wrapper, or unwrap() it first")
    _check_vocabulary(name, model, tokenizer)
    before = ModuleTree(model)
    model.eval().requires_grad_(False)
    plain = checking.plain_pass(model, name) if self_check else None
    attention = model.config.get_text_config()._attn_implementation
    try:
        bridge = build_bridge_from_module(model, architecture, hf_config=model.config, model_name=name)
        if attention not in (None, "eager") and use_native_attention(model):
            model.set_attn_implementation(attention)
        hooked = HookedModel(bridge, tokenizer, name, bos=bos, before=before)
        if plain is not None:
            hooked.checks.update(checking.self_check(hooked, plain))
    except ModelError:
        raise
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{name}: TransformerLens 4.3 cannot run this {architecture}: {reason}") from error
    return hooked


def _of_bridge(bridge: TransformerBridge, tokenizer: Any, name: str) -> HookedModel:
    """A bridge that somebody else made, as long as its coordinates are the raw ones."""
    name, tokenizer = name or str(bridge.cfg.model_name or "unnamed"), tokenizer or bridge.tokenizer
    if getattr(bridge, "compatibility_mode", False):
        raise ModelError(f"{name} is a bridge in compatibility mode, whose coordinates are moved; make it without")
    if tokenizer is None:
        raise ModelError(f"{name} is a bridge without a tokenizer: wrap(bridge, tokenizer)")
    bridge.original_model.eval().requires_grad_(False)
    return HookedModel(bridge, tokenizer, name)


def _text_class(config: Any) -> Any:
    """The class of the text part of a model that also takes images or sound; None for any other model."""
    names = config.architectures or []
    if not any(name.endswith("ForConditionalGeneration") for name in names) or config.is_encoder_decoder:
        return None
    text = config.get_text_config()
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type, "")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(text)] if name in SUPPORTED and text is not config else None


def _text_part(model: Any) -> Any:
    """The language model inside a model that also takes images or sound, with its own weights; others as they are."""
    if (kind := _text_class(model.config)) is None or isinstance(model, kind):
        return model
    with torch.device("meta"):
        text = kind(model.config.get_text_config())
    text.model, text.lm_head = model.model.language_model, model.get_output_embeddings()
    text.generation_config = model.generation_config
    return text


def _check_architecture(name: str, config: Any) -> None:
    architectures = config.architectures or []
    is_causal = not architectures or any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in architectures)
    if _text_class(config) is not None:
        return
    if getattr(config, "is_encoder_decoder", False) or not is_causal:
        shown = ", ".join(architectures) or config.model_type
        raise ModelError(f"{name} is a {shown}, not a causal language model; name a decoder-only model")
    if architectures:
        _check_supported(name, next((item for item in architectures if item in SUPPORTED), architectures[0]))


def _check_supported(name: str, architecture: str) -> None:
    if reason := UNUSABLE.get(architecture):
        raise ModelError(f"{name} is a {architecture}, which cannot be used here: {reason}")
    if architecture not in SUPPORTED:
        raise ModelError(f"{name} is a {architecture}, which TransformerLens 4.3 does not support")


def _check_weights(name: str, report: dict[str, Any]) -> None:
    """Raise where config and weights name different parameters: they would stay random, or be left out."""
    mismatched = [str(key if isinstance(key, str) else key[0]) for key in report["mismatched_keys"]]
    left_out = [key for key in report["unexpected_keys"] if not SPARE_WEIGHTS.search(key)]
    for problem, keys in (
        ("lack {} parameters that its config.json names", list(report["missing_keys"])),
        ("have another shape for {} parameters that its config.json names", mismatched),
        ("hold {} parameters that its config.json has no place for", left_out),
    ):
        if keys:
            raise ModelError(
                f"the weights of {name!r} {problem.format(len(keys))} ({min(keys)}); config and weights do not belong "
                "together"
            )


def _check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Raise where the tokenizer gives ids that the embedding lacks; added tokens raise only when they are met."""
    n_rows = model.get_input_embeddings().weight.shape[0]
    added = set(tokenizer.added_tokens_decoder) - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    beyond = {text: index for text, index in tokenizer.get_vocab().items() if index >= n_rows and index not in added}
    if beyond:
        token, index = max(beyond.items(), key=lambda item: item[1])
        raise ModelError(
            f"the tokenizer of {name!r} has ids up to {index} ({token!r}), but the embedding has {n_rows} rows; "
            "tokenizer and weights do not belong together"
        )
