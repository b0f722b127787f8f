"""Fitting the domain classifier with scikit-learn, on the passages that are not held out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from workbench.records import Prompt
from workbench.tasks.classifier import DomainClassifier, load_classifier, text_features, text_hash

N_FEATURES = 3000
INVERSE_PENALTY = 3.0


def fit_classifier(prompts: Sequence[Prompt], *, n_features: int = N_FEATURES) -> DomainClassifier:
    """Fit on the *identify* and *tune* passages of the prompts; *test* passages are never looked at.

    Fitted twice: first on all features that two passages share, then on the `n_features` of them with the largest
    product of document count and largest coefficient. Deterministic, and independent of the order of the prompts.
    """
    chosen = sorted(
        (prompt for prompt in prompts if prompt.split != "test"), key=lambda prompt: (prompt.domain, prompt.text)
    )
    labels = [prompt.domain for prompt in chosen]
    if len(set(labels)) < 2:
        raise ValueError(
            f"a domain classifier needs identify or tune passages of at least two domains, got those of "
            f"{', '.join(sorted(set(labels))) or 'none'}"
        )
    present = [text_features(prompt.text) for prompt in chosen]
    counts = Counter(feature for features in present for feature in features)
    shared = tuple(sorted(feature for feature, count in counts.items() if count > 1))
    if not shared:
        raise ValueError("the passages share no word and no 3-gram of characters; a classifier needs some that do")
    first = _fit(chosen, present, shared, counts)
    if len(shared) <= n_features:
        return first
    weight = np.abs(first.coefficients).max(axis=0) * np.array([counts[feature] for feature in shared])
    kept = np.sort(np.argsort(-weight, kind="stable")[:n_features])
    return _fit(chosen, present, tuple(shared[index] for index in kept), counts)


def _fit(
    prompts: Sequence[Prompt], present: Sequence[frozenset[str]], features: tuple[str, ...], counts: Counter[str]
) -> DomainClassifier:
    idf = np.log(len(prompts) / np.array([counts[feature] for feature in features], dtype=np.float64)) + 1
    labels = [prompt.domain for prompt in prompts]
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=3000).fit(_vectors(present, features, idf), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps one row: the log-odds of the second
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return DomainClassifier(
        domains=tuple(model.classes_.tolist()),
        features=features,
        idf=idf,
        coefficients=coefficients,
        intercepts=intercepts,
        trained_on=frozenset(text_hash(prompt.text) for prompt in prompts),
    )


def _vectors(
    present: Sequence[frozenset[str]], features: tuple[str, ...], idf: Float64[np.ndarray, "feature"]
) -> sparse.csr_array:
    """What `DomainClassifier.vectors` makes, as a sparse matrix: all shared features of a large corpus are many."""
    index = {feature: column for column, feature in enumerate(features)}
    columns = [sorted(index[feature] for feature in of_text if feature in index) for of_text in present]
    lengths = [np.linalg.norm(idf[known]) if known else 1.0 for known in columns]
    values = [idf[known] / length for known, length in zip(columns, lengths, strict=True)]
    starts = np.cumsum([0, *map(len, columns)])
    shape = (len(present), len(features))
    flat = np.fromiter((column for known in columns for column in known), dtype=np.int32)
    return sparse.csr_array((np.concatenate(values), flat, starts), shape=shape)


def classifier_for(prompts: Sequence[Prompt]) -> DomainClassifier:
    """A fitted classifier, or the one that ships if it was trained on these passages but those of *test*."""
    shipped = load_classifier()
    seen = {text_hash(prompt.text) for prompt in prompts if prompt.split != "test"}
    held_out = {text_hash(prompt.text) for prompt in prompts if prompt.split == "test"}
    is_ours = set(shipped.domains) == {prompt.domain for prompt in prompts}
    if is_ours and seen <= shipped.trained_on and not held_out & shipped.trained_on:
        return shipped
    return fit_classifier(prompts)
