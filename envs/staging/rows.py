"""Rows: what the outside world tells of entities, one JSON object per line, and the two ways to read one.

    {"entity": 17, "partition": 1, "produced_at_s": 1764083000.25, "values": {"f0": 0.12, ..., "f11": -0.7}}

*Lenient* is how a first version reads: whatever can be taken for a number is taken for one, and what is missing
becomes 0, as after a `fillna(0)`. *Strict* is what it becomes after the first bad upload: a row that does not fit the
schema, or whose values cannot be, is not read at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .world import ENTITIES, FEATURES

PARTITIONS = 4
"""Rows of one entity are all in one partition, and there in order."""

FIELDS = tuple(f"f{number}" for number in range(FEATURES))
"""The values that a row has, in the order of a feature vector."""

LARGEST_VALUE = 8.0
"""Beyond this a value cannot be: features are measured in standard deviations."""


class Unreadable(ValueError):
    """A line from which no row can be read."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was said of one entity.

    Attributes:
        entity: which one.
        produced_at_s: when it was said, seconds of Unix time.
        values: shape (FEATURES,), float32; NaN where a value is missing.
    """

    entity: int
    produced_at_s: float
    values: NDArray[np.float32]


Reader: TypeAlias = Callable[[bytes], Row]
"""Reads a line; raises Unreadable where it cannot."""


def partition_of(entity: int) -> int:
    """Returns the partition that an entity's rows are in."""
    return entity % PARTITIONS


def line_of(row: Row) -> bytes:
    """Returns a row as one line."""
    values = dict(zip(FIELDS, row.values.tolist(), strict=True))
    envelope = {"entity": row.entity, "partition": partition_of(row.entity), "produced_at_s": row.produced_at_s}
    return json.dumps({**envelope, "values": values}).encode() + b"\n"


def read_leniently(line: bytes) -> Row:
    """Reads whatever can be read.

    Raises:
        Unreadable: nobody can tell whose row it is.
    """
    row = _object(line)
    values = row["values"] if isinstance(row["values"], Mapping) else {}
    found = [_number(values.get(name)) for name in FIELDS]
    return _row(row, found)


def read_strictly(line: bytes) -> Row:
    """Reads a row that fits the schema: every field, no other, each a number that can be.

    Raises:
        Unreadable: it does not.
    """
    row = _object(line)
    values = row["values"]
    if not isinstance(values, Mapping) or set(values) != set(FIELDS):
        raise Unreadable("the fields are not those of the schema")
    found = [values[name] for name in FIELDS]
    for value in found:
        if type(value) not in {int, float} or not abs(value) <= LARGEST_VALUE:
            raise Unreadable(f"{value!r} is no value that can be")
    return _row(row, found)


def _row(row: Mapping[str, Any], values: list[float]) -> Row:
    entity, produced_at_s = row["entity"], row["produced_at_s"]
    if type(entity) is not int or not 0 <= entity < ENTITIES or not isinstance(produced_at_s, int | float):
        raise Unreadable(f"there is no entity {entity!r} at {produced_at_s!r}")
    with np.errstate(over="ignore"):  # what is too large for the format is infinite, and so it is read
        return Row(entity, float(produced_at_s), np.asarray(values, np.float32))


def _object(line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = {"entity": None, "produced_at_s": None, "values": {}, **json.loads(line)}
    except (ValueError, TypeError) as error:
        raise Unreadable(f"not a JSON object: {error}") from None
    return row


def _number(value: object) -> float:
    """Returns what can be taken for a number, NaN where there is nothing of the kind."""
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.nan
    return math.nan
