"""The data plane over real sockets: stream, producer, pipeline and store; no Ray."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.staging.drift import THRESHOLD, WINDOW_ROWS, DriftDetector
from envs.staging.event_log import EventLog
from envs.staging.feature_age import UnmentionedAge
from envs.staging.feature_pipeline import Belief, FeaturePipeline, FeaturePipelineSettings
from envs.staging.feature_store import FeatureStore
from envs.staging.model import fit_quickly
from envs.staging.ports import LOOPBACK, choose_ports
from envs.staging.producer import Producer, ProducerSettings
from envs.staging.rows import (
    FIELDS,
    PARTITIONS,
    Row,
    Unreadable,
    line_of,
    partition_of,
    read_leniently,
    read_strictly,
)
from envs.staging.stream import Stream, StreamSettings
from envs.staging.world import ENTITIES, FEATURES, make_world

from .serving import serving
from .test_staging_components import metrics_of

WORLD = make_world(0)


def row(entity: object = 5, at_s: float = 1.0, **changes: object) -> dict:
    values = dict(zip(FIELDS, WORLD.features[5].tolist(), strict=True))
    return {"entity": entity, "produced_at_s": at_s, "values": values} | changes


def line(**changes: object) -> bytes:
    return json.dumps(row(**changes)).encode() + b"\n"


def with_values(**changes: object) -> bytes:
    return line(values=row()["values"] | changes)


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_leniently, read_strictly])
def test_a_good_row_is_read_as_it_was_written(read) -> None:
    found = read(line_of(Row(7, 12.5, WORLD.features[7])))
    assert (found.entity, found.produced_at_s) == (7, 12.5)
    assert (found.values == WORLD.features[7]).all()


BAD = {
    "a field is missing": line(values=dict.fromkeys(FIELDS[1:], 0.5)),
    "a field is new": with_values(f99=0.5),
    "a value is out of range": with_values(f0=-700.0),
    "a value is text": with_values(f0="0.5"),
    "a value is true": with_values(f0=True),
    "a value is null": with_values(f0=None),
    "a value is not a number": with_values(f0=math.nan),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_gate_refuses_what_the_schema_forbids_and_without_it_something_is_read(bad) -> None:
    with pytest.raises(Unreadable):
        read_strictly(bad)
    assert read_leniently(bad).entity == 5


@pytest.mark.parametrize("read", [read_leniently, read_strictly])
@pytest.mark.parametrize(
    "bad", [b"", b"{", b"[1]\n", b"null", line(entity=ENTITIES), line(entity="5"), line(produced_at_s=None), b"\xff"]
)
def test_what_belongs_to_nobody_is_read_by_nobody(read, bad) -> None:
    with pytest.raises(Unreadable):
        read(bad)


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_whatever_comes_in_is_read_or_refused(values) -> None:
    for read in (read_leniently, read_strictly):
        try:
            assert read(line(values=values)).values.shape == (FEATURES,)
        except Unreadable:
            continue


# ---- the log --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.binary(max_size=5).filter(lambda text: b"\n" not in text), max_size=6), max_size=12),
    st.integers(0, 11),
    st.binary(max_size=4).filter(lambda text: b"\n" not in text),
)
def test_a_log_that_dies_and_is_opened_again_has_lost_nothing_but_an_unfinished_line(
    tmp_path_factory, batches, dies_after, torn
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log, told = EventLog(folder, segment_lines=5), []
    for number, batch in enumerate(batches):
        lines = [text + b"\n" for text in batch]
        log.append(lines)
        told += lines
        if number == dies_after:
            log.close()
            newest = max(folder.glob("*.log"))
            newest.write_bytes(newest.read_bytes() + torn)
            log = EventLog(folder, segment_lines=5)
    assert log.next == len(told)
    begins, found = log.read(log.first, 1000)
    assert found == told[begins:]
    assert len(found) >= min(5, len(told)), "a whole segment is always kept"
    assert log.read(-3, 1000)[1] == told[-3:] or log.next - log.first < 3
    assert log.read(log.next + 9, 5) == (log.next, []), "what is not there yet is waited for"
    log.close()


# ---- drift ----------------------------------------------------------------------------------------------------------


def rounds(seed: int, count: int = 6) -> np.ndarray:
    return np.tile(make_world(seed).features, (count, 1))


def highest_score(detector: DriftDetector, rows: np.ndarray, batch: int = 32) -> float:
    highest = 0.0
    for start in range(0, len(rows), batch):
        detector.saw(rows[start : start + batch])
        highest = max(highest, detector.score)
    return highest


@pytest.mark.parametrize("seed", range(5))
def test_without_a_drift_the_score_stays_well_below_the_threshold(seed) -> None:
    """Whichever part of the world the newest rows are of, single partitions that come all at once included."""
    world = make_world(seed)
    highest = highest_score(DriftDetector(world.features), rounds(seed))
    alone = max(
        highest_score(DriftDetector(world.features), np.tile(world.features[number::PARTITIONS], (6, 1)))
        for number in range(PARTITIONS)
    )
    print(f"seed {seed}: highest score {highest:.1f}, of one partition alone {alone:.1f}, threshold {THRESHOLD}")
    assert highest < 0.75 * THRESHOLD
    assert alone < THRESHOLD


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, -1.0])
def test_a_drift_is_found_within_a_window_and_over_when_it_is_over(shift) -> None:
    detector = DriftDetector(WORLD.features)
    highest_score(detector, rounds(0))
    assert detector.rate == 0.0
    detector.saw(WORLD.features[:WINDOW_ROWS] + np.float32(shift))
    assert detector.drifting
    assert detector.rate > 0.0
    highest_score(detector, rounds(0))
    assert not detector.drifting


def test_garbage_in_some_rows_and_missing_values_are_no_drift() -> None:
    rng = np.random.default_rng(0)
    garbage = np.where(rng.random((6 * ENTITIES, 1)) < 0.5, -1000.0, 1.0) * rounds(0)
    assert highest_score(DriftDetector(WORLD.features), garbage.astype(np.float32)) < THRESHOLD
    holes = rounds(0).copy()
    holes[:, :6] = np.nan
    assert highest_score(DriftDetector(WORLD.features), holes) < THRESHOLD
    assert highest_score(DriftDetector(WORLD.features), np.full_like(holes, np.nan)) == 0.0


# ---- what is believed -----------------------------------------------------------------------------------------------


def lines_of(features: np.ndarray, at_s: float = 1.0) -> list[bytes]:
    return [line_of(Row(entity % ENTITIES, at_s, values)) for entity, values in enumerate(features)]


def believed(belief: Belief, lines: list[bytes], batch: int = 32) -> list[Row]:
    return [row for at in range(0, len(lines), batch) for row in belief.sift(lines[at : at + batch]).rows]


def test_of_drifting_rows_hardly_any_is_written_and_of_good_ones_all() -> None:
    belief = Belief(read_strictly, DriftDetector(WORLD.features))
    good = believed(belief, lines_of(rounds(0)))
    assert len(good) == 6 * ENTITIES - 128, "the newest wait for newer ones"
    drifting = believed(belief, lines_of(rounds(0) + np.float32(1.0)))
    wrong = [row for row in drifting if not (row.values == WORLD.features[row.entity]).all()]
    assert len(wrong) < 0.05 * ENTITIES
    again = believed(belief, lines_of(rounds(0)))
    assert len(again) > 4 * ENTITIES
    assert all((row.values == WORLD.features[row.entity]).all() for row in again)


def test_without_gate_and_alarm_everything_is_believed() -> None:
    sifted = Belief(read_leniently, None).sift([*BAD.values(), b"{"])
    assert (len(sifted.rows), sifted.quarantined, sifted.withheld) == (len(BAD), 1, 0)
    gated = Belief(read_strictly, None).sift([*BAD.values(), line()])
    assert (len(gated.rows), gated.quarantined) == (1, len(BAD))


@pytest.mark.parametrize("seed", range(3))
def test_what_bad_data_do_to_the_answers(seed) -> None:
    """The printed numbers are the amounts by which faults of data move accuracy where nothing stops them."""
    world, model = make_world(seed), fit_quickly(seed)

    def accuracy(features: np.ndarray) -> float:
        return float((model.predict(features.astype(np.float32)).labels == world.labels).mean())

    half = np.arange(ENTITIES)[:, np.newaxis] % 2 == 0
    found = {
        "good": accuracy(world.features),
        "half corrupt": accuracy(np.where(half, -1000.0, 1.0) * world.features),
        "half of the fields renamed": accuracy(np.where(np.arange(FEATURES) < 6, 0.0, 1.0) * world.features),
        "drift of 0.5": accuracy(world.features + 0.5),
        "drift of 2": accuracy(world.features + 2.0),
    }
    print(f"seed {seed}:", {name: round(value, 2) for name, value in found.items()})
    assert found.pop("good") >= 0.9
    assert all(value < 0.8 for value in found.values())


# ---- the store ------------------------------------------------------------------------------------------------------


@dataclass
class Wall:
    """A clock that a test moves."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def answer_of(url: str, entity: int) -> dict:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/features/{entity}") as answer:
        return await answer.json()


async def put(url: str, *rows: object) -> int:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/features", json={"rows": rows}) as answer:
        return answer.status


def test_a_store_takes_newer_features_and_passes_over_older_ones() -> None:
    async def scenario() -> None:
        async with serving(FeatureStore(WORLD, clock=Wall()).application()) as url:
            assert await put(url, [3, 1001.0, [1.0] * FEATURES], [4, 900.0, [1.0] * FEATURES]) == 204
            assert (await answer_of(url, 3))["features"] == [1.0] * FEATURES
            assert (await answer_of(url, 4))["features"] == WORLD.features[4].tolist()
            for wrong in ([ENTITIES, 1.0, [0.0] * FEATURES], [3, 1.0, [0.0]], [3, 1.0], "row", [3, None, []]):
                assert await put(url, wrong) == 400

    asyncio.run(scenario())


@pytest.mark.parametrize("fresh_for_s", [None, 5.0])
def test_a_store_says_that_features_are_stale_only_if_it_was_told_to(fresh_for_s) -> None:
    async def scenario() -> None:
        clock = Wall()
        async with serving(FeatureStore(WORLD, fresh_for_s, clock).application()) as url:
            assert (await answer_of(url, 3))["stale"] is False
            clock.now_s += 7.0
            await put(url, *([entity, clock.now_s, WORLD.features[entity].tolist()] for entity in range(100)))
            old, fresh = await answer_of(url, 200), await answer_of(url, 50)
            assert (old["age_s"], fresh["age_s"]) == (7.0, 0.0)
            assert (old["stale"], fresh["stale"]) == (fresh_for_s is not None, False)
            samples = await metrics_of(url)
            assert samples.get("alert_firing/StaleFeatures") == (None if fresh_for_s is None else 1.0)
            assert samples["feature_stale_total"] == (0 if fresh_for_s is None else 1)
            await put(url, *([entity, clock.now_s, WORLD.features[entity].tolist()] for entity in range(ENTITIES - 5)))
            assert (await metrics_of(url)).get("alert_firing/StaleFeatures") in {None, 0.0}, "a few are no alarm"

    asyncio.run(scenario())


def test_age_that_is_mentioned_does_not_count_and_silence_is_unknown() -> None:
    clock = Wall()
    ages = UnmentionedAge(clock)
    assert math.isnan(ages.value())
    ages.saw(None)
    assert ages.value() == 0.0
    ages.saw(4.0)
    ages.saw(2.0)
    assert ages.value() == 4.0
    clock.now_s += 2.0
    assert math.isnan(ages.value())


# ---- all of it ------------------------------------------------------------------------------------------------------


@dataclass
class DataPlane:
    """Where its parts are."""

    stream: str
    store: str
    pipeline: str
    producer: str
    rows_port: int


@asynccontextmanager
async def data_plane(folder: Path, *, hardened: bool = True, produces: bool = True) -> AsyncIterator[DataPlane]:
    ports = choose_ports(0)
    stream = Stream(StreamSettings(port=0, rows_port=ports.stream_rows, folder=str(folder)))
    store = FeatureStore(WORLD, 5.0 if hardened else None)
    rows_per_s = 2000.0 if produces else 0.001
    producer = Producer(ProducerSettings(0, ports.stream_rows, rows_per_s, seed=0), WORLD)
    async with serving(stream.application()) as stream_url, serving(store.application()) as store_url:
        pipeline = FeaturePipeline(
            FeaturePipelineSettings(0, stream_url, store_url, "stream", hardened, hardened, seed=0), WORLD
        )
        async with serving(pipeline.application()) as url, serving(producer.application()) as producer_url:
            yield DataPlane(stream_url, store_url, url, producer_url, ports.stream_rows)


async def until(condition) -> None:
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.05)


def test_rows_of_every_entity_arrive_in_the_store_in_time(tmp_path) -> None:
    async def scenario() -> None:
        async with data_plane(tmp_path) as plane:

            async def renewed() -> bool:
                written = (await metrics_of(plane.pipeline))["pipeline_written_total"]
                oldest_s = (await metrics_of(plane.store))["feature_oldest_seconds"]
                behind = (await metrics_of(plane.stream))["stream_lag_rows"]
                return written > 3 * ENTITIES and oldest_s < 5.0 and behind < 4000

            await until(renewed)
            told = await metrics_of(plane.pipeline)
            assert told["pipeline_quarantined_total"] == told["pipeline_withheld_total"] == 0
            assert told["alert_firing/FeatureDrift/stream"] == 0.0
            taken = await metrics_of(plane.stream)
            assert all(taken[f"stream_rows_total/{number}"] > ENTITIES // PARTITIONS for number in range(PARTITIONS))
            answer = await answer_of(plane.store, 9)
            assert answer["features"] == pytest.approx(WORLD.features[9].tolist())

    asyncio.run(scenario())


async def tell(plane: DataPlane, number: int, *lines: bytes) -> None:
    _, writer = await asyncio.open_connection(LOOPBACK, plane.rows_port)
    writer.write(b'{"partition": %d}\n' % number + b"".join(lines))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("hardened", [False, True])
def test_a_bad_row_becomes_features_only_where_there_is_no_gate(tmp_path, hardened) -> None:
    bad = with_values(f0=-700.0) if hardened else with_values(f0="-700")

    async def scenario() -> None:
        async with data_plane(tmp_path, hardened=hardened, produces=False) as plane:
            now_s = (await answer_of(plane.store, 5))["age_s"]
            assert now_s < 5.0
            bad_now = json.dumps(json.loads(bad) | {"produced_at_s": 4e9}).encode() + b"\n"
            await tell(plane, partition_of(5), bad_now)

            async def handled() -> bool:
                told = await metrics_of(plane.pipeline)
                return told["pipeline_quarantined_total"] + told["pipeline_written_total"] == 1

            await until(handled)
            assert ((await answer_of(plane.store, 5))["features"][0] == -700.0) is not hardened
            assert (await metrics_of(plane.pipeline))["pipeline_quarantined_total"] == hardened

    asyncio.run(scenario())


def test_a_stream_that_comes_back_knows_what_it_knew_and_goes_on_counting(tmp_path) -> None:
    async def lines_from(url: str, offset: int) -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/partitions/1?offset={offset}") as answer:
            return int(answer.headers["Next-Offset"]), await answer.read()

    async def scenario() -> None:
        async with data_plane(tmp_path, produces=False) as plane:
            await tell(plane, 1, line(), line())

            async def there() -> bool:
                return (await lines_from(plane.stream, 0))[0] == 2

            await until(there)
        async with data_plane(tmp_path, produces=False) as plane:
            assert await lines_from(plane.stream, 0) == (2, line() * 2)
            assert await lines_from(plane.stream, -1) == (2, line())
            for wrong in ("partitions/4?offset=0", "partitions/0?offset=x", "partitions/x?offset=0"):
                async with aiohttp.ClientSession() as session, session.get(f"{plane.stream}/{wrong}") as answer:
                    assert answer.status == 404

    asyncio.run(scenario())


def test_a_store_that_is_away_gets_the_newest_features_when_it_is_back(tmp_path) -> None:
    ports = choose_ports(0)

    async def scenario() -> None:
        stream = Stream(StreamSettings(0, ports.stream_rows, str(tmp_path)))
        store_url = f"http://{LOOPBACK}:{ports.feature_store}"
        async with serving(stream.application()) as url:
            settings = FeaturePipelineSettings(0, url, store_url, "stream", False, False, seed=0)
            async with serving(FeaturePipeline(settings, WORLD).application()) as pipeline:
                plane = DataPlane(url, store_url, pipeline, "", ports.stream_rows)
                await tell(plane, 1, line(at_s=4e9), with_values(f0=0.25))

                async def read() -> bool:
                    return (await metrics_of(pipeline))["pipeline_rows_total"] == 2

                await until(read)
                await asyncio.sleep(0.6)  # for an attempt or two in vain; nobody counts them
                async with serving(FeatureStore(WORLD).application(), ports.feature_store):

                    async def written() -> bool:
                        return (await metrics_of(pipeline))["pipeline_written_total"] == 1

                    await until(written)

    asyncio.run(scenario())


def test_nobody_who_says_nothing_sensible_is_listened_to(tmp_path) -> None:
    async def scenario() -> None:
        async with data_plane(tmp_path, produces=False) as plane:
            for hello in (b"\n", b'{"partition": 9}\n', b"[]\n", b"{}\n", b"x" * 100_000):
                reader, writer = await asyncio.open_connection(LOOPBACK, plane.rows_port)
                writer.write(hello + line())
                with_nobody = await _ends(reader)
                writer.transport.abort()
                assert with_nobody
            taken = await metrics_of(plane.stream)
            assert sum(taken[f"stream_rows_total/{number}"] for number in range(PARTITIONS)) == 0

    asyncio.run(scenario())


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(5):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
