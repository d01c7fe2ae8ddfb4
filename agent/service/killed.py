"""What a killed campaign has cost that no outcome tells: the faults in whose middle it was killed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from safety.journal import CLEAN, INTENDED, Entry, Journal

WHY = "killed in the middle of a fault"

_BEGINS = re.compile(r"(?P<campaign>\S+) begins: ")


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A fault that was in force, or may have been, and came to no outcome.

    Attributes:
        fault: in words.
        at: when it was about to be injected, aware.
        minutes: until it was seen to be gone.
    """

    fault: str
    at: datetime
    minutes: float


def unjudged(journal: Journal, folder: Path, now: datetime) -> list[Unjudged]:
    """Returns the faults of a campaign that came to no outcome.

    What nobody has seen to be gone counts until its deadline, by which it is, for a platform ends with its agents.

    Args:
        journal: of the cluster.
        folder: of the campaign's run.
        now: the present, aware.
    """
    judged = set(_judged(folder / "outcomes.jsonl"))
    standing = {each.id: each.fault.duration_s for each in (*journal.open_injections(), *journal.leaked())}
    begun: dict[str, Entry] = {}
    ended: dict[str, datetime] = {}
    for entry in _of_campaign(journal, folder.name):
        if entry.injection is not None and entry.event == INTENDED:
            begun[entry.injection] = entry
        elif entry.injection is not None and entry.event == CLEAN:
            ended[entry.injection] = datetime.fromisoformat(entry.at)
    found = []
    for injection, entry in begun.items():
        if injection not in judged:
            at = datetime.fromisoformat(entry.at)
            until = ended.get(injection) or min(now, at + timedelta(seconds=standing.get(injection, 0.0)))
            found.append(Unjudged(entry.reason, at, max(0.0, (until - at).total_seconds() / 60.0)))
    return found


def _of_campaign(journal: Journal, name: str) -> Iterator[Entry]:
    """Yields what the agent of a campaign has intended, and what whoever has said of that."""
    agent: str | None = None
    own: set[str] = set()
    for entry in journal.entries():
        begins = _BEGINS.match(entry.reason) if entry.event == "campaign" else None
        if begins is not None:
            # A campaign runs in the process of its service.
            agent = entry.by.replace("service", "agent") if begins["campaign"] == name else None
        elif entry.event == "service" and entry.reason == "begins":
            agent = None
        elif entry.event == INTENDED and agent is not None and entry.by == agent and entry.injection is not None:
            own.add(entry.injection)
        if entry.injection in own:
            yield entry


def _judged(path: Path) -> Iterator[str]:
    """Yields the injections of which there is an outcome; a line that cannot be read is none."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            outcome = json.loads(line)
        except ValueError:
            continue
        if isinstance(outcome, Mapping) and isinstance(outcome.get("injection_id"), str):
            yield outcome["injection_id"]
