"""The laws that every actuator keeps, on every driver: simulated, and real processes, sockets and files."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from actuators.actuator import Actuator
from actuators.by_kind import ByKind
from actuators.catalogue import CATALOGUE, kind_of
from actuators.checkpoint import Checkpoints
from actuators.clock import BootClock, Clock, ManualClock
from actuators.data import DataActuator
from actuators.drivers.local.checkpoints import LocalCheckpoints
from actuators.drivers.local.datasets import LocalDatasets
from actuators.drivers.local.gpus import LocalGpus
from actuators.drivers.local.memory import LocalMemory
from actuators.drivers.local.network import LocalNetwork
from actuators.drivers.local.nodes import LocalNodes
from actuators.drivers.local.platform import Platform
from actuators.drivers.local.pods import LocalPods
from actuators.drivers.local.registry import LocalRegistry
from actuators.drivers.world import FileWorld
from actuators.errors import TargetNotFound
from actuators.fault import Fault, Injection, Target
from actuators.gpu import GpuActuator
from actuators.memory import MemoryActuator
from actuators.model import model_actuator
from actuators.network import NetworkActuator
from actuators.node import NodeActuator
from actuators.pod import PodActuator, reach
from agent.build.simulated import simulated_actuators
from envs.clusters.simulated.hidden import Hidden, empty_world
from tests.bare_platform import bare_platform
from tests.waiting import wait_until

TARGET = {
    "pod.kill": "model-server",
    "pod.pause": "model-server",
    "network.delay": "feature-store",
    "network.loss": "feature-store",
    "network.partition": "feature-store",
    "network.bandwidth": "feature-store",
    "model.checkpoint_corrupt": "trainer",
    "model.checkpoint_delete": "trainer",
    "model.registry_corrupt": "model-server",
    "model.registry_unavailable": "model-server",
    "model.bad_canary": "model-server",
    "pod.cpu_stress": "model-server",
    "pod.node_kill": "model-server",
    **dict.fromkeys([kind for kind in CATALOGUE if kind.startswith("data.")], "stream"),
    "pod.memory_stress": "model-server",
    "gpu.memory_pressure": "trainer",
    "gpu.compute_contention": "trainer",
}
FLOWING = ("network", "data")
"""Families whose faults are felt by what flows, and that go on counting while they are in force."""

TAKES_WITHIN_S = 30.0
"""Until a symptom shows: a neighbour on a card imports torch first."""


@dataclass
class Place:
    """Where the laws are tried."""

    make: Callable[[], Mapping[str, Actuator]]
    observe: Callable[[], object]
    clock: Clock

    def actuator(self, kind: str) -> Actuator:
        return self.make()[kind_of(kind).family]

    def receipt(self, kind: str, name: str = "bb-law", duration_s: float = 60.0) -> Injection:
        fault = Fault(kind, Target(TARGET[kind]), 0.5, duration_s)
        undo = self.actuator(kind).prepare(name, fault)
        now = self.clock.now()
        return Injection(name, fault, undo, now, now.after(duration_s), 1)


DRIVERS = ("simulated", "local")


@pytest.fixture(params=DRIVERS)
def place(request, tmp_path) -> Iterator[Place]:
    with begun(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=DRIVERS, scope="module")
def untouched(request, tmp_path_factory) -> Iterator[Place]:
    """One place for all tests of what harms nothing."""
    with begun(request.param, tmp_path_factory.mktemp("untouched")) as place:
        yield place


class Undone:
    """A place for one test after the other that leaves no trace; who leaves one is the last in it."""

    def __init__(self, driver: str, folders: Iterator[Path]) -> None:
        self._driver, self._folders = driver, folders
        self._ends = ExitStack()
        self._place: Place | None = None

    @contextmanager
    def place(self) -> Iterator[Place]:
        if self._place is None:
            self._place = self._ends.enter_context(begun(self._driver, next(self._folders)))
        before = self._place.observe()
        try:
            yield self._place
        finally:
            if self._place.observe() != before:
                self.close()

    def close(self) -> None:
        self._ends.close()
        self._place = None


@pytest.fixture(params=DRIVERS, scope="module")
def undone_places(request, tmp_path_factory) -> Iterator[Undone]:
    places = Undone(request.param, (tmp_path_factory.mktemp("undone") for _ in itertools.count()))
    yield places
    places.close()


@pytest.fixture
def undone(undone_places) -> Iterator[Place]:
    with undone_places.place() as place:
        yield place


@contextmanager
def begun(driver: str, folder: Path) -> Iterator[Place]:
    """Begins a place where one driver's laws are tried, and ends it."""
    with ExitStack() as ends:
        if driver == "simulated":
            world = FileWorld(folder / "world.json", empty_world(Hidden()))

            def observe() -> object:
                with world.change() as document:
                    return copy.deepcopy(document)

            yield Place(lambda: simulated_actuators(world, folder / "kept")[0], observe, ManualClock())
        else:
            platform = ends.enter_context(bare_platform(folder))
            yield Place(lambda: local_actuators(platform.handle, folder / "kept"), platform.observable, BootClock())


def local_actuators(handle: Path, keep: Path) -> Mapping[str, Actuator]:
    platform = Platform(handle)
    pods = LocalPods(platform)
    return {
        "pod": ByKind(
            {
                **dict.fromkeys(("pod.kill", "pod.pause", "pod.cpu_stress"), PodActuator(pods)),
                "pod.node_kill": NodeActuator(LocalNodes(platform)),
                "pod.memory_stress": MemoryActuator(LocalMemory(platform)),
            }
        ),
        "network": NetworkActuator(LocalNetwork(platform)),
        "data": DataActuator(LocalDatasets(platform)),
        "model": model_actuator(LocalCheckpoints(platform), LocalRegistry(platform), pods, keep),
        "gpu": GpuActuator(LocalGpus(platform, device="cpu")),
    }


every_kind = pytest.mark.parametrize("kind", CATALOGUE)
undone_kinds = pytest.mark.parametrize("kind", [name for name, kind in CATALOGUE.items() if kind.reversible])


@every_kind
def test_preparing_harms_nothing(untouched, kind):
    before = untouched.observe()
    untouched.receipt(kind)
    assert untouched.observe() == before


@every_kind
def test_a_fault_shows_its_symptom(place, kind):
    injection = place.receipt(kind)
    assert not place.actuator(kind).took(injection)
    place.actuator(kind).inject(injection)
    if kind_of(kind).family in FLOWING and isinstance(place.clock, ManualClock):
        return  # nothing flows in a world whose time stands still
    wait_until(lambda: place.actuator(kind).took(injection), within_s=TAKES_WITHIN_S)
    place.actuator(kind).revert(injection)


@every_kind
def test_reverting_before_injecting_is_fine(untouched, kind):
    injection = untouched.receipt(kind, name=f"bb-{kind}")
    before = untouched.observe()
    untouched.actuator(kind).revert(injection)
    assert untouched.actuator(kind).probe_clean(injection)
    assert untouched.observe() == before


@undone_kinds
def test_inject_then_revert_restores_what_can_be_observed(undone, kind):
    before = undone.observe()
    injection = undone.receipt(kind, name=f"bb-restored-{kind}")
    actuator = undone.actuator(kind)
    actuator.inject(injection)
    assert undone.observe() != before
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert undone.observe() == before


@every_kind
def test_twice_equals_once(place, kind):
    injection = place.receipt(kind)
    actuator = place.actuator(kind)
    actuator.inject(injection)
    if kind_of(kind).family not in FLOWING:
        wait_until(lambda: actuator.took(injection), within_s=TAKES_WITHIN_S)
    once = _without_counts(place.observe())
    actuator.inject(injection)
    assert _without_counts(place.observe()) == once
    actuator.revert(injection)
    once = place.observe()
    actuator.revert(injection)
    assert place.observe() == once
    assert actuator.probe_clean(injection)


@every_kind
def test_a_target_that_dies_in_the_middle_is_no_leak(place, kind):
    """Whatever took it away took the fault along, or left what a revert finds all the same."""
    injection = place.receipt(kind)
    actuator = place.actuator(kind)
    actuator.inject(injection)
    everybody = Fault("pod.kill", Target(TARGET[kind]), 1.0, 60.0)
    try:
        undo = place.actuator("pod.kill").prepare("bb-death", everybody)
    except TargetNotFound:
        undo = None  # the fault itself has left nobody alive
    if undo is not None:
        now = place.clock.now()
        place.actuator("pod.kill").inject(Injection("bb-death", everybody, undo, now, now.after(60.0), 1))
    actuator.revert(injection)
    assert actuator.probe_clean(injection)


@every_kind
def test_a_fresh_process_can_revert_from_the_receipt_alone(place, kind):
    """The receipt crosses a process boundary as JSON, and none of the first process's objects are there."""
    injection = place.receipt(kind)
    place.actuator(kind).inject(injection)
    child = multiprocessing.get_context("fork").Process(target=_revert, args=(place, kind, injection.to_json()))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert place.actuator(kind).probe_clean(injection)


def _revert(place, kind, receipt):
    place.actuator(kind).revert(Injection.from_json(receipt))


@every_kind
def test_a_receipt_is_json(untouched, kind):
    injection = untouched.receipt(kind)
    assert Injection.from_json(json.dumps(json.loads(injection.to_json()))) == injection


@pytest.mark.parametrize("kind", [name for name, kind in CATALOGUE.items() if kind.scope == "instance"])
def test_a_fault_of_single_instances_says_of_how_many(untouched, kind):
    """Guards judge that again before it is done; who does not say is refused."""
    assert reach(untouched.receipt(kind).undo) == (1, 2)


@every_kind
def test_a_missing_target_is_named(untouched, kind):
    with pytest.raises(TargetNotFound, match="nobody"):
        untouched.actuator(kind).prepare("bb-law", Fault(kind, Target("nobody"), 0.5, 10.0))


@undone_kinds
def test_another_injections_fault_is_left_alone(undone, kind):
    """Everything is named from the id: reverting one never takes out another."""
    injection = undone.receipt(kind, name=f"bb-alone-{kind}")
    other = undone.receipt(kind, name=f"bb-other-{kind}")
    undone.actuator(kind).inject(injection)
    undone.actuator(kind).revert(other)
    assert not undone.actuator(kind).probe_clean(injection)
    undone.actuator(kind).revert(injection)


# ---- a deleted checkpoint, and a platform that drops old ones by itself ---------------------------------------------


@pytest.fixture
def restored(place) -> tuple[Place, Injection, Checkpoints]:
    """A checkpoint that was deleted and restored."""
    injection = place.receipt("model.checkpoint_delete")
    actuator = place.actuator("model.checkpoint_delete")
    actuator.inject(injection)
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    return place, injection, actuator._actuators["model.checkpoint_delete"]._checkpoints


def test_a_checkpoint_that_the_platform_drops_after_the_undo_is_not_ours(restored):
    """The watchdog looks once more after the deadline: what the platform has rotated away meanwhile is no leak."""
    place, injection, checkpoints = restored
    checkpoints.set_aside(injection.undo["artefact"], "the platform")
    actuator = place.actuator("model.checkpoint_delete")
    assert actuator.probe_clean(injection)
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert checkpoints.is_missing(injection.undo["artefact"])


def test_a_deletion_that_comes_after_the_undo_is_seen_and_undone(restored):
    """An agent that was frozen in the middle of its act may finish it after everybody thought it dead."""
    place, injection, checkpoints = restored
    before = checkpoints.read(injection.undo["artefact"])
    checkpoints.set_aside(injection.undo["artefact"], injection.id)
    actuator = place.actuator("model.checkpoint_delete")
    assert not actuator.probe_clean(injection)
    actuator.revert(injection)
    assert actuator.probe_clean(injection)
    assert checkpoints.read(injection.undo["artefact"]) == before
    assert not checkpoints.is_set_aside(injection.undo["artefact"], injection.id)


@pytest.mark.parametrize("kind", ["model.checkpoint_corrupt", "model.checkpoint_delete"])
def test_a_checkpoint_that_is_not_the_newest_any_more_is_not_damaged(tmp_path, kind):
    """What was saved between the plan and the kill is what a restart reads: damage to another one shows nothing."""
    with bare_platform(tmp_path) as platform:
        actuator = local_actuators(platform.handle, tmp_path / "kept")["model"]
        fault, now = Fault(kind, Target("trainer"), 0.5, 10.0), BootClock().now()
        injection = Injection("bb-old", fault, actuator.prepare("bb-old", fault), now, now.after(10.0), 1)
        before = platform.checkpoint.read_bytes()
        platform.checkpoint.with_name("checkpoint-000002.safetensors").write_bytes(b"newer")
        actuator.inject(injection)
        assert not actuator.took(injection)
        assert platform.checkpoint.read_bytes() == before
        actuator.revert(injection)
        assert actuator.probe_clean(injection)


def test_a_clock_that_goes_back_hides_no_checkpoint(tmp_path):
    with bare_platform(tmp_path) as platform:
        tomorrow_s = time.time() + 86_400.0
        os.utime(platform.checkpoint, (tomorrow_s, tomorrow_s))
        kept = platform.checkpoint.read_bytes()
        assert LocalCheckpoints(Platform(platform.handle)).read(str(platform.checkpoint)) == kept


def test_what_cannot_be_undone_says_so():
    assert {name for name, kind in CATALOGUE.items() if not kind.reversible} == {
        "pod.kill",
        "pod.node_kill",
        "model.checkpoint_corrupt",
        "model.checkpoint_delete",
        "model.registry_corrupt",
        "model.registry_unavailable",
    }


def _without_counts(observed):
    """Drops what goes on counting while a fault is in force."""
    text = json.dumps(observed, default=repr, sort_keys=True)
    data = json.loads(text)
    for fault in data.get("proxy", []) if isinstance(data, dict) else []:
        fault.pop("affected")
    return data
