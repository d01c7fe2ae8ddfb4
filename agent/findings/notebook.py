"""Everything that a campaign writes down while it runs: a killed one has lost nothing that was confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from envs.clusters.base import Topology
from envs.confirmation import Fingerprint
from envs.outcome import Outcome
from envs.scoring import Verdict

from .ledger import Ledger
from .record import RunFolder, now_text
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
        known: as JSON, weaknesses that earlier campaigns have confirmed, and that this one takes for known.

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
        self.known: Sequence[dict[str, Any]] = ()
        self._roles: dict[str, str] = {}
        self._shown_again: set[str] = set()

    def recorded(self) -> list[dict[str, Any]]:
        """Returns every weakness that runs on this cluster have confirmed, as JSON."""
        with closing(Ledger(self._ledger)) as ledger:
            return ledger.all()

    def knows(self, known: Sequence[dict[str, Any]], topology: Topology) -> None:
        """Takes weaknesses for known: they are not confirmed anew, and the ledger hears when they are shown again.

        Args:
            known: of `recorded`.
            topology: of the cluster.
        """
        self.known = known
        self._roles = {component.name: component.role for component in topology.components}
        facts = ("id", "fingerprint", "title")
        self._folder.note(known=[{name: weakness[name] for name in facts} for weakness in known])

    def outcome(self, outcome: Outcome, why: str, reason: Reason | None = None) -> None:
        """Keeps one experiment, what it was for, and why the policy chose it."""
        self._folder.outcome(outcome, why, reason)
        self._recognise(outcome)
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

    def _recognise(self, outcome: Outcome) -> None:
        """Has the ledger know of known weaknesses that an experiment has shown again, once in a run."""
        if outcome.fault is None or outcome.verdict is not Verdict.WEAKNESS:
            return
        kind, role = outcome.fault.kind, self._roles.get(outcome.fault.target.name, "")
        shown = {str(Fingerprint(kind, role, broken.mechanism)) for broken in outcome.score.broken}
        again = {weakness["id"] for weakness in self.known if weakness["fingerprint"] in shown} - self._shown_again
        if again:
            with closing(Ledger(self._ledger)) as ledger:
                for identifier in sorted(again):
                    ledger.shown_again(identifier, now_text())
            self._shown_again |= again

    def write(self) -> None:
        """Writes `weaknesses.json`, also where there is none."""
        self._folder.json("weaknesses.json", self.weaknesses)
