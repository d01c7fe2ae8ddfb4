"""The ledger: every weakness of a cluster across runs, one row per fingerprint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from actuators.errors import BadInput

from .weakness import Weakness

_METADATA = sql.MetaData()
_WEAKNESSES = sql.Table(
    "weaknesses",
    _METADATA,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("fingerprint", sql.String, nullable=False, unique=True),
    sql.Column("state", sql.String, nullable=False),
    sql.Column("first_seen", sql.String, nullable=False),
    sql.Column("last_seen", sql.String, nullable=False),
    sql.Column("runs", sql.Integer, nullable=False),
    sql.Column("document", sql.Text, nullable=False),
)


class Ledger:
    """The ledger of one cluster.

    Args:
        path: the database file; created if missing.

    Raises:
        BadInput: the file is not a ledger, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the folder of the ledger {path}: {error.strerror}") from error
        self._path = path
        self._engine = sql.create_engine(f"sqlite:///{path}")
        try:
            _METADATA.create_all(self._engine)
        except sql.exc.DatabaseError as error:
            raise BadInput(f"the ledger {path} cannot be read: {error.orig}") from error

    def record(self, weaknesses: Sequence[Weakness]) -> list[Weakness]:
        """Takes a run's weaknesses in; known ones are updated, never doubled.

        Returns:
            The weaknesses with their first sighting and their review state across all runs.
        """
        known = []
        with self._engine.begin() as connection:
            for weakness in weaknesses:
                row = connection.execute(sql.select(_WEAKNESSES).where(_WEAKNESSES.c.id == weakness.id)).first()
                merged = weakness if row is None else _merged(weakness, row)
                known.append(merged)
                values = {
                    "fingerprint": merged.fingerprint,
                    "state": merged.state,
                    "first_seen": merged.first_seen,
                    "last_seen": merged.last_seen,
                    "runs": 1 if row is None else row.runs + 1,
                    "document": json.dumps(merged.to_json()),
                }
                if row is None:
                    connection.execute(_WEAKNESSES.insert().values(id=merged.id, **values))
                else:
                    connection.execute(_WEAKNESSES.update().where(_WEAKNESSES.c.id == merged.id).values(**values))
        return known

    def milder(self, weakness: Weakness) -> dict[str, Any]:
        """Takes in that a known weakness was seen in a milder form.

        Returns:
            How the mildest form that was seen since it was last confirmed is reproduced.
        """
        with self._engine.begin() as connection:
            row = connection.execute(sql.select(_WEAKNESSES).where(_WEAKNESSES.c.id == weakness.id)).one()
            known = json.loads(row.document)
            known |= _mildest(known, weakness)
            update = _WEAKNESSES.update().where(_WEAKNESSES.c.id == weakness.id)
            connection.execute(update.values(document=json.dumps(known)))
        return dict(known["reproducer"])

    def shown_again(self, identifier: str, seen_at: str) -> None:
        """Takes in that one more run has shown a known weakness.

        Args:
            identifier: of the weakness; of one that is not there, nothing is kept.
            seen_at: UTC, ISO 8601.
        """
        with self._engine.begin() as connection:
            row = connection.execute(sql.select(_WEAKNESSES).where(_WEAKNESSES.c.id == identifier)).first()
            if row is None:
                return
            document = json.dumps(json.loads(row.document) | {"last_seen": seen_at})
            update = _WEAKNESSES.update().where(_WEAKNESSES.c.id == identifier)
            connection.execute(update.values(last_seen=seen_at, runs=row.runs + 1, document=document))

    def all(self) -> list[dict[str, Any]]:
        """Returns every weakness as JSON, newest first, with the number of runs that saw it."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(_WEAKNESSES).order_by(_WEAKNESSES.c.last_seen.desc())).all()
        return [json.loads(row.document) | {"runs": row.runs} for row in rows]

    def get(self, identifier: str) -> dict[str, Any]:
        """Returns one weakness as JSON.

        Raises:
            BadInput: there is none of that id.
        """
        found = {weakness["id"]: weakness for weakness in self.all()}
        if identifier not in found:
            known = ", ".join(found) or "none yet"
            raise BadInput(f"no weakness {identifier!r} in {self._path}; known are {known}")
        return found[identifier]

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()


def _merged(weakness: Weakness, row: sql.Row[Any]) -> Weakness:
    # How it is reproduced is told by the newest run alone: what it took earlier, a remedy may have changed since.
    return Weakness(**weakness.to_json() | {"first_seen": row.first_seen, "state": row.state})


def _mildest(known: dict[str, Any], new: Weakness) -> dict[str, Any]:
    """Returns how the mildest form is reproduced, with the seed: a simulated cluster of another one is another."""
    if known["reproducer"]["intensity"] < new.reproducer["intensity"]:
        return {"reproducer": known["reproducer"], "seed": known["seed"]}
    return {"reproducer": new.reproducer, "seed": new.seed}
