"""What still runs of a cluster that is over: agents, watchdogs, and platforms with holders and Ray's helpers."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import psutil

from ..build.local import handle_path
from ..settings import Settings


class Remains:
    """Gathers, while platforms live, by what their processes can be known once they should have ended.

    Agents and watchdogs have a folder of the cluster in their command lines. What a platform starts need not, but is of
    its session or names its folder, and both stand in a file that goes with the platform.

    Args:
        settings: of the cluster.
    """

    def __init__(self, settings: Settings) -> None:
        self._handle = handle_path(settings)
        self._places = {str(folder.resolve()) for folder in (settings.cluster_state_dir, settings.runs_dir)}
        self._sessions: set[int] = set()

    def look(self) -> None:
        """Takes a look at the platform that is there now, if there is one."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(self._handle.read_text(encoding="utf-8"))
            self._places.add(str(said["root"]))
            if int(said["session_id"]) != 0:  # before it has one of its own
                self._sessions.add(int(said["session_id"]))

    def running(self) -> list[str]:
        """Returns the processes that still work for the cluster, this one left out."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            pid, command = process.info["pid"], " ".join(process.info["cmdline"] or ())
            try:
                in_session = os.getsid(pid) in self._sessions
            except OSError:  # it has ended meanwhile
                continue
            is_ours = in_session or any(f"{place}/" in f"{command}/" for place in self._places)
            if is_ours and pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(f"{pid} {command[:120]}")
        return found
