"""What can be done to rows on their way, one JSON object per line: pure functions from lines to lines.

A row's own values stand in an object under `values`. Everything else is its envelope, and is never touched: a row stays
readable, keeps its place and its time, and what is wrong with it is wrong the way data are wrong. A line that is no
such object passes as it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

_WRONG_BY = -1000.0
_RENAMED = "{}_v2"
_LONGEST_LINE_BYTES = 1 << 20


class RowEffect(StrEnum):
    """What can be done to the rows of a feed; the verbs of the data family's fault kinds."""

    CORRUPT = "corrupt_rows"
    RENAME = "schema_change"
    SHIFT = "drift"
    HOLD = "stream_delay"


def changed(line: bytes, effect: RowEffect, amount: float, draws: random.Random) -> bytes | None:
    """Returns what a line becomes, None where it stays as it is.

    Args:
        line: with its newline.
        effect: what is done.
        amount: how much of it, in the unit of the fault kind.
        draws: decides which rows are hit, where not all of them are.
    """
    if effect is RowEffect.HOLD:
        return None
    row = _row(line)
    if row is None or (effect is RowEffect.CORRUPT and draws.random() >= amount):
        return None
    return json.dumps(row | {"values": _CHANGES[effect](row["values"], amount)}).encode() + b"\n"


def partition_of(line: bytes) -> object | None:
    """Returns the partition that a row names, None where it names none."""
    row = _row(line)
    return None if row is None else row.get("partition")


class LineCutter:
    """Cuts one connection's bytes at the ends of lines, for as long as somebody wants whole ones.

    Nobody knows when that will be: it may begin in the middle of a line, which is then left alone, and end with the
    beginning of one kept back, which then goes first. A line that does not end is no row, and passes as it comes.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._in_line = False

    def whole(self, chunk: bytes) -> tuple[bytes, list[bytes]]:
        """Takes bytes; returns those that belong to a line which has passed in part already, and whole lines."""
        begun = b""
        if self._in_line:
            end = chunk.find(b"\n") + 1
            begun, chunk = (chunk[:end], chunk[end:]) if end else (chunk, b"")
            self._in_line = not end
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        whole = [line + b"\n" for line in lines]
        if len(self._rest) > _LONGEST_LINE_BYTES:
            whole.append(self.raw(b""))
        return begun, whole

    def raw(self, chunk: bytes) -> bytes:
        """Takes bytes; returns all that there are, the kept ones first. Without any, nothing is kept back any more."""
        passed, self._rest = self._rest + chunk, b""
        if passed:
            self._in_line = not passed.endswith(b"\n")
        return passed


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("values"), dict) else None


def _corrupted(values: Mapping[str, Any], _: float) -> dict[str, Any]:
    """Loses the sign and the point: what is left when somebody has read the wrong number format."""
    return {name: _WRONG_BY * value if _is_number(value) else value for name, value in values.items()}


def _renamed(values: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Calls the first fields otherwise, as a new version of a producer does."""
    count = max(1, round(share * len(values)))
    return {_RENAMED.format(name) if n < count else name: value for n, (name, value) in enumerate(values.items())}


def _shifted(values: Mapping[str, Any], by: float) -> dict[str, Any]:
    return {name: value + by if _is_number(value) else value for name, value in values.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHANGES: Mapping[RowEffect, Callable[[Mapping[str, Any], float], dict[str, Any]]] = {
    RowEffect.CORRUPT: _corrupted,
    RowEffect.RENAME: _renamed,
    RowEffect.SHIFT: _shifted,
}
