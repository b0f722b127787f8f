"""Fit the domain classifier that ships: `python -m training.classifier [--out FILE]`.

Trained on the built-in identify and tune passages with the default seed; prints its accuracy on the test passages.
"""

import argparse
from pathlib import Path

import workbench
from workbench.corpus import load_corpus
from workbench.tasks.classifier import BUILTIN, load_classifier, save_classifier
from workbench.tasks.fitting import fit_classifier

DEFAULT = Path(workbench.__file__).parent / "builtin" / BUILTIN


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the domain classifier that ships.")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="where the coefficients go (JSON)")
    path: Path = parser.parse_args().out
    prompts = load_corpus("builtin")
    save_classifier(fit_classifier(prompts), path)
    classifier = load_classifier(path)
    held_out = [prompt for prompt in prompts if prompt.split == "test"]
    accuracy = classifier.accuracy([prompt.text for prompt in held_out], [prompt.domain for prompt in held_out])
    print(
        f"{path.name}: {len(classifier.features)} features, {path.stat().st_size / 1000:.0f} kB, trained on "
        f"{len(classifier.trained_on)} passages, {accuracy:.1%} of {len(held_out)} test passages right"
    )


if __name__ == "__main__":
    main()
