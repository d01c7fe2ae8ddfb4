"""On the real embedded cluster: the report of a delay shows one request from before it and one from during it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from actuators.catalogue import CATALOGUE
from agent.findings.waterfall import as_text, waterfall
from agent.learning.planned import PlannedPolicy
from agent.run import Run
from agent.settings import load
from tests.embedded import INTENSITY, embedded_config

pytestmark = [pytest.mark.staging, pytest.mark.timeout(900)]

KIND, TARGET = "network.delay", "feature-store"
HOPS = [
    ("client", "predict"),
    ("gateway", "POST /predict"),
    ("model-server", "predict"),
    ("model-server", "fetch features"),
    ("feature-store", "GET /features"),
]


def plan(env):
    """Tries the one fault until it is confirmed."""
    return PlannedPolicy([[env.code.encode(env.code.fault(TARGET, KIND, INTENSITY[KIND]))]])


def test_the_report_shows_a_short_fetch_before_the_delay_and_a_long_one_during_it(tmp_path):
    config = embedded_config(tmp_path, "serving.feature_timeout")
    run = Run(load(config), tmp_path / "run", Console(quiet=True), policy=plan)
    run.execute()
    weaknesses = json.loads((tmp_path / "run" / "weaknesses.json").read_text())
    (weakness,) = [one for one in weaknesses if (one["fault"]["kind"], one["fault"]["target"]) == (KIND, TARGET)]
    requests = weakness["requests"]
    print("\n" + as_text(requests))

    before, during = requests["before"], requests["during"]
    assert requests["malformed"] == 0
    assert [(hop["component"], hop["name"]) for hop in before["spans"]] == HOPS
    fetched = {when: requests[when]["spans"][3]["took_ms"] for when in ("before", "during")}
    assert fetched["before"] < 50.0
    assert before["at_s"] < 0.0 < during["at_s"]
    assert [hop["component"] for hop in during["spans"][:3]] == ["client", "gateway", "model-server"]
    delay_ms = CATALOGUE[KIND].amount(INTENSITY[KIND])
    assert fetched["during"] is None or fetched["during"] > 0.9 * delay_ms
    if len(during["spans"]) == len(HOPS):
        assert during["spans"][4]["took_ms"] < 50.0, "the store itself is not slow: the way to it is"

    outcomes = [json.loads(line) for line in (tmp_path / "run" / "outcomes.jsonl").read_text().splitlines()]
    kept = {one["injection_id"]: one["requests"] for one in outcomes if one["fault"] is not None}
    assert len(kept) >= weakness["confidence"]["attempts"]
    assert kept[requests["injection_id"]] == requests
    assert all(one["during"] is not None for one in kept.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"during fault {requests['injection_id']}" in page
    assert ElementTree.fromstring(waterfall(requests, "")) is not None  # noqa: S314 (drawn by us)
    assert as_text(requests) in (tmp_path / "run" / "report.md").read_text()
