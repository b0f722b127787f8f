"""Tiny random models of four families and a word-level tokenizer, built from configs in milliseconds."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from workbench.models import HookedModel, wrap

WORDS = ("the", "court", "shall", "cell", "of", "a", "sum", "is", "river", "and", "it", "was", ".", "court's", "x", "y")
VOCABULARY = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
FAMILIES = ("gpt2", "llama", "qwen3", "gemma2")

_SHAPE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_config(family: str) -> Any:
    """Three layers, width 16, four heads; head_dim differs from d_model / n_heads where a family allows."""
    match family:
        case "gpt2":
            ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
            return GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=3, n_head=4, n_positions=48, **ids)
        case "llama":
            return LlamaConfig(**_SHAPE, head_dim=4)
        case "qwen3":
            return Qwen3Config(**_SHAPE, head_dim=6)
        case "gemma2":
            return Gemma2Config(**_SHAPE, head_dim=6, sliding_window=8, query_pre_attn_scalar=6)
    raise ValueError(family)


def tiny_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """One token per word, split at blanks."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def tiny_model(family: str = "llama", *, seed: int = 0, scale: float = 6.0, bos: bool = True) -> HookedModel:
    """A wrapped random model; weights are scaled up so that edits and contexts visibly change the logits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(scale)
    model.generation_config.eos_token_id = None  # random models would stop at random
    return wrap(model, tiny_tokenizer(bos=bos), name=f"tiny-{family}")
