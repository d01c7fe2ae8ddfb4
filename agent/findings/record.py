"""A run's folder: everything that a report needs, written as it happens, so that a killed run leaves what it had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from actuators.errors import BadInput
from envs.outcome import Outcome
from envs.scoring import Verdict

from .weakness import evidence_json, requests_json, title_of

if TYPE_CHECKING:
    from ..learning.reasons import Reason

SCHEMA_VERSION = 1


class RunFolder:
    """The record of one run.

    Args:
        path: a folder that must not exist yet.

    Raises:
        BadInput: it exists, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            raise BadInput(f"the run folder {path} exists already; choose another --out, nothing was overwritten")
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"cannot make the run folder {path}: {error.strerror}") from error
        self._facts: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "state": "started", "started_at": now_text()}
        self.note()

    @classmethod
    def reopened(cls, path: Path) -> RunFolder:
        """Returns the record of what goes on after an interruption.

        Raises:
            BadInput: nothing can be read there that could go on.
        """
        folder = cls.__new__(cls)
        folder.path = path
        try:
            folder._facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
            version = folder._facts["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} holds nothing that could go on: {error}") from error
        if version != SCHEMA_VERSION:
            raise BadInput(f"{path} was written in schema version {version}; this Backburn reads {SCHEMA_VERSION}")
        return folder

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `run.json` says."""
        return self._facts

    def discard_if_empty(self) -> bool:
        """Takes the folder away again if no experiment was ever recorded in it, and tells so: nothing happened."""
        is_empty = not (self.path / "outcomes.jsonl").exists()
        if is_empty:
            shutil.rmtree(self.path)
        return is_empty

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Keeps the effective settings."""
        self._write("settings.yaml", yaml.safe_dump(dict(settings), sort_keys=False))

    def note(self, **facts: Any) -> None:  # noqa: ANN401 (facts are any JSON)
        """Adds facts about the run to `run.json`."""
        self._facts.update(facts)
        self.json("run.json", self._facts)

    def outcome(self, outcome: Outcome, why: str, reason: Reason | None = None) -> None:
        """Appends one experiment to `outcomes.jsonl`.

        Args:
            outcome: what happened.
            why: what it was for: `choice`, `control`, `sham` or `shrink`.
            reason: why the policy chose it.
        """
        because = None if reason is None else reason.to_json()
        with (self.path / "outcomes.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome_json(outcome) | {"why": why, "because": because, "at": now_text()}) + "\n")

    def json(self, name: str, data: object) -> None:
        """Writes a JSON file in one step."""
        self._write(name, json.dumps(data, indent=2, allow_nan=False) + "\n")

    def _write(self, name: str, text: str) -> None:
        draft = self.path / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path / name)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Returns one experiment as JSON."""
    phases = outcome.phases
    start_s = phases.injected_s if phases is not None else 0.0
    return {
        "fault": None if outcome.fault is None else outcome.fault.to_json(),
        "title": _title(outcome),
        "verdict": str(outcome.verdict),
        "mechanism": None if outcome.mechanism is None else str(outcome.mechanism),
        "reason": outcome.score.reason,
        "evidence": evidence_json(outcome.evidence),
        "alone": None
        if outcome.alone is None
        else {"evidence": evidence_json(outcome.alone.evidence), "reason": outcome.alone.reason},
        "broken": [asdict(broken) | {"mechanism": str(broken.mechanism)} for broken in outcome.score.broken],
        "moved": [list(entry) for entry in outcome.score.moved],
        "tested": list(outcome.score.tested),
        "recovery_s": outcome.score.recovery_s,
        "refusal": None if outcome.refusal is None else str(outcome.refusal),
        "aborted_by": outcome.aborted_by,
        "injection_id": outcome.injection_id,
        "repaired": list(outcome.repaired),
        "quarantined": list(outcome.quarantined),
        "phases": None
        if phases is None
        else {
            "injected_s": 0.0,
            "cleared_s": phases.cleared_s - start_s,
            "recovered_s": None if phases.recovered_s is None else phases.recovered_s - start_s,
            "ended_s": phases.ended_s - start_s,
        },
        "alerts": [
            {
                "alert": spell.alert.name,
                "component": spell.alert.component,
                "from_s": spell.from_s,
                "until_s": spell.until_s,
            }
            for spell in outcome.alerts
        ],
        "requests": requests_json(outcome),
        "trace": {name: [list(point) for point in points] for name, points in outcome.trace.items()},
    }


def tallied(experiments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the facts of a run that did not come to sum itself up, as far as its experiments tell them.

    Args:
        experiments: as `outcome_json` made them.
    """
    shams = [experiment for experiment in experiments if experiment["fault"] is None]
    return {
        "spent_min": sum(experiment["evidence"]["cost_min"] for experiment in experiments),
        "confirmed_min": [],
        "decision_s": [],
        "shams": {
            "run": len(shams),
            "alarms": sum(sham["verdict"] == "weakness" for sham in shams),
            "unjudged": sum(sham["verdict"] == "invalid" for sham in shams),
        },
    }


def _title(outcome: Outcome) -> str:
    if outcome.fault is None:
        return "nothing (sham)"
    if outcome.verdict is Verdict.WEAKNESS and outcome.mechanism is not None:
        return title_of(outcome.fault, outcome.mechanism)
    return str(outcome.fault)


def now_text() -> str:
    """Returns the present time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
