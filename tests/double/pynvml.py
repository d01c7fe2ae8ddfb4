"""A double of NVML: one card whose processes are real ones, and whose memory is what they really hold.

Found in place of the real `pynvml` by whoever has this folder on its path, in whichever process (`tests/cards.py`). The
card is a file; everything that follows from it is looked up when asked for, so that a process that dies frees its
memory as on a real card. Only what is used of NVML is here, under the same names; a test holds it to the real one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

CARD = "BACKBURN_TEST_CARD"
"""Environment variable that names the card's file: `uuid`, `total` and `others` (bytes by pid), and `broken`."""

_SAMPLED_S = 0.2


class NVMLError(Exception):
    """What the real one raises on every failure."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801 (its name)
    """No driver."""


class NVMLError_NotFound(NVMLError):  # noqa: N801 (its name)
    """No such card."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801 (its name)
    """The card does not tell."""


def nvmlInit() -> None:  # noqa: N802
    if not Path(os.environ.get(CARD, "/nowhere")).exists():
        raise NVMLError_LibraryNotFound


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:  # noqa: N802
    if uuid != _card()["uuid"]:
        raise NVMLError_NotFound
    return uuid


def nvmlDeviceGetMemoryInfo(handle: str, version: object = None) -> SimpleNamespace:  # noqa: N802
    _refuse_if_broken("memory")
    used = sum(process.usedGpuMemory for process in nvmlDeviceGetComputeRunningProcesses(handle))
    total = _card()["total"]
    return SimpleNamespace(total=total, free=max(0, total - used), used=min(used, total))


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[SimpleNamespace]:  # noqa: N802
    _refuse_if_broken("processes")
    others = {int(pid): size for pid, size in _card()["others"].items() if Path(f"/proc/{pid}").exists()}
    found = others | {pid: _held(pid) for pid in _neighbours(handle)}
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in found.items() if size]


def nvmlDeviceGetUtilizationRates(handle: str) -> SimpleNamespace:  # noqa: N802
    _refuse_if_broken("utilisation")
    pids = list(_neighbours(handle))
    before, began_s = _cpu_s(pids), time.monotonic()
    time.sleep(_SAMPLED_S)  # the real one, too, tells of a time that has passed
    busy = (_cpu_s(pids) - before) / (time.monotonic() - began_s)
    return SimpleNamespace(gpu=min(100, round(100 * busy)), memory=0)


def _card() -> dict:
    return json.loads(Path(os.environ[CARD]).read_text())


def _refuse_if_broken(what: str) -> None:
    if what in _card().get("broken", []):
        raise NVMLError_NotSupported


def _neighbours(card: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal():
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(one.endswith(b"/neighbour.py") for one in arguments) and card.encode() in arguments:
                    yield int(entry.name)
        except OSError:
            continue


def _held(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _cpu_s(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        try:
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")
