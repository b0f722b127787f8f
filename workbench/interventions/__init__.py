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
from workbench.interventions.activation_scaling import ActivationScaling
from workbench.interventions.artefacts import Artefact, load_steering, save_steering
from workbench.interventions.austeer import AUSteer, rms_ratios
from workbench.interventions.base import (
    Combination,
    ProbeLog,
    Scope,
    Steering,
    SteeringError,
    SteeringHandle,
    Strength,
    Where,
    steer,
)
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.cds import CriticalDimensionSteering
from workbench.interventions.dial_items import (
    CCC_TEMPLATE,
    IOI_TEMPLATE,
    builtin_items,
    ccc_items,
    ioi_items,
    read_items,
    usable_items,
)
from workbench.interventions.dyn_scalar import DynScalar
from workbench.interventions.head_scores import HeadScores, head_scores
from workbench.interventions.iti import ITI, HeadProbes, probe_heads
from workbench.interventions.learned_scaling import DialItem, DialReport, Objective, evaluate_dial
from workbench.interventions.methods import METHODS
from workbench.interventions.pairs import pairs_of
from workbench.interventions.sadi import SADI
from workbench.interventions.steer_vec import SteerVec
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
    "IOI_TEMPLATE",
    "ITI",
    "METHODS",
    "POSITIONS",
    "SADI",
    "AUSteer",
    "ActAdd",
    "ActivationScaling",
    "Artefact",
    "CandidateScore",
    "Combination",
    "ContrastiveAddition",
    "CriticalDimensionSteering",
    "DialItem",
    "DialReport",
    "DirectionalAblation",
    "DynScalar",
    "Exchange",
    "HeadAblation",
    "HeadProbes",
    "HeadScores",
    "LayerMap",
    "Objective",
    "PersonaActivations",
    "PersonaExchanges",
    "ProbeLog",
    "Scope",
    "SignScores",
    "SteerVec",
    "Steering",
    "SteeringError",
    "SteeringHandle",
    "Strength",
    "StyleHeads",
    "UnitSelection",
    "Where",
    "builtin_items",
    "builtin_personas",
    "candidate_directions",
    "ccc_items",
    "cumulative_ablations",
    "evaluate_dial",
    "head_scores",
    "heads_by_role",
    "ioi_items",
    "layer_map",
    "load_steering",
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
