"""Holders of real processes: how one is started, found again by whoever has to end it, and ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ...clock import Instant
from ...errors import InjectionFailed, RevertFailed
from ...pod import Instance
from .hold import HELD, MEMORY, NOT_HELD, send, stat_of
from .platform import ANSWER_WITHIN_S

_HOLD = Path(__file__).with_name("hold.py")


def process_of(instance: Instance) -> tuple[int, int]:
    """Returns pid and start time of an instance."""
    return int(instance.identity["pid"]), int(instance.identity["start_ticks"])


def begin(instance: Instance, how: str, injection_id: str, until: Instant, *more: int) -> None:
    """Starts a holder of an instance, unless this injection already has one, and waits until it holds.

    An instance that is gone, or that was changed by others meanwhile, has none afterwards.

    Args:
        instance: whom it holds.
        how: see `hold`.
        injection_id: names the holder.
        until: when it lets go by itself.
        more: numbers that it needs to know of its victim, see `hold`.

    Raises:
        InjectionFailed: it did not say how it went.
    """
    pid, start_ticks = process_of(instance)
    if any(living(injection_id, pid)):
        return
    victim = ":".join(map(str, (pid, start_ticks, *more)))
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_HOLD), injection_id, until.boot_id, str(until.boottime_s), how, victim],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    said = _said_after_go(holder)
    holder.wait()
    if said == NOT_HELD:
        end(instance, injection_id)  # which is about to end by itself, and counts as a holder until then
    elif said != HELD:
        raise InjectionFailed(f"the holder of {instance.id} did not say that it holds it")


def end(instance: Instance, injection_id: str) -> None:
    """Ends every holder of an instance under an injection, without a chance to let go by itself.

    Raises:
        RevertFailed: one does not end.
    """
    pid, _ = process_of(instance)
    deadline_s = time.monotonic() + ANSWER_WITHIN_S
    while holders := list(living(injection_id, pid)):
        if time.monotonic() > deadline_s:
            raise RevertFailed(f"the holder of {instance.id} does not end")
        for holder in holders:
            send(*holder, signal.SIGKILL)


def living(injection_id: str, victim_pid: int) -> Iterator[tuple[int, int]]:
    """Yields pid and start time of every living holder of a process under an injection, whoever started it."""
    for whose, _, holder in _holders(victim_pid):
        if whose == injection_id:
            yield holder


def stoppers(pid: int) -> set[str]:
    """Returns the injections whose living holders stop a process, always or by turns."""
    return {injection_id for injection_id, how, _ in _holders(pid) if how != MEMORY}


def _holders(victim_pid: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Yields of every living holder of a process the injection, how it holds, and its own pid and start time."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            _, _, arguments = (entry / "cmdline").read_bytes().partition(bytes(_HOLD) + b"\0")
            injection_id, _, _, how, *victims = arguments.decode().split("\0")
            if any(victim.startswith(f"{victim_pid}:") for victim in victims):
                yield injection_id, how, (int(entry.name), int(stat_of(int(entry.name))[19]))
        except (OSError, ValueError):  # it is gone, or it is no holder
            continue


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
