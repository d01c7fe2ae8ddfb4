"""The end of real nodes: a raylet, and every process that descends from it."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from pathlib import Path

from ...errors import InjectionFailed, TargetNotFound
from ...fault import Target
from ...node import Node
from . import holders
from .hold import is_same_process, send, stat_of
from .platform import ANSWER_WITHIN_S, Platform

_LOOK_AGAIN_S = 0.005
_ENDED = "ZX"
_STOPPED = "Tt"


class LocalNodes:
    """The nodes of the embedded cluster; see `actuators.node.Nodes`.

    Args:
        platform: where they are found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def node_of(self, target: Target) -> Node:
        """Returns the raylet that the target's processes descend from."""
        name = self._platform.component(target)["node"]
        handle = self._platform.read()
        raylet = handle.get("nodes", {}).get(name)
        if raylet is None or not is_same_process(raylet["pid"], raylet["start_ticks"]):
            raise TargetNotFound(f"{target} lives on {name}, and no such node is up")
        components = handle["components"].items()
        others = [other for other, found in components if found["node"] == name and other != target.name]
        if others:
            raise TargetNotFound(f"{target} lives on {name} together with {', '.join(others)}; no node is its alone")
        return Node(name, raylet)

    def take_down(self, node: Node) -> None:
        """Freezes the raylet and all its descendants, kills them, the raylet last, and waits until they are gone.

        Raises:
            InjectionFailed: one of them does not end.
        """
        raylet = _process(node)
        if not is_same_process(*raylet):
            return
        tree = _frozen(raylet)
        for process in reversed(tree):
            send(*process, signal.SIGKILL)
        # The kernel ends them in any order, and a node without its raylet counts as lost.
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while left := [pid for pid, start_ticks in tree if is_same_process(pid, start_ticks)]:
            if time.monotonic() > deadline_s:
                raise InjectionFailed(f"processes {left} of {node.id} were killed and do not end")
            time.sleep(_LOOK_AGAIN_S)

    def let_go(self, node: Node) -> None:
        """Lets the raylet and its descendants run, if it is still there, but for those that a later fault stops."""
        for process in _tree(_process(node)):
            if not holders.stoppers(process[0]):  # of the others even those that run: a stop may be on its way to them
                send(*process, signal.SIGCONT)

    def is_up(self, node: Node) -> bool:
        """Tells whether the raylet is alive."""
        return is_same_process(*_process(node))

    def is_held(self, node: Node) -> bool:
        """Tells whether the raylet is alive, and it or a descendant is stopped by nobody else."""
        tree = _tree(_process(node))
        return any(_state(pid) in _STOPPED and not holders.stoppers(pid) for pid, _ in tree)


def _process(node: Node) -> tuple[int, int]:
    return int(node.identity["pid"]), int(node.identity["start_ticks"])


def _tree(root: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns a process and all its descendants; nobody where it is gone."""
    return [root, *_descendants(root)] if is_same_process(*root) else []


def _frozen(root: tuple[int, int]) -> list[tuple[int, int]]:
    """Freezes a tree from its root down and returns all of it: who is frozen starts nobody who could be missed."""
    tree: list[tuple[int, int]] = []
    deadline_s = time.monotonic() + ANSWER_WITHIN_S
    while time.monotonic() < deadline_s:
        found = [root, *_descendants(root)]
        new = [process for process in found if process not in tree]
        for process in new:
            send(*process, signal.SIGSTOP)
        tree += new
        if not new and all(_state(pid) in _STOPPED + _ENDED for pid, _ in tree):
            break
        time.sleep(_LOOK_AGAIN_S)
    return tree


def _descendants(root: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns pid and start time of every living descendant, parents before their children."""
    children: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))) and stat[0] not in _ENDED:
            children[int(stat[1])].append((int(entry.name), int(stat[19])))
    found, parents = [], [root]
    while parents:
        parents = [child for pid, _ in parents for child in children[pid]]
        found += parents
    return found


def _state(pid: int) -> str:
    """Returns the letter of a process's state; the one of the dead where there is none."""
    return (_stat(pid) or [_ENDED[0]])[0]


def _stat(pid: int) -> list[str]:
    """Returns the fields of a process's stat from its state on, none when there is no such process."""
    try:
        return stat_of(pid)
    except OSError:
        return []
