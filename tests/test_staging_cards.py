"""What the platform tells of the cards that its processes work on: what NVML says, and nothing where it is silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from actuators.clock import BootClock
from envs.clusters.local import LocalCluster
from envs.encoding import ActionCode, first_state
from envs.staging import cards as staging
from envs.staging import handle
from envs.staging.alerts import AlertRules
from envs.staging.announcements import announce, living
from envs.staging.monitor import ComponentView, PlatformCollector, View
from envs.staging.prober import Prober
from envs.staging.registry import Registry
from envs.telemetry.snapshot import Snapshot
from tests import cards
from tests.bare_platform import bare_platform
from tests.cards import TOTAL, UUID, Card


@pytest.fixture
def card(tmp_path) -> Iterator[Card]:
    with cards.card(tmp_path) as found:
        staging._nvml.cache_clear()
        yield found
    staging._nvml.cache_clear()


def told(**cards_of: list[str]) -> dict[str, dict[str, float]]:
    families = staging.card_metrics({name.replace("_", "-"): named for name, named in cards_of.items()})
    return {family.name: {one.labels["component"]: one.value for one in family.samples} for family in families}


def test_a_card_tells_how_full_and_how_busy_it_is(card):
    card.change(others={os.getpid(): TOTAL // 4})
    assert told(trainer=[UUID, UUID], gateway=[""]) == {
        "gpu_memory_share": {"trainer": 0.25},
        "gpu_utilisation": {"trainer": 0.0},
    }


def test_what_a_card_does_not_tell_is_left_out(card):
    card.change(broken=["utilisation"])
    assert told(trainer=[UUID]) == {"gpu_memory_share": {"trainer": 0.0}}
    card.change(broken=["utilisation", "memory"])
    assert told(trainer=[UUID]) == {}
    assert told(trainer=["GPU-another"], gateway=[]) == {}


def test_without_a_driver_nothing_is_told(card):
    card.path.unlink()
    staging._nvml.cache_clear()
    assert told(trainer=[UUID]) == {}
    assert not staging.is_seen(UUID)


def test_the_monitor_tells_it_of_every_component_whose_instances_name_a_card(card, tmp_path):
    card.change(others={os.getpid(): TOTAL // 2})
    ranks = tuple(handle.Instance(f"trainer/{n}", n, 0, "", card=UUID) for n in (1, 2))
    view = View({"trainer": ComponentView(2, ranks, 0), "gateway": ComponentView(1, (), 0)})
    rules = AlertRules((), "trainer")
    collector = PlatformCollector(lambda: view, Prober(list), tmp_path, Registry(tmp_path / "registry"), rules)
    found = {family.name: family.samples for family in collector.collect() if family.name.startswith("gpu_")}
    assert {name: [(one.labels, one.value) for one in samples] for name, samples in found.items()} == {
        "gpu_memory_share": [({"component": "trainer"}, 0.5)],
        "gpu_utilisation": [({"component": "trainer"}, 0.0)],
    }


def test_a_process_on_a_cpu_has_no_card():
    assert staging.card_of(torch.device("cpu")) == ""


def test_who_works_on_a_card_says_so_to_whoever_reads_the_handle(tmp_path):
    announce(tmp_path, "trainer", "http://127.0.0.1:1/metrics", card=UUID)
    (announced,) = living(tmp_path)
    assert announced.instance.card == UUID
    before = json.loads((tmp_path / f"trainer-{os.getpid()}.json").read_text())
    del before["instance"]["card"]
    (tmp_path / f"trainer-{os.getpid()}.json").write_text(json.dumps(before))
    assert living(tmp_path)[0].instance == replace(announced.instance, card=""), "an older platform says nothing"


@pytest.fixture
def platform(tmp_path):
    with bare_platform(tmp_path) as platform:
        staging._nvml.cache_clear()
        yield platform
    staging._nvml.cache_clear()


class Nothing:
    """A source that never sees anything."""

    def __init__(self, *_: object) -> None:
        """Takes what sources take."""

    def round(self) -> Snapshot:
        return Snapshot(0.0, {})

    def close(self) -> None:
        """Holds nothing."""


def arms_of(platform) -> tuple[set[str], LocalCluster]:
    """Returns who is offered a fault of a GPU, as `component kind`."""
    cluster = LocalCluster(platform.handle, BootClock(), Nothing, period_s=60.0)
    cluster.close()
    topology = cluster.topology()
    code = ActionCode(tuple(component.name for component in topology.components))
    available = first_state(topology, code).available[0]
    offered = {
        f"{name} {kind}"
        for c, name in enumerate(code.components)
        for k, kind in enumerate(code.kinds)
        if kind.startswith("gpu.") and available[c, k].any()
    }
    return offered, cluster


def test_faults_of_a_gpu_are_offered_for_those_who_work_on_one(platform):
    offered, cluster = arms_of(platform)
    assert offered == {"trainer gpu.memory_pressure", "trainer gpu.compute_contention"}
    assert {"trainer/gpu_memory_share", "trainer/gpu_utilisation"} <= set(cluster.series)


@pytest.mark.parametrize("missing", ["driver", "card", "word of it"])
def test_without_a_gpu_no_such_arm_is_offered_and_nothing_is_expected_of_one(platform, missing):
    if missing == "driver":
        platform.card.path.unlink()
    elif missing == "card":
        platform.card.change(uuid="GPU-another")
    else:
        data = json.loads(platform.handle.read_text())
        for instance in data["components"]["trainer"]["instances"]:
            del instance["card"]
        platform.handle.write_text(json.dumps(data))
    offered, cluster = arms_of(platform)
    assert offered == set()
    assert not [series for series in cluster.series if "gpu" in series]
    assert handle.read(platform.handle).state == "ready"


def test_neither_torch_nor_nvml_is_loaded_before_it_is_needed():
    script = (
        "import sys, agent.build.local, agent.cli, envs.staging.launch, envs.staging.cards; "
        "assert not {'torch', 'ray', 'pynvml'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
