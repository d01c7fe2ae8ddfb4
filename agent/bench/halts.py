"""How long it takes from a pulled lever until a fault is seen to be gone, on the real embedded cluster.

    python -m agent.bench.halts [--halts N]

Starts the cluster, all of it hardened, breaks it again and again with every kind of fault that can be undone, pulls the
lever in the middle, and releases it once the fault is gone. Prints the times, and writes `halts.json` into the runs
folder.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from actuators.catalogue import kind_of
from actuators.fault import Fault, Injection
from envs.encoding import ActionCode, first_state
from envs.experiment import Experimenter
from safety.lever import Lever

from ..build.state import lever_of
from ..findings.ground_truth import SWITCHES
from ..findings.record import RunFolder
from ..interruption import Interruption
from ..progress import Display
from ..run import brought_up
from ..settings import PACKAGED, Settings, load
from .beside import in_one_line, machine_and_command, whole_from_1

_AIM_S = 1.0
_IN_FORCE_S = (1.0, 3.0)
_CALM_WITHIN_S = 120.0
_BY = "halts"


def halted(experimenter: Experimenter, lever: Lever, fault: Fault, after_s: float) -> float | None:
    """Breaks something, pulls the lever after a while, and waits until nothing of the fault is left.

    Args:
        experimenter: of a cluster that is calm.
        lever: of the cluster.
        fault: what to break.
        after_s: when to pull, seconds after the injection.

    Returns:
        Seconds from the pull until the fault's absence was observed, NaN if it was not; None if there was no halt: the
        fault was refused, or something else has ended it.
    """
    supervisor, lookout = experimenter.supervisor, experimenter.lookout
    injection = supervisor.inject(fault, lookout.vitals())
    if not isinstance(injection, Injection):
        return None
    pulled: list[float] = []

    def pull() -> None:
        pulled.append(time.monotonic())
        lever.engage("how long does it take?", _BY)

    puller = threading.Timer(after_s, pull)
    puller.start()
    lookout.fault_in_force = True
    try:
        while (stop := supervisor.watch(injection, lookout.poll())) is None:
            pass
        gone_s = time.monotonic()
    finally:
        puller.join()
        lookout.fault_in_force = False
        lever.release("measured", _BY)
    if not stop.clean:
        return float("nan")
    return gone_s - pulled[0] if stop.cause == "lever" else None


def calm(experimenter: Experimenter, fault: Fault) -> bool:
    """Waits until a fault would be permitted; tells whether it would."""
    until_s = time.monotonic() + _CALM_WITHIN_S
    while time.monotonic() < until_s:
        if experimenter.supervisor.would_refuse(fault, experimenter.lookout.poll()) is None:
            return True
    return False


def undone_faults(experimenter: Experimenter) -> list[Fault]:
    """Returns the mildest fault of every kind that can be undone, on every target that offers it."""
    topology = experimenter.cluster.topology()
    names = tuple(component.name for component in topology.components)
    code = ActionCode(names)
    state = first_state(topology, code)
    found: dict[tuple[str, str], Fault] = {}
    for action in np.flatnonzero(state.available[0].numpy()).tolist():
        fault = code.decode(action)
        if fault is not None and kind_of(fault.kind).reversible and kind_of(fault.kind).trigger is None:
            found.setdefault((fault.kind, fault.target.name), fault)
    return list(found.values())


def measured(settings: Settings, folder: RunFolder, halts: int, console: Console) -> dict[str, list[float]]:
    """Returns the times by kind of fault, seconds; NaN where a fault was not seen to be gone."""
    times: dict[str, list[float]] = {}
    lever, random = lever_of(settings), np.random.default_rng(0)
    interruption, display = Interruption(), Display(console, 0.0)
    with interruption.on_signals(), display:
        world = brought_up(
            settings, folder.path, observer=display, told=display.started, interrupted=interruption.asked
        )
        try:
            experimenter = world.start(None)
            faults = undone_faults(experimenter)
            for number in range(halts):
                fault = faults[number % len(faults)]
                if interruption.asked() or not calm(experimenter, fault):
                    break
                seconds = halted(experimenter, lever, fault, random.uniform(*_IN_FORCE_S))
                if seconds is not None:
                    times.setdefault(fault.kind, []).append(seconds)
                    display.say(f"[{number + 1}/{halts}] {fault.kind} on {fault.target}: {seconds:.2f} s")
        finally:
            world.close()
    return times


def figures(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Returns what the times say, all kinds together and each by itself."""

    def of(seconds: Sequence[float]) -> dict[str, Any]:
        known = [each for each in seconds if each == each]
        at = np.percentile(known, [50, 99]).tolist() if known else [None, None]
        return {"p50_s": at[0], "p99_s": at[1], "halts": len(seconds), "not_seen_to_be_gone": len(seconds) - len(known)}

    together = [each for seconds in times.values() for each in seconds]
    return {"all": of(together), **{kind: of(seconds) for kind, seconds in sorted(times.items())}}


def main() -> None:
    """Measures, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.halts", description=__doc__.partition("\n")[0])
    parser.add_argument("--halts", type=whole_from_1, default=60, help="how often to pull the lever")
    chosen = parser.parse_args()
    settings = load(PACKAGED / "local.yaml", {"cluster.switches": dict.fromkeys(SWITCHES, "hardened")})
    console = Console()
    folder = RunFolder(settings.runs_dir / f"halts-{time.strftime('%Y-%m-%d-%H%M%S')}")
    folder.settings(settings.model_dump(mode="json"))
    found = figures(measured(settings, folder, chosen.halts, console))
    console.print(f"\n{machine_and_command()}", soft_wrap=True)
    for kind, figure in found.items():
        if figure["p50_s"] is not None:
            console.print(
                f"  {kind:<24} p50 {figure['p50_s']:.2f} s, p99 {figure['p99_s']:.2f} s, {figure['halts']} halts, "
                f"{figure['not_seen_to_be_gone']} not seen to be gone",
                soft_wrap=True,
            )
    done = found["all"]["halts"]
    if done < chosen.halts:
        console.print(
            f"  ended after {done} of {chosen.halts} halts: refused, interrupted, not calm in time, "
            "or something else has ended a fault"
        )
    console.print(f"  aim: p99 at most {_AIM_S:g} s")
    path = Path(settings.runs_dir) / "halts.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    in_one_line(main)
