from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from envs.staging.alerts import AlertRules
from envs.staging.checkpoints import Checkpoint, InPlaceCheckpoints
from envs.staging.control import ControlSocket, Repair
from envs.staging.handle import Component, Instance
from envs.staging.model import untrained
from envs.staging.monitor import ComponentView, Monitor, PlatformCollector, View
from envs.staging.ports import choose_ports
from envs.staging.prober import Health, Prober
from envs.staging.processes import identify_self
from envs.staging.registry import Registry
from envs.staging.roster import Roster

RANK_PAGE = "# TYPE train_rank_step gauge\ntrain_rank_step {step}\n"


def test_an_instance_is_ready_while_it_answers() -> None:
    health = Health()
    assert not health.is_ready(0.0)
    health = health.after("ok\n", 1.0)
    assert health.is_ready(100.0)
    health = health.after(None, 2.0)
    assert not health.is_ready(2.0)
    assert health.has_answered


def test_a_rank_is_ready_while_it_makes_steps() -> None:
    health = Health().after(RANK_PAGE.format(step=40), 0.0)
    assert not health.is_ready(0.0), "one look shows no step"
    health = health.after(RANK_PAGE.format(step=50), 0.5)
    assert health.is_ready(0.5)
    for now_s in (1.0, 1.5, 2.0):
        health = health.after(RANK_PAGE.format(step=50), now_s)
    assert health.is_ready(2.0)
    assert not health.is_ready(2.1)
    assert health.after(RANK_PAGE.format(step=51), 2.5).is_ready(2.5)


def own_instance(component: str, url: str) -> Instance:
    own = identify_self()
    return Instance(f"{component}/{own.pid}", own.pid, own.start_ticks, url)


def test_the_step_of_the_job_outlives_the_rank_that_told_it() -> None:
    metrics = CollectorRegistry()
    step = Gauge("train_rank_step", "x", registry=metrics)
    step.set(40)
    server, thread = start_http_server(0, "127.0.0.1", metrics)
    rank = own_instance("trainer", f"http://127.0.0.1:{server.server_port}/metrics")
    ranks = [rank]
    prober = Prober(lambda: ranks)

    async def scenario() -> None:
        running = asyncio.create_task(prober.run())
        await eventually(lambda: prober.job_step == 40)
        step.set(41)
        await eventually(lambda: prober.is_ready(rank))
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await eventually(lambda: not prober.health(rank).answering)
        assert prober.health(rank).has_answered
        ranks.clear()
        await eventually(lambda: not prober.health(rank).has_answered)
        assert prober.job_step == 41
        running.cancel()

    asyncio.run(scenario())
    thread.join()


async def eventually(condition, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def samples(collector: PlatformCollector) -> dict[str, float]:
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


@pytest.fixture
def collector(tmp_path: Path) -> PlatformCollector:
    (tmp_path / "checkpoints").mkdir()
    registry, rules = Registry(tmp_path / "registry"), AlertRules((), "trainer")
    return PlatformCollector(lambda: View(), Prober(list), tmp_path / "checkpoints", registry, rules)


def test_what_cannot_be_measured_is_absent_and_not_0(collector: PlatformCollector) -> None:
    assert samples(collector) == {}


def test_files_have_an_age_as_soon_as_they_are_there(collector: PlatformCollector, tmp_path: Path) -> None:
    InPlaceCheckpoints(tmp_path / "checkpoints").save(Checkpoint(1, {}))
    registry = Registry(tmp_path / "registry")
    registry.publish(untrained(0).tensors)
    long_ago = time.time() - 30
    os.utime(registry.pointer, (long_ago, long_ago))
    found = samples(collector)
    assert 0 <= found["checkpoint_age_seconds"] < 5
    assert found["registry_age_seconds"] == pytest.approx(30, abs=5)
    assert found["registry_version"] == 1


def test_a_failed_job_is_told_from_one_that_was_never_submitted(tmp_path: Path) -> None:
    view = View({"trainer": ComponentView(2, (), 3)}, training_running=False)
    collector = PlatformCollector(
        lambda: view, Prober(list), tmp_path, Registry(tmp_path / "registry"), AlertRules((), "trainer")
    )
    found = samples(collector)
    assert found["train_running"] == 0
    assert found["component_ready/trainer"] == 0
    assert found["component_desired/trainer"] == 2
    assert found["component_restarts_total/trainer"] == 3
    assert "train_step" not in found


COMPONENT = Component(role="trainer", labels={}, depends_on=(), desired=2, routes_in=(), node="training")


def test_restarts_are_instances_beyond_the_first_desired_ones(tmp_path: Path) -> None:
    roster = Roster({"trainer": COMPONENT}, {}, tmp_path)
    own = own_instance("trainer", "http://127.0.0.1:1/metrics")
    restarts = []
    for number in range(4):
        one = {"component": "trainer", "place": 0, "instance": json.loads(_as_json(replace(own, id=f"t/{number}")))}
        (tmp_path / "trainer-0.json").write_text(json.dumps(one))
        restarts.append(roster.look(None).components["trainer"].restarts)
    assert restarts == [0, 0, 1, 2]


def test_whoever_comes_because_there_are_to_be_more_is_no_restart(tmp_path: Path) -> None:
    """Ordered before it comes, gone when it is no longer wanted; only who comes for another counts."""
    roster = Roster({"trainer": COMPONENT}, {}, tmp_path)
    own = own_instance("trainer", "http://127.0.0.1:1/metrics")
    seen = []

    def look(desired: int, *alive: int) -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        for number in alive:
            instance = json.loads(_as_json(replace(own, id=f"t/{number}")))
            one = {"component": "trainer", "place": number, "instance": instance}
            (tmp_path / f"trainer-{number}.json").write_text(json.dumps(one))
        found = roster.look(None, {"trainer": desired}).components["trainer"]
        seen.append((found.desired, len(found.instances), found.restarts))

    look(2, 0, 1)
    look(3, 0, 1)
    look(3, 0, 1, 2)
    look(2, 0, 1)
    look(2, 0, 3)
    look(3, 0, 3)
    look(3, 0, 3, 4)
    assert seen == [(2, 2, 0), (3, 2, 0), (3, 3, 0), (2, 2, 0), (2, 2, 1), (3, 2, 1), (3, 3, 1)]


def _as_json(instance: Instance) -> str:
    fields = {name: getattr(instance, name) for name in Instance.__slots__}
    return json.dumps(fields)


def test_an_instance_is_listed_once_it_has_answered(tmp_path: Path) -> None:
    roster = Roster({"trainer": COMPONENT}, {}, tmp_path)
    one = {"component": "trainer", "place": 0, "instance": json.loads(_as_json(own_instance("trainer", "x")))}
    (tmp_path / "trainer-0.json").write_text(json.dumps(one))
    view = roster.look(None)
    assert roster.listed(view, lambda _: False)["trainer"].instances == ()
    assert len(roster.listed(view, lambda _: True)["trainer"].instances) == 1


class Operations:
    """What stands behind a control socket in these tests."""

    def __init__(self) -> None:
        self.accepted: list[Repair] = []
        self.refusal: str | None = None

    def accept(self, repair: Repair) -> str | None:
        self.accepted.append(repair)
        return self.refusal


@pytest.fixture
def operations() -> Operations:
    return Operations()


@pytest.fixture
def control(operations: Operations, tmp_path: Path) -> ControlSocket:
    return ControlSocket(tmp_path / "control.sock", lambda: {"state": "ready"}, operations.accept)


def test_a_repair_is_accepted_and_carried_on(control: ControlSocket, operations: Operations) -> None:
    request = {"verb": "repair", "component": "trainer", "action": "reset"}
    assert control.answer(request) == {"ok": True}
    assert operations.accepted == [Repair("trainer", "reset")]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"verb": "repair", "component": "client", "action": "restart"}, "unknown component 'client'"),
        ({"verb": "repair", "component": "gateway", "action": "reset"}, "unknown repair 'reset' of gateway"),
        ({"verb": "explode"}, "unknown verb 'explode'"),
        ({}, "unknown verb None"),
    ],
)
def test_what_nobody_knows_is_refused(control: ControlSocket, operations: Operations, request_, error: str) -> None:
    answer = control.answer(request_)
    assert answer["ok"] is False
    assert error in answer["error"]
    assert operations.accepted == []


def test_a_repair_that_comes_too_early_is_refused(control: ControlSocket, operations: Operations) -> None:
    operations.refusal = "the platform is starting"
    answer = control.answer({"verb": "repair", "component": "gateway", "action": "restart"})
    assert answer == {"ok": False, "error": "the platform is starting"}


def test_the_monitor_exports_and_its_control_socket_answers_line_by_line(
    control: ControlSocket, tmp_path: Path
) -> None:
    path, port = tmp_path / "control.sock", choose_ports(0).monitor
    rules = AlertRules(("gateway",), "trainer")
    monitor = Monitor(port, control, tmp_path, Registry(tmp_path / "registry"), rules, front="gateway")

    async def scenario() -> None:
        watching = asyncio.create_task(monitor.run())
        await eventually(lambda: path.exists() and path.stat().st_mode & 0o777 == 0o600)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"verb": "status"}\nnonsense\n[1]\n')
        assert json.loads(await reader.readline()) == {"ok": True, "state": "ready"}
        assert "not JSON" in json.loads(await reader.readline())["error"]
        assert json.loads(await reader.readline())["error"] == "a request is a JSON object"
        writer.close()
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert "process_cpu_seconds_total" in await answer.text()
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    asyncio.run(scenario())
