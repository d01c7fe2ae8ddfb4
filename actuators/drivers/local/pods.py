"""Kill, pause and CPU stress of real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...clock import Instant
from ...errors import InjectionFailed, RevertFailed
from ...fault import Target
from ...pod import Instance
from .hold import PERIOD_S, is_same_process, send
from .platform import ANSWER_WITHIN_S, Platform

_HOLD = Path(__file__).with_name("hold.py")
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
        return [
            Instance(entry["id"], {"pid": entry["pid"], "start_ticks": entry["start_ticks"]})
            for entry in self._platform.component(target)["instances"]
            if is_same_process(entry["pid"], entry["start_ticks"])
        ]

    def kill(self, instance: Instance) -> None:
        """Sends SIGKILL."""
        send(*_process(instance), signal.SIGKILL)

    def pause(self, instance: Instance, injection_id: str, until: Instant) -> None:
        """Starts a holder that freezes the process and lets go by itself at the deadline."""
        self._hold(instance, _ALL_THE_TIME, injection_id, until)

    def starve(self, instance: Instance, share: float, injection_id: str, until: Instant) -> None:
        """Starts a holder that stops the process for a share of every turn, and lets go at the deadline."""
        self._hold(instance, share, injection_id, until)

    def _hold(self, instance: Instance, share: float, injection_id: str, until: Instant) -> None:
        pid, start_ticks = _process(instance)
        if any(_holders(injection_id, pid)):
            return
        arguments = [injection_id, until.boot_id, str(until.boottime_s), str(share), f"{pid}:{start_ticks}"]
        holder = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HOLD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        said = _said_after_go(holder)
        holder.wait()
        if said != b"held\n":
            raise InjectionFailed(f"the holder of {instance.id} did not say that it holds it")

    def resume(self, instance: Instance, injection_id: str) -> None:
        """Ends the holder, then lets the process run."""
        pid, start_ticks = _process(instance)
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while holders := list(_holders(injection_id, pid)):
            if time.monotonic() > deadline_s:
                raise RevertFailed(f"the holder of {instance.id} does not end")
            for holder in holders:
                send(*holder, signal.SIGKILL)
        send(pid, start_ticks, signal.SIGCONT)

    def exists(self, instance: Instance) -> bool:
        """Tells whether the process is alive."""
        return is_same_process(*_process(instance))

    def is_paused(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether the process is stopped, or a holder of this injection lives."""
        pid, start_ticks = _process(instance)
        return any(_holders(injection_id, pid)) or (is_same_process(pid, start_ticks) and _is_stopped(pid))

    def is_starved(self, instance: Instance, injection_id: str) -> bool:
        """Watches for a few turns; tells whether the process was seen stopped and seen running under a holder."""
        pid, start_ticks = _process(instance)
        if not any(_holders(injection_id, pid)):
            return False
        seen: set[bool] = set()
        deadline_s = time.monotonic() + _TURNS_WATCHED * PERIOD_S
        while len(seen) < 2 and is_same_process(pid, start_ticks) and time.monotonic() < deadline_s:
            seen.add(_is_stopped(pid))
            time.sleep(_LOOK_EVERY_S)
        return len(seen) == 2


def _process(instance: Instance) -> tuple[int, int]:
    return int(instance.identity["pid"]), int(instance.identity["start_ticks"])


def _said_after_go(holder: subprocess.Popen[bytes]) -> bytes:
    """Lets a holder begin, and returns what it says; nothing if it says nothing in time."""
    if holder.stdin is None or holder.stdout is None:
        raise ValueError("a holder is talked to through pipes")
    with holder.stdin, holder.stdout:
        try:
            os.write(holder.stdin.fileno(), b"go\n")
        except BrokenPipeError:
            return b""
        readable, _, _ = select.select([holder.stdout], [], [], ANSWER_WITHIN_S)
        return holder.stdout.readline() if readable else b""


def _holders(injection_id: str, victim_pid: int) -> Iterator[tuple[int, int]]:
    """Yields pid and start time of every living holder of a process under an injection, whoever started it."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            holds = bytes(_HOLD) in arguments and injection_id.encode() in arguments
            if holds and any(argument.startswith(b"%d:" % victim_pid) for argument in arguments):
                yield int(entry.name), int(_stat(int(entry.name))[19])
        except OSError:
            continue


def _is_stopped(pid: int) -> bool:
    try:
        return _stat(pid)[0] == "T"
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    """Returns the fields of a process's stat from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
