"""Speed and memory of the path on an idle machine: `python -m benchmarks.speed` -> benchmarks/results/speed.json.

Three measurements on one model: the statistics pass against the bare Hugging Face forward on the same batches, peak
memory at ten times the rows, and steered cached generation against unsteered and against plain Hugging Face. Both sides
run in turn, batch by batch or call by call, so that a change of clock speed hits both; the spread stands beside each
ratio. About three minutes on two cores.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from workbench.activations import batches, collect
from workbench.corpus import BUILTIN_DOMAINS, load_corpus
from workbench.interventions import ContrastiveAddition, steer
from workbench.models import HookedModel, load_model
from workbench.records import Prompt, Tokens

ROW, BATCH = 128, 32
REPETITIONS = 3


def rows_of(model: HookedModel, n_rows: int) -> list[Prompt]:
    """Rows of exactly `ROW` tokens with BOS, cut from the built-in passages, as prompts of seven domains."""
    prompts, by_domain = load_corpus("builtin"), {}
    for prompt in prompts:
        ids = model.text.ids(prompt.text)
        by_domain.setdefault(prompt.domain, []).extend(ids)
    rows = []
    for index in range(n_rows):
        domain = list(by_domain)[index % len(by_domain)]
        pool = by_domain[domain]
        start = (index * 37) % (len(pool) - ROW)
        text = model.decode(pool[start : start + ROW - 1])
        rows.append(Prompt(text, domain, f"{domain}/{index}", "identify"))
    return rows


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(first: Callable[[], object], second: Callable[[], object]) -> dict[str, float]:
    """Median seconds of both, and median and range of the ratio second / first, over calls in turn."""
    first()
    second()
    pairs = [(seconds(first), seconds(second)) for _ in range(REPETITIONS)]
    ratios = sorted(b / a for a, b in pairs)
    return {
        "first_seconds": statistics.median(a for a, _ in pairs),
        "second_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }


def statistics_pass(model: HookedModel, name: str, n_rows: int) -> dict[str, object]:
    """The whole statistics pass (hooks at every block output, float64 moments, top-20 tokens, pooled rows).

    After each of its batches the bare forward runs on the same batch, with the language-model head and without; the
    pass is charged with all that is left, tokenizing and its result included.
    """
    prompts = rows_of(model, n_rows)
    plain = plain_model(name)
    tokenised = [tokens for _, tokens in batches(model, prompts, batch_size=BATCH, truncate=True)]
    forwards = {"against_bare_forward": plain, "against_forward_without_head": plain.base_model}
    bare: dict[str, list[float]] = {key: [] for key in forwards}
    marks: list[tuple[float, float]] = []
    todo = iter(tokenised)

    def after_batch(done: int, total: int) -> None:
        start, tokens = time.perf_counter(), next(todo)
        for key, forward in forwards.items():
            bare[key].append(forward_seconds(forward, tokens))
        marks.append((start, time.perf_counter()))

    collect(model, prompts[:BATCH], batch_size=BATCH, truncate=True)  # to warm up, as below
    for forward in forwards.values():
        forward_seconds(forward, tokenised[0])
    begun = time.perf_counter()
    collect(model, prompts, batch_size=BATCH, truncate=True, progress=after_batch)
    ended = time.perf_counter()
    starts, ends = [start for start, _ in marks] + [ended], [begun] + [end for _, end in marks]
    own = [start - end for start, end in zip(starts, ends, strict=True)]  # per batch, and the rest after the last
    found: dict[str, object] = {"rows": n_rows, "tokens": sum(int(tokens.mask.sum()) for tokens in tokenised)}
    return found | {key: ratio_of(own, of_batch) for key, of_batch in bare.items()}


def forward_seconds(forward: Callable[..., object], tokens: Tokens) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        forward(tokens.ids, attention_mask=tokens.mask.long(), use_cache=False)
    return time.perf_counter() - start


def ratio_of(own: list[float], bare: list[float]) -> dict[str, float]:
    """Ratio of the sums, and the central 95 % of that ratio over batches drawn anew; what comes last has no batch."""
    pairs, rest = np.array(list(zip(own, bare, strict=False))), own[-1]
    drawn = pairs[np.random.default_rng(0).integers(len(pairs), size=(1000, len(pairs)))].sum(axis=1)
    low, high = np.quantile((drawn[:, 0] + rest) / drawn[:, 1], [0.025, 0.975])
    return {
        "first_seconds": sum(bare),
        "second_seconds": sum(own),
        "ratio": sum(own) / sum(bare),
        "ratio_low": float(low),
        "ratio_high": float(high),
    }


def peak_memory(name: str, n_rows: int) -> int:
    """Peak resident bytes of a fresh process that collects statistics of `n_rows` rows, pooled rows on disk.

    Working memory is one batch. A batch holds one domain, so that fewer rows than domains times `BATCH` fill none, and
    their peak says nothing about the size of the corpus.
    """
    code = f"from benchmarks.speed import collect_once; collect_once({name!r}, {n_rows})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(output.split()[-1])


def collect_once(name: str, n_rows: int) -> None:
    model = load_model(name)
    with tempfile.TemporaryDirectory() as folder:
        collect(model, rows_of(model, n_rows), batch_size=BATCH, rows_path=Path(folder) / "rows.npy")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def generation(model: HookedModel, name: str) -> dict[str, object]:
    """Cached generation of 64 tokens for 8 prompts: unsteered, steered at one layer, and plain Hugging Face."""
    plain = plain_model(name)
    plain.generation_config.eos_token_id = None
    model.hf_model.generation_config.eos_token_id = -1
    tokens: Tokens = model.tokenize(
        [f"The {word} of the" for word in "law sum cell code war sea king field".split()], side="left"
    )
    steering = ContrastiveAddition(0.01 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), 2)

    def unsteered() -> None:
        model.generate(tokens, max_new_tokens=64)

    def steered() -> None:
        with steer(model, steering, 1.0):
            model.generate(tokens, max_new_tokens=64)

    def plain_generate() -> None:
        with torch.inference_mode():
            plain.generate(tokens.ids, attention_mask=tokens.mask.long(), max_new_tokens=64, do_sample=False)

    return {
        "steered_against_unsteered": compare(unsteered, steered),
        "steered_against_plain_hugging_face": compare(plain_generate, steered),
    }


def plain_model(name: str) -> Any:
    """The same weights as Hugging Face has them."""
    from workbench.models.loading import find_model

    folder = find_model(name)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    small = len(BUILTIN_DOMAINS) * BATCH
    low, high = peak_memory(arguments.model, small), peak_memory(arguments.model, 10 * small)
    result = {
        "model": model.name,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "statistics": statistics_pass(model, arguments.model, arguments.rows),
        "memory": {"rows": [small, 10 * small], "peak_bytes": [low, high], "ratio": high / low},
        "generation": generation(model, arguments.model),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
