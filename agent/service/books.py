"""What campaigns have cost a cluster and what they have earned it, written down once they are over.

Nothing of that is lost where it cannot be written at once: it is tried again before the next campaign begins, and a
campaign's own record says that it owes it, so that the next start charges what this one could not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from safety.journal import Journal

from ..findings.record import RunFolder
from ..run import Run
from ..settings import Settings
from . import ladder, retention
from .account import Account
from .debts import KILLED, debts
from .schedule import day_of
from .store import Rung, Spent, Store


class Books:
    """The books of one cluster.

    Args:
        settings: all of them.
        journal: of the cluster.
        store: the service's memory of the cluster.
        now: the present, aware.
    """

    def __init__(self, settings: Settings, journal: Journal, store: Store, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._service = settings.service
        self._journal = journal
        self._store = store
        self._now = now
        self._unwritten: list[Callable[[], None]] = [self._salvage]

    def catch_up(self) -> None:
        """Writes down what campaigns have left to be written; what fails is tried again at the next call.

        Raises:
            OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError: it cannot be written now.
            Unsafe: the journal cannot be read.
        """
        while self._unwritten:
            self._unwritten[0]()
            del self._unwritten[0]

    def rung(self) -> Rung:
        """Returns where the cluster stands, no higher than the settings allow."""
        kept = self._store.rung()
        if kept is None:
            return Rung(self._service.ladder.begin, 0)
        return Rung(min(kept.rung, self._service.ladder.highest), kept.clean)

    def conclude(
        self, run: Run | None, folder: Path, rung: Rung, account: Account, how: str, *, is_clean: bool
    ) -> None:
        """Has `catch_up` write down what outlives a campaign.

        Args:
            run: as far as it has come.
            folder: of it.
            rung: on which it ran.
            account: of it.
            how: it has ended, in words.
            is_clean: whether it counts as clean if it had no trouble.
        """
        record = None if run is None else run.folder
        spent_min = 0.0 if run is None else run.result.spent_min
        then = self._rung_after(rung, account) if is_clean or account.trouble is not None else None
        why = account.trouble or f"{self._service.ladder.promote_after} clean campaigns"
        self._unwritten += [
            lambda: _note(record, trouble=account.trouble),
            lambda: account.settle(spent_min),
            lambda: self._close(folder.name, record, then, is_dry=account.dry_run),
            lambda: self._journal.note("campaign", f"{folder.name} {how}"),
            lambda: self._tell_rung(rung, then, why),
            lambda: _note(record, owes=False),
        ]

    # ---- what is written --------------------------------------------------------------------------------------------

    def _rung_after(self, rung: Rung, account: Account) -> Rung | None:
        """Returns where a cluster stands after a campaign; None where nothing was earned or lost."""
        if account.trouble is None and (account.faults == 0 or (account.dry_run and rung.rung > ladder.DRY_RUN)):
            return None  # nothing was tried, or nothing of what this rung allows
        return ladder.after_campaign(rung, account.trouble, self._service.ladder)

    def _tell_rung(self, rung: Rung, then: Rung | None, because: str) -> None:
        if then is not None and then.rung != rung.rung:
            self._journal.note("rung", f"from {ladder.NAMES[rung.rung]} to {ladder.NAMES[then.rung]}: {because}")

    def _close(self, name: str, record: RunFolder | None, then: Rung | None, *, is_dry: bool) -> None:
        """Charges a fault in whose middle a campaign has ended as harm, and has the cluster stand where it does now.

        Both or neither, and once. Its minutes are in the account already.
        """
        now = self._now()
        faults = [] if record is None or is_dry else debts(self._journal, record.facts, self._store.is_paid, now)
        costs = [(day_of(self._service.schedule, each.at), Spent(0.0, each.minutes)) for each in faults]
        self._store.charge(name, costs, then, now)

    def _salvage(self) -> None:
        """Charges what earlier campaigns have cost and nobody has counted; closes the records of those killed."""
        for record, facts in retention.unsettled(self._settings.runs_dir, self._settings.cluster.id):
            self._charge(record, facts)
            if retention.was_killed(facts):
                retention.close(record)
                self._journal.note("service", f"closed the record of {record.path.name}, which was killed")
            _note(record, owes=False)

    def _charge(self, record: RunFolder, facts: Mapping[str, Any]) -> None:
        """Charges the faults of an earlier campaign that nobody has paid for, and what it was in trouble for.

        Who was killed in the middle of a fault has done what must not happen; so has who failed and could not even say
        whether there was trouble, for all that is known.
        """
        now, name = self._now(), record.path.name
        is_dry = bool(facts.get("dry_run", facts.get("rung") == ladder.DRY_RUN))
        faults = debts(self._journal, facts, self._store.is_paid, now)
        if retention.was_killed(facts):
            trouble = KILLED if faults else None
        else:
            trouble = facts.get("trouble", facts.get("ended_by") if facts.get("state") == "failed" else None)
        costs = [
            (day_of(self._service.schedule, each.at), Spent(each.minutes, 0.0 if is_dry else each.minutes))
            for each in faults
        ]
        if trouble is None or is_dry:
            self._store.charge(name, costs, None, now)
            return
        rung = self.rung()
        then = ladder.after_campaign(rung, trouble, self._service.ladder)
        if self._store.charge(name, costs, then, now):
            if retention.was_killed(facts):
                self._journal.note("campaign", f"{name} was {KILLED}: {faults[-1].fault}")
            self._tell_rung(rung, then, trouble)


def _note(record: RunFolder | None, **facts: object) -> None:
    """Adds facts to a campaign's record; one in which nothing happened has left none."""
    if record is not None and record.path.exists():
        record.note(**facts)
