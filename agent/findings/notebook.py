"""Everything that a campaign writes down while it runs: a killed one has lost nothing that was confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from envs.outcome import Outcome

from .ledger import Ledger
from .record import RunFolder
from .weakness import Weakness

if TYPE_CHECKING:
    from ..learning.reasons import Reason


class Witness(Protocol):
    """Whoever else keeps what experiments showed."""

    def outcome(self, outcome: Outcome) -> None:
        """An experiment has been judged."""
        ...

    def weakness(self, weakness: Weakness) -> None:
        """A weakness has been confirmed."""
        ...


class Notebook:
    """Writes to a run's folder and to the cluster's ledger; see `agent.campaign.Record`.

    Attributes:
        weaknesses: as JSON, with what the ledger knows of each from earlier runs.

    Args:
        folder: of the run.
        ledger: the database file.
        witnesses: are told, too.
    """

    def __init__(self, folder: RunFolder, ledger: Path, witnesses: Sequence[Witness] = ()) -> None:
        self._folder = folder
        self._ledger = ledger
        self._witnesses = witnesses
        self.weaknesses: list[dict[str, Any]] = []

    def outcome(self, outcome: Outcome, why: str, reason: Reason | None = None) -> None:
        """Keeps one experiment, what it was for, and why the policy chose it."""
        self._folder.outcome(outcome, why, reason)
        for witness in self._witnesses:
            witness.outcome(outcome)

    def weakness(self, weakness: Weakness) -> None:
        """Keeps a confirmed weakness."""
        ledger = Ledger(self._ledger)
        try:
            known = ledger.record([weakness])
        finally:
            ledger.close()
        self.weaknesses += [each.to_json() for each in known]
        self.write()
        for witness in self._witnesses:
            witness.weakness(weakness)

    def milder(self, weakness: Weakness) -> None:
        """Keeps the milder form in which a weakness that was kept before has been seen."""
        ledger = Ledger(self._ledger)
        try:
            reproducer = ledger.milder(weakness)
        finally:
            ledger.close()
        for kept in self.weaknesses:
            if kept["id"] == weakness.id:
                kept["reproducer"] = reproducer
        self.write()

    def write(self) -> None:
        """Writes `weaknesses.json`, also where there is none."""
        self._folder.json("weaknesses.json", self.weaknesses)
