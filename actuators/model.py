"""Faults of models: of the checkpoints that a training job resumes from, and of the registry that is served from."""

from __future__ import annotations

from pathlib import Path

from .actuator import Actuator
from .checkpoint import CheckpointActuator, Checkpoints
from .fault import Fault, Injection, Undo
from .pod import Pods
from .registry import Registry, RegistryActuator

_OF_CHECKPOINTS = frozenset({"model.checkpoint_corrupt", "model.checkpoint_delete"})


class ModelActuator:
    """Hands every fault of the family to the one who knows its artefacts; see `actuators.actuator.Actuator`.

    Args:
        checkpoints: the platform's checkpoints.
        registry: the platform's published models.
        pods: the platform's instances, for triggers.
        keep: our own folder for what is needed to inject and to revert; durable there before any harm.
    """

    def __init__(self, checkpoints: Checkpoints, registry: Registry, pods: Pods, keep: Path) -> None:
        self._checkpoints = CheckpointActuator(checkpoints, pods, keep)
        self._registry = RegistryActuator(registry, pods, keep)

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Keeps what the fault will need, and names everything that it will touch."""
        return self._for(fault).prepare(injection_id, fault)

    def inject(self, injection: Injection) -> None:
        """Damages the artefact, and pulls the trigger if the fault has one."""
        self._for(injection.fault).inject(injection)

    def revert(self, injection: Injection) -> None:
        """Takes our damage out where it still stands."""
        self._for(injection.fault).revert(injection)

    def took(self, injection: Injection) -> bool:
        """Tells whether the damage is there to be met."""
        return self._for(injection.fault).took(injection)

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether our damage is gone."""
        return self._for(injection.fault).probe_clean(injection)

    def _for(self, fault: Fault) -> Actuator:
        return self._checkpoints if fault.kind in _OF_CHECKPOINTS else self._registry
