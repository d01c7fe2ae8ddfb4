"""Neighbours on real cards, and what NVML tells of them.

A container is told the numbers that its host gives to processes, or none at all. Whose process is on a card can then
not be seen; that the neighbour runs, and what the card says of its own memory and work, still can.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...clock import Instant
from ...errors import InjectionFailed, RevertFailed, TargetNotFound
from ...fault import Target
from .hold import is_same_process
from .neighbour import CHUNKS
from .platform import ANSWER_WITHIN_S, Platform

_NEIGHBOUR = Path(__file__).with_name("neighbour.py")
_ENDS_WITHIN_S = 5.0
_MEMORY_TOLERANCE = 2 / CHUNKS
_BUSY_ENOUGH = 0.5
"""Part of the time for which neighbours ask that a card must be busy; NVML's own samples lie up to a second apart."""


class LocalGpus:
    """The cards that processes of the embedded cluster work on; see `actuators.gpu.Gpus`.

    Args:
        platform: where the processes are found, and the cards that they say they work on.
        device: where a neighbour works, in torch's words; to it the card is the only one there is.
    """

    def __init__(self, platform: Platform, device: str = "cuda:0") -> None:
        self._platform = platform
        self._device = device

    def cards_of(self, target: Target) -> Sequence[str]:
        """Returns the cards that the target's processes name and NVML sees."""
        named = {instance.get("card", "") for instance in self._platform.component(target)["instances"]}
        cards = [card for card in sorted(named - {""}) if self._card(card) is not None]
        if not cards:
            raise TargetNotFound(f"no process of {target} works on a GPU that NVML sees here")
        return cards

    def fill(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Starts the process that fills the card's memory."""
        self._start(card, "fill", share, injection_id, until)

    def occupy(self, card: str, share: float, injection_id: str, until: Instant) -> None:
        """Starts as many processes as it takes, each with work for the same share of the time."""
        count, busy_share = _neighbours_for(share)
        for number in range(count):
            self._start(card, "work", busy_share, injection_id, until, number)

    def vacate(self, injection_id: str) -> None:
        """Kills the neighbours, and waits for the end of each: only then has the kernel given back what it held."""
        deadline_s = time.monotonic() + _ENDS_WITHIN_S
        while neighbours := list(_neighbours(injection_id)):
            for pid, start_ticks in neighbours:
                _end(pid, start_ticks, deadline_s)
            if time.monotonic() > deadline_s:
                raise RevertFailed(f"{len(neighbours)} neighbour(s) of {injection_id} do not end")

    def is_filled(self, card: str, share: float, injection_id: str) -> bool:
        """Looks at the processes, then asks NVML how much of the card's memory is in use."""
        if not any(_neighbours(injection_id, card)):
            return False
        memory = self._ask(card, "nvmlDeviceGetMemoryInfo")
        return memory is not None and memory.used >= (share - _MEMORY_TOLERANCE) * memory.total

    def is_occupied(self, card: str, share: float, injection_id: str) -> bool:
        """Looks at the processes, then asks NVML who is on the card and how busy it is."""
        count, busy_share = _neighbours_for(share)
        pids = {pid for pid, _ in _neighbours(injection_id, card)}
        if len(pids) < count or not self._are_on(card, pids):
            return False
        utilisation = self._ask(card, "nvmlDeviceGetUtilizationRates")
        return utilisation is not None and utilisation.gpu >= 100.0 * _BUSY_ENOUGH * busy_share

    def has_neighbours(self, injection_id: str) -> bool:
        """Looks for the processes, whoever started them."""
        return any(_neighbours(injection_id))

    def _start(self, card: str, verb: str, share: float, injection_id: str, until: Instant, number: int = 0) -> None:
        if any(_neighbours(injection_id, card, number)):
            return
        what = [injection_id, until.boot_id, str(until.boottime_s), card, self._device, verb, str(share), str(number)]
        try:
            started = subprocess.run(
                [sys.executable, "-P", str(_NEIGHBOUR), *what],
                input=b"go\n",
                stdout=subprocess.PIPE,
                start_new_session=True,
                timeout=ANSWER_WITHIN_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InjectionFailed(f"the neighbour on {card} did not start in time") from error
        if started.stdout != b"started\n":
            raise InjectionFailed(f"the neighbour on {card} did not say that it has started")

    def _are_on(self, card: str, pids: set[int]) -> bool:
        """Tells whether NVML lists all of these processes, or none that anybody here could know."""
        processes = self._ask(card, "nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return False
        listed = {process.pid for process in processes}
        return pids <= listed or not any(Path(f"/proc/{pid}").exists() for pid in listed)

    def _ask(self, card: str, question: str) -> Any:  # noqa: ANN401 (NVML's own structures)
        """Puts a question about a card to NVML; None when there is no answer."""
        handle = self._card(card)
        if handle is None:
            return None
        try:
            return getattr(self._nvml, question)(handle)
        except self._nvml.NVMLError:
            return None

    def _card(self, card: str) -> Any:  # noqa: ANN401 (NVML's own handle)
        """Returns NVML's handle of a card; None where there is no such card, or no NVML."""
        if self._nvml is None:
            return None
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(card)
        except self._nvml.NVMLError:
            return None

    @cached_property
    def _nvml(self) -> Any:  # noqa: ANN401 (a module without types)
        """NVML, loaded once it is needed; None on a machine that has none."""
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        return pynvml


def _neighbours_for(share: float) -> tuple[int, float]:
    """Returns how many neighbours take a share of a card's time, and for which part of it each of them needs the card.

    While n of them have work, whoever else has some gets one slice of n + 1.

    >>> _neighbours_for(0.5), _neighbours_for(0.75), _neighbours_for(0.25)
    ((1, 1.0), (3, 1.0), (1, 0.5))
    """
    count = math.ceil(share / (1.0 - share) - 1e-9)
    return count, share * (count + 1) / count


def _neighbours(injection_id: str, card: str | None = None, number: int | None = None) -> Iterator[tuple[int, int]]:
    """Yields pid and start time of every living neighbour of an injection, whoever started it."""
    script = [os.fsencode(_NEIGHBOUR), injection_id.encode()]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
            if arguments[2:4] != script or len(arguments) < 11:
                continue
            if card in {None, arguments[6].decode()} and number in {None, int(arguments[10])}:
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[19])
        except OSError:
            continue


def _end(pid: int, start_ticks: int, deadline_s: float) -> None:
    """Kills a process and waits until it has ended, or the deadline has passed."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_same_process(pid, start_ticks):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], max(0.0, deadline_s - time.monotonic()))
    except ProcessLookupError:
        return
    finally:
        os.close(process)
