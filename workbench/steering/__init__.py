"""Steering methods on one interface: frozen values with a delta, applied by `steer`."""

from workbench.steering._base import (
    Combination,
    ProbeLog,
    Scope,
    Steering,
    SteeringError,
    SteeringHandle,
    Where,
    steer,
)
from workbench.steering._pairs import pairs_of
from workbench.steering.ablation import (
    CandidateScore,
    DirectionAddition,
    DirectionalAblation,
    candidate_directions,
    refusal_scores,
    score_candidates,
    select_direction,
)
from workbench.steering.actadd import ActAdd
from workbench.steering.artefacts import Artefact, load_steering, save_steering
from workbench.steering.austeer import (
    AUSteer,
    SignScores,
    UnitSelection,
    null_threshold,
    select_units,
    sign_consistency,
    unit_frame,
)
from workbench.steering.contrastive import ContrastiveAddition
from workbench.steering.critical import CriticalDimensionSteering
from workbench.steering.iti import ITI, HeadProbes, probe_heads
from workbench.steering.sadi import SADI

METHODS: tuple[type[Steering], ...] = (
    CriticalDimensionSteering,
    ContrastiveAddition,
    AUSteer,
    ActAdd,
    DirectionalAblation,
    DirectionAddition,
    ITI,
    SADI,
)

__all__ = [
    "ITI",
    "METHODS",
    "SADI",
    "AUSteer",
    "ActAdd",
    "Artefact",
    "CandidateScore",
    "Combination",
    "ContrastiveAddition",
    "CriticalDimensionSteering",
    "DirectionAddition",
    "DirectionalAblation",
    "HeadProbes",
    "ProbeLog",
    "Scope",
    "SignScores",
    "Steering",
    "SteeringError",
    "SteeringHandle",
    "UnitSelection",
    "Where",
    "candidate_directions",
    "load_steering",
    "null_threshold",
    "pairs_of",
    "probe_heads",
    "refusal_scores",
    "save_steering",
    "score_candidates",
    "select_direction",
    "select_units",
    "sign_consistency",
    "steer",
    "unit_frame",
]
