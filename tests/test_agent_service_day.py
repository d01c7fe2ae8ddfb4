"""A day of the service in short: lever over the web, an alert, a kill, a restart; and the journal that tells of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from agent.service.retention import own_runs
from agent.settings import load
from tests.conftest import config_file
from tests.waiting import wait_until

SERVICE = {
    "campaign_min": 100_000.0,
    "daily": {"minutes": 1e6, "harm_min": 1e6},
    "pause_s": 0.0,
    "ladder": {"begin": 2},
    "http": {"port": 0, "release_on_resolved": True},
}
"""One campaign that would go on for ever."""


class Running:
    """A service in a process of its own, and its web address."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "agent", "serve", "--config", str(config)]
        self.said = config.with_name(f"said-{time.monotonic_ns()}")
        with self.said.open("w", encoding="utf-8") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        listening = wait_until(self._address, within_s=60)
        self.address = listening.split()[2].rstrip(",")
        token = Path(listening.rpartition("token in ")[2].strip()).read_text().strip()
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"Bearer {token}"

    def _address(self) -> str | None:
        """Returns its first line, once it is whole."""
        assert self.process.poll() is None, self.said.read_text(encoding="utf-8")
        first, newline, _ = self.said.read_text(encoding="utf-8").partition("\n")
        return first if newline else None

    def doing(self) -> str:
        return self.http.get(f"{self.address}/status", timeout=10).json()["doing"]

    def post(self, path: str, body: dict) -> dict:
        said = self.http.post(f"{self.address}{path}", json=body, timeout=10)
        said.raise_for_status()
        return said.json()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if hasattr(self, "http"):
            self.http.close()


@contextmanager
def running(config: Path) -> Iterator[Running]:
    service = Running.__new__(Running)
    try:
        service.__init__(config)
        yield service
    except BaseException:
        print(service.said.read_text(encoding="utf-8")[-3000:])
        raise
    finally:
        if hasattr(service, "process"):
            service.close()


def alert(status: str) -> dict:
    return {
        "version": "4",
        "alerts": [{"status": status, "labels": {"alertname": "CheckoutIsDown"}, "fingerprint": "f1"}],
    }


def test_whatever_happens_is_answered_and_can_be_read_afterwards(tmp_path):
    config = config_file(tmp_path, scoring={"units": 24}, service=SERVICE)
    with running(config) as service:
        wait_until(lambda: service.doing() == "running", within_s=60)
        service.post("/lever", {"engaged": True, "reason": "release day"})
        wait_until(lambda: service.doing() == "waiting", within_s=60)
        service.post("/lever", {"engaged": False, "reason": "released"})
        wait_until(lambda: service.doing() == "running", within_s=60)
        service.post("/alertmanager", alert("firing"))
        wait_until(lambda: service.doing() == "waiting", within_s=60)
        service.post("/alertmanager", alert("resolved"))
        wait_until(lambda: service.doing() == "running", within_s=60)
        os.kill(service.process.pid, signal.SIGKILL)
    with running(config) as service:
        wait_until(lambda: service.doing() == "running", within_s=60)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
    said = subprocess.run(
        [sys.executable, "-m", "agent", "journal", "--json", "--config", str(config)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = [(entry["event"], entry["reason"]) for entry in map(json.loads, said.stdout.splitlines())]
    expected = [
        ("service", "begins"),
        ("campaign", "begins"),
        ("lever", "engaged: release day"),
        ("campaign", "the lever is engaged: release day"),
        ("waiting", "the lever is engaged: release day"),
        ("lever", "released: released"),
        ("campaign", "begins"),
        ("lever", "alerts are firing: CheckoutIsDown"),
        ("campaign", "the lever is engaged: alerts are firing"),
        ("lever", "released: all alerts that engaged it are resolved"),
        ("campaign", "begins"),
        ("service", "begins"),  # after the kill
        ("service", "which was killed"),
        ("campaign", "begins"),
        ("campaign", "interrupted: SIGTERM"),
        ("service", "ends: SIGTERM"),
    ]
    entries = iter(told)
    for event, words in expected:
        assert any(event == found and words in reason for found, reason in entries), (event, words, told)
    states = [facts["state"] for _, facts in own_runs(load(config).runs_dir)]
    assert states == ["stopped", "stopped", "killed", "interrupted"]
