"""Text classifiers that judge what a model writes: TF-IDF and logistic regression of scikit-learn, fitted when needed.

    features   words, digits (all the same), single punctuation marks, 3-grams of characters; each counts once per text,
               and those of a single training text are dropped
    x          idf of the features present, scaled to length 1;    p(domain) = softmax(W x + b)

A classifier judges what steering makes a model write, so its own accuracy must stand beside its verdicts: on held-out
passages, and on text of the kind it judges, the model's unsteered continuations (`ClassifierReport`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from workbench.records import Prompt

INVERSE_PENALTY = 3.0
_WORDS = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\n")


def text_features(text: str) -> list[str]:
    """The features of a text: `w:` words and marks, `c:` 3-grams of characters; lower case, every digit as 0."""
    text = re.sub(r"\d", "0", text.lower())
    padded = f" {text} "
    words = {f"w:{word}" for word in _WORDS.findall(text)}
    return sorted(words | {f"c:{padded[start : start + 3]}" for start in range(len(padded) - 2)})


@dataclass(frozen=True, eq=False)
class DomainClassifier:
    """A fitted pipeline of vectors and logistic regression, and the number of distinct texts that it was fitted on."""

    pipeline: Pipeline
    n_training: int

    @property
    def domains(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        return tuple(self.pipeline.classes_.tolist())

    def probabilities(self, texts: Sequence[str]) -> Float64[np.ndarray, "text domain"]:
        """Probability of every domain for every text; rows sum to 1."""
        if not texts:
            return np.zeros((0, len(self.domains)))
        return np.asarray(self.pipeline.predict_proba(texts))

    def predict(self, texts: Sequence[str], among: Sequence[str] | None = None) -> list[str]:
        """The most probable domain of every text, of all or of those `among`; "" for a text without a known feature."""
        if not texts:
            return []
        compared = self.domains if among is None else tuple(among)
        columns = [self.domains.index(domain) for domain in compared]
        best = self.probabilities(texts)[:, columns].argmax(axis=1)
        n_known = self.pipeline[:-1].transform(texts).getnnz(axis=1)
        return [compared[index] if n else "" for index, n in zip(best, n_known, strict=True)]

    def accuracy(self, texts: Sequence[str], domains: Sequence[str]) -> float:
        """Fraction of texts assigned to the domain they are of."""
        if len(texts) != len(domains) or not texts:
            raise ValueError(f"accuracy needs as many domains as texts, got {len(domains)} for {len(texts)}")
        return float(np.mean([guess == domain for guess, domain in zip(self.predict(texts), domains, strict=True)]))


def fit_classifier(prompts: Sequence[Prompt]) -> DomainClassifier:
    """Fit on the *identify* and *tune* passages of the prompts; *test* passages are never looked at.

    Deterministic, and independent of the order of the prompts. Raises `ValueError` for fewer than two domains and for
    passages that have no feature in common.
    """
    return _fitted(tuple(sorted((prompt.domain, prompt.text) for prompt in prompts if prompt.split != "test")))


@lru_cache(maxsize=8)  # the tasks of all domains ask for the classifier of the same passages
def _fitted(rows: tuple[tuple[str, str], ...]) -> DomainClassifier:
    labels, texts = [label for label, _ in rows], [text for _, text in rows]
    if len(set(labels)) < 2:
        raise ValueError(
            f"a domain classifier needs identify or tune passages of at least two domains, got those of "
            f"{', '.join(sorted(set(labels))) or 'none'}"
        )
    features = [set(text_features(text)) for text in texts]
    if len(set().union(*features)) == sum(map(len, features)):
        raise ValueError("the passages share no word and no 3-gram of characters; a classifier needs some that do")
    analyzer: Any = text_features  # scikit-learn annotates names of analyzers only
    vectors = TfidfVectorizer(analyzer=analyzer, binary=True, min_df=2, smooth_idf=False)
    pipeline = make_pipeline(vectors, LogisticRegression(C=INVERSE_PENALTY, max_iter=3000))
    return DomainClassifier(pipeline.fit(texts, labels), len(set(texts)))


@dataclass(frozen=True)
class ClassifierReport:
    """How far the classifier can be trusted: fractions of texts assigned to the right domain, and by guessing.

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
