"""What a campaign has cost that nobody has counted: the faults in whose middle it was killed, or ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from safety.journal import CLEAN, INTENDED, Entry, Journal

KILLED = "killed in the middle of a fault"


@dataclass(frozen=True, slots=True)
class Debt:
    """A fault that was in force, or may have been, and whose cost nobody has counted.

    Attributes:
        fault: in words.
        at: when it was about to be injected, aware.
        minutes: until it was seen to be gone.
    """

    fault: str
    at: datetime
    minutes: float


def debts(journal: Journal, facts: Mapping[str, Any], is_paid: Callable[[str], bool], now: datetime) -> list[Debt]:
    """Returns the faults of a campaign whose cost nobody has counted.

    What nobody has seen to be gone counts until its deadline, by which it is, for a platform ends with its agents.

    Args:
        journal: of the cluster.
        facts: of the campaign's run: `fencing_token`, under which its agent held the lease, missing or null if it has
            not come to that; and `journal_from`, the newest entry before it began.
        is_paid: tells of an injection whether its cost is counted.
        now: the present, aware.

    Raises:
        Unsafe: the journal cannot be read.
    """
    standing = {each.id: each.fault.duration_s for each in (*journal.open_injections(), *journal.leaked())}
    token = facts.get("fencing_token")
    if token is None:
        return []
    after_seq = int(facts.get("journal_from", 0))
    own = {injection for injection in journal.intended_under(token, after_seq) if not is_paid(injection)}
    begun: dict[str, Entry] = {}
    ended: dict[str, datetime] = {}
    for entry in journal.entries(after_seq):
        if entry.injection in own and entry.event == INTENDED:
            begun[entry.injection] = entry
        elif entry.injection in own and entry.event == CLEAN:
            ended[entry.injection] = datetime.fromisoformat(entry.at)
    found = []
    for injection, entry in begun.items():
        at = datetime.fromisoformat(entry.at)
        until = ended.get(injection) or min(now, at + timedelta(seconds=standing.get(injection, 0.0)))
        found.append(Debt(entry.reason, at, max(0.0, (until - at).total_seconds() / 60.0)))
    return found
