"""What a campaign has cost that nobody has counted: the faults in whose middle it was killed, or ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

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


def debts(journal: Journal, token: int | None, is_paid: Callable[[str], bool], now: datetime) -> list[Debt]:
    """Returns the faults of a campaign whose cost nobody has counted.

    What nobody has seen to be gone counts until its deadline, by which it is, for a platform ends with its agents.

    Args:
        journal: of the cluster.
        token: under which the campaign's agent held the lease, no other's; None if it has not come to that.
        is_paid: tells of an injection whether its cost is counted.
        now: the present, aware.

    Raises:
        Unsafe: the journal cannot be read.
    """
    standing = {each.id: each.fault.duration_s for each in (*journal.open_injections(), *journal.leaked())}
    if token is None:
        return []
    own = {injection for injection in journal.intended_under(token) if not is_paid(injection)}
    begun: dict[str, Entry] = {}
    ended: dict[str, datetime] = {}
    for entry in journal.entries():
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
