"""Ports that a component can come back to.

Listening ports are taken from below the kernel's ephemeral range. In that range a connection to a dead component may be
given the dead component's own port as its source: it then connects to itself and keeps the port from the restart.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import BadInput, StagingError

LOOPBACK = "127.0.0.1"

_LOWEST = 10_000
_TRIES = 500


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port that somebody else has to know; they stay the same over restarts."""

    gateway: int
    to_model_server: int
    model_server: int
    to_feature_store: int
    feature_store: int
    client: int
    monitor: int
    ray_agent: int
    stream: int
    to_stream: int
    stream_rows: int
    to_stream_rows: int
    feature_pipeline: int
    pipeline_to_feature_store: int
    producer: int


def choose_ports(gateway_port: int) -> Ports:
    """Returns ports that nobody listens on now.

    Args:
        gateway_port: the one that a person may choose; 0 for any.

    Raises:
        BadInput: the chosen one cannot be bound.
        StagingError: there are not enough free ones.
    """
    names = [field.name for field in fields(Ports)]
    # An excess of one, in case the chosen port is among those that are found free.
    found = [port for port in itertools.islice(_free_ports(), len(names) + 1) if port != gateway_port]
    if len(found) < len(names):
        raise StagingError(f"only {len(found)} of {len(names)} free ports were found")
    chosen = dict(zip(names, found, strict=False))
    if gateway_port:
        _check_free(gateway_port, "gateway")
        chosen["gateway"] = gateway_port
    return Ports(**chosen)


def _check_free(port: int, purpose: str) -> None:
    try:
        _bind(port)
    except OSError as error:
        raise BadInput(f"port {port} for the {purpose} cannot be bound on {LOOPBACK}: {error.strerror}") from None


def _free_ports() -> Iterator[int]:
    ephemeral_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Not seeded: two platforms on one machine must not try the same ports in the same order.
    for port in random.SystemRandom().sample(range(_LOWEST, max(ephemeral_from, _LOWEST + _TRIES)), _TRIES):
        try:
            _bind(port)
        except OSError:
            continue
        yield port


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
