"""The plain components over real sockets, and what looks after them; no Ray."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from envs.staging.client import Client, ClientSettings
from envs.staging.errors import BadInput
from envs.staging.exporter import latency_buckets
from envs.staging.feature_source import Bounded, FeaturesUnavailable, FetchMetrics, Patient
from envs.staging.feature_store import FeatureStore
from envs.staging.gateway import Gateway, GatewaySettings
from envs.staging.plain_process import PlainProcess
from envs.staging.ports import LOOPBACK, choose_ports
from envs.staging.retries import Budgeted, Endless, Retries
from envs.staging.world import ENTITIES, make_world

from .waiting import wait_until

WORLD = make_world(0)


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serves an application on loopback; yields its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, port)
    await site.start()
    try:
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def slow(app: web.Application, delay_s: float) -> web.Application:
    """Makes every answer of an application take its time."""

    @web.middleware
    async def wait(request, handler):
        await asyncio.sleep(delay_s)
        return await handler(request)

    app.middlewares.append(wait)
    return app


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
        return web.json_response({"label": int(WORLD.labels[entity])}, status=status)

    app = web.Application()
    app.add_routes([web.post("/predict", predict)])
    return app


def gateway_to(url: str, timeout_s: float = 5.0) -> web.Application:
    return Gateway(GatewaySettings(port=0, upstream_url=f"{url}/predict", upstream_timeout_s=timeout_s)).application()


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


def test_the_load_is_open_a_slow_platform_is_not_spared() -> None:
    async def scenario() -> dict[str, float]:
        async with serving(slow(upstream(), 0.5)) as url:
            return await watched(client_of(url), ended=1)

    assert asyncio.run(scenario())["client_in_flight"] >= 20


def test_latency_buckets_are_fine_enough_to_see_a_third() -> None:
    bounds = np.array(latency_buckets())
    assert (bounds[0], bounds[-1]) == (0.002, 5.0)
    assert (bounds[1:] / bounds[:-1]).max() <= 1.301


def budgeted() -> Budgeted:
    return Budgeted(random.Random(0))


@asynccontextmanager
async def bounded(url: str, timeout_s: float = 0.1) -> AsyncIterator[Bounded]:
    async with aiohttp.ClientSession() as session:
        yield Bounded(session, url, timeout_s, budgeted(), FetchMetrics(CollectorRegistry()))


def test_bounded_features_come_from_the_store_as_long_as_it_answers() -> None:
    async def scenario() -> None:
        async with serving(FeatureStore(WORLD).application()) as url, bounded(url) as source:
            features = await source.fetch(5)
            assert not features.fallback
            assert features.values == pytest.approx(WORLD.features[5])

    asyncio.run(scenario())


@pytest.mark.parametrize("store", ["slow", "dead"])
def test_bounded_features_fall_back_to_what_was_known_last(store: str) -> None:
    async def scenario() -> None:
        port = choose_ports(0).feature_store
        app = FeatureStore(WORLD).application()
        async with bounded(f"http://{LOOPBACK}:{port}") as source:
            async with serving(app, port):
                await source.warm_up()
            async with serving(slow(FeatureStore(WORLD).application(), 5.0), port if store == "slow" else 0):
                began = time.monotonic()
                features = await source.fetch(5)
            assert time.monotonic() - began < 1.0
            assert features.fallback
            assert features.values == pytest.approx(WORLD.features[5])

    asyncio.run(scenario())


def test_an_entity_never_seen_gets_the_mean_and_never_an_error() -> None:
    async def scenario() -> None:
        async with bounded(f"http://{LOOPBACK}:{choose_ports(0).feature_store}") as source:
            features = await source.fetch(5)
            assert features.fallback
            assert (features.values == 0).all()

    asyncio.run(scenario())


def test_warming_up_waits_for_a_store_that_comes_later() -> None:
    async def scenario() -> None:
        port = choose_ports(0).feature_store
        async with bounded(f"http://{LOOPBACK}:{port}") as source:
            warming = asyncio.create_task(source.warm_up())
            await asyncio.sleep(0.1)
            assert not warming.done()
            async with serving(FeatureStore(WORLD).application(), port):
                await asyncio.wait_for(warming, 5.0)
            features = await source.fetch(5)
            assert features.values == pytest.approx(WORLD.features[5])

    asyncio.run(scenario())


def test_patient_features_wait_for_as_long_as_it_takes_and_an_error_is_an_error() -> None:
    async def scenario() -> None:
        metrics = CollectorRegistry()
        async with aiohttp.ClientSession() as session:
            async with serving(slow(FeatureStore(WORLD).application(), 0.5)) as url:
                source = Patient(session, url, budgeted(), FetchMetrics(metrics))
                features = await source.fetch(5)
                assert features.values == pytest.approx(WORLD.features[5])
                with pytest.raises(FeaturesUnavailable):
                    await source.fetch(ENTITIES)
            with pytest.raises(FeaturesUnavailable):
                await source.fetch(5)
        assert metrics.get_sample_value("model_feature_fetch_seconds_count") == 3
        assert metrics.get_sample_value("model_feature_fetch_seconds_sum") >= 1.0

    asyncio.run(scenario())


# ---- retries --------------------------------------------------------------------------------------------------------


class Breaking:
    """A feature store that breaks the connection, or answers with an error, before it answers well."""

    def __init__(self, failures: float, status: int | None = None) -> None:
        self.failures = failures
        self.status = status
        self.asked = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/features/{entity}", self._features)])
        return app

    async def _features(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked > self.failures:
            return web.json_response({"features": WORLD.features[0].tolist()})
        if self.status is None:
            request.transport.abort()
        return web.Response(status=self.status or 500)


BROKEN = float("inf")


async def fetched(
    store: Breaking, retries: Retries, *, times: int = 1, timeout_s: float | None = None
) -> tuple[list[bool], float]:
    """Fetches one after the other; returns which came from the store, and how many attempts were counted."""
    metrics = CollectorRegistry()
    came = []
    async with serving(store.application()) as url, aiohttp.ClientSession() as session:
        counted = FetchMetrics(metrics)
        if timeout_s is None:
            source: Bounded | Patient = Patient(session, url, retries, counted)
        else:
            source = Bounded(session, url, timeout_s, retries, counted)
        for _ in range(times):
            try:
                came.append(not (await source.fetch(0)).fallback)
            except FeaturesUnavailable:
                came.append(False)
    assert metrics.get_sample_value("model_feature_fetches_total") == times
    return came, metrics.get_sample_value("model_feature_attempts_total")


@pytest.mark.parametrize("timeout_s", [None, 5.0])
@pytest.mark.parametrize("status", [None, 500, 503])
def test_endless_retries_go_on_until_it_works(timeout_s: float | None, status: int | None) -> None:
    store = Breaking(20, status)
    assert asyncio.run(fetched(store, Endless(), timeout_s=timeout_s)) == ([True], 21)
    assert store.asked == 21, "what is counted is what the store sees"


def test_endless_retries_end_with_the_patience_and_let_others_run_meanwhile() -> None:
    async def scenario() -> None:
        store = Breaking(BROKEN)
        (came, attempts), beats = await asyncio.gather(fetched(store, Endless(), timeout_s=0.3), heart())
        assert came == [False]
        assert attempts > 10
        assert beats == 20

    async def heart() -> int:
        for _ in range(20):
            await asyncio.sleep(0.01)
        return 20

    asyncio.run(scenario())


def test_a_caller_that_has_given_up_ends_endless_retries() -> None:
    async def scenario() -> None:
        store = Breaking(BROKEN)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fetched(store, Endless()), 0.2)
        assert store.asked > 5

    asyncio.run(scenario())


@pytest.mark.parametrize("retries", [Endless(), budgeted()])
def test_what_was_wrong_to_ask_is_not_asked_again(retries: Retries) -> None:
    assert asyncio.run(fetched(Breaking(BROKEN, 404), retries)) == ([False], 1)


@pytest.mark.parametrize("retries", [Endless(), budgeted()])
def test_a_slow_call_is_not_repeated(retries: Retries) -> None:
    async def scenario() -> None:
        metrics = CollectorRegistry()
        async with (
            serving(slow(FeatureStore(WORLD).application(), 5.0)) as url,
            aiohttp.ClientSession() as session,
        ):
            assert (await Bounded(session, url, 0.1, retries, FetchMetrics(metrics)).fetch(5)).fallback
        assert metrics.get_sample_value("model_feature_attempts_total") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_budgeted_retries_hide_one_failure_and_not_two(timeout_s: float | None) -> None:
    assert asyncio.run(fetched(Breaking(1), budgeted(), timeout_s=timeout_s)) == ([True], 2)
    assert asyncio.run(fetched(Breaking(2), budgeted(), timeout_s=timeout_s)) == ([False], 2)


def test_a_store_that_fails_altogether_sees_a_tenth_more_requests() -> None:
    store = Breaking(BROKEN)
    came, attempts = asyncio.run(fetched(store, budgeted(), times=100))
    assert not any(came)
    assert attempts == store.asked
    assert 108 <= attempts <= 114


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
