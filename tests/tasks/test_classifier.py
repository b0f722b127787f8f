"""The classifier against scikit-learn, and the one that ships against the passages that ship."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from workbench.comparison import (
    ClassifierReport,
    DomainClassifier,
    classifier_for,
    fit_classifier,
    load_classifier,
    save_classifier,
)
from workbench.corpus import load_corpus
from workbench.records import Prompt, RecordError
from workbench.tasks.classifier import BUILTIN, text_features, text_hash
from workbench.tasks.fitting import INVERSE_PENALTY

TEXTS = {
    "law": ["The court shall dismiss it.", "Section 4 of the act.", "A judge shall hear the appeal in court."],
    "code": ["def f(x):\n    return x + 1", "for i in range(10):\n    print(i)", "x = [1, 2, 3]"],
    "sea": ["The wind over the sea.", "Waves and salt and wind.", "A ship on the grey sea at dawn."],
}
UNSEEN = ["return the court to the sea", "x = 5", "the judge shall sail", "", "12 of 34"]


def prompts(*domains: str) -> list[Prompt]:
    rows = [(domain, text) for domain in domains for text in TEXTS[domain]]
    return [Prompt(text, domain, f"{domain}/{i}", "identify") for i, (domain, text) in enumerate(rows)]


def reference(training: list[Prompt], classifier: DomainClassifier, texts: list[str]) -> np.ndarray:
    """Probabilities of scikit-learn's own pipeline on the same features."""
    vectors = TfidfVectorizer(
        analyzer=lambda text: sorted(text_features(text)),  # pyright: ignore[reportArgumentType]
        vocabulary={feature: index for index, feature in enumerate(classifier.features)},
        binary=True,
        smooth_idf=False,
    )
    x = vectors.fit_transform([prompt.text for prompt in training])
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=3000).fit(x, [prompt.domain for prompt in training])
    assert tuple(model.classes_) == classifier.domains
    return model.predict_proba(vectors.transform(texts))


@pytest.mark.parametrize("domains", [("law", "code", "sea"), ("law", "sea")])
@pytest.mark.parametrize("n_features", [3000, 25])
def test_probabilities_are_those_of_scikit_learn(domains: tuple[str, ...], n_features: int) -> None:
    training = prompts(*domains)
    classifier = fit_classifier(training, n_features=n_features)
    assert len(classifier.features) <= n_features
    ours = classifier.probabilities(UNSEEN)
    np.testing.assert_allclose(ours, reference(training, classifier, UNSEEN), atol=1e-3)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0)


def test_features_by_hand() -> None:
    assert text_features("Ab 4") == {"w:ab", "w:0", "c: ab", "c:ab ", "c:b 0", "c: 0 "}


def test_order_of_the_prompts_does_not_matter() -> None:
    first, second = fit_classifier(prompts("law", "code")), fit_classifier(prompts("code", "law")[::-1])
    assert first.features == second.features
    assert first.features == tuple(sorted(first.features))
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


def test_test_passages_are_never_looked_at() -> None:
    hidden = [Prompt("The xylophone shall pay.", "law", "law/9", "test")]
    with_hidden, without = fit_classifier([*prompts("law", "code"), *hidden]), fit_classifier(prompts("law", "code"))
    assert with_hidden.features == without.features
    assert text_hash(hidden[0].text) not in with_hidden.trained_on


def test_text_without_known_features_belongs_nowhere() -> None:
    classifier = fit_classifier(prompts("law", "code"))
    assert classifier.predict(["", "§§§", "the court shall"]) == ["", "", "law"]
    texts = ["", "the court shall", "the court shall pay"]
    assert classifier.accuracy(texts, ["code", "law", "law"]) == pytest.approx(2 / 3)


def test_saved_and_loaded_is_the_same_to_the_rounding(tmp_path: Path) -> None:
    classifier = fit_classifier(prompts("law", "code", "sea"))
    save_classifier(classifier, tmp_path / "c.json")
    loaded = load_classifier(tmp_path / "c.json")
    assert (loaded.domains, loaded.features, loaded.trained_on) == (
        classifier.domains,
        classifier.features,
        classifier.trained_on,
    )
    np.testing.assert_allclose(loaded.coefficients, classifier.coefficients, atol=5.1e-4)
    np.testing.assert_allclose(loaded.probabilities(UNSEEN), classifier.probabilities(UNSEEN), atol=3e-3)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(RecordError, match="no classifier"):
        load_classifier(path)
    path.write_text('{"kind": "Domain')
    with pytest.raises(RecordError, match="damaged"):
        load_classifier(path)
    path.write_text('{"kind": "Detector", "format": 1}')
    with pytest.raises(RecordError, match="no DomainClassifier"):
        load_classifier(path)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least two domains, got those of law"):
        fit_classifier(prompts("law"))
    with pytest.raises(ValueError, match="share no word"):
        fit_classifier([Prompt("abc", "a", "a/0", "tune"), Prompt("xyz", "b", "b/0", "tune")])
    with pytest.raises(ValueError, match="as many domains"):
        load_classifier().accuracy(["a", "b"], ["law"])


def test_shipped_classifier_is_that_of_the_shipped_passages() -> None:
    passages = load_corpus("builtin")
    shipped, fitted = load_classifier(), fit_classifier(passages)
    assert shipped.features == fitted.features, "run python -m training.classifier"
    assert shipped.trained_on == fitted.trained_on
    np.testing.assert_allclose(shipped.coefficients, fitted.coefficients, atol=0.02)
    held_out = [prompt for prompt in passages if prompt.split == "test"]
    accuracy = shipped.accuracy([prompt.text for prompt in held_out], [prompt.domain for prompt in held_out])
    assert accuracy > 0.75  # of seven domains, guessing gives 0.14


def test_shipped_classifier_is_small() -> None:
    import workbench

    assert (Path(workbench.__file__).parent / "builtin" / BUILTIN).stat().st_size < 300_000


def test_shipped_classifier_is_used_only_where_it_fits() -> None:
    passages = load_corpus("builtin", limit=20)
    shipped = load_classifier()
    assert classifier_for(passages).trained_on == shipped.trained_on
    leaking = [replace(p, split="test") if p.split == "tune" else p for p in passages if p.split != "test"]
    foreign = [*passages, Prompt("A passage that nobody has seen before.", "law", "law/new", "identify")]
    for unfit in (leaking, foreign):
        fitted = classifier_for(unfit)
        assert fitted.trained_on == {text_hash(p.text) for p in unfit if p.split != "test"}
    assert set(classifier_for(load_corpus("builtin", domains=["law", "code"], limit=20)).domains) == {"law", "code"}
    assert classifier_for(prompts("law", "code", "sea")).domains == ("code", "law", "sea")


def test_report_states_accuracy_beside_chance() -> None:
    report = ClassifierReport(("a", "b", "c", "d"), 100, 0.9, 40, 0.55, 20)
    assert report.chance == 0.25
    assert "90%" in str(report)
    assert "55% of 20 unsteered continuations" in str(report)
    assert "25%" in str(report)
