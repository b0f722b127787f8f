"""What is loaded when: the records that a corpus is made of need no torch, so that its mistakes are found at once."""

import subprocess
import sys


def test_a_corpus_is_read_without_torch() -> None:
    script = "import sys, workbench.corpus as c; c.neutral_prompts(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "workbench.records.text" in loaded
    assert not set(loaded) & {"torch", "numpy", "pandas", "transformers"}
