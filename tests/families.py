"""A tiny random model of every family that TransformerLens and transformers share."""

import inspect
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.models import HookedModel
from workbench.records import Site

WIDTH = 32
SHAPE: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width", "attention_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "mamba_n_heads", "num_experts"), 4),
    **dict.fromkeys(("num_local_experts", "n_routed_experts", "qk_rope_head_dim", "linear_num_value_heads"), 4),
    **dict.fromkeys(("conv_kernel", "mamba_d_conv"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "expand", "mamba_expand"), 2),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "sliding_window", "rotary_dim", "head_dim"), 8),
    **dict.fromkeys(("query_pre_attn_scalar", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "vocab_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "mamba_d_head"), 16),
    "v_head_dim": 6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "MambaForCausalLM": {"time_step_rank": 4},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "Mamba2ForCausalLM": {"head_dim": 16},
}
TEXTS = ["the court shall sum the cell", "it was a river"]


def plain_model(family: str) -> Any:
    """A random Hugging Face model of three or four layers."""
    kind = next(key for key, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if name == family)
    config_class = CONFIG_MAPPING[kind]
    names = set(inspect.signature(config_class.__init__).parameters)
    names |= set(getattr(config_class, "__dataclass_fields__", {}))
    settings = {key: value for key, value in SHAPE.items() if key in names} | SPECIAL.get(family, {})
    settings |= {"num_key_value_heads": 4} if "kv_lora_rank" in names else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config_class(**settings)).eval()


def edit(values: torch.Tensor, *_: Any) -> torch.Tensor:
    change = torch.zeros_like(values)
    change[..., 3] = 0.5
    return values + change


def layers_of(model: Any) -> Any:
    """The blocks of a Hugging Face model that is not wrapped."""
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return next(blocks for blocks in lists if len(blocks) == n_layers)


def hooked_logits(model: HookedModel) -> torch.Tensor:
    with model.hooked({Site("resid_post", 1): edit}, editing=True):
        return model.logits(model.tokenize(TEXTS[:1]))


def row(family: str, model: HookedModel) -> str:
    """The line of a family that works, as docs/families.md has it."""
    lacking = ", ".join(sorted(kind for kind, found in model.checks.items() if found != "ok"))
    return f"| {family} | yes | {model.attention} | {lacking} |"
