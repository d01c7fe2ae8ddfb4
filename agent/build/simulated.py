"""Simulated clusters: their actuators, and a world that is new in every episode."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actuators.actuator import Actuator, Repairs
from actuators.by_kind import ByKind
from actuators.clock import ManualClock
from actuators.data import DataActuator
from actuators.drivers.simulated import SimulatedDriver
from actuators.drivers.simulated_data import SimulatedDatasets
from actuators.drivers.simulated_gpus import SimulatedGpus
from actuators.drivers.world import MemoryWorld, World
from actuators.errors import BadInput
from actuators.gpu import GpuActuator
from actuators.memory import MemoryActuator
from actuators.model import model_actuator
from actuators.network import NetworkActuator
from actuators.node import NodeActuator
from actuators.pod import PodActuator
from safety.lever import Lever
from safety.vitals import Identity

from ..findings.ground_truth import SWITCHES
from ..settings import PACKAGED, Settings, load
from .parts import experimenter_on
from .state import open_state, require_free

if TYPE_CHECKING:
    from envs.chaos import ChaosEnv
    from envs.clusters.simulated.hidden import Hidden
    from envs.experiment import Experimenter, Observer


def simulated_actuators(world: World, keep: Path) -> tuple[Mapping[str, Actuator], Repairs]:
    """Returns the actuators of a simulated cluster, by family, and its means of repair."""
    driver = SimulatedDriver(world)
    actuators: Mapping[str, Actuator] = {
        "pod": ByKind(
            {
                **dict.fromkeys(("pod.kill", "pod.pause", "pod.cpu_stress"), PodActuator(driver)),
                "pod.node_kill": NodeActuator(driver),
                "pod.memory_stress": MemoryActuator(driver),
            }
        ),
        "network": NetworkActuator(driver),
        "data": DataActuator(SimulatedDatasets(world)),
        "model": model_actuator(driver, driver, driver, keep),
        "gpu": GpuActuator(SimulatedGpus(world)),
    }
    return actuators, driver


class InProcess:
    """The guardian of a simulated cluster, which dies with its process, and every fault in it."""

    def alive(self) -> bool:
        """Always: there is nothing that could be left in force."""
        return True


class SimulatedWorld:
    """A new simulated cluster for every episode; see `envs.chaos.World`.

    Attributes:
        fencing_token: None: every episode has a lease and a journal of its own.

    Args:
        settings: of the run.
        observer: is told about phases.
        dry_run: everything happens but the harm.
        lever: stops experiments here as elsewhere; one of its own, released, if not given.

    Raises:
        Unsafe: the lever is engaged.
    """

    def __init__(
        self, settings: Settings, observer: Observer, *, dry_run: bool = False, lever: Lever | None = None
    ) -> None:
        if lever is not None:
            require_free(lever, "a simulated cluster harms nobody")
        self._lever = lever
        self._settings = settings
        self._observer = observer
        self._dry_run = dry_run
        self._hidden: Hidden | None = None
        self.fencing_token: int | None = None
        self._open = ExitStack()

    def start(self, seed: int | None) -> Experimenter:
        """Draws a cluster, calibrates on it, and returns who experiments on it."""
        import numpy as np

        from envs.clusters.simulated.cluster import SimulatedCluster
        from envs.clusters.simulated.hidden import Hidden, empty_world

        self.close()
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="backburn-")))
        settings = self._settings.model_copy(update={"state_dir": folder})
        clock = ManualClock()
        state = open_state(settings, clock, f"agent {os.getpid()}")
        self._open.callback(state.close)
        if self._lever is None:
            require_free(state.lever, "a simulated cluster harms nobody")
        else:
            state = replace(state, lever=self._lever)
        state.lease.acquire("a simulated campaign")
        random = np.random.default_rng(seed)
        hidden = self._hidden = Hidden.drawn(random)
        world = MemoryWorld(empty_world(hidden))
        identity = Identity(settings.cluster.id, settings.cluster.environment)
        actuators, repairs = simulated_actuators(world, folder / "kept")
        experimenter = experimenter_on(
            SimulatedCluster(world, hidden, random, clock, identity),
            state,
            settings,
            actuators=actuators,
            repairs=repairs,
            guardian=InProcess(),
            observer=self._observer,
            new_id=lambda: f"bb-{random.bytes(6).hex()}",
            dry_run=self._dry_run,
        )
        experimenter.calibrate(settings.scoring.units)
        return experimenter

    def planted(self) -> Mapping[str, str]:
        """Returns every switch and whether its namesake is absent here: for comparing, never for deciding."""
        if self._hidden is None:
            return {}
        absent = {name for name in SWITCHES if name.partition(".")[2] in self._hidden.weak}
        if self._hidden.replicas["model-server"] == 1:
            absent.add("serving.replicas")
        return {name: "weak" if name in absent else "hardened" for name in SWITCHES}

    def close(self) -> None:
        """Ends the present episode's cluster."""
        self._open.close()


def chaos_env(config: str | os.PathLike[str] = PACKAGED / "simulated.yaml") -> ChaosEnv:
    """Makes `backburn/Chaos-v0` on a simulated cluster.

    Args:
        config: a settings file with `cluster.kind: simulated`.

    Raises:
        BadInput: the settings cannot be used, or name a cluster that is not simulated.
    """
    from envs.chaos import ChaosEnv

    from ..progress import Silent

    settings = load(Path(config))
    if settings.cluster.kind != "simulated":
        raise BadInput(f"{config}: backburn/Chaos-v0 needs cluster.kind simulated, got {settings.cluster.kind}")
    world = SimulatedWorld(settings, Silent())
    campaign = settings.campaign
    return ChaosEnv(world, budget_min=campaign.budget_min, max_experiments=campaign.experiments)
