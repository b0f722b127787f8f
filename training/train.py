"""Train the built-in model: `python -m training.train --data FOLDER --out FOLDER --tokens 50e6`.

AdamW on a Llama-shaped decoder; rows of 256 tokens, each starting with BOS at the beginning of a line or document;
warm-up, constant rate, linear decay over the last part. Interrupt it at any time: it saves and continues from there.
The draw of batch number n depends on the seed and n alone, so a resumed run sees the same rows as an unbroken one.
"""

import argparse
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from training.generator import DOMAINS
from training.prepare import VOCABULARY_SIZE

ROW = 256
BOS, EOS = 0, 1
GENERATED_SHARE = 0.45
LOSS_CHUNK = 1024  # positions per slice of the language-model head: full logits would not fit the cache


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, apart from the data."""

    tokens: int
    rows_per_step: int = 16
    rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    warm_up_tokens: int = 400_000
    decay_share: float = 0.2
    clip: float = 1.0
    seed: int = 0

    def rate_at(self, tokens_seen: int) -> float:
        warm_up = min(1.0, tokens_seen / self.warm_up_tokens)
        left = (self.tokens - tokens_seen) / (self.decay_share * self.tokens)
        return self.rate * min(warm_up, max(0.0, min(1.0, left)))


class RowSource:
    """Rows of one token file: generated documents from their beginning, other text from a line start or anywhere.

    With starts at lines alone, text far from any line start would never be drawn: in the first 16.5 M tokens this lost
    23 % of biology and 15 % of literature.
    """

    def __init__(self, path: Path, starts_after: np.ndarray, *, share_anywhere: float) -> None:
        self.share_anywhere = share_anywhere
        self.tokens = np.load(path)
        starts = np.flatnonzero(np.isin(self.tokens, starts_after)) + 1
        starts = np.concatenate([[0], starts])
        self.starts = starts[starts + ROW < len(self.tokens)]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        if generator.random() < self.share_anywhere:
            start = int(generator.integers(len(self.tokens) - ROW))
        else:
            start = int(generator.choice(self.starts))
        return np.concatenate([[BOS], self.tokens[start : start + ROW - 1]])


def new_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=ROW,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def read_sources(data: Path) -> dict[str, RowSource]:
    vocabulary = Tokenizer.from_file(str(data / "tokenizer.json")).get_vocab()
    line_ends = np.array([index for token, index in vocabulary.items() if "Ċ" in token] + [EOS])
    sources = {domain: RowSource(data / f"{domain}.train.npy", line_ends, share_anywhere=0.5) for domain in DOMAINS}
    sources["generated"] = RowSource(data / "generated.train.npy", np.array([EOS]), share_anywhere=0.0)
    return sources


def batches(sources: dict[str, RowSource], recipe: Recipe, first_step: int) -> Iterator[torch.Tensor]:
    names = list(sources)
    shares = [GENERATED_SHARE if name == "generated" else (1 - GENERATED_SHARE) / len(DOMAINS) for name in names]
    step = first_step
    while True:
        generator = np.random.default_rng([recipe.seed, step])
        chosen = generator.choice(len(names), recipe.rows_per_step, p=shares)
        rows = [sources[names[index]].draw(generator) for index in chosen]
        yield torch.from_numpy(np.stack(rows).astype(np.int64))
        step += 1


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats; the head is applied in slices."""
    hidden = model.model(rows, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    targets = rows[:, 1:].flatten()
    total = hidden.new_zeros(())
    for start in range(0, len(targets), LOSS_CHUNK):
        piece = slice(start, start + LOSS_CHUNK)
        total = total + cross_entropy(model.lm_head(hidden[piece]).float(), targets[piece], reduction="sum")
    return total / len(targets)


def save_checkpoint(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, state: dict) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.data
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    temporary = folder / "checkpoint.tmp"
    save_file(tensors, temporary, metadata={"state": json.dumps(state)})
    temporary.replace(folder / "checkpoint.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=1))


def load_checkpoint(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> dict:
    tensors = load_file(folder / "checkpoint.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"weight/{name}"])
        optimizer.state[parameter] = {
            key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return json.loads((folder / "state.json").read_text())


def train(
    data: Path, out: Path, recipe: Recipe, *, save_every: int = 250, start: Path | None = None, compiled: bool = False
) -> None:
    """Train from the checkpoint in `out`; without one, from the exported model in `start`, or from scratch."""
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(recipe.seed).to(device)  # pyright: ignore[reportArgumentType]
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas, fused=True)
    state = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (out / "checkpoint.safetensors").exists():
        state = load_checkpoint(out, model, optimizer)
    elif start is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    step_loss = torch.compile(loss_of) if compiled else loss_of
    stopping = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.append(True))

    began, mean_loss = time.time() - state["seconds"], math.nan
    with (out / "log.jsonl").open("a") as log:
        for rows in batches(read_sources(data), recipe, state["step"]):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(state["tokens"] + rows.numel())
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = step_loss(model, rows.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            mean_loss = loss.item() if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss.item()
            state = {
                "step": state["step"] + 1,
                "tokens": state["tokens"] + rows.numel(),
                "seconds": time.time() - began,
                "loss": mean_loss,
            }
            finished = state["tokens"] >= recipe.tokens
            if state["step"] % 50 == 0 or finished:
                log.write(json.dumps({**state, "rate": optimizer.param_groups[0]["lr"]}) + "\n")
                log.flush()
            if state["step"] % save_every == 0 or finished or stopping:
                save_checkpoint(out, model, optimizer, state)
            if finished or stopping:
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/training"), help="what prepare wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/training/model"), help="checkpoint and log")
    parser.add_argument("--tokens", type=float, default=50e6, help="length of the whole run")
    parser.add_argument("--start", type=Path, help="an exported model to go on from where no checkpoint is left")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="a sixth faster after a minute; needs a C++ compiler")
    arguments = parser.parse_args()
    recipe = Recipe(tokens=int(arguments.tokens), seed=arguments.seed)
    train(arguments.data, arguments.out, recipe, start=arguments.start, compiled=arguments.compile)
