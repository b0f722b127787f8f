"""`python -m experiments all`, or the names of some; `--quick` runs a few items each and writes to a folder beside."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from experiments import choices, contrastive, dials, refusal, rotations, style_heads
from experiments.pages import DOCS
from workbench.models import load_model

EXPERIMENTS = {
    "choices": choices.main,
    "refusal": refusal.main,
    "dials": dials.main,
    "style_heads": style_heads.main,
    "contrastive": contrastive.main,
    "rotations": rotations.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*EXPERIMENTS, "all"], metavar="NAME")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--quick", action="store_true", help="A few items each, to see that all run; docs stay as is.")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = load_model(arguments.model)
    docs = DOCS
    if arguments.quick:
        docs = Path(tempfile.mkdtemp(prefix="experiments-")) / DOCS.name
        docs.mkdir()
        for page in (*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")):
            shutil.copy(page, docs if page.parent == DOCS else docs.parent)
    names = list(EXPERIMENTS) if "all" in arguments.names else arguments.names
    for name in names:
        start = time.process_time()
        EXPERIMENTS[name](model, docs=docs, quick=arguments.quick)
        print(f"{name}: {time.process_time() - start:.0f} s of processor time, written below {docs}", flush=True)


if __name__ == "__main__":
    main()
