"""What is measured on a model folder with plain transformers: held-out loss, activations and behaviours."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.trigram import ROW, held_out_starts
from workbench.behaviours import BehaviourItem, BehaviourSet, is_right, load_behaviours, log_odds

BOS = 0
ROWS_PER_BATCH = 16
PROMPTS_PER_BATCH = 50
NEW_TOKENS = 12
NEW_TOKENS_PERSONA = 80
Z_95 = 1.959964


@dataclass(frozen=True)
class Share:
    """How many of n items were right, with the Wilson 95 % interval and, where texts were compared, mean log-odds."""

    n_right: int
    n: int
    log_odds: float | None = None
    n_likelier: int | None = None

    @property
    def value(self) -> float:
        return self.n_right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, which stays within 0 and 1."""
        spread = Z_95**2 / self.n
        centre = (self.value + spread / 2) / (1 + spread)
        half = Z_95 / (1 + spread) * math.sqrt(self.value * (1 - self.value) / self.n + spread / (4 * self.n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        plain = {"value": self.value, "low": low, "high": high, "n_right": self.n_right, "n": self.n}
        return plain | {"log_odds": self.log_odds, "n_likelier": self.n_likelier}


@dataclass(frozen=True)
class RowMeasures:
    """Per held-out row of one domain: loss in nats per token and magnitudes per layer, in activation units.

    `magnitude` is the mean over the tokens after the first; `first` the activation of BOS itself; `largest` the largest
    magnitude of any token after the first, per layer; `median` the median magnitude over dimensions and tokens.
    """

    loss: Float32[np.ndarray, "row"]
    magnitude: Float32[np.ndarray, "row layer d_model"]
    first: Float32[np.ndarray, "layer d_model"]
    largest: Float32[np.ndarray, "layer"]
    median: Float32[np.ndarray, "layer"]


def load(folder: Path) -> tuple[Any, Any]:
    """Model in single precision and tokenizer, by the plain loaders and without network."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)  # pyright: ignore[reportArgumentType]
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def block_outputs(model: Any) -> Iterator[list[Tensor]]:
    """Collect the raw output of every block; the last of `output_hidden_states` would be after the final norm."""
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def measure_rows(model: Any, tokens: Int[np.ndarray, "token"], sample: int) -> RowMeasures:
    """Loss and magnitudes on the rows that the trigram model is measured on, each after BOS."""
    starts = held_out_starts(len(tokens), sample)
    rows = np.stack([np.concatenate([[BOS], tokens[start : start + ROW - 1]]) for start in starts]).astype(np.int64)
    losses, magnitudes, firsts, largest, medians = [], [], [], [], []
    for begin in range(0, len(rows), ROWS_PER_BATCH):
        batch = torch.from_numpy(rows[begin : begin + ROWS_PER_BATCH]).to(model.device)
        with block_outputs(model) as blocks:
            hidden = model.model(batch, use_cache=False).last_hidden_state[:, :-1]
        for row, state in zip(batch, hidden, strict=True):
            losses.append(cross_entropy(model.lm_head(state).float(), row[1:]).item())
        stack = torch.stack(blocks, dim=1)
        rest = stack[:, :, 1:].abs()
        magnitudes.append(rest.mean(dim=2).cpu().numpy())
        firsts.append(stack[:, :, 0].mean(dim=0).cpu().numpy())
        largest.append(rest.amax(dim=(0, 2, 3)).cpu().numpy())
        medians.append(rest.flatten(2)[..., ::7].median(dim=2).values.mean(dim=0).cpu().numpy())
    return RowMeasures(
        np.array(losses, dtype=np.float32),
        np.concatenate(magnitudes),
        np.mean(firsts, axis=0),
        np.max(largest, axis=0),
        np.mean(medians, axis=0),
    )


@torch.inference_mode()
def continuations(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy continuations, in the order of the prompts; prompts of similar length share a batch."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    for begin in range(0, len(order), PROMPTS_PER_BATCH):
        chosen = order[begin : begin + PROMPTS_PER_BATCH]
        batch = tokenizer([prompts[index] for index in chosen], return_tensors="pt", padding=True, padding_side="left")
        batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        found = model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)
        for index, ids in zip(chosen, found[:, batch["input_ids"].shape[1] :], strict=True):
            texts[index] = tokenizer.decode(ids, skip_special_tokens=True)
    return texts


@torch.inference_mode()
def log_likelihoods(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Total log likelihood in nats of each continuation after its prompt."""
    heads = [tokenizer(prompt)["input_ids"] for prompt, _ in pairs]
    tails = [tokenizer(text, add_special_tokens=False)["input_ids"] for _, text in pairs]
    order = sorted(range(len(pairs)), key=lambda index: len(heads[index]) + len(tails[index]))
    totals = [0.0] * len(pairs)
    for begin in range(0, len(order), PROMPTS_PER_BATCH):
        chosen = order[begin : begin + PROMPTS_PER_BATCH]
        rows = [torch.tensor(heads[index] + tails[index]) for index in chosen]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
        hidden = model.model(batch, use_cache=False).last_hidden_state
        for row, index in enumerate(chosen):
            begin_tail, end = len(heads[index]), len(heads[index]) + len(tails[index])
            scores = model.lm_head(hidden[row, begin_tail - 1 : end - 1]).float().log_softmax(dim=-1)
            totals[index] = scores.gather(1, batch[row, begin_tail:end, None]).sum().item()
    return totals


def compare_texts(model: Any, tokenizer: Any, items: Sequence[BehaviourItem]) -> list[tuple[float, bool]]:
    """Per item the log-odds of its answers against its distractors, and whether an answer beats every distractor."""
    pairs = [(item.prompt, text) for item in items for text in (*item.answers, *item.distractors)]
    totals = iter(log_likelihoods(model, tokenizer, pairs))
    found = []
    for item in items:
        answers = [next(totals) for _ in item.answers]
        distractors = [next(totals) for _ in item.distractors]
        odds = log_odds(float(np.logaddexp.reduce(answers)), distractors)
        found.append((odds, max(answers) > max(distractors)))
    return found


def measure_set(
    model: Any, tokenizer: Any, name: BehaviourSet, *, limit: int | None = None
) -> tuple[dict[str, Share], list[tuple[BehaviourItem, str]]]:
    """The share of right items per kind (at most `limit` drawn ones), and what was said where it was wrong.

    The draw is fixed, and a smaller limit takes a part of the items of a larger one.
    """
    shares, mistakes = {}, []
    everything = load_behaviours(name)
    for kind in dict.fromkeys(item.kind for item in everything):
        items = [item for item in everything if item.kind == kind]
        if limit is not None and limit < len(items):
            items = [items[index] for index in np.random.default_rng(0).permutation(len(items))[:limit]]
        judged = items[0].judged
        compared = None if judged == "contains" else compare_texts(model, tokenizer, items)
        if judged == "likelihood":
            right, texts = [is_likelier for _, is_likelier in compared or ()], [""] * len(items)
        else:
            length = NEW_TOKENS_PERSONA if judged == "contains" else NEW_TOKENS
            texts = continuations(model, tokenizer, [item.prompt for item in items], length)
            right = [is_right(item, text) for item, text in zip(items, texts, strict=True)]
        odds = None if compared is None else float(np.mean([value for value, _ in compared]))
        likelier = None if compared is None else sum(is_likelier for _, is_likelier in compared)
        shares[kind] = Share(sum(right), len(items), odds, likelier)
        mistakes += [(item, text) for item, text, good in zip(items, texts, right, strict=True) if not good]
    return shares, mistakes
