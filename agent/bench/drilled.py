"""What a drill's journal tells: whether a service did nothing while it was forbidden to, and all that happened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from safety.journal import CLEAN, INTENDED, LEAKED, Entry

_LATE_S = 1.0
"""The schedule is looked at between two samples of the cluster; an injection may be on its way."""

_GONE_WITHIN_S = 5.0
_RESUMED_WITHIN_S = 60.0

_TOLD = frozenset({"campaign", "waiting", "lever", "service", "rung", "repair", "quarantined", LEAKED})
"""What a reader of the timeline wants to see beside the faults themselves."""


@dataclass(frozen=True, slots=True)
class Ban:
    """A time in which no fault may begin.

    Attributes:
        why: what forbids it.
        begins: aware; what is in force then has to be taken out.
        ends: aware; None if the drill was over before.
        resumes: whether a campaign has to begin after its end.
        in_a_fault: whether it was to come while a fault is in force; if none was, nothing is proved.
    """

    why: str
    begins: datetime
    ends: datetime | None
    resumes: bool = True
    in_a_fault: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """How a ban was answered.

    Attributes:
        why: what forbade it.
        begins: see `Ban`.
        ends: see `Ban`.
        began_nonetheless: faults that began in it.
        in_force: faults that were in force when it began.
        gone_s: from its beginning until the last of them was seen to be gone, seconds; None if one never was.
        resumed_s: from its end until a campaign began, seconds; None if none did, or none had to.
        well: whether all of it is as it should be.
    """

    why: str
    begins: str
    ends: str | None
    began_nonetheless: list[str]
    in_force: list[str]
    gone_s: float | None
    resumed_s: float | None
    well: bool


def answered(ban: Ban, entries: Sequence[Entry]) -> Answer:
    """Reads from a journal how a ban was answered.

    Args:
        ban: a time in which nothing was allowed.
        entries: the whole journal.
    """
    begun = {e.injection: (moment_of(e), e.reason) for e in entries if e.event == INTENDED}
    gone = {e.injection: moment_of(e) for e in entries if e.event == CLEAN}
    late = timedelta(seconds=_LATE_S)
    nonetheless = [
        what for at, what in begun.values() if ban.begins + late < at and (ban.ends is None or at < ban.ends)
    ]
    in_force = [
        injection
        for injection, (at, _) in begun.items()
        if at <= ban.begins + late and (injection not in gone or gone[injection] > ban.begins)
    ]
    gone_s: float | None = 0.0
    if in_force:
        ended = [gone.get(injection) for injection in in_force]
        gone_s = max(((at - ban.begins).total_seconds() for at in ended if at), default=None)
        gone_s = None if None in ended else gone_s
    campaigns = [moment_of(e) for e in entries if e.event == "campaign" and " begins" in e.reason]
    after = [(at - ban.ends).total_seconds() for at in campaigns if ban.ends is not None and at >= ban.ends]
    resumed_s = min(after, default=None) if ban.resumes else None
    well = not nonetheless and bool(in_force or not ban.in_a_fault) and gone_s is not None and gone_s <= _GONE_WITHIN_S
    well = well and (not ban.resumes or (resumed_s is not None and resumed_s <= _RESUMED_WITHIN_S))
    return Answer(
        ban.why,
        _text(ban.begins),
        None if ban.ends is None else _text(ban.ends),
        nonetheless,
        [begun[injection][1] for injection in in_force],
        gone_s,
        resumed_s,
        well,
    )


def timeline(entries: Sequence[Entry], bans: Sequence[Ban]) -> list[str]:
    """Returns the journal as a person reads it: what happened to the service, and each fault's beginning and end."""
    faults = {e.injection: e.reason for e in entries if e.event == INTENDED}
    lines = [(ban.begins, f"-------- {ban.why}") for ban in bans]
    lines += [(ban.ends, f"-------- over: {ban.why}") for ban in bans if ban.ends is not None]
    for each in entries:
        if each.event in _TOLD:
            lines.append((moment_of(each), f"{each.event:<11} {each.by:<16} {each.reason}"))
        elif each.event in {INTENDED, CLEAN}:
            lines.append((moment_of(each), f"{each.event:<11} {each.by:<16} {faults.get(each.injection, each.reason)}"))
    return [f"{at:%H:%M:%S}.{at.microsecond // 100_000}  {text}" for at, text in sorted(lines, key=lambda it: it[0])]


def of_run(path: Path) -> dict[str, Any]:
    """Returns what one campaign has shown."""
    outcomes = path.with_name("outcomes.jsonl")
    rows = [json.loads(row) for row in outcomes.read_text("utf-8").splitlines()] if outcomes.exists() else []
    truth = path.with_name("ground_truth.json")
    found: dict[str, Any] = json.loads(truth.read_text("utf-8")) if truth.exists() else {}
    return {
        "folder": path.parent.name,
        "ended_by": json.loads(path.read_text("utf-8")).get("ended_by"),
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "shams": sum(row["fault"] is None for row in rows),
        "sham_alarms": sum(row["fault"] is None and row["verdict"] == "weakness" for row in rows),
        "truth": {name: found.get(name) for name in ("planted", "found", "false_alarms", "unplanted")},
    }


def moment_of(entry: Entry) -> datetime:
    """Returns when an entry was made, aware."""
    return datetime.fromisoformat(entry.at)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
