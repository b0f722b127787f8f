"""Loading a Hugging Face causal language model and checking once that its hooks tell the truth."""

from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workbench.models.hooked import HOOK_NAMES, HookedModel, ModelError
from workbench.records import Site, Tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUILTIN = "builtin"
# Largest accepted difference between hooked and plain model, relative to the largest value compared.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
N_CHECK_TOKENS = 12


def load_model(
    name: str = BUILTIN,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str = "",
    revision: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    self_check: bool = True,
) -> HookedModel:
    """The built-in model, a local folder, or a Hugging Face model by id, wrapped for hooks.

    Ids are looked up in the local cache only, unless `allow_download`. Weights are read from safetensors, never from
    pickles. `device_map` ("auto") spreads the model over several devices instead of `device`; it needs the package
    accelerate. Raises `ModelError` where the model is missing, is no causal language model, is not supported by
    TransformerLens, or where the self-check finds that hooked and plain model disagree.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if device_map and find_spec("accelerate") is None:
        raise ModelError("device_map needs the package accelerate; install it, or leave device_map out")
    where = find_model(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not Path(where).is_dir():
        options |= {"local_files_only": not allow_download, "revision": revision}
    model, tokenizer = _read(name, where, DTYPES[dtype], device_map, options)
    if not device_map:
        model = _moved(model, device)
    shown = name if name == BUILTIN or not Path(where).is_dir() else Path(where).resolve().name
    return wrap_model(model, tokenizer, name=shown, self_check=self_check)


def _read(name: str, where: str, dtype: torch.dtype, device_map: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Weights and tokenizer as Hugging Face reads them, after a look at the config."""
    weights = {"dtype": dtype, "attn_implementation": "eager", "use_safetensors": True}
    weights |= {"device_map": device_map} if device_map else {}
    try:
        config = AutoConfig.from_pretrained(where, **options)
        _check_architecture(name, config)
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            where, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options, **weights
        )
    except ModelError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        if options.get("local_files_only"):
            message = f"model {name!r} is not in the local cache; allow the download (--download) to fetch it"
            raise ModelError(message) from error
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load model {name!r}: {reason}") from error
    _check_weights(name, report)
    return model, tokenizer


def _moved(model: Any, device: str) -> Any:
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {device!r}: {str(error).splitlines()[0]}; try --device cpu") from error


def wrap_model(model: Any, tokenizer: Any, *, name: str = "unnamed", self_check: bool = True) -> HookedModel:
    """Wrap a loaded Hugging Face model (in place: its modules then carry hook points) and its tokenizer."""
    architecture = type(model).__name__
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"{name} is a {architecture}, which TransformerLens 4.3 does not support; see `workbench doctor`"
        )
    model.eval().requires_grad_(False)
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    length = min(N_CHECK_TOKENS, model.config.get_text_config().max_position_embeddings)
    device = next(model.parameters()).device
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, (2, length), generator=generator).to(device)
    plain = _plain_pass(model, ids) if self_check else None
    hooked = HookedModel(
        build_bridge_from_module(model, architecture, hf_config=model.config, model_name=name), tokenizer, name
    )
    if plain is not None:
        hooked.checks.update(_self_check(hooked, ids, *plain))
    return hooked


wrap = wrap_model  # the name of `workbench.wrap`


def find_model(name: str) -> str:
    """The folder of a model, or its Hugging Face id unchanged; raises `ModelError` where a folder is unusable."""
    if name == BUILTIN:
        folder = resources.files("workbench.builtin") / "model"
        if not (folder / "config.json").is_file():
            raise ModelError("the built-in model is missing from this installation; reinstall, or name another model")
        return str(folder)
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
            raise ModelError(f"model folder {name!r} does not exist; check the path, or give a Hugging Face id")
        return name
    if not (path / "config.json").is_file():
        raise ModelError(f"{name} is not a model folder: it has no config.json")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{name} has no weights (*.safetensors); convert pickled weights to safetensors first")
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{name} has no tokenizer (tokenizer.json); copy the model's tokenizer into the folder")
    return str(path)


def _check_architecture(name: str, config: Any) -> None:
    architectures = config.architectures or []
    if getattr(config, "is_encoder_decoder", False) or (
        architectures and not any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in architectures)
    ):
        shown = ", ".join(architectures) or config.model_type
        raise ModelError(f"{name} is a {shown}, not a causal language model; name a decoder-only model")
    if architectures and not any(item in SUPPORTED_ARCHITECTURES for item in architectures):
        raise ModelError(f"{name} is a {architectures[0]}, which TransformerLens 4.3 does not support")


def _check_weights(name: str, report: dict[str, Any]) -> None:
    """Raise where a parameter is missing from the weights or has another shape: it would be left random."""
    mismatched = [str(key if isinstance(key, str) else key[0]) for key in report["mismatched_keys"]]
    for problem, keys in (("lack", list(report["missing_keys"])), ("have another shape for", mismatched)):
        if keys:
            raise ModelError(
                f"the weights of {name!r} {problem} {len(keys)} parameters that its config.json names "
                f"({min(keys)}); config and weights do not belong together"
            )


def _plain_pass(model: Any, ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.inference_mode():
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    return output.logits, output.hidden_states


def _self_check(model: HookedModel, ids: Tensor, logits: Tensor, hidden: tuple[Tensor, ...]) -> dict[str, str]:
    """Compare the hooked model with the plain one; wrong logits or residuals raise, a wrong site is only refused."""
    tolerance = TOLERANCE[model.dtype]
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    layer = model.n_layers // 2
    seen: dict[Site, list[Tensor]] = {}

    def note(values: Tensor, site: Site, _: Any) -> None:
        seen.setdefault(site, []).append(values.clone())

    sites = {Site(kind, layer) for kind in HOOK_NAMES if HOOK_NAMES[kind].format(layer) in model.bridge.hook_dict}
    sites |= set(model.residual_sites())
    with model.hooked(dict.fromkeys(sites, note)):
        hooked_logits = model.logits(tokens)
    if _gap(hooked_logits, logits) > tolerance:
        raise ModelError(f"{model.name}: logits with hooks differ from Hugging Face's; this model cannot be used")
    for site in model.residual_sites()[:-1]:  # the last hidden state of Hugging Face is after the final norm
        if len(seen.get(site, [])) != 1 or _gap(seen[site][0], hidden[site.layer + 1]) > tolerance:
            raise ModelError(f"{model.name}: residual at {site} differs from Hugging Face's; this model cannot be used")
    checks = {
        kind: "ok" if len(seen.get(Site(kind, layer), [])) == 1 else "its hook did not fire exactly once"
        for kind in HOOK_NAMES
    }
    parts = [Site("resid_pre", layer), Site("attn_out", layer), Site("mlp_out", layer), Site("resid_post", layer)]
    if all(part in seen for part in parts):
        before, attention, mlp, after = (seen[part][0] for part in parts)
        if _gap(before + attention + mlp, after) > tolerance:
            checks["attn_out"] = checks["mlp_out"] = "attention and MLP output do not add up to the block output"
    with model.hooked({Site("resid_post", layer): lambda values, *_: values + 1.0}, editing=True):
        if torch.equal(model.logits(tokens), hooked_logits):
            raise ModelError(f"{model.name}: an edit of the residual stream changes nothing; this model cannot be used")
    shorter = Tokens(
        ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids) >= torch.tensor([[0], [3]], device=ids.device)
    )
    single = Tokens(ids[1:, 3:], torch.ones_like(ids[1:, 3:], dtype=torch.bool))
    if _gap(model.logits(shorter)[1:, 3:], model.logits(single)) > tolerance:
        checks["left padding"] = "a left-padded row differs from the row alone"
    return checks


def _gap(first: Tensor, second: Tensor) -> float:
    scale = second.abs().max().clamp(min=1e-6)
    return float((first.float() - second.float()).abs().max() / scale)
