"""Is everything in order, before one leaves it alone? Looks, and changes nothing but what a run would make anyway."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import requests

from actuators.clock import BootClock
from actuators.errors import BackburnError

from ..build.parts import policy_named
from ..build.state import State, open_state
from ..settings import Settings
from .schedule import opening
from .serve import token_of
from .store import Store

_READY_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether it is in order.
        said: what was seen, and what to do if it is not.
    """

    what: str
    ok: bool
    said: str


def examine(settings: Settings) -> list[Finding]:
    """Returns what was seen of a cluster's state and of this machine, what is not in order first."""
    findings = []
    try:
        state = open_state(settings, BootClock(), f"doctor {os.getpid()}")
    except BackburnError as error:
        return [Finding("state", False, str(error))]
    try:
        for what, look in _looks(settings, state):
            try:
                findings.append(look())
            except (BackburnError, OSError) as error:
                findings.append(Finding(what, False, str(error)))
    finally:
        state.close()
    return sorted(findings, key=lambda finding: finding.ok)


def _looks(settings: Settings, state: State) -> Iterator[tuple[str, Callable[[], Finding]]]:
    service = settings.service

    def lever() -> Finding:
        if not state.lever.exists():
            return Finding("lever", True, "was never moved; the embedded cluster makes its own, released")
        seen = state.lever.read()
        if seen.engaged:
            said = f"is engaged ({seen.reason}); `backburn resume --reason …` releases it"
            return Finding("lever", False, said)
        return Finding("lever", True, f"is released ({seen.reason})")

    def faults() -> Finding:
        still_open, leaked = state.journal.open_injections(), state.journal.leaked()
        if not still_open and not leaked:
            return Finding("faults", True, "none is in force")
        first = (leaked or still_open)[0]
        at_work = state.lease.at_work()
        if not leaked and at_work is not None:
            return Finding("faults", True, f"{first.fault} is in force; {at_work} is at work, and takes it out")
        said = (
            f"{len(still_open)} open and {len(leaked)} leaked, first {first.fault} ({first.id}); run `backburn recover`"
        )
        return Finding("faults", False, said)

    def disk() -> Finding:
        free_mib = shutil.disk_usage(state.folder).free / 2**20
        said = f"{free_mib:.0f} MiB are free; nothing starts with less than {service.least_free_mib:g}"
        return Finding("disk", free_mib >= service.least_free_mib, said)

    def memory() -> Finding:
        store = Store(state.folder / "service.db")
        try:
            memory = store.experiences(datetime.now(UTC), service.remember_days)
            rung = store.rung()
        finally:
            store.close()
        stands = service.ladder.begin if rung is None else rung.rung
        said = f"{len(memory.experiences)} experiment(s) count; rung {stands}"
        if memory.unreadable:
            said += f"; {memory.unreadable} more cannot be read, and are tried again"
        return Finding("memory", not memory.unreadable, said)

    def schedule() -> Finding:
        now = opening(service.schedule, datetime.now(UTC))
        until = "" if now.until is None else f" until {now.until:%a %Y-%m-%d %H:%M UTC}"
        return Finding("schedule", True, f"{'open' if now.is_open else 'closed'}{until}: {now.why}")

    def policy() -> Finding:
        name = settings.campaign.policy
        policy_named(name, np.random.default_rng(0))
        return Finding("policy", True, f"{name} can be read")

    def token() -> Finding:
        path = service.http.token_file
        if path is None:
            return Finding("token", True, "`serve` makes its own in the state folder")
        token_of(path, make=False)
        return Finding("token", True, f"{path} can be read")

    def telemetry() -> Finding:
        if settings.telemetry.source != "prometheus":
            return Finding("telemetry", True, "comes from the exporters themselves")
        url = str(settings.telemetry.prometheus.url).rstrip("/")
        with requests.Session() as session:
            session.trust_env = False  # as those who measure: no proxy of the environment stands between
            answer = session.get(f"{url}/-/ready", timeout=_READY_WITHIN_S)
        said = f"the Prometheus at {url} " + ("is ready" if answer.ok else f"answers with {answer.status_code}")
        return Finding("telemetry", answer.ok, said)

    def capacity() -> Finding:
        cores, wanted = len(os.sched_getaffinity(0)), 2
        local = settings.cluster.kind == "local"
        said = f"{cores} core(s)" + (f"; the embedded cluster wants {wanted}" if local else "")
        return Finding("machine", not local or cores >= wanted, said)

    yield "lever", lever
    yield "faults", faults
    yield "disk", disk
    yield "memory", memory
    yield "schedule", schedule
    yield "policy", policy
    yield "token", token
    yield "telemetry", telemetry
    yield "machine", capacity
