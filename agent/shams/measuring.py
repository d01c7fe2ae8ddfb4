"""The whole of it: what was recorded in a folder, judged, counted, printed and written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from actuators.errors import BadInput
from envs.clusters.recorded import Recording

from ..settings import Settings, load
from .counting import MOST, Row, counted, is_judged
from .judging import judged
from .power import SHIFTS, shares
from .recording import RECORDING, starts_in

SCHEMA_VERSION = 1

_OF_ONE_START = frozenset({"seed", "gateway_port", "startup_deadline_s"})
"""Settings of the platform that may be others at every start."""


def measure(folder: Path, console: Console) -> None:
    """Judges what was recorded in a folder, prints how often it alarmed, and writes it to `shams.json`.

    Raises:
        BadInput: nothing was recorded there, or not everything in the same way.
    """
    paths = {number: path for number, path in starts_in(folder).items() if (path / RECORDING).exists()}
    if not paths:
        raise BadInput(f"{folder} holds no recording; expected start-N/{RECORDING}")
    recordings = {number: Recording.load(path / RECORDING) for number, path in paths.items()}
    ways = {number: load(path / "settings.yaml", environment=False) for number, path in paths.items()}
    _require_one_way(folder, ways)
    settings = ways[min(ways)]
    if len({recording.series for recording in recordings.values()}) > 1:
        raise BadInput(f"{folder} holds recordings of different series; allowed is one form of cluster in one folder")
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "alpha": settings.scoring.alpha,
        "judged_by": {},
        "shifts_sd": list(SHIFTS),
        "power": {},
    }
    found["minutes"] = {n: round(_minutes(recording), 2) for n, recording in recordings.items()}
    console.print(f"{len(recordings)} start(s), minutes of fault-free time: {found['minutes']}")
    for how, shams in judged(settings, recordings).items():
        rows = counted(shams, settings)
        lines = [_line("alarm", "nominal", "at every window (they overlap)", "≤ 2x?", "apart (they share none)")]
        lines += [_printed(row) for row in rows]
        promised = [row for row in rows if row.nominal is not None]
        lines.append(
            f"  {len(shams)} shams, {sum(not is_judged(sham) for sham in shams)} of which could not be judged;"
            f" the upper end is at most {MOST:g} times nominal for"
            f" {sum(bool(row.kept) for row in promised)} of {len(promised)} alarms"
        )
        console.print(f"\njudged by {how}; 95 % Wilson intervals", *lines, sep="\n", soft_wrap=True, highlight=False)
        found["judged_by"][how] = [row.to_json() for row in rows]
        power = shares([sham.seen for sham in shams if sham.seen is not None])
        found["power"][how] = {name: list(of) for name, of in power.items()}
        console.print(*_power_lines(power), sep="\n", soft_wrap=True, highlight=False)
    (folder / "shams.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _require_one_way(folder: Path, ways: Mapping[int, Settings]) -> None:
    """Checks that all starts can be judged together.

    Args:
        folder: of the recordings.
        ways: what each start was recorded with, by its number.

    Raises:
        BadInput: they were not measured in the same way, or promised something else.
    """
    first = min(ways)
    for number, way in ways.items():
        wanted, had = _way(ways[first]), _way(way)
        different = next((name for name in wanted if had[name] != wanted[name]), None)
        if different is not None:
            raise BadInput(
                f"{folder}: start-{number} was recorded with another {different} than start-{first}; "
                "allowed is the same for all starts in one folder"
            )


def _way(settings: Settings) -> dict[str, object]:
    """Returns all settings that say what is measured of which cluster, and how it is judged, by their names.

    Left out is what may be another at every start: seeds, addresses, and how long to wait for the cluster to be up.
    """
    told: dict[str, object] = {"scoring": settings.scoring, "hypothesis": settings.hypothesis}
    telemetry = settings.telemetry.model_dump(exclude={"prometheus"})
    if settings.telemetry.source == "prometheus":
        telemetry |= {f"prometheus.{name}": value for name, value in settings.telemetry.prometheus if name != "url"}
    cluster = {"kind": settings.cluster.kind} | asdict(settings.cluster.staging())
    told |= {f"telemetry.{name}": value for name, value in telemetry.items()}
    return told | {f"cluster.{name}": value for name, value in cluster.items() if name not in _OF_ONE_START}


def _power_lines(power: Mapping[str, tuple[float, ...]]) -> list[str]:
    head = "  ".join(f"{f'{shift:g} sd':>5}" for shift in SHIFTS)
    lines = [f"  seen of a series that is worse by{'':<5}{head}"]
    return lines + [f"  {name:<38}" + "  ".join(f"{share:5.0%}" for share in of) for name, of in power.items()]


def _printed(row: Row) -> str:
    nominal = "" if row.nominal is None else f"≤ {row.nominal:g}"
    kept = {True: "yes", False: "no", None: ""}[row.kept]
    return _line(row.what, nominal, str(row.every), kept, str(row.apart))


def _line(what: str, nominal: str, every: str, kept: str, apart: str) -> str:
    return f"  {what:<28}{nominal:<9}{every:<36}{kept:<7}{apart}"


def _minutes(recording: Recording) -> float:
    return (recording.snapshots[-1].at_s - recording.snapshots[0].at_s) / 60.0 if recording.snapshots else 0.0
