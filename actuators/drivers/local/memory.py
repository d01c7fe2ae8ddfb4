"""Scarce memory of real processes: the soft limit on their data (RLIMIT_DATA), which their own user may lower.

The kernel refuses what would exceed it: an `mmap`, a growing heap, the stack of a new thread. It takes back nothing
that a process has. What comes of a refusal, a `MemoryError`, a hang or an exit, is decided by the process.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

from ...clock import Instant
from ...errors import RevertFailed, TargetNotFound
from ...fault import Target
from ...memory import Footprint, Squeeze
from ...pod import Instance
from . import holders
from .hold import MEMORY, UNLIMITED, data_limit, is_same_process, replace_data_limit
from .platform import Platform
from .pods import living_instances

_KIB = 1024


class LocalMemory:
    """The memory of the embedded cluster's processes; see `actuators.memory.Memory`.

    Args:
        platform: where they are found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def instances(self, target: Target) -> Sequence[Instance]:
        """Returns the target's processes that are alive, in the platform's order."""
        return living_instances(self._platform, target)

    def footprint(self, instance: Instance) -> Footprint:
        """Reads what the kernel counts against the limit, and the limit."""
        pid, _ = holders.process_of(instance)
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            (used_kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmData:"))
            limit_bytes, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
        except (OSError, ValueError) as error:
            raise TargetNotFound(f"{instance.id} has no memory that could be looked at: {error}") from error
        return Footprint(used_kib * _KIB, None if limit_bytes == UNLIMITED else limit_bytes)

    def squeeze(self, squeeze: Squeeze, injection_id: str, until: Instant) -> None:
        """Starts a holder that lowers the limit and restores it by itself at the deadline."""
        holders.begin(squeeze.instance, MEMORY, injection_id, until, squeeze.limit_bytes, _before(squeeze))

    def relax(self, squeeze: Squeeze, injection_id: str) -> None:
        """Ends the holder, then restores the limit.

        Raises:
            RevertFailed: it may not be restored.
        """
        holders.end(squeeze.instance, injection_id)
        try:
            replace_data_limit(*holders.process_of(squeeze.instance), squeeze.limit_bytes, _before(squeeze))
        except ValueError as error:  # somebody has lowered the hard limit meanwhile
            raise RevertFailed(f"{squeeze.instance.id} does not get its memory back: {error}") from error

    def exists(self, instance: Instance) -> bool:
        """Tells whether the process is alive."""
        return is_same_process(*holders.process_of(instance))

    def is_squeezed(self, squeeze: Squeeze, injection_id: str) -> bool:
        """Tells whether the process has the lowered limit, or a holder of this injection lives."""
        pid, start_ticks = holders.process_of(squeeze.instance)
        return any(holders.living(injection_id, pid)) or data_limit(pid, start_ticks) == squeeze.limit_bytes


def _before(squeeze: Squeeze) -> int:
    return UNLIMITED if squeeze.before_bytes is None else squeeze.before_bytes
