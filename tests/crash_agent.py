"""An agent that breaks one thing and then waits to be killed. Run by the crash tests in a process of its own.

    python -m tests.crash_agent CONFIG KIND TARGET [DURATION_S [DEVICE]]

Prints `injected ID` once the fault has taken. Goes on like an agent does: one measurement, one heartbeat, every 0.1 s.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from actuators.catalogue import kind_of
from actuators.clock import BootClock
from actuators.drivers.local.gpus import LocalGpus
from actuators.drivers.local.platform import Platform
from actuators.fault import Fault, Injection, Target
from actuators.gpu import GpuActuator
from agent.build.local import handle_path, local_actuators
from agent.build.state import open_state, require_free
from agent.settings import load
from agent.watchdog_process import WatchdogProcess
from safety.limits import OPT_IN_LABEL
from safety.supervisor import Supervisor
from safety.vitals import ComponentVitals, Identity, Vitals
from tests.bare_platform import KEEPALIVE


def main() -> None:
    config, kind, target = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    settings = load(config)
    clock = BootClock()
    state = open_state(settings, clock, f"agent {os.getpid()}")
    require_free(state.lever, "a test")
    state.lease.acquire(f"agent {os.getpid()}")
    guardian = WatchdogProcess(config, os.open(settings.cluster_state_dir / KEEPALIVE, os.O_RDWR))
    print("watchdog", guardian._process.pid, flush=True)
    actuators, repairs = local_actuators(settings)
    device = sys.argv[5] if len(sys.argv) > 5 else "cpu"  # where the card is a double, a CPU does its work
    gpu = GpuActuator(LocalGpus(Platform(handle_path(settings).resolve()), device=device))
    supervisor = Supervisor(
        limits=settings.limits,
        journal=state.journal,
        lever=state.lever,
        lease=state.lease,
        guardian=guardian,
        actuators={**actuators, "gpu": gpu},
        repairs=repairs,
        declared_repairs={},
        clock=clock,
        new_id=lambda: f"bb-{os.getpid()}",
        by=f"agent {os.getpid()}",
    )
    duration_s = float(sys.argv[4]) if len(sys.argv) > 4 else kind_of(kind).duration_s
    injection = supervisor.inject(Fault(kind, Target(target), 0.5, duration_s), vitals(settings))
    if not isinstance(injection, Injection):
        sys.exit(f"refused: {injection}")
    while not supervisor.took(injection):
        if (stop := supervisor.watch(injection, vitals(settings))) is not None:
            sys.exit(f"stopped before it took: {stop}")
    print("injected", injection.id, flush=True)
    while (stop := supervisor.watch(injection, vitals(settings))) is None:
        time.sleep(0.1)
    print("stopped", stop.cause, stop.clean, flush=True)
    guardian.close()


def vitals(settings) -> Vitals:
    totals = {"model-server": 2, "feature-store": 1, "trainer": 2, "stream": 1}
    return Vitals(
        identity=Identity(settings.cluster.id, settings.cluster.environment),
        components={name: ComponentVitals(n, n, {OPT_IN_LABEL: "true"}) for name, n in totals.items()},
        service_levels=dict.fromkeys(settings.limits.service_levels, 0.0),
        age_s=0.0,
        unsteady=(),
        firing_alerts=(),
    )


if __name__ == "__main__":
    main()
