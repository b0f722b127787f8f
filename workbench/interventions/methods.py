"""Every steering method with a name of its own; what an artefact may hold."""

from workbench.interventions.ablation import DirectionalAblation
from workbench.interventions.actadd import ActAdd
from workbench.interventions.activation_scaling import ActivationScaling
from workbench.interventions.austeer import AUSteer
from workbench.interventions.base import Steering
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.cds import CriticalDimensionSteering
from workbench.interventions.dyn_scalar import DynScalar
from workbench.interventions.iti import ITI
from workbench.interventions.sadi import SADI
from workbench.interventions.steer_vec import SteerVec
from workbench.interventions.style_heads import HeadAblation, StyleHeads

METHODS: tuple[type[Steering], ...] = (
    CriticalDimensionSteering,
    ContrastiveAddition,
    AUSteer,
    ActAdd,
    DirectionalAblation,
    ITI,
    SADI,
    StyleHeads,
    HeadAblation,
    ActivationScaling,
    SteerVec,
    DynScalar,
)
