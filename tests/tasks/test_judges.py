"""Text classifiers: by hand, of passages that ship, and of the refusals that ship."""

import json
from importlib import resources

import numpy as np
import pytest

from workbench.comparison import ClassifierReport, fit_classifier
from workbench.corpus import load_corpus
from workbench.records import Prompt
from workbench.tasks import refusal_classifier
from workbench.tasks.judges import INVERSE_PENALTY, text_features

TEXTS = {
    "law": ["The court shall dismiss it.", "Section 4 of the act.", "A judge shall hear the appeal in court."],
    "code": ["def f(x):\n    return x + 1", "for i in range(10):\n    print(i)", "x = [1, 2, 3]"],
    "sea": ["The wind over the sea.", "Waves and salt and wind.", "A ship on the grey sea at dawn."],
}
UNSEEN = ["return the court to the sea", "x = 5", "the judge shall sail", "", "12 of 34"]


def prompts(*domains: str) -> list[Prompt]:
    rows = [(domain, text) for domain in domains for text in TEXTS[domain]]
    return [Prompt(text, domain, f"{domain}/{i}", "identify") for i, (domain, text) in enumerate(rows)]


def test_features_by_hand() -> None:
    assert text_features("Ab 4") == ["c: 0 ", "c: ab", "c:ab ", "c:b 0", "w:0", "w:ab"]


@pytest.mark.parametrize("domains", [("law", "code", "sea"), ("law", "sea")])
def test_probabilities_minimise_the_penalised_loss(domains: tuple[str, ...]) -> None:
    """At the optimum, the gradient of C * cross-entropy + |W|^2 / 2 is zero, on features counted here."""
    training = prompts(*domains)
    classifier = fit_classifier(training)
    texts = [set(text_features(prompt.text)) for prompt in training]
    counts = {feature: sum(feature in text for text in texts) for text in texts for feature in text}
    shared = sorted(feature for feature, count in counts.items() if count > 1)
    idf = np.array([np.log(len(texts) / counts[feature]) + 1 for feature in shared])
    x = np.array([[feature in text for feature in shared] for text in texts]) * idf
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    is_of = np.array([[prompt.domain == domain for domain in classifier.domains] for prompt in training])
    residual = classifier.probabilities([prompt.text for prompt in training]) - is_of
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)
    weights = classifier.pipeline.named_steps["logisticregression"].coef_
    if len(domains) == 2:  # one row: the log-odds of the second domain
        residual = residual[:, 1:]
    np.testing.assert_allclose(INVERSE_PENALTY * residual.T @ x + weights, 0, atol=1e-2)


def test_order_of_the_prompts_does_not_matter() -> None:
    first, second = fit_classifier(prompts("law", "code")), fit_classifier(prompts("code", "law")[::-1])
    np.testing.assert_array_equal(first.probabilities(UNSEEN), second.probabilities(UNSEEN))


def test_test_passages_are_never_looked_at() -> None:
    hidden = [Prompt("The xylophone shall pay.", "law", "law/9", "test")]
    with_hidden, without = fit_classifier([*prompts("law", "code"), *hidden]), fit_classifier(prompts("law", "code"))
    assert with_hidden.n_training == without.n_training == 6
    np.testing.assert_array_equal(with_hidden.probabilities(UNSEEN), without.probabilities(UNSEEN))


def test_text_without_known_features_belongs_nowhere() -> None:
    classifier = fit_classifier(prompts("law", "code"))
    assert classifier.predict(["", "§§§", "the court shall"]) == ["", "", "law"]
    assert classifier.predict(["the court shall"], among=("code",)) == ["code"]
    assert classifier.predict([]) == []
    texts = ["", "the court shall", "the court shall pay"]
    assert classifier.accuracy(texts, ["code", "law", "law"]) == pytest.approx(2 / 3)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least two domains, got those of law"):
        fit_classifier(prompts("law"))
    with pytest.raises(ValueError, match="share no word"):
        fit_classifier([Prompt("abc", "a", "a/0", "tune"), Prompt("xyz", "b", "b/0", "tune")])
    with pytest.raises(ValueError, match="as many domains"):
        fit_classifier(prompts("law", "code")).accuracy(["a", "b"], ["law"])


def test_held_out_passages_that_ship_are_told_apart() -> None:
    passages = load_corpus("builtin")
    held_out = [prompt for prompt in passages if prompt.split == "test"]
    classifier = fit_classifier(passages)
    accuracy = classifier.accuracy([prompt.text for prompt in held_out], [prompt.domain for prompt in held_out])
    assert accuracy > 0.75  # of seven domains, guessing gives 0.14


def test_sentences_of_refusal_ship_as_they_are_made_and_generalise() -> None:
    from training.generator import read_material
    from training.refusal_sentences import texts_of

    material = read_material()
    shipped = resources.files("workbench").joinpath("builtin", "refusal_sentences.jsonl").read_text(encoding="utf-8")
    rows = [(row["label"], row["text"]) for row in map(json.loads, shipped.splitlines())]
    assert rows == [(p.domain, p.text) for p in texts_of(material, is_test=False)], "training.refusal_sentences"
    held_out = texts_of(material, is_test=True)
    assert not {text for label, text in rows if label != "other"} & {prompt.text for prompt in held_out}
    accuracy = refusal_classifier().accuracy([p.text for p in held_out], [p.domain for p in held_out])
    assert accuracy > 0.8  # of three classes


def test_report_states_accuracy_beside_chance() -> None:
    report = ClassifierReport(("a", "b", "c", "d"), 100, 0.9, 40, 0.55, 20)
    assert report.chance == 0.25
    assert "90%" in str(report)
    assert "55% of 20 unsteered continuations" in str(report)
    assert "25%" in str(report)
