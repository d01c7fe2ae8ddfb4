"""What continuous running remembers of one cluster: what its days have cost, its rung, and what experiments showed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from actuators.errors import BadInput, Unsafe
from actuators.fault import Fault
from envs.chaos import Experience
from envs.hypothesis import Mechanism
from envs.outcome import Outcome

from ..findings.weakness import evidence_json, evidence_of

VERSION = 1

_METADATA = sql.MetaData()
_DAYS = sql.Table(
    "days",
    _METADATA,
    sql.Column("day", sql.String, primary_key=True),
    sql.Column("minutes", sql.Float, nullable=False),
    sql.Column("harm_min", sql.Float, nullable=False),
)
_RUNG = sql.Table(
    "rung",
    _METADATA,
    sql.Column("only", sql.Integer, primary_key=True),
    sql.Column("rung", sql.Integer, nullable=False),
    sql.Column("clean", sql.Integer, nullable=False),
)
_CHARGED = sql.Table(
    "charged",
    _METADATA,
    sql.Column("run", sql.String, primary_key=True),
    sql.Column("at", sql.Float, nullable=False),
)
_PAID = sql.Table(
    "paid",
    _METADATA,
    sql.Column("injection", sql.String, primary_key=True),
    sql.Column("day", sql.String, nullable=False),
)
_EXPERIENCES = sql.Table(
    "experiences",
    _METADATA,
    sql.Column("seq", sql.Integer, primary_key=True),
    sql.Column("at", sql.Float, nullable=False, index=True),
    sql.Column("fault", sql.Text, nullable=False),
    sql.Column("mechanism", sql.String),
    sql.Column("evidence", sql.Text, nullable=False),
)
_ALERTS = sql.Table(
    "alerts",
    _METADATA,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("name", sql.String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a day has cost so far.

    Attributes:
        minutes: of campaigns.
        harm_min: minutes in which an experiment had broken a promise.
    """

    minutes: float = 0.0
    harm_min: float = 0.0


@dataclass(frozen=True, slots=True)
class Rung:
    """How far faults may reach now.

    Attributes:
        rung: see `settings.Ladder`.
        clean: clean campaigns on it in a row.
    """

    rung: int
    clean: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What experiments of earlier campaigns have shown.

    Attributes:
        experiences: oldest first.
        unreadable: how many more are kept that cannot be read, such as damaged ones.
    """

    experiences: Sequence[Experience]
    unreadable: int


class Store:
    """The service's memory of one cluster.

    Args:
        path: the database file; created if missing.

    Raises:
        Unsafe: the file cannot be read: what the day has cost, and the rung, are unknown.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sql.create_engine(f"sqlite:///{path}")
        try:
            with self._engine.begin() as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                if version == 0 and not sql.inspect(connection).get_table_names():
                    _METADATA.create_all(connection)
                    connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
                    version = VERSION
                elif version == VERSION:
                    for table in (_CHARGED, _PAID):  # the first memories of this version had none
                        table.create(connection, checkfirst=True)
        except sql.exc.DatabaseError as error:
            raise Unsafe(f"the service's memory {path} cannot be read: {error.orig}") from error
        if version != VERSION:
            self.close()
            raise Unsafe(f"the service's memory {path} has version {version}; this Backburn reads version {VERSION}")

    def require_writable(self) -> None:
        """Writes what stands there already.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: nothing can be written.
        """
        with self._engine.begin() as connection:
            connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")

    # ---- days -----------------------------------------------------------------------------------------------------

    def spent(self, day: str) -> Spent:
        """Returns what a day has cost so far."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(_DAYS).where(_DAYS.c.day == day)).first()
        return Spent() if row is None else Spent(row.minutes, row.harm_min)

    def spend(self, day: str, minutes: float, harm_min: float = 0.0, injections: Sequence[str] = ()) -> None:
        """Adds to what a day has cost, and keeps for which injections: both or neither."""
        with self._engine.begin() as connection:
            _spend(connection, day, Spent(minutes, harm_min))
            if injections:
                rows = [{"injection": injection, "day": day} for injection in injections]
                connection.execute(sql.insert(_PAID).prefix_with("OR IGNORE"), rows)

    def is_paid(self, injection: str) -> bool:
        """Tells whether what an injection has cost is counted."""
        with self._engine.connect() as connection:
            return connection.execute(sql.select(_PAID).where(_PAID.c.injection == injection)).first() is not None

    def charge(self, run: str, costs: Sequence[tuple[str, Spent]], rung: Rung | None, now: datetime) -> bool:
        """Charges what a killed run has cost, all of it or nothing, and only once.

        Args:
            run: its name.
            costs: days, and what it has cost them.
            rung: where the cluster stands now; None where it always stood.
            now: the present.

        Returns:
            Whether it had not been charged before.
        """
        with self._engine.begin() as connection:
            charged = connection.execute(
                sql.insert(_CHARGED).prefix_with("OR IGNORE").values(run=run, at=now.timestamp())
            )
            if not charged.rowcount:
                return False
            for day, cost in costs:
                _spend(connection, day, cost)
            if rung is not None:
                _stand_on(connection, rung)
        return True

    # ---- the ladder -----------------------------------------------------------------------------------------------

    def rung(self) -> Rung | None:
        """Returns the rung that was earned, None on a cluster that was never run on."""
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(_RUNG)).first()
        return None if row is None else Rung(row.rung, row.clean)

    def stand_on(self, rung: Rung) -> None:
        """Keeps the rung."""
        with self._engine.begin() as connection:
            _stand_on(connection, rung)

    # ---- what experiments showed ----------------------------------------------------------------------------------

    def learn(self, outcome: Outcome, at: datetime) -> None:
        """Keeps what an experiment showed; shams and what was refused show nothing of a fault."""
        if outcome.fault is None or outcome.refusal is not None:
            return
        with self._engine.begin() as connection:
            connection.execute(
                _EXPERIENCES.insert().values(
                    at=at.timestamp(),
                    fault=json.dumps(outcome.fault.to_json()),
                    mechanism=None if outcome.mechanism is None else str(outcome.mechanism),
                    evidence=json.dumps(evidence_json(outcome.evidence)),
                )
            )

    def experiences(self, now: datetime, days: float) -> Memory:
        """Returns what experiments of the last days have shown; what cannot be read is left out, and tried again."""
        since = (now - timedelta(days=days)).timestamp()
        # As bytes: a text that is none fails all rows.
        columns = [sql.cast(_EXPERIENCES.c[name], sql.LargeBinary) for name in ("fault", "mechanism", "evidence")]
        query = sql.select(*columns).where(_EXPERIENCES.c.at >= since).order_by(_EXPERIENCES.c.seq)
        with self._engine.connect() as connection:
            rows: Sequence[Any] = connection.execute(query).all()
        read = [_experience(*row) for row in rows]
        known = [experience for experience in read if experience is not None]
        return Memory(known, len(read) - len(known))

    # ---- alerts that were sent to us --------------------------------------------------------------------------------

    def alerted(self, firing: Mapping[str, str], resolved: Iterable[str]) -> list[str]:
        """Takes alerts in.

        Args:
            firing: names by key.
            resolved: keys of those that are over.

        Returns:
            The names of all that fire now.
        """
        with self._engine.begin() as connection:
            over = [*resolved, *firing]
            connection.execute(_ALERTS.delete().where(_ALERTS.c.key.in_(over)))
            if firing:
                connection.execute(_ALERTS.insert(), [{"key": key, "name": name} for key, name in firing.items()])
            return list(connection.execute(sql.select(_ALERTS.c.name).order_by(_ALERTS.c.key)).scalars())

    # ---- all -----------------------------------------------------------------------------------------------------

    def forget(self, before: datetime, day: str) -> None:
        """Deletes what is older than a moment, and days before one."""
        with self._engine.begin() as connection:
            connection.execute(_EXPERIENCES.delete().where(_EXPERIENCES.c.at < before.timestamp()))
            connection.execute(_CHARGED.delete().where(_CHARGED.c.at < before.timestamp()))
            for table in (_DAYS, _PAID):
                connection.execute(table.delete().where(table.c.day < day))

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()


def _spend(connection: sql.Connection, day: str, cost: Spent) -> None:
    changed = connection.execute(
        _DAYS.update()
        .where(_DAYS.c.day == day)
        .values(minutes=_DAYS.c.minutes + cost.minutes, harm_min=_DAYS.c.harm_min + cost.harm_min)
    )
    if not changed.rowcount:
        connection.execute(_DAYS.insert().values(day=day, minutes=cost.minutes, harm_min=cost.harm_min))


def _stand_on(connection: sql.Connection, rung: Rung) -> None:
    connection.execute(_RUNG.delete())
    connection.execute(_RUNG.insert().values(only=1, rung=rung.rung, clean=rung.clean))


def _experience(fault: bytes, mechanism: bytes | None, evidence: bytes) -> Experience | None:
    """Reads what `learn` wrote; None if nobody did."""
    try:
        how = None if mechanism is None else Mechanism(mechanism.decode())
        return Experience(Fault.from_json(json.loads(fault)), evidence_of(json.loads(evidence)), how)
    except (ValueError, KeyError, TypeError, AttributeError, BadInput):
        return None
