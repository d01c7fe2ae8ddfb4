"""The real embedded cluster, once in a whole run and once with a crash; the rest is in the staging tests."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import psutil
import pytest

from agent.findings.ledger import Ledger
from agent.settings import load
from tests.embedded import embedded_agent, embedded_config, recovered
from tests.test_agent_findings import weakness
from tests.waiting import wait_until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(600)]


def test_a_replay_on_the_real_cluster_shows_the_weakness_again_and_leaves_nothing(tmp_path):
    """Platform, telemetry, calibration, one real kill, verdict, report, and the end of it all, by the command line."""
    # Where it scales by itself, a busy moment has just brought a second replica now and then, which bears the kill.
    # Short windows: a minute less of fault-free time to wait for.
    config = embedded_config(tmp_path, "serving.replicas", "serving.autoscale", window_s=2.0)
    ledger = Ledger(load(config).cluster_state_dir / "ledger.db")
    ledger.record([weakness()])
    ledger.close()
    out = tmp_path / "run"
    command = [sys.executable, "-m", "agent", "replay", weakness().id, "--times", "1", "--config", config, "--out", out]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr

    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "done", run
    assert run["fencing_token"] == 1, "by which its faults are known in the journal"
    outcomes = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    shams = [outcome for outcome in outcomes if outcome["fault"] is None]
    (shown,) = [outcome for outcome in outcomes if outcome["fault"] is not None]
    assert [sham["verdict"] for sham in shams] == ["resilient"] * len(shams)
    assert (shown["verdict"], shown["mechanism"]) == ("weakness", "unavailable"), shown["reason"]
    assert shown["evidence"]["p"] <= 0.05
    assert shown["recovery_s"] is not None
    hops = [hop["component"] for hop in shown["requests"]["before"]["spans"]]
    assert hops == ["client", "gateway", "model-server", "model-server", "feature-store"]
    assert shown["requests"]["injection_id"] == shown["injection_id"]
    assert shown["requests"]["during"]["spans"][0]["component"] == "client"
    healthy = dict(shams[0]["trace"])
    assert min(value for _, value in healthy["client/accuracy"]) > 0.8
    assert statistics.median(value for _, value in healthy["trainer/steps_per_s"]) > 10.0
    assert json.loads((out / "ground_truth.json").read_text())["planted"] == ["serving.autoscale", "serving.replicas"]
    assert not (tmp_path / "state" / "local" / "platform.json").exists()
    assert not [process for process in psutil.process_iter(["cmdline"]) if _names(process, str(tmp_path))]


def test_a_killed_agents_fault_and_platform_are_gone(tmp_path):
    config = embedded_config(tmp_path)
    with embedded_agent(config, tmp_path, "network.delay", "feature-store") as agent:
        os.kill(agent.process.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        wait_until(lambda: not agent.trace.left(), within_s=30.0)
        print(f"platform gone {time.monotonic() - killed_s:.2f} s after SIGKILL of the agent")
    assert recovered(config) == {"open": [], "leaked": []}


def _names(process: psutil.Process, path: str) -> bool:
    return path in " ".join(process.info["cmdline"] or ())
