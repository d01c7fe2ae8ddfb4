"""How faults are carried out on a simulated cluster: by writing into its world what a real one would suffer.

The world's laws (who notices, who restarts, what comes of it) belong to the cluster that reads it, not to this driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..clock import Instant
from ..errors import InjectionFailed, RepairFailed, TargetNotFound
from ..fault import Target
from ..files import sha256
from ..memory import Footprint, Squeeze
from ..network import Impairment
from ..node import Node
from ..pod import Instance
from ..registry import Version
from .world import Document, World


class SimulatedDriver:
    """Pods, memory, nodes, network, checkpoints, registry and repairs of a simulated cluster.

    Args:
        world: the cluster's document: `instances`, `killed`, `paused`, `squeezed`, `used_bytes`, `nodes`, `routes`,
            `impairments`, `checkpoints`, `registry`, `repairs`.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    # ---- Pods -------------------------------------------------------------------------------------------------------

    def instances(self, target: Target) -> Sequence[Instance]:
        """Returns the target's living instances."""
        with self._world.change() as world:
            _require(world, target)
            return [Instance(name, {}) for name in world["instances"][target.name] if name not in world["killed"]]

    def kill(self, instance: Instance) -> None:
        """Marks the instance as dead."""
        with self._world.change() as world:
            if _lives(world, instance):
                world["killed"][instance.id] = True

    def pause(self, instance: Instance, injection_id: str, until: Instant) -> None:
        """Marks the instance as held until the deadline."""
        self.starve(instance, 1.0, injection_id, until)

    def starve(self, instance: Instance, share: float, injection_id: str, until: Instant) -> None:
        """Marks the instance as held for a share of the time, until the deadline."""
        with self._world.change() as world:
            if _lives(world, instance):
                world["paused"][instance.id] = {"by": injection_id, "until": asdict(until), "share": share}

    def resume(self, instance: Instance, injection_id: str) -> None:
        """Lets the instance go, if it is this injection that holds it."""
        with self._world.change() as world:
            if world["paused"].get(instance.id, {}).get("by") == injection_id:
                del world["paused"][instance.id]

    def exists(self, instance: Instance) -> bool:
        """Tells whether the instance lives."""
        with self._world.change() as world:
            return _lives(world, instance)

    def is_paused(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether this injection holds the instance."""
        with self._world.change() as world:
            return bool(world["paused"].get(instance.id, {}).get("by") == injection_id)

    def is_starved(self, instance: Instance, injection_id: str) -> bool:
        """Tells whether this injection holds the instance for a part of the time."""
        with self._world.change() as world:
            hold = world["paused"].get(instance.id, {})
            return bool(hold.get("by") == injection_id and hold["share"] < 1.0)

    # ---- Memory -----------------------------------------------------------------------------------------------------

    def footprint(self, instance: Instance) -> Footprint:
        """Returns what the world says."""
        with self._world.change() as world:
            squeezed = world["squeezed"].get(instance.id)
            return Footprint(world["used_bytes"], squeezed["limit_bytes"] if squeezed else None)

    def squeeze(self, squeeze: Squeeze, injection_id: str, until: Instant) -> None:
        """Writes the new limit into the world."""
        with self._world.change() as world:
            if _lives(world, squeeze.instance):
                found = {"by": injection_id, "until": asdict(until), "limit_bytes": squeeze.limit_bytes}
                world["squeezed"][squeeze.instance.id] = found

    def relax(self, squeeze: Squeeze, injection_id: str) -> None:
        """Takes the limit out of the world, if it is this injection's."""
        with self._world.change() as world:
            if world["squeezed"].get(squeeze.instance.id, {}).get("by") == injection_id:
                del world["squeezed"][squeeze.instance.id]

    def is_squeezed(self, squeeze: Squeeze, injection_id: str) -> bool:
        """Tells whether this injection's limit holds."""
        with self._world.change() as world:
            return bool(world["squeezed"].get(squeeze.instance.id, {}).get("by") == injection_id)

    # ---- Nodes ------------------------------------------------------------------------------------------------------

    def node_of(self, target: Target) -> Node:
        """Returns the node that holds the target and nobody else."""
        with self._world.change() as world:
            _require(world, target)
            for name, node in world["nodes"].items():
                if node["holds"] == [target.name] and node["up"]:
                    return Node(name, {"born": node["born"]})
        raise TargetNotFound(f"{target} lives on no node of its own that is up")

    def take_down(self, node: Node) -> None:
        """Marks the node as down and all instances on it as dead."""
        with self._world.change() as world:
            if _is_up(world, node):
                world["nodes"][node.id]["up"] = False
                for component in world["nodes"][node.id]["holds"]:
                    world["killed"].update(dict.fromkeys(world["instances"][component], True))

    def let_go(self, node: Node) -> None:
        """Does nothing: here a node is never frozen."""

    def is_up(self, node: Node) -> bool:
        """Tells whether this very node is up."""
        with self._world.change() as world:
            return _is_up(world, node)

    def is_held(self, node: Node) -> bool:
        """Never."""
        return False

    # ---- Network ----------------------------------------------------------------------------------------------------

    def routes_into(self, target: Target) -> Sequence[str]:
        """Returns the edges into the target."""
        with self._world.change() as world:
            _require(world, target)
            return [route for route in world["routes"] if route.endswith(f"->{target.name}")]

    def impair(self, route: str, impairment: Impairment, injection_id: str, until: Instant) -> None:
        """Writes the impairment into the world."""
        with self._world.change() as world:
            if route not in world["routes"]:
                raise InjectionFailed(f"unknown route {route!r}; known are {', '.join(world['routes'])}")
            impaired = world["impairments"].setdefault(injection_id, {})
            impaired.setdefault(route, {"affected": 0}).update(**asdict(impairment), until=asdict(until))

    def clear(self, injection_id: str) -> None:
        """Takes the injection's impairments out of the world."""
        with self._world.change() as world:
            world["impairments"].pop(injection_id, None)

    def affected(self, injection_id: str) -> dict[str, int]:
        """Returns how often each of the injection's edges has felt it."""
        with self._world.change() as world:
            return {route: found["affected"] for route, found in world["impairments"].get(injection_id, {}).items()}

    # ---- Checkpoints ------------------------------------------------------------------------------------------------

    def newest_checkpoint(self, target: Target) -> str:
        """Returns the target's newest checkpoint."""
        with self._world.change() as world:
            _require(world, target)
            names: list[str] = [name for name in world["checkpoints"] if name.startswith(f"{target.name}/")]
        if not names:
            raise TargetNotFound(f"{target} has no checkpoint")
        return names[-1]

    def read(self, artefact: str) -> bytes | None:
        """Returns a checkpoint's bytes."""
        with self._world.change() as world:
            content = world["checkpoints"].get(artefact)
        return None if content is None else bytes.fromhex(content)

    def overwrite(self, artefact: str, content: bytes) -> None:
        """Replaces a checkpoint's bytes."""
        with self._world.change() as world:
            if artefact in world["checkpoints"]:
                world["checkpoints"][artefact] = content.hex()

    def set_aside(self, artefact: str, injection_id: str) -> None:
        """Moves a checkpoint to where nobody looks for any."""
        with self._world.change() as world:
            content = world["checkpoints"].pop(artefact, None)
            if content is not None:
                world["aside"][injection_id] = content

    def is_set_aside(self, artefact: str, injection_id: str) -> bool:
        """Tells whether one was moved there."""
        with self._world.change() as world:
            return injection_id in world["aside"]

    def is_missing(self, artefact: str) -> bool:
        """Tells whether the world lacks a checkpoint."""
        with self._world.change() as world:
            return artefact not in world["checkpoints"]

    def put_back(self, artefact: str, injection_id: str, content: bytes | None) -> None:
        """Puts a checkpoint into the world where there is none."""
        with self._world.change() as world:
            kept = world["aside"].pop(injection_id, None if content is None else content.hex())
            if kept is not None:
                world["checkpoints"].setdefault(artefact, kept)

    # ---- Registry ---------------------------------------------------------------------------------------------------

    def current(self, target: Target) -> Version:
        """Returns the version to serve."""
        with self._world.change() as world:
            _require(world, target)
            number: int | None = world["registry"]["current"]
            if number is None:
                raise TargetNotFound(f"the registry of {target} names no version")
            return Version(number, bytes.fromhex(world["registry"]["versions"][str(number)]["content"]))

    def free_number(self) -> int:
        """Returns one more than the newest version's number."""
        with self._world.change() as world:
            return max(map(int, world["registry"]["versions"])) + 1

    def add(self, version: Version, checksum: str, after: int) -> None:
        """Writes a version into the world."""
        with self._world.change() as world:
            registry = world["registry"]
            if registry["current"] not in {after, version.number}:
                raise InjectionFailed(f"version {after} is no longer the one to serve")
            registry["versions"][str(version.number)] = {"content": version.content.hex(), "sha256": checksum}
            registry["current"] = version.number

    def withdraw(self, number: int, content_sha256: str, back_to: int) -> None:
        """Takes a version out of the world."""
        if not self.holds(number, content_sha256):
            return
        with self._world.change() as world:
            registry = world["registry"]
            del registry["versions"][str(number)]
            if registry["current"] == number:
                registry["current"] = back_to

    def withhold(self, injection_id: str) -> None:
        """Lets the world's registry name no version."""
        with self._world.change() as world:
            registry = world["registry"]
            if injection_id not in registry["withheld"]:
                registry["withheld"][injection_id] = registry["current"]
                registry["current"] = None

    def hand_back(self, injection_id: str) -> None:
        """Lets it name again what it named."""
        with self._world.change() as world:
            registry = world["registry"]
            named = registry["withheld"].pop(injection_id, None)
            if registry["current"] is None:
                registry["current"] = named

    def is_withheld(self, injection_id: str) -> bool:
        """Tells whether this injection withholds it."""
        with self._world.change() as world:
            return injection_id in world["registry"]["withheld"]

    def holds(self, number: int, content_sha256: str) -> bool:
        """Tells whether the world has this version with these bytes."""
        with self._world.change() as world:
            version = world["registry"]["versions"].get(str(number))
        return version is not None and sha256(bytes.fromhex(version["content"])) == content_sha256

    def serves(self, number: int) -> bool:
        """Tells whether this is the version to serve."""
        with self._world.change() as world:
            return bool(world["registry"]["current"] == number)

    # ---- Repairs ----------------------------------------------------------------------------------------------------

    def repair(self, component: str, action: str) -> None:
        """Leaves the request for the cluster to carry out."""
        with self._world.change() as world:
            if component not in world["instances"]:
                raise RepairFailed(f"there is no component {component!r} to {action}")
            world["repairs"].append([component, action])


def _require(world: Document, target: Target) -> None:
    if target.name not in world["instances"]:
        raise TargetNotFound(f"there is no {target} on this cluster; known are {', '.join(world['instances'])}")


def _is_up(world: Document, node: Node) -> bool:
    found = world["nodes"][node.id]
    return bool(found["up"] and found["born"] == node.identity["born"])


def _lives(world: Document, instance: Instance) -> bool:
    alive = any(instance.id in names for names in world["instances"].values())
    return alive and instance.id not in world["killed"]
