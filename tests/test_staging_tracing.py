"""Traces of requests: the header that carries them on, what each component writes, and what it costs; no Ray."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from envs.staging import tracing
from envs.staging.client import Client, ClientSettings
from envs.staging.feature_store import FeatureStore
from envs.staging.gateway import Gateway, GatewaySettings
from envs.staging.model import fit_quickly
from envs.staging.model_server import ModelServer, ModelServerSettings
from envs.staging.registry import Registry
from envs.staging.tracing import Tracing, fail, outgoing, step
from envs.staging.world import make_world
from envs.telemetry.traces import RequestTrace, read

from .serving import serving, slow

WORLD = make_world(0)
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for path in sorted(folder.iterdir()) for text in path.read_text().splitlines()]


def traces(folder: Path) -> list[RequestTrace]:
    seen = read(folder, -math.inf, math.inf)
    assert seen.malformed == 0
    return list(seen.traces)


def parts(header: str) -> tuple[str, str, bool]:
    """Returns trace, caller and whether it is recorded, of a well-formed `traceparent`."""
    trace_id, span_id, flags = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", header).groups()
    return trace_id, span_id, bool(int(flags, 16) & 1)


def passed_on(headers: dict[str, str], folder: Path | None = None, traces_per_s: float = 2.0) -> tuple[str, str, bool]:
    with Tracing("gateway", folder, traces_per_s).hop("predict", headers):
        return parts(outgoing()["traceparent"])


# ---- the header -----------------------------------------------------------------------------------------------------


def test_a_trace_goes_on_under_its_own_name(tmp_path):
    trace_id, span_id, recorded = passed_on({"traceparent": SAMPLED}, tmp_path)
    assert (trace_id, recorded) == (TRACE, True)
    assert span_id != CALLER
    assert {hop["parent"] for hop in lines(tmp_path)} == {CALLER}


def test_what_the_caller_does_not_record_nobody_records(tmp_path):
    trace_id, _, recorded = passed_on({"traceparent": SAMPLED[:-1] + "0"}, tmp_path)
    assert (trace_id, recorded) == (TRACE, False)
    assert list(tmp_path.iterdir()) == []


HEX = st.text("0123456789abcdef")
ALMOST = st.builds(
    lambda *parts: "-".join(parts),
    st.sampled_from(["00", "ff", "0", "zz"]),
    HEX.filter(lambda text: len(text) != 32) | st.just("0" * 32) | st.just(TRACE.upper()),
    st.just(CALLER) | st.just("0" * 16) | HEX,
    st.sampled_from(["01", "00", "1", ""]),
)


@given(ALMOST | st.text(max_size=80) | st.sampled_from(["", SAMPLED + "-", f"{SAMPLED}-extra", SAMPLED[1:]]))
def test_a_header_that_makes_no_sense_begins_a_new_trace(header):
    trace_id, span_id, _ = passed_on({"traceparent": header})
    assert trace_id != "0" * 32
    assert span_id != "0" * 16
    assert trace_id not in header.lower()


@given(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
def test_every_well_formed_header_is_continued(trace_id, span_id):
    well_formed = trace_id != "0" * 32 and span_id != "0" * 16
    header = f"00-{trace_id}-{span_id}-00"
    assert (passed_on({"traceparent": header})[0] == trace_id) == well_formed


# ---- what is recorded -----------------------------------------------------------------------------------------------


def test_only_a_few_of_those_that_begin_here_are_recorded(tmp_path):
    gateway = Tracing("gateway", tmp_path, traces_per_s=20.0)
    began_s = time.monotonic()
    for _ in range(400):
        with gateway.hop("predict", {}):
            pass
        time.sleep(0.001)
    recorded, took_s = len(traces(tmp_path)), time.monotonic() - began_s
    assert 2 <= recorded <= 20 * took_s + 1


def test_without_a_folder_traces_are_passed_on_and_nothing_is_recorded(tmp_path):
    assert passed_on({"traceparent": SAMPLED})[0] == TRACE
    assert not passed_on({})[2]


def test_a_hop_that_never_ends_is_known_to_have_begun(tmp_path):
    hop = Tracing("gateway", tmp_path).hop("predict", {})
    hop.__enter__()
    (begun,) = traces(tmp_path)
    assert begun.root.end_s is None
    hop.__exit__(None, None, None)
    (ended,) = traces(tmp_path)
    assert ended.root.end_s >= ended.root.start_s


def test_who_is_told_to_give_up_says_so_and_gives_up(tmp_path):
    async def scenario() -> None:
        async def answer() -> None:
            with Tracing("model-server", tmp_path).hop("predict", {}), step("fetch features"):
                await asyncio.sleep(60.0)

        task = asyncio.create_task(answer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    (trace,) = traces(tmp_path)
    assert [(span.name, span.error) for span in trace.spans] == [
        ("predict", "CancelledError"),
        ("fetch features", "CancelledError"),
    ]


def test_a_failure_and_its_moment_are_told_by_the_clock_of_the_machine(tmp_path):
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    with Tracing("gateway", tmp_path).hop("predict", {}):
        fail("HTTP 504")
    (trace,) = traces(tmp_path)
    assert trace.root.error == "HTTP 504"
    assert before_s - 1e-3 <= trace.root.start_s <= trace.root.end_s <= time.clock_gettime(time.CLOCK_BOOTTIME) + 1e-3
    assert trace.root.instance == f"gateway/{os.getpid()}"


def test_files_never_grow_beyond_their_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "_LARGEST_FILE_BYTES", 4096)
    gateway = Tracing("gateway", tmp_path)
    for _ in range(100):
        with gateway.hop("predict", {"traceparent": SAMPLED}):
            pass
    sizes = {path.name.partition(".")[2]: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"jsonl", "jsonl.1"}
    assert 0 < max(sizes.values()) <= 4096


def test_whoever_is_restarted_again_and_again_does_not_fill_the_disk(tmp_path):
    for pid in range(50):
        path = tmp_path / f"gateway-{pid}.jsonl"
        path.touch()
        os.utime(path, (pid, pid))
    (tmp_path / "client-1.jsonl").touch()
    with Tracing("gateway", tmp_path).hop("predict", {"traceparent": SAMPLED}):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 9
    assert {"client-1.jsonl", "gateway-49.jsonl", f"gateway-{os.getpid()}.jsonl"} <= left


def test_a_folder_that_is_gone_stops_nobody(tmp_path, capsys):
    with Tracing("gateway", tmp_path / "gone").hop("predict", {"traceparent": SAMPLED}):
        pass
    assert "No such file" in capsys.readouterr().err


# ---- through the platform -------------------------------------------------------------------------------------------


@asynccontextmanager
async def model_server(folder: Path, features_url: str, **changes: object) -> AsyncIterator[web.Application]:
    """The real model server, asked as Ray Serve would ask it."""
    Registry(folder / "registry").publish(fit_quickly(0).tensors)
    (folder / "announcements").mkdir()
    settings = {
        "registry": folder / "registry",
        "announcements": folder / "announcements",
        "log": folder / "log",
        "features_url": features_url,
        "verified": True,
        "canary": False,
        "answers_to_be_well": False,
        "feature_timeout_s": None,
        "budgeted_retries": True,
        "seed": 0,
        "traces": folder / "traces",
    }
    server = ModelServer(ModelServerSettings(**settings | changes))

    async def predict(request: web.Request) -> web.Response:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": await request.read(), "more_body": False}

        headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
        answer = await server(Request({"type": "http", "method": "POST", "headers": headers}, receive))
        return web.Response(body=answer.body, status=answer.status_code, content_type="application/json")

    app = web.Application()
    app.add_routes([web.post("/predict", predict)])
    try:
        yield app
    finally:
        for task in server._tasks:
            task.cancel()
        await server._features._store._session.close()
        logger = logging.getLogger("envs.staging")
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()


async def asked_once(folder: Path, *, store_delay_s: float = 0.0, **changes: object) -> tuple[int, dict[str, object]]:
    """Sends one recorded request through gateway and model server to the features."""
    (folder / "registry").mkdir()
    (folder / "traces").mkdir()
    store = slow(FeatureStore(WORLD, traces=folder / "traces").application(), store_delay_s)
    async with (
        serving(store) as features_url,
        model_server(folder, features_url, **changes) as app,
        serving(app) as upstream,
        serving(
            Gateway(GatewaySettings(0, f"{upstream}/predict", 5.0, None, str(folder / "traces"))).application()
        ) as gateway,
        aiohttp.ClientSession() as session,
        session.post(f"{gateway}/predict", json={"entity": 3}, headers={"traceparent": SAMPLED}) as answer,
    ):
        return answer.status, await answer.json()


HOPS = ["gateway", "model-server", "model-server", "feature-store"]


def spans_of(folder: Path) -> list[dict[str, object]]:
    """Returns the ended hops of the recorded request, the caller's first."""
    ended = [hop for hop in lines(folder / "traces") if hop["end_s"] is not None]
    assert {hop["trace"] for hop in ended} == {TRACE}
    return sorted(ended, key=lambda hop: hop["start_s"])


def test_one_request_leaves_its_hops_through_gateway_model_server_and_store_in_one_trace(tmp_path):
    status, answer = asyncio.run(asked_once(tmp_path))
    assert (status, answer["fallback"]) == (200, False)
    hops = spans_of(tmp_path)
    assert [hop["component"] for hop in hops] == HOPS
    assert [hop["name"] for hop in hops] == ["POST /predict", "predict", "fetch features", "GET /features"]
    assert [hop["parent"] for hop in hops] == [CALLER, *(hop["span"] for hop in hops[:3])]
    assert [hop["error"] for hop in hops] == [None] * 4
    assert hops[0]["attributes"] == {"http.response.status_code": 200}
    assert hops[1]["attributes"] == {"model.version": 1, "features.fallback": False}
    assert hops[2]["attributes"] == {"features.attempts": 1}


def test_a_hop_that_was_waited_for_too_long_says_so_and_the_answer_tells_of_its_fallback(tmp_path):
    status, answer = asyncio.run(asked_once(tmp_path, store_delay_s=30.0, feature_timeout_s=0.1))
    assert (status, answer["fallback"]) == (200, True)
    hops = {(hop["component"], hop["name"]): hop for hop in spans_of(tmp_path)}
    fetch = hops["model-server", "fetch features"]
    assert fetch["error"] == "TimeoutError"
    assert 0.09 < fetch["end_s"] - fetch["start_s"] < 15.0
    assert hops["model-server", "predict"]["attributes"]["features.fallback"] is True
    assert hops["gateway", "POST /predict"]["error"] is None


def test_the_client_begins_traces_and_knows_how_they_ended(tmp_path):
    async def scenario(upstream: web.Application, timeout_s: float) -> None:
        async with serving(upstream) as url:
            gateway = Gateway(GatewaySettings(0, f"{url}/predict", 5.0, None, str(tmp_path))).application()
            async with serving(gateway) as front:
                settings = ClientSettings(0, f"{front}/predict", 50.0, timeout_s, 0, str(tmp_path))
                async with serving(Client(settings, WORLD).application()):
                    while not any(trace.root.end_s is not None for trace in traces(tmp_path)):
                        await asyncio.sleep(0.02)

    async def predict(request: web.Request) -> web.Response:
        return web.json_response({"label": 5, "score": 0.9})

    def wrong() -> web.Application:
        app = web.Application()
        app.add_routes([web.post("/predict", predict)])
        return app

    asyncio.run(scenario(wrong(), 2.0))
    first = traces(tmp_path)[0]
    assert [span.component for span in first.spans] == ["client", "gateway"]
    assert first.wrong
    assert not first.failed
    for path in tmp_path.iterdir():
        path.unlink()
    asyncio.run(scenario(slow(wrong(), 60.0), 2.0))
    first = traces(tmp_path)[0]
    assert (first.root.error, first.failed) == ("timeout", True)
    assert [span.component for span in first.spans] == ["client", "gateway"]


# ---- sending them elsewhere as well ---------------------------------------------------------------------------------


def test_without_the_extra_one_line_says_so_and_everything_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with Tracing("gateway", tmp_path).hop("predict", {"traceparent": SAMPLED}):
        pass
    assert [record.message for record in caplog.records] == [
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `tracing` that sends traces there is not installed"
    ]
    assert len(lines(tmp_path)) == 2


def test_with_the_extra_hops_reach_a_collector_too(tmp_path, monkeypatch):
    if not os.environ.get("BACKBURN_TEST_EVERYTHING"):
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
            gateway = Tracing("gateway", tmp_path)
            with gateway.hop("predict", {"traceparent": SAMPLED}):
                pass
            gateway.close()
        finally:
            server.shutdown()
            thread.join()
    (resource,) = received[0].resource_spans
    service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
    (span,) = resource.scope_spans[0].spans
    assert (service, span.name, span.trace_id.hex()) == ("gateway", "predict", TRACE)
    assert len(lines(tmp_path)) == 2
