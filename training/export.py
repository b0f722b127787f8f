"""Turn a checkpoint into the folder that ships: `python -m training.export --checkpoint FOLDER --out FOLDER`.

The folder is a plain Hugging Face model: weights in bfloat16, config, generation config, tokenizer with chat template,
and `hashes.json`. It loads with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` alone.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.hashes import write_hashes
from training.prepare import SPECIAL_TOKENS
from training.train import BOS, EOS, ROW, new_model

PAD = 2
MOST_BYTES = 25_000_000
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def model_of(checkpoint: Path) -> LlamaForCausalLM:
    """The model with the weights of a checkpoint folder, in bfloat16."""
    tensors = load_file(checkpoint / "checkpoint.safetensors")
    model = new_model(seed=0)
    weights = {name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")}
    expected = {name for name, _ in model.named_parameters()}
    if weights.keys() != expected:
        raise ValueError(f"expected the weights of {len(expected)} parameters in {checkpoint}, found {len(weights)}")
    model.load_state_dict(weights, strict=False)  # the head is tied to the embedding and not stored twice
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=64, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    return model.to(dtype=torch.bfloat16).eval()  # pyright: ignore[reportCallIssue]


def tokenizer_of(data: Path) -> PreTrainedTokenizerFast:
    """The trained tokenizer, which puts BOS before every plain text, with chat template."""
    bos, eos, pad, *markers = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(data / "tokenizer.json")),
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=markers,
        padding_side="left",
        model_max_length=ROW,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def export(checkpoint: Path, data: Path, out: Path) -> None:
    """Write the model folder and its hashes; raises if it is larger than what may ship."""
    out.mkdir(parents=True, exist_ok=True)
    model_of(checkpoint).save_pretrained(out)
    tokenizer_of(data).save_pretrained(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    if size > MOST_BYTES:
        raise ValueError(f"{out} holds {size:,} bytes, at most {MOST_BYTES:,} may ship; train a smaller model")
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors makes its files unreadable for others
    write_hashes(out)
    print(f"{out}: {size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/training/model"), help="what train wrote")
    parser.add_argument("--data", type=Path, default=Path("runs/training"), help="what prepare wrote")
    parser.add_argument("--out", type=Path, default=Path("workbench/builtin/model"), help="the model folder")
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.data, arguments.out)
