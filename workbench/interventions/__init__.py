"""Steering methods on one interface: frozen values with a delta, applied by `steer`."""

from workbench.interventions.ablation import (
    CandidateScore,
    DirectionalAblation,
    candidate_directions,
    refusal_scores,
    score_candidates,
    select_direction,
)
from workbench.interventions.actadd import ActAdd
from workbench.interventions.artefacts import load_steering
from workbench.interventions.austeer import AUSteer, rms_ratios
from workbench.interventions.base import (
    Artefact,
    Combination,
    ProbeLog,
    Scope,
    Steering,
    SteeringError,
    SteeringHandle,
    Strength,
    Where,
    save_steering,
    steer,
)
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.cds import CriticalDimensionSteering
from workbench.interventions.context import FitContext, FittingData
from workbench.interventions.contrast_prompts import (
    CCC_TEMPLATE,
    IOI_TEMPLATE,
    ContrastPrompt,
    builtin_items,
    ccc_items,
    ioi_items,
    read_items,
    same_length,
    usable_items,
)
from workbench.interventions.controls import (
    CONTROLS,
    PROMPT_ONLY,
    UNSTEERED,
    arm_named,
    arm_rank,
    every_card,
)
from workbench.interventions.head_scores import HeadScores, head_scores
from workbench.interventions.iti import ITI, HeadProbes, probe_heads
from workbench.interventions.methods import METHODS, MethodCard, Setting, method_named
from workbench.interventions.pairs import pairs_of
from workbench.interventions.sadi import SADI
from workbench.interventions.scaling import (
    ActivationScaling,
    DynScalar,
    Objective,
    ScalingReport,
    SteerVec,
    evaluate_scaling,
)
from workbench.interventions.style_data import PersonaExchanges, builtin_personas, persona_exchanges, read_exchanges
from workbench.interventions.style_heads import (
    Exchange,
    HeadAblation,
    LayerMap,
    PersonaActivations,
    StyleHeads,
    layer_map,
    persona_activations,
)
from workbench.interventions.style_positions import (
    POSITIONS,
    cumulative_ablations,
    heads_by_role,
    random_heads,
    steering_positions,
)
from workbench.interventions.unit_scores import (
    SignScores,
    UnitSelection,
    null_threshold,
    select_units,
    sign_consistency,
    unit_frame,
)

__all__ = [
    "CCC_TEMPLATE",
    "CONTROLS",
    "IOI_TEMPLATE",
    "ITI",
    "METHODS",
    "POSITIONS",
    "PROMPT_ONLY",
    "SADI",
    "UNSTEERED",
    "AUSteer",
    "ActAdd",
    "ActivationScaling",
    "Artefact",
    "CandidateScore",
    "Combination",
    "ContrastPrompt",
    "ContrastiveAddition",
    "CriticalDimensionSteering",
    "DirectionalAblation",
    "DynScalar",
    "Exchange",
    "FitContext",
    "FittingData",
    "HeadAblation",
    "HeadProbes",
    "HeadScores",
    "LayerMap",
    "MethodCard",
    "Objective",
    "PersonaActivations",
    "PersonaExchanges",
    "ProbeLog",
    "ScalingReport",
    "Scope",
    "Setting",
    "SignScores",
    "SteerVec",
    "Steering",
    "SteeringError",
    "SteeringHandle",
    "Strength",
    "StyleHeads",
    "UnitSelection",
    "Where",
    "arm_named",
    "arm_rank",
    "builtin_items",
    "builtin_personas",
    "candidate_directions",
    "ccc_items",
    "cumulative_ablations",
    "evaluate_scaling",
    "every_card",
    "head_scores",
    "heads_by_role",
    "ioi_items",
    "layer_map",
    "load_steering",
    "method_named",
    "null_threshold",
    "pairs_of",
    "persona_activations",
    "persona_exchanges",
    "probe_heads",
    "random_heads",
    "read_exchanges",
    "read_items",
    "refusal_scores",
    "rms_ratios",
    "same_length",
    "save_steering",
    "score_candidates",
    "select_direction",
    "select_units",
    "sign_consistency",
    "steer",
    "steering_positions",
    "unit_frame",
    "usable_items",
]
