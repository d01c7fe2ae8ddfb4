"""A platform reduced to what faults act on: real processes, a real fault proxy with traffic, a real checkpoint file.

It has a handle like the embedded cluster's, so that the local driver, the watchdog and the recovery can be tried on
real signals, sockets and bytes within a second, without Ray.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actuators.drivers.local import hold
from actuators.drivers.local.hold import is_same_process
from actuators.drivers.local.platform import ask
from envs.staging.model import untrained
from envs.staging.processes import ProcessId, boot_id, identify
from envs.staging.registry import Registry
from tests.cards import UUID, Card, card, neighbours

HOLD = Path(hold.__file__)
SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
NODE = """
import subprocess, sys, time
started = [subprocess.Popen([sys.executable, *sys.argv[2:]], process_group=0).pid for _ in range(int(sys.argv[1]))]
print(*started, flush=True)
time.sleep(600)
"""
NODES = {"model-server": "serving", "trainer": "training"}
"""Who lives on which node; all others on the host itself."""
CARDS = {"trainer": UUID}
"""Who works on which card; all others on none."""

KEEPALIVE = "keepalive"

FEED = "producer->stream"
ROUTES_IN = {"feature-store": ["model-server->feature-store"], "stream": [FEED]}


@dataclass
class BarePlatform:
    """The parts of a bare platform.

    Attributes:
        handle: path of its handle.
        sleepers: its processes by component.
        nodes: the parents of those that live on a node, by the node's name.
        checkpoint: its only checkpoint.
        registry: folder of its published models.
        proxy_socket: of its fault proxy.
        port: of the delayed edge, for whoever wants to feel the delay.
        guard: the process that the handle calls the guard.
        card: the only card, on which the trainer works.
    """

    handle: Path
    sleepers: dict[str, list[ProcessId]]
    nodes: dict[str, ProcessId]
    checkpoint: Path
    registry: Path
    proxy_socket: Path
    port: int
    guard: subprocess.Popen[bytes]
    card: Card

    def state_of(self, component: str) -> list[str]:
        """Returns how a component's processes are; `gone` for the dead, `starved` for those held by turns."""
        return [_state(process.pid) for process in self.sleepers[component]]

    def observable(self) -> dict[str, object]:
        """Returns everything that a fault could have changed."""
        return {
            "states": {name: self.state_of(name) for name in self.sleepers},
            "data_limits": {name: [_data_limit(process) for process in self.sleepers[name]] for name in self.sleepers},
            "nodes": {name: _state(node.pid) for name, node in self.nodes.items()},
            "checkpoint": self.checkpoint.read_bytes() if self.checkpoint.exists() else None,
            "folder": sorted(path.name for path in self.checkpoint.parent.iterdir()),
            "registry": {path.name: path.read_bytes() for path in self.registry.iterdir()},
            "proxy": ask(str(self.proxy_socket), {"verb": "list"})["faults"],
            "neighbours": neighbours(),
        }


@contextmanager
def bare_platform(folder: Path) -> Iterator[BarePlatform]:
    """Starts a bare platform with its state in `folder`, and ends it."""
    with ExitStack() as ends:
        gpu = ends.enter_context(card(folder))
        nodes = {node: _process(ends, [*SLEEPER[:3], "-c", NODE, "2", *SLEEPER[1:]]) for node in NODES.values()}
        sleepers = {name: _started_by(ends, nodes[node]) for name, node in NODES.items()}
        sleepers["feature-store"] = [identify(_process(ends, SLEEPER).pid)]
        sleepers["stream"] = [identify(_process(ends, SLEEPER).pid)]
        guard = _guard(ends, folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
        ends.callback(server.server_close)
        ends.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        control = folder / "proxy.sock"
        sink = ends.enter_context(_sink())
        routes = [
            *("--route", f"model-server->feature-store=0:{server.server_port}"),
            *("--route", f"{FEED}=0:{sink.getsockname()[1]}"),
        ]
        proxy = _process(ends, [sys.executable, "-m", "actuators.proxy", "--control", str(control), *routes])
        ports = json.loads(proxy.stdout.readline())["routes"]
        port = ports["model-server->feature-store"]
        stop = threading.Event()
        for target, to in ((_keep_asking, port), (_keep_telling, ports[FEED])):
            traffic = threading.Thread(target=target, args=(to, stop), daemon=True)
            traffic.start()
            ends.callback(traffic.join)
        ends.callback(stop.set)
        checkpoint = folder / "checkpoints" / "checkpoint-000001.safetensors"
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(os.urandom(4096))
        os.utime(checkpoint, (1_700_000_000, 1_700_000_000))
        registry = folder / "registry"
        Registry(registry).publish(untrained(0).tensors)
        handle = folder / "platform.json"
        (folder / "root").mkdir()
        raylets = {name: identify(node.pid) for name, node in nodes.items()}
        handle.write_text(json.dumps(_handle(folder, sleepers, raylets, guard, control)))
        yield BarePlatform(handle, sleepers, raylets, checkpoint, registry, control, port, guard, gpu)


def _handle(folder, sleepers, nodes, guard, socket):
    return {
        "version": 1,
        "cluster_id": "local",
        "environment": "staging",
        "state": "ready",
        "error": None,
        "boot_id": boot_id(),
        "guard": {"pid": guard.pid, "start_ticks": identify(guard.pid).start_ticks},
        "session_id": 0,
        "root": str(folder / "root"),
        "control_socket": str(folder / "control.sock"),
        "proxy_socket": str(socket),
        "paths": {"checkpoints": str(folder / "checkpoints"), "registry": str(folder / "registry")},
        "startup_s": {},
        "components": {
            name: {
                "role": name,
                "labels": {"backburn.dev/enabled": "true"},
                "depends_on": [],
                "desired": len(processes),
                "routes_in": ROUTES_IN.get(name, []),
                "feeds": [FEED] if name == "stream" else [],
                "node": NODES.get(name, "host"),
                "instances": [
                    {"id": f"{name}/{process.pid}", "metrics_url": "", "card": CARDS.get(name, ""), **asdict(process)}
                    for process in processes
                ],
            }
            for name, processes in sleepers.items()
        },
        "observers": {},
        "nodes": {name: asdict(node) for name, node in nodes.items()},
    }


def _guard(ends: ExitStack, folder: Path) -> subprocess.Popen[bytes]:
    """Starts what hangs, as a guard does, on the pipe of the agent whose platform it is: whoever opens `KEEPALIVE`."""
    os.mkfifo(folder / KEEPALIVE)
    keepalive = os.open(folder / KEEPALIVE, os.O_RDWR)
    try:
        return _process(ends, SLEEPER, keepalive)
    finally:
        os.close(keepalive)


def _process(ends: ExitStack, command: list[str], *fds: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=fds)
    ends.callback(process.stdout.close)
    ends.callback(process.wait)
    ends.callback(process.kill)
    return process


def _started_by(ends: ExitStack, node: subprocess.Popen[bytes]) -> list[ProcessId]:
    processes = [identify(int(pid)) for pid in node.stdout.readline().split()]
    for process in processes:
        ends.callback(process.kill)
    return processes


def _state(pid: int) -> str:
    found = identify(pid)
    if found is None or not is_same_process(pid, found.start_ticks):
        return "gone"
    if any(share < 1.0 for share in held_shares(pid)):
        return "starved"
    return "stopped" if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" else "running"


def held_shares(pid: int) -> list[float]:
    """Returns for which shares of the time living holders hold a process."""
    shares = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if str(HOLD) in command and any(argument.startswith(f"{pid}:") for argument in command):
                shares += [float(command[-2])] if command[-2] != hold.MEMORY else []
    return shares


def _data_limit(process: ProcessId) -> int | str:
    found = hold.data_limit(process.pid, process.start_ticks)
    return "gone" if found is None else found


def _keep_asking(port: int, stop: threading.Event) -> None:
    while not stop.wait(0.02):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
        except OSError:
            continue


@contextmanager
def _sink() -> Iterator[socket.socket]:
    """Takes rows and forgets them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_swallow, args=(listener,), daemon=True).start()
        yield listener
        listener.shutdown(socket.SHUT_RDWR)


def _swallow(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(4096):
                    pass


def _keep_telling(port: int, stop: threading.Event) -> None:
    row = json.dumps({"entity": 1, "partition": 1, "values": {"f0": 0.5, "f1": -0.5}}).encode() + b"\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not stop.wait(0.02):
            connection.sendall(row)


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""
