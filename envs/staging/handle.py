"""The handle: the one file through which others find a platform.

Those who measure it and those who act on it read the same file and share nothing else. It is replaced atomically, only
its owner may read it, and it never holds switches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .errors import BadInput, StagingError
from .files import write_atomically
from .processes import ProcessId

VERSION = 1

State: TypeAlias = Literal["starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that serves or works.

    Attributes:
        id: component and pid.
        pid: its process.
        start_ticks: see `processes.ProcessId`.
        metrics_url: where it exports its metrics.
        card: the GPU that it works on, by NVML's name for it; empty for none.
    """

    id: str
    pid: int
    start_ticks: int
    metrics_url: str
    card: str = ""

    @property
    def process(self) -> ProcessId:
        """The process as one of this boot."""
        return ProcessId(self.pid, self.start_ticks)


@dataclass(frozen=True, slots=True)
class Component:
    """One component of the platform.

    Attributes:
        role: what it does.
        labels: what its owners wrote on it.
        depends_on: components that it calls.
        desired: how many instances it should have.
        routes_in: routes of the fault proxy that lead to it.
        node: where it runs: one of the platform's nodes, or the host.
        instances: those that are alive and have answered; of the trainer, the writer of checkpoints first.
    """

    role: str
    labels: Mapping[str, str]
    depends_on: tuple[str, ...]
    desired: int
    routes_in: tuple[str, ...]
    node: str
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class Observer:
    """Something that measures and is never a target."""

    metrics_url: str


@dataclass(frozen=True, slots=True)
class Handle:
    """Everything others need to know about a platform.

    Attributes:
        cluster_id: which cluster it is.
        environment: what sort of environment it is.
        state: starting, ready or failed.
        error: why it failed.
        boot_id: the boot that all pids belong to.
        guard: who ends the platform.
        session_id: session of the platform's processes; 0 until it has one.
        root: its folder.
        control_socket: where repairs are asked for.
        proxy_socket: control socket of the fault proxy.
        paths: folders of checkpoints, registry and traces.
        startup_s: when each part was up, seconds after the start.
        components: by name.
        observers: by name.
        nodes: the process that is a node, by the node's name; whatever runs on it descends from it. What runs on the
            host itself has no node that could be lost.
    """

    cluster_id: str
    environment: str
    state: State
    boot_id: str
    guard: ProcessId
    session_id: int
    root: str
    control_socket: str
    proxy_socket: str
    paths: Mapping[str, str]
    error: str | None = None
    startup_s: Mapping[str, float] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)
    observers: Mapping[str, Observer] = field(default_factory=dict)
    nodes: Mapping[str, ProcessId] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the handle as one JSON object."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Handle:
        """Reads what `to_json` wrote.

        Raises:
            StagingError: it is no handle of this version.
        """
        try:
            data = json.loads(text)
            if data.pop("version") != VERSION:
                raise ValueError(f"its version is not {VERSION}")
            return cls(**data | _typed(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StagingError(f"not a platform handle: {error}") from error


def read(path: Path) -> Handle:
    """Reads a handle.

    Raises:
        FileNotFoundError: there is none.
        BadInput: it cannot be read.
        StagingError: the file is no handle.
    """
    try:
        return Handle.from_json(path.read_text())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"the handle {path} cannot be read: {error.strerror}") from None
    except StagingError as error:
        raise StagingError(f"{path} is {error}") from error


def write(path: Path, handle: Handle) -> None:
    """Replaces a handle atomically."""
    write_atomically(path, handle.to_json().encode())


def create(path: Path, handle: Handle) -> None:
    """Writes the first handle of a platform.

    Raises:
        BadInput: there is one already, or it cannot be written.
    """
    own = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(own, handle)
        try:
            os.link(own, path)  # unlike a rename, a link never replaces: of two platforms, one wins
        finally:
            own.unlink()
    except FileExistsError:
        raise BadInput(f"{path} exists: another platform is starting there") from None
    except OSError as error:
        raise BadInput(f"the handle {path} cannot be written: {error.strerror}") from None


def _typed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "guard": ProcessId(**data["guard"]),
        "components": {name: _component(value) for name, value in data["components"].items()},
        "observers": {name: Observer(**value) for name, value in data["observers"].items()},
        "nodes": {name: ProcessId(**value) for name, value in data.get("nodes", {}).items()},
    }


def _component(data: Mapping[str, Any]) -> Component:
    lists = {
        "depends_on": tuple(data["depends_on"]),
        "routes_in": tuple(data["routes_in"]),
        "instances": tuple(Instance(**instance) for instance in data["instances"]),
    }
    return Component(**{**data, **lists})
