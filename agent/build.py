"""The composition root: the only module that names concrete clusters, drivers and policies.

Heavy parts are imported where they are needed: the watchdog is built here too, and must start in a moment.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actuators.actuator import Actuator, Repairs
from actuators.clock import BootClock, Clock, ManualClock
from actuators.drivers.local.models import LocalModels
from actuators.drivers.local.network import LocalNetwork
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.drivers.simulated import SimulatedDriver
from actuators.drivers.world import MemoryWorld, World
from actuators.dry_run import leashed
from actuators.errors import BackburnError, BadInput, Unsafe
from actuators.model import ModelActuator
from actuators.network import NetworkActuator
from actuators.pod import PodActuator
from safety.journal import Journal
from safety.lease import Lease
from safety.lever import Lever
from safety.recovery import recover
from safety.supervisor import Guardian, Supervisor
from safety.vitals import Identity
from safety.watchdog import Watchdog

from .settings import PACKAGED, Settings, load
from .watchdog_process import WatchdogProcess

if TYPE_CHECKING:
    import numpy as np

    from envs.chaos import ChaosEnv
    from envs.clusters.base import Cluster
    from envs.experiment import Experimenter, Observer

    from .learning.policy import Policy


@dataclass(frozen=True, slots=True)
class State:
    """What outlives runs of one cluster: journal, lever, lease."""

    journal: Journal
    lever: Lever
    lease: Lease
    folder: Path

    def close(self) -> None:
        """Closes the databases."""
        self.journal.close()
        self.lease.close()


def open_state(settings: Settings, clock: Clock, by: str, patience_s: float = 5.0) -> State:
    """Opens a cluster's state, creating it where it is missing.

    Args:
        settings: say where it is.
        clock: stamps what is written.
        by: who writes.
        patience_s: how long to wait for another writer, seconds.

    Raises:
        BadInput: the folder cannot be made or written.
        Unsafe: a journal or lease that this Backburn cannot read.
    """
    folder = settings.cluster_state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "writable").touch()
        (folder / "writable").unlink()
    except OSError as error:
        raise BadInput(f"cannot write to the state folder {folder}: {error.strerror}") from error
    return State(
        journal=Journal(folder / "journal.db", clock, by, patience_s),
        lever=Lever(folder / "lever.json"),
        lease=Lease(folder / "lease", settings.safety.lease_ttl_s, clock, patience_s),
        folder=folder,
    )


def handle_path(settings: Settings) -> Path:
    """Returns where the embedded platform's handle is."""
    return settings.cluster_state_dir / "platform.json"


def local_actuators(settings: Settings) -> tuple[Mapping[str, Actuator], Repairs]:
    """Returns the actuators of the embedded cluster, by family, and its means of repair."""
    platform = Platform(handle_path(settings).resolve())
    pods = LocalPods(platform)
    actuators: Mapping[str, Actuator] = {
        "pod": PodActuator(pods),
        "network": NetworkActuator(LocalNetwork(platform)),
        "model": ModelActuator(LocalModels(platform), pods, (settings.cluster_state_dir / "kept").resolve()),
    }
    return actuators, platform


def simulated_actuators(world: World, keep: Path) -> tuple[Mapping[str, Actuator], Repairs]:
    """Returns the actuators of a simulated cluster, by family, and its means of repair."""
    driver = SimulatedDriver(world)
    actuators: Mapping[str, Actuator] = {
        "pod": PodActuator(driver),
        "network": NetworkActuator(driver),
        "model": ModelActuator(driver, driver, keep),
    }
    return actuators, driver


def lever_of(settings: Settings) -> Lever:
    """Returns a cluster's kill switch."""
    return Lever(settings.cluster_state_dir / "lever.json")


def recover_all(settings: Settings) -> tuple[list[str], list[str]]:
    """Takes out everything that may be in force on a cluster.

    Returns:
        The ids that are still open, and those that leaked.
    """
    state = open_state(settings, BootClock(), f"recover {os.getpid()}")
    actuators, _ = local_actuators(settings)
    recover(state.journal, actuators, state.lever, f"recover {os.getpid()}", "asked for")
    still_open = [injection.id for injection in state.journal.open_injections()]
    leaked = [injection.id for injection in state.journal.leaked()]
    state.close()
    return still_open, leaked


# ---- the watchdog --------------------------------------------------------------------------------------------------


def watch(settings: Settings, pipe: int, ready: Callable[[], None]) -> None:
    """Runs the watchdog's process: watches, reverts when the agent dies, then ends the embedded platform.

    Args:
        settings: of the run that is watched.
        pipe: file descriptor of the agent's pipe.
        ready: is called once it watches.
    """
    from envs.staging import launch

    clock = BootClock()
    # Whoever is watched may hang with a lock in its hands: never wait for long.
    state = open_state(settings, clock, f"watchdog {os.getpid()}", patience_s=0.2)
    actuators, _ = local_actuators(settings)
    watchdog = Watchdog(
        pipe=pipe,
        journal=state.journal,
        actuators=actuators,
        lever=state.lever,
        lease=state.lease,
        clock=clock,
        grace_s=settings.safety.grace_s,
    )
    ready()
    watchdog.run()
    launch.end(handle_path(settings))
    state.close()


class InProcess:
    """The guardian of a simulated cluster, which dies with its process, and every fault in it."""

    def alive(self) -> bool:
        """Always: there is nothing that could be left in force."""
        return True


# ---- worlds --------------------------------------------------------------------------------------------------------


def experimenter_on(
    cluster: Cluster,
    state: State,
    settings: Settings,
    *,
    actuators: Mapping[str, Actuator],
    repairs: Repairs,
    guardian: Guardian,
    observer: Observer,
    new_id: Callable[[], str] = lambda: f"bb-{secrets.token_hex(6)}",
    dry_run: bool = False,
) -> Experimenter:
    """Puts the parts together that experiments on one cluster take."""
    from envs.experiment import Experimenter
    from envs.scoring import Scorer
    from envs.windows import Calibration

    supervisor = Supervisor(
        limits=settings.limits,
        journal=state.journal,
        lever=state.lever,
        lease=state.lease,
        guardian=guardian,
        actuators=leashed(actuators) if dry_run else actuators,
        repairs=repairs,
        declared_repairs=settings.repairs,
        clock=cluster.clock,
        new_id=new_id,
        by=f"agent {os.getpid()}",
    )
    scorer = Scorer(Calibration(cluster.series, settings.shape), settings.hypothesis, settings.scoring.alpha)
    return Experimenter(cluster, supervisor, scorer, settings.hypothesis, observer, settings.patience)


class SimulatedWorld:
    """A new simulated cluster for every episode; see `envs.chaos.World`.

    Args:
        settings: of the run.
        observer: is told about phases.
        dry_run: everything happens but the harm.
    """

    def __init__(self, settings: Settings, observer: Observer, *, dry_run: bool = False) -> None:
        self._settings = settings
        self._observer = observer
        self._dry_run = dry_run
        self._open = ExitStack()

    def start(self, seed: int | None) -> Experimenter:
        """Draws a cluster, calibrates on it, and returns who experiments on it."""
        import numpy as np

        from envs.clusters.simulated import Hidden, SimulatedCluster, empty_world

        self.close()
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="backburn-")))
        settings = self._settings.model_copy(update={"state_dir": folder})
        clock = ManualClock()
        state = open_state(settings, clock, f"agent {os.getpid()}")
        self._open.callback(state.close)
        state.lever.release("a simulated cluster harms nobody", "backburn")
        state.lease.acquire("a simulated campaign")
        random = np.random.default_rng(seed)
        hidden = Hidden.drawn(random)
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

    def close(self) -> None:
        """Ends the present episode's cluster."""
        self._open.close()


class LocalWorld:
    """The embedded cluster: one platform for the whole run, whichever episode begins on it.

    Brought up in an order in which nothing can be left over: lease, recovery of an earlier run, watchdog, platform.

    Args:
        settings: of the run.
        config: file with these settings, for the watchdog.
        logs: where the platform's logs go.
        observer: is told about phases.
        told: is given the platform's start-up times as they come.
        interrupted: is asked whether to give the start up.
        dry_run: everything happens but the harm.

    Raises:
        BadInput: a setting, port or folder cannot be used.
        Unsafe: another agent is at work, the lever is engaged, or an earlier run left something that cannot be undone.
        Interrupted: the start was given up.
        BackburnError: the platform did not start.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config: Path,
        logs: Path,
        observer: Observer,
        told: Callable[[Mapping[str, float]], None],
        interrupted: Callable[[], bool],
        dry_run: bool = False,
    ) -> None:
        from envs.clusters.local import LocalCluster
        from envs.experiment import Interrupted
        from envs.staging.errors import BadInput as PlatformBadInput
        from envs.staging.errors import StagingError
        from envs.staging.launch import Platform as EmbeddedPlatform

        clock = BootClock()
        self._open = ExitStack()
        with self._open as starting:
            state = open_state(settings, clock, f"agent {os.getpid()}")
            starting.callback(state.close)
            state.lease.acquire(f"agent {os.getpid()}")
            starting.callback(state.lease.release)
            require_free_lever(state)
            actuators, repairs = local_actuators(settings)
            require_clean(state, actuators)
            keepalive_read, keepalive_write = os.pipe()
            guardian = WatchdogProcess(config, keepalive_write)
            starting.callback(guardian.close)
            starting.callback(os.close, keepalive_write)
            handle = handle_path(settings).resolve()
            platform = EmbeddedPlatform(handle, logs, settings.cluster.staging(), keepalive_read)
            os.close(keepalive_read)
            starting.callback(platform.stop)
            try:
                platform.wait_until_ready(told, interrupted)
            except PlatformBadInput as error:
                raise BadInput(str(error)) from error
            except StagingError as error:
                raise (Interrupted if interrupted() else BackburnError)(str(error)) from error
            cluster = LocalCluster(
                handle, clock, period_s=settings.telemetry.period_s, timeout_s=settings.telemetry.timeout_s
            )
            starting.callback(cluster.close)
            self._experimenter = experimenter_on(
                cluster,
                state,
                settings,
                actuators=actuators,
                repairs=repairs,
                guardian=guardian,
                observer=observer,
                dry_run=dry_run,
            )
            self._open = starting.pop_all()

    def start(self, seed: int | None) -> Experimenter:
        """Returns who experiments on the cluster; it is the same for every episode."""
        return self._experimenter

    def close(self) -> None:
        """Ends platform and watchdog, and gives the lease back."""
        self._open.close()


def require_free_lever(state: State) -> None:
    """Makes the embedded cluster's own lever, released, where there is none yet.

    Raises:
        Unsafe: it is engaged.
    """
    if not state.lever.exists():
        state.lever.release("the embedded cluster is its own", "backburn")
    lever = state.lever.read()
    if lever.engaged:
        raise Unsafe(f"the lever is engaged ({lever.reason}); `backburn resume --reason …` releases it")


def require_clean(state: State, actuators: Mapping[str, Actuator]) -> None:
    """Takes out what an earlier run left in force.

    Raises:
        Unsafe: something could not be shown to be gone.
    """
    left = recover(state.journal, actuators, state.lever, f"agent {os.getpid()}", "left by an earlier run")
    if left:
        raise Unsafe(f"{len(left)} fault(s) of an earlier run could not be taken out, first {left[0].fault}")


# ---- policies and environments -------------------------------------------------------------------------------------


def policy_named(name: str, random: np.random.Generator) -> Policy:
    """Returns a policy by its name.

    Raises:
        BadInput: there is no such policy.
    """
    from .learning.policy import RandomPolicy, RoundRobinPolicy
    from .learning.thompson import ThompsonPolicy

    makers: Mapping[str, Callable[[], Policy]] = {
        "random": lambda: RandomPolicy(random),
        "round_robin": RoundRobinPolicy,
        "thompson": lambda: ThompsonPolicy(random),
    }
    if name not in makers:
        raise BadInput(f"unknown policy {name!r}; allowed are {', '.join(makers)}")
    return makers[name]()


def chaos_env(config: str | os.PathLike[str] = PACKAGED / "simulated.yaml") -> ChaosEnv:
    """Makes `backburn/Chaos-v0` on a simulated cluster.

    Args:
        config: a settings file with `cluster.kind: simulated`.

    Raises:
        BadInput: the settings cannot be used, or name a cluster that is not simulated.
    """
    from envs.chaos import ChaosEnv

    from .progress import Silent

    settings = load(Path(config))
    if settings.cluster.kind != "simulated":
        raise BadInput(f"{config}: backburn/Chaos-v0 needs cluster.kind simulated, got {settings.cluster.kind}")
    world = SimulatedWorld(settings, Silent())
    campaign = settings.campaign
    return ChaosEnv(world, budget_min=campaign.budget_min, max_experiments=campaign.experiments)
