"""Kill, pause and CPU stress of real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from ...clock import Instant
from ...fault import Target
from ...pod import Instance
from . import holders
from .hold import PERIOD_S, is_same_process, send, stat_of
from .platform import Platform

_ALL_THE_TIME = 1.0
_TURNS_WATCHED = 3
_LOOK_EVERY_S = 0.001


class LocalPods:
    """The processes of the embedded cluster; see `actuators.pod.Pods`.

    Args:
        platform: where they are found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def instances(self, target: Target) -> Sequence[Instance]:
        """Returns the target's processes that are alive, in the platform's order."""
        return living_instances(self._platform, target)

    def kill(self, instance: Instance) -> None:
        """Sends SIGKILL."""
        send(*holders.process_of(instance), signal.SIGKILL)

    def pause(self, instance: Instance, injection_id: str, until: Instant) -> None:
        """Starts a holder that freezes the process and lets go by itself at the deadline."""
        holders.begin(instance, str(_ALL_THE_TIME), injection_id, until)

    def starve(self, instance: Instance, share: float, injection_id: str, until: Instant) -> None:
        """Starts a holder that stops the process for a share of every turn, and lets go at the deadline."""
        holders.begin(instance, str(share), injection_id, until)

    def resume(self, instance: Instance, injection_id: str) -> None:
        """Ends the holder, then lets the process run, unless it has another that stops it for a later fault."""
        holders.end(instance, injection_id)
        pid, start_ticks = holders.process_of(instance)
        if not holders.stoppers(pid) - {injection_id}:
            send(pid, start_ticks, signal.SIGCONT)

    def exists(self, instance: Instance) -> bool:
        """Tells whether the process is alive."""
        return is_same_process(*holders.process_of(instance))

    def is_paused(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether a holder of this injection lives, or the process is stopped and no other's accounts for it."""
        pid, start_ticks = holders.process_of(instance)
        if any(holders.living(injection_id, pid)):
            return True
        is_stopped = is_same_process(pid, start_ticks) and _is_stopped(pid)
        return is_stopped and not holders.stoppers(pid) - {injection_id}

    def is_starved(self, instance: Instance, injection_id: str) -> bool:
        """Watches for a few turns; tells whether the process was seen stopped and seen running under a holder."""
        pid, start_ticks = holders.process_of(instance)
        if not any(holders.living(injection_id, pid)):
            return False
        seen: set[bool] = set()
        deadline_s = time.monotonic() + _TURNS_WATCHED * PERIOD_S
        while len(seen) < 2 and is_same_process(pid, start_ticks) and time.monotonic() < deadline_s:
            seen.add(_is_stopped(pid))
            time.sleep(_LOOK_EVERY_S)
        return len(seen) == 2


def living_instances(platform: Platform, target: Target) -> list[Instance]:
    """Returns a target's processes that are alive, in the platform's order.

    Raises:
        TargetNotFound: there is no platform, or no such component in it.
    """
    return [
        Instance(entry["id"], {"pid": entry["pid"], "start_ticks": entry["start_ticks"]})
        for entry in platform.component(target)["instances"]
        if is_same_process(entry["pid"], entry["start_ticks"])
    ]


def _is_stopped(pid: int) -> bool:
    try:
        return stat_of(pid)[0] == "T"
    except OSError:
        return False
