"""Who serves or works where: a folder with one file per process.

Processes that Ray starts and restarts take any free port for their exporter, so they say themselves where they are. A
file of a dead process means nothing and is dropped by the next reader.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .files import write_atomically
from .handle import Instance
from .processes import identify_self


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a process says of itself.

    Attributes:
        component: whose instance it is.
        place: its number within the component; 0 comes first.
        instance: the process.
    """

    component: str
    place: int
    instance: Instance


def announce(folder: Path, component: str, metrics_url: str, place: int = 0, card: str = "") -> None:
    """Says where the calling process is, and on which GPU it works, if any."""
    own = identify_self()
    instance = Instance(f"{component}/{own.pid}", own.pid, own.start_ticks, metrics_url, card)
    text = json.dumps(asdict(Announcement(component, place, instance)))
    write_atomically(folder / f"{component}-{os.getpid()}.json", text.encode())


def living(folder: Path) -> list[Announcement]:
    """Returns the announcements of processes that are alive, in order of component, place and age."""
    found = []
    for path in folder.glob("[!.]*.json"):
        data = json.loads(path.read_text())
        announcement = Announcement(data["component"], data["place"], Instance(**data["instance"]))
        if announcement.instance.process.is_alive():
            found.append(announcement)
        else:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda one: (one.component, one.place, one.instance.start_ticks))
