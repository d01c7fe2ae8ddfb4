"""A simulated cluster with everything that experiments on it take, its parts within a test's reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from actuators.actuator import Actuator
from actuators.clock import ManualClock
from actuators.drivers.world import MemoryWorld
from agent.build.parts import experimenter_on
from agent.build.simulated import simulated_actuators
from agent.build.state import State, open_state
from agent.progress import Silent
from agent.settings import Settings
from envs.clusters.simulated.cluster import SimulatedCluster
from envs.clusters.simulated.hidden import Hidden, empty_world
from envs.experiment import Experimenter
from safety.supervisor import Guardian
from safety.vitals import Identity


@dataclass
class FakeGuardian:
    """A watchdog that lives as long as a test says."""

    lives: bool = True

    def alive(self) -> bool:
        return self.lives


@dataclass
class Simulation:
    """The parts of a simulated cluster."""

    fencing_token: ClassVar[int | None] = None

    experimenter: Experimenter
    state: State
    world: MemoryWorld
    clock: ManualClock
    actuators: Mapping[str, Actuator]
    guardian: Guardian

    def start(self, seed: int | None) -> Experimenter:
        return self.experimenter

    def close(self) -> None:
        self.state.close()


def simulation(
    settings: Settings,
    folder: Path,
    *,
    hidden: Hidden | None = None,
    seed: int = 0,
    units: int | None = 80,
    actuators: Mapping[str, Actuator] | None = None,
    **limits: object,
) -> Simulation:
    """Builds a calibrated simulated cluster.

    Args:
        settings: of the test.
        folder: for whatever actuators keep.
        hidden: what is weak; nothing by default.
        seed: of the noise.
        units: fault-free units to collect; None for none.
        actuators: take the place of the real ones of their family.
        limits: replace fields of the settings' limits.
    """
    if limits:
        settings = settings.model_copy(update={"limits": replace(settings.limits, **limits)})
    hidden = hidden or Hidden()
    clock = ManualClock()
    state = open_state(settings, clock, "test")
    state.lever.release("a test", "test")
    state.lease.acquire("test")
    world = MemoryWorld(empty_world(hidden))
    real, repairs = simulated_actuators(world, folder / "kept")
    guardian = FakeGuardian()
    experimenter = experimenter_on(
        SimulatedCluster(
            world,
            hidden,
            np.random.default_rng(seed),
            clock,
            Identity(settings.cluster.id, settings.cluster.environment),
        ),
        state,
        settings,
        actuators={**real, **(actuators or {})},
        repairs=repairs,
        guardian=guardian,
        observer=Silent(),
    )
    if units is not None:
        experimenter.calibrate(units)
    return Simulation(experimenter, state, world, clock, {**real, **(actuators or {})}, guardian)
