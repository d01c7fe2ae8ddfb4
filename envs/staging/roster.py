"""Who is there now: plain processes of ours, and processes of Ray's that announced themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .announcements import living
from .handle import Component, Instance
from .monitor import ComponentView, View
from .plain_process import PlainProcess


class Roster:
    """Keeps track of the instances of every component.

    Args:
        described: every component, without instances.
        plain: those that are one plain process, and the URL of its metrics.
        announcements: folder in which all others say where they are.
    """

    def __init__(
        self,
        described: Mapping[str, Component],
        plain: Mapping[str, tuple[PlainProcess, str]],
        announcements: Path,
    ) -> None:
        self._described = described
        self._plain = plain
        self._announcements = announcements
        self._seen: defaultdict[str, set[str]] = defaultdict(set)
        self._desired = {name: component.desired for name, component in described.items()}
        self._ordered = dict(self._desired)
        self._restarts = dict.fromkeys(described, 0)

    def look(self, training_running: bool | None, desired: Mapping[str, int] | None = None) -> View:
        """Returns who is alive now.

        Args:
            training_running: see `View`.
            desired: how many instances there should be now, of components of which that changes.
        """
        for name, number in (desired or {}).items():
            self._ordered[name] += max(0, number - self._desired[name])
            self._desired[name] = number
        alive: dict[str, list[Instance]] = {name: [] for name in self._described}
        for name, (process, metrics_url) in self._plain.items():
            if (running := process.id) is not None:
                instance = Instance(f"{name}/{running.pid}", running.pid, running.start_ticks, metrics_url)
                alive[name].append(instance)
        for announcement in living(self._announcements):
            alive[announcement.component].append(announcement.instance)
        for name, instances in alive.items():
            self._seen[name].update(instance.id for instance in instances)
            # Whoever comes because there are to be more is no restart. It may be ordered long before it comes.
            self._restarts[name] = max(self._restarts[name], len(self._seen[name]) - self._ordered[name])
        views = {
            name: ComponentView(self._desired[name], tuple(alive[name]), self._restarts[name])
            for name in self._described
        }
        return View(views, training_running)

    def listed(self, view: View, has_answered: Callable[[Instance], bool]) -> dict[str, Component]:
        """Returns every component with those of its instances that are alive and have ever answered."""
        return {
            name: replace(
                component,
                desired=view.components[name].desired,
                instances=tuple(filter(has_answered, view.components[name].instances)),
            )
            for name, component in self._described.items()
        }
