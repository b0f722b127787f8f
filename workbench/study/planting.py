"""What was planted beside what a study found: the answer sheet of a planted model."""

import pandas as pd

from workbench.masking.tables import orders
from workbench.planted import PlantedTruth
from workbench.study.stages import Findings


def planted_frame(truth: PlantedTruth, findings: Findings) -> pd.DataFrame:
    """One row per planted dimension and domain: its role, and what each part of the study makes of it.

    Dimensions without a domain of their own (everywhere, sink) have a row for every domain. `magnitude` and
    `discrimination` say whether the selection chose it there, `rank` where zero masking ranks it, `verdict` is empty
    where it was not judged.
    """
    chosen = {(dcd.domain, dcd.dimension, dcd.selection) for dcd in findings.dcds}
    verdicts = {(item.domain, item.dimension): item.verdict for item in findings.certainty.verdicts}
    ranked = orders(findings.masking)["zero"]
    rows = [
        {
            "domain": domain,
            "dimension": item.dimension,
            "role": item.role,
            "label": item.label,
            "needed": item.is_needed,
            "magnitude": (domain, item.dimension, "magnitude") in chosen,
            "discrimination": (domain, item.dimension, "discrimination") in chosen,
            "rank": ranked[domain].index(item.dimension) + 1,
            "verdict": verdicts.get((domain, item.dimension), ""),
        }
        for item in truth.planted
        for domain in ([item.domain] if item.domain else findings.statistics.domains)
        if domain in findings.statistics.domains
    ]
    return pd.DataFrame(rows)
