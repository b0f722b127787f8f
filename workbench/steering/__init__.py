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
from workbench.steering.artefacts import Artefact, load_steering, save_steering
from workbench.steering.contrastive import ContrastiveAddition
from workbench.steering.critical import CriticalDimensionSteering

METHODS: tuple[type[Steering], ...] = (CriticalDimensionSteering, ContrastiveAddition)

__all__ = [
    "METHODS",
    "Artefact",
    "Combination",
    "ContrastiveAddition",
    "CriticalDimensionSteering",
    "ProbeLog",
    "Scope",
    "Steering",
    "SteeringError",
    "SteeringHandle",
    "Where",
    "load_steering",
    "save_steering",
    "steer",
]
