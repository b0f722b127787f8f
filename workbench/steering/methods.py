"""Every steering method with a name of its own; what an artefact may hold."""

from workbench.steering._base import Steering
from workbench.steering.ablation import DirectionalAblation
from workbench.steering.actadd import ActAdd
from workbench.steering.activation_scaling import ActivationScaling
from workbench.steering.austeer import AUSteer
from workbench.steering.contrastive import ContrastiveAddition
from workbench.steering.critical import CriticalDimensionSteering
from workbench.steering.dyn_scalar import DynScalar
from workbench.steering.iti import ITI
from workbench.steering.sadi import SADI
from workbench.steering.steer_vec import SteerVec
from workbench.steering.style_heads import HeadAblation, StyleHeads

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
