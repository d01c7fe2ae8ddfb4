"""An agent on the real embedded cluster that breaks one thing and then waits to be killed, or asked to end.

    python -m tests.embedded_agent CONFIG LOGS KIND TARGET INTENSITY

Prints `ready` when the platform serves, `injected ID` once the fault has taken, and `stopped CAUSE` if it is ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from actuators.catalogue import kind_of
from actuators.fault import Fault, Injection, Target
from agent.build.local import LocalWorld
from agent.interruption import Interruption
from agent.progress import Silent
from agent.settings import load


def main() -> None:
    config, logs, kind, target, intensity = sys.argv[1:]
    interruption = Interruption()
    with interruption.on_signals():
        world = LocalWorld(
            load(Path(config)),
            config=Path(config),
            logs=Path(logs),
            observer=Silent(),
            told=lambda parts: None,
            interrupted=interruption.asked,
        )
        experimenter = world.start(None)
        supervisor = experimenter.supervisor
        interruption.tell(supervisor.interrupt)
        print("ready", flush=True)
        fault = Fault(kind, Target(target), float(intensity), kind_of(kind).duration_s)
        injection = supervisor.inject(fault, experimenter.gate(fault))
        if not isinstance(injection, Injection):
            sys.exit(f"refused: {injection}")
        told = False
        while (stop := supervisor.watch(injection, experimenter.lookout.poll())) is None:
            if not told and supervisor.took(injection):
                print("injected", injection.id, flush=True)
                told = True
        print("stopped", stop.cause, stop.clean, flush=True)
        world.close()


if __name__ == "__main__":
    main()
