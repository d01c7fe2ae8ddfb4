"""The embedded cluster: its actuators, its watchdog, its recovery, and a world to run campaigns in."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from actuators.actuator import Actuator, Repairs
from actuators.by_kind import ByKind
from actuators.clock import BootClock
from actuators.data import DataActuator
from actuators.drivers.local.checkpoints import LocalCheckpoints
from actuators.drivers.local.datasets import LocalDatasets
from actuators.drivers.local.gpus import LocalGpus
from actuators.drivers.local.memory import LocalMemory
from actuators.drivers.local.network import LocalNetwork
from actuators.drivers.local.nodes import LocalNodes
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.drivers.local.registry import LocalRegistry
from actuators.errors import BackburnError, BadInput, Unsafe
from actuators.gpu import GpuActuator
from actuators.memory import MemoryActuator
from actuators.model import model_actuator
from actuators.network import NetworkActuator
from actuators.node import NodeActuator
from actuators.pod import PodActuator
from safety.recovery import recover
from safety.watchdog import Watchdog

from ..settings import Settings
from ..watchdog_process import WatchdogProcess
from .parts import experimenter_on
from .state import State, open_state, require_free
from .telemetry import require_known, source_of

if TYPE_CHECKING:
    from envs.experiment import Experimenter, Observer


def handle_path(settings: Settings) -> Path:
    """Returns where the embedded platform's handle is."""
    return settings.cluster_state_dir / "platform.json"


def local_actuators(settings: Settings) -> tuple[Mapping[str, Actuator], Repairs]:
    """Returns the actuators of the embedded cluster, by family, and its means of repair."""
    platform = Platform(handle_path(settings).resolve())
    pods = LocalPods(platform)
    actuators: Mapping[str, Actuator] = {
        "pod": ByKind(
            {
                **dict.fromkeys(("pod.kill", "pod.pause", "pod.cpu_stress"), PodActuator(pods)),
                "pod.node_kill": NodeActuator(LocalNodes(platform)),
                "pod.memory_stress": MemoryActuator(LocalMemory(platform)),
            }
        ),
        "network": NetworkActuator(LocalNetwork(platform)),
        "data": DataActuator(LocalDatasets(platform)),
        "model": model_actuator(LocalCheckpoints(platform), LocalRegistry(platform), pods, _kept(settings)),
        "gpu": GpuActuator(LocalGpus(platform)),
    }
    return actuators, platform


def _kept(settings: Settings) -> Path:
    """Returns where faults of models keep what their undo needs."""
    return (settings.cluster_state_dir / "kept").resolve()


def recover_all(settings: Settings) -> tuple[list[str], list[str]]:
    """Takes out everything that may be in force on a cluster.

    Returns:
        The ids that are still open, and those that leaked.

    Raises:
        Unsafe: an agent is at work on the cluster, and would go on to judge by a fault that is not there any more.
    """
    by = f"recover {os.getpid()}"
    state = open_state(settings, BootClock(), by)
    with closing(state):
        at_work = state.lease.at_work()
        if at_work is not None:
            raise Unsafe(f"{at_work} is at work on this cluster; `backburn halt` ends what it has in force")
        with suppress(sqlite3.OperationalError):  # a full disk, or somebody who hangs in it: no reason to leave a fault
            state.lease.acquire(by)
        try:
            actuators, _ = local_actuators(settings)
            recover(state.journal, actuators, state.lever, by, "asked for")
            still_open = [injection.id for injection in state.journal.open_injections()]
            leaked = [injection.id for injection in state.journal.leaked()]
        finally:
            with suppress(sqlite3.OperationalError):
                state.lease.release()
    return still_open, leaked


def watch(
    settings: Settings,
    pipe: int,
    ready: Callable[[], None],
    *,
    keepalive_fd: int | None = None,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Runs the watchdog's process: watches, reverts when the agent dies, then ends the agent's embedded platform.

    Args:
        settings: of the run that is watched.
        pipe: file descriptor of the agent's pipe.
        ready: is called once it watches.
        keepalive_fd: end of the pipe on which the agent's platform hangs; another agent's is left alone. None: whosever
            it is.
        beat: is called over and over while it watches.

    Raises:
        BackburnError: the platform does not end.
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
        beat=beat,
    )
    ready()
    watchdog.run()
    state.close()
    _must_end(lambda: launch.end(handle_path(settings), keepalive_fd))


class LocalWorld:
    """The embedded cluster: one platform for the whole run, whichever episode begins on it.

    Brought up in an order in which nothing can be left over: lease, recovery of an earlier run, watchdog, platform.

    Attributes:
        fencing_token: under which this agent holds the lease; by it the journal knows its faults.

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
        Unsafe: another agent is at work or has taken over, the lever is engaged, or an earlier run left something that
            cannot be undone.
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

        def keep_lease() -> None:
            # A start takes minutes, and nobody polls yet: a second one would find the lease expired.
            with suppress(sqlite3.OperationalError):  # somebody is in the way; the next one is a moment later
                state.lease.renew()

        def given_up() -> bool:
            keep_lease()
            return interrupted()

        clock = BootClock()
        self._open = ExitStack()
        with self._open as starting:
            state = open_state(settings, clock, f"agent {os.getpid()}")
            starting.callback(state.close)
            state.lease.acquire(f"agent {os.getpid()}")
            starting.callback(state.lease.release)
            require_free(state.lever, "the embedded cluster is its own")
            actuators, repairs = local_actuators(settings)
            require_clean(state, actuators)
            keep_lease()
            source = source_of(settings, clock)
            if not state.journal.leaked():
                # What a dry run, or a fault that was never applied, has kept for an undo that nobody needs.
                shutil.rmtree(_kept(settings), ignore_errors=True)
            handle = handle_path(settings).resolve()
            with ExitStack() as until_both_have_it:
                keepalive_read, keepalive_write = os.pipe()
                until_both_have_it.callback(os.close, keepalive_read)
                writing = until_both_have_it.enter_context(ExitStack())
                writing.callback(os.close, keepalive_write)
                guardian = WatchdogProcess(config, keepalive_write, keep_lease)
                starting.callback(guardian.close)
                starting.push(writing.pop_all())
                platform = EmbeddedPlatform(handle, logs, settings.cluster.staging(), keepalive_read)
            starting.callback(_must_end, platform.stop)
            try:
                platform.wait_until_ready(told, given_up)
            except PlatformBadInput as error:
                raise BadInput(str(error)) from error
            except StagingError as error:
                raise (Interrupted if interrupted() else BackburnError)(str(error)) from error
            cluster = LocalCluster(handle, clock, source, period_s=settings.telemetry.period_s)
            starting.callback(cluster.close)
            require_known(cluster, settings, given_up)
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
            self._planted = settings.cluster.staging().switches.to_mapping()
            self.fencing_token: int | None = state.lease.token
            self._open = starting.pop_all()

    def start(self, seed: int | None) -> Experimenter:
        """Returns who experiments on the cluster; it is the same for every episode."""
        return self._experimenter

    def planted(self) -> Mapping[str, str]:
        """Returns every switch and whether it is weak: for comparing, never for deciding."""
        return self._planted

    def close(self) -> None:
        """Ends platform and watchdog, and gives the lease back.

        Raises:
            BackburnError: the platform does not end.
        """
        self._open.close()


def _must_end(end: Callable[[], None]) -> None:
    """Ends a platform; that it does not end is an error of the tool, as every caller knows them."""
    from envs.staging.errors import StagingError

    try:
        end()
    except StagingError as error:
        raise BackburnError(f"the platform does not end: {error}") from error


def require_clean(state: State, actuators: Mapping[str, Actuator]) -> None:
    """Takes out what an earlier run left in force.

    Raises:
        Unsafe: something could not be shown to be gone.
    """
    left = recover(state.journal, actuators, state.lever, f"agent {os.getpid()}", "left by an earlier run")
    if left:
        raise Unsafe(f"{len(left)} fault(s) of an earlier run could not be taken out, first {left[0].fault}")
