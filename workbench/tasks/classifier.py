"""Which domain is this text: a linear classifier kept as plain coefficients and applied with NumPy alone.

    features   words, digits (all the same), single punctuation marks, 3-grams of characters; each counts once per text
    x          idf of the features present, scaled to length 1;    p(domain) = softmax(W x + b)

It judges what steering makes a model write, so its own accuracy must stand beside its verdicts: on held-out passages,
and on text of the kind it judges, the model's unsteered continuations (`ClassifierReport`).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from workbench.records import RecordError, write_whole

KIND, FORMAT = "DomainClassifier", 1
BUILTIN = "classifier.json"
_WORDS = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\n")


def text_features(text: str) -> frozenset[str]:
    """The features of a text: `w:` words and marks, `c:` 3-grams of characters; lower case, every digit as 0."""
    text = re.sub(r"\d", "0", text.lower())
    padded = f" {text} "
    words = {f"w:{word}" for word in _WORDS.findall(text)}
    return frozenset(words | {f"c:{padded[start : start + 3]}" for start in range(len(padded) - 2)})


def text_hash(text: str) -> str:
    """The first 48 bits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class DomainClassifier:
    """Multinomial logistic regression over the features of a text.

    `trained_on` are the hashes of its training passages (`text_hash`), so that it is never used where one of them is a
    test passage. Probabilities are fractions that sum to 1 over `domains`.
    """

    domains: tuple[str, ...]
    features: tuple[str, ...]
    idf: Float64[np.ndarray, "feature"]
    coefficients: Float64[np.ndarray, "domain feature"]
    intercepts: Float64[np.ndarray, "domain"]
    trained_on: frozenset[str]

    def vectors(self, texts: Sequence[str]) -> Float64[np.ndarray, "text feature"]:
        """The texts as rows of length 1 (0 where a text has none of the features)."""
        index = {feature: column for column, feature in enumerate(self.features)}
        rows = np.zeros((len(texts), len(self.features)))
        for row, text in zip(rows, texts, strict=True):
            known = [index[feature] for feature in text_features(text) if feature in index]
            row[known] = self.idf[known]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1.0)

    def probabilities(self, texts: Sequence[str]) -> Float64[np.ndarray, "text domain"]:
        """Probability of every domain for every text."""
        scores = self.vectors(texts) @ self.coefficients.T + self.intercepts
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable domain of every text; "" for a text without a single known feature."""
        best = self.probabilities(texts).argmax(axis=1)
        known = [bool(row.any()) for row in self.vectors(texts)]
        return [self.domains[index] if is_known else "" for index, is_known in zip(best, known, strict=True)]

    def accuracy(self, texts: Sequence[str], domains: Sequence[str]) -> float:
        """Share of texts assigned to the domain they are of."""
        if len(texts) != len(domains) or not texts:
            raise ValueError(f"accuracy needs as many domains as texts, got {len(domains)} for {len(texts)}")
        return float(np.mean([guess == domain for guess, domain in zip(self.predict(texts), domains, strict=True)]))


@dataclass(frozen=True)
class ClassifierReport:
    """How far the classifier can be trusted: shares of texts assigned to the right domain, and by guessing.

    `own_text` is measured on the model's unsteered continuations of held-out passages, the kind of text it judges.
    """

    domains: tuple[str, ...]
    n_training: int
    held_out: float
    n_held_out: int
    own_text: float
    n_own_text: int

    @property
    def chance(self) -> float:
        return 1 / len(self.domains)

    def __str__(self) -> str:
        return (
            f"domain classifier: {self.held_out:.0%} of {self.n_held_out} held-out passages and {self.own_text:.0%} of "
            f"{self.n_own_text} unsteered continuations by the model are assigned to their domain (chance "
            f"{self.chance:.0%})"
        )


def save_classifier(classifier: DomainClassifier, path: str | Path, *, decimals: int = 3) -> None:
    """Write the coefficients as JSON, rounded to `decimals`."""
    content = {
        "kind": KIND,
        "format": FORMAT,
        "domains": classifier.domains,
        "trained_on": sorted(classifier.trained_on),
        "intercepts": classifier.intercepts.round(decimals).tolist(),
        "features": {
            feature: [round(float(weight), decimals), *column.round(decimals).tolist()]
            for feature, weight, column in zip(
                classifier.features, classifier.idf, classifier.coefficients.T, strict=True
            )
        },
    }
    write_whole(path, json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")


def load_classifier(path: str | Path | None = None) -> DomainClassifier:
    """Read what `save_classifier` wrote; by default the classifier that ships."""
    file = resources.files("workbench").joinpath("builtin", BUILTIN) if path is None else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"there is no classifier at {file}; write one with save_classifier") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"{file} is damaged ({error}); write it again") from error
    if content.get("kind") != KIND or content.get("format") != FORMAT:
        raise RecordError(f"{file} is no {KIND} of format {FORMAT}; write it again with this version")
    table = np.array(list(content["features"].values()))
    return DomainClassifier(
        domains=tuple(content["domains"]),
        features=tuple(content["features"]),
        idf=table[:, 0],
        coefficients=table[:, 1:].T.copy(),
        intercepts=np.array(content["intercepts"]),
        trained_on=frozenset(content["trained_on"]),
    )
