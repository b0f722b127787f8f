"""Find, label and steer domain-critical dimensions of language models.

The public names are loaded when they are first used, so that `import workbench` and `workbench --help` stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Activations": "records",
    "Comparison": "records",
    "Detector": "records",
    "Dimension": "records",
    "DimensionStatistics": "records",
    "Pair": "records",
    "PooledRows": "records",
    "Prompt": "records",
    "Site": "records",
    "TokenColumns": "records",
    "Tokens": "records",
    "load_corpus": "corpus",
    "load_pairs": "corpus",
    "neutral_prompts": "corpus",
    "HookedModel": "models",
    "load_model": "models",
    "collect": "activations",
    "collect_columns": "activations",
    "stream": "activations",
    "dcd_frame": "dimensions",
    "find_dcds": "dimensions",
    "join_rows": "dimensions",
    "merge": "dimensions",
    "shift_prompts": "dimensions",
    "detector_frame": "dimensions.detectors",
    "find_detectors": "dimensions.detectors",
    "ContrastiveAddition": "interventions",
    "AUSteer": "interventions",
    "ActAdd": "interventions",
    "ActivationScaling": "interventions",
    "Combination": "interventions",
    "DirectionalAblation": "interventions",
    "DynScalar": "interventions",
    "ITI": "interventions",
    "SADI": "interventions",
    "Scope": "interventions",
    "SteerVec": "interventions",
    "StyleHeads": "interventions",
    "CriticalDimensionSteering": "interventions",
    "Steering": "interventions",
    "load_steering": "interventions",
    "save_steering": "interventions",
    "steer": "interventions",
    "criticality_tables": "masking.tables",
    "load_criticality": "masking.tables",
    "planted_model": "planted",
    "estimate_masking": "masking.attribution",
    "mask_choices": "masking.measure",
    "mask_dimensions": "masking.measure",
    "measure_criticality": "masking.experiment",
    "compare_steering": "comparison",
    "contexts_html": "figures",
    "drop_figure": "figures.masking",
    "evaluate_harness": "harness",
    "frequency_figure": "figures",
    "magnitude_drop_figure": "figures.masking",
    "magnitude_figure": "figures",
    "overlap_figure": "figures.masking",
    "profile_figure": "figures",
    "recall_figure": "figures.masking",
    "trade_off_figure": "figures",
    "write_report": "report",
    "find_verdicts": "dimensions",
    "verdict_frame": "dimensions",
    "selection_stability": "dimensions",
    "reading_agreement": "dimensions",
    "score_labels": "dimensions.labels",
    "set_massive": "interventions.mask",
    "compare_bases": "comparison.rotations",
    "run_study": "study",
    "explore": "explorer.widget",
}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    value = getattr(import_module(f"workbench.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
