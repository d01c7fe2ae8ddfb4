"""A real Prometheus server for tests, and exporters whose numbers are known at every moment."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from agent.settings import PACKAGED
from envs.staging.ports import LOOPBACK, choose_ports
from envs.telemetry.scrape import Exporter
from tests.waiting import wait_until


def prometheus_binary() -> str:
    """Returns the program; a newcomer may lack it, the place that tests everything may not."""
    found = shutil.which("prometheus")
    if found is None and not os.environ.get("BACKBURN_TEST_EVERYTHING"):
        pytest.skip("no prometheus here; Debian: apt-get install prometheus")
    return found or "prometheus"


class RealPrometheus:
    """A Prometheus server on a free port, with the packaged configuration.

    Args:
        folder: for its configuration, data and log.
        targets: the file that tells it whom to scrape.
    """

    def __init__(self, folder: Path, targets: Path) -> None:
        self._folder = folder
        packaged = (PACKAGED / "prometheus.yml").read_text()
        config = packaged.replace("../state/local/prometheus-targets.json", str(targets))
        assert config != packaged
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(PACKAGED / "alerts.yml", folder)
        self._port = choose_ports(0).monitor  # one that it can come back to
        self.url = f"http://{LOOPBACK}:{self._port}"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it, for the first time or again on the data that it has left; the test's own death ends it."""
        program = ["setpriv", "--pdeathsig", "KILL", prometheus_binary(), "--log.level=warn"]
        files = [f"--config.file={self._folder / 'prometheus.yml'}", f"--storage.tsdb.path={self._folder / 'data'}"]
        with (self._folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*program, *files, f"--web.listen-address={LOOPBACK}:{self._port}"], stdout=log, stderr=log
            )
        wait_until(self._is_ready, within_s=30.0)
        return self.process

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def cpu_s(self) -> float:
        """Returns the processor time it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with socket.create_connection((LOOPBACK, self._port), 1.0) as probe:
                probe.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
                return probe.recv(100).startswith(b"HTTP/1.0 200")
        except OSError:
            return False


@contextmanager
def real_prometheus(folder: Path, targets: Path) -> Iterator[RealPrometheus]:
    """Runs a Prometheus server, and ends it however the test ends."""
    prometheus_binary()
    folder.mkdir(parents=True, exist_ok=True)
    server = RealPrometheus.__new__(RealPrometheus)
    try:
        server.__init__(folder, targets)
        yield server
    finally:
        if hasattr(server, "process"):
            server.kill()


class Growing(Collector):
    """An exporter of counters that grow by a hundred per second, exactly, whoever looks and however late.

    One in ten requests fails; the latencies are 30 % up to 10 ms, 50 % up to 100 ms, 20 % up to 1 s; the level is 42.
    """

    def __init__(self, owner: str) -> None:
        self._began_s = time.monotonic()
        self.timeouts = 0.0
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry)
        self.exporter = Exporter(owner, f"http://127.0.0.1:{self._server.server_port}/metrics")

    def collect(self):
        seconds = time.monotonic() - self._began_s
        requests = CounterMetricFamily("requests", "x", labels=["outcome"])
        requests.add_metric(["ok"], 90.0 * seconds)
        requests.add_metric(["error"], 10.0 * seconds)
        if self.timeouts:
            requests.add_metric(["timeout"], self.timeouts)
        yield requests
        buckets = [("0.01", 30.0 * seconds), ("0.1", 80.0 * seconds), ("1", 100.0 * seconds), ("+Inf", 100.0 * seconds)]
        yield HistogramMetricFamily("latency_seconds", "x", buckets=buckets, sum_value=seconds)
        yield GaugeMetricFamily("level", "x", value=42.0)

    def restart(self) -> None:
        """Begins to count from 0."""
        self._began_s = time.monotonic()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class CannedServer:
    """Something that listens where a Prometheus should, and answers whatever a test decides.

    Attributes:
        body: of the answer; None for an answer that does not come.
        status: of the answer.
        questions: what was asked, as it was sent.
    """

    def __init__(self) -> None:
        self.body: bytes | None = answer()
        self.status = 200
        self.questions: list[tuple[str, bytes]] = []
        self._hang = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.questions.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                if outer.body is None:
                    outer._hang.wait(60.0)
                    self.close_connection = True
                    return
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                """Keeps quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._hang.set()
        self._server.shutdown()
        self._server.server_close()


def answer(*elements: object) -> bytes:
    """Returns the body of a Prometheus' answer with some elements."""
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": list(elements)}}).encode()


def element(label: str, series: str, value: str, told_s: float = 1000.0) -> dict[str, object]:
    """Returns one element of an answer."""
    return {"metric": {label: series}, "value": [told_s, value]}
