"""Continuous running: campaign after campaign, whenever it is allowed, until somebody asks for the end.

    may it     lever · leaks · disk · schedule · the day's minutes · the day's harm       else: wait, and say why
    campaign   on the rung that was earned, no longer than the window and the day allow
    afterwards promotion or demotion, retention, a pause

Nothing here can hurt: what a campaign does goes through the one door (`safety.supervisor`), and whatever kills this
process, the watchdog takes out what is in force and the next start goes on.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy.exc
from rich.console import Console

from actuators.errors import BackburnError, BadInput, Unsafe
from envs.chaos import Experience
from safety.journal import Journal
from safety.lease import LeaseLost
from safety.lever import Lever

from ..campaign import Ending
from ..findings.notebook import Witness
from ..interruption import Interruption
from ..run import Run, Surroundings
from ..settings import Settings
from . import ladder, retention
from .account import Account
from .bell import Bell
from .books import Books
from .display import ServiceDisplay
from .schedule import day_of, opening
from .status import Doing, Status
from .store import Rung, Store

_LOOK_EVERY_S = 1.0
_LEAST_CAMPAIGN_MIN = 1.0
_FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S = 30.0, 1800.0
_MAKE_ROOM_EVERY_S = 300.0

_PASSING = (OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError)
"""A full disk, a database that somebody holds, a socket: what may be better in a while."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why no campaign may begin now.

    Attributes:
        why: in words.
        until: when that ends by itself; None if a person has to see to it, or nobody knows.
        lacks_room: whether it may end when old runs go.
    """

    why: str
    until: datetime | None = None
    lacks_room: bool = False


class Service:
    """Runs campaigns on one cluster until it is told to end.

    Args:
        settings: all of them.
        console: where progress is shown.
        journal: of the cluster; what the service does stands there, too.
        lever: of the cluster.
        store: the service's memory of the cluster.
        status: is kept up to date.
        now: the present, aware; the wall clock, because windows and days are people's.
        dry_run: everything happens but the harm, whatever the rung.
        campaigns: ends after so many; None for no end.
        witnesses: are told of every experiment and every confirmed weakness.
    """

    def __init__(
        self,
        settings: Settings,
        console: Console,
        *,
        journal: Journal,
        lever: Lever,
        store: Store,
        status: Status,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        dry_run: bool = False,
        campaigns: int | None = None,
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self._settings = settings
        self._service = settings.service
        self._console = console
        self._journal = journal
        self._lever = lever
        self._store = store
        self._status = status
        self._now = now
        self._dry_run = dry_run
        self._books = Books(settings, journal, store, now)
        self._left = campaigns
        self._witnesses = witnesses
        self._interruption = Interruption()
        self._bell = Bell()
        self._said: str | None = None
        self._stumbled: str | None = None
        self._make_room_at_s = 0.0
        self._failures = 0
        self._stuck: set[Path] = set()
        self._unreadable = 0

    def run(self) -> None:
        """Runs until SIGTERM or Ctrl-C, or until the campaigns that were asked for are over.

        Raises:
            BadInput: the settings cannot be used: found at the very first campaign.
            Exception: a defect of this program; what that campaign has cost is counted nevertheless.
        """
        with self._interruption.on_signals():
            self._journal.note("service", "begins")
            why = "its campaigns are over"
            try:
                self._begin()
                self._loop()
            except BaseException as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise
            finally:
                self._bell.close()
                with suppress(*_PASSING, Unsafe):  # what still cannot be written, the next start sees to
                    self._books.catch_up()
                with suppress(sqlite3.Error):  # a full disk makes no failure of an end that was asked for
                    self._journal.note("service", f"ends: {self._interruption.reason or why}")

    def end(self, reason: str) -> None:
        """Asks for the end, as SIGTERM does."""
        self._interruption.ask(reason)

    def ring(self) -> None:
        """Has the service look again at once; from any thread."""
        self._bell.ring()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Sees to what killed campaigns have left; one that always ends like that begins ever more seldom."""
        try:
            self._books.catch_up()
        except (*_PASSING, Unsafe) as error:
            self._say(error)
        # One alone may have been a person, or a power cut.
        in_a_row = retention.killed_in_a_row(self._settings.runs_dir, self._settings.cluster.id) - 1
        if in_a_row > 0:
            self._failures = in_a_row - 1
            self._pause(self._back_off(f"the last {in_a_row + 1} campaigns were killed"))

    def _loop(self) -> None:
        while not self._interruption.asked() and self._left != 0:
            try:
                self._turn()
            except (*_PASSING, Unsafe) as error:
                self._stumble(error)

    def _turn(self) -> None:
        """Waits a little if no campaign may begin; otherwise runs one, and looks after what outlives it."""
        hindrance = self.hindrance()
        if hindrance is not None:
            if hindrance.lacks_room:
                self._make_room()
            self._wait(hindrance)
            return
        self._said = self._stumbled = None
        pause_s = self._campaign()
        self._left = None if self._left is None else self._left - 1
        try:
            self._books.catch_up()
            self._tidy()
        except (*_PASSING, Unsafe) as error:  # no reason to begin again at once
            self._say(error)
        if self._left != 0:
            self._pause(pause_s)

    def _stumble(self, error: Exception) -> None:
        """Says that the service's own records failed, and waits."""
        why = self._say(error)
        self._status.set(doing=Doing.WAITING, why=why, until=None, phase="", fault=None)
        self._listen(_LOOK_EVERY_S)

    def _say(self, error: Exception) -> str:
        """Says that the service's own records failed, once, and how; the journal cannot be told, for it is one."""
        why = f"the service's records cannot be read or written: {type(error).__name__}: {error}"
        if why != self._stumbled:  # apart from what is waited for: where both are true, they take turns
            self._stumbled = why
            self._console.print(why, style="bold red", soft_wrap=True)
        self._status.set(last_error=why)
        return why

    def hindrance(self) -> Hindrance | None:
        """Returns why no campaign may begin now, or None.

        Raises:
            OSError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error: what campaigns cost cannot be written down.
            Unsafe: it cannot be read.
        """
        now, service = self._now(), self._service
        lever = self._lever.read()
        if lever.engaged:
            return Hindrance(f"the lever is engaged: {lever.reason}")
        try:
            leaked = self._journal.leaked()
        except Unsafe as error:
            return Hindrance(str(error))
        if leaked:
            return Hindrance(f"{len(leaked)} fault(s) leaked, first {leaked[0].fault}; see `backburn recover`")
        free_mib = shutil.disk_usage(self._settings.state_dir).free / 2**20
        if free_mib < service.least_free_mib:
            # Not how many: it would be said anew whenever that changes.
            return Hindrance(f"fewer than {service.least_free_mib:g} MiB are free on the disk", lacks_room=True)
        allowed = opening(service.schedule, now)
        if not allowed.is_open:
            return Hindrance(allowed.why, allowed.until)
        self._books.catch_up()
        spent = self._store.spent(day_of(service.schedule, now))
        tomorrow = self._tomorrow(now)
        if service.daily.minutes - spent.minutes < _LEAST_CAMPAIGN_MIN:
            return Hindrance(f"the day's {service.daily.minutes:g} minutes are used up", tomorrow)
        if spent.harm_min >= service.daily.harm_min:
            return Hindrance(f"the day's {service.daily.harm_min:g} minutes of harm are used up", tomorrow)
        if allowed.until is not None and (allowed.until - now).total_seconds() < 60.0 * _LEAST_CAMPAIGN_MIN:
            return Hindrance("the window closes soon", allowed.until)
        self._store.require_writable()
        return None

    def _wait(self, hindrance: Hindrance) -> None:
        """Waits a little, and says why, once."""
        if hindrance.why != self._said:
            self._said = hindrance.why
            self._journal.note("waiting", hindrance.why)
            self._console.print(f"waiting: {hindrance.why}", style="dim", soft_wrap=True)
        self._status.set(
            doing=Doing.WAITING,
            why=hindrance.why,
            until=None if hindrance.until is None else hindrance.until.isoformat(timespec="seconds"),
            phase="",
            fault=None,
            rung=self._books.rung().rung,
        )
        self._listen(_LOOK_EVERY_S)

    def _pause(self, seconds: float) -> None:
        """Waits between campaigns; only an end cuts it short, and no wall clock that is set anew makes it longer."""
        over_s = time.monotonic() + seconds
        text = (self._now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        while not self._interruption.asked() and (left_s := over_s - time.monotonic()) > 0:
            self._status.set(doing=Doing.WAITING, why="a pause between campaigns", until=text, phase="", fault=None)
            self._listen(min(left_s, _LOOK_EVERY_S))

    def _listen(self, seconds: float) -> None:
        self._interruption.tell(self._bell.ring)
        self._bell.wait(seconds)

    # ---- one campaign ---------------------------------------------------------------------------------------------

    def _campaign(self) -> float:
        """Runs one campaign; returns how long to pause afterwards, seconds."""
        rung, began = self._books.rung(), self._now()
        minutes, closes = self._minutes(began)
        settings = self._settings_on(rung, minutes)
        dry_run = self._dry_run or rung.rung == ladder.DRY_RUN
        asked = Interruption()
        account = Account(self._store, self._service_day, self._now, self._harm_left, asked, dry_run=dry_run)
        display = ServiceDisplay(self._console, minutes, self._status, lambda: self._watch_the_clock(closes, asked))
        experiences = [] if settings.cluster.kind == "simulated" else self._remembered(began)
        folder = self._new_folder(began)
        self._status.set(doing=Doing.STARTING, why=folder.name, until=None, phase="", rung=rung.rung)
        self._status.count("campaigns")
        reach = "a dry run" if dry_run else ladder.NAMES[rung.rung]
        self._journal.note("campaign", f"{folder.name} begins: {minutes:.1f} min, {reach}")
        seq = self._journal.last_seq()
        self._interruption.tell(asked.ask)
        run: Run | None = None
        try:
            run = Run(
                settings,
                folder,
                self._console,
                dry_run=dry_run,
                surroundings=Surroundings(asked, display, (account, *self._witnesses), experiences),
            )
            run.folder.note(
                by=retention.BY,
                cluster=settings.cluster.id,
                rung=rung.rung,
                dry_run=dry_run,
                owes=True,
                journal_from=seq,
            )
            result = run.execute()
            is_clean = result.ending is not Ending.FORBIDDEN or asked.asked()
            ends = f"ends: {result.ended_by}; {len(result.weaknesses)} confirmed"
            self._books.conclude(run, folder, rung, account, ends, is_clean=is_clean)
        except BackburnError as error:
            return self._failed(run, folder, rung, account, error)
        except _PASSING as error:
            return self._failed(run, folder, rung, account, BackburnError(f"{type(error).__name__}: {error}"))
        except BaseException as error:
            account.trouble = account.trouble or f"{type(error).__name__}: {error}"
            self._books.conclude(run, folder, rung, account, f"fails: {account.trouble}", is_clean=False)
            raise
        if account.experiments:
            self._failures = 0
        elif not asked.asked() and not self._lever.read().engaged:
            # Nothing came of it, such as of a cluster that never became steady: the next start may fare no better.
            return self._back_off(f"{folder.name}: no experiment was judged: {result.ended_by}")
        return self._service.pause_s

    def _remembered(self, began: datetime) -> Sequence[Experience]:
        """Returns what earlier campaigns have shown; says how much of it cannot be read, whenever that changes."""
        memory = self._store.experiences(began, self._service.remember_days)
        if memory.unreadable != self._unreadable:
            self._unreadable = memory.unreadable
            self._journal.note("service", f"leaves out {memory.unreadable} experiment(s) of its memory: unreadable")
        return memory.experiences

    def _failed(self, run: Run | None, folder: Path, rung: Rung, account: Account, error: BackburnError) -> float:
        """Writes a failed campaign down; the first one's bad input is the user's to mend, all else may pass."""
        if isinstance(error, BadInput) and self._status.now().campaigns == 1 and account.experiments == 0:
            raise error
        has_begun = run is not None and run.folder.facts.get("state") != "started"
        if (has_begun and isinstance(error, LeaseLost)) or not isinstance(error, (Unsafe, BadInput)):
            account.trouble = account.trouble or str(error)
        fails = f"fails: {' '.join(str(error).split())}"
        self._books.conclude(run, folder, rung, account, fails, is_clean=False)
        return self._back_off(str(error))

    def _back_off(self, why: str) -> float:
        """Says why nothing came of a campaign; returns how long to pause, seconds: the longer, the more often."""
        self._failures += 1
        self._status.set(last_error=why)
        self._console.print(f"failed: {why}", style="bold red", soft_wrap=True)
        return float(min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** (self._failures - 1)))

    def _new_folder(self, began: datetime) -> Path:
        """Returns a run folder that is not there yet, named by the time; several campaigns may begin in one second."""
        name = f"{began:%Y-%m-%d-%H%M%S}-{self._settings.cluster.id}"
        folder, number = self._settings.runs_dir / name, 1
        while folder.exists():
            number += 1
            folder = self._settings.runs_dir / f"{name}-{number}"
        return folder

    def _watch_the_clock(self, closes: datetime | None, asked: Interruption) -> None:
        if closes is not None and self._now() >= closes:
            asked.ask("the window has closed")

    def _minutes(self, now: datetime) -> tuple[float, datetime | None]:
        """Returns how long a campaign may last that begins now, and when it has to be over at the latest."""
        closes = opening(self._service.schedule, now).until
        spent = self._store.spent(day_of(self._service.schedule, now))
        minutes = min(self._service.campaign_min, self._service.daily.minutes - spent.minutes)
        if closes is not None:
            minutes = min(minutes, (closes - now).total_seconds() / 60.0)
        return minutes, closes

    def _settings_on(self, rung: Rung, minutes: float) -> Settings:
        """Returns the settings of the next campaign; every one has a seed of its own, drawn from the time."""
        campaign = self._settings.campaign
        seed = (campaign.seed + int(self._now().timestamp())) % 2**31
        return self._settings.model_copy(
            update={
                "campaign": campaign.model_copy(update={"budget_min": minutes, "seed": seed}),
                "limits": ladder.limits_on(rung.rung, self._settings.limits),
            }
        )

    # ---- what outlives campaigns ----------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Lets old runs go while there is too little room to begin; now and then, for it reads them all."""
        now_s = time.monotonic()
        if now_s >= self._make_room_at_s:
            self._make_room_at_s = now_s + _MAKE_ROOM_EVERY_S
            self._tidy()

    def _tidy(self) -> None:
        now, kept = self._now(), self._service.retention
        before = now - timedelta(days=kept.days)
        gone, stuck = retention.tidy(self._settings.runs_dir, self._settings.cluster.id, kept, now)
        forgotten = self._journal.forget(before, keep=1000)
        self._store.forget(
            now - timedelta(days=max(kept.days, self._service.remember_days)), day_of(self._service.schedule, before)
        )
        for folder in stuck.keys() - self._stuck:
            self._journal.note("retention", f"{folder.name} cannot be deleted: {stuck[folder]}")
            self._stuck.add(folder)
        if gone or forgotten:
            self._journal.note("retention", f"{len(gone)} run(s) and {forgotten} journal entries are gone")

    def _service_day(self) -> str:
        return day_of(self._service.schedule, self._now())

    def _harm_left(self) -> float:
        return self._service.daily.harm_min - self._store.spent(self._service_day()).harm_min

    def _tomorrow(self, now: datetime) -> datetime:
        local = self._service.schedule.local(now)
        midnight = datetime.combine(local.date() + timedelta(days=1), datetime.min.time())
        return self._service.schedule.local(midnight)
