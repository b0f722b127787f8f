"""Write the model card from what was measured: `python -m training.card`.

Figures come from `evaluation.json`, the cost of training from the checkpoint's `state.json` and `log.jsonl`, the text
from `manifest.json`. Where a bar is missed, the reason has to be given in words, in the file named by `--remarks`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from training.generator import DOMAINS
from training.hashes import hashes_of
from training.prepare import VOCABULARY_SIZE
from training.train import GENERATED_SHARE, ROW, Recipe, new_model

SOURCES = """\
| domain | text | licence |
|---|---|---|
| mathematics | DeepMind mathematics generator | Apache-2.0 |
| | GSM8K (training part) | MIT |
| | OpenStax algebra and prealgebra | CC BY 4.0 |
| biology | OpenStax microbiology, anatomy; MedQuAD | CC BY 4.0 |
| | PubMedQA contexts | MIT |
| law | District of Columbia Code | government edict |
| code | CPython 3.11 standard library | PSF |
| physics | OpenStax university physics, college physics, astronomy, chemistry | CC BY 4.0 |
| literature | English novels first published before 1930, and fairy tales | public domain |
| humanities | OpenStax history, psychology, philosophy, economics | CC BY 4.0 |
| | World Factbook | public domain |
| generated | this project's own generator (`training/generator.py` with its tables) | MIT |

OpenStax books are by their authors and Rice University, under CC BY 4.0, changed here only by cutting them into plain
text. Access for free at openstax.org.
"""

INTENDED_USE = """\
## Intended use

To try interpretability methods on a machine without accelerator, account or download: finding and labelling residual
dimensions, steering, masking, head studies. The behaviours below were put in on purpose, so that methods have something
real to find. The test sets in `workbench/builtin/behaviours/` hold prompts, answers and splits in phrasings that
training never contained.

It is **not** a source of knowledge, advice or text. What it says about law, medicine or anything else is worthless. Its
"refusals" decline to explain magic tricks and say nothing about the safety of real systems. Results on it are results
on a tiny model: whether they hold on a large one has to be shown there.

## Limits

* English only, {parameters:,} parameters, {vocabulary:,} tokens of vocabulary, digits as single tokens.
* Its context is {row} tokens, the length of the rows it was trained on.
* Facts are those of the tables in `training/facts/`; each is taught in a handful of sentence patterns.
* Longer free text soon repeats itself or loses its thread.
"""


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def bar_table(bars: list[dict[str, Any]]) -> str:
    """What had to be reached and what was reached."""
    lines = ["| bar | required | reached (95 % interval) | n | |", "|---|---|---|---|---|"]
    for row in bars:
        interval = f" ({percent(row['low'])} to {percent(row['high'])})" if "low" in row else ""
        verdict = "met" if row["met"] else "**missed**"
        n = row.get("n", "")
        lines.append(f"| {row['name']} | {percent(row['bar'])} | {percent(row['value'])}{interval} | {n} | {verdict} |")
    return "\n".join(lines)


def loss_table(loss: dict[str, Any]) -> str:
    lines = [
        "| domain | model | trigram of all domains | difference | trigram of this domain | difference |",
        "|---|---|---|---|---|---|",
    ]
    for domain in DOMAINS:
        row = loss["domains"][domain]
        first = f"{row['model']:.3f} | {row['trigram']:.3f} | {percent(-row['reduction'])}"
        lines.append(
            f"| {domain} | {first} | {row['trigram_of_domain']:.3f} | {percent(-row['reduction_of_domain'])} |"
        )
    own = percent(-loss["reduction_of_domain"])
    lines.append(f"| mean | | | {percent(-loss['reduction'])} | | {own} |")
    return "\n".join(lines)


def behaviour_table(behaviours: dict[str, Any]) -> str:
    """Every kind of every set; `likelier` = the answer is more likely than every distractor."""
    lines = ["| set | kind | right (95 % interval) | n | likelier | mean log-odds |", "|---|---|---|---|---|---|"]
    for name, kinds in behaviours.items():
        for kind, share in kinds.items():
            value = f"{percent(share['value'])} ({percent(share['low'])} to {percent(share['high'])})"
            likelier, odds = "", ""
            if share["log_odds"] is not None:
                likelier, odds = percent(share["n_likelier"] / share["n"]), f"{share['log_odds']:.2f}"
            lines.append(f"| {name} | {kind} | {value} | {share['n']} | {likelier} | {odds} |")
    return "\n".join(lines)


def dimension_table(dimensions: dict[str, Any]) -> str:
    lines = [
        "| domain | largest (frequency here, elsewhere) | discriminative (frequency here, elsewhere) |",
        "|---|---|---|",
    ]

    def cell(rows: list[dict[str, Any]]) -> str:
        told = [f"{row['dimension']} ({row['frequency']:.2f}, {row['frequency_elsewhere']:.2f})" for row in rows[:4]]
        return ", ".join(told) if told else "none"

    for domain in DOMAINS:
        lines.append(
            f"| {domain} | {cell(dimensions[domain]['largest'])} | {cell(dimensions[domain]['discriminative'])} |"
        )
    return "\n".join(lines)


def magnitude_table(magnitudes: list[dict[str, Any]]) -> str:
    lines = [
        "| layer | first token | its median | mean over other tokens | their median | largest |",
        "|---|---|---|---|---|---|",
    ]

    def cell(values: dict[str, float]) -> str:
        return ", ".join(f"{dimension}: {value:.1f}" for dimension, value in values.items())

    for row in magnitudes:
        first = f"{cell(row['first_token'])} | {row['first_token_median']:.2f}"
        rest = f"{cell(row['mean_magnitude'])} | {row['median_magnitude']:.2f} | {row['largest_magnitude']:.1f}"
        lines.append(f"| {row['layer']} | {first} | {rest} |")
    return "\n".join(lines)


def training_text(state: dict[str, Any], last_rate: float, manifest: dict[str, Any], parameters: int) -> str:
    recipe = Recipe(tokens=state["tokens"])
    counts = {name.removesuffix(".train"): n for name, n in manifest["tokens"].items() if name.endswith(".train")}
    shares = [GENERATED_SHARE if name == "generated" else (1 - GENERATED_SHARE) / len(DOMAINS) for name in counts]
    passes = [share * state["tokens"] / n for share, n in zip(shares, counts.values(), strict=True)]
    seen = ", ".join(f"{name} {times:.1f}" for name, times in zip(counts, passes, strict=True))
    hashes = "\n".join(f"| {name} | `{value}` |" for name, value in manifest["text_sha256"].items())
    return f"""\
## Training

From scratch, on {state["tokens"] / 1e6:.1f} million tokens in {state["step"]:,} steps of {recipe.rows_per_step} rows
of {ROW} tokens, each row beginning with BOS; {state["seconds"] / 3600:.1f} hours of wall time on a machine that was
also doing other work; about {6 * parameters * state["tokens"]:.1e} floating-point operations. AdamW (rate
{recipe.rate}, betas {recipe.betas[0]} and {recipe.betas[1]}, weight decay {recipe.weight_decay} on matrices, warm-up
over {recipe.warm_up_tokens:,} tokens, constant, linear decay over the last {percent(recipe.decay_share)} of the run
down to {last_rate:.1e}, gradients clipped at {recipe.clip}), bf16 autocast. AdamW is coordinate-wise, which gives the
residual stream its privileged axes.
Each row comes from the generated text with probability {GENERATED_SHARE}, otherwise from one of the seven domains with
equal probability. Passes over the text: {seen}.

{SOURCES}
Hashes (sha256) of the texts:

| text | sha256 |
|---|---|
{hashes}
"""


def card(evaluation: dict[str, Any], training: str, remarks: str) -> str:
    """The whole card; `training` is the part on text and cost, `remarks` says why bars were missed."""
    config, parameters = new_model(seed=0).config, n_parameters()
    limits = INTENDED_USE.format(parameters=parameters, vocabulary=VOCABULARY_SIZE, row=ROW)
    tokens = evaluation["sample"]["tokens_per_domain"]
    return f"""\
# Model card: the built-in model

A Llama-shaped decoder (RMSNorm, no bias terms, tied embedding) with {parameters:,} parameters:
{config.num_hidden_layers} layers, d_model {config.hidden_size}, {config.num_attention_heads} heads, \
{config.num_key_value_heads} key-value heads, d_mlp {config.intermediate_size};
byte-level BPE tokenizer with a BOS marker and chat markers; bfloat16. Made by this project (`training/`), MIT licence.
Every figure here was written by `python -m training.evaluate`.

{limits}
## What it reaches

{bar_table(evaluation["bars"])}

{remarks}
"All domains" means one interpolated trigram model that, like this model, learned from all seven domains. Behaviour
is measured greedily on held-out phrasings; the exam by the likelihood of the answer text among four.

### Loss on held-out text

Nats per token on the same {tokens:,} tokens per domain.

{loss_table(evaluation["loss"])}

### Behaviours

{behaviour_table(evaluation["behaviours"])}

### Dimensions

Under the default reading: magnitude averaged over layers and over the tokens after the first, active = over 3 standard
deviations above the mean of the {config.hidden_size} dimensions; discriminative = frequency more than 30 points from
the mean of the other domains. Rows of {ROW} tokens of held-out text.

{dimension_table(evaluation["dimensions"])}

Magnitudes per layer, in activation units (dimension: value):

{magnitude_table(evaluation["magnitudes"])}

{training}"""


def n_parameters() -> int:
    return sum(parameter.numel() for parameter in new_model(seed=0).parameters())


def write_card(evaluation: Path, checkpoint: Path, data: Path, model: Path, remarks: Path, out: Path) -> None:
    """Write the card; raises if the evaluation is of other files, or a bar was missed and nobody says why."""
    measured = json.loads(evaluation.read_text(encoding="utf-8"))
    if measured["files"] != hashes_of(model):
        raise ValueError(f"{evaluation} measured other files than those in {model}; run training.evaluate on it first")
    missed = [row["name"] for row in measured["bars"] if not row["met"]]
    if missed and not remarks.exists():
        raise ValueError(f"bars were missed ({', '.join(missed)}); write into {remarks} why, then write the card")
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    log = (checkpoint / "log.jsonl").read_text(encoding="utf-8").splitlines()
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    training = training_text(state, json.loads(log[-1])["rate"], manifest, n_parameters())
    said = f"Why bars were missed: {remarks.read_text(encoding='utf-8').strip()}\n" if missed else ""
    out.write_text(card(measured, training, said), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--evaluation", type=Path, default=Path("runs/training/evaluation.json"))
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/training/model"), help="what train wrote")
    parser.add_argument("--data", type=Path, default=Path("runs/training"), help="what prepare wrote")
    parser.add_argument("--model", type=Path, default=Path("workbench/builtin/model"), help="the folder that ships")
    parser.add_argument("--remarks", type=Path, default=Path("training/remarks.md"), help="why bars were missed")
    parser.add_argument("--out", type=Path, default=Path("workbench/builtin/MODEL_CARD.md"))
    given = parser.parse_args()
    write_card(given.evaluation, given.checkpoint, given.data, given.model, given.remarks, given.out)
