"""What four papers claim, and what the built-in model shows: `python -m experiments.claims`.

One comparison at one KL level, in the resumable folder `runs/claims`; from its tables `docs/claims.json` and
`docs/claims.md` are written, and the table between the markers in README.md where it has them. `--quick` takes fewer
items, layers and domains, in `runs/claims-quick`, and says so on the page; `--finished` runs nothing and writes what
is there.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from scipy import stats

from workbench.comparison.api import prepare_spec
from workbench.comparison.run import run_comparison, tabulate_run
from workbench.comparison.spec import BudgetSpec, SizeSpec, Spec, TaskSpec
from workbench.comparison.store import open_store
from workbench.comparison.tables import Outcomes
from workbench.corpus import neutral_prompts
from workbench.records import Contrast
from workbench.tasks.catalogue import BUILTIN_DOMAINS

ROOT = Path(__file__).parents[1]
COMMAND = "python -m experiments.claims"
KL = 0.1
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
CDS, AUSTEER, HEADS, SCALING = "2603.00029", "2602.04428", "2603.13249", "2410.04962"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, with the comparison that bears on it: `arm` better than `against` on `task`.

    Where `task` names several tasks ("domain-loss"), the claim is about the number of domains. `reported` is what the
    paper reports, as far as it is known to us. `is_equality`: the claim is that `arm` is no worse, which a difference
    that is not shown does not prove.
    """

    paper: str
    statement: str
    reported: str
    arm: str
    against: str
    task: str
    is_equality: bool = False


@dataclass(frozen=True)
class Row:
    """A claim with what was measured; `verdict` begins with "shown", "not shown" or "not measured"."""

    paper: str
    statement: str
    reported: str
    measured: str
    interval: str
    n: int
    verdict: str
    command: str


CLAIMS = (
    Claim(
        CDS,
        "Steering the domain-critical dimensions beats steering all of them",
        "34 of 57 subjects",
        "cds",
        "whole-dimension",
        "domain-loss",
    ),
    Claim(
        CDS,
        "The chosen dimensions matter: they beat random ones",
        "not known to us",
        "cds",
        "random-k",
        "domain-loss",
    ),
    Claim(
        CDS,
        "Jailbreak: critical dimensions beat all of them",
        "success 92 % against 84 %",
        "cds",
        "whole-dimension",
        "refusal/away",
    ),
    Claim(
        AUSTEER,
        "Scaling atomic units raises accuracy",
        "+5.3 points on average (Llama 2)",
        "austeer",
        "unsteered",
        "choices/yes_no+two_way",
    ),
    Claim(
        AUSTEER,
        "Sign consistency beats ranking by mean difference (SADI)",
        "+1.9 points (Llama 2)",
        "austeer",
        "sadi-mlp",
        "choices/yes_no+two_way",
    ),
    Claim(
        HEADS,
        "A few heads give a better persona for the damage than the residual stream",
        "in words only",
        "style-heads",
        "whole-dimension",
        "persona/pirate",
    ),
    Claim(
        SCALING,
        "Learned scalars switch between context and knowledge",
        "in words only",
        "dyn-scalar",
        "unsteered",
        "facts/ccc-context",
    ),
    Claim(
        SCALING,
        "They do so about as well as vectors",
        "in words only",
        "dyn-scalar",
        "whole-dimension",
        "facts/ccc-context",
        is_equality=True,
    ),
)


def claims_spec(*, quick: bool) -> Spec:
    """The comparison behind the table."""
    domains = BUILTIN_DOMAINS[1:4] if quick else BUILTIN_DOMAINS
    tasks = (
        TaskSpec("domain-loss", domains=domains),
        TaskSpec("refusal", about="away"),
        TaskSpec("choices"),
        TaskSpec("persona", about="pirate"),
        TaskSpec("facts", about="ccc-context"),
    )
    sizes = SizeSpec(n_tune=20, n_test=60, n_fit=64, n_layers=3, curves=False)
    if quick:
        sizes = dataclasses.replace(sizes, n_neutral=6, n_tune=8, n_test=24, n_fit=32, n_layers=2)
    methods = ("cds", "whole-dimension", "austeer", "sadi-mlp", "style-heads", "dyn-scalar")
    name = "claims-quick" if quick else "claims"
    return Spec(name, methods, tasks, budgets=BudgetSpec(kl=(KL,), at_kl=KL), sizes=sizes)


def rows_of(outcomes: Outcomes, command: str) -> list[Row]:
    """Every claim with its evidence."""
    return [_row(claim, outcomes, command) for claim in CLAIMS]


def _row(claim: Claim, outcomes: Outcomes, command: str) -> Row:
    head = (claim.paper, claim.statement, claim.reported)
    if "/" not in claim.task:
        return Row(*head, *_counted(claim, outcomes.frames["domains"]), command)
    found = [
        one
        for one in outcomes.contrasts
        if (one.arm, one.against, one.task, one.budget) == (claim.arm, claim.against, claim.task, "kl")
        and one.is_primary
    ]
    if not found or found[0].verdict == "not measured":
        why = found[0].note if found else "its cells are not finished, or the arm does not run on this task"
        return Row(*head, "–", "–", 0, f"not measured: {why}", command)
    return Row(*head, *_compared(found[0], is_equality=claim.is_equality), command)


def _compared(one: Contrast, *, is_equality: bool) -> tuple[str, str, int, str]:
    measured = f"{one.arm} − {one.against} on {one.task}, {one.metric}: {one.effect:+.3g} {one.unit}"
    interval = f"{one.low:+.3g} to {one.high:+.3g}"
    if one.low == one.high == 0:
        return measured, interval, one.n, "not shown (no item differs)"
    words = {
        "better": "shown",
        "worse": "not shown: the opposite is",
        "no difference shown": f"not shown (minimum detectable difference {one.minimum_detectable_effect:.2g})",
    }
    if is_equality and one.verdict == "no difference shown":
        return measured, interval, one.n, f"not shown (equal to within {max(abs(one.low), abs(one.high)):.2g} at best)"
    return measured, interval, one.n, words[one.verdict]


def _counted(claim: Claim, frame: pd.DataFrame) -> tuple[str, str, int, str]:
    own = frame[(frame.task == claim.task) & (frame.arm == claim.arm) & (frame.against == claim.against)]
    if own.empty:
        return "–", "–", 0, "not measured: fewer than two domains could be compared"
    row = own.iloc[0]
    ahead, behind, n = int(row.ahead), int(row.behind), int(row.n_domains)
    interval = stats.binomtest(ahead, max(ahead + behind, 1)).proportion_ci()
    measured = (
        f"{claim.arm} ahead of {claim.against} in {ahead} of {n} domains on {row.metric} "
        f"(shown better in {row.better}, worse in {row.worse}; sign test p = {row.p:.2g})"
    )
    is_shown, is_opposite = row.p <= 0.05 and ahead > behind, row.p <= 0.05 and ahead < behind
    smallest = min((k for k in range(n + 1) if stats.binomtest(k, n).pvalue <= 0.05 and 2 * k > n), default=None)
    least = "no count of so few domains could show it" if smallest is None else f"{smallest} of {n} would show it"
    verdict = "shown" if is_shown else "not shown: the opposite is" if is_opposite else f"not shown ({least})"
    return measured, f"share {interval.low:.2f} to {interval.high:.2f}", n, verdict


# --- pages ------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    heads = ["paper", "claim", "reported there", "measured here", "95 % interval", "n", "on this model", "command"]
    lines = [heads, ["---"] * len(heads)]
    lines += [
        [
            f"arXiv {r.paper}",
            r.statement,
            r.reported,
            r.measured,
            r.interval,
            str(r.n),
            f"**{r.verdict}**",
            f"`{r.command}`",
        ]
        for r in rows
    ]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def page(rows: Sequence[Row], spec: Spec, fingerprint: str, n_done: int, n_cells: int) -> str:
    """The page `docs/claims.md`."""
    unfinished = "" if n_done == n_cells else f" The run is not finished: {n_done} of {n_cells} cells are."
    counts = [sum(row.verdict.startswith(word) for row in rows) for word in ("shown", "not shown", "not measured")]
    sizes = spec.sizes
    return f"""# What the papers claim, and what the built-in model shows

Written by `{rows[0].command}` from its results (`docs/claims.json`); nothing here is typed by hand. Of {len(rows)}
claims, {counts[0]} are shown on this model, {counts[1]} are not, and {counts[2]} could not be measured.{unfinished}

All arms act at the same KL to the unsteered model ({spec.budgets.kl[0]:g} nats per token of neutral text), with
{sizes.n_layers} settings each to choose from on {sizes.n_tune} tuning items; up to {sizes.n_test} test items are read
once. Intervals are paired bootstraps over subjects, verdicts hold at an adjusted p of 0.05. "Not shown" is a statement
about this model and these items: it is small (6 layers), and what holds for a large model need not show here. The
papers' own numbers stand beside it as far as they are known to us.

{table(rows)}

Not in the table: that masking single dimensions destroys accuracy (arXiv 2603.00029) is measured by `workbench mask`,
with its own controls; further results of every method are in `docs/methods/`.

Model: built-in, fingerprint {fingerprint}. Specification {spec.name}, digest {spec.digest}.
"""


def replace_marked(path: Path, text: str) -> bool:
    """Put a text between the markers of a file; False where the file has none."""
    content = path.read_text(encoding="utf-8")
    if BEGIN not in content or END not in content:
        return False
    before, rest = content.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the table of claims from a comparison on the built-in model.")
    parser.add_argument("--quick", action="store_true", help="fewer items, layers and domains")
    parser.add_argument("--finished", action="store_true", help="run nothing, write what is finished")
    given = parser.parse_args(arguments)
    quick = given.quick
    spec = claims_spec(quick=quick)
    prepared = prepare_spec(spec)

    def say(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            print(f"{done} of {total} cells", flush=True)

    folder = ROOT / "runs" / spec.name
    fingerprint = prepared.model.fingerprint
    store = open_store(folder, spec, fingerprint)
    if given.finished:
        outcomes = tabulate_run(prepared, store)
    else:
        outcomes = run_comparison(prepared, folder, neutral_prompts(), progress=say)
    flags = " --quick" if quick else ""
    rows = rows_of(outcomes, f"{COMMAND}{flags}")
    n_done, n_cells = sum(key in store for key in prepared.plan.cells), len(prepared.plan.cells)
    content = {"command": rows[0].command, "fingerprint": fingerprint, "digest": spec.digest}
    content |= {"rows": [asdict(row) for row in rows]}
    (ROOT / "docs" / "claims.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (ROOT / "docs" / "claims.md").write_text(page(rows, spec, fingerprint, n_done, n_cells), encoding="utf-8")
    is_in_readme = replace_marked(ROOT / "README.md", table(rows))
    print(f"wrote docs/claims.md and docs/claims.json{', and the table in README.md' if is_in_readme else ''}")


if __name__ == "__main__":
    main()
