"""Speed and memory of the path on an idle machine: `python -m benchmarks.speed --out benchmarks/results/speed.json`.

Three measurements on one model: the statistics pass against the bare Hugging Face forward on the same batches, peak
memory at ten times the rows, and steered cached generation against unsteered and against plain Hugging Face. Each
ratio is the median over repetitions, run in turn so that a change of clock speed hits both sides; the spread stands
beside it.
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

import torch
from transformers import AutoModelForCausalLM

from workbench.activations import collect
from workbench.corpus import load_corpus
from workbench.models import HookedModel, load_model
from workbench.records import Prompt, Tokens
from workbench.steering import ContrastiveAddition, steer

ROW, BATCH = 128, 32
REPETITIONS = 3


def rows_of(model: HookedModel, n_rows: int) -> list[Prompt]:
    """Rows of exactly `ROW` tokens with BOS, cut from the built-in passages, as prompts of seven domains."""
    prompts, by_domain = load_corpus("builtin"), {}
    for prompt in prompts:
        ids = model.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
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
    """Median seconds of both, and median and range of the ratio second / first over alternating repetitions."""
    first(), second()
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
    """The whole statistics pass (hooks at every block output, float64 moments, top-20 tokens, pooled rows)."""
    prompts = rows_of(model, n_rows)
    plain = AutoModelForCausalLM.from_pretrained(
        folder_of(name), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenised = [
        model.tokenize([prompt.text for prompt in prompts[start : start + BATCH]], truncate=True)
        for start in range(0, n_rows, BATCH)
    ]

    def bare(forward: Callable[..., object]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for tokens in tokenised:
                    forward(tokens.ids, attention_mask=tokens.mask.long(), use_cache=False)

        return work

    def full() -> None:
        collect(model, prompts, batch_size=BATCH)

    return {
        "rows": n_rows,
        "tokens": sum(int(tokens.mask.sum()) for tokens in tokenised),
        "against_bare_forward": compare(bare(plain), full),
        "against_forward_without_head": compare(bare(plain.base_model), full),
    }


def peak_memory(name: str, n_rows: int) -> int:
    """Peak resident bytes of a fresh process that collects statistics of `n_rows` rows, pooled rows on disk."""
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
    plain = AutoModelForCausalLM.from_pretrained(
        folder_of(name), dtype=torch.float32, attn_implementation="eager"
    ).eval()
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


def folder_of(name: str) -> str:
    from workbench.models.loading import find_model

    return find_model(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    small, large = arguments.rows // 8, 10 * (arguments.rows // 8)
    low, high = peak_memory(arguments.model, small), peak_memory(arguments.model, large)
    result = {
        "model": model.name,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "statistics": statistics_pass(model, arguments.model, arguments.rows),
        "memory": {"rows": [small, large], "peak_bytes": [low, high], "ratio": high / low},
        "generation": generation(model, arguments.model),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
