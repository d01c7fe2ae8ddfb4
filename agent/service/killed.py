"""What a campaign has cost that nobody has counted: the faults in whose middle it was killed, or ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from safety.journal import CLEAN, INTENDED, Entry, Journal

WHY = "killed in the middle of a fault"

_BEGINS = re.compile(r"(?P<campaign>\S+) begins: ")


@dataclass(frozen=True, slots=True)
class Unpaid:
    """A fault that was in force, or may have been, and whose cost nobody has counted.

    Attributes:
        fault: in words.
        at: when it was about to be injected, aware.
        minutes: until it was seen to be gone.
    """

    fault: str
    at: datetime
    minutes: float


def unpaid(journal: Journal, campaign: str, is_paid: Callable[[str], bool], now: datetime) -> list[Unpaid]:
    """Returns the faults of a campaign whose cost nobody has counted.

    What nobody has seen to be gone counts until its deadline, by which it is, for a platform ends with its agents.

    Args:
        journal: of the cluster.
        campaign: its name.
        is_paid: tells of an injection whether its cost is counted.
        now: the present, aware.

    Raises:
        Unsafe: the journal cannot be read.
    """
    standing = {each.id: each.fault.duration_s for each in (*journal.open_injections(), *journal.leaked())}
    begun: dict[str, Entry] = {}
    ended: dict[str, datetime] = {}
    for entry in _of_campaign(journal, campaign):
        if entry.injection is not None and entry.event == INTENDED:
            begun[entry.injection] = entry
        elif entry.injection is not None and entry.event == CLEAN:
            ended[entry.injection] = datetime.fromisoformat(entry.at)
    found = []
    for injection, entry in begun.items():
        if not is_paid(injection):
            at = datetime.fromisoformat(entry.at)
            until = ended.get(injection) or min(now, at + timedelta(seconds=standing.get(injection, 0.0)))
            found.append(Unpaid(entry.reason, at, max(0.0, (until - at).total_seconds() / 60.0)))
    return found


def _of_campaign(journal: Journal, name: str) -> Iterator[Entry]:
    """Yields what the agent of a campaign has intended, and what whoever has said of that."""
    agent: str | None = None
    own: set[str] = set()
    for entry in journal.entries():
        if entry.event == "campaign":
            begins = _BEGINS.match(entry.reason)
            # A campaign runs in the process of its service, until it is said to have ended or another one begins.
            is_this = begins is not None and begins["campaign"] == name
            agent = entry.by.replace("service", "agent") if is_this else None
        elif entry.event == "service" and (entry.reason == "begins" or entry.reason.startswith("ends: ")):
            agent = None
        elif entry.event == INTENDED and agent is not None and entry.by == agent and entry.injection is not None:
            own.add(entry.injection)
        if entry.injection in own:
            yield entry


def judged(path: Path) -> Iterator[str]:
    """Yields the injections that have an outcome in a run's `outcomes.jsonl`; a line that cannot be read is none."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            outcome = json.loads(line)
        except ValueError:
            continue
        if isinstance(outcome, Mapping) and isinstance(outcome.get("injection_id"), str):
            yield outcome["injection_id"]
