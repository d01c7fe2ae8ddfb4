"""Faults of models: of the checkpoints that a training job resumes from, and of the registry that is served from."""

from __future__ import annotations

from pathlib import Path

from .by_kind import ByKind
from .checkpoint import CheckpointActuator, Checkpoints
from .pod import Pods
from .registry import Registry, RegistryActuator

_OF_CHECKPOINTS = ("model.checkpoint_corrupt", "model.checkpoint_delete")
_OF_THE_REGISTRY = ("model.registry_corrupt", "model.registry_unavailable", "model.bad_canary")


def model_actuator(checkpoints: Checkpoints, registry: Registry, pods: Pods, keep: Path) -> ByKind:
    """Returns who hands every fault of the family to the one who knows its artefacts.

    Args:
        checkpoints: the platform's checkpoints.
        registry: the platform's published models.
        pods: the platform's instances, for triggers.
        keep: our own folder for what is needed to inject and to revert; durable there before any harm.
    """
    of_checkpoints = CheckpointActuator(checkpoints, pods, keep)
    of_the_registry = RegistryActuator(registry, pods, keep)
    return ByKind(dict.fromkeys(_OF_CHECKPOINTS, of_checkpoints) | dict.fromkeys(_OF_THE_REGISTRY, of_the_registry))
