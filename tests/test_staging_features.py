"""Where a model server takes features from, and how it asks again; real HTTP, no Ray."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from envs.staging.feature_source import Bounded, FeaturesUnavailable, FetchMetrics, Patient
from envs.staging.feature_store import FeatureStore
from envs.staging.ports import LOOPBACK, choose_ports
from envs.staging.retries import Budgeted, Endless, Retries
from envs.staging.world import ENTITIES, make_world

from .serving import serving, slow

WORLD = make_world(0)


def budgeted() -> Budgeted:
    return Budgeted(random.Random(0))


@asynccontextmanager
async def bounded(url: str, timeout_s: float = 0.1, saved: Path | None = None) -> AsyncIterator[Bounded]:
    async with aiohttp.ClientSession() as session:
        yield Bounded(session, url, timeout_s, budgeted(), FetchMetrics(CollectorRegistry()), saved)


def test_bounded_features_come_from_the_store_as_long_as_it_answers() -> None:
    async def scenario() -> None:
        async with serving(FeatureStore(WORLD).application()) as url, bounded(url, timeout_s=5.0) as source:
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
            async with serving(slow(FeatureStore(WORLD).application(), 60.0), port if store == "slow" else 0):
                began = time.monotonic()
                features = await source.fetch(5)
            assert time.monotonic() - began < 30.0
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


def test_who_starts_while_the_store_is_away_knows_what_others_have_known(tmp_path: Path) -> None:
    """As the autoscaler's newest replica does: it was started because all others are waiting for the store."""

    async def scenario() -> None:
        saved = tmp_path / "known.npy"
        async with serving(FeatureStore(WORLD).application()) as url, bounded(url, saved=saved) as source:
            await source.warm_up()
        async with bounded(f"http://{LOOPBACK}:{choose_ports(0).feature_store}", saved=saved) as source:
            features = await source.fetch(5)
        assert features.fallback
        assert features.values == pytest.approx(WORLD.features[5])
        assert list(tmp_path.iterdir()) == [saved]

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no numbers", "shape", "pickle"])
def test_who_cannot_read_what_others_have_known_starts_without(tmp_path: Path, content: bytes | str) -> None:
    async def scenario() -> None:
        saved = tmp_path / "known.npy"
        if isinstance(content, bytes):
            saved.write_bytes(content)
        elif content == "shape":
            np.save(saved, WORLD.features[:, :3])
        else:
            np.save(saved, np.array([{"not": "to be unpickled"}], dtype=object))
        async with bounded(f"http://{LOOPBACK}:{choose_ports(0).feature_store}", saved=saved) as source:
            assert ((await source.fetch(5)).values == 0).all()

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
            return web.json_response({"features": WORLD.features[0].tolist(), "age_s": 1.0, "stale": False})
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
        heart = asyncio.create_task(beating())
        came, attempts = await fetched(Breaking(BROKEN), Endless(), timeout_s=1.5)
        assert came == [False]
        assert attempts > 5
        assert heart.done(), "nobody else had a turn"

    async def beating() -> None:
        for _ in range(5):
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_caller_that_has_given_up_ends_endless_retries() -> None:
    async def scenario() -> None:
        store, metrics = Breaking(BROKEN), FetchMetrics(CollectorRegistry())
        async with serving(store.application()) as url, aiohttp.ClientSession() as session:
            asking = asyncio.create_task(Patient(session, url, Endless(), metrics).fetch(0))
            while store.asked <= 5:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            asked = store.asked
            await asyncio.sleep(0.2)  # in which it would ask a dozen times
            assert store.asked <= asked + 1, "one may have been under way"

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
