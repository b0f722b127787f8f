"""Interpolated trigram models, the yardstick for held-out loss: `python -m training.trigram`.

p(w | u, v) = a3 c(u,v,w)/c(u,v) + a2 c(v,w)/c(v) + a1 c(w)/n + a0/V, after Jelinek and Mercer: the four weights depend
on how often the context u, v was seen (classes 0, 1, 2, 3-4, 5-8 ...) and are fitted by expectation maximisation on
training text whose counts were left out. An unseen context takes the estimate of the next shorter one, so that the
probabilities of all words sum to one for every context.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from training.generator import DOMAINS
from training.prepare import VOCABULARY_SIZE

ROW = 256
N_ORDERS = 4  # uniform, unigram, bigram, trigram
N_CLASSES = 16  # classes of context counts; the last holds everything above 2^14
BLOCK = 5_000  # tokens per block; every LEFT_OUT-th block fits the weights
LEFT_OUT = 20
N_ITERATIONS = 30
SAMPLE = 60_000
UNIGRAM = 1


@dataclass(frozen=True)
class Counts:
    """Sorted n-gram keys (packed in one integer each) with how often they occur, per order 1 to 3.

    Besides the counts of n-grams, `contexts` holds how often their first n-1 tokens occur before another token.
    """

    vocabulary: int
    n_tokens: int
    grams: dict[int, tuple[Int[np.ndarray, "gram"], Int[np.ndarray, "gram"]]]
    contexts: dict[int, tuple[Int[np.ndarray, "gram"], Int[np.ndarray, "gram"]]]


@dataclass(frozen=True)
class Trigram:
    """Counts with interpolation weights; `weights[class]` are those of uniform, unigram, bigram and trigram."""

    counts: Counts
    weights: Float64[np.ndarray, "class order"]

    def probabilities(self, grams: Int[np.ndarray, "token three"]) -> Float64[np.ndarray, "token"]:
        """The probability of the last token of every (u, v, w) after the first two."""
        estimates, classes = estimates_of(self.counts, grams)
        return (self.weights[classes] * estimates).sum(axis=1)


def windows(tokens: Int[np.ndarray, "token"], n: int) -> Int[np.ndarray, "gram n"]:
    """Every run of n neighbouring tokens."""
    return np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), n)


def pack(grams: Int[np.ndarray, "gram n"], vocabulary: int) -> Int[np.ndarray, "gram"]:
    """One integer per n-gram; 6,144 to the third power fits 64 bits easily."""
    key = np.zeros(len(grams), dtype=np.int64)
    for column in range(grams.shape[1]):
        key = key * vocabulary + grams[:, column]
    return key


def count(pieces: list[Int[np.ndarray, "token"]], vocabulary: int) -> Counts:
    """Counts of all n-grams that lie within one piece of text."""
    grams, contexts = {}, {}
    for order in (1, 2, 3):
        found = [windows(piece, order) for piece in pieces if len(piece) >= order]
        grams[order] = np.unique(np.concatenate([pack(rows, vocabulary) for rows in found]), return_counts=True)
        # A token's context counts only where a token follows, so that the estimates of each order sum to one.
        heads = np.concatenate([pack(rows[:, :-1], vocabulary) for rows in found])
        contexts[order] = np.unique(heads, return_counts=True)
    return Counts(vocabulary, sum(len(piece) for piece in pieces), grams, contexts)


def look_up(
    table: tuple[Int[np.ndarray, "gram"], Int[np.ndarray, "gram"]], keys: Int[np.ndarray, "token"]
) -> Int[np.ndarray, "token"]:
    """How often each key was counted; 0 for unseen ones."""
    known, counted = table
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, counted[place], 0)


def estimates_of(
    counts: Counts, grams: Int[np.ndarray, "token three"]
) -> tuple[Float64[np.ndarray, "token order"], Int[np.ndarray, "token"]]:
    """The relative frequency under every order, and the class of the context's count."""
    estimates = np.empty((len(grams), N_ORDERS))
    estimates[:, 0] = 1 / counts.vocabulary
    seen = np.zeros(len(grams), dtype=np.int64)
    for order in range(UNIGRAM, N_ORDERS):
        joint = look_up(counts.grams[order], pack(grams[:, 3 - order :], counts.vocabulary))
        seen = look_up(counts.contexts[order], pack(grams[:, 3 - order : 2], counts.vocabulary))
        estimates[:, order] = np.where(seen > 0, joint / np.maximum(seen, 1), estimates[:, order - 1])
    classes = np.where(seen > 0, np.ceil(np.log2(np.maximum(seen, 1))).astype(np.int64) + 1, 0)
    return estimates, np.minimum(classes, N_CLASSES - 1)


def fit_weights(counts: Counts, grams: Int[np.ndarray, "token three"]) -> Float64[np.ndarray, "class order"]:
    """Interpolation weights per class by expectation maximisation on n-grams whose counts were left out."""
    estimates, classes = estimates_of(counts, grams)
    weights = np.full((N_CLASSES, N_ORDERS), 1 / N_ORDERS)
    for _ in range(N_ITERATIONS):
        share = weights[classes] * estimates
        share /= share.sum(axis=1, keepdims=True)
        sums = np.stack([np.bincount(classes, share[:, order], N_CLASSES) for order in range(N_ORDERS)], axis=1)
        total = sums.sum(axis=1, keepdims=True)
        weights = np.where(total > 0, sums / np.maximum(total, 1e-300), weights)
    return weights


def fit(tokens: Int[np.ndarray, "token"], vocabulary: int = VOCABULARY_SIZE, block: int = BLOCK) -> Trigram:
    """Weights from every 20th block with the counts of the others; the final counts are those of all tokens."""
    blocks = [tokens[start : start + block] for start in range(0, len(tokens), block)]
    kept = [piece for index, piece in enumerate(blocks) if index % LEFT_OUT]
    left_out = [windows(piece, 3) for index, piece in enumerate(blocks) if index % LEFT_OUT == 0 and len(piece) > 2]
    weights = fit_weights(count(kept, vocabulary), np.concatenate(left_out))
    return Trigram(count([tokens], vocabulary), weights)


def held_out_starts(n_tokens: int, sample: int) -> Int[np.ndarray, "row"]:
    """First tokens of the measured rows: evenly spread, disjoint, two tokens of context before the first."""
    length = ROW - 1
    n_rows = min(max(1, sample // length), (n_tokens - 2) // length)
    return 2 + np.linspace(0, n_tokens - 2 - length, n_rows).astype(np.int64)


def held_out_loss(model: Trigram, tokens: Int[np.ndarray, "token"], sample: int) -> float:
    """Mean loss in nats per token on the measured rows; unlike a model of the row, it sees the two tokens before it."""
    grams = windows(tokens, 3)
    rows = [grams[start - 2 : start - 2 + ROW - 1] for start in held_out_starts(len(tokens), sample)]
    return float(-np.log(model.probabilities(np.concatenate(rows))).mean())


def trigram_losses(data: Path, sample: int = SAMPLE) -> dict[str, dict[str, float]]:
    """Held-out loss per domain of one trigram model of all seven domains (`all`) and of the domain's own (`own`).

    The first learns from what the language model learns from; the second is also told the domain. Results are kept in
    `trigram.json` of the data folder, because counting takes a minute.
    """
    path = data / "trigram.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if str(sample) not in known:
        train = {domain: np.load(data / f"{domain}.train.npy") for domain in DOMAINS}
        held_out = {domain: np.load(data / f"{domain}.valid.npy") for domain in DOMAINS}
        everything = fit(np.concatenate(list(train.values())))
        losses = {"all": {domain: held_out_loss(everything, held_out[domain], sample) for domain in DOMAINS}, "own": {}}
        for domain in DOMAINS:
            losses["own"][domain] = held_out_loss(fit(train[domain]), held_out[domain], sample)
            print(f"trigram, {domain}: {losses['all'][domain]:.3f} ({losses['own'][domain]:.3f})", flush=True)
        path.write_text(json.dumps(known | {str(sample): losses}, indent=1))
        return losses
    return known[str(sample)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/training"), help="what prepare wrote")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="held-out tokens per domain")
    arguments = parser.parse_args()
    trigram_losses(arguments.data, arguments.sample)
