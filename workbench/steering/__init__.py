"""Steering methods on one interface: frozen values with a delta, applied by `steer`."""

from workbench.steering._base import (
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
from workbench.steering._dials import DialItem, DialReport, Objective, evaluate_dial
from workbench.steering._pairs import pairs_of
from workbench.steering.ablation import (
    CandidateScore,
    DirectionalAblation,
    candidate_directions,
    refusal_scores,
    score_candidates,
    select_direction,
)
from workbench.steering.actadd import ActAdd
from workbench.steering.activation_scaling import ActivationScaling
from workbench.steering.artefacts import Artefact, load_steering, save_steering
from workbench.steering.austeer import AUSteer, rms_ratios
from workbench.steering.contrastive import ContrastiveAddition
from workbench.steering.critical import CriticalDimensionSteering
from workbench.steering.dial_items import (
    CCC_TEMPLATE,
    IOI_TEMPLATE,
    builtin_items,
    ccc_items,
    ioi_items,
    read_items,
    usable_items,
)
from workbench.steering.dyn_scalar import DynScalar
from workbench.steering.head_scores import HeadScores, head_scores
from workbench.steering.iti import ITI, HeadProbes, probe_heads
from workbench.steering.methods import METHODS
from workbench.steering.sadi import SADI
from workbench.steering.steer_vec import SteerVec
from workbench.steering.style_data import PersonaExchanges, builtin_personas, persona_exchanges, read_exchanges
from workbench.steering.style_heads import (
    Exchange,
    HeadAblation,
    LayerMap,
    PersonaActivations,
    StyleHeads,
    layer_map,
    persona_activations,
)
from workbench.steering.style_positions import (
    POSITIONS,
    cumulative_ablations,
    heads_by_role,
    random_heads,
    steering_positions,
)
from workbench.steering.unit_scores import (
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
