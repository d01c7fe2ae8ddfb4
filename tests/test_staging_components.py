"""The plain components over real sockets, and what looks after them; no Ray."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import closing
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from envs.staging.calibration_error import CalibrationError
from envs.staging.client import Client, ClientSettings
from envs.staging.errors import BadInput
from envs.staging.exporter import latency_buckets
from envs.staging.feature_store import FeatureStore
from envs.staging.gateway import Gateway, GatewaySettings
from envs.staging.plain_process import PlainProcess
from envs.staging.ports import LOOPBACK, choose_ports
from envs.staging.world import ENTITIES, make_world

from .serving import serving, slow
from .waiting import wait_until

WORLD = make_world(0)


async def metrics_of(url: str) -> dict[str, float]:
    """Returns all samples of an exporter, labels flattened into the name."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_feature_store_knows_every_entity_and_no_other() -> None:
    async def scenario() -> None:
        async with serving(FeatureStore(WORLD).application()) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/features/7") as answer:
                assert (await answer.json())["features"] == pytest.approx(WORLD.features[7].tolist())
            async with session.get(f"{url}/snapshot") as answer:
                assert np.asarray((await answer.json())["features"], np.float32) == pytest.approx(WORLD.features)
            for unknown in (str(ENTITIES), "-1", "seven"):
                async with session.get(f"{url}/features/{unknown}") as answer:
                    assert answer.status == 404
            samples = await metrics_of(url)
            assert samples["feature_requests_total/200"] == 2
            assert samples["feature_requests_total/404"] == 3
            assert samples["feature_request_seconds_count"] == 4
            assert samples["process_resident_memory_bytes"] > 0

    asyncio.run(scenario())


def upstream(status: int = 200) -> web.Application:
    """A model server that knows every answer."""

    async def predict(request: web.Request) -> web.Response:
        entity = (await request.json())["entity"]
        return web.json_response({"label": int(WORLD.labels[entity]), "score": 0.9}, status=status)

    app = web.Application()
    app.add_routes([web.post("/predict", predict)])
    return app


def gateway_to(url: str, timeout_s: float = 5.0, most_in_flight: int | None = None) -> web.Application:
    upstream_url = f"{url}/predict"
    settings = GatewaySettings(
        port=0, upstream_url=upstream_url, upstream_timeout_s=timeout_s, most_in_flight=most_in_flight
    )
    return Gateway(settings).application()


@pytest.mark.parametrize("status", [200, 500])
def test_the_gateway_hands_answers_through(status: int) -> None:
    async def scenario() -> None:
        async with (
            serving(upstream(status)) as model_server,
            serving(gateway_to(model_server)) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/predict", json={"entity": 3}) as answer,
        ):
            assert answer.status == status
            assert (await answer.json())["label"] == WORLD.labels[3]
            assert (await metrics_of(url))[f"gateway_requests_total/{status}"] == 1

    asyncio.run(scenario())


def test_the_gateway_tells_a_slow_upstream_from_a_missing_one() -> None:
    async def scenario() -> None:
        async with aiohttp.ClientSession() as session:
            async with (
                serving(slow(upstream(), 5.0)) as model_server,
                serving(gateway_to(model_server, timeout_s=0.05)) as url,
                session.post(f"{url}/predict", json={"entity": 3}) as answer,
            ):
                assert answer.status == 504
            async with (
                serving(gateway_to(f"http://{LOOPBACK}:{choose_ports(0).gateway}")) as url,
                session.post(f"{url}/predict", json={"entity": 3}) as answer,
            ):
                assert answer.status == 502

    asyncio.run(scenario())


@pytest.mark.parametrize("most_in_flight", [None, 3])
def test_a_gateway_with_a_bound_turns_away_who_comes_when_it_is_full(most_in_flight: int | None) -> None:
    """At once, with a time to come again; without a bound everybody is let in."""
    let_in = asyncio.Semaphore(0)
    answered = asyncio.Event()

    async def predict(_: web.Request) -> web.Response:
        let_in.release()
        await answered.wait()
        return web.json_response({"label": 0, "score": 0.9})

    async def scenario() -> None:
        app = web.Application()
        app.add_routes([web.post("/predict", predict)])
        async with (
            serving(app) as model_server,
            serving(gateway_to(model_server, most_in_flight=most_in_flight)) as url,
            aiohttp.ClientSession() as session,
            asyncio.TaskGroup() as group,
        ):

            async def ask() -> tuple[int, str | None]:
                async with session.post(f"{url}/predict", json={"entity": 3}) as answer:
                    return answer.status, answer.headers.get("Retry-After")

            first = [group.create_task(ask()) for _ in range(3)]
            for _ in first:
                await let_in.acquire()
            assert (await metrics_of(url))["gateway_in_flight"] == 3
            if most_in_flight is not None:
                assert await ask() == (503, "1")
                assert (await metrics_of(url))["gateway_requests_total/503"] == 1
            else:
                first.append(group.create_task(ask()))
                await let_in.acquire()
                assert (await metrics_of(url))["gateway_in_flight"] == 4
            answered.set()
            assert {await one for one in first} == {(200, None)}
            assert await ask() == (200, None), "there is room again"
            assert (await metrics_of(url))["gateway_in_flight"] == 0

    asyncio.run(scenario())


def client_of(url: str, **changes: float) -> web.Application:
    settings = {"port": 0, "url": f"{url}/predict", "requests_per_s": 100.0, "timeout_s": 2.0, "seed": 0}
    return Client(ClientSettings(**settings | changes), WORLD).application()


async def watched(client: web.Application, ended: int) -> dict[str, float]:
    """Lets a client run until some requests have ended; returns its metrics."""
    async with serving(client) as url:
        while True:
            samples = await metrics_of(url)
            if samples["client_latency_seconds_count"] >= ended:
                return samples
            await asyncio.sleep(0.05)


def test_the_client_counts_right_answers() -> None:
    async def scenario() -> dict[str, float]:
        async with serving(upstream()) as url:
            return await watched(client_of(url), ended=30)

    samples = asyncio.run(scenario())
    assert samples["client_correct_total"] == samples["client_requests_total/ok"] >= 30
    assert samples["client_requests_total/error"] == samples["client_requests_total/timeout"] == 0


def test_an_answer_that_makes_no_sense_is_an_error() -> None:
    async def predict(_: web.Request) -> web.Response:
        return web.json_response({"label": 1})

    async def scenario() -> dict[str, float]:
        app = web.Application()
        app.add_routes([web.post("/predict", predict)])
        async with serving(app) as url:
            return await watched(client_of(url), ended=10)

    samples = asyncio.run(scenario())
    assert samples["client_requests_total/error"] >= 10
    assert samples["client_correct_total"] == 0


def test_a_model_that_knows_what_it_knows_has_a_small_calibration_error() -> None:
    """Ten answers in a hundred are wrong and every score is 0.9; then all are wrong and the scores stay."""
    error = CalibrationError(answers=100)
    assert np.isnan(error.value()), "too little to tell"
    for n in range(100):
        error.saw(0.9, right=n % 10 != 0)
    assert error.value() == pytest.approx(0.0, abs=1e-9)
    for _ in range(100):
        error.saw(0.9, right=False)
    assert error.value() == pytest.approx(0.9)


def test_the_client_tells_errors_from_timeouts_and_counts_both_as_ended() -> None:
    async def scenario() -> tuple[dict[str, float], dict[str, float]]:
        async with serving(upstream(status=500)) as url:
            failing = await watched(client_of(url), ended=10)
        async with serving(slow(upstream(), 5.0)) as url:
            return failing, await watched(client_of(url, timeout_s=0.1), ended=10)

    failing, slow_one = asyncio.run(scenario())
    assert failing["client_requests_total/error"] >= 10
    assert slow_one["client_requests_total/timeout"] >= 10
    assert failing["client_correct_total"] == slow_one["client_correct_total"] == 0


@pytest.mark.parametrize(("headers", "outcome"), [({"Retry-After": "1"}, "shed"), ({}, "error")])
def test_who_is_turned_away_and_told_so_was_shed_and_not_failed(headers: dict[str, str], outcome: str) -> None:
    async def predict(_: web.Request) -> web.Response:
        return web.Response(status=503, headers=headers)

    async def scenario() -> dict[str, float]:
        app = web.Application()
        app.add_routes([web.post("/predict", predict)])
        async with serving(app) as url:
            return await watched(client_of(url), ended=10)

    samples = asyncio.run(scenario())
    ended = {name: samples[f"client_requests_total/{name}"] for name in ("ok", "error", "timeout", "shed")}
    assert ended.pop(outcome) >= 10
    assert set(ended.values()) == {0.0}


def test_the_load_is_open_a_slow_platform_is_not_spared() -> None:
    async def scenario() -> dict[str, float]:
        async with serving(slow(upstream(), 0.5)) as url:
            return await watched(client_of(url), ended=1)

    assert asyncio.run(scenario())["client_in_flight"] >= 20


def test_latency_buckets_are_fine_enough_to_see_a_third() -> None:
    bounds = np.array(latency_buckets())
    assert (bounds[0], bounds[-1]) == (0.002, 5.0)
    assert (bounds[1:] / bounds[:-1]).max() <= 1.301


def sleeper(tmp_path: Path, restart_delay_s: float, code: str = "import time; time.sleep(600)") -> PlainProcess:
    return PlainProcess("sleeper", [sys.executable, "-c", code], "{}", tmp_path / "sleeper.log", restart_delay_s)


def test_a_plain_process_is_restarted_when_its_delay_is_over(tmp_path: Path) -> None:
    process = sleeper(tmp_path, restart_delay_s=3.0)
    process.start()
    try:
        first = process.id
        process.tend(0.0)
        assert process.id == first
        first.kill()
        wait_until(lambda: process.exit_status is not None)
        assert process.id is None
        for now_s in (10.0, 12.9):
            process.tend(now_s)
            assert process.id is None
        process.tend(13.0)
        assert process.id not in (None, first)
    finally:
        process.end()


def test_a_plain_process_can_be_restarted_at_once_even_when_it_is_stopped(tmp_path: Path) -> None:
    process = sleeper(tmp_path, restart_delay_s=3.0, code="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    process.start()
    try:
        first = process.id
        process.restart()
        assert process.id not in (None, first)
        assert not first.is_alive()
    finally:
        process.end()


def test_a_plain_process_gets_its_settings_and_writes_its_log(tmp_path: Path) -> None:
    process = sleeper(tmp_path, restart_delay_s=3.0, code="import sys; print(sys.stdin.read())")
    process.start()
    wait_until(lambda: process.exit_status == 0)
    assert process.log.read_text() == "{}\n"


def test_ports_are_distinct_and_out_of_the_way_of_outgoing_connections() -> None:
    ephemeral_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = choose_ports(0)
    chosen = [getattr(ports, name) for name in ports.__slots__]
    assert len(set(chosen)) == len(chosen)
    assert max(chosen) < ephemeral_from


def test_a_chosen_port_is_kept_and_a_busy_one_refused() -> None:
    free = choose_ports(0).gateway
    assert choose_ports(free).gateway == free
    with closing(socket.socket()) as rival:
        rival.bind((LOOPBACK, 0))
        rival.listen()
        port = rival.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} for the gateway cannot be bound on {LOOPBACK}"):
            choose_ports(port)


def test_components_take_their_settings_from_stdin(tmp_path: Path) -> None:
    port = choose_ports(0).feature_store
    settings = json.dumps({"port": port, "seed": 0})
    command = [sys.executable, "-m", "envs.staging.feature_store"]
    process = PlainProcess("feature-store", command, settings, tmp_path / "log", restart_delay_s=3.0)
    process.start()

    async def healthy() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}/healthz") as answer:
            return answer.status == 200

    def answers() -> bool:
        try:
            return asyncio.run(healthy())
        except aiohttp.ClientError:
            return False

    try:
        wait_until(answers)
    finally:
        process.end()
