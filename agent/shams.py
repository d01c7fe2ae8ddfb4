"""How often nothing alarms: fault-free time of a cluster, judged as experiments are (`backburn shams`).

Every start of the cluster is recorded from the moment it serves, look by look (`DIR/start-N/quiet.npz`), whatever it
does by itself. Judging needs no cluster: a sham (`envs.experiment`) begins at every window of the recording, behind the
same gate as always, and is scored against fault-free time that shares no look with it: against the other half of the
same start, as in a run, and against all other starts, as where a run has recalled an earlier one's calibration.

Neighbouring shams overlap, and so do not count in full. How many share no window is said beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import binomtest

from actuators.errors import BadInput
from actuators.fault import Fault, Target
from envs.clusters.recorded import RecordedCluster, Recording, RecordingOver
from envs.experiment import Experimenter, NotSteady
from envs.hypothesis import Phases
from envs.lookout import Lookout
from envs.scoring import UNIT_WINDOWS, Record, Verdict
from envs.telemetry.snapshot import Snapshot
from envs.windows import Array, window_medians

from .build.recorded import Archive
from .findings.record import RunFolder
from .interruption import Interruption
from .progress import Display
from .run import brought_up
from .settings import Settings, load

SCHEMA_VERSION = 1
_RECORDING = "quiet.npz"
_CONFIDENCE = 0.95
_MOST = 2.0
"""Times the nominal share that the upper end of an interval may be."""


# ---- recording ------------------------------------------------------------------------------------------------------


def record(settings: Settings, folder: RunFolder, minutes: float, seed: int, console: Console) -> None:
    """Starts the cluster, keeps everything that is measured while nothing is broken, and ends it.

    Args:
        settings: of the cluster.
        folder: where the recording goes.
        minutes: how long to look.
        seed: of a simulated cluster.
        console: where progress is shown.

    Raises:
        BadInput: a setting, port or folder cannot be used.
        Unsafe: going on could do harm that nobody allowed.
        BackburnError: the cluster did not start, or the end was asked for; nothing was kept.
    """
    folder.settings(settings.model_dump(mode="json"))
    interruption, display = Interruption(), Display(console, minutes)
    with interruption.on_signals(), display:
        world = brought_up(
            settings, folder.path, observer=display, told=display.started, interrupted=interruption.asked
        )
        try:
            experimenter = world.start(seed)
            interruption.tell(experimenter.supervisor.interrupt)
            until_s = experimenter.lookout.now_s + 60.0 * minutes
            display.entered("recording", None, until_s)
            recording = _recorded(experimenter, until_s)
        finally:
            world.close()
    recording.save(folder.path / _RECORDING)
    folder.note(state="recorded", minutes=minutes)


def _recorded(experimenter: Experimenter, until_s: float) -> Recording:
    """Returns everything that is measured from now on until a moment on the cluster's clock."""
    cluster, lookout = experimenter.cluster, experimenter.lookout
    snapshots: list[Snapshot] = []
    last_s = lookout.now_s
    while lookout.now_s < until_s:
        experimenter.poll()
        snapshots += lookout.since(last_s)
        last_s = snapshots[-1].at_s if snapshots else last_s
    return Recording(cluster.identity, cluster.topology(), cluster.period_s, tuple(cluster.series), snapshots)


# ---- judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sham:
    """One experiment without a fault, on recorded time.

    Attributes:
        start: number of the cluster start that it is from.
        injected_s: when its fault would have been injected.
        verdict: what it amounts to.
        p: per family, the p-value; NaN where nothing of it was known.
        moved: per family, whether anything moved significantly, and by enough to be shown.
    """

    start: int
    injected_s: float
    verdict: Verdict
    p: Mapping[str, float]
    moved: Mapping[str, bool]


class Judge:
    """Judges recorded time with the settings that it was recorded with.

    Args:
        settings: of the recording.
        archive: makes experimenters on it.
    """

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._settings = settings
        self._archive = archive

    def shams(self, start: int, part: Recording, past: Sequence[Array]) -> Iterator[Sham]:
        """Yields the sham that begins at every window of a recording, as far as the gate opens.

        Args:
            start: number of the start.
            part: what is judged.
            past: stretches of fault-free windows to judge by; none of them of `part`.
        """
        begun_s = -math.inf
        for first in range(0, len(part.snapshots), self._settings.shape.samples):
            experimenter = self._archive.experimenter(RecordedCluster(part, part.snapshots[first:]))
            experimenter.scorer.calibration.stretches.extend(past)
            try:
                outcome = experimenter.sham()
            except RecordingOver:
                return
            except NotSteady:
                continue
            # Where the cluster is unsteady, several beginnings wait for the same moment.
            phases = outcome.phases
            if phases is not None and phases.injected_s > begun_s:
                begun_s = phases.injected_s
                # By the past alone: the sham has been learnt from by now.
                experimenter.scorer.calibration.stretches[:] = past
                yield self._judged(start, part, experimenter, outcome.verdict, phases)

    def _judged(
        self, start: int, part: Recording, experimenter: Experimenter, verdict: Verdict, phases: Phases
    ) -> Sham:
        """Returns a sham with every family of series that an experiment at this moment could have accused."""
        since_s = phases.injected_s - self._settings.shape.quiet_s
        snapshots = [s for s in part.snapshots if since_s < s.at_s <= phases.ended_s]
        found = {}
        for component in part.topology.components:
            fault = Fault("pod.pause", Target(component.name), 1.0, phases.cleared_s - phases.injected_s)
            families = experimenter.scorer.families(Record(fault, True, snapshots, phases), part.topology)
            found["promised"] = families.promised
            found |= {f"{name} {component.name}": getattr(families, name) for name in ("inside", "exposed", "outside")}
        alpha = self._settings.scoring.alpha
        return Sham(
            start,
            phases.injected_s,
            verdict,
            {name: family.p for name, family in found.items()},
            {name: bool(family.moved(alpha)) for name, family in found.items()},
        )

    def past(self, part: Recording) -> list[Array]:
        """Returns the quiet stretches of a recording, cut into windows as a calibration cuts them."""
        lookout = self._archive.experimenter(RecordedCluster(part, part.snapshots)).lookout
        found: list[Array] = []
        since_s = None
        for _ in part.snapshots:
            lookout.poll()
            if lookout.quiet_since_s != since_s:
                found += self._stretch(part, lookout, since_s)
                since_s = lookout.quiet_since_s
        return found + self._stretch(part, lookout, since_s)

    def _stretch(self, part: Recording, lookout: Lookout, since_s: float | None) -> list[Array]:
        if since_s is None:
            return []
        return [window_medians(lookout.quiet_stretch(since_s), part.series, since_s, self._settings.shape)]


def judged(settings: Settings, recordings: Mapping[int, Recording]) -> dict[str, list[Sham]]:
    """Judges all recorded time, each part of it by other parts.

    Args:
        settings: of the recordings.
        recordings: by number of the start.

    Returns:
        Per choice of what to judge by, the shams, oldest first.
    """
    archive = Archive(settings)
    judge = Judge(settings, archive)
    own: list[Sham] = []
    others: list[Sham] = []
    for start, whole in recordings.items():
        halves = _halves(whole)
        for part, other in (halves, halves[::-1]):
            own += judge.shams(start, part, judge.past(other))
        elsewhere = [stretch for n, other in recordings.items() if n != start for stretch in judge.past(other)]
        others += judge.shams(start, whole, elsewhere) if elsewhere else []
    archive.close()
    return {"the other half of the same start": own, "all other starts": others}


def _halves(whole: Recording) -> tuple[Recording, Recording]:
    middle = len(whole.snapshots) // 2
    return replace(whole, snapshots=whole.snapshots[:middle]), replace(whole, snapshots=whole.snapshots[middle:])


# ---- counting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of some shams alarmed.

    Attributes:
        alarms: those that did.
        of: all that could have.
    """

    alarms: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the share, as if no two shams shared a look."""
        if not self.of:
            return 0.0, 1.0
        low, high = binomtest(self.alarms, self.of).proportion_ci(_CONFIDENCE, method="wilson")
        return float(low), float(high)

    def keeps(self, nominal: float) -> bool:
        """Tells whether the upper end of the interval is at most twice what is promised."""
        return self.interval[1] <= _MOST * nominal

    def to_json(self) -> dict[str, Any]:
        """Returns the rate as JSON."""
        return {"alarms": self.alarms, "of": self.of, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        share = f"{self.alarms / self.of:.3f}" if self.of else "unknown"
        return f"{self.alarms}/{self.of} = {share} ({low:.3f} to {high:.3f})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is counted.
        nominal: the share that is promised at most; None where nothing is.
        every: of the shams that begin at every window.
        apart: of those that share no look with each other.
    """

    what: str
    nominal: float | None
    every: Rate
    apart: Rate

    @property
    def kept(self) -> bool | None:
        """Whether the shams at every window keep what is promised; None where nothing is."""
        return None if self.nominal is None else self.every.keeps(self.nominal)

    def to_json(self) -> dict[str, Any]:
        """Returns the line as JSON."""
        return {
            "what": self.what,
            "nominal": self.nominal,
            "kept": self.kept,
            "every": self.every.to_json(),
            "apart": self.apart.to_json(),
        }


def counted(shams: Sequence[Sham], settings: Settings) -> list[Row]:
    """Returns how often each verdict and each family of series alarmed.

    Args:
        shams: judged in one way, oldest first.
        settings: say what is nominal, and how long a sham is.
    """
    alpha = settings.scoring.alpha
    apart = _apart(shams, settings.shape.quiet_s + UNIT_WINDOWS * settings.shape.window_s)

    def row(what: str, nominal: float | None, alarm: Callable[[Sham], bool | None]) -> Row:
        return Row(what, nominal, _rate(shams, alarm), _rate(apart, alarm))

    rows = [
        row("verdict weakness", alpha, lambda sham: sham.verdict is Verdict.WEAKNESS),
        row("verdict inconclusive", None, lambda sham: sham.verdict is Verdict.INCONCLUSIVE),
        row("verdict invalid", None, lambda sham: sham.verdict is Verdict.INVALID),
    ]
    names = shams[0].p if shams else ()
    rows += [row(f"p of {name}", alpha, partial(_significant, name=name, alpha=alpha)) for name in names]
    rows.append(row("a move shown anywhere", None, lambda sham: any(sham.moved.values())))
    return [found for found in rows if found.every.of]


def _significant(sham: Sham, name: str, alpha: float) -> bool | None:
    return None if math.isnan(sham.p[name]) else sham.p[name] <= alpha


def _rate(shams: Sequence[Sham], alarm: Callable[[Sham], bool | None]) -> Rate:
    known = [found for found in map(alarm, shams) if found is not None]
    return Rate(sum(known), len(known))


def _apart(shams: Sequence[Sham], unit_s: float) -> list[Sham]:
    """Returns shams that share no look with each other: the first one, and then always the next that fits."""
    found: list[Sham] = []
    for sham in shams:
        if not found or sham.start != found[-1].start or sham.injected_s - found[-1].injected_s >= unit_s:
            found.append(sham)
    return found


# ---- the whole of it ------------------------------------------------------------------------------------------------


def record_starts(settings: Settings, folder: Path, starts: int, minutes: float, console: Console) -> None:
    """Records some starts of the cluster, beside those that a folder holds already.

    Raises:
        BadInput: a setting, port or folder cannot be used.
        Unsafe: going on could do harm that nobody allowed.
        BackburnError: the cluster did not start, or the end was asked for.
    """
    last = max(_starts(folder), default=0)
    for number in range(last + 1, last + starts + 1):
        seed = settings.campaign.seed + number
        record(settings, RunFolder(folder / f"start-{number}"), minutes, seed, console)


def measure(folder: Path, console: Console) -> None:
    """Judges what was recorded in a folder, prints how often it alarmed, and writes it to `shams.json`.

    Raises:
        BadInput: nothing was recorded there, or not everything in the same way.
    """
    paths = {number: path for number, path in _starts(folder).items() if (path / _RECORDING).exists()}
    if not paths:
        raise BadInput(f"{folder} holds no recording; expected start-N/{_RECORDING}")
    recordings = {number: Recording.load(path / _RECORDING) for number, path in paths.items()}
    settings = load(paths[min(paths)] / "settings.yaml")
    if len({recording.series for recording in recordings.values()}) > 1:
        raise BadInput(f"{folder} holds recordings of different series; allowed is one form of cluster in one folder")
    found: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "alpha": settings.scoring.alpha, "judged_by": {}}
    found["minutes"] = {n: round(_minutes(recording), 2) for n, recording in recordings.items()}
    console.print(f"{len(recordings)} start(s), minutes of fault-free time: {found['minutes']}")
    for how, shams in judged(settings, recordings).items():
        rows = counted(shams, settings)
        lines = [_line("alarm", "nominal", "at every window (they overlap)", "≤ 2x?", "apart (they share none)")]
        lines += [_printed(row) for row in rows]
        promised = [row for row in rows if row.nominal is not None]
        lines.append(
            f"  {len(shams)} shams; the upper end is at most {_MOST:g} times nominal for"
            f" {sum(bool(row.kept) for row in promised)} of {len(promised)} alarms"
        )
        console.print(f"\njudged by {how}; 95 % Wilson intervals", *lines, sep="\n", soft_wrap=True, highlight=False)
        found["judged_by"][how] = [row.to_json() for row in rows]
    (folder / "shams.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _printed(row: Row) -> str:
    nominal = "" if row.nominal is None else f"≤ {row.nominal:g}"
    kept = {True: "yes", False: "no", None: ""}[row.kept]
    return _line(row.what, nominal, str(row.every), kept, str(row.apart))


def _line(what: str, nominal: str, every: str, kept: str, apart: str) -> str:
    return f"  {what:<28}{nominal:<9}{every:<36}{kept:<7}{apart}"


def _starts(folder: Path) -> dict[int, Path]:
    """Returns the folders of the starts that were recorded, by number."""
    numbers = {path.name.removeprefix("start-"): path for path in folder.glob("start-*")}
    return {int(number): path for number, path in sorted(numbers.items()) if number.isdecimal()}


def _minutes(recording: Recording) -> float:
    return (recording.snapshots[-1].at_s - recording.snapshots[0].at_s) / 60.0 if recording.snapshots else 0.0
