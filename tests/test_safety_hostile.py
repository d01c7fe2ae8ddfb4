"""A policy that wants to do harm: a million actions before the guards, ten thousand through the door."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from actuators.catalogue import CATALOGUE, instances_hit
from actuators.clock import ManualClock
from actuators.drivers.world import MemoryWorld
from actuators.errors import BadInput
from actuators.fault import Fault, Injection, Target
from agent.build.simulated import simulated_actuators
from envs.clusters.simulated.hidden import Hidden, empty_world
from safety.guards import Refusal, judge
from safety.journal import Journal
from safety.lease import Lease
from safety.lever import Lever
from safety.limits import OPT_IN_LABEL, Limits
from safety.supervisor import Supervisor
from safety.vitals import ComponentVitals, Identity, Vitals
from tests.contracts.test_actuators import TARGET
from tests.simulation import FakeGuardian

GUARDED, THROUGH_THE_DOOR = 1_000_000, 10_000
NAN, INF = float("nan"), float("inf")
KINDS = [*CATALOGUE, "pod.rm_rf", "", "network"]
NAMES = ["model-server", "trainer", "feature-store", "stream", "gateway", "prod-db", "nobody", "../etc", ""]


class Hostile:
    """Draws the worst that can be asked for, in the worst moments."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def fault(self) -> Fault | None:
        draw = self.random
        try:
            return Fault(
                draw.choice(KINDS),
                Target(draw.choice(NAMES)),
                draw.choice([0.25, 0.5, 1.0, 1.0, 1.0, 1e-9, 0.0, -1.0, 2.0, NAN, INF]),
                draw.choice([9.0, 45.0, 60.0, 60.0001, 1e9, 0.0, -5.0, NAN, INF]),
            )
        except BadInput:
            return None  # refused before any guard is asked

    def nearly_legal(self) -> Fault:
        """What fits its target, as hard and as long as can be."""
        kind = self.random.choice(list(TARGET))
        return Fault(kind, Target(TARGET[kind]), self.random.choice([0.25, 0.5, 1.0]), self.random.choice([9.0, 60.0]))

    def limits(self) -> Limits:
        draw = self.random
        return Limits(
            environment=draw.choice(["staging", "staging", "staging", "production", ""]),
            cluster_id=draw.choice(["c1", "c1", "c1", "c2", ""]),
            max_open=draw.choice([1, 1, 2]),
            max_instances=draw.choice([0, 1, 2]),
            max_share=draw.choice([0.0, 0.25, 0.5, 1.0]),
            whole_component=tuple(draw.sample(NAMES, draw.choice([0, 2, 5]))),
            irreversible=tuple(draw.sample(list(CATALOGUE), draw.choice([0, 3, 10]))),
        )

    def vitals(self) -> Vitals:
        draw = self.random
        labels = [{OPT_IN_LABEL: "true"}] * 3 + [{}, {OPT_IN_LABEL: "false"}, {OPT_IN_LABEL: "True"}]
        components = {
            name: ComponentVitals(draw.choice([None, 0, 1, 2]), draw.choice([1, 1, 2, 4, 0, -1]), draw.choice(labels))
            for name in NAMES[:6]
        }
        open_fault = Fault("pod.pause", Target(draw.choice(NAMES[:5])), 1.0, 9.0)
        return Vitals(
            identity=Identity(
                draw.choice(["c1"] * 6 + ["c2", "prod-1"]), draw.choice(["staging"] * 6 + ["production"])
            ),
            components=components,
            service_levels={},
            age_s=draw.choice([0.0, 0.1, 0.1, 0.1, 3.1, NAN, INF]),
            unsteady=draw.choice([(), (), (), (), None, ("client/error_share",)]),
            open_faults=draw.choice([(), (), (), (open_fault,)]),
            quarantined=draw.choice([frozenset()] * 4 + [frozenset({"trainer"})]),
            firing_alerts=draw.choice([(), (), (), None, ("Down",)]),
        )


def violations(fault: Fault, vitals: Vitals, limits: Limits) -> Iterator[str]:
    """Says, in words of its own, everything that is wrong with a fault that was permitted."""
    entry = CATALOGUE.get(fault.kind)
    if entry is None:
        yield "unknown kind"
        return
    component = vitals.components.get(fault.target.name)
    if component is None or component.labels.get(OPT_IN_LABEL) != "true":
        yield "no opt-in"
        return
    if not vitals.age_s <= limits.stale_after_s:
        yield "old data"
    if (vitals.identity.cluster_id, vitals.identity.environment) != (limits.cluster_id, limits.environment):
        yield "wrong cluster"
    if "prod" in vitals.identity.cluster_id + "|" + vitals.identity.environment + "|" + fault.target.name:
        yield "denied name"
    if vitals.unsteady != () or vitals.firing_alerts != ():
        yield "not a quiet moment"
    if fault.target.name in vitals.quarantined:
        yield "quarantined"
    if len(vitals.open_faults) >= limits.max_open or fault.target in [each.target for each in vitals.open_faults]:
        yield "too many at once"
    if not 0.0 < fault.duration_s <= limits.max_duration_s:
        yield "too long"
    if not entry.reversible and fault.kind not in limits.irreversible:
        yield "cannot be undone"
    living = component.total if component.ready is None else component.ready
    hit = instances_hit(entry, fault.intensity, living)
    if component.total < 1 or living < 1 or hit < 1:
        yield "nobody knows what is hit"
    if (component.ready is None or hit >= living) and fault.target.name not in limits.whole_component:
        yield "a whole component"
    if entry.scope != "component" and hit > limits.max_instances and hit > limits.max_share * living:
        yield "too wide"


def test_a_million_hostile_actions_before_the_guards():
    hostile, said = Hostile(7), Counter()
    situations = [(hostile.limits(), hostile.vitals()) for _ in range(2000)]
    faults = [fault for fault in (hostile.fault() for _ in range(5000)) if fault is not None]
    draw = hostile.random
    for _ in range(GUARDED):
        (limits, vitals), fault = draw.choice(situations), draw.choice(faults)
        refusal = judge(fault, vitals, limits)
        if refusal is None:
            wrong = list(violations(fault, vitals, limits))
            assert not wrong, f"{fault} was permitted: {wrong}; {vitals}; {limits}"
        said["permitted" if refusal is None else refusal.guard] += 1
    print(f"{GUARDED} hostile actions: {dict(said.most_common())}")
    assert said["permitted"] > 50, "a guard that refuses everything would show nothing"
    assert len(said) == 11, f"every one of the ten guards has refused something: {said}"


@contextmanager
def door(limits: Limits) -> Iterator[tuple[Supervisor, MemoryWorld, Journal, ManualClock]]:
    """A supervisor on a simulated cluster, its state in memory: ten thousand receipts would wait for the disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        at, clock = Path(folder), ManualClock()
        world = MemoryWorld(empty_world(Hidden()))
        lever, lease, ids = Lever(at / "lever.json"), Lease(at / "lease", 1e9, clock), count()
        lever.release("a test", "test")
        lease.acquire("test")
        journal = Journal(at / "journal.db", clock, "test")
        actuators, repairs = simulated_actuators(world, at / "kept")
        yield (
            Supervisor(
                limits=limits,
                journal=journal,
                lever=lever,
                lease=lease,
                guardian=FakeGuardian(),
                actuators=actuators,
                repairs=repairs,
                declared_repairs={},
                clock=clock,
                new_id=lambda: f"bb-{next(ids)}",
                by="test",
            ),
            world,
            journal,
            clock,
        )
        journal.close()
        lease.close()


@pytest.mark.timeout(240)
def test_ten_thousand_hostile_actions_through_the_door():
    """Half of them anything, half the worst that is legal; after each, what is in force is what was permitted."""
    hostile = Hostile(11)
    limits = replace(
        Limits(environment="staging", cluster_id="c1", max_instances=1, max_share=0.5),
        irreversible=("model.checkpoint_corrupt",),
        whole_component=("feature-store", "stream"),
    )
    well = Vitals(
        identity=Identity("c1", "staging"),
        components={name: ComponentVitals(2, 2, {OPT_IN_LABEL: "true"}) for name in NAMES[:5]},
        service_levels={},
        age_s=0.0,
        unsteady=(),
        firing_alerts=(),
    )
    said: Counter[str] = Counter()
    with door(limits) as (supervisor, world, journal, clock):
        with world.change() as document:
            untouched = _harmed(document)
        for number in range(THROUGH_THE_DOOR):
            vitals = hostile.vitals() if number % 2 else well
            fault = hostile.fault() if number % 2 else hostile.nearly_legal()
            if fault is None:
                said["impossible"] += 1
                continue
            answer = supervisor.inject(fault, vitals)
            said["refused" if isinstance(answer, Refusal) else "applied"] += 1
            if isinstance(answer, Injection):
                wrong = list(violations(fault, replace(vitals, open_faults=()), limits))
                assert not wrong, f"{fault} was applied: {wrong}"
                second = supervisor.inject(replace(fault, target=Target("model-server")), well)
                assert isinstance(second, Refusal), "never two at once"
                clock.advance(hostile.random.choice([0.0, 1.0, 61.0]))
                assert supervisor.revert(answer, "finished", "a test").clean
            with world.change() as document:
                assert _harmed(document) == untouched, f"{fault}: {answer}"
        assert journal.open_injections() == journal.leaked() == []
    print(f"{THROUGH_THE_DOOR} through the door: {dict(said)}")
    assert said["applied"] > 300


def _harmed(document: dict) -> dict:
    """Returns what faults change and reverts restore."""
    parts = ("paused", "squeezed", "impairments", "disturbances", "checkpoints", "registry", "cards")
    return {name: repr(document[name]) for name in parts}
