"""Weeks without growth: what is old goes, what a killed campaign left is made whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from actuators.errors import BadInput

from ..findings.record import RunFolder, now_text, tallied
from ..findings.report import write_reports
from ..run import Timings
from .settings import Retention

BY = "service"
"""Stands in the facts of a run that the service has made; no other run is ever touched."""

_SPARED = 5
"""Newest runs that no age takes away: the clock that says so may have jumped."""

KILLED = "the process was killed"

_KILLED = "killed"


def own_runs(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the folders of the service's runs and their facts, oldest first; what cannot be read is nobody's."""
    found = []
    for path in runs.glob("*/run.json"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and facts.get("by") == BY:
            found.append((str(facts.get("started_at")), path.parent, facts))
    for _, folder, facts in sorted(found, key=lambda item: item[:2]):
        yield folder, facts


def tidy(runs: Path, cluster_id: str, retention: Retention, now: datetime) -> tuple[list[Path], dict[Path, str]]:
    """Deletes run folders of the service that are too old or too many.

    Returns:
        Those that are gone, and those that cannot be deleted with the reason, such as what another user has put there.
    """
    finished = [
        (folder, ended_at)
        for folder, facts in own_runs(runs)
        if facts.get("cluster") == cluster_id and (ended_at := _ended_at(facts)) is not None
    ]
    before = now - timedelta(days=retention.days)
    newest = {folder for folder, _ in finished[-retention.runs :]}
    spared = {folder for folder, _ in finished[-min(_SPARED, retention.runs) :]}
    too_old = {folder for folder, ended_at in finished if ended_at < before} - spared
    gone: list[Path] = []
    stuck: dict[Path, str] = {}
    for folder in [folder for folder, _ in finished if folder not in newest or folder in too_old]:
        try:
            shutil.rmtree(folder)
            gone.append(folder)
        except OSError as error:
            stuck[folder] = str(error)
    return gone, stuck


def _ended_at(facts: Mapping[str, Any]) -> datetime | None:
    """Returns when a run ended; None where it has not, or nobody can tell."""
    try:
        ended_at = datetime.fromisoformat(facts["ended_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return None if ended_at.tzinfo is None else ended_at


def unsettled(runs: Path, cluster_id: str) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Returns the records of campaigns that were killed or whose cost is not all counted, and their facts.

    Oldest first. Those of another version are left out; they stay as they are.
    """
    found = []
    for folder, facts in own_runs(runs):
        if facts.get("cluster") == cluster_id and (was_killed(facts) or facts.get("owes") is True):
            with suppress(BadInput):
                found.append((RunFolder.reopened(folder), facts))
    return found


def was_killed(facts: Mapping[str, Any]) -> bool:
    """Tells of a campaign that is not running any more whether it has come to no end of its own."""
    return facts.get("state") in {"started", "running"}


def killed_in_a_row(runs: Path, cluster_id: str) -> int:
    """Returns how many of the newest campaigns were killed, one after the other."""
    states = [facts.get("state") for _, facts in own_runs(runs) if facts.get("cluster") == cluster_id]
    return len(list(takewhile(lambda state: state == _KILLED, reversed(states))))


def close(record: RunFolder) -> None:
    """Closes the record of a campaign that was killed, so that it can be read like any other."""
    folder = record.path
    try:
        sums = tallied(_whole_lines(folder / "outcomes.jsonl"))
    except (ValueError, KeyError, TypeError):  # a disk without power may leave anything; it stays for people to look at
        sums = tallied([])
    if not (folder / "weaknesses.json").exists():
        record.json("weaknesses.json", [])
    record.note(
        state=_KILLED,
        ended_at=now_text(),
        ended_by=KILLED,
        timings=asdict(Timings()),
        **sums,
    )
    try:
        write_reports(folder)
    except BadInput as error:
        record.note(report=str(error))


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the experiments of a run, and takes a line away that was cut off while it was written."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.decode("utf-8").splitlines()]
